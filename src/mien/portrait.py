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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mien import mask, motion
from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, OVAL, RIGHT_EYE, yaw
from mien.types import Floats, Image, Portrait, Rect

Occluded = Callable[[Image, Floats], Floats]
"""From ``(S, S, 3)`` uint8 and its mesh to ``(S, S)`` float32, 1 where something hides the face."""

FRONTAL: Final = np.radians(15.0)
"""A photo turned by less keeps its own frame."""

CELLS: Final = 192
"""Cells along the longer side of the face on which light, masks and borders are worked out."""

FLOOR: Final = (0.85, 0.55)
"""Noise in grey levels, of the picture and of its half, below which nothing is done. Clean
sharp photos have 0.2 to 0.9 and 0.1 to 0.5, grainy ones from 1.2 and 0.7 (docs/stages)."""

KEPT: Final = 0.35
"""Share of the noise that stays, since skin without any grain looks like plastic."""

LEFT_BROW: Final = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
RIGHT_BROW: Final = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
PAIRS: Final = (LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW)
"""Features that are taken whole or not at all."""

MUZZLE: Final = (2, 203, 206, 216, 212, 202, 204, 194, 199, 418, 424, 422, 432, 436, 426, 423)
"""Around the mouth, where a beard grows."""

NOSTRILS: Final = (98, 64, 48, 115, 220, 45, 4, 275, 440, 344, 278, 294, 327, 2)


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
    """

    image: Image
    mesh: Floats
    own: Image
    trust: Image
    grey: bool


class _View(NamedTuple):
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


def restore(portraits: Sequence[Portrait], occluded: Occluded | None = None) -> Restored:
    """Make one clean portrait of a person's photos.

    Args:
        portraits: At least one, best first; all of one person.
        occluded: Says where something is in front of the face. Without it only what does not
            look like skin above the brows counts as hidden.

    Returns:
        The portrait; its side is that of the first photo, or of the canvas.
    """
    clean = [_Photo.of(portrait, occluded) for portrait in portraits]
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
            views.append(_view(photo, mesh, region, worth * share, mirrored=mirrored))
    if same:
        whole = first.image.copy()
    else:
        square = Rect(0, 0, side, side)
        flow = motion.field(mesh, motion.extended(first.mesh), square, grid=CELLS)
        whole = _sample(first.image, flow.lookup, (side, side))
    flow = motion.field(mesh, motion.extended(mesh), region, grid=CELLS)
    image, known, trust = _fuse(views, flow, mesh)
    image, known, trust = _continue(image, known, trust, flow, mesh)
    y, x = region.slices()
    around = cv2.dilate(flow.inside, np.ones((7, 7), np.uint8))
    edge = np.asarray(cv2.GaussianBlur(around, (0, 0), 1.5), np.float32) / np.float32(255)
    edge = _enlarge(edge, image)
    whole[y, x] = _mix(whole[y, x], image, edge)
    owned = np.zeros((side, side), np.uint8)
    trusted = np.zeros((side, side), np.uint8)
    owned[y, x] = np.round(
        255 * _enlarge(_own(image, known, np.clip(2 - 4 * trust, 0, 1), flow, mesh), image)
    )
    trusted[y, x] = np.round(255 * _enlarge(trust, image))
    return Restored(whole, mesh, owned, trusted, first.grey)


# --- one photo ------------------------------------------------------------------------------


class _Photo(NamedTuple):
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
    def of(portrait: Portrait, occluded: Occluded | None) -> _Photo:
        image = np.ascontiguousarray(portrait.image)
        mesh = portrait.mesh[:468]
        side = image.shape[0]
        region = motion.region_of(mesh, side, side)
        flow = motion.field(mesh, motion.extended(mesh), region, grid=CELLS)
        image = denoise(image, mesh)
        h, w = flow.inside.shape
        small = _shrink(image[region.slices()], w, h)
        skin = _like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
        bare = _bare(image, mesh, flow, skin, occluded)
        lit, shade = even(image, mesh, bare)
        return _Photo(lit, mesh, region, np.dstack([bare, skin, shade]), is_grey(image, mesh))


class Noise(NamedTuple):
    """Noise of one channel in grey levels.

    Attributes:
        sure: Standard deviation of what can be nothing but noise, as if it were white.
        whole: Spread of the finer detail of smooth skin: coarse grain, and pores, too.
    """

    sure: float
    whole: float


def noise(image: Image, mesh: Floats) -> Noise:
    """Measure the noise of a portrait.

    The finest detail is seen by the mask of Immerkær ("Fast noise variance estimation", 1996),
    in blocks of 8×8 pixels; of the blocks' values the lower quartile counts, since edges and hair
    raise the others. Skin has pores and a background may be out of focus, noise is in both: the
    lower of the two is taken.

    Args:
        image: ``(S, S)`` uint8, one channel.
        mesh: ``(468+, 2+)`` in its pixels.
    """
    values = image.astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    fine = np.asarray(cv2.filter2D(values, -1, kernel))
    broad = np.asarray(values - cv2.GaussianBlur(values, (0, 0), 2.0), np.float32)
    # Where levels are cut off there is no noise to be seen.
    usable = cv2.erode(((values > 10) & (values < 245)).astype(np.uint8), np.ones((3, 3), np.uint8))
    hull = cv2.convexHull(np.round(mesh[list(OVAL), :2]).astype(np.int32))
    face = np.asarray(cv2.fillConvexPoly(np.zeros(image.shape, np.uint8), hull, 1), np.uint8)
    found = []
    for part, band in ((face, fine), (1 - face, fine), (face, broad)):
        spread = np.sqrt(_blocks(band * band))[_blocks((part * usable).astype(np.float32)) > 0.99]
        spread = spread[spread > 0.05]  # a border that was made up by repeating pixels
        enough = len(spread) >= 12
        found.append(float(np.percentile(spread, 25)) / 0.93 if enough else np.inf)
    sure = min(found[:2])
    if not np.isfinite(sure):
        return Noise(0.0, 0.0)
    return Noise(sure, max(sure, found[2]) if np.isfinite(found[2]) else sure)


def denoise(image: Image, mesh: Floats) -> Image:
    """Take grain, strokes of the brush and blocks of JPEG out, as far as they are measured.

    Non-local means (Buades, Coll and Morel, 2005) on the picture's half, for coarse grain, and
    then on the picture, with a strength that follows :func:`noise`. A clean photo comes back as
    it is.

    Args:
        image: ``(S, S, 3)`` uint8.
        mesh: ``(468+, 2+)`` in its pixels.
    """
    ycc = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.uint8)
    half = np.asarray(cv2.pyrDown(ycc), np.uint8)
    smooth = _means(half, mesh * np.float32(0.5), FLOOR[1])
    out = ycc
    if smooth is not half:
        change = np.asarray(smooth.astype(np.float32) - half, np.float32)
        large = cv2.resize(change, ycc.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        out = np.asarray(np.clip(ycc + large + 0.5, 0, 255), np.uint8)
    out = _means(out, mesh, FLOOR[0])
    if out is ycc:
        return image
    out = cv2.addWeighted(out, 1 - KEPT, ycc, KEPT, 0).astype(np.uint8)
    return np.asarray(cv2.cvtColor(out, cv2.COLOR_YCrCb2RGB), np.uint8)


def _means(ycc: Image, mesh: Floats, floor: float) -> Image:
    """Non-local means of a Y'CrCb picture, the picture itself where there is no noise."""
    luma: Image = np.ascontiguousarray(ycc[..., 0])
    colour: Image = np.ascontiguousarray(ycc[..., 1:])
    found = [noise(np.ascontiguousarray(ycc[..., c]), mesh) for c in (0, 1, 2)]
    strong = [
        min(max(n.sure / floor - 1, 0.0) / 0.6, 1.0) * min(n.whole, 3 * n.sure)
        for n in (found[0], max(found[1:], key=lambda n: n.sure))
    ]
    if max(strong) <= 0:
        return ycc
    if strong[0] > 0:
        luma = np.asarray(cv2.fastNlMeansDenoising(luma, None, 1.0 * strong[0], 5, 15), np.uint8)
    if strong[1] > 0:
        colour = np.asarray(
            cv2.fastNlMeansDenoising(colour, None, 2.0 * strong[1], 5, 15), np.uint8
        )
    return np.dstack([luma, colour])


