"""Pixels between decoded planes and upright RGB: matrix, range, rotation, and writing back.

``cv2`` knows only BT.601; libswscale takes the matrix and the range of each frame. Its unscaled
YUV → RGB path converts 1080p in about 1 ms when one reformatter is kept (a new one a frame: 1.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


_RED_BLUE = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
"""What red and blue weigh in luma (ITU-T H.273, table 4)."""


def weights(matrix: Colorspace, full: bool, depth: int) -> NDArray[np.float32]:
    """Return the ``(3, 3)`` map from a change of 8-bit RGB to the change of Y, Cb and Cr codes.

    ITU-T H.273, equations 8-38 to 8-43; ``depth`` is the bits a sample of the planes.
    """
    red, blue = _RED_BLUE[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    top = 2**depth - 1 if full else 255 * 2 ** (depth - 8)
    heights = (1, 1) if full else (219 / 255, 224 / 255)
    rows = np.stack([heights[0] * luma, heights[1] * cb, heights[1] * cr])
    scaled: NDArray[np.float32] = (top / 255 * rows).astype(np.float32)
    return scaled


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
        return self.orientation.apply(self._rgb(frame, matrix_of(frame)))

    def _rgb(self, frame: av.VideoFrame, matrix: Colorspace) -> Image:
        rgb = self._swscale.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            src_color_range=range_of(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray())

    def write_back(self, image: Image, frame: av.VideoFrame, dirty: list[Rect]) -> None:
        """Bring what changed inside rectangles of the upright picture into the frame's planes.

        Samples outside stay as they were decoded; in planar YUV so do those inside that did not
        change.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, upright.
            frame: What was decoded; made writable here.
            dirty: Rectangles of ``image`` that were changed.
        """
        if not dirty:
            return
        frame.make_writable()
        write = self._add_change if _is_planar_yuv(frame.format) else self._replace
        for rect in dirty:
            stored = self.orientation.undo_rect(rect, frame.width, frame.height)
            stored = stored.even(frame.width, frame.height, max(_steps(frame.format)))
            shown = self.orientation.redo_rect(stored, frame.width, frame.height)
            write(self.orientation.undo(image[shown.slices()]), frame, stored)

    def _add_change(self, new: Image, frame: av.VideoFrame, rect: Rect) -> None:
        """Add the difference between the new pixels and those that the planes give to the planes.

        libswscale's fast YUV → RGB rounds down: a conversion there and back darkens by one code
        and would leave a faint rectangle, and 8-bit RGB would flatten 10-bit planes. Differences
        have neither fault.
        """
        # With whole blocks of 16 libswscale rounds as it did for the whole frame, and with a
        # margin it interpolates chroma as it did there.
        wide = Rect(
            max(0, (rect.x0 - 4) // 16 * 16),
            max(0, (rect.y0 - 4) // 4 * 4),
            min(frame.width, -(-(rect.x1 + 4) // 16) * 16),
            min(frame.height, -(-(rect.y1 + 4) // 4) * 4),
        )
        if frame.width % 2 or frame.height % 2:  # libswscale takes another path for odd sizes
            wide = Rect(0, 0, frame.width, frame.height)
        around = av.VideoFrame(wide.x1 - wide.x0, wide.y1 - wide.y0, frame.format.name)
        around.color_range = frame.color_range
        for rows, own in zip(plane_rows(around), _cut(frame, wide), strict=True):
            rows[...] = own
        matrix = matrix_of(frame)
        inner = Rect(rect.x0 - wide.x0, rect.y0 - wide.y0, rect.x1 - wide.x0, rect.y1 - wide.y0)
        old = self._rgb(around, matrix)[inner.slices()]
        depth, full = frame.format.components[0].bits, range_of(frame) == ColorRange.JPEG
        across, down = _steps(frame.format)
        codes = _Codes(depth, full, weights(matrix, full, depth), (across, down))
        sample = np.uint8 if depth == 8 else np.uint16
        planes = [rows.view(sample)[:, :, 0] for rows in _cut(frame, rect)]
        # Strips stay in the cache, and in memory that the allocator need not fetch anew.
        for y0 in range(0, new.shape[0], 64):
            strip = slice(y0, y0 + 64)
            parts = [planes[0][strip], *(p[y0 // down : (y0 + 64) // down] for p in planes[1:3])]
            _add_strip(np.subtract(new[strip], old[strip], dtype=np.int16), parts, codes)

    def _replace(self, new: Image, frame: av.VideoFrame, rect: Rect) -> None:
        """Convert the new pixels and put them into the planes, whatever the format."""
        part = self._planes(new, frame, frame.format.name)
        for target, rows in zip(_cut(frame, rect), plane_rows(part), strict=True):
            target[...] = rows

    def _planes(self, new: Image, like: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
        """Convert RGB to a pixel format, with the matrix and range of a decoded frame."""
        return self._swscale.reformat(
            av.VideoFrame.from_numpy_buffer(new, "rgb24"),
            format=pixel_format,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=matrix_of(like),
            dst_color_range=range_of(like),
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )

    def renew(self, image: Image, frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
        """Return a frame of a new size, with the matrix and range of the one that was decoded.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, upright, the whole picture.
            frame: What was decoded.
            pixel_format: Of the result.
        """
        stored = self.orientation.undo(image)
        made = self._planes(stored, frame, pixel_format)
        # Unsaid, the matrix would go by the new size.
        made.colorspace, made.color_range = matrix_of(frame), range_of(frame)
        if _is_planar_yuv(made.format):  # what the decoded frame lost when it was read comes back
            self._add_change(stored, made, Rect(0, 0, made.width, made.height))
        return made

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


class _Codes(NamedTuple):
    """How the samples of a frame's planes stand for colours."""

    depth: int
    full: bool
    weights: NDArray[np.float32]
    steps: tuple[int, int]


