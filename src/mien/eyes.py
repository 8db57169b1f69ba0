"""Eyes: the portrait's iris in the target's lids, with the target's gaze, blink and light.

Once for each portrait its iris is cut out, what the lids hide of it is filled in, and light and
camera are divided out by the white of the same eye. For every frame that iris is drawn where the
target looks, on a white that is the target's own with its iris taken out, so that the shadow of
the lid, the colour of the light and the corners of the eye stay those of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien import geometry
from mien.landmarks import LEFT_EYE, RIGHT_EYE
from mien.types import Floats, Image, Rect

RINGS: Final = (np.array(LEFT_EYE), np.array(RIGHT_EYE))

IRISES: Final = (468, 473)
"""Vertex in the middle of the left and right iris; the four on its rim follow."""

RADIUS: Final = 0.097
"""Radius of an iris over the distance between the eyes, about 6 mm of 62; people differ little."""

UNIT: Final = 32
"""Pixels of the prepared iris for one radius."""

REACH: Final = 1.25
"""Half the side of the prepared iris in radii."""

CLEAR: Final = 0.25
"""Least rise of brightness across the rim of an iris, of the range between the lids."""

SEEN: Final = 0.22
"""Least share of an iris that a portrait must show between lids and catch-lights."""

LID_SHADE: Final = 0.4
"""How much darker the eyeball is at the edge of the upper lid."""

LEAST: Final = 2.5
"""Least radius in pixels of an iris in a portrait."""

SHUT: Final = (0.07, 0.15)
"""Height over width of an eye at which nothing and all of it is painted."""


@dataclass(frozen=True, slots=True, eq=False)
class Eyeballs:
    """The eyes of a portrait, free of gaze, lids and light.

    Attributes:
        irises: For the left and right eye, the iris and its halvings, each ``(s, s, 4)`` float32:
            colour over the colour of the white of the eye (0 black, 1 as bright), and cover, 1 on
            the iris and 0 on the white. The middle is the middle of the array, the first level
            has :data:`UNIT` pixels to a radius.
        radius: Radius of the iris over the distance between the eyes.
    """

    irises: tuple[tuple[Floats, ...], tuple[Floats, ...]]
    radius: float


class Layer(NamedTuple):
    """One painted eye.

    Attributes:
        rect: Where it belongs, in pixels of the region.
        image: ``(h, w, 3)`` uint8 RGB.
        alpha: ``(h, w)`` uint8, 255 where it replaces what was there.
    """

    rect: Rect
    image: Image
    alpha: Image


class Sight(NamedTuple):
    """Where two eyes look.

    Attributes:
        centres: ``(2, 2)`` float64, middle of the left and right iris in pixels.
        radius: Of an iris seen from the front, as the mesh has it, in pixels.
        distance: Between the eyes, in pixels, depth counted.
        gaze: ``(2, 2)`` float64, x and y of each eye's direction of sight, length below 1.
        open: ``(2,)`` float64 0..1, how far each eye is open.
        shown: ``(2,)`` float64 0..1, how far each eye is open and turned to the camera.
        angle: Of the line between the eyes, radians, clockwise.
    """

    centres: NDArray[np.float64]
    radius: float
    distance: float
    gaze: NDArray[np.float64]
    open: NDArray[np.float64]
    shown: NDArray[np.float64]
    angle: float


def sight(mesh: Floats) -> Sight:
    """Where the eyes of a mesh look, steadied: both look nearly the same way.

    The centre of each eyeball is taken 6 mm behind the middle of its corners and the iris 10 mm
    before that centre (distance between the eyes 63 mm), which turns the place of an iris into a
    direction. The two directions' difference is noise for the most part and is reduced.

    Args:
        mesh: ``(478, 3)`` in pixels.
    """
    p = np.asarray(mesh, np.float64)
    corners = p[[33, 133, 362, 263]].reshape(2, 2, 3)
    middle = corners.mean(1)
    across = middle[1] - middle[0]
    distance = max(float(np.sqrt(across @ across)), 1e-3)
    x = across / distance
    down = p[152] - p[10]
    down = down - (down @ x) * x
    down /= max(float(np.sqrt(down @ down)), 1e-3)
    inward = np.array([x[1] * down[2] - x[2] * down[1], x[2] * down[0] - x[0] * down[2]])
    mm = distance / 63
    balls = middle[:, :2] + 6 * mm * inward
    gaze = (p[list(IRISES), :2] - balls) / (10 * mm)

    wide = corners[:, 1, :2] - corners[:, 0, :2]
    width = np.sqrt((wide * wide).sum(1)) + 1e-3
    tall = p[[159, 386], :2] - p[[145, 374], :2]
    opening = np.sqrt((tall * tall).sum(1)) / width
    open_ = _smooth((opening - SHUT[0]) / (SHUT[1] - SHUT[0])).astype(np.float64)
    # An eye is about 0.45 of the distance wide; half of that is left where the nose begins to
    # hide it and its mesh is a guess.
    shown = open_ * _smooth((width / distance - 0.17) / 0.1)

    trust = shown * width + 1e-3
    mean = (gaze * trust[:, None]).sum(0) / trust.sum()
    # In the head's own axes: eyes converge, but neither looks up alone.
    c, s = np.cos(angle := float(np.arctan2(across[1], across[0]))), np.sin(angle)
    turn = np.array([[c, s], [-s, c]], np.float64)
    apart = ((gaze - mean) @ turn.T * (0.5, 0.2)) @ turn
    gaze = mean + apart
    length = np.sqrt((gaze * gaze).sum(1, keepdims=True))
    gaze = gaze * (np.minimum(length, 0.75) / np.maximum(length, 1e-6))

    rims = p[[469, 470, 471, 472, 474, 475, 476, 477], :2].reshape(2, 4, 2)
    rim = rims - p[list(IRISES), None, :2]
    radius = float(np.sqrt((rim * rim).sum(2)).mean())
    return Sight(balls + 10 * mm * gaze, radius, distance, gaze, open_, shown, angle)


def prepare(image: Image, mesh: Floats) -> Eyeballs | None:
    """Cut out a portrait's irises.

    The iris of the eye that shows more is used for both, mirrored: a person's two irises are
    alike, and a portrait often shows one in shadow.

    Args:
        image: ``(S, S, 3)`` uint8 RGB.
        mesh: ``(478, 3)`` in its pixels.

    Returns:
        The eyes; None where neither is seen well enough, shut, tiny or without contrast.
    """
    look = sight(mesh)
    best: tuple[float, int, Floats, float] | None = None
    for side in (0, 1):
        found = _cut(image, mesh, look, side)
        if found is not None and (best is None or found[0] > best[0]):
            best = (found[0], side, found[1], found[2])
    if best is None:
        return None
    _, side, iris, radius = best
    own, other = _levels(iris), _levels(np.ascontiguousarray(iris[:, ::-1]))
    return Eyeballs((own, other) if side == 0 else (other, own), radius / look.distance)


def paint(image: Image, mesh: Floats, eyeballs: Eyeballs, *, blur: float = 0.0) -> list[Layer]:
    """The portrait's eyes for one frame.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, the target's region as it was filmed.
        mesh: ``(478, 3)`` of the target in pixels of the region.
        eyeballs: From :func:`prepare`.
        blur: Gaussian in pixels that makes what is painted as soft as the footage.

    Returns:
        A layer for each eye that is open and in view; lay them over the region with
        :func:`over`.
    """
    look = sight(mesh)
    radius = eyeballs.radius * look.distance
    radius = float(np.clip(radius, 0.9 * look.radius, 1.12 * look.radius))
    if radius < 1.0:
        return []
    scene = _Scene(image, mesh, look, radius, blur)
    sides = [s for s in (0, 1) if look.shown[s] > 0]
    whites = [_white(scene, side) for side in sides]
    # What one eye hides the other may show: both are seen by nearly the same light.
    total = sum((w.total for w in whites), np.zeros(4))
    if total[3] < 1e-3:
        return []
    mean = (total[:3] / total[3]).astype(np.float32)
    layers = []
    for side, white in zip(sides, whites, strict=True):
        layer = _eye(scene, side, white, mean, eyeballs.irises[side])
        if layer is not None:
            layers.append(layer)
    return layers


def over(image: Image, layers: list[Layer]) -> None:
    """Lay painted eyes over an image of the region, in place."""
    for rect, top, alpha in layers:
        view = image[rect.slices()]
        weight = alpha.astype(np.float32) * np.float32(1 / 255)
        view[...] = cv2.blendLinear(top, view, weight, 1 - weight)


def shut(image: Image, mesh: Floats) -> None:
    """Take out of shut lids what slips through of the portrait's open eyes, in place.

    A mesh follows the edge of a lid to within a few hundredths of the eye's width, so that a
    blink squeezes slivers of the white onto the lids. They are thin and brighter than what is
    around, which a morphological opening removes; lashes, which are darker, stay. Open eyes are
    left alone.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, the region with the portrait painted on it.
        mesh: ``(478, 3)`` of the target in pixels of the region.
    """
    look = sight(mesh)
    height, width = image.shape[:2]
    for side in (0, 1):
        closed = 1 - float(look.open[side])
        if closed == 0:
            continue
        ring = mesh[RINGS[side], :2]
        eye = float(np.hypot(*(ring[8] - ring[0])))
        reach = 0.14 * eye
        x0, y0, x1, y1 = geometry.bounds(ring)
        rect = Rect(
            max(0, int(x0 - 2 * reach)),
            max(0, int(y0 - 2 * reach)),
            min(width, int(x1 + 2 * reach) + 1),
            min(height, int(y1 + 2 * reach) + 1),
        )
        if rect.empty or reach < 1:
            continue
        view = image[rect.slices()]
        shift = np.array([rect.x0, rect.y0], np.float32)
        mask = _fill(ring - shift, rect.x1 - rect.x0, rect.y1 - rect.y0)
        points = np.round((ring - shift) * 16).astype(np.int32)
        cv2.polylines(mask, [points], True, 255, max(1, round(1.2 * reach)), cv2.LINE_AA, 4)
        weight = cv2.GaussianBlur(mask, (0, 0), 0.4 * reach).astype(np.float32) * (closed / 255)
        size = 2 * round(0.8 * reach) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        plain = cv2.GaussianBlur(cv2.morphologyEx(view, cv2.MORPH_OPEN, disc), (0, 0), 0.15 * reach)
        weight = weight.astype(np.float32)
        view[...] = cv2.blendLinear(plain, np.ascontiguousarray(view), weight, 1 - weight)


# --- The portrait ---------------------------------------------------------------------------

_SEARCH: Final = 16
"""Pixels to the radius that the mesh has, in the crop where the iris is looked for."""


def _cut(image: Image, mesh: Floats, look: Sight, side: int) -> tuple[float, Floats, float] | None:
    """Worth, texture ``(s, s, 4)`` and radius in pixels of one iris; None if it is no use."""
    ring = mesh[RINGS[side], :2]
    x0, y0, x1, y1 = geometry.bounds(ring)
    h, w = image.shape[:2]
    usual = RADIUS * look.distance
    guess = float(np.clip(look.radius, 0.9 * usual, 1.2 * usual))
    outside = min(x0, y0) < 0 or x1 > w - 1 or y1 > h - 1
    if look.shown[side] < 0.3 or outside or guess < LEAST:
        return None
    size = 8 * _SEARCH + 1
    matrix = geometry.square_crop(mesh[IRISES[side], :2], size / _SEARCH * guess, look.angle, size)
    crop = geometry.warp(
        image, matrix, size, interpolation=cv2.INTER_CUBIC, border=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    inside = _fill(geometry.transform(matrix, ring), size, size) > 127
    inside[size // 2, size // 2] = True  # never empty
    cx, cy, r, edge = _find(crop, inside)

    # The white: what is bright and pale, well inside the lids and beside the iris.
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    far = np.hypot(xs - cx, ys - cy)
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    beside = core & (far > 1.12 * r)
    disc = core & (far < 0.85 * r)
    if beside.sum() < 20 or edge < CLEAR:
        return None
    pale = crop[beside]
    least = 1.5 * pale.min(1) - 0.5 * pale.max(1)
    low, high = np.percentile(least, (55, 95))
    white = np.median(pale[(least >= low) & (least <= high)], axis=0)
    # Half of its tint may be lid, varnish or a vein and not the light.
    white = np.sqrt(white * white.mean())
    luma = np.array([0.3, 0.59, 0.11], np.float32)
    level = float(white @ luma)
    red, green, blue = tone = np.median(crop[disc], axis=0) / np.maximum(white, 1)
    dark = float(tone @ luma)
    # No iris is pink: that is the skin of a lid.
    pink = dark > 0.3 and red > 1.2 * green and blue > 0.9 * green
    if level < 20 or dark > 0.9 or pink:
        return None
    # The upper lid's lashes and shadow are no iris.
    core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    core[4:] &= core[:-4].copy()
    fine = float(np.clip((guess - 5) / 10, 0, 1))
    texture, seen = _unroll(crop, core, (cx, cy, r), white, fine)
    if seen < SEEN:
        return None
    worth = seen * min(level, 160.0) * (1 - dark) * min(guess, 12.0) * float(look.shown[side])
    return worth * (0.5 + edge), texture, r * guess / _SEARCH


def _find(crop: Floats, inside: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Middle, radius and clearness of the iris in a crop centred where the mesh has it.

    The circle is the one across which brightness rises most (Daugman, "High confidence visual
    recognition of persons by a test of statistical independence", 1993), over those parts of it
    that lie between the lids, near the mesh's.
    """
    # Irises of all colours are dark in red light, lids and whites are bright.
    light = cv2.GaussianBlur(crop[..., 0] * 0.7 + crop[..., 1] * 0.3, (0, 0), 1.2)
    span = max(float(np.subtract(*np.percentile(light[inside], (90, 10)))), 8.0)
    light = np.clip(light, *np.percentile(light[inside], (4, 92)))
    lids = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    angles = np.deg2rad(np.arange(-48, 229, 6))  # all but the top, where lashes are
    ux, uy = np.cos(angles), np.sin(angles)
    middle = crop.shape[0] // 2
    dys, dxs = np.mgrid[-6:7, -5:6]
    best = (-np.inf, 0.0, 0.0, 1.0, 0.0)
    for r in np.arange(0.85, 1.2, 0.05) * _SEARCH:
        sums = []
        x = middle + dxs[..., None] + r * ux
        y = middle + dys[..., None] + r * uy
        for step in (-2.5, 2.5):
            i = np.round(y + step * uy).astype(int)
            j = np.round(x + step * ux).astype(int)
            sums.append((light[i, j], lids[i, j]))
        both = sums[0][1] * sums[1][1]
        count = both.sum(-1)
        rise = ((sums[1][0] - sums[0][0]) * both).sum(-1) / (count + 4) / span
        prior = (dxs / 9.0) ** 2 + (dys / 9.0) ** 2 + ((r / _SEARCH - 1) / 0.15) ** 2
        score = rise - 0.06 * prior
        k = int(np.argmax(score))
        if score.flat[k] > best[0]:
            best = (float(score.flat[k]), float(dxs.flat[k]), float(dys.flat[k]), float(r),
                    float(rise.flat[k]))  # fmt: skip
    return middle + best[1], middle + best[2], best[3], float(np.clip(best[4], 0, 1))


