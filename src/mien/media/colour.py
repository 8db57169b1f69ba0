"""Pixels between decoded planes and upright RGB: matrix, range, rotation, and writing back.

``cv2`` knows only BT.601; libswscale takes the matrix and the range of each frame. Its unscaled
YUV → RGB path converts 1080p in about 1 ms when one reformatter is kept (a new one a frame: 1.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from mien.types import Image, Rect

# ITU-T H.273 matrix coefficients, as frames carry them → libswscale's tables.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


def matrix_of(frame: av.VideoFrame) -> Colorspace:
    """Return the frame's YUV matrix; where it does not say, HD is BT.709 and SD BT.601."""
    usual = Colorspace.ITU709 if min(frame.width, frame.height) >= 720 else Colorspace.ITU601
    return _MATRICES.get(frame.colorspace, usual)


def range_of(frame: av.VideoFrame) -> ColorRange:
    """Return the range of the frame's YUV; unsaid it is limited, but for the ``yuvj`` formats."""
    if frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG:
        return ColorRange.JPEG
    return ColorRange.MPEG


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become the displayed picture: flip, then turn.

    Attributes:
        flip: Mirror left and right first.
        turns: Then quarter turns counter-clockwise, 0..3.
    """

    flip: bool = False
    turns: int = 0

    @classmethod
    def of(cls, matrix: tuple[int, ...] | None) -> Orientation:
        """Read a display matrix (nine integers, libavutil ``display.h``); None is upright.

        The matrix maps stored ``(x, y)`` to ``(a x + c y, b x + d y)``; angles between quarter
        turns are taken as the nearest one.
        """
        if matrix is None:
            return cls()
        a, b, c, d = (matrix[i] / 65536 for i in (0, 1, 3, 4))
        flip = a * d - b * c < 0
        if flip:  # undo the mirror that comes first, so that a pure rotation is left
            a, b = -a, -b
        angle = np.degrees(np.arctan2(-b, a))  # y points down: this is counter-clockwise
        return cls(flip, round(angle / 90) % 4)

    @property
    def swaps(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    def apply(self, stored: Image) -> Image:
        """Turn stored pixels upright; returns the same array where nothing is to be done."""
        return _turn(_mirror(stored) if self.flip else stored, self.turns)

    def undo(self, shown: Image) -> Image:
        """Turn displayed pixels back to how they are stored."""
        image = _turn(shown, -self.turns % 4)
        return _mirror(image) if self.flip else image

    def undo_rect(self, rect: Rect, width: int, height: int) -> Rect:
        """Map a rectangle of the displayed picture to the stored one of ``width × height``."""
        x0, y0, x1, y1 = rect
        # Each quarter turn counter-clockwise took (x, y) to (y, w - x) in the picture before it.
        for turn in range(self.turns, 0, -1):
            before_width = width if turn % 2 == 1 else height
            x0, y0, x1, y1 = before_width - y1, x0, before_width - y0, x1
        if self.flip:
            x0, x1 = width - x1, width - x0
        return Rect(x0, y0, x1, y1)

    def redo_rect(self, rect: Rect, width: int, height: int) -> Rect:
        """Map a rectangle of the stored picture of ``width × height`` to the displayed one."""
        x0, y0, x1, y1 = rect
        if self.flip:
            x0, x1 = width - x1, width - x0
        for turn in range(self.turns):
            before_width = width if turn % 2 == 0 else height
            x0, y0, x1, y1 = y0, before_width - x1, y1, before_width - x0
        return Rect(x0, y0, x1, y1)


def _mirror(image: Image) -> Image:
    return cv2.flip(image, 1)  # type: ignore[return-value]


def _turn(image: Image, turns: int) -> Image:
    if turns == 0:
        return image
    codes = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
    return cv2.rotate(image, codes[turns - 1])  # type: ignore[return-value]


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the nine integers of the frame's display matrix, None where it has none."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else tuple(int(v) for v in np.frombuffer(data, np.int32))


def writable_by_rectangle(pixel_format: av.VideoFormat) -> bool:
    """Tell whether a rectangle of the planes can be replaced by copying rows.

    True for planar and semi-planar YUV, planar and packed RGB, and grey; False for packed YUV,
    palettes and bit-packed formats.
    """
    if pixel_format.has_palette or pixel_format.is_bit_stream:
        return False
    packed = len({c.plane for c in pixel_format.components}) == 1
    whole_bytes = pixel_format.padded_bits_per_pixel % 8 == 0
    return not packed or len(pixel_format.components) == 1 or (pixel_format.is_rgb and whole_bytes)


@dataclass(slots=True)
class Converter:
    """Converts one stream's frames; keeps libswscale's state, so it belongs to one thread.

    Attributes:
        orientation: Stored → displayed.
    """

    orientation: Orientation = field(default_factory=Orientation)
    _swscale: VideoReformatter = field(default_factory=VideoReformatter)

    def image(self, frame: av.VideoFrame) -> Image:
        """Return the upright ``(H, W, 3)`` RGB picture of a decoded frame, C-contiguous."""
        rgb = self._swscale.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix_of(frame),
            src_color_range=range_of(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        image: Image = np.ascontiguousarray(rgb.to_ndarray())
        return self.orientation.apply(image)

    def write_back(self, image: Image, frame: av.VideoFrame, dirty: list[Rect]) -> None:
        """Convert rectangles of the upright picture and copy them into the frame's planes.

        All other samples of the planes stay as they were decoded.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, upright.
            frame: What was decoded; made writable here.
            dirty: Rectangles of ``image`` that were changed.
        """
        if not dirty:
            return
        frame.make_writable()
        steps = 8 // frame.format.chroma_width(8), 8 // frame.format.chroma_height(8)
        for rect in dirty:
            stored = self.orientation.undo_rect(rect, frame.width, frame.height)
            stored = stored.even(frame.width, frame.height, max(steps))
            shown = self.orientation.redo_rect(stored, frame.width, frame.height)
            region = np.ascontiguousarray(self.orientation.undo(image[shown.slices()]))
            part = self._swscale.reformat(
                av.VideoFrame.from_numpy_buffer(region, "rgb24"),
                format=frame.format.name,
                src_color_range=ColorRange.JPEG,
                dst_colorspace=matrix_of(frame),
                dst_color_range=range_of(frame),
                interpolation=Interpolation.BILINEAR,
                threads=1,
            )
            for target, patch in zip(plane_rows(frame), plane_rows(part), strict=True):
                # Chroma planes are smaller by the steps; the rectangle begins on a multiple.
                across = steps[0] if target.shape[1] < frame.width else 1
                down = steps[1] if target.shape[0] < frame.height else 1
                x, y = stored.x0 // across, stored.y0 // down
                height, width = patch.shape[:2]
                target[y : y + height, x : x + width] = patch

    def convert(self, frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
        """Return the frame in another pixel format, matrix and range kept (RGB: limited)."""
        matrix, size = matrix_of(frame), range_of(frame)
        return self._swscale.reformat(
            frame,
            format=pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if frame.format.is_rgb else size,
            dst_color_range=size,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )


def plane_rows(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """View each plane as ``(height, width, bytes a sample)`` uint8, without the padding."""
    components = frame.format.components
    views = []
    for index, plane in enumerate(frame.planes):
        if len(frame.planes) == 1:
            size = frame.format.padded_bits_per_pixel // 8
        else:
            size = sum(-(-c.bits // 8) for c in components if c.plane == index)
        stride = abs(plane.line_size)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, stride)
        if plane.line_size < 0:  # stored bottom up
            rows = rows[::-1]
        views.append(rows[:, : plane.width * size].reshape(plane.height, plane.width, size))
    return views