def _add_strip(change: NDArray[Any], planes: list[NDArray[Any]], codes: _Codes) -> None:
    """Add a change of RGB ``(h, w, 3)`` int16 to the same strip of each plane."""
    change = cv2.transform(change, codes.weights)
    luma, move, top = planes[0], cv2.extractChannel(change, 0), 2**codes.depth - 1
    unit = 2 ** (codes.depth - 8)
    black, white = (0, top) if codes.full else (16 * unit, 235 * unit)
    base = luma
    if luma.min() < black - 4 * unit or luma.max() > white + 4 * unit:
        # What RGB could not show must not shine through what is painted over it.
        base = np.clip(luma, black, white)
        cv2.copyTo(luma, (move == 0).view(np.uint8), base)
    _add(luma, base, move, top)
    if len(planes) < 3:
        return
    height, width = planes[1].shape
    across, down = codes.steps
    if change.shape[:2] != (height * down, width * across):  # at the edge of an odd size
        more = height * down - change.shape[0], width * across - change.shape[1]
        change = cv2.copyMakeBorder(change, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE)
    small = cv2.resize(change, (width, height), interpolation=cv2.INTER_AREA)
    for number in (1, 2):
        _add(planes[number], planes[number], cv2.extractChannel(small, number), top)


def _is_planar_yuv(pixel_format: av.VideoFormat) -> bool:
    """Whether every component has a plane of its own; false for RGB and big-endian samples."""
    own = all(c.plane == number for number, c in enumerate(pixel_format.components))
    return own and not pixel_format.is_rgb and not pixel_format.is_big_endian


def _steps(pixel_format: av.VideoFormat) -> tuple[int, int]:
    """Return how many samples of luma one of chroma stands for, across and down."""
    return 8 // pixel_format.chroma_width(8), 8 // pixel_format.chroma_height(8)


def _cut(frame: av.VideoFrame, rect: Rect) -> list[NDArray[np.uint8]]:
    """View a rectangle that begins on multiples of the chroma steps in each plane."""
    steps, views = _steps(frame.format), []
    for rows in plane_rows(frame):
        across = steps[0] if rows.shape[1] < frame.width else 1
        down = steps[1] if rows.shape[0] < frame.height else 1
        x0, y0, x1, y1 = rect
        views.append(rows[y0 // down : -(-y1 // down), x0 // across : -(-x1 // across)])
    return views


def _add(target: NDArray[Any], base: NDArray[Any], change: NDArray[Any], top: int) -> None:
    """Store ``base + change``, rounded and clipped to 0..``top``."""
    depth = cv2.CV_8U if target.dtype == np.uint8 else cv2.CV_16U
    total: Any = cv2.add(base, change, dtype=depth)
    target[...] = total if depth == cv2.CV_8U else np.minimum(total, top)


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
