"""Shape: a share of the portrait's own proportions for the target's face, surroundings bent along.

Both meshes are turned to the front, where pose is gone, and compared there. Breadth is taken over
at every point, at the mouth in part, since a smile is the performer's. Height is taken over in a
few steps from hairline to chin that expression leaves nearly alone, and all between the lips moves
as one, so that an open mouth stays as open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry, motion
from mien.landmarks import INNER_LIPS, OUTER_LIPS, OVAL
from mien.types import Floats, Frame, Image, Patch, Rect

CELLS: Final = 48
"""Side of the grid that holds the bend."""

WIDE: Final = 1.25
"""Side of what may bend over that of the aligned crop."""

MOST: Final = 0.06
"""Bound of a bend in parts of the distance that the mesh is high."""


SPOKEN: Final = 0.37
"""Share of a difference in the mouth's breadth that is the person's; the rest is a smile or a word.

Breadth of the mouth in the unit of :func:`frontal` over 12,971 photos of 5,663 people: standard
deviation .056 between people and .074 between photos of one, .056² / (.056² + .074²).
"""

LIPS: Final = sorted({*INNER_LIPS, *OUTER_LIPS})

UNSEEN: Final = (0.4, 0.0025)
"""A shift that is not seen, in pixels and in parts of the height of the mesh, the larger.

Where no more would be bent the frame need not be painted, a third of the area. Shifts of up to
two and a half times as much are shortened, so that nothing breaks between.
"""


@dataclass(frozen=True, slots=True)
class Bend:
    """A smooth field of shifts around a face.

    Attributes:
        shift: ``(CELLS, CELLS, 2)`` float32 in pixels of the frame: where a pixel now is, less
            where it was.
        matrix: ``(2, 3)`` frame → cells.
    """

    shift: Floats
    matrix: geometry.Matrix

    def at(self, points: Floats) -> Floats:
        """``(N, 2)`` shift of places of the frame."""
        cells = geometry.transform(self.matrix, points[:, :2])
        found = cv2.remap(self.shift, cells[:, :1], cells[:, 1:], cv2.INTER_LINEAR)
        return np.asarray(found[:, 0], np.float32)

    def moved(self, mesh: Floats) -> Floats:
        """A mesh of the frame, ``(N, 3)``, after the bend."""
        out = np.array(mesh, np.float32)
        out[:, :2] += self.at(mesh)
        return out


def frontal(mesh: Floats) -> Floats:
    """A mesh turned to the front, made symmetric, in parts of its own size; ``(468, 2)``.

    Breadth and height are each in parts of the mean distance between points of the upper face,
    which expression moves least. A mesh's depth is a guess; what is wrong with it turns the head
    a little, and the mean with the mirrored mesh takes that out again.
    """
    p = np.asarray(mesh[:468], np.float64)
    x = p[[263, 362]].mean(0) - p[[33, 133]].mean(0)
    x /= max(float(np.linalg.norm(x)), 1e-6)
    down = p[152] - p[10]
    down -= (down @ x) * x
    down /= max(float(np.linalg.norm(down)), 1e-6)
    q = np.stack([p @ x, p @ down], 1)
    q -= q[[33, 133, 263, 362]].mean(0)
    other = q[motion.mirror()] * (-1, 1)
    q = (q + other) / 2
    size = np.linalg.norm(q[list(STATIC)], axis=1).mean()
    return np.asarray(q / size, np.float32)


STATIC: Final = (
    33, 133, 263, 362, 168, 6, 197, 195, 5, 4, 1, 98, 327, 127, 356, 234, 454, 117, 346, 50, 280,
    8, 9, 151, 10, 54, 284, 21, 251,
)  # fmt: skip
"""Points of eyes, nose, temples, cheekbones and forehead."""


def bend(mesh: Floats, own: Floats, portrait: Floats, share: float) -> Bend:
    """The field that gives a face a share of a portrait's breadth.

    Args:
        mesh: ``(468+, 3)`` of the target in pixels of the frame.
        own: Of the target, from :func:`frontal`; of this frame, or a mean over several.
        portrait: Of the portrait, from :func:`frontal`.
        share: 0..1.
    """
    p = np.asarray(mesh[:468], np.float64)
    axis = p[[263, 362]].mean(0) - p[[33, 133]].mean(0)
    axis /= max(float(np.linalg.norm(axis)), 1e-6)
    q = p - p[[33, 133, 263, 362]].mean(0)
    down = p[152] - p[10]
    down -= (down @ axis) * axis
    down /= max(float(np.linalg.norm(down)), 1e-6)
    flat = np.stack([q @ axis, q @ down], 1)
    size = float(np.linalg.norm(flat[list(STATIC)], axis=1).mean())
    height = float(np.linalg.norm(p[152] - p[10]))
    most = MOST * height
    broader = (portrait[:, 0] - own[:, 0]) * (1 - (1 - SPOKEN) * _mouth(own))
    wide = np.clip(broader * (share * size), -most, most)
    steps, taller = _heights(own, portrait)
    tall = np.clip(np.interp(own[:, 1], steps, taller) * (share * size), -most, most)
    shift = wide[:, None] * axis[:2] + tall[:, None] * down[:2]

    matrix = motion.aligned(mesh, CELLS)
    matrix = matrix / WIDE
    matrix[:, 2] += (CELLS - 1) / 2 * (1 - 1 / WIDE)
    new = geometry.transform(matrix, p[:, :2] + shift)
    held = np.zeros((CELLS, CELLS, 3), np.float32)
    xy = np.clip(np.round(new).astype(int), 0, CELLS - 1)
    np.add.at(held, (xy[:, 1], xy[:, 0]), np.c_[shift, np.ones(468)].astype(np.float32))
    held = np.asarray(cv2.GaussianBlur(held, (0, 0), 1.6)) + 1e-4 * np.asarray(
        cv2.GaussianBlur(held, (0, 0), 6.0)
    )
    field = held[..., :2] / (held[..., 2:] + 1e-9)
    # It fades from the outline to the rim of the grid.
    face = np.zeros((CELLS, CELLS), np.uint8)
    cv2.fillPoly(face, [np.round(new[list(OVAL)] * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    off = cv2.distanceTransform(255 - face, cv2.DIST_L2, 5)
    grid = np.arange(CELLS, dtype=np.float32)
    edge = np.minimum(grid, CELLS - 1 - grid)
    room = np.minimum(edge[:, None], edge[None])
    fade = np.clip(room / np.maximum(room + off, 1e-3), 0, 1)
    field *= (fade * fade * (3 - 2 * fade))[..., None]
    length = np.linalg.norm(field, axis=2, keepdims=True)
    unseen = max(UNSEEN[0], UNSEEN[1] * height)
    grown = np.clip((length / unseen - 1) / 1.5, 0, 1)
    field *= grown * grown * (3 - 2 * grown)
    return Bend(field.astype(np.float32), matrix)


def _mouth(own: Floats) -> Floats:
    """``(468,)`` how near to the lips a point is: 1 on them, 0 from as far as they are broad."""
    lips = own[LIPS]
    low, high = lips.min(0), lips.max(0)
    away = (own - (low + high) / 2) / np.maximum((high - low) / 2, 1e-3)
    return np.asarray(np.clip(2 - np.hypot(away[:, 0], away[:, 1]), 0, 1), np.float32)


def _heights(own: Floats, portrait: Floats) -> tuple[Floats, Floats]:
    """Heights of a face at which it is known how much lower the portrait's are, and how much."""
    less = portrait[:, 1] - own[:, 1]
    upper, lower = less[0], portrait[152, 1] - portrait[17, 1] - (own[152, 1] - own[17, 1])
    steps = own[[10, 33, 4, 0, 17, 152], 1]
    return np.maximum.accumulate(steps), np.array(
        [less[10], 0.0, less[4], upper, upper, upper + lower], np.float32
    )