def is_grey(image: Image, mesh: Floats) -> bool:
    """Whether a portrait is black and white, by the colour of the face's skin."""
    at = np.round(mesh[list(mask.SKIN), :2]).astype(int).clip(0, image.shape[0] - 1)
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[at[:, 1], at[:, 0], 1:].astype(np.float32)
    return float(np.abs(np.median(colours, axis=0) - 128).max()) < 4


def _like_skin(small: Image, at: Floats) -> Floats:
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
    other = (1 - sure) * (1 - _features(flow, mesh, 0.03)) * upper
    hidden = np.asarray((1 - sure) * np.maximum(mask.forehead(flow, mesh), rim * upper))
    # What hangs together with it is hair, too, as far as it goes on.
    for _ in range(round(0.06 * w)):
        hidden = np.maximum(hidden, np.minimum(other, cv2.dilate(hidden, np.ones((3, 3)))))
    if occluded is not None:
        found = np.asarray(occluded(image, mesh), np.float32)[flow.region.slices()]
        hidden = np.maximum(hidden, cv2.resize(found, (w, h), interpolation=cv2.INTER_AREA))
    return np.asarray(1 - cv2.dilate(hidden, np.ones((5, 5), np.uint8)), np.float32)


def even(image: Image, mesh: Floats, bare: Floats) -> tuple[Image, Floats]:
    """Take light from one side out of a portrait, and the shadows that it casts.

    A face is nearly symmetric, light is not: the difference in log colour between a place and
    its mirrored place is light. Of the two places the one nearer to the face's own tone is
    believed, so that a shadow is lifted and a glare is lowered. The difference is smoothed
    within the edges of the picture by a guided filter (He, Sun and Tang, 2010), which keeps a
    cast shadow's edge and drops what a mesh a little off makes of pores and wrinkles; colour is
    smoothed more than brightness, since there is little of it in the dark. Brows, eyes, nostrils
    and lips take the light of the skin around them.

    Args:
        image: ``(S, S, 3)`` uint8.
        mesh: ``(468+, 3)`` in its pixels.
        bare: ``(h, w)`` float32 0..1 on the grid of the face's region: not covered.

    Returns:
        The image, and ``(h, w)`` float32 0..1: how much of it was too dark to be lifted well.
    """
    side = image.shape[0]
    region = motion.region_of(mesh, side, side)
    flow = motion.field(mesh, motion.extended(mesh[motion.mirror()]), region, grid=CELLS)
    h, w = bare.shape
    part = image[region.slices()]
    log = np.log(_shrink(part, w, h).astype(np.float32) + 4)
    inside = (flow.inside > 0).astype(np.float32)
    weight = inside * bare
    x, y = np.moveaxis(flow.to_grid(flow.lookup), 2, 0)

    def across(values: Floats) -> Floats:
        return np.asarray(cv2.remap(values, x, y, cv2.INTER_LINEAR), np.float32)

    # A mesh is off by a cell or two: compare what is a little blurred.
    soft = _blur(log, weight + np.float32(1e-3), 1.0)
    other = across(soft)
    luma, luma_other = soft.mean(2, keepdims=True), other.mean(2, keepdims=True)
    both = weight * across(weight) * cv2.erode(flow.visible, np.ones((5, 5), np.uint8))
    plain = both * (1 - _features(flow, mesh, 0.02)) + np.float32(1e-4)
    at = np.round(flow.to_grid(mesh[list(mask.SKIN), :2])).astype(int).clip(0, (w - 1, h - 1))
    tone = float(np.percentile(luma[at[:, 1], at[:, 0]], 75))
    far = np.abs(_blur(luma, plain, 0.03 * w) - tone)
    share = np.clip(0.5 + 1.25 * (far - across(far)[..., None]), 0, 1)
    # A shadow has an edge, a glare has none worth keeping.
    edged = _guided(luma[..., 0], luma - luma_other, plain, 0.045 * w, 0.01)
    broad = _blur(luma - luma_other, plain, 0.05 * w)
    dark = np.clip(edged, -1.2, 0) + np.clip(broad, 0, 0.5) * (edged > 0)
    # Colour comes from the lit side as it is there: a dark place has little to enlarge.
    colour = _blur((soft - luma) - (other - luma_other), plain, 2.0)
    light = _spread(np.concatenate([dark, colour], axis=2), plain)
    eyes = _features(flow, mesh, 0.01, (LEFT_EYE, RIGHT_EYE))[..., None]
    light[..., :1] = np.clip(light[..., :1], -1.0, 0.5) * (1 - np.float32(0.6) * eyes)
    light[..., 1:] = np.clip(light[..., 1:], -0.4, 0.4) * (1 - eyes)
    light[..., 1:] *= np.clip(np.abs(light[..., :1]) / 0.15, 0, 1)
    # The far side of a three-quarter view is seen too flat to tell light from shape.
    near = float(np.clip(2 - abs(yaw(mesh)) / FRONTAL, 0, 1))
    light = (light[..., :1] + light[..., 1:]) * share * np.float32(near)
    light *= _blur(both[..., None], inside + np.float32(1e-3), 0.01 * w)
    light *= _blur(inside[..., None], np.ones_like(inside), 1.5)
    shade = np.clip((-light.mean(2) - 0.55) / 0.3, 0, 1)
    out = image.copy()
    out[region.slices()] = _relit(part, np.asarray(light, np.float32))
    return out, np.asarray(shade, np.float32)


