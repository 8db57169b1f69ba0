"""Mask networks: which pixels of a frame belong to the face, by region or by what hides it.

They look at the frame before anything is painted. Each says where a face may be replaced; the
masks of several are multiplied, with each other and with the generator's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np

from mien import geometry, runtime, zoo
from mien.errors import ModelError, UsageError
from mien.types import FaceMask, Faces, Floats, Frame, Image, Patch
from mien.zoo import options, pixels

CLASSES: Final = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses",
    "left_ear", "right_ear", "earrings", "nose", "mouth", "upper_lip", "lower_lip", "neck",
    "necklace", "clothes", "hair", "hat",
)  # fmt: skip
"""What BiSeNet's 19 outputs mean, by number (CelebAMask-HQ; ``mouth`` is its inside)."""

FACE: Final = ("skin", "brows", "eyes", "nose", "mouth", "lips")
"""Regions that are replaced unless others are named: a face without what it wears."""

REGIONS: Final[dict[str, tuple[int, ...]]] = {
    **{c: (n,) for n, c in enumerate(CLASSES) if not c.startswith(("left_", "right_"))},
    "brows": (2, 3),
    "eyes": (4, 5),
    "ears": (7, 8),
    "lips": (12, 13),
}
"""Region → the classes in it; left and right go together."""

BLUR: Final = 5 / 256
"""Standard deviation, as share of the crop, by which masks are softened."""


@dataclass(frozen=True, slots=True)
class Parser:
    """BiSeNet (Yu et al., 2018), trained to tell the regions of a face.

    Attributes:
        model: ``(N, 3, S, S)`` float32 by the card → ``(N, 19, S, S)``, the largest class holds.
        card: Size, template, mean and standard deviation.
        regions: Of :data:`REGIONS`; where one is seen the face is replaced.
    """

    model: runtime.Model
    card: zoo.ModelCard
    regions: tuple[str, ...] = FACE

    def __call__(self, frame: Frame, faces: Faces) -> list[FaceMask]:
        """A mask for each face.

        Raises:
            ModelError: The network gave something else than 19 classes a pixel.
        """
        if not faces:
            return []
        matrices, crops = _crops(frame, faces, self.card)
        scores = pixels.run(self.model, pixels.to_input(crops, self.card))
        if scores.ndim != 4 or scores.shape[1] != len(CLASSES):
            raise ModelError(
                f"{self.model.name}: expected (N, {len(CLASSES)}, height, width), "
                f"came {scores.shape}"
            )
        wanted = {n for region in self.regions for n in REGIONS[region]}
        others = [n for n in range(len(CLASSES)) if n not in wanted]
        # Is the largest class a wanted one? A third of the time of asking which one it is.
        inside = scores[:, sorted(wanted)].max(1) > scores[:, others].max(1, initial=-np.inf)
        return [FaceMask(_soft(i), m) for i, m in zip(inside, matrices, strict=True)]


@dataclass(frozen=True, slots=True)
class Occluder:
    """XSeg of DeepFaceLab: the face as far as nothing is in front of it.

    Attributes:
        model: ``(N, S, S, 3)`` float32 by the card → ``(N, S, S, 1)``, 1 where the face is seen.
        card: Size, template, mean and standard deviation.
    """

    model: runtime.Model
    card: zoo.ModelCard

    def __call__(self, frame: Frame, faces: Faces) -> list[FaceMask]:
        """A mask for each face.

        Raises:
            ModelError: The network gave something else than one number a pixel.
        """
        if not faces:
            return []
        matrices, crops = _crops(frame, faces, self.card)
        seen = pixels.run(self.model, pixels.to_input(crops, self.card))
        one = 1 if self.card.layout == "NCHW" else -1
        if seen.ndim == 4 and seen.shape[one] == 1:
            seen = seen.squeeze(one)
        if seen.ndim != 3:
            raise ModelError(
                f"{self.model.name}: expected (N, height, width, 1), came {seen.shape}"
            )
        return [FaceMask(_soft(s), m) for s, m in zip(seen, matrices, strict=True)]


def apply(patch: Patch, masks: list[FaceMask]) -> Patch:
    """The patch, kept out of what the masks say is no face."""
    out = patch.mask
    for mask in masks:
        # Frame → mask, seen from the patch.
        onto = geometry.invert(_after(mask.matrix, geometry.invert(patch.matrix)))
        size = (out.shape[1], out.shape[0])
        here = cv2.warpAffine(
            mask.image, onto, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        out = np.asarray(cv2.multiply(out, here, scale=1 / 255), np.uint8)
    return replace(patch, mask=out)


def load(name: str, models: zoo.Zoo | None = None) -> Parser | Occluder:
    """A mask network.

    Args:
        name: Of its card; for BiSeNet regions may follow, ``bisenet_resnet_34:regions=skin+nose``.
        models: Where models come from and run.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: Its inputs are not those of its family.
        UsageError: It is no mask network, or a region is unknown.
        ProviderError: The provider is not there.
    """
    models = models or zoo.Zoo()
    card = models.find(name.partition(":")[0])
    if card.task != "segment" or card.family not in ("bisenet", "xseg"):
        raise UsageError(f"{card.name}: is no mask network but for {card.task}")
    known: dict[str, Any] = {}
    if card.family == "bisenet":
        known["regions"] = frozenset(REGIONS)
    _, chosen = options.split(name, known)
    if not card.size or len(card.template) != 5:
        raise ModelError(f"{card.name}: its card must say size and template, as for any mask")
    _, model = models.open(card)
    if card.family == "bisenet":
        return Parser(model, card, chosen.get("regions", FACE))
    return Occluder(model, card)


def _crops(frame: Frame, faces: Faces, card: zoo.ModelCard) -> tuple[list[geometry.Matrix], Image]:
    template = np.array(card.template)
    matrices = [geometry.similarity(face.points, template) for face in faces]
    crops = [
        geometry.warp(frame.image, m, card.size, border=cv2.BORDER_REPLICATE) for m in matrices
    ]
    return matrices, np.stack(crops)


def _soft(seen: Any) -> Image:
    """Softened, and moved inwards until the edge is where the mask begins: 0 at one half."""
    values = np.clip(np.asarray(seen, np.float32), 0, 1)
    blurred: Floats = np.asarray(cv2.GaussianBlur(values, (0, 0), BLUR * len(values)), np.float32)
    return np.asarray(np.rint(np.clip((blurred - 0.5) * 2, 0, 1) * 255), np.uint8)


def _after(second: geometry.Matrix, first: geometry.Matrix) -> geometry.Matrix:
    """The map that does ``first`` and then ``second``."""
    both = np.asarray(second[:, :2] @ first, np.float64)
    both[:, 2] += second[:, 2]
    return both
