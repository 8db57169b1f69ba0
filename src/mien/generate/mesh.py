"""The portrait itself through the motion field.

``mesh`` paints it lit like the target; ``warp`` is the same without any change of light, for
comparison and for ``--color``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from mien import geometry, mask, motion
from mien.generate.light import (
    apply,
    detail,
    even_light,
    light,
    match_contrast,
    match_sharpness,
    raise_to,
    shrink,
)
from mien.types import Face, Faces, Floats, Frame, Identity, Image, Patch, Portrait, Rect


@dataclass(frozen=True, slots=True)
class Paint:
    """A portrait made ready: all that depends on the identity alone.

    Attributes:
        levels: The portrait and its halvings, ``(S, S, 3)`` uint8 RGB.
        own: The same, ``(S, S)`` uint8: 255 where the pixel is the person's own skin or features,
            0 where it is hair, a hat or background.
        mesh: ``(504, 3)`` extended mesh in pixels of ``levels[0]``.
    """

    levels: tuple[Image, ...]
    own: tuple[Image, ...]
    mesh: Floats


@dataclass(frozen=True, slots=True)
class MeshGenerator:
    """Warps the portrait by the motion field and moves its light toward the target's.

    The mouth's interior and the eyes stay the target's. Without state but for what was prepared
    for each identity, so one instance serves all streams.

    Attributes:
        relight: Match low-frequency colour; off makes the plain ``warp``.
        eyes: Keep the target's eyes.
    """

    relight: bool = True
    eyes: bool = True
    _prepared: WeakKeyDictionary[Identity, Paint] = field(default_factory=WeakKeyDictionary)

    def __call__(self, frame: Frame, faces: Faces, identities: Sequence[Identity]) -> list[Patch]:
        """One patch for each face that is in view.

        Args:
            frame: Read only.
            faces: With meshes.
            identities: One for each face.
        """
        patches = []
        for face, identity in zip(faces, identities, strict=True):
            patch = self._one(frame, face, self.prepare(identity))
            if patch is not None:
                patches.append(patch)
        return patches

    def prepare(self, identity: Identity) -> Paint:
        """What depends on the identity alone, made once."""
        paint = self._prepared.get(identity)
        if paint is None:
            made = prepare(identity.portraits[0], even=self.relight)
            paint = self._prepared.setdefault(identity, made)
        return paint

    def _one(self, frame: Frame, face: Face, paint: Paint) -> Patch | None:
        if face.mesh is None:
            raise ValueError("generate: expected faces with a mesh; run landmarks first")
        height, width = frame.image.shape[:2]
        region = motion.region_of(face.mesh, width, height)
        facing = mask.facing(face.mesh)
        if facing == 0 or region.x1 - region.x0 < 8 or region.y1 - region.y0 < 8:
            return None
        target = frame.image[region.slices()]
        flow = motion.field(face.mesh, paint.mesh, region)
        h, w = flow.inside.shape
        small = shrink(target, w, h)
        level, lookup = level_of(paint, flow)
        painted_small = warp(paint.levels[level], lookup)

        # Weights on the grid: where the patch is shown, and where light may be read from.
        own = warp(paint.own[level], lookup) * np.float32(1 / 255)
        skin = mask.skin(small, flow.to_grid(face.mesh[list(mask.SKIN), :2]))
        outline = mask.contour(flow, face.mesh)
        kept = mask.openings(flow, face.mesh, eyes=self.eyes)
        # Near the outline and on the forehead only what looks like skin is painted over: fringe,
        # beard edges and hats stay.
        alpha = outline * flow.visible * own * only_skin(skin, outline, flow, face.mesh)
        alpha *= (1 - kept) * np.float32(facing)
        inside = flow.inside > 0
        shared = inside * flow.visible * (1 - kept)

        patch_size = (region.x1 - region.x0, region.y1 - region.y0)
        full = cv2.resize(lookup, patch_size, interpolation=cv2.INTER_LINEAR)
        painted = warp(paint.levels[level], np.asarray(full, np.float32))
        if self.relight:
            ours, theirs = detail(painted_small, shared), detail(small, shared)
            gamma = match_contrast(ours.contrast, theirs.contrast)
            painted_small, painted = raise_to(painted_small, gamma), raise_to(painted, gamma)
            gain, bias = light(
                painted_small,
                shared * own + np.float32(1e-3),
                small,
                shared * skin + np.float32(1e-3),
            )
            painted = apply(painted, gain, bias)
            sigma = match_sharpness(ours.sharpness, theirs.sharpness) / flow.scale[0]
            if sigma > 0.4:
                painted = np.asarray(cv2.GaussianBlur(painted, (0, 0), sigma), np.uint8)
        alpha8 = cv2.GaussianBlur((alpha * 255).astype(np.uint8), (0, 0), 0.8)
        mask_full = cv2.resize(alpha8, patch_size, interpolation=cv2.INTER_LINEAR)
        shift = np.array([[1.0, 0.0, -region.x0], [0.0, 1.0, -region.y0]])
        return Patch(painted, np.asarray(mask_full, np.uint8), shift, face=face)


def prepare(portrait: Portrait, *, even: bool = True) -> Paint:
    """Pyramid, extended mesh and own-skin map of a portrait; ``even`` takes side light out."""
    image = np.ascontiguousarray(portrait.image)
    side = image.shape[0]
    mesh = motion.extended(portrait.mesh)
    region = Rect(0, 0, side, side)
    flow = motion.field(portrait.mesh, mesh, region)
    h, w = flow.inside.shape
    small = shrink(image, w, h)
    skin = mask.skin(small, flow.to_grid(portrait.mesh[list(mask.SKIN), :2]))
    outline = mask.contour(flow, portrait.mesh)
    # In the middle of the face brows, lips and beard belong to the person; near the outline and
    # on the forehead what does not look like skin is hair, hat or background.
    # A strand between two patches of skin is still hair: what is doubtful there is left out.
    sure = cv2.erode(np.clip(2 * skin - 1, 0, 1), np.ones((5, 5), np.uint8))
    own = only_skin(np.asarray(sure, np.float32), outline, flow, portrait.mesh)
    # A cheek in shadow is no skin by colour, yet it is what wants light: only a fringe is no part
    # of the comparison.
    bare = 1 - (1 - skin) * mask.forehead(flow, portrait.mesh)
    if even:
        image = even_light(image, portrait.mesh, bare)
    own8 = cv2.GaussianBlur((own * 255).astype(np.uint8), (0, 0), 1.5)
    alpha = cv2.resize(own8, (side, side), interpolation=cv2.INTER_LINEAR)
    return pyramid(image, np.asarray(alpha, np.uint8), mesh)


def pyramid(image: Image, own: Image, mesh: Floats) -> Paint:
    """A portrait, where it is the person's own, and its extended mesh, with their halvings."""
    levels, owns = [image], [own]
    while min(levels[-1].shape[:2]) >= 64:
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.uint8))
        owns.append(np.asarray(cv2.pyrDown(owns[-1]), np.uint8))
    return Paint(tuple(levels), tuple(owns), mesh)


def only_skin(skin: Floats, outline: Floats, flow: motion.MotionField, mesh: Floats) -> Floats:
    """Weight that demands skin near the outline and on the forehead, and nothing in the middle."""
    rim = np.clip((1 - outline) * 1.6, 0, 1)
    strict = np.maximum(rim, mask.forehead(flow, mesh))
    out: Floats = 1 - (1 - skin) * strict
    return out


def level_of(paint: Paint, flow: motion.MotionField) -> tuple[int, Floats]:
    """The level of the portrait just above the target's resolution, and the lookup in it."""
    h, w = flow.inside.shape
    step = np.abs(np.diff(flow.lookup[h // 2, :, :], axis=0)) if w > 1 else np.ones((1, 2))
    per_cell = float(np.median(np.hypot(step[:, 0], step[:, 1])))
    per_pixel = per_cell * flow.scale[0]
    level = int(np.clip(np.floor(np.log2(max(per_pixel, 1e-3))), 0, len(paint.levels) - 1))
    # pyrDown keeps even pixels: coordinates simply halve.
    return level, flow.lookup * np.float32(0.5**level)


def warp(image: Image, lookup: Floats) -> Image:
    """The image at the places of a motion field."""
    return geometry.sample(image, lookup)
