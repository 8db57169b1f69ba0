"""Who it is: one unit vector for each face, close for photos of one person.

A face is first turned, scaled and shifted so that its eyes, nose and mouth lie where they lay in
training; its card says where, and how the crop is fed. Vectors of different networks have nothing
to do with each other; a converter turns those of one into those of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from mien import geometry, runtime, zoo
from mien.errors import ModelError
from mien.types import Faces, Floats, Frame, Image
from mien.zoo.pixels import run, to_input

DEFAULT: Final = "faceres512"
"""Card of the embedder that comes with mien."""

FAMILIES: Final = ("faceres", "arcface")
"""Families of networks from an aligned crop to a vector; they differ in what their cards say."""

Convert = Callable[[Floats], Floats]
"""From ``(N, 512)`` vectors of one embedder to those of another."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """Fills in the embedding of every face of a frame, all in one batch.

    Attributes:
        card: Says how large the crop is, where the five points belong in it, and how it is fed.
        model: The crop → ``(N, D)`` of any length; D is 512 for all that serve generators.
    """

    card: zoo.ModelCard
    model: runtime.Model

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Return copies of the faces with ``embedding`` set to ``(D,)`` float32, unit length.

        Raises:
            ModelError: The network gave something else than a vector for each face.
        """
        if not faces:
            return []
        vectors = unit(self.vectors(frame.image, [face.points for face in faces]))
        return [replace(f, embedding=v) for f, v in zip(faces, vectors, strict=True)]

    def vectors(self, image: Image, points: Sequence[Floats]) -> Floats:
        """``(N, D)`` vectors as the network gives them, of any length.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            points: N times the ``(5, 2)`` points of a face, N ≥ 1.

        Raises:
            ModelError: The network gave something else than a vector for each face.
        """
        crops = np.stack([self.crop(image, five) for five in points])
        vectors = run(self.model, to_input(crops, self.card))
        if vectors.ndim != 2:
            raise ModelError(
                f"{self.model.name}: expected a vector for each of {len(points)} faces, "
                f"came {vectors.shape}"
            )
        return vectors

    def crop(self, image: Image, points: Floats) -> Image:
        """The ``(size, size, 3)`` picture of one face that the network sees."""
        size = self.card.size
        matrix = geometry.similarity(points, self.card.template)
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        # A large face is first cut out a whole number of times larger and then averaged, because
        # linear sampling alone would alias.
        times = min(8, max(1, int(1 / scale)))
        matrix *= times
        matrix[:, 2] += (times - 1) / 2
        side = size * times
        large = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
        if times > 1:
            large = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(large, np.uint8)


def unit(vectors: Floats) -> Floats:
    """``(N, D)`` vectors brought to unit length."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), np.float32)


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns vectors of one embedder into those of another (FaceFusion's crossface networks).

    Attributes:
        model: ``(1, 512)`` → ``(1, 512)``; the length of what goes in does not matter, the graph
            brings it to unit length itself.
    """

    model: runtime.Model

    def __call__(self, vectors: Floats) -> Floats:
        """Convert ``(N, 512)`` vectors, each by itself; what comes out has no set length.

        Raises:
            ModelError: The network gave something else than a vector for each.
        """
        # The published graphs divide by the length of all that goes in, so never as a batch.
        out = [np.asarray(self.model(v[None])[0]) for v in np.asarray(vectors, np.float32)]
        if any(o.shape != (1, v.size) for o, v in zip(out, vectors, strict=True)):
            raise ModelError(
                f"{self.model.name}: expected (1, {vectors.shape[1]}) for a vector, "
                f"came {out[0].shape}"
            )
        return np.concatenate(out).astype(np.float32)


def load(models: zoo.Zoo | None = None, name: str = DEFAULT) -> Embedder:
    """Load an embedder.

    Args:
        models: Where models come from and run.
        name: Of its card.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: It is no embedder, or its file is damaged or another network.
        ProviderError: The provider is not there.
        Refused: Its licence is not allowed.
    """
    models = models or zoo.Zoo()
    card = models.find(name)
    if card.task != "embed" or card.family not in FAMILIES or not card.template:
        raise ModelError(
            f"model {name!r}: expected an embedder of a family among {', '.join(FAMILIES)}, with "
            f"a template, came task {card.task}, family {card.family}"
        )
    return Embedder(*models.open(card))


def load_converter(models: zoo.Zoo | None, name: str) -> Converter:
    """Load a converter by the name of its card; raises as :func:`load` does."""
    models = models or zoo.Zoo()
    card = models.find(name)
    if card.task != "convert":
        raise ModelError(f"model {name!r}: expected a converter, came task {card.task}")
    return Converter(models.open(card)[1])


def similarity(a: Floats, b: Floats) -> float:
    """Cosine of two unit vectors: 1 the same, about 0 for different people."""
    return float(a @ b)
