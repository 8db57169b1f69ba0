"""The portrait: its iris cut out, completed, and free of gaze, lids and light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry
from mien.eyes.gaze import IRISES, RINGS, Sight, fill, sight, smooth
from mien.types import Floats, Image

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

LEAST: Final = 2.5
"""Least radius in pixels of an iris in a portrait."""


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
    inside = fill(geometry.transform(matrix, ring), size, size) > 127
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
    pupil = (1 - smooth((rho - 0.27) / 0.12))[:, None]
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
    disc *= (1 - 0.35 * smooth((far - 0.72) / 0.28))[..., None]
    cover = 1 - smooth((far - 0.9) / 0.2)
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
