"""The motion field: for every pixel of a target face, the pixel of the portrait that belongs there.

Two meshes of the same topology, one of the portrait and one of the target face, give an affine
map for each triangle. Rasterised far first into a grid over the target they make a dense field
that carries the target's pose and expression, as the "keypoints plus dense deformation" stage of
first-order-motion models does (Siarohin et al., 2019), driven by 468 points. The ratio of areas
says where the portrait never showed what the target shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry
from mien.landmarks import INNER_LIPS, LEFT_EYE, OVAL, RIGHT_EYE, five_points, roll
from mien.types import Floats, Image, Rect

GRID: Final = 128
"""Cells along the longer side of a region; the field is smooth enough to be enlarged from there."""

SKIRT: Final = 1.22
"""How far the mesh is continued beyond the face's contour, as a factor from its centre."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Triangles over 468 surface vertices and 36 more of a skirt around the contour.

    Attributes:
        triangles: ``(T, 3)`` int32; the surface first, then what fills eyes and mouth, then skirt.
        surface: Number of triangles of the surface.
        filled: Number of triangles of surface, eyes and mouth together.
    """

    triangles: NDArray[np.int32]
    surface: int
    filled: int


@dataclass(frozen=True, slots=True)
class MotionField:
    """Where in the portrait each cell of a grid over the target comes from.

    Attributes:
        region: What the grid covers, in pixels of the frame.
        lookup: ``(h, w, 2)`` float32 x and y in pixels of the portrait.
        inside: ``(h, w)`` uint8, 255 where the face is, eyes and mouth included.
        visible: ``(h, w)`` float32, 1 where the portrait shows the surface at least as large as
            the target does, falling to 0 where it is hidden in the portrait.
        stretch: ``(h, w)`` float32 -0.5..2, area of the surface in the portrait over that in the
            target, in parts of the face's typical ratio; negative where it is hidden.
    """

    region: Rect
    lookup: Floats
    inside: Image
    visible: Floats
    stretch: Floats

    @property
    def scale(self) -> tuple[float, float]:
        """Cells per pixel of the frame along x and y."""
        h, w = self.inside.shape
        return w / (self.region.x1 - self.region.x0), h / (self.region.y1 - self.region.y0)

    def to_grid(self, points: Floats) -> Floats:
        """Points of the frame, ``(..., 2+)``, in cells."""
        h, w = self.inside.shape
        return _cells(points, self.region, w, h)


@cache
def topology() -> Topology:
    """The mesh's triangles, wound alike, with eyes and mouth filled and a skirt added."""
    with resources.files("mien.models").joinpath("tessellation.npy").open("rb") as file:
        surface = np.load(file).astype(np.int32)
    # The right eye's ring runs the other way around than the other two.
    rings = (_reversed(LEFT_EYE), RIGHT_EYE, _reversed(INNER_LIPS))
    holes = [_strip(ring) for ring in rings]
    n = len(OVAL)
    i = np.arange(n)
    inner, outer = np.array(OVAL), 468 + i
    nxt = (i + 1) % n
    skirt = np.concatenate(
        [np.c_[inner, inner[nxt], outer], np.c_[inner[nxt], outer[nxt], outer]]
    ).astype(np.int32)
    filled = np.concatenate([surface, *holes])
    return Topology(np.concatenate([filled, skirt]), len(surface), len(filled))


@cache
def mirror() -> NDArray[np.int64]:
    """``(468,)``: the vertex on the other side of the face for each vertex."""
    with resources.files("mien.models").joinpath("mirror.npy").open("rb") as file:
        return np.asarray(np.load(file), np.int64)


def extended(mesh: Floats, skirt: float = SKIRT) -> Floats:
    """A mesh's 468 surface points and 36 of the skirt, ``(504, 3)``."""
    surface = mesh[:468]
    oval = surface[list(OVAL)]
    centre = surface[[33, 263, 1, 61, 291]].mean(0)
    ring = centre + (oval - centre) * np.float32(skirt)
    ring[:, 2] = oval[:, 2] + (oval[:, 2].max() - oval[:, 2].min()) * 0.1
    return np.concatenate([surface, ring]).astype(np.float32)


