"""Blending: a patch into its frame, and colour matching for patches that were not relit.

Only the pixels under the patch's mask change; nothing of the frame's size is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry
from mien.types import Frame, Image, Patch, Rect


def soft(frame: Frame, patch: Patch) -> None:
    """Mix the patch in by its mask; writes to the frame and records the rectangle."""
    placed = _place(frame, patch)
    if placed is None:
        return
    rect, image, alpha = placed
    view = frame.image[rect.slices()]
    if patch.surround:  # whole by definition
        view[...] = image
    else:
        for first, last in geometry.bands(len(view)):
            rows = slice(first, last)
            # Each product rounded by itself, which may be one grey level off where both meet: half
            # the time of floats.
            share = cv2.merge((alpha[rows],) * 3)
            ours = cv2.multiply(image[rows], share, scale=1 / 255)
            theirs = cv2.multiply(view[rows], cv2.bitwise_not(share), scale=1 / 255)
            view[rows] = cv2.add(ours, theirs)
    frame.mark_dirty(rect)


def poisson(frame: Frame, patch: Patch) -> None:
    """Gradient-domain blending (Pérez et al., "Poisson image editing", 2003) on the region.

    Solved on the patch's rectangle, with a rim of two pixels of the frame, not on the whole frame.
    The mask's soft edge is kept by mixing the solution in by it.
    """
    placed = _place(frame, patch)
    if placed is None:
        return
    rect, image, alpha = placed
    view = frame.image[rect.slices()]
    # Solved over the whole face with the mask's holes filled, so that only the outline is a
    # border: eyes and mouth, which stay the frame's, do not pull at the colour around them.
    solid = (alpha > 96).astype(np.uint8) * 255
    outlines = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(solid, outlines, -1, 255, cv2.FILLED)
    # The equations need a border of known pixels.
    solid[:2], solid[-2:], solid[:, :2], solid[:, -2:] = 0, 0, 0, 0
    x, y, w, h = cv2.boundingRect(solid)
    if w < 4 or h < 4:
        return soft(frame, patch)
    # seamlessClone puts the middle of the mask's bounding box at the point it is given.
    centre = (x + w // 2, y + h // 2)
    solved = cv2.seamlessClone(
        np.ascontiguousarray(image), np.ascontiguousarray(view), solid, centre, cv2.NORMAL_CLONE
    )
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    view[...] = cv2.blendLinear(solved, view, weight, 1 - weight)
    frame.mark_dirty(rect)
    return None


def fade(frame: Frame, before: Image, written: Sequence[Rect], share: float) -> None:
    """Take back a part of what was painted; writes to the frame.

    Args:
        frame: After painting.
        before: ``(H, W, 3)`` uint8, the picture before it.
        written: Rectangles that were painted.
        share: Of the painting that stays, 0..1.
    """
    if not written:
        return
    corners = np.array(written)
    (x0, y0), (x1, y1) = corners[:, :2].min(0), corners[:, 2:].max(0)
    part = frame.image[y0:y1, x0:x1]
    part[...] = cv2.addWeighted(part, share, before[y0:y1, x0:x1], 1 - share, 0)


BLENDS: Final = {"soft": soft, "poisson": poisson}


def match_color(
    patch: Patch, frame: Frame, mode: Literal["auto", "none", "lab", "histogram"]
) -> Patch:
    """Give the patch the colours and the broad light of what it covers.

    ``lab`` matches mean and spread in CIE L*a*b* (Reinhard et al., "Color transfer between
    images", 2001); ``histogram`` matches the distribution of each RGB channel; ``auto`` does what
    the patch asks for. Both are measured under the mask. Then what differs between one side of
    the face and the other is made good for, see :func:`_evened`.
    """
    mode = patch.color if mode == "auto" else mode
    if mode == "none":
        return patch
    height, width = patch.mask.shape
    under = cv2.warpAffine(
        frame.image, patch.matrix, (width, height), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    where = patch.mask > 127
    if where.sum() < 64:
        return patch
    match = _lab if mode == "lab" else _hist
    image = match(patch.image, np.asarray(under, np.uint8), where)
    return replace(patch, image=_evened(image, np.asarray(under, np.uint8), patch.mask))


def white_balance(image: Image) -> Image:
    """Remove a colour cast: shades of grey with a Minkowski norm of 6 (Finlayson, Trezzi 2004).

    Gains are bounded to 0.7..1.4, since a portrait before a coloured wall is no colour cast.
    """
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64)
    norm = (small**6).mean((0, 1)) ** (1 / 6)
    gain = np.clip(norm.mean() / np.maximum(norm, 1e-6), 0.7, 1.4)
    return np.asarray(np.clip(image * gain + 0.5, 0, 255), np.uint8)


_LEVELS = np.arange(256) / 255
LINEAR: Final = np.where(
    _LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4
).astype(np.float32)
"""Level of sRGB → linear light, 0..1 (IEC 61966-2-1)."""


def _lab(image: Image, under: Image, where: NDArray[np.bool_]) -> Image:
    # OpenCV's own way from sRGB reads a coarse table: 0.4 off in a*, up to 8 grey levels after the
    # spread is doubled. From linear light it computes, in less time. NumPy would take ten times
    # as long for the rest.
    ours, theirs = (cv2.cvtColor(cv2.LUT(i, LINEAR), cv2.COLOR_LRGB2LAB) for i in (image, under))
    mask = where.view(np.uint8)
    (m, s), (n, t) = ([v[:, 0] for v in cv2.meanStdDev(i, mask=mask)] for i in (ours, theirs))
    gain = np.clip(t / np.maximum(s, 1e-3), 0.5, 2.0)
    moved = cv2.transform(ours, np.column_stack([np.diag(gain), n - gain * m]))
    rgb = cv2.cvtColor(moved, cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(rgb * np.float32(255) + 0.5, 0, 255), np.uint8)


CELLS: Final = 48
"""Of the longer side of the grid on which broad light is compared."""

BROAD: Final = 0.25
"""Blur of broad light in parts of the face's size; finer light would be the other's features."""


def _evened(image: Image, under: Image, mask: Image) -> Image:
    """The patch with the broad light and colour of what it covers.

    A gain for every place and channel, from blurred pictures of both. Where they differ much more
    than elsewhere something is seen in one that the other does not have, as hair, a shadow's edge
    or a hand; such places count less.

    Args:
        image: ``(h, w, 3)`` uint8, already alike on the whole.
        under: ``(h, w, 3)`` uint8.
        mask: ``(h, w)`` uint8.
    """
    h, w = mask.shape
    scale = min(1.0, CELLS / max(h, w))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    ours, theirs, weight = (
        cv2.resize(v, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for v in (image, under, mask)
    )
    weight *= np.float32(1 / 255)
    sigma = BROAD * float(np.sqrt(weight.sum()))
    if sigma < 1:
        return image
    apart = np.log((theirs + 8) / (ours + 8)).mean(2)
    middle = _weighted_median(apart, weight)
    spread = max(1.4826 * _weighted_median(np.abs(apart - middle), weight), 0.05)
    weight = weight / (1 + ((apart - middle) / (2 * spread)) ** 2)

    def low(values: NDArray[np.float32]) -> NDArray[np.float32]:
        # The little that is added is the mean, which holds where nothing is known.
        mean = (values * weight[..., None]).sum((0, 1)) / weight.sum()
        blurred = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma)
        total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
        return np.asarray((blurred + 0.02 * mean) / (total + 0.02), np.float32)

    gain = np.clip((low(theirs) + 8) / (low(ours) + 8), 0.5, 2)
    large = cv2.resize(gain, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(image, large, dtype=cv2.CV_8U), np.uint8)


def _weighted_median(values: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    order = np.argsort(values, axis=None)
    total = np.cumsum(weight.reshape(-1)[order])
    return float(values.reshape(-1)[order[np.searchsorted(total, total[-1] / 2)]])


def _hist(image: Image, under: Image, where: NDArray[np.bool_]) -> Image:
    mask = where.view(np.uint8)
    tables = np.empty((1, 256, 3), np.uint8)
    for c in range(3):
        ours, theirs = (
            np.cumsum(cv2.calcHist([v], [c], mask, [256], [0, 256])) for v in (image, under)
        )
        # For each level the least of theirs below which lie as many pixels; both sums end alike.
        tables[0, :, c] = np.searchsorted(theirs, np.maximum(ours, 1))
    return np.asarray(cv2.LUT(image, tables), np.uint8)


def _place(frame: Frame, patch: Patch) -> tuple[Rect, Image, Image] | None:
    """The patch and its mask in pixels of the frame, over the rectangle that the mask reaches."""
    height, width = frame.image.shape[:2]
    ph, pw = patch.mask.shape
    m = patch.matrix
    if np.array_equal(m[:, :2], np.eye(2)) and np.array_equal(m[:, 2], np.round(m[:, 2])):
        x0, y0 = int(-m[0, 2]), int(-m[1, 2])
        x, y, w, h = cv2.boundingRect(patch.mask)
        rect = Rect(max(0, x0 + x), max(0, y0 + y), min(width, x0 + x + w), min(height, y0 + y + h))
        if rect.empty:
            return None
        cut = (slice(rect.y0 - y0, rect.y1 - y0), slice(rect.x0 - x0, rect.x1 - x0))
        return rect, patch.image[cut], patch.mask[cut]
    back = geometry.invert(m)
    corners = geometry.transform(back, [[-1, -1], [pw, -1], [-1, ph], [pw, ph]])
    lo, hi = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    rect = Rect(max(0, lo[0]), max(0, lo[1]), min(width, hi[0]), min(height, hi[1]))
    if rect.empty:
        return None
    size = (rect.x1 - rect.x0, rect.y1 - rect.y0)
    shifted = back.copy()
    shifted[:, 2] -= (rect.x0, rect.y0)
    image = cv2.warpAffine(
        patch.image, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    alpha = cv2.warpAffine(patch.mask, shifted, size, flags=cv2.INTER_LINEAR)
    return rect, image, alpha  # type: ignore[return-value]
