"""Masks: the face's soft contour, eyes and mouth, and where the face's own skin is seen."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from mien import geometry
from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE, eye_opening, yaw
from mien.motion import MotionField
from mien.types import Floats, Image

# Vertices on bare skin: cheeks, bridge and sides of the nose, between the brows, chin.
SKIN: Final = (
    50, 280, 101, 330, 205, 425, 117, 346, 118, 347, 36, 266, 123, 352, 187, 411, 207, 427,
    6, 197, 195, 5, 4, 45, 275, 220, 440, 9, 8, 151, 108, 337, 69, 299, 199, 200, 18, 175,
)  # fmt: skip

BROW_LINE: Final = (127, 156, 70, 63, 105, 66, 107, 9, 336, 296, 334, 293, 300, 383, 356)
"""Upper edge of the brows, from temple to temple."""


def contour(field: MotionField, mesh: Floats) -> Floats:
    """Soft mask that follows the face's outline, ``(h, w)`` float32 0..1.

    It rises from the outline inward: over a wide band at the hairline, where the border between
    skin and hair is anybody's, and over a narrow one at jaw and chin, which are edges of the
    picture.

    Args:
        field: Motion field of the face.
        mesh: ``(468+, 3)`` in pixels of the frame.
    """
    h, w = field.inside.shape
    # Nothing lies beyond the grid for the transform: where the frame's border cuts the face, the
    # mask does not fade.
    distance = cv2.distanceTransform(field.inside, cv2.DIST_L2, 3)
    top, brow, chin = field.to_grid(mesh[[10, 9, 152], :2])
    axis = chin - top
    length = max(float(np.hypot(*axis)), 1.0)
    axis /= length
    xs, ys = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    along = (xs - top[0]) * (axis[0] / length) + (ys - top[1]) * (axis[1] / length)
    brow_at = float((brow - top) @ axis) / length
    wide, narrow = 0.13 * length, 0.055 * length
    band = narrow + (wide - narrow) * np.clip(1 - along / max(brow_at, 0.05), 0, 1)
    ramp = np.clip(distance / np.maximum(band, 1.0), 0, 1).astype(np.float32)
    return _smoothstep(ramp)


def openings(field: MotionField, mesh: Floats, *, eyes: bool = True) -> Floats:
    """What stays the target's: mouth interior and, if asked for, eyes; float32 0..1.

    Drawn four times finer than the grid, since an eye is only a few cells high.
    """
    h, w = field.inside.shape
    fine = 4
    canvas = np.zeros((h * fine, w * fine), np.uint8)
    rings = [INNER_LIPS, LEFT_EYE, RIGHT_EYE] if eyes else [INNER_LIPS]
    for ring in rings:
        p = (field.to_grid(mesh[list(ring), :2]) + 0.5) * fine - 0.5
        cv2.fillPoly(canvas, [np.round(p * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    # Halved twice: a sixth of the time of a quarter at once.
    half = cv2.resize(canvas, (2 * w, 2 * h), interpolation=cv2.INTER_AREA)
    return _soft(np.asarray(cv2.resize(half, (w, h), interpolation=cv2.INTER_AREA), np.uint8), 0.7)


def forehead(field: MotionField, mesh: Floats) -> Floats:
    """Where the face has no features of its own, above the brows; ``(h, w)`` float32 0..1.

    What is no skin there is a fringe, a hat or a hand.
    """
    h, w = field.inside.shape
    brow = field.to_grid(mesh[list(BROW_LINE), :2])
    up = field.to_grid(mesh[10:11, :2]) - field.to_grid(mesh[9:10, :2])
    lift = up / max(float(np.hypot(*up[0])), 1e-3) * 0.03 * max(h, w)
    above = np.concatenate([brow + lift, (brow + 3 * up)[::-1]])
    canvas = np.zeros((h, w), np.uint8)
    cv2.fillPoly(canvas, [np.round(above * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return _soft(canvas, 1.5)


BROWS: Final = (
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
"""Outlines of the eyebrows."""


def features(mesh: Floats, side: int) -> Floats:
    """Brows, eyes and lips, whose colour is the person's and not the light's.

    Args:
        mesh: ``(468+, 3)`` in cells of a square grid.
        side: Of the grid.

    Returns:
        ``(side, side)`` float32 0..1.
    """
    canvas = np.zeros((side, side), np.uint8)
    for ring in (*BROWS, LEFT_EYE, RIGHT_EYE, OUTER_LIPS):
        hull = cv2.convexHull(np.round(mesh[list(ring), :2] * 16).astype(np.int32))
        cv2.fillPoly(canvas, [hull], 255, cv2.LINE_8, 4)
    return _soft(np.asarray(cv2.dilate(canvas, np.ones((5, 5), np.uint8)), np.uint8), 1.5)


LIDS: Final = (0.24, 0.24)
"""Opening of eyes, height over width, of somebody of whom nothing is known."""


def shut_eyes(mesh: Floats, side: int, usual: tuple[float, float] = LIDS) -> Floats:
    """Where lids are, as far as they are shut; ``(side, side)`` float32 0..1.

    Args:
        mesh: ``(468+, 3)`` in cells of a square grid, eyes level.
        side: Of the grid.
        usual: Opening of the left and the right eye when they are open. Narrow eyes are not shut,
            and of a small or blurred face the mesh never shuts the eyes quite.
    """
    out = np.zeros((side, side), np.float32)
    left, right = (o / u for o, u in zip(eye_opening(mesh), usual, strict=True))
    for ring, open_, other_open in ((LEFT_EYE, left, right), (RIGHT_EYE, right, left)):
        # Lids shut in pairs: with the other eye shut, one that seems half open is not. A wink is
        # told by an eye that is wide open.
        start = 0.8 + 0.17 * min(max((0.8 - other_open) / 0.2, 0.0), 1.0)
        x = min(max((start - open_) / 0.2, 0.0), 1.0)
        if x == 0:
            continue
        corner, other = mesh[ring[0], :2], mesh[ring[8], :2]
        middle, width = (corner + other) / 2, float(np.hypot(*(other - corner)))
        angle = float(np.degrees(np.arctan2(*(other - corner)[::-1])))
        eye = np.zeros((side, side), np.uint8)
        # From under the brow to the bag below: creases and shade of an open eye, left around a
        # shut one, make it look open.
        centre = (float(middle[0]), float(middle[1] - 0.08 * width))
        cv2.ellipse(eye, (centre, (1.5 * width, 0.8 * width), angle), 255, cv2.FILLED)
        soft = np.asarray(cv2.GaussianBlur(eye, (0, 0), 0.09 * width + 0.5), np.float32)
        out = np.maximum(out, soft * np.float32(x * x * (3 - 2 * x) / 255))
    return out


def facing(mesh: Floats) -> float:
    """How far a face is turned to the camera: 1 up to 44° of yaw, 0 from 52°.

    The mesh of a profile is a guess that stops at about 50°; what is painted by it sits wrong.
    """
    turn = (52 - abs(float(np.degrees(yaw(mesh))))) / 8
    x = min(max(turn, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def skin(image: Image, points: Floats) -> Floats:
    """How far each pixel looks like this face's own skin, ``(h, w)`` float32 0..1.

    Colour statistics (median and spread in Y'CrCb) are those of pixels at :data:`SKIN`, so no
    skin tone is assumed. Hair, spectacle frames, hands of another light and background fall off.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, small.
        points: ``(N, 2)`` positions of skin in it, x and y; those outside are ignored.
    """
    h, w = image.shape[:2]
    ycc = cv2.cvtColor(geometry.soften(image, 1.0), cv2.COLOR_RGB2YCrCb)
    xy = np.round(points).astype(int)
    xy = xy[(xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < w) & (xy[:, 1] < h)]
    if len(xy) < 8:
        return np.ones((h, w), np.float32)
    sample = ycc[xy[:, 1], xy[:, 0]].astype(np.float32)
    middle = _median(sample)
    spread = 1.4826 * _median(np.abs(sample - middle))
    spread = np.maximum(spread, [0.16 * middle[0] + 6, 4.0, 4.0]).astype(np.float32)
    levels = np.arange(256, dtype=np.float32)[:, None]
    d = (levels - middle.astype(np.float32)) / spread
    d[:, 0] = np.where(d[:, 0] > 0, d[:, 0] * 0.5, d[:, 0])  # highlights are still skin
    squares = np.ascontiguousarray((d * d)[None], np.float32)
    distance = np.sqrt(cv2.transform(cv2.LUT(ycc, squares), np.ones((1, 3), np.float32)))
    return np.asarray(np.clip(2.1 - 0.5 * distance, 0, 1), np.float32)


def _smoothstep(x: Floats) -> Floats:
    out: Floats = x * x * (3 - 2 * x)
    return out


def _soft(canvas: Image, sigma: float) -> Floats:
    """What is drawn, 0..255, with soft edges; 0..1. Floats are blurred in half the time."""
    drawn = canvas.astype(np.float32) * np.float32(1 / 255)
    return np.asarray(cv2.GaussianBlur(drawn, (0, 0), sigma), np.float32)


def _median(values: Floats) -> Floats:
    """``(C,)`` median of ``(N, C)``; a tenth of NumPy's time for as few."""
    ordered, n = np.sort(values, axis=0), len(values)
    return np.asarray((ordered[(n - 1) // 2] + ordered[n // 2]) / 2, np.float32)