def _relit(part: Image, light: Floats) -> Image:
    """Divide an image by light in log colour; noise of dark places is not enlarged with them."""
    size = part.shape[1::-1]
    large = cv2.resize(light, size, interpolation=cv2.INTER_CUBIC)
    log = np.log(part.astype(np.float32) + 4)
    luma = np.asarray(log.mean(2), np.float32)
    smooth = _guided(luma, log, np.ones(luma.shape, np.float32), 0.008 * size[0] + 1, 0.02)
    damped = np.exp(np.minimum(large.mean(2, keepdims=True), 0))
    out = np.exp(smooth - large + (log - smooth) * damped) - 4
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


# --- the canvas -----------------------------------------------------------------------------


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


def _view(photo: _Photo, mesh: Floats, region: Rect, worth: float, *, mirrored: bool) -> _View:
    """A photo on the canvas' region."""
    source = photo.mesh[motion.mirror()] if mirrored else photo.mesh
    flow = motion.field(mesh, motion.extended(source), region, grid=CELLS)
    size = (region.x1 - region.x0, region.y1 - region.y0)
    if not mirrored and np.array_equal(photo.mesh[:468], mesh):
        image = photo.image[region.slices()]
    else:
        image = _sample(photo.image, flow.lookup, size)
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
    return _View(image, near, shown, skin, detail, worth, mirrored)


