"""Portraits made clean, once for each person, before anything is painted with them.

What a photo carries besides the person's own face must not land on somebody else: noise, light
from one side and the shadows it casts, a fringe, spectacles, a hand. And what it does not show,
the far side of a three-quarter view, must come from somewhere: from further photos of the person,
from the other side of the face, else from the colour and the grain of the skin around it.

A photo from near the front keeps its frame. Others are laid out on a *canvas*: the face turned to
the front and, as far as the photos show its sides, unrolled, so that both sides have room for
what is known of them. Either way the result is a picture with a mesh in its pixels, as every
portrait is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mien import motion
from mien.landmarks import yaw
from mien.portrait.canvas import canvas, view_of
from mien.portrait.fuse import fill, fuse, own_of
from mien.portrait.grids import CELLS, FRONTAL, enlarge, mix, sample
from mien.portrait.noise import denoise
from mien.portrait.photo import Occluded, Photo
from mien.types import Floats, Image, Portrait, Rect

__all__ = ["Occluded", "Restored", "denoise", "restore"]


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A person's face, made clean of what a photo adds to it.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB.
        mesh: ``(468, 3)`` float32 in its pixels. Where the photo was laid out on a canvas this
            is no projection of the face: take shapes from the photos' own meshes.
        own: ``(S, S)`` uint8, 255 where the texture may be painted.
        trust: ``(S, S)`` uint8: 255 seen in the first photo, about 200 in a further one, 130
            taken from the other side of the face, 60 continued from the skin around.
        grey: The first photo has no colour; the caller takes colour from the target.
        dark: Share of the first photo's bare face that was too dark for its light to be evened.
    """

    image: Image
    mesh: Floats
    own: Image
    trust: Image
    grey: bool
    dark: float


def restore(portraits: Sequence[Portrait], occluded: Occluded | None = None) -> Restored:
    """Make one clean portrait of a person's photos.

    Args:
        portraits: At least one, best first; all of one person.
        occluded: Says where something is in front of the face. Without it only what does not
            look like skin above the brows counts as hidden.

    Returns:
        The portrait; its side is that of the first photo, or of the canvas.
    """
    clean = [Photo.of(portrait, occluded) for portrait in portraits]
    first = clean[0]
    meshes = [portrait.mesh for portrait in portraits]
    turned = max(abs(yaw(mesh)) for mesh in meshes)
    same = abs(yaw(first.mesh)) < FRONTAL and turned < 1.7 * FRONTAL
    if same:
        mesh, side = first.mesh[:468], first.image.shape[0]
    else:
        mesh, side = canvas(first.mesh, turned)
    region = motion.region_of(mesh, side, side)
    views = []
    for number, photo in enumerate(clean):
        worth = 1.0 if number == 0 else 0.8 * (0.5 if photo.grey and not first.grey else 1.0)
        for mirrored in (False, True):
            share = 0.5 if mirrored else 1.0
            views.append(view_of(photo, mesh, region, worth * share, mirrored=mirrored))
    if same:
        whole = first.image.copy()
    else:
        square = Rect(0, 0, side, side)
        flow = motion.field(mesh, motion.extended(first.mesh), square, grid=CELLS)
        whole = sample(first.image, flow.lookup, (side, side))
    flow = motion.field(mesh, motion.extended(mesh), region, grid=CELLS)
    image, known, trust = fuse(views, flow, mesh)
    image, known, trust = fill(image, known, trust, flow, mesh)
    y, x = region.slices()
    around = cv2.dilate(flow.inside, np.ones((7, 7), np.uint8))
    edge = np.asarray(cv2.GaussianBlur(around, (0, 0), 1.5), np.float32) / np.float32(255)
    edge = enlarge(edge, image)
    whole[y, x] = mix(whole[y, x], image, edge)
    owned = np.zeros((side, side), np.uint8)
    trusted = np.zeros((side, side), np.uint8)
    owned[y, x] = np.round(
        255 * enlarge(own_of(image, known, np.clip(2 - 4 * trust, 0, 1), flow, mesh), image)
    )
    trusted[y, x] = np.round(255 * enlarge(trust, image))
    return Restored(whole, mesh, owned, trusted, first.grey, first.dark())
