"""Grain, strokes and blocks of a portrait: measured, and taken out as far as they are there."""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np

from mien.landmarks import OVAL
from mien.types import Floats, Image

FLOOR: Final = (0.85, 0.55)
"""Noise in grey levels, of the picture and of its half, below which nothing is done. Clean
sharp photos have 0.2 to 0.8 and 0.1 to 0.5, grainy ones from 1.2 and 0.7."""

KEPT: Final = 0.35
"""Share of the noise that stays, since skin without any grain looks like plastic."""


class Noise(NamedTuple):
    """Noise of one channel in grey levels.

    Attributes:
        sure: Standard deviation of what can be nothing but noise, as if it were white.
        whole: Spread of the finer detail of smooth skin: coarse grain, and pores, too.
    """

    sure: float
    whole: float


def noise(image: Image, mesh: Floats) -> Noise:
    """Measure the noise of a portrait.

    The finest detail is seen by the mask of Immerkær ("Fast noise variance estimation", 1996),
    in blocks of 8×8 pixels; of the blocks' values the lower quartile counts, since edges and hair
    raise the others. Skin has pores and a background may be out of focus, noise is in both: the
    lower of the two is taken.

    Args:
        image: ``(S, S)`` uint8, one channel.
        mesh: ``(468+, 2+)`` in its pixels.
    """
    values = image.astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    fine = np.asarray(cv2.filter2D(values, -1, kernel))
    broad = np.asarray(values - cv2.GaussianBlur(values, (0, 0), 2.0), np.float32)
    # Where levels are cut off there is no noise to be seen.
    usable = cv2.erode(((values > 10) & (values < 245)).astype(np.uint8), np.ones((3, 3), np.uint8))
    hull = cv2.convexHull(np.round(mesh[list(OVAL), :2]).astype(np.int32))
    face = np.asarray(cv2.fillConvexPoly(np.zeros(image.shape, np.uint8), hull, 1), np.uint8)
    found = []
    for part, band in ((face, fine), (1 - face, fine), (face, broad)):
        spread = np.sqrt(_blocks(band * band))[_blocks((part * usable).astype(np.float32)) > 0.99]
        if part is not face:
            spread = spread[spread > 0.05]  # a border that was made up by repeating pixels
        enough = len(spread) >= 12
        found.append(float(np.percentile(spread, 25)) / 0.93 if enough else np.inf)
    sure = min(found[:2])
    if not np.isfinite(sure):
        return Noise(0.0, 0.0)
    return Noise(sure, max(sure, found[2]) if np.isfinite(found[2]) else sure)


def denoise(image: Image, mesh: Floats) -> Image:
    """Take grain, strokes of the brush and blocks of JPEG out, as far as they are measured.

    Non-local means (Buades, Coll and Morel, 2005) on the picture's half, for coarse grain, and
    then on the picture, with a strength that follows :func:`noise`. A clean photo comes back as
    it is.

    Args:
        image: ``(S, S, 3)`` uint8.
        mesh: ``(468+, 2+)`` in its pixels.
    """
    ycc = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.uint8)
    half = np.asarray(cv2.pyrDown(ycc), np.uint8)
    smooth = _means(half, mesh * np.float32(0.5), FLOOR[1])
    out = ycc
    if smooth is not half:
        change = np.asarray(smooth.astype(np.float32) - half, np.float32)
        large = cv2.resize(change, ycc.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        out = np.asarray(np.clip(ycc + large + 0.5, 0, 255), np.uint8)
    out = _means(out, mesh, FLOOR[0])
    if out is ycc:
        return image
    out = cv2.addWeighted(out, 1 - KEPT, ycc, KEPT, 0).astype(np.uint8)
    return np.asarray(cv2.cvtColor(out, cv2.COLOR_YCrCb2RGB), np.uint8)


def _means(ycc: Image, mesh: Floats, floor: float) -> Image:
    """Non-local means of a Y'CrCb picture, the picture itself where there is no noise."""
    luma: Image = np.ascontiguousarray(ycc[..., 0])
    colour: Image = np.ascontiguousarray(ycc[..., 1:])
    found = [noise(np.ascontiguousarray(ycc[..., c]), mesh) for c in (0, 1, 2)]
    strong = [
        min(max(n.sure / floor - 1, 0.0) / 0.6, 1.0) * min(n.whole, 3 * n.sure)
        for n in (found[0], max(found[1:], key=lambda n: n.sure))
    ]
    if max(strong) <= 0:
        return ycc
    if strong[0] > 0:
        luma = np.asarray(cv2.fastNlMeansDenoising(luma, None, 1.0 * strong[0], 5, 15), np.uint8)
    if strong[1] > 0:
        colour = np.asarray(
            cv2.fastNlMeansDenoising(colour, None, 2.0 * strong[1], 5, 15), np.uint8
        )
    return np.dstack([luma, colour])


def _blocks(values: Floats, side: int = 8) -> Floats:
    """Means of ``(h, w)`` values over blocks."""
    h, w = values.shape[0] // side, values.shape[1] // side
    cut = values[: h * side, : w * side].reshape(h, side, w, side)
    return np.asarray(cut.mean((1, 3)), np.float32)
