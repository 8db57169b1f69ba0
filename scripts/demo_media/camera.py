"""A camera, a painter of triangles and a painter of hairs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.types import Floats, Image

DISTANCE = 16.0
"""Of the camera from the origin along z, decimetres."""


@dataclass(frozen=True)
class View:
    """A picture of the scene.

    Attributes:
        width: Pixels.
        height: Pixels.
        scale: Pixels for a decimetre at z = 1, about the depth of a face.
        middle: y of the scene in the middle of the picture.
        right: Pixels that the scene is moved to the right.
        down: Pixels that the scene is moved down.
    """

    width: int
    height: int
    scale: float
    middle: float
    right: float = 0
    down: float = 0

    @property
    def focal(self) -> float:
        return self.scale * (DISTANCE - 1)

    def times(self, factor: int) -> View:
        """The same picture with more pixels."""
        size = self.width * factor, self.height * factor
        moved = self.right * factor, self.down * factor
        return View(*size, self.scale * factor, self.middle, *moved)

    def __call__(self, points: Floats) -> Floats:
        """``(..., 3)`` of the scene → x, y in pixels and the distance."""
        away = DISTANCE - points[..., 2]
        x = self.width / 2 + self.right + self.focal * points[..., 0] / away
        y = self.height / 2 + self.down - self.focal * (points[..., 1] - self.middle) / away
        return np.stack([x, y, away], -1)


@dataclass(frozen=True)
class Drawn:
    """What is seen at each covered pixel.

    Attributes:
        rows: ``(P,)``.
        columns: ``(P,)``.
        corners: ``(P, 3)`` vertices of the triangle.
        weights: ``(P, 3)`` of the corners, with perspective.
        kind: ``(P,)`` of the triangle.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    corners: NDArray[np.int64]
    weights: Floats
    kind: NDArray[np.int64]

    def carry(self, values: Floats) -> Floats:
        """Values of the vertices, ``(V, D)``, at the pixels, ``(P, D)``."""
        return np.einsum("pj,pjd->pd", self.weights, values[self.corners])


def paint(flat: Floats, triangles: NDArray[np.int64], width: int, height: int) -> NDArray[np.int32]:
    """Which triangle is in front, ``(height, width)``, -1 for none; those that face away are left.

    The far ones are painted first: right for one skin, wrong where different things meet.
    """
    p = flat[triangles]
    d1, d2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    shown = (d1[:, 0] * d2[:, 1] - d2[:, 0] * d1[:, 1]) < 0
    for axis, size in ((0, width), (1, height)):
        shown &= (p[..., axis].max(1) >= 0) & (p[..., axis].min(1) < size)
    order = np.flatnonzero(shown)
    order = order[np.argsort(-p[order, :, 2].mean(1), kind="stable")]
    out = np.full((height, width), -1, np.int32)
    fixed = np.round(p[..., :2] * 256).astype(np.int32)
    for i in order.tolist():
        cv2.fillConvexPoly(out, fixed[i], i, cv2.LINE_4, 8)
    return out


def resolve(
    flat: Floats, triangles: NDArray[np.int64], kind: NDArray[np.int64], which: NDArray[np.int32]
) -> Drawn:
    """Weights of the corners at every pixel that ``which`` covers."""
    rows, columns = np.nonzero(which >= 0)
    seen, which_seen = np.unique(which[rows, columns], return_inverse=True)
    corners = flat[triangles[seen]]
    system = np.concatenate([corners[..., :2], np.ones((len(seen), 3, 1))], 2)
    system[np.abs(np.linalg.det(system)) < 1e-9] = np.eye(3)
    place = np.c_[columns, rows, np.ones(len(rows))]
    weights = np.einsum("pi,pij->pj", place, np.linalg.inv(system)[which_seen])
    weights = np.clip(weights, 0, 1) / corners[which_seen, :, 2]
    weights /= weights.sum(1, keepdims=True)
    index = seen[which_seen]
    return Drawn(rows, columns, triangles[index], weights, kind[index])


def draw(
    view: View, points: Floats, triangles: NDArray[np.int64], kind: NDArray[np.int64]
) -> Drawn:
    """Draw a scene; kind 0 and the rest are painted apart and compared pixel by pixel."""
    flat = view(points)
    layers = [np.flatnonzero(kind == 0), np.flatnonzero(kind != 0)]
    out = np.full((view.height, view.width), -1, np.int32)
    nearest = np.full((view.height, view.width), np.inf)
    for layer in layers:
        if not len(layer):
            continue
        which = paint(flat, triangles[layer], view.width, view.height)
        drawn = resolve(flat, triangles[layer], kind[layer], which)
        depth = drawn.carry(flat)[:, 2]
        front = depth < nearest[drawn.rows, drawn.columns]
        at = drawn.rows[front], drawn.columns[front]
        nearest[at] = depth[front]
        out[at] = layer[which[at]]
    return resolve(flat, triangles, kind, out)


def draw_hairs(
    image: Image, depth: Floats, view: View, hairs: Floats, colour: Floats, slack: float
) -> None:
    """Paint ``(S, K, 3)`` hairs with ``(S, K - 1, 3)`` colours where nothing hides them.

    Args:
        image: Written.
        depth: ``(H, W)`` distance of what is there already.
        view: The same as the image's.
        hairs: In the scene.
        colour: RGB 0..255.
        slack: How far a hair may lie behind the surface and still be seen, decimetres.
    """
    flat = view(hairs)
    middle = (flat[:, 1:] + flat[:, :-1]) / 2
    height, width = depth.shape
    x, y = (np.round(middle[..., i]).astype(int) for i in (0, 1))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    behind = depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] + slack
    hair, part = np.nonzero(inside & (middle[..., 2] < behind))
    order = np.argsort(-middle[hair, part, 2])
    hair, part = hair[order], part[order]
    ends = np.round(flat[..., :2] * 16).astype(int)
    starts, stops = ends[hair, part].tolist(), ends[hair, part + 1].tolist()
    for a, b, c in zip(starts, stops, colour[hair, part].tolist(), strict=True):
        cv2.line(image, a, b, c, 1, cv2.LINE_AA, 4)
