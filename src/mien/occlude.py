"""What is in front of a face: spectacles, hair, hands, microphones, masks, letters.

A small network looks at the upright crop of :func:`mien.motion.aligned` and at the mesh drawn into
it, and says for every pixel how likely something hides the skin there. Inside the face's contour
the answer means something; outside it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from mien import motion, runtime, zoo
from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, OVAL, RIGHT_EYE
from mien.motion import CROP
from mien.types import Floats, Image, Rect

BROWS: Final = (
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
"""Outlines of both eyebrows."""

GROWN: Final = 1.04
"""The contour is enlarged by this before it is filled: what lies on the rim counts."""


@dataclass(frozen=True, slots=True)
class Occlude:
    """Finds what hides a face; see ``MODELS.md`` for the network's contract.

    Attributes:
        model: ``(N, 128, 128, 5)`` float32, RGB 0..1 and both channels of :func:`guide` 0..1,
            → ``(N, 128, 128)`` the probability that something is in front.
    """

    model: runtime.Model

    def __call__(self, crops: Image, meshes: Sequence[Floats] | Floats) -> Floats:
        """How likely each pixel shows something in front of the skin.

        Args:
            crops: ``(N, 128, 128, 3)`` uint8 RGB, cut by :func:`mien.motion.aligned`.
            meshes: N meshes ``(468+, 3)`` in pixels of their crops.

        Returns:
            ``(N, 128, 128)`` float32 0..1; skin, brows, eyes, lips, teeth and beard are 0.
        """
        if crops.shape[1:] != (CROP, CROP, 3) or len(meshes) != len(crops):
            raise ValueError(
                f"occlude: expected (N, {CROP}, {CROP}, 3) crops and as many meshes, came "
                f"{crops.shape} and {len(meshes)} meshes"
            )
        if not len(crops):
            return np.zeros((0, CROP, CROP), np.float32)
        seen = np.concatenate([crops, np.stack([guide(mesh) for mesh in meshes])], axis=3)
        (out,) = self.model(np.multiply(seen, np.float32(1 / 255), dtype=np.float32))
        return np.asarray(out, np.float32)


def load(models: zoo.Zoo | None = None, name: str = "occlude") -> Occlude:
    """The network that comes with mien, or another with the same contract."""
    return Occlude((models or zoo.Zoo()).open(name)[1])


def spectacles(found: Floats, mesh: Floats) -> Floats:
    """What was found, with both sides of a pair of spectacles once one is there.

    A thin frame is found in part. Around the eyes what is found on one side, and less surely
    on the other, is there on both.

    Args:
        found: ``(128, 128)`` float32 0..1.
        mesh: ``(468+, 3)`` in pixels of the crop.
    """
    cover = motion.cover(mesh, Rect(0, 0, CROP, CROP))
    flow = motion.through(cover, motion.extended(cover.mesh[motion.mirror()]))
    x, y = flow.lookup[..., 0], flow.lookup[..., 1]
    across = np.asarray(cv2.remap(found, x, y, cv2.INTER_LINEAR), np.float32)
    eyes, below = np.zeros((CROP, CROP), np.uint8), np.zeros((CROP, CROP), np.uint8)
    for ring in (LEFT_EYE, RIGHT_EYE):
        low, high = mesh[list(ring), :2].min(0), mesh[list(ring), :2].max(0)
        wide = float(high[0] - low[0])
        centre, half = (low + high) / 2 + (0, 0.3 * wide), (1.1 * wide, 1.2 * wide)
        box = (float(centre[0]), float(centre[1])), (2 * half[0], 2 * half[1]), 0.0
        cv2.ellipse(eyes, box, 255, cv2.FILLED)
        cv2.ellipse(below, box, 255, cv2.FILLED)
        below[: max(0, int(high[1]) + 2), int(low[0] - wide) : int(high[0] + wide) + 1] = 0
    zone = (eyes > 0) & (flow.inside > 0)
    both = np.maximum(found, across)
    # A fringe may hang into the eyes; only the lower rim of spectacles is below them.
    under = (below > 0) & (flow.inside > 0)
    if float((both[under] > 0.5).mean()) < 0.04:
        return found
    around = np.asarray(cv2.dilate(both, np.ones((3, 3), np.uint8)))
    soft = np.asarray(cv2.GaussianBlur(zone.astype(np.float32), (0, 0), 1.5), np.float32)
    return np.asarray(np.maximum(found, soft * np.minimum(1.6 * around, 1)), np.float32)


SPARED: Final = 0.17
"""Share of a brow that may be hidden without its being taken from the other side or given up."""


def spared(found: Floats, mesh: Floats) -> Floats:
    """What was found, without brows of which nearly all is seen: half a brow is nobody's.

    Args:
        found: ``(128, 128)`` float32 0..1.
        mesh: ``(468+, 3)`` in pixels of the crop.
    """
    for ring in BROWS:
        brow = np.zeros((CROP, CROP), np.uint8)
        points = np.round(mesh[list(ring), :2] * 16).astype(np.int32)
        cv2.fillPoly(brow, [points], 255, cv2.LINE_8, 4)
        if cv2.mean(found, brow)[0] < SPARED:
            around = cv2.GaussianBlur(cv2.dilate(brow, np.ones((3, 3), np.uint8)), (0, 0), 1.0)
            found = found * (1 - around.astype(np.float32) * np.float32(1 / 255))
    return found


def guide(mesh: Floats) -> Image:
    """The mesh as the network sees it.

    Args:
        mesh: ``(468+, 3)`` in pixels of the crop.

    Returns:
        ``(128, 128, 2)`` uint8: the filled contour, 255 inside; and brows 64, lips 128, inner
        mouth 192, eyes 255.
    """
    points = np.round(mesh[:468, :2] * 16).astype(np.int32)
    features = np.zeros((CROP, CROP), np.uint8)
    rings = (*((b, 64) for b in BROWS), (OUTER_LIPS, 128), (INNER_LIPS, 192))
    for ring, value in (*rings, (LEFT_EYE, 255), (RIGHT_EYE, 255)):
        cv2.fillPoly(features, [points[list(ring)]], value, cv2.LINE_8, 4)
    return np.stack([contour(mesh), features], axis=2)


def contour(mesh: Floats, size: int = CROP) -> Image:
    """``(size, size)`` uint8, 255 inside the face's contour grown by :data:`GROWN`."""
    ring = mesh[list(OVAL), :2]
    centre = ring.mean(0)
    grown = np.round((centre + (ring - centre) * np.float32(GROWN)) * 16).astype(np.int32)
    out = np.zeros((size, size), np.uint8)
    cv2.fillPoly(out, [grown], 255, cv2.LINE_8, 4)
    return out