def region_of(mesh: Floats, width: int, height: int) -> Rect:
    """The part of the frame that a swap of this face may touch; empty if out of view."""
    x0, y0, x1, y1 = geometry.bounds(extended(mesh, 1.08))
    return Rect(
        max(0, int(np.floor(x0))),
        max(0, int(np.floor(y0))),
        min(width, int(np.ceil(x1)) + 1),
        min(height, int(np.ceil(y1)) + 1),
    )


CROP: Final = 128
"""Side in pixels of the aligned crop that networks look at."""


def aligned(mesh: Floats, size: int = CROP) -> geometry.Matrix:
    """The map of the frame onto the crop that networks see: upright by the eyes, face and rim.

    Args:
        mesh: ``(468+, 3)`` in pixels of the frame.
        size: Side of the crop in pixels; it covers 1.3 times the larger side of the face.
    """
    angle = roll(five_points(mesh))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]], np.float32)
    turned = mesh[:468, :2] @ turn
    low, high = turned.min(0), turned.max(0)
    side = max(1.3 * float((high - low).max()), 4.0)
    return geometry.square_crop(turn @ ((low + high) / 2), side, angle, size)


@dataclass(frozen=True, slots=True)
class Cover:
    """Which triangle of a target face each cell of a grid lies in; no portrait is in it yet.

    Attributes:
        region: What the grid covers, in pixels of the frame.
        mesh: ``(504, 3)`` :func:`extended` mesh in cells.
        hit: ``(h, w)`` int, index into the triangles; -1 where there is none.
        area: ``(T,)`` twice the signed area of each triangle in cells².
    """

    region: Rect
    mesh: Floats
    hit: NDArray[np.integer]
    area: Floats


def cover(target: Floats, region: Rect, *, grid: int = GRID) -> Cover:
    """Rasterise a target's mesh, far triangles first.

    Args:
        target: ``(468+, 3)`` mesh in pixels of the frame.
        region: Not empty, in pixels of the frame.
        grid: Cells along the region's longer side.
    """
    width, height = region.x1 - region.x0, region.y1 - region.y0
    shrink = min(1.0, grid / max(width, height))
    w, h = max(1, round(width * shrink)), max(1, round(height * shrink))
    mesh = _cells(extended(target), region, w, h)
    topo = topology()
    area = geometry.signed_areas(mesh, topo.triangles)
    depth = mesh[:, 2].take(topo.triangles.T).mean(0)
    depth[topo.filled :] += 1e4  # the skirt is behind everything
    # The surface's winding as most of the face has it; what is turned away is not drawn.
    front = area * np.sign(area[: topo.surface].sum()) > 0
    front[topo.surface :] = True
    drawn = np.flatnonzero(front)
    hit = geometry.rasterise(mesh, topo.triangles[drawn], depth[drawn], w, h)
    # The last entry stands for the index -1.
    return Cover(region, mesh, np.append(drawn, -1)[hit], area)


def through(cover: Cover, portrait: Floats) -> MotionField:
    """The motion field from a covered target to a portrait.

    Args:
        cover: Of the target.
        portrait: ``(504, 3)`` :func:`extended` mesh in pixels of the portrait.

    Returns:
        The field. Cells that no triangle covers take the nearest-fitting affine map.
    """
    topo = topology()
    fit = geometry.affine(cover.mesh[:468, :2], portrait[:468, :2])
    maps = geometry.triangle_maps(cover.mesh, portrait, topo.triangles)
    lookup = _mapped(maps, fit, cover.hit)
    # The last entry of each table stands for the index -1.
    face = np.zeros(len(topo.triangles) + 1, np.uint8)
    face[: topo.filled] = 255
    inside = face[cover.hit]
    ratio = _stretch(cover.area, geometry.signed_areas(portrait, topo.triangles), topo)
    shown = np.append(ratio, np.float32(1))[cover.hit]
    stretch = np.asarray(cv2.GaussianBlur(shown, (0, 0), 1.5), np.float32)
    # Stretched more than fourfold counts as hidden, less than twofold as seen.
    visible = np.clip((stretch - np.float32(0.25)) * np.float32(4), 0, 1)
    return MotionField(cover.region, lookup, inside, visible, stretch)


