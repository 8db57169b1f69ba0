"""Where two eyes look and how far they are open."""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.landmarks import LEFT_EYE, RIGHT_EYE
from mien.types import Floats, Image

RINGS: Final = (np.array(LEFT_EYE), np.array(RIGHT_EYE))

IRISES: Final = (468, 473)
"""Vertex in the middle of the left and right iris; the four on its rim follow."""

SHUT: Final = (0.07, 0.15)
"""Height over width of an eye at which nothing and all of it is painted."""


class Sight(NamedTuple):
    """Where two eyes look.

    Attributes:
        centres: ``(2, 2)`` float64, middle of the left and right iris in pixels.
        radius: Of an iris seen from the front, as the mesh has it, in pixels.
        distance: Between the eyes, in pixels, depth counted.
        gaze: ``(2, 2)`` float64, x and y of each eye's direction of sight, length below 1.
        open: ``(2,)`` float64 0..1, how far each eye is open.
        shown: ``(2,)`` float64 0..1, how far each eye is open and turned to the camera.
        angle: Of the line between the eyes, radians, clockwise.
    """

    centres: NDArray[np.float64]
    radius: float
    distance: float
    gaze: NDArray[np.float64]
    open: NDArray[np.float64]
    shown: NDArray[np.float64]
    angle: float


def sight(mesh: Floats) -> Sight:
    """Where the eyes of a mesh look, steadied: both look nearly the same way.

    The centre of each eyeball is taken 6 mm behind the middle of its corners and the iris 10 mm
    before that centre (distance between the eyes 63 mm), which turns the place of an iris into a
    direction. The two directions' difference is noise for the most part and is reduced.

    Args:
        mesh: ``(478, 3)`` in pixels.
    """
    p = np.asarray(mesh, np.float64)
    corners = p[[33, 133, 362, 263]].reshape(2, 2, 3)
    middle = corners.mean(1)
    across = middle[1] - middle[0]
    distance = max(float(np.sqrt(across @ across)), 1e-3)
    x = across / distance
    down = p[152] - p[10]
    down = down - (down @ x) * x
    down /= max(float(np.sqrt(down @ down)), 1e-3)
    inward = np.array([x[1] * down[2] - x[2] * down[1], x[2] * down[0] - x[0] * down[2]])
    mm = distance / 63
    balls = middle[:, :2] + 6 * mm * inward
    gaze = (p[list(IRISES), :2] - balls) / (10 * mm)

    wide = corners[:, 1, :2] - corners[:, 0, :2]
    width = np.sqrt((wide * wide).sum(1)) + 1e-3
    tall = p[[159, 386], :2] - p[[145, 374], :2]
    opening = np.sqrt((tall * tall).sum(1)) / width
    open_ = smooth((opening - SHUT[0]) / (SHUT[1] - SHUT[0])).astype(np.float64)
    # An eye is about 0.45 of the distance wide; half of that is left where the nose begins to
    # hide it and its mesh is a guess.
    shown = open_ * smooth((width / distance - 0.17) / 0.1)

    trust = shown * width + 1e-3
    mean = (gaze * trust[:, None]).sum(0) / trust.sum()
    # In the head's own axes: eyes converge, but neither looks up alone.
    c, s = np.cos(angle := float(np.arctan2(across[1], across[0]))), np.sin(angle)
    turn = np.array([[c, s], [-s, c]], np.float64)
    apart = ((gaze - mean) @ turn.T * (0.5, 0.2)) @ turn
    gaze = mean + apart
    length = np.sqrt((gaze * gaze).sum(1, keepdims=True))
    gaze = gaze * (np.minimum(length, 0.75) / np.maximum(length, 1e-6))

    rims = p[[469, 470, 471, 472, 474, 475, 476, 477], :2].reshape(2, 4, 2)
    rim = rims - p[list(IRISES), None, :2]
    radius = float(np.sqrt((rim * rim).sum(2)).mean())
    return Sight(balls + 10 * mm * gaze, radius, distance, gaze, open_, shown, angle)


def fill(points: Floats, width: int, height: int) -> Image:
    """Cover of a polygon, ``(height, width)`` uint8, with smooth edges."""
    fine = 2
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    p = (np.asarray(points, np.float64) + 0.5) * fine - 0.5
    cv2.fillPoly(canvas, [np.round(p * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def smooth(x: ArrayLike) -> Floats:
    """Smooth step from 0 at 0 to 1 at 1."""
    t = np.clip(np.asarray(x, np.float32), 0, 1)
    out: Floats = t * t * (3 - 2 * t)
    return out