# --- several views into one -----------------------------------------------------------------


def _fuse(
    views: Sequence[_View], flow: motion.MotionField, mesh: Floats
) -> tuple[Image, Floats, Floats]:
    """Lay the views over the first where they show more; returns image, known and trust."""
    middle = _features(flow, mesh, 0.012, (OUTER_LIPS, NOSTRILS))
    beard = _features(flow, mesh, 0.05, (MUZZLE,))
    pairs = [_features(flow, mesh, 0.025, (ring,)) > 0.5 for ring in PAIRS]
    rim = np.clip((1 - mask.contour(flow, mesh)) * 1.6, 0, 1)
    shown = [view.shown for view in views]
    for i in range(0, len(views), 2):
        # Near the outline, what is no skin on one side and skin on the other is hair or what
        # is behind the face.
        one, other = views[i], views[i + 1]
        foreign = [rim * v.skin * v.shown * (1 - u.skin) for u, v in ((one, other), (other, one))]
        foreign = [cv2.dilate(f, np.ones((5, 5), np.uint8)) for f in foreign]
        shown[i] = shown[i] * (1 - np.clip(2 * foreign[0], 0, 1))
        shown[i + 1] = shown[i + 1] * (1 - np.clip(2 * foreign[1], 0, 1))
    # A feature that is seen at all is better than none: what is left of it is not filled.
    some = np.clip(4 * views[0].near, 0, 1) * np.maximum(np.max(pairs, axis=0), middle)
    image, known = views[0].image, np.maximum(views[0].shown, some).astype(np.float32)
    trust = shown[0] * np.float32(views[0].worth)
    merit = shown[0] * views[0].detail * np.float32(1.25)
    for view, seen in zip(views[1:], shown[1:], strict=True):
        value = seen * view.detail * np.float32(view.worth)
        better = (value > merit) & (value > 0.08)
        # Who has a beard in one photo may have none in another.
        better &= (np.maximum(middle, beard) < 0.5) | (known < 0.3)
        if view.mirrored:
            better &= merit < 0.3
        # Half a brow of one photo and half of another make no brow; a mirrored eye squints.
        for number, ring in enumerate(pairs):
            gone = float((known[ring] < 0.3).mean()) > 0.25 and float(seen[ring].mean()) > 0.8
            better[ring] = gone and not (view.mirrored and number < 2)
        take = cv2.erode(better.astype(np.float32), np.ones((3, 3), np.uint8))
        take = np.minimum(cv2.GaussianBlur(cv2.dilate(take, np.ones((5, 5))), (0, 0), 2.0), 1)
        take = np.asarray(take, np.float32) * np.clip(seen * 3, 0, 1)
        if float(take.max()) < 0.05:
            continue
        image = _mix(image, _matched(view, seen, image, merit), _enlarge(take, image))
        known = np.maximum(known, take * seen)
        merit = merit + take * (value - merit)
        trust = trust + take * (np.float32(view.worth) - trust)
    return image, known, trust


