"""Pictures on their way into a network and faces on their way back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.types import Face, Faces, Floats, Image

Turn = int
"""Quarter turns counter-clockwise, 0..3, as :func:`numpy.rot90` counts them."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was fitted into a network's input: ``input = picture * scale + shift``.

    Both are in pixel *edges* (the top left pixel's corner is the origin), the convention in which
    resizing is a pure scale; ``back`` returns to pixel centres.

    Attributes:
        scale: Input pixels per picture pixel, x and y.
        shift: Of the picture inside the input, pixels, x and y.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]

    def back(self, points: Floats) -> Floats:
        """Map ``(..., 2)`` input coordinates (edges) to picture pixels (centres)."""
        scale = np.asarray(self.scale, np.float32)
        shift = np.asarray(self.shift, np.float32)
        return np.asarray((points - shift) / scale - 0.5, np.float32)


def shrink(image: Image, width: int, height: int) -> Image:
    """Resize by halving while that leads down, then linearly: no aliasing, and five times faster.

    OpenCV halves with vector code; its general area average takes 7.6 ms from 1080p to 736x414.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (-(-image.shape[1] // 2), -(-image.shape[0] // 2))
        image = _image(cv2.resize(image, half, interpolation=cv2.INTER_AREA))
    if image.shape[:2] != (height, width):
        image = _image(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return image


def letterbox(
    image: Image, width: int, height: int, *, centre: bool, side: int = 0
) -> tuple[Image, Fit]:
    """Fit a picture into ``width`` x ``height``, keeping its shape, with black around it.

    Args:
        image: ``(H, W, 3)`` uint8.
        width: Of the result, pixels.
        height: Of the result, pixels.
        centre: Put it in the middle rather than at the top left.
        side: Largest that the picture's longer side may become, pixels; 0 for no bound.

    Returns:
        ``(height, width, 3)`` uint8, and the way back.
    """
    rows, cols = image.shape[:2]
    scale = min(width / cols, height / rows)
    if side:
        scale = min(scale, side / max(rows, cols))
    w = max(1, min(width, round(cols * scale)))
    h = max(1, min(height, round(rows * scale)))
    x, y = ((width - w) // 2, (height - h) // 2) if centre else (0, 0)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[y : y + h, x : x + w] = shrink(image, w, h)
    return canvas, Fit((w / cols, h / rows), (x, y))


def turn(image: Image, turns: Turn) -> Image:
    """Turn a picture counter-clockwise by quarter turns; contiguous."""
    return np.ascontiguousarray(np.rot90(image, turns))


def turn_back(faces: Faces, turns: Turn, width: int, height: int) -> Faces:
    """Map faces found in ``turn(image, turns)`` to ``image``, which is ``width`` x ``height``."""
    return [
        Face(
            box=_box_of(_unturn(face.box.reshape(2, 2), turns, width, height)),
            score=face.score,
            points=_unturn(face.points, turns, width, height),
        )
        for face in faces
    ]


def _unturn(points: Floats, turns: Turn, width: int, height: int) -> Floats:
    x, y = points[..., 0], points[..., 1]
    moved = {
        0: (x, y),
        1: (width - 1 - y, x),
        2: (width - 1 - x, height - 1 - y),
        3: (y, height - 1 - x),
    }[turns % 4]
    return np.stack(moved, axis=-1).astype(np.float32)


def _box_of(corners: Floats) -> Floats:
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)


def _image(pixels: object) -> Image:
    return np.asarray(pixels, np.uint8)


def shrink_to(image: Image, side: int) -> Image:
    """Shrink so that the longer side is at most ``side``."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    return shrink(image, max(1, round(width * scale)), max(1, round(height * scale)))


def to_scale(faces: Faces, found_in: Image, image: Image) -> Faces:
    """Faces of a shrunken picture in pixels of the whole one."""
    if found_in.shape == image.shape:
        return faces
    factor = np.array(image.shape[1::-1], np.float32) / found_in.shape[1::-1]

    def back(points: Floats) -> Floats:
        return np.asarray((points + 0.5) * factor - 0.5, np.float32)

    return [
        Face(back(face.box.reshape(2, 2)).reshape(4), face.score, back(face.points))
        for face in faces
    ]
