"""The target: the portrait's iris painted between its lids, and shut lids made clean."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry
from mien.eyes.gaze import RINGS, Sight, fill, sight, smooth
from mien.eyes.iris import UNIT, Eyeballs
from mien.types import Floats, Image, Rect

LID_SHADE: Final = 0.4
"""How much darker the eyeball is at the edge of the upper lid."""

_GRID: Final = (48, 24)
"""Cells across and down of the grid along an eye on which its light is compared."""


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


def paint(
    image: Image,
    mesh: Floats,
    eyeballs: Eyeballs,
    *,
    blur: float = 0.0,
    look: Sight | None = None,
) -> list[Layer]:
    """The portrait's eyes for one frame.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, the target's region as it was filmed.
        mesh: ``(478, 3)`` of the target in pixels of the region.
        eyeballs: From :func:`prepare`.
        blur: Gaussian in pixels that makes what is painted as soft as the footage.
        look: :func:`sight` of the mesh, if it is known.

    Returns:
        A layer for each eye that is open and in view; lay them over the region with
        :func:`over`.
    """
    look = look or sight(mesh)
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


def shut(image: Image, mesh: Floats, look: Sight | None = None) -> None:
    """Take out of shut lids what slips through of the portrait's open eyes, in place.

    A mesh follows the edge of a lid to within a few hundredths of the eye's width, so that a
    blink squeezes slivers of the white onto the lids. They are thin and brighter than what is
    around, which a morphological opening removes; lashes, which are darker, stay. Open eyes are
    left alone.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, the region with the portrait painted on it.
        mesh: ``(478, 3)`` of the target in pixels of the region.
        look: :func:`sight` of the mesh, if it is known.
    """
    look = look or sight(mesh)
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
        mask = fill(ring - shift, rect.x1 - rect.x0, rect.y1 - rect.y0)
        points = np.round((ring - shift) * 16).astype(np.int32)
        cv2.polylines(mask, [points], True, 255, max(1, round(1.2 * reach)), cv2.LINE_AA, 4)
        weight = cv2.GaussianBlur(mask, (0, 0), 0.4 * reach).astype(np.float32) * (closed / 255)
        size = 2 * round(0.8 * reach) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        plain = cv2.GaussianBlur(cv2.morphologyEx(view, cv2.MORPH_OPEN, disc), (0, 0), 0.15 * reach)
        weight = weight.astype(np.float32)
        view[...] = cv2.blendLinear(plain, np.ascontiguousarray(view), weight, 1 - weight)


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
    lids = fill(geometry.transform(matrix, ring), gw, gh).astype(np.float32) * np.float32(1 / 255)
    inner = np.asarray(cv2.erode(lids, np.ones((3, 3), np.uint8)), np.float32)

    cx, cy = geometry.transform(matrix, scene.look.centres[side])
    xs, ys = np.arange(gw, dtype=np.float32), np.arange(gh, dtype=np.float32)[:, None]
    far = np.sqrt((xs - cx) ** 2 + (ys - cy) ** 2) * np.float32(1 / (scene.radius * scale))
    beside = inner * smooth((far - 1.1) / 0.2)
    # Lashes and the shadow of the lid are no white, nor is its skin, which has more colour.
    r, g, b_ = cv2.split(small)
    pale = 1.5 * least - 0.5 * cv2.max(cv2.max(r, g), b_)
    high = _ranked(pale[beside > 0.5], 0.85) or float(pale.max())
    weight = beside * smooth((pale - 0.6 * high) / max(0.3 * high, 1.0))
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
    alpha = np.asarray(cv2.GaussianBlur(fill(ring - shift, w, h), (0, 0), soft), np.uint8)

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
    glint = disc * smooth((least - limit) / (0.2 * bright + 1))
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
