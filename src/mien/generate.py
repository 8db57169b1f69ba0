"""Generators: from a frame, its faces and the identities chosen for them to patches.

``mesh`` paints the portrait itself through the motion field, lit like the target; ``warp`` is the
same without any change of light, for comparison and for ``--color``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from mien import mask, motion
from mien.errors import ModelNotFound
from mien.types import (
    Face,
    Faces,
    Floats,
    Frame,
    Generate,
    Identity,
    Image,
    Patch,
    Portrait,
    Rect,
)

LOW: Final = 32
"""Side in cells of the grid on which light, the low-frequency colour, is compared."""

SIGMA: Final = 3.0
"""Blur of that grid. Finer light would bring the features of the person replaced back."""


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
        level, lookup = _level(paint, flow)
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
            painted = _apply(painted, gain, bias)
            sigma = match_sharpness(ours.sharpness, theirs.sharpness) / flow.scale[0]
            if sigma > 0.4:
                painted = np.asarray(cv2.GaussianBlur(painted, (0, 0), sigma), np.uint8)
        alpha8 = cv2.GaussianBlur((alpha * 255).astype(np.uint8), (0, 0), 0.8)
        mask_full = cv2.resize(alpha8, patch_size, interpolation=cv2.INTER_LINEAR)
        shift = np.array([[1.0, 0.0, -region.x0], [0.0, 1.0, -region.y0]])
        return Patch(painted, np.asarray(mask_full, np.uint8), shift)


def light(
    source: Image, source_weight: Floats, target: Image, target_weight: Floats
) -> tuple[Floats, Floats]:
    """Gain and bias that give the source the target's low-frequency colour.

    Both are blurred with their weights (normalised convolution, Knutsson and Westin 1993), so
    that eyes, hair and what is hidden do not bleed into the light. The gain is bounded; the bias
    makes up what is left.

    Args:
        source: ``(h, w, 3)`` uint8.
        source_weight: ``(h, w)`` float32.
        target: ``(h, w, 3)`` uint8.
        target_weight: ``(h, w)`` float32.

    Returns:
        Gain and bias, each ``(h', w', 3)`` float32 on a coarser grid; result = gain·x + bias.
    """
    return gain_and_bias(low(source, source_weight), low(target, target_weight))


def gain_and_bias(s: Floats, t: Floats) -> tuple[Floats, Floats]:
    """What turns one low-frequency colour, ``(h, w, 3)`` 0..255, into another; see :func:`light`."""
    gain = np.clip((t + 4.0) / (s + 4.0), 0.35, 2.2)
    return gain.astype(np.float32), (t - gain * s).astype(np.float32)


EVEN: Final = 0.018
"""Blur, in parts of the face's grid, of what :func:`even_light` compares; features are finer."""


def even_light(image: Image, mesh: Floats, bare: Floats) -> Image:
    """Take the side light out of a portrait: both halves of a face are lit alike afterwards.

    A face is nearly symmetric, light is not: half the difference in log luminance between a
    place and its mirrored place, blurred beyond the size of features, is taken as light and
    removed. A place whose mirrored place the portrait does not show is left as it is. Patches
    of colour, which another light would make into stains, are damped by a third.

    Args:
        image: ``(S, S, 3)`` uint8, the portrait.
        mesh: ``(468+, 3)`` in its pixels.
        bare: ``(h, w)`` float32 0..1, where the face is not covered by hair.
    """
    side = image.shape[0]
    region = Rect(0, 0, side, side)
    flow = motion.field(mesh, motion.extended(mesh[motion.mirror()]), region)
    h, w = bare.shape
    log = np.log(shrink(image, w, h).astype(np.float32) + 4)
    weight = (flow.inside > 0) * bare + np.float32(1e-3)
    sigma = EVEN * w
    middle = blur(log, weight, sigma)
    x, y = np.moveaxis(flow.lookup * np.float32(w / side), 2, 0)
    across = np.asarray(cv2.remap(np.dstack([middle, weight]), x, y, cv2.INTER_LINEAR))
    trust = across[..., 3:] * weight[..., None] * flow.visible[..., None]
    light = np.clip((middle - across[..., :3]) / 2, -0.8, 0.8) * trust
    even = middle - light
    colour = even - even.mean(2, keepdims=True)
    light += (colour - blur(colour, weight, 4 * sigma)) * (0.35 * weight[..., None])
    light = np.asarray(cv2.resize(cv2.GaussianBlur(light, (0, 0), sigma / 2), (side, side)))
    return np.asarray(np.clip(image * np.exp(-light) + 0.5, 0, 255), np.uint8)


class Detail(NamedTuple):
    """How rough and how sharp a face looks.

    Attributes:
        contrast: Spread of log luminance in details of up to six cells.
        sharpness: Spread in details finer than one cell, over that from one to six: what a lens
            out of focus or motion takes away. It does not depend on contrast, and little on
            whose face it is: on footage that is sharp at the grid's scale it lay between 0.8 and
            1.3 times that of five sharp portraits, on soft footage between 0.4 and 0.65 times.
    """

    contrast: float
    sharpness: float