_RAYS: Final = 96


def _unroll(
    crop: Floats,
    core: NDArray[np.bool_],
    circle: tuple[float, float, float],
    white: Floats,
    fine: float,
) -> tuple[Floats, float]:
    """Texture ``(s, s, 4)`` of an iris, completed, and the share of it that was seen.

    ``fine`` 0..1 says how much of the detail around the middle to keep.
    """
    rings = 40
    rho = (np.arange(rings, dtype=np.float32) + 0.5) / rings
    phi = np.arange(_RAYS, dtype=np.float32) * np.float32(2 * np.pi / _RAYS)
    cx, cy, r = circle
    x = cx + r * np.outer(np.cos(phi), rho)
    y = cy + r * np.outer(np.sin(phi), rho)
    x, y = x.astype(np.float32), y.astype(np.float32)
    polar = np.asarray(cv2.remap(crop, x, y, cv2.INTER_LINEAR), np.float32)
    seen = np.asarray(cv2.remap(core.astype(np.float32), x, y, cv2.INTER_LINEAR)) > 0.9
    black = min(
        float(np.percentile(polar[seen].mean(1), 3)) if seen.any() else 0.0,
        0.12 * float(white.mean()),
    )
    black *= 0.5
    polar = np.clip((polar - black) / np.maximum(white - black, 8.0), 0, 1.2)

    # Beside and below the middle the lids cast least shadow: there the profile is taken.
    level = polar.mean(2)
    weight = seen * (0.3 + np.abs(np.cos(phi)) + np.maximum(np.sin(phi), 0))[:, None]
    profile = _weighted_median(polar, weight)
    plain = profile.mean(1)
    # A catch-light belongs to the photo's scene, as does what the rim of a lid reflects.
    glare = level > plain * 1.35 + 0.12
    glare = cv2.dilate(glare.astype(np.uint8), np.ones((7, 5), np.uint8)) > 0
    weight = np.where(glare, 0, weight)
    profile = _weighted_median(polar, weight)
    # The outermost tenth is mixed with the white by any lens: continued from within.
    last = int(0.86 * rings)
    profile[last:] = profile[last - 3 : last].mean(0)
    for c in range(3):
        profile[:, c] = np.convolve(np.pad(profile[:, c], 4, "edge"), np.ones(9) / 9, "valid")
    # What blur and a shifted circle make of pupil and catch-light is put right: a dark pupil with
    # a clear edge, and a body of nearly one colour.
    body = np.median(profile[rings // 2 : last], axis=0)
    outer = body + 0.6 * (profile - body)
    outer[: int(0.45 * rings)] = outer[int(0.45 * rings)]
    inner = np.minimum(profile[: rings // 5].mean(0), 0.25 * body)
    pupil = (1 - _smooth((rho - 0.27) / 0.12))[:, None]
    profile = (inner * pupil + outer * (1 - pupil)).astype(np.float32)

    # Light across the iris, the lid's shadow included, is a smooth factor around. Some of it is
    # left: light from above makes every iris glow below.
    valid = weight > 0
    valid[:, last:] = False
    ratio = np.log((level + 0.03) / (profile.mean(1) + 0.03))
    mean = (ratio * valid).sum(1) / np.maximum(valid.sum(1), 1)
    amount = valid.sum(1).astype(np.float64)
    around = _wrap_blur(mean * amount, 7) / np.maximum(_wrap_blur(amount, 7), 1e-3)
    even = polar * np.exp(-0.6 * np.clip(around, -1, 1))[:, None, None].astype(np.float32)

    # What was not seen: from the mirrored ray, and where that was not seen, from the profile.
    ends = ((10, 10), (0, 0))
    known = cv2.GaussianBlur(np.pad(valid.astype(np.float32), ends, "wrap"), (0, 0), 2.5)
    known = np.where(valid, np.clip(known[10:-10] * 2 - 1, 0, 1), 0)[..., None] * np.float32(fine)
    detail = np.clip(even - profile, -0.2, 0.2) * (1 - pupil)
    ray = (_RAYS // 2 - np.arange(_RAYS)) % _RAYS
    detail = detail * known + (detail * known)[ray] * (1 - known) * 0.8
    full = np.clip(profile + detail, 0, 1)

    return _disc(full), float(valid[:, :last].mean())


def _disc(polar: Floats) -> Floats:
    """Texture ``(s, s, 4)`` of an iris from its ``(rays, rings, 3)``."""
    rays, rings = polar.shape[:2]
    half = round(UNIT * REACH)
    ys, xs = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32) / UNIT
    far = np.hypot(xs, ys)
    ring = np.clip(far * rings - 0.5, 0, rings - 1).astype(np.float32)
    turn = (np.arctan2(ys, xs) % (2 * np.pi) * (rays / (2 * np.pi))).astype(np.float32)
    wrapped = np.concatenate([polar, polar[:1]]).astype(np.float32)
    disc = np.asarray(cv2.remap(wrapped, ring, turn, cv2.INTER_LINEAR), np.float32)
    # The limbus: a dark, soft rim.
    disc *= (1 - 0.35 * _smooth((far - 0.72) / 0.28))[..., None]
    cover = 1 - _smooth((far - 0.9) / 0.2)
    return np.dstack([disc, cover]).astype(np.float32)


def _weighted_median(polar: Floats, weight: Floats) -> Floats:
    """Colour of each ring of ``(rays, rings, 3)``, by weights ``(rays, rings)``; ``(rings, 3)``."""
    order = np.argsort(polar, axis=0)
    ranked = np.take_along_axis(polar, order, 0)
    heavy = np.take_along_axis(np.repeat(weight[..., None] + 1e-6, 3, 2), order, 0).cumsum(0)
    at = (heavy < heavy[-1:] / 2).sum(0)
    return np.asarray(np.take_along_axis(ranked, at[None], 0)[0], np.float32)


def _wrap_blur(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    reach = 3 * round(sigma)
    x = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    padded = np.pad(values, reach, "wrap")
    return np.asarray(np.convolve(padded, kernel / kernel.sum(), "valid"), np.float64)


def _levels(texture: Floats) -> tuple[Floats, ...]:
    """The texture and three halvings of it; the middle stays the middle."""
    out = [texture]
    for _ in range(3):
        out.append(np.asarray(cv2.pyrDown(out[-1]), np.float32))
    return tuple(out)


# --- The target -----------------------------------------------------------------------------

_GRID: Final = (48, 24)
"""Cells across and down of the grid along an eye on which its light is compared."""


class _Scene(NamedTuple):
    """What one frame's eyes are painted from; see :func:`paint`."""

    image: Image
    mesh: Floats
    look: Sight
    radius: float
    blur: float


class _White(NamedTuple):
    """The white of one of the target's eyes.

    Attributes:
        matrix: ``(2, 3)`` region → grid.
        colour: ``(24, 48, 3)`` float32, weighted and blurred.
        weight: ``(24, 48)`` float32, blurred.
        lids: ``(24, 48)`` float32 0..1, inside the lids.
        total: ``(4,)`` float64, sum of weighted colour and of weight.
        dark: Brightness of the darkest of what lies between the lids.
    """

    matrix: geometry.Matrix
    colour: Floats
    weight: Floats
    lids: Floats
    total: NDArray[np.float64]
    dark: float


def _white(scene: _Scene, side: int) -> _White:
    """Look at the target's eye without its iris."""
    gw, gh = _GRID
    ring = scene.mesh[RINGS[side], :2]
    a, b = ring[0].astype(np.float64), ring[8].astype(np.float64)
    along = (b - a) if side == 0 else (a - b)
    width = max(float(np.hypot(*along)), 1e-3)
    scale = gw / (1.3 * width)
    c, s = along / width * scale
    mx, my = (a + b) / 2
    matrix = np.array(
        [[c, s, (gw - 1) / 2 - c * mx - s * my], [-s, c, (gh - 1) / 2 + s * mx - c * my]]
    )
    crop = cv2.warpAffine(scene.image, matrix, _GRID, borderMode=cv2.BORDER_REPLICATE)
    small8 = np.asarray(cv2.GaussianBlur(crop, (0, 0), max(0.6, 0.4 * scale)), np.uint8)
    small, least = small8.astype(np.float32), _least(small8)
    lids = _fill(geometry.transform(matrix, ring), gw, gh).astype(np.float32) * np.float32(1 / 255)
    inner = np.asarray(cv2.erode(lids, np.ones((3, 3), np.uint8)), np.float32)

    cx, cy = geometry.transform(matrix, scene.look.centres[side])
    xs, ys = np.arange(gw, dtype=np.float32), np.arange(gh, dtype=np.float32)[:, None]
    far = np.sqrt((xs - cx) ** 2 + (ys - cy) ** 2) * np.float32(1 / (scene.radius * scale))
    beside = inner * _smooth((far - 1.1) / 0.2)
    # Lashes and the shadow of the lid are no white, nor is its skin, which has more colour.
    r, g, b_ = cv2.split(small)
    pale = 1.5 * least - 0.5 * cv2.max(cv2.max(r, g), b_)
    high = _ranked(pale[beside > 0.5], 0.85) or float(pale.max())
    weight = beside * _smooth((pale - 0.6 * high) / max(0.3 * high, 1.0))
    weighted = np.dstack([small * weight[..., None], weight])
    blurred = np.asarray(cv2.GaussianBlur(weighted, (0, 0), 4.0, sigmaY=1.6), np.float32)
    total = np.array(cv2.sumElems(weighted), np.float64)
    dark = _ranked(least[inner > 0.5], 0.08)
    return _White(matrix, blurred[..., :3], blurred[..., 3:], lids, total, dark)


def _eye(
    scene: _Scene, side: int, white: _White, mean: Floats, levels: tuple[Floats, ...]
) -> Layer | None:
    """Paint one eye; ``mean`` is the colour of the white of both."""
    image, mesh, look, radius, blur = scene
    height, width = image.shape[:2]
    ring = mesh[RINGS[side], :2]
    soft = max(0.6, 0.06 * radius, blur)
    x0, y0, x1, y1 = geometry.bounds(ring)
    pad = 3 * soft + 1
    rect = Rect(
        max(0, int(x0 - pad)),
        max(0, int(y0 - pad)),
        min(width, int(x1 + pad) + 2),
        min(height, int(y1 + pad) + 2),
    )
    w, h = rect.x1 - rect.x0, rect.y1 - rect.y0
    if w < 3 or h < 3:
        return None
    shift = np.array([rect.x0, rect.y0], np.float32)
    alpha = np.asarray(cv2.GaussianBlur(_fill(ring - shift, w, h), (0, 0), soft), np.uint8)

    # On the coarse grid: the white without iris, shaded by the upper lid, and the light that the
    # iris gets. As in the portrait, half of the white's tint counts as light.
    field = (white.colour + np.float32(0.02) * mean) / (white.weight + np.float32(0.02))
    field *= (1 - LID_SHADE * _under_lid(white.lids, 3))[..., None]
    grey = np.asarray(cv2.cvtColor(field, cv2.COLOR_RGB2GRAY), np.float32)[..., None]
    black = min(0.2 * float(mean.mean()), white.dark)
    lashes = _under_lid(white.lids, 2)[..., None]
    back = geometry.invert(white.matrix)
    back[:, 2] -= shift
    both = np.concatenate([field, lashes], 2), np.concatenate([np.sqrt(field * grey), grey], 2)
    ground, lashes = _parted(_warped(both[0], back, w, h, cv2.BORDER_REPLICATE))
    light, bright = _parted(_warped(both[1], back, w, h, cv2.BORDER_REPLICATE))

    level = int(np.clip(np.log2(UNIT / radius), 0, len(levels) - 1))
    iris = levels[level]
    matrix = _onto(look, side, radius / (UNIT * 0.5**level), iris.shape[0])
    matrix[:, 2] -= shift
    drawn, cover = _parted(_warped(iris, matrix, w, h, cv2.BORDER_CONSTANT))
    drawn *= np.maximum(light - np.float32(black), 0)
    drawn += np.float32(black)
    painted = cv2.blendLinear(ground, drawn, 1 - cover, cover)

    # The target's catch-lights stay: they are the scene's. The rim is left out, where its iris
    # may lie elsewhere and its white would pass for one.
    seen = image[rect.slices()]
    least = _least(seen).astype(np.float32)
    rim = 2 * round(0.25 * radius) + 1
    disc = cv2.erode(cover, np.ones((rim, rim), np.uint8)) * (alpha > 200)
    usual = float((least * disc).sum()) / max(float(disc.sum()), 1.0)
    limit = np.maximum(0.45 * bright, usual + 0.25 * bright)
    glint = disc * _smooth((least - limit) / (0.2 * bright + 1))
    bare = cv2.max(painted, seen.astype(np.float32))
    painted = np.asarray(cv2.blendLinear(painted, bare, 1 - glint, glint), np.float32)
    # So does what the target's lashes darken.
    lit = 1 - lashes * (1 - np.clip(least / (0.7 * bright + 1), 0.3, 1))
    painted *= cv2.merge([lit, lit, lit])
    if blur > 0.3:
        painted = np.asarray(cv2.GaussianBlur(painted, (0, 0), blur), np.float32)
    alpha = np.asarray(cv2.convertScaleAbs(alpha, alpha=float(look.shown[side])), np.uint8)
    return Layer(rect, np.asarray(cv2.convertScaleAbs(painted), np.uint8), alpha)


def _onto(look: Sight, side: int, scale: float, size: int) -> geometry.Matrix:
    """Map of the prepared iris into the region: turned with the head, flattened by the gaze."""
    gx, gy = look.gaze[side].tolist()
    x, y = look.centres[side].tolist()
    length = max(math.hypot(gx, gy), 1e-6)
    flat = math.sqrt(1 - min(length, 0.66) ** 2) - 1
    ux, uy = gx / length, gy / length
    xx, xy, yy = 1 + flat * ux * ux, flat * ux * uy, 1 + flat * uy * uy
    c, s = math.cos(look.angle) * scale, math.sin(look.angle) * scale
    a, b, d, e = xx * c + xy * s, xy * c - xx * s, xy * c + yy * s, yy * c - xy * s
    middle = (size - 1) / 2
    return np.array([[a, b, x - (a + b) * middle], [d, e, y - (d + e) * middle]])


def _under_lid(lids: Floats, cells: int) -> Floats:
    """0..1: within some cells of the upper lid, whose shadow and lashes darken the eyeball."""
    lower = np.zeros_like(lids)
    lower[cells:] = lids[:-cells]
    return np.asarray(1 - cv2.GaussianBlur(lower, (0, 0), 0.45 * cells), np.float32)


def _warped(image: Floats, matrix: geometry.Matrix, w: int, h: int, border: int) -> Floats:
    out = cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(out, np.float32)


def _parted(image: Floats) -> tuple[Floats, Floats]:
    """Colour ``(h, w, 3)`` and the fourth channel ``(h, w)``."""
    colour = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.float32)
    return colour, np.asarray(cv2.extractChannel(image, 3), np.float32)


def _least(image: Image) -> Image:
    """The darkest channel of each pixel: high only where it is bright and pale."""
    r, g, b = cv2.split(image)
    return np.asarray(cv2.min(cv2.min(r, g), b), np.uint8)


def _ranked(values: NDArray[np.uint8], share: float) -> float:
    """The value that a share of the values does not exceed; 0 of few."""
    if len(values) < 8:
        return 0.0
    return float(np.sort(values)[int(share * (len(values) - 1))])


def _fill(points: Floats, width: int, height: int) -> Image:
    """Cover of a polygon, ``(height, width)`` uint8, with smooth edges."""
    fine = 2
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    p = (np.asarray(points, np.float64) + 0.5) * fine - 0.5
    cv2.fillPoly(canvas, [np.round(p * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _smooth(x: ArrayLike) -> Floats:
    """Smooth step from 0 at 0 to 1 at 1."""
    t = np.clip(np.asarray(x, np.float32), 0, 1)
    out: Floats = t * t * (3 - 2 * t)
    return out
