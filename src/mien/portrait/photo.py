"""One photo, without noise and side light, and where it shows the person's own face."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from mien import mask, motion
from mien.portrait.grids import CELLS, features, shrink
from mien.portrait.light import even
from mien.portrait.noise import denoise
from mien.types import Floats, Image, Portrait, Rect

Occluded = Callable[[Image, Floats], Floats]
"""From ``(S, S, 3)`` uint8 and its mesh to ``(S, S)`` float32, 1 where something hides the face."""


class Photo(NamedTuple):
    """A photo without noise and side light, and what is known of it on its region's grid.

    Attributes:
        image: ``(S, S, 3)`` uint8.
        mesh: ``(468, 3)`` in its pixels.
        region: The face's.
        maps: ``(h, w, 3)`` float32 0..1: nothing lies on the face; looks like skin; too dark.
        grey: Black and white.
    """

    image: Image
    mesh: Floats
    region: Rect
    maps: Floats
    grey: bool

    @staticmethod
    def of(portrait: Portrait, occluded: Occluded | None) -> Photo:
        image = np.ascontiguousarray(portrait.image)
        mesh = portrait.mesh[:468]
        side = image.shape[0]
        region = motion.region_of(mesh, side, side)
        flow = motion.field(mesh, motion.extended(mesh), region, grid=CELLS)
        image = denoise(image, mesh)
        h, w = flow.inside.shape
        small = shrink(image[region.slices()], w, h)
        skin = like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
        bare = _bare(image, mesh, flow, skin, occluded)
        lit, shade = even(image, mesh, bare)
        return Photo(lit, mesh, region, np.dstack([bare, skin, shade]), is_grey(image, mesh))

    def dark(self) -> float:
        """Share of the bare face that is too dark for its light to be evened."""
        flow = motion.field(self.mesh, motion.extended(self.mesh), self.region, grid=CELLS)
        bare = self.maps[..., 0] * (flow.inside > 0)
        return float((bare * self.maps[..., 2]).sum() / max(float(bare.sum()), 1.0))


def is_grey(image: Image, mesh: Floats) -> bool:
    """Whether a portrait is black and white, by the colour of the face's skin."""
    at = np.round(mesh[list(mask.SKIN), :2]).astype(int).clip(0, image.shape[0] - 1)
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[at[:, 1], at[:, 0], 1:].astype(np.float32)
    return float(np.abs(np.median(colours, axis=0) - 128).max()) < 4


def like_skin(small: Image, at: Floats) -> Floats:
    """``(h, w)`` float32 0..1: the colour of this face's skin; a pale highlight has it too.

    Args:
        small: ``(h, w, 3)`` uint8.
        at: Positions of :data:`mask.SKIN` in it.
    """
    h, w = small.shape[:2]
    skin = mask.skin(small, at)
    ycc = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    xy = np.round(at).astype(int).clip(0, (w - 1, h - 1))
    middle = np.median(ycc[xy[:, 1], xy[:, 0]], axis=0)
    # Paler than skin along the way from its colour to white.
    d = ycc - middle.astype(np.float32)
    toward = np.array([0, 128 - middle[1], 128 - middle[2]], np.float32)
    pale = (d * toward).sum(2) / max(float(toward @ toward), 1.0)
    off = np.linalg.norm((d - np.clip(pale, 0, 1)[..., None] * toward)[..., 1:], axis=2)
    bright = np.clip(d[..., 0] / 15, 0, 1) * np.clip(2 - off / 5, 0, 1)
    return np.asarray(np.maximum(skin, bright), np.float32)


def _bare(
    image: Image,
    mesh: Floats,
    flow: motion.MotionField,
    skin: Floats,
    occluded: Occluded | None,
) -> Floats:
    """``(h, w)`` float32 0..1: where nothing lies on the face."""
    h, w = flow.inside.shape
    # Strands let skin through; what is doubtful is hair.
    sure = cv2.erode(np.clip(2 * skin - 1, 0, 1), np.ones((3, 3), np.uint8))
    # Beside the eyes, too, hair falls over the outline; lower down it may be a beard.
    rim = np.clip((1 - mask.contour(flow, mesh)) * 1.6, 0, 1)
    eyes, nose = flow.to_grid(mesh[[168, 2], :2])
    up = eyes - nose
    ys, xs = np.mgrid[0:h, 0:w].astype(np.float32)
    height = ((xs - nose[0]) * up[0] + (ys - nose[1]) * up[1]) / max(float(up @ up), 1.0)
    upper = np.clip((height - 0.1) / 0.2, 0, 1)
    other = (1 - sure) * (1 - features(flow, mesh, 0.03)) * upper
    hidden = np.asarray((1 - sure) * np.maximum(mask.forehead(flow, mesh), rim * upper))
    # What hangs together with it is hair, too, as far as it goes on.
    for _ in range(round(0.06 * w)):
        hidden = np.maximum(hidden, np.minimum(other, cv2.dilate(hidden, np.ones((3, 3)))))
    if occluded is not None:
        found = np.asarray(occluded(image, mesh), np.float32)[flow.region.slices()]
        hidden = np.maximum(hidden, cv2.resize(found, (w, h), interpolation=cv2.INTER_AREA))
    return np.asarray(1 - cv2.dilate(hidden, np.ones((5, 5), np.uint8)), np.float32)