def detail(image: Image, weight: Floats) -> Detail:
    """Measure the detail of a face, ``(h, w, 3)`` uint8, where the ``(h, w)`` weight is."""
    log = np.log(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32) + 8)
    smooth, broad = cv2.GaussianBlur(log, (0, 0), 1.0), cv2.GaussianBlur(log, (0, 0), 6.0)
    total = float(weight.sum()) + 1e-6

    def spread(band: Floats) -> float:
        return float(np.sqrt(float((band * band * weight).sum()) / total))

    middle = spread(np.asarray(smooth - broad, np.float32))
    fine = spread(np.asarray(log - smooth, np.float32))
    return Detail(spread(np.asarray(log - broad, np.float32)), fine / max(middle, 1e-6))


def match_contrast(source: float, target: float) -> float:
    """Exponent, 0.5..1, that takes a portrait's local contrast toward the target's.

    A portrait by flash or an old print has more of it than a scene in soft light can have; less
    is left alone, since it is the person's own smooth skin.
    """
    return float(np.clip(((target + 0.02) / (source + 0.02)) ** 0.75 * 1.05, 0.5, 1.0))


def raise_to(image: Image, gamma: float) -> Image:
    """Every value, 0..255 as 0..1, to the power of gamma."""
    table = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)


def match_sharpness(source: float, target: float) -> float:
    """Blur in cells that makes a portrait as soft as the target; 0 where that is sharp enough.

    A blur of σ cells divides the measured sharpness of portraits by about 1 + 1.2·σ^1.6.
    """
    if source <= 0 or target >= 0.8 * source:
        return 0.0
    excess = 0.8 * source / max(target, 1e-3) - 1
    return float(min((excess / 1.2) ** (1 / 1.6), 2.0))


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
    levels, owns = [image], [np.asarray(alpha, np.uint8)]
    while min(levels[-1].shape[:2]) >= 64:
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.uint8))
        owns.append(np.asarray(cv2.pyrDown(owns[-1]), np.uint8))
    return Paint(tuple(levels), tuple(owns), mesh)


GENERATORS: Final = ("mesh", "warp")


def load(name: str) -> Generate:
    """The generator of that name.

    Raises:
        ModelNotFound: Names those that exist.
    """
    if name == "mesh":
        return MeshGenerator()
    if name == "warp":
        return MeshGenerator(relight=False)
    raise ModelNotFound(f"generator {name!r} is unknown; known are {', '.join(GENERATORS)}")


def only_skin(skin: Floats, outline: Floats, flow: motion.MotionField, mesh: Floats) -> Floats:
    """Weight that demands skin near the outline and on the forehead, and nothing in the middle."""
    rim = np.clip((1 - outline) * 1.6, 0, 1)
    strict = np.maximum(rim, mask.forehead(flow, mesh))
    out: Floats = 1 - (1 - skin) * strict
    return out


def _level(paint: Paint, flow: motion.MotionField) -> tuple[int, Floats]:
    """The level of the portrait just above the target's resolution, and the lookup in it."""
    h, w = flow.inside.shape
    step = np.abs(np.diff(flow.lookup[h // 2, :, :], axis=0)) if w > 1 else np.ones((1, 2))
    per_cell = float(np.median(np.hypot(step[:, 0], step[:, 1])))
    per_pixel = per_cell * flow.scale[0]
    level = int(np.clip(np.floor(np.log2(max(per_pixel, 1e-3))), 0, len(paint.levels) - 1))
    # pyrDown keeps even pixels: coordinates simply halve.
    return level, flow.lookup * np.float32(0.5**level)


def warp(image: Image, lookup: Floats) -> Image:
    """Bilinear samples of the image; fixed-point maps halve the time."""
    whole, part = cv2.convertMaps(lookup, np.empty(0, np.float32), cv2.CV_16SC2)
    out = cv2.remap(image, whole, part, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8)


def low(image: Image, weight: Floats) -> Floats:
    """Weighted low-frequency colour, ``(LOW', LOW'', 3)`` float32."""
    h, w = weight.shape
    size = (max(2, round(LOW * w / max(h, w))), max(2, round(LOW * h / max(h, w))))
    small = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
    weighted = image.astype(np.float32) * weight[..., None]
    colour = np.asarray(cv2.resize(weighted, size, interpolation=cv2.INTER_AREA), np.float32)
    return blur(colour / small[..., None], small, SIGMA)


def blur(values: Floats, weight: Floats, sigma: float) -> Floats:
    """Gaussian blur of ``(h, w, 3)`` values, each with its ``(h, w)`` weight."""
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    blurred = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma)
    return np.asarray(blurred / np.asarray(total)[..., None], np.float32)


def shrink(image: Image, width: int, height: int) -> Image:
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(out, np.uint8)


def _apply(image: Image, gain: Floats, bias: Floats) -> Image:
    """``gain·image + bias`` with both enlarged to the image, saturated to uint8."""
    h, w = image.shape[:2]
    # Smoothly to four times the light's grid, then linearly: the eye sees no kinks at that scale,
    # and cubic enlargement to a large face would cost more than everything else here.
    middle = (min(w, 4 * gain.shape[1]), min(h, 4 * gain.shape[0]))

    def enlarge(values: Floats) -> Floats:
        smooth = cv2.resize(values, middle, interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.resize(smooth, (w, h), interpolation=cv2.INTER_LINEAR), np.float32)

    lit = cv2.multiply(image, enlarge(gain), dtype=cv2.CV_32F)
    return np.asarray(cv2.add(lit, enlarge(bias), dtype=cv2.CV_8U), np.uint8)
