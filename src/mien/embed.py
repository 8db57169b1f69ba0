"""Who it is: one unit vector for each face, close for photos of one person.

A face is first turned, scaled and shifted so that its eyes, nose and mouth lie where they lay in
training; see ``models/MODELS.md`` for the network's contract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from mien import geometry, runtime, zoo
from mien.errors import ModelError
from mien.types import Faces, Floats, Frame, Image


@dataclass(frozen=True, slots=True)
class FaceresEmbedder:
    """Fills in the embedding of every face of a frame, all in one batch.

    Attributes:
        model: ``(N, size, size, 3)`` float32 RGB 0..255 → ``(N, 512)`` of unit length.
        size: Side of the crop in pixels.
        template: ``(5, 2)`` where the five points belong, in pixels of the crop.
    """

    model: runtime.Model
    size: int
    template: Floats

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Return copies of the faces with ``embedding`` set to ``(512,)`` float32, unit length.

        Raises:
            ModelError: The network gave something else than a vector for each face.
        """
        if not faces:
            return []
        crops = np.stack([self.crop(frame.image, face.points) for face in faces])
        vectors = self.model(crops.astype(np.float32))[0]
        if vectors.ndim != 2 or len(vectors) != len(faces):
            raise ModelError(
                f"{self.model.name}: expected ({len(faces)}, 512) for {len(faces)} faces, "
                f"got {vectors.shape}"
            )
        return [replace(f, embedding=v) for f, v in zip(faces, vectors, strict=True)]

    def crop(self, image: Image, points: Floats) -> Image:
        """The ``(size, size, 3)`` picture of one face that the network sees."""
        matrix = geometry.similarity(points, self.template)
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        # A large face is first cut out a whole number of times larger and then averaged, because
        # linear sampling alone would alias.
        times = min(8, max(1, int(1 / scale)))
        matrix *= times
        matrix[:, 2] += (times - 1) / 2
        side = self.size * times
        large = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
        if times > 1:
            large = cv2.resize(large, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(large, np.uint8)


def load(models: zoo.Zoo | None = None, name: str = "faceres512") -> FaceresEmbedder:
    """Load an embedder.

    Args:
        models: Where models come from and run.
        name: Of its card.

    Raises:
        ModelNotFound: The installation lacks the file.
        ProviderError: The provider is not there.
    """
    card, model = (models or zoo.Zoo()).open(name)
    return FaceresEmbedder(model, card.size, np.array(card.template, np.float32))


def similarity(a: Floats, b: Floats) -> float:
    """Cosine of two unit vectors: 1 the same, about 0 for different people."""
    return float(a @ b)
