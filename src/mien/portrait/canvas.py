"""The layout on which photos of a face from several sides come together."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from mien import motion
from mien.landmarks import yaw
from mien.portrait.grids import CELLS, FRONTAL, sample
from mien.portrait.photo import Photo
from mien.types import Floats, Image, Rect


class View(NamedTuple):
    """One photo, or its mirror image, as seen on the canvas; all on the canvas' region.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        near: ``(h, w)`` float32 0..1 on the grid: the person's own face, seen or nearly so.
        shown: The same, where it is seen well.
        skin: ``(h, w)`` float32 0..1: looks like skin.
        detail: ``(h, w)`` float32: the share of the canvas' resolution that the photo has; little
            where it was very dark.
        worth: Factor on both when views compete; what :attr:`Restored.trust` says.
        mirrored: Whether left and right were exchanged.
    """

    image: Image
    near: Floats
    shown: Floats
    skin: Floats
    detail: Floats
    worth: float
    mirrored: bool


def canvas(mesh: Floats, turned: float) -> tuple[Floats, int]:
    """A layout of the face from the front on which both sides have room.

    The mesh is turned to the front by its own depth, made symmetric, and unrolled around a
    vertical axis by as much as the photos look at the sides.

    Args:
        mesh: ``(468+, 3)`` of the first photo.
        turned: Largest yaw among the photos in radians.

    Returns:
        ``(468, 3)`` mesh in pixels of the canvas, at the photo's scale, and the canvas' side.
    """
    angle = yaw(mesh)
    c, s = np.cos(angle), np.sin(angle)
    p = mesh[:468].astype(np.float64)
    p = p - (p[234] + p[454]) / 2
    p = np.stack([c * p[:, 0] + s * p[:, 2], p[:, 1], -s * p[:, 0] + c * p[:, 2]], axis=1)
    p = (p + p[motion.mirror()] * (-1, 1, 1)) / 2
    radius = float(np.abs(p[[234, 454], 0]).max())
    depth = np.maximum(radius * 0.15 - p[:, 2], 0.1 * radius)
    rolled = radius * np.arctan2(p[:, 0], depth)
    share = float(np.clip((turned - FRONTAL) / np.radians(30), 0, 1))
    p[:, 0] += share * (rolled - p[:, 0])
    low, high = p[:, :2].min(0), p[:, :2].max(0)
    side = int(np.clip(np.ceil(1.7 * float((high - low).max())), 192, 1024))
    scale = min(1.0, side / (1.7 * float((high - low).max())))
    p *= scale
    p[:, :2] += (side - 1) / 2 - scale * (low + high) / 2
    return p.astype(np.float32), side


def view_of(photo: Photo, mesh: Floats, region: Rect, worth: float, *, mirrored: bool) -> View:
    """A photo on the canvas' region."""
    source = photo.mesh[motion.mirror()] if mirrored else photo.mesh
    flow = motion.field(mesh, motion.extended(source), region, grid=CELLS)
    size = (region.x1 - region.x0, region.y1 - region.y0)
    if not mirrored and np.array_equal(photo.mesh[:468], mesh):
        image = photo.image[region.slices()]
    else:
        image = sample(photo.image, flow.lookup, size)
    # The photo's own grid covers its region.
    gh, gw = photo.maps.shape[:2]
    r = photo.region
    x = (flow.lookup[..., 0] - r.x0 + 0.5) * (gw / (r.x1 - r.x0)) - 0.5
    y = (flow.lookup[..., 1] - r.y0 + 0.5) * (gh / (r.y1 - r.y0)) - 0.5
    maps = cv2.remap(photo.maps, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    bare, skin, shade = np.moveaxis(np.asarray(maps, np.float32), 2, 0)
    dy, dx = np.gradient(flow.lookup, axis=0), np.gradient(flow.lookup, axis=1)
    area = np.abs(dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0])
    area = area * flow.scale[0] * flow.scale[1]
    detail = cv2.GaussianBlur(np.clip(area, 0, 1.2), (0, 0), 4.0)
    # A mesh is off by a cell or two: beside what is hidden it shows what is behind the face.
    seen = cv2.erode(flow.visible, np.ones((7, 7), np.uint8))
    shown = np.asarray(bare * cv2.GaussianBlur(seen, (0, 0), 1.0) * (flow.inside > 0), np.float32)
    detail = np.asarray(detail * (1 - 0.9 * shade), np.float32)
    near = np.asarray(bare * flow.visible * (flow.inside > 0), np.float32)
    return View(image, near, shown, skin, detail, worth, mirrored)
