"""Values on the coarse grid over a face: weights, blurs, and what goes between grid and picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mien import motion
from mien.landmarks import LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from mien.types import Floats, Image

FRONTAL: Final = np.radians(15.0)
"""A photo turned by less keeps its own frame."""

CELLS: Final = 192
"""Cells along the longer side of the face on which light, masks and borders are worked out."""

LEFT_BROW: Final = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
RIGHT_BROW: Final = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
LEFT_NOSTRIL: Final = (79, 166, 59, 75, 60, 20, 238)
RIGHT_NOSTRIL: Final = (309, 392, 289, 305, 290, 250, 458)
FEATURES: Final = (
    LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, OUTER_LIPS, LEFT_NOSTRIL, RIGHT_NOSTRIL,
)  # fmt: skip


def features(
    flow: motion.MotionField,
    mesh: Floats,
    margin: float,
    rings: Sequence[tuple[int, ...]] = FEATURES,
) -> Floats:
    """``(h, w)`` 0..1 on the grid: polygons widened by a share of the grid's width."""
    h, w = flow.inside.shape
    out = np.zeros((h, w), np.uint8)
    for ring in rings:
        p = np.round(flow.to_grid(mesh[list(ring), :2]) * 16).astype(np.int32)
        cv2.fillPoly(out, [p], 255, cv2.LINE_8, 4)
    reach = round(margin * w)
    if reach:
        out = cv2.dilate(out, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(out, (0, 0), 1.0), np.float32) / np.float32(255)


def spread(
    values: Floats, weight: Floats, prior: Floats | None = None, pull: float = 0.0
) -> Floats:
    """Continue values smoothly to where their weight is 0, as a membrane would hang.

    Pull-push over a pyramid (Gortler et al., "The lumigraph", 1996), relaxed at each level.

    Args:
        values: ``(h, w, c)``.
        weight: ``(h, w)`` 0..1.
        prior: ``(c,)`` what is taken far from all that is known.
        pull: Weight of the prior at every level.
    """
    held: Floats = np.asarray(np.clip(weight, 0, 1), np.float32)
    levels = [(values * held[..., None], held)]
    while min(levels[-1][1].shape) > 3:
        v, k = levels[-1]
        size = ((k.shape[1] + 1) // 2, (k.shape[0] + 1) // 2)
        v = np.asarray(cv2.resize(v, size, interpolation=cv2.INTER_AREA), np.float32)
        k = np.asarray(cv2.resize(k, size, interpolation=cv2.INTER_AREA), np.float32)
        v = v.reshape(*k.shape, -1)
        more = np.minimum(1, 3 * k) / np.maximum(k, 1e-6)
        levels.append((v * more[..., None], np.asarray(k * more, np.float32)))
    v, k = levels[-1]
    mean = v.sum((0, 1)) / max(float(k.sum()), 1e-6)
    if prior is None:
        prior = mean
    out = np.broadcast_to(mean, v.shape).astype(np.float32)
    for v, k in reversed(levels):
        out = cv2.resize(out, k.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(v.shape)
        for _ in range(8):
            around = cv2.blur(out, (3, 3), borderType=cv2.BORDER_REPLICATE).reshape(v.shape)
            around = around + np.float32(pull) * (prior - around)
            out = v + (1 - k[..., None]) * around
    return np.asarray(out, np.float32)


def guided(guide: Floats, values: Floats, weight: Floats, sigma: float, epsilon: float) -> Floats:
    """Weighted guided filter: values smoothed, with the edges of the guide."""
    g = guide[..., None]

    def mean(a: ArrayLike) -> Floats:
        return blur(np.asarray(a, np.float32), weight, sigma)

    middle, level = mean(g), mean(values)
    slope = (mean(g * values) - middle * level) / (mean(g * g) - middle * middle + epsilon)
    return np.asarray(mean(slope) * g + mean(level - slope * middle), np.float32)


def blur(values: Floats, weight: Floats, sigma: float) -> Floats:
    """Gaussian blur of ``(h, w, c)`` values, each with its ``(h, w)`` weight."""
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    blurred = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma).reshape(values.shape)
    return np.asarray(blurred / np.maximum(total, 1e-9)[..., None], np.float32)


def sample(image: Image, lookup: Floats, size: tuple[int, int]) -> Image:
    """The image at the places of a coarse lookup, enlarged to ``size``."""
    full = cv2.resize(lookup, size, interpolation=cv2.INTER_LINEAR)
    x, y = full[..., 0], full[..., 1]
    out = cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8)


def shrink(image: Image, width: int, height: int) -> Image:
    """The image averaged down to the grid."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def enlarge(values: Floats, image: Image) -> Floats:
    """Weights on the grid, 0..1, at the image's size."""
    large = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(large, 0, 1), np.float32)


def mix(under: Image, over: Image, alpha: Floats) -> Image:
    """One image over another, ``(H, W)`` alpha 0..1."""
    a = alpha[..., None]
    return np.asarray(under * (1 - a) + over * a + np.float32(0.5), np.uint8)