def _matched(view: _View, seen: Floats, to: Image, merit: Floats) -> Image:
    """A view in the low-frequency colour of another, continued to where that is not known."""
    h, w = seen.shape
    image = view.image
    log = [np.log(_shrink(i, w, h).astype(np.float32) + 4) for i in (to, image)]
    sure = np.minimum(np.clip(2 * merit, 0, 1), np.clip(2 * view.detail * seen, 0, 1))
    both = cv2.erode(sure, np.ones((5, 5), np.uint8))
    weight: Floats = np.asarray(np.clip(2 * both - 1, 0, 1), np.float32)
    step = _blur(np.asarray(log[0] - log[1], np.float32), weight + np.float32(1e-4), 3.0)
    step = _spread(step, weight)
    large = cv2.resize(np.clip(step, -0.7, 0.7), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((image + 4.0) * np.exp(large) - 4 + 0.5, 0, 255), np.uint8)


def _continue(
    image: Image, known: Floats, trust: Floats, flow: motion.MotionField, mesh: Floats
) -> tuple[Image, Floats, Floats]:
    """Fill what no view shows with the skin's own colour and grain."""
    h, w = known.shape
    inside = flow.inside > 0
    hole = np.clip(1.6 - 2 * known, 0, 1) * inside
    hole = cv2.dilate(hole, np.ones((3, 3), np.uint8))
    # Beyond the outline, too, so that nothing of what was there is left along it.
    hole = np.maximum(hole, cv2.dilate(hole, np.ones((9, 9), np.uint8)) * ~inside)
    hole = cv2.GaussianBlur(hole, (0, 0), 1.0)
    hole = hole * (1 - _features(flow, mesh, 0.0, (LEFT_EYE, RIGHT_EYE, INNER_LIPS)))
    if float(hole.max()) < 0.05:
        return image, known, trust
    small = _shrink(image, w, h)
    log = np.log(small.astype(np.float32) + 4)
    skin = _like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
    sure = cv2.erode(known, np.ones((5, 5), np.uint8)) * inside * np.clip(3 * skin - 0.5, 0, 1)
    sure = np.clip(2 * sure - 1, 0, 1) * (1 - _features(flow, mesh, 0.03))
    sure = np.asarray(sure, np.float32)
    at = np.round(flow.to_grid(mesh[list(CHEEKS), :2])).astype(int).clip(0, (w - 1, h - 1))
    tone = np.median(log[at[:, 1], at[:, 0]], axis=0).astype(np.float32)
    # A shadow under a fringe would be continued upward; the cheeks' tone holds against it.
    smooth = _spread(_blur(log, sure + np.float32(1e-4), 3.0), sure, tone, 0.001)
    # A frame of spectacles is narrow: what is on its two sides is continued, brows and all.
    core = cv2.morphologyEx(hole, cv2.MORPH_OPEN, np.ones((2 * NARROW + 1, 2 * NARROW + 1)))
    core = cv2.GaussianBlur(cv2.dilate(core, np.ones((3, 3), np.uint8)), (0, 0), 1.5)[..., None]
    held = np.asarray(cv2.erode(known, np.ones((3, 3), np.uint8)) * (flow.inside > 0), np.float32)
    smooth = smooth * core + _spread(log, np.clip(4 * held - 3, 0, 1)) * (1 - core)
    grain = _grain(image, sure, flow, mesh)
    large = cv2.resize(smooth, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    fill = np.clip(np.exp(large + grain) - 4 + 0.5, 0, 255).astype(np.uint8)
    out = _mix(image, fill, _enlarge(np.asarray(hole, np.float32), image))
    filled = np.asarray(hole * inside, np.float32)
    return out, np.maximum(known, filled), trust + filled * (np.float32(0.25) - trust)


NARROW: Final = 6
"""A hole narrower than twice this, in cells, is continued from both its sides."""

CHEEKS: Final = (50, 280, 101, 330, 117, 346, 118, 347, 36, 266, 205, 425, 187, 411)


def _grain(image: Image, sure: Floats, flow: motion.MotionField, mesh: Floats) -> Floats:
    """Skin's fine texture everywhere: noise with the spectrum of the largest patch of bare skin.

    Random phases keep a micro-texture's look and repeat nothing (Galerne, Gousseau and Morel,
    "Random phase textures", 2011).

    Returns:
        ``(H, W, 3)`` float32 in log colour, zero mean.
    """
    height, width = image.shape[:2]
    sx, sy = flow.scale
    room = cv2.distanceTransform((sure > 0.5).astype(np.uint8), cv2.DIST_C, 3)
    y, x = np.unravel_index(int(np.argmax(room)), room.shape)
    half = int(max(float(room[y, x]) - 1, 0) / max(sx, sy))
    if half < 6:
        return np.zeros((height, width, 3), np.float32)
    cx, cy = round((x + 0.5) / sx), round((y + 0.5) / sy)
    patch = image[max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half]
    log = np.log(patch.astype(np.float32) + 4)
    band = log - cv2.GaussianBlur(log, (0, 0), max(1.5 / sx, 1.5))
    limit = 2.5 * 1.4826 * float(np.median(np.abs(band))) + 1e-3
    band = np.clip(band, -limit, limit)  # a mole or a hair is no grain
    band -= band.mean((0, 1))
    n, m = band.shape[:2]
    fade = np.sqrt(np.outer(np.hanning(n + 2)[1:-1], np.hanning(m + 2)[1:-1]))[..., None]
    padded = np.zeros((height, width, 3), np.float32)
    rows, columns = min(n, height), min(m, width)
    padded[:rows, :columns] = (band * fade)[:rows, :columns]
    phase = np.fft.rfft2(np.random.default_rng(0).standard_normal((height, width)))
    phase /= np.abs(phase) + 1e-9
    made = np.fft.irfft2(
        np.fft.rfft2(padded, axes=(0, 1)) * phase[..., None], s=(height, width), axes=(0, 1)
    )
    spread = band.std((0, 1)) / (made.std((0, 1)) + 1e-9)
    return np.asarray(made * spread, np.float32)


def _own(
    image: Image, known: Floats, filled: Floats, flow: motion.MotionField, mesh: Floats
) -> Floats:
    """``(h, w)`` 0..1: known or filled, and skin by its colour near the outline."""
    h, w = known.shape
    small = _shrink(image, w, h)
    skin = _like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
    sure = cv2.erode(np.clip(2 * skin - 1, 0, 1), np.ones((5, 5), np.uint8))
    rim = np.clip((1 - mask.contour(flow, mesh)) * 1.6, 0, 1)
    own = (1 - (1 - sure) * rim * (1 - filled)) * np.clip(known * 2, 0, 1) * (flow.inside > 0)
    return np.asarray(cv2.GaussianBlur(own, (0, 0), 1.5), np.float32)


# --- tools ----------------------------------------------------------------------------------


def _features(
    flow: motion.MotionField,
    mesh: Floats,
    margin: float,
    rings: Sequence[tuple[int, ...]] = (
        LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, OUTER_LIPS, NOSTRILS,
    ),
) -> Floats:  # fmt: skip
    """``(h, w)`` 0..1 on the grid: polygons widened by a share of the grid's width."""
    h, w = flow.inside.shape
    out = np.zeros((h, w), np.uint8)
    for ring in rings:
        p = np.round(flow.to_grid(mesh[list(ring), :2]) * 16).astype(np.int32)
        cv2.fillPoly(out, [p], 255, cv2.LINE_8, 4)
    reach = round(margin * w)
    if reach:
        out = cv2.dilate(out, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(out, (0, 0), 1.0), np.float32) / np.float32(255)


def _spread(
    values: Floats, weight: Floats, prior: Floats | None = None, pull: float = 0.0
) -> Floats:
    """Continue values smoothly to where their weight is 0, as a membrane would hang.

    Pull-push over a pyramid (Gortler et al., "The lumigraph", 1996), relaxed at each level.

    Args:
        values: ``(h, w, c)``.
        weight: ``(h, w)`` 0..1.
        prior: ``(c,)`` what is taken far from all that is known.
        pull: Weight of the prior at every level.
    """
    held: Floats = np.asarray(np.clip(weight, 0, 1), np.float32)
    levels = [(values * held[..., None], held)]
    while min(levels[-1][1].shape) > 3:
        v, k = levels[-1]
        size = ((k.shape[1] + 1) // 2, (k.shape[0] + 1) // 2)
        v = np.asarray(cv2.resize(v, size, interpolation=cv2.INTER_AREA), np.float32)
        k = np.asarray(cv2.resize(k, size, interpolation=cv2.INTER_AREA), np.float32)
        v = v.reshape(*k.shape, -1)
        more = np.minimum(1, 3 * k) / np.maximum(k, 1e-6)
        levels.append((v * more[..., None], np.asarray(k * more, np.float32)))
    v, k = levels[-1]
    mean = v.sum((0, 1)) / max(float(k.sum()), 1e-6)
    if prior is None:
        prior = mean
    out = np.broadcast_to(mean, v.shape).astype(np.float32)
    for v, k in reversed(levels):
        out = cv2.resize(out, k.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(v.shape)
        for _ in range(8):
            around = cv2.blur(out, (3, 3), borderType=cv2.BORDER_REPLICATE).reshape(v.shape)
            around = around + np.float32(pull) * (prior - around)
            out = v + (1 - k[..., None]) * around
    return np.asarray(out, np.float32)


def _guided(guide: Floats, values: Floats, weight: Floats, sigma: float, epsilon: float) -> Floats:
    """Weighted guided filter: values smoothed, with the edges of the guide."""
    g = guide[..., None]

    def mean(a: ArrayLike) -> Floats:
        return _blur(np.asarray(a, np.float32), weight, sigma)

    middle, level = mean(g), mean(values)
    slope = (mean(g * values) - middle * level) / (mean(g * g) - middle * middle + epsilon)
    return np.asarray(mean(slope) * g + mean(level - slope * middle), np.float32)


def _blur(values: Floats, weight: Floats, sigma: float) -> Floats:
    """Gaussian blur of ``(h, w, c)`` values, each with its ``(h, w)`` weight."""
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    blurred = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma).reshape(values.shape)
    return np.asarray(blurred / np.maximum(total, 1e-9)[..., None], np.float32)


def _sample(image: Image, lookup: Floats, size: tuple[int, int]) -> Image:
    """The image at the places of a coarse lookup, enlarged to ``size``."""
    full = cv2.resize(lookup, size, interpolation=cv2.INTER_LINEAR)
    x, y = full[..., 0], full[..., 1]
    out = cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8)


def _shrink(image: Image, width: int, height: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _enlarge(values: Floats, image: Image) -> Floats:
    """Weights on the grid, 0..1, at the image's size."""
    large = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(large, 0, 1), np.float32)


def _mix(under: Image, over: Image, alpha: Floats) -> Image:
    a = alpha[..., None]
    return np.asarray(under * (1 - a) + over * a + np.float32(0.5), np.uint8)


def _blocks(values: Floats, side: int = 8) -> Floats:
    """Means of ``(h, w)`` values over blocks."""
    h, w = values.shape[0] // side, values.shape[1] // side
    cut = values[: h * side, : w * side].reshape(h, side, w, side)
    return np.asarray(cut.mean((1, 3)), np.float32)
