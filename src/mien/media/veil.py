"""A faint pattern over a whole picture: in RGB pixels, or in the luma of what was decoded.

A *veil* is a coarse ``(rows, columns)`` grid of changes of brightness in 8-bit levels. Spread over
the picture it is the same in all three colours, so a frame that is kept as YUV takes it in its
luma alone: no sample of chroma changes, and the frame need not go through RGB.
"""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from mien.media.colour import Orientation, plane_rows, range_of
from mien.types import Floats, Image

DEEPEST = 3.9
"""Largest change of a veil, levels; what is larger is cut off."""

_STEPS = 32  # of a level, while the grid is spread
_STRIP = 64  # rows that stay in the cache


def has_planes(origin: object) -> bool:
    """Tell whether a frame's origin is a decoded video frame, which takes the veil in a sink."""
    return isinstance(origin, av.VideoFrame)


def add_to_image(image: Image, veil: Floats) -> None:
    """Add a veil to ``(H, W, 3)`` pixels in place; what leaves 0..255 is cut off."""
    height, width = image.shape[:2]
    spread = _spread(veil, width, height)
    lighter, darker = _tables(1.0, np.uint8)
    for y0 in range(0, height, _STRIP):
        rows, part = image[y0 : y0 + _STRIP], spread[y0 : y0 + _STRIP]
        cv2.add(rows, cv2.cvtColor(_look(part, lighter), cv2.COLOR_GRAY2RGB), rows)
        cv2.subtract(rows, cv2.cvtColor(_look(part, darker), cv2.COLOR_GRAY2RGB), rows)


def fits(pixel_format: av.VideoFormat) -> bool:
    """Tell whether :func:`add_to_luma` knows a pixel format.

    It knows planar YUV and grey of 8 to 16 bits and semi-planar YUV of 8; not RGB, packed YUV or
    big-endian samples.
    """
    planes = [c.plane for c in pixel_format.components]
    if pixel_format.is_rgb or pixel_format.is_big_endian or planes.count(0) != 1:
        return False
    return pixel_format.components[0].bits == 8 or len(set(planes)) == len(planes)


def add_to_luma(frame: av.VideoFrame, veil: Floats, orientation: Orientation) -> None:
    """Add a veil to the luma plane of a decoded frame, which is made writable.

    Samples stay within the frame's range; those that are outside it are not moved further out.

    Args:
        frame: Of a format that :func:`fits`.
        veil: As the picture is shown, upright.
        orientation: Stored → shown.
    """
    first = frame.format.components[0]
    frame.make_writable()
    sample = np.uint8 if first.bits == 8 else np.uint16
    unit, full = 2 ** (first.bits - 8), range_of(frame) == ColorRange.JPEG
    black: Any
    white: Any
    black, white = (0, 2**first.bits - 1) if full else (16 * unit, 235 * unit)
    scale = (2**first.bits - 1) / 255 if full else 219 / 255 * unit
    lighter, darker = _tables(scale, sample)
    upright: Any = veil
    stored: Any = np.ascontiguousarray(orientation.undo(upright))
    spread = _spread(stored, frame.width, frame.height)
    luma: Any = plane_rows(frame)[0].view(sample)[:, :, 0]
    for y0 in range(0, frame.height, _STRIP):
        rows, part = luma[y0 : y0 + _STRIP], spread[y0 : y0 + _STRIP]
        light: Any = cv2.min(cv2.add(rows, _look(part, lighter)), white)
        light = cv2.max(light, rows)
        dark: Any = cv2.max(cv2.subtract(light, _look(part, darker)), black)
        rows[...] = cv2.min(dark, light)


def _spread(veil: Floats, width: int, height: int) -> Image:
    """Enlarge a grid smoothly to ``(height, width)``: 128 is no change, 32 steps are one level."""
    codes = np.clip(np.rint(veil * _STEPS + 128), 0, 255).astype(np.uint8)
    return cv2.resize(codes, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def _tables(scale: float, sample: type) -> tuple[NDArray[Any], NDArray[Any]]:
    """What each code of :func:`_spread` adds, and what it takes away, in codes of the picture."""
    change = np.rint((np.arange(256) - 128) * (scale / _STEPS))
    return np.maximum(change, 0).astype(sample), np.maximum(-change, 0).astype(sample)


def _look(codes: Image, table: NDArray[Any]) -> Any:
    return cv2.LUT(codes, table)