def _mapped(
    maps: Floats,
    elsewhere: geometry.Matrix,
    hit: NDArray[np.integer],
    step: float = 1.0,
    start: float = 0.0,
) -> Floats:
    """Where each cell goes by the map of the triangle it lies in, ``(h, w, 2)`` float32.

    Args:
        maps: ``(T, 2, 3)``.
        elsewhere: ``(2, 3)`` for cells that no triangle covers.
        hit: ``(h, w)`` index of the triangle; -1 where there is none.
        step: Between cells, in what the maps take.
        start: Place of the first cell, likewise.
    """
    h, w = hit.shape
    table = np.append(maps, elsewhere[None], 0).astype(np.float32)
    # x and y as one complex number: half the work of two.
    a, b, c = np.ascontiguousarray(table.transpose(2, 0, 1)).view(np.complex64)[..., 0]
    which = np.where(hit < 0, len(maps), hit).astype(np.intp)
    x = np.arange(w, dtype=np.float32) * np.float32(step) + np.float32(start)
    y = np.arange(h, dtype=np.float32)[:, None] * np.float32(step) + np.float32(start)
    out = a.take(which)
    out *= x
    part = b.take(which)
    part *= y
    out += part
    out += c.take(which)
    return np.asarray(out.view(np.float32).reshape(h, w, 2), np.float32)


def mirrored(cover: Cover) -> Floats:
    """Where the other half of the face has the same place, on a grid half as fine.

    Returns:
        ``(h / 2, w / 2, 2)`` float32 x and y in cells of that grid; what is off the face stays.
    """
    other = extended(cover.mesh[mirror()])
    maps = geometry.triangle_maps(cover.mesh, other, topology().triangles)
    # Cell x of the half grid has its middle at 2x + 0.5 of the whole one.
    whole = _mapped(maps, np.eye(2, 3), cover.hit[::2, ::2], 2.0, 0.5)
    return (whole - np.float32(0.5)) * np.float32(0.5)


def field(target: Floats, portrait: Floats, region: Rect, *, grid: int = GRID) -> MotionField:
    """The motion field of one face: :func:`cover`, then :func:`through`."""
    return through(cover(target, region, grid=grid), portrait)


def _cells(points: Floats, region: Rect, w: int, h: int) -> Floats:
    """Points of the frame, ``(..., 2+)``, in cells of a grid of w × h over the region."""
    sx, sy = w / (region.x1 - region.x0), h / (region.y1 - region.y0)
    out = np.array(points, np.float32)
    out[..., 0] = (out[..., 0] - region.x0 + 0.5) * sx - 0.5
    out[..., 1] = (out[..., 1] - region.y0 + 0.5) * sy - 0.5
    return out


def _stretch(target: Floats, portrait: Floats, topo: Topology) -> Floats:
    """``(T,)`` ratio of areas portrait/target over its typical value, cut to -0.5..2.

    Below 1 the portrait is stretched, above it squeezed; what is turned away in it is negative.
    """
    s = slice(0, topo.surface)
    sign = np.sign(portrait[s].sum()) * np.sign(target[s].sum())
    ratio = sign * portrait / np.where(np.abs(target) > 1e-3, target, np.inf)
    typical = max(float(np.median(np.abs(ratio[s]))), 1e-6)
    out: Floats = np.clip(ratio / typical, -0.5, 2.0).astype(np.float32)
    out[topo.surface :] = 1.0
    return out


def _reversed(ring: tuple[int, ...]) -> tuple[int, ...]:
    """The ring from the same corner the other way around."""
    return ring[:1] + ring[:0:-1]


def _strip(ring: tuple[int, ...]) -> NDArray[np.int32]:
    """Triangles between the two halves of a closed ring of even length that starts in a corner."""
    n = len(ring)
    out = [(ring[0], ring[1], ring[-1])]
    for i in range(1, n // 2):
        out.append((ring[i], ring[i + 1], ring[-i]))
        out.append((ring[-i], ring[i + 1], ring[-i - 1]))
    return np.array(out[:-1], np.int32)  # the last has two corners alike