def reach(bend: Bend, width: int, height: int) -> Rect | None:
    """The part of a frame that a bend moves; None where there is none."""
    far = _far(bend)
    if not far.any():
        return None
    ys, xs = np.nonzero(far)
    cells = np.array([[xs.min() - 1, ys.min() - 1], [xs.max() + 1, ys.min() - 1],
                      [xs.min() - 1, ys.max() + 1], [xs.max() + 1, ys.max() + 1]])  # fmt: skip
    x0, y0, x1, y1 = geometry.bounds(geometry.transform(geometry.invert(bend.matrix), cells))
    region = Rect(max(0, int(x0)), max(0, int(y0)), min(width, int(x1) + 2),
                  min(height, int(y1) + 2))  # fmt: skip
    return None if region.empty else region


def surroundings(frame: Frame, bend: Bend, region: Rect) -> Patch:
    """The frame around a face after the bend, as a patch.

    Args:
        frame: Read only.
        bend: Of the face.
        region: Of :func:`reach`.
    """
    size = (region.x1 - region.x0, region.y1 - region.y0)
    onto = geometry.invert(bend.matrix)
    onto[:, 2] -= (region.x0, region.y0)
    lookup = geometry.Enlarged(-bend.shift, onto, size, np.eye(2, 3))
    scene = frame.image[region.slices()]
    image, done = np.empty_like(scene), 0
    for rect in geometry.blocks(_far(bend), onto, size):
        rows = slice(rect.y0, rect.y1)
        image[done : rect.y0] = scene[done : rect.y0]
        image[rows, : rect.x0] = scene[rows, : rect.x0]
        image[rows, rect.x1 :] = scene[rows, rect.x1 :]
        geometry.sample(scene, lookup.block(rect), image[rect.slices()])
        done = rect.y1
    image[done:] = scene[done:]
    full = np.full(image.shape[:2], 255, np.uint8)
    matrix = np.array([[1.0, 0.0, -region.x0], [0.0, 1.0, -region.y0]])
    return Patch(np.asarray(image, np.uint8), full, matrix, surround=True)


def _far(bend: Bend) -> NDArray[np.bool_]:
    """Cells that move."""
    return np.asarray(bend.shift.any(2))


def bent(crop: Image, bend: Bend, aligned: geometry.Matrix) -> Image:
    """An aligned crop of the frame, ``(S, S, 3)`` uint8, after the bend."""
    side = crop.shape[0]
    back = geometry.invert(aligned)  # crop → frame
    cells = geometry.compose(bend.matrix, back)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shift = cv2.warpAffine(bend.shift, cells, (side, side), flags=flags)
    turned = cv2.transform(shift, aligned[:, :2])
    lookup = cv2.subtract(geometry.places(np.eye(2, 3), side, side), turned)
    return geometry.sample(crop, np.asarray(lookup, np.float32))
