"""Things in front of a face, drawn by the computer on a photo whose mesh is known.

The occlusion network learns from these: the label comes with the drawing. Everything is drawn at
twice the size that the network sees and then averaged, so that thin things have soft edges.

What hides the face is labelled 1: spectacle frames and strong glare on lenses, hair in front of
the skin, hands, things held, masks, letters, any shape. What only changes the light on it is 0:
cast shadows, highlights, faint tints. A thin line is labelled with about a pixel around it, since
a pixel beside a frame shows half of it and its shadow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry
from mien.landmarks import OVAL
from mien.mask import SKIN
from mien.motion import CROP, aligned
from mien.types import Floats, Image

CANVAS: Final = 2 * CROP
"""Side in pixels at which things are drawn."""

HIGH_MASK: Final = (234, 227, 117, 118, 100, 126, 197, 355, 329, 347, 346, 447, 454)
LOW_MASK: Final = (93, 137, 123, 50, 36, 49, 5, 279, 266, 280, 352, 366, 323)
"""Upper edges that a cloth mask may have, vertices from ear to ear."""

Colour = NDArray[np.float32]


@dataclass(slots=True)
class Scene:
    """A photo that things are put in front of, one after the other.

    Attributes:
        image: ``(CANVAS, CANVAS, 3)`` float32 RGB 0..255.
        label: ``(CANVAS, CANVAS)`` float32 0..1, what hides the face.
        mesh: ``(468, 3)`` in pixels of the canvas.
        textures: Other photos, uint8 RGB of any size, to cut surfaces from.
        rng: Where chance comes from.
    """

    image: Floats
    label: Floats
    mesh: Floats
    textures: Sequence[Image]
    rng: np.random.Generator

    @property
    def eyes(self) -> tuple[Floats, Floats, float]:
        """Centres of both eyes, ``(3,)`` each, and the distance between them."""
        left: Floats = self.mesh[[33, 133]].mean(0)
        right: Floats = self.mesh[[362, 263]].mean(0)
        return left, right, max(float(np.linalg.norm(right - left)), 8.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One training picture.

    Attributes:
        image: ``(CROP, CROP, 3)`` uint8 RGB.
        label: ``(CROP, CROP)`` uint8, 0..255 for 0..1.
        mesh: ``(468, 3)`` in pixels of the crop.
    """

    image: Image
    label: Image
    mesh: Floats


def sample(
    photo: Image,
    mesh: Floats,
    textures: Sequence[Image],
    rng: np.random.Generator,
    *,
    kinds: Sequence[str] | None = None,
    chances: Mapping[str, float] | None = None,
) -> tuple[Sample, Floats]:
    """A photo with things in front of the face, seen by a camera that may be poor.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        mesh: ``(468+, 3)`` in pixels of the photo.
        textures: At least one other photo.
        rng: Where chance comes from.
        kinds: Keys of :data:`KINDS` to draw, in order; left to chance if not given.
        chances: How often each kind is drawn, :data:`MEASURED` if not given.

    Returns:
        The sample, and the ``(2, 3)`` map of the photo onto its crop.
    """
    matrix = jittered(mesh, rng)
    big = matrix * 2
    big[:, 2] += 0.5
    canvas = cv2.warpAffine(
        photo, big, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101 if rng.random() < 0.5 else cv2.BORDER_CONSTANT,
    )  # fmt: skip
    points = geometry.transform(big, mesh[:468])
    scene = Scene(
        canvas.astype(np.float32), np.zeros((CANVAS, CANVAS), np.float32), points, textures, rng
    )
    if rng.random() < 0.3:
        cast_shadow(scene)
    if rng.random() < 0.1:
        highlight(scene)
    for kind in _chosen(rng, chances or MEASURED) if kinds is None else kinds:
        KINDS[kind](scene)
    image = np.asarray(
        cv2.resize(scene.image, (CROP, CROP), interpolation=cv2.INTER_AREA), np.float32
    )
    label = cv2.resize(scene.label, (CROP, CROP), interpolation=cv2.INTER_AREA)
    shown = geometry.transform(matrix, mesh[:468])
    # Fitted on a face that is partly hidden, a mesh is a little off.
    shown += rng.normal(0, 1.0, 3).astype(np.float32)
    return (
        Sample(camera(image, rng), np.clip(label * 255 + 0.5, 0, 255).astype(np.uint8), shown),
        matrix.astype(np.float32),
    )


def jittered(mesh: Floats, rng: np.random.Generator) -> geometry.Matrix:
    """The aligned crop's map, a little turned, scaled and shifted."""
    m = np.vstack([aligned(mesh, CROP), [0, 0, 1]])
    angle, scale = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.05))
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    half = (CROP - 1) / 2
    dx, dy = rng.normal(0, 2.0, 2) + half
    turn = np.array([[c, -s, dx - c * half + s * half], [s, c, dy - s * half - c * half]])
    return np.asarray(turn @ m, np.float64)


def camera(image: Floats, rng: np.random.Generator) -> Image:
    """What a camera and a file make of a picture: exposure, blur, noise, blocks.

    Args:
        image: ``(h, w, 3)`` float32 RGB 0..255.
        rng: Where chance comes from.
    """
    h, w = image.shape[:2]
    x: NDArray[Any] = np.clip(image, 0, 255) / np.float32(255)
    x = np.asarray(cv2.pow(x, float(np.exp(rng.normal(0, 0.25)))))
    x = (
        x
        * np.float32(np.exp(rng.normal(0, 0.15)))
        * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    )
    if rng.random() < 0.06:
        x = np.repeat(x.mean(2, keepdims=True), 3, 2)
    p = rng.random()
    if p < 0.3:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.3, 1.3))))
    elif p < 0.45:
        f = rng.uniform(0.35, 0.9)
        small = cv2.resize(x, None, fx=f, fy=f, interpolation=cv2.INTER_AREA)
        x = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))
    elif p < 0.6:
        soft = cv2.GaussianBlur(x, (0, 0), 1.0)
        x = x + (x - soft) * np.float32(rng.uniform(0.3, 1.5))  # footage is sharper than LFW
    elif p < 0.67:
        x = np.asarray(cv2.filter2D(x, -1, _motion_kernel(rng)))
    if rng.random() < 0.4:
        x = x + rng.normal(0, rng.uniform(0.004, 0.04), x.shape).astype(np.float32)
    out = np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.45:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
        done, data = cv2.imencode(".jpg", out[..., ::-1], quality)
        if done:
            again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
            out = np.ascontiguousarray(again[..., ::-1])
    return np.asarray(out, np.uint8)


def cast_shadow(scene: Scene) -> None:
    """A shadow with a hard or soft edge across the face; it hides nothing."""
    rng = scene.rng
    shape = _blob(rng, scene.mesh[:, :2].mean(0) + rng.normal(0, 60, 2), rng.uniform(40, 140))
    alpha = _soft(_fill(shape), rng.uniform(0.8, 12))
    colour = 1 - rng.uniform(0.2, 0.65) * rng.uniform(0.85, 1, 3)
    scene.image *= 1 - alpha[..., None] * (1 - colour.astype(np.float32))


def highlight(scene: Scene) -> None:
    """Shine on skin; it hides nothing."""
    rng = scene.rng
    at = scene.mesh[int(rng.choice((10, 151, 50, 280, 4, 101, 330, 199))), :2]
    alpha = _soft(_fill(_blob(rng, at, rng.uniform(6, 22))), rng.uniform(3, 9))
    scene.image += alpha[..., None] * np.float32(rng.uniform(30, 120))


def glasses(scene: Scene, wire: bool = False) -> None:  # noqa: PLR0912, PLR0915 - one drawing
    """Spectacles, placed in space by the eyes so that they turn with the head.

    Args:
        scene: What they are put in front of.
        wire: Only thin frames with clear lenses.
    """
    rng = scene.rng
    left, right, d = scene.eyes
    ex = (right - left) / d
    down = scene.mesh[152] - scene.mesh[168]
    ey = down - (down @ ex) * ex
    ey /= max(float(np.linalg.norm(ey)), 1e-3)
    ez = np.cross(ex, ey)  # away from the camera
    origin = (left + right) / 2 - ez * d * rng.uniform(0.15, 0.3) + ey * d * rng.normal(0.06, 0.04)
    a, b = d * rng.uniform(0.31, 0.46), d * rng.uniform(0.18, 0.38)
    if rng.random() < 0.2:
        b = a * rng.uniform(0.9, 1.05)  # round ones
    at = max(0.5 * d * rng.uniform(0.94, 1.1), a + 0.07 * d)
    power, taper, droop = rng.uniform(1.8, 5), rng.normal(0.08, 0.1), rng.normal(0, 0.08)
    wrap = rng.uniform(0.05, 0.4)
    t = np.linspace(0, 2 * np.pi, 49)[:-1]
    cx = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power)
    cy = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power)
    lx, ly = a * cx * (1 - taper * cy), b * cy + droop * d * cx

    def project(x: Any, y: Any) -> Floats:
        x, y = np.asarray(x, float), np.asarray(y, float)
        z = wrap * x * x / d
        p = origin + x[:, None] * ex + y[:, None] * ey + z[:, None] * ez
        return np.asarray(p[:, :2], np.float32)

    lenses = [project(-at - lx, ly), project(at + lx, ly)]
    sun = rng.random() < 0.18 and not wire
    widest = 0.03 if wire else 0.085
    width = max(1, round(float(np.exp(rng.uniform(np.log(0.012), np.log(widest)))) * d))
    style = str(rng.choice(("full", "half", "rimless", "brow"), p=(0.66, 0.14, 0.08, 0.12)))
    upper = np.flatnonzero(cy < 0.15)
    strokes: list[tuple[Floats, int, bool]] = []
    for lens in lenses:
        if style in ("full", "brow"):
            strokes.append((lens, max(1, width // 2) if style == "brow" else width, True))
        if style in ("half", "brow"):
            strokes.append((lens[upper], round(width * (1.6 if style == "brow" else 1)), False))
    inner, lift = at - a, rng.uniform(-0.7, -0.05) * b
    bx = np.linspace(-inner, inner, 9)
    arch = rng.uniform(0, 0.35) * b
    strokes.append((project(bx, lift - arch * (1 - (bx / inner) ** 2)), width, False))
    if rng.random() < 0.12:
        strokes.append((project(bx, np.full(9, -0.85 * b)), width, False))
    hinge_y = rng.uniform(-0.7, 0.0) * b
    for side, ear in ((-1, 127), (1, 356)):
        hinge = origin + side * (at + a) * ex + hinge_y * ey + wrap * (at + a) ** 2 / d * ez
        end = scene.mesh[ear] + ez * d * 0.3 + side * ex * d * 0.06
        if side * float((end - hinge) @ np.array([1.0, 0, 0])) > 1:  # seen from outside
            line = np.stack([hinge[:2], end[:2]]).astype(np.float32)
            strokes.append((line, max(1, round(width * rng.uniform(0.6, 1.4))), False))
    frame = np.zeros((CANVAS, CANVAS), np.uint8)
    wide = np.zeros((CANVAS, CANVAS), np.uint8)
    for line, thick, closed in strokes:
        _line(frame, line, max(1, thick), closed)
        _line(wide, line, max(1, thick) + 3, closed)

    inside = np.zeros((CANVAS, CANVAS), np.uint8)
    for lens in lenses:
        cv2.fillPoly(inside, [np.round(lens * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    lens_a = inside.astype(np.float32) / np.float32(255)
    if rng.random() < 0.6:
        shade = np.maximum(frame, inside) if sun else frame
        moved = np.roll(shade, (int(rng.integers(1, 9)), int(rng.integers(-5, 6))), (0, 1))
        s = _soft(moved.astype(np.float32) / 255, rng.uniform(0.8, 3))
        scene.image *= 1 - s[..., None] * np.float32(rng.uniform(0.15, 0.6))
    if sun:
        alpha = lens_a * np.float32(rng.uniform(0.6, 1.0))
        tint = _gradient(rng, _palette(rng) * 0.5, _palette(rng) * 0.9)
        if rng.random() < 0.4:
            tint = tint * np.float32(0.6) + _texture(scene) * np.float32(0.4)
        _over(scene, tint, alpha, lens_a)
    else:
        share = rng.uniform(0, 0.14) if rng.random() < 0.6 else rng.uniform(0.1, 0.3)
        _over(scene, _palette(rng) + np.float32(60), lens_a * np.float32(share), None)
        if style == "rimless" or rng.random() < 0.05:
            edge = np.zeros_like(frame)
            for lens in lenses:
                _line(edge, lens, 1, True)
                _line(wide, lens, 4, True)
            dark = np.float32(rng.choice((20, 70, 220, 250)))
            _over(scene, np.full(3, dark, np.float32), edge / np.float32(255) * np.float32(0.6))
    if rng.random() < (0.5 if sun else 0.35):
        _glare(scene, lenses, lens_a)
    colour = _frame_colour(rng)
    surface = colour[None, None] * (np.float32(0.75) + np.float32(0.5) * _noise(rng, 8)[..., None])
    _over(scene, surface, frame.astype(np.float32) / 255 * np.float32(rng.uniform(0.8, 1)), None)
    if rng.random() < 0.5:
        shine = np.roll(frame, (-1, 0), (0, 1)).astype(np.float32) / 255 * _noise(rng, 12)
        inner_line = cv2.erode(frame, np.ones((2, 2), np.uint8)).astype(np.float32) / 255
        shine *= inner_line * np.float32(rng.uniform(0.1, 0.6))
        scene.image += shine[..., None] * (255 - scene.image)
    np.maximum(scene.label, wide.astype(np.float32) / 255, out=scene.label)


def _glare(scene: Scene, lenses: list[Floats], lens_a: Floats) -> None:
    rng = scene.rng
    spot = np.zeros((CANVAS, CANVAS), np.uint8)
    for lens in lenses:
        if rng.random() < 0.75:
            middle, spread = lens.mean(0), lens.std(0)
            at = middle + rng.normal(0, 0.7, 2) * spread
            if rng.random() < 0.5:
                shape = _blob(rng, at, float(spread[0] * rng.uniform(0.3, 1.2)))
            else:
                half = spread * rng.uniform(0.15, 1.0, 2)
                box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
                box[:, 0] += box[:, 1] * rng.normal(0, 0.5)
                shape = (at + box).astype(np.float32)
            cv2.fillPoly(spot, [np.round(shape * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    alpha = _soft(spot.astype(np.float32) / 255, rng.uniform(0.8, 5)) * lens_a
    alpha *= np.float32(rng.uniform(0.25, 1.0))
    white = np.array([255, 255, 255], np.float32) * rng.uniform(0.75, 1, 3).astype(np.float32)
    _over(scene, white, alpha, np.clip((alpha - 0.3) / 0.2, 0, 1))


def hair(scene: Scene) -> None:  # noqa: PLR0915 - one drawing, part by part
    """Hair in front of the face: a fringe, locks at the side, single strands."""
    rng = scene.rng
    colour = _hair_colour(scene)
    oval = scene.mesh[list(OVAL), :2]
    centre = scene.mesh[[33, 263, 1, 61, 291], :2].mean(0)
    _, _, d = scene.eyes
    form = str(rng.choice(("fringe", "swept", "sides", "strands"), p=(0.4, 0.25, 0.2, 0.15)))
    # Positions along the contour: 0 at the top, ±9 at the sides; hair grows outside of it.
    ring = np.concatenate([oval[-10:], oval[:11]])
    if form == "fringe":
        first, last = rng.uniform(-8, -3), rng.uniform(3, 8)
    elif form == "swept":
        first, last = (rng.uniform(-2, 1), rng.uniform(6, 9))[:: int(rng.choice((-1, 1)))]
        if first > last:
            first, last = -first, -last
            first, last = min(first, last), max(first, last)
    elif form == "sides":
        side = int(rng.choice((-1, 1)))
        first, last = sorted((side * 9.5, side * rng.uniform(4, 7)))
    else:
        first, last = rng.uniform(-9, 2), rng.uniform(3, 9)
    count = int(rng.integers(8, 30)) if form == "strands" else int(rng.integers(60, 180))
    length = d * rng.uniform(0.5, 1.3) if form in ("fringe", "swept") else d * rng.uniform(1, 2.6)
    if form == "strands":
        length = d * rng.uniform(0.5, 2.5)
    sweep = rng.normal(0, 0.5) if form != "swept" else rng.choice((-1, 1)) * rng.uniform(0.5, 1.4)
    raggedness = rng.uniform(0.03, 0.35)
    out = rng.uniform(1.04, 1.3)
    where = np.sort(rng.uniform(first, last, count)) + 10
    clumps = rng.normal(0, 1, 24)
    k = np.clip(where, 0, 19.99)
    i = k.astype(int)
    roots = ring[i] + (ring[i + 1] - ring[i]) * (k - i)[:, None]
    roots = centre + (roots - centre) * (out + rng.normal(0, 0.04, (count, 1)))
    clump = np.interp(where, np.linspace(0, 20, 24), clumps)
    reach = length * (1 + raggedness * (rng.normal(0, 0.5, count) + clump))
    inward = centre - roots
    inward /= np.linalg.norm(inward, axis=1, keepdims=True) + 1e-3
    fall = np.array([0.0, 1.0])
    start = inward * rng.uniform(0.2, 0.8) + np.array([sweep, 0.3])
    start /= np.linalg.norm(start, axis=1, keepdims=True) + 1e-3
    bend = fall + np.array([sweep * rng.uniform(0, 0.8), 0])
    p1 = roots + start * reach[:, None] * 0.5
    p2 = p1 + (bend / np.linalg.norm(bend)) * reach[:, None] * 0.6
    p2[:, 0] += rng.normal(0, 0.05 * d, count) + clump * 0.12 * d * raggedness * 3
    t = np.linspace(0, 1, 9)[None, :, None]
    lines = (1 - t) ** 2 * roots[:, None] + 2 * t * (1 - t) * p1[:, None] + t * t * p2[:, None]
    if rng.random() < 0.3:
        phase = rng.uniform(0, 6)
        wave = np.sin(t[..., 0] * rng.uniform(4, 14) + phase) * d * rng.uniform(0.02, 0.08)
        lines[..., 0] += wave * t[..., 0]
    groups = 8
    alpha = np.zeros((CANVAS, CANVAS), np.uint8)
    paint = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    paint[:] = np.clip(colour, 0, 255).astype(np.uint8)
    fine = rng.uniform(0.6, 1)
    if form != "strands" and rng.random() < 0.6:  # a dense body below the strands
        body = np.concatenate([roots, lines[::-1, -3]]).astype(np.float32)
        solid = _soft(_fill(body), rng.uniform(1, 4)) * rng.uniform(0.7, 1)
        paint[:] = np.clip(
            colour * rng.uniform(0.5, 0.9) * (0.8 + 0.4 * _noise(rng, 24)[..., None]), 0, 255
        )
        alpha = (solid * 255).astype(np.uint8)
    shades = np.exp(rng.normal(0, 0.3, groups))
    pick = rng.integers(0, groups, count)
    fixed = np.round(lines * 16).astype(np.int32)
    for g in range(groups):
        mine = list(fixed[pick == g])
        if mine:
            thick = int(rng.integers(1, 4 if form == "strands" else 6))
            ink = np.clip(colour * shades[g] + rng.uniform(-8, 8), 0, 255).tolist()
            cv2.polylines(paint, mine, False, ink, thick, cv2.LINE_AA, 4)
            cv2.polylines(alpha, mine, False, float(255 * fine), thick, cv2.LINE_AA, 4)
    a = _soft(alpha.astype(np.float32) / 255, 0.6)
    _shade_below(scene, a, 0.5)
    label = np.clip((cv2.dilate(a, np.ones((2, 2), np.uint8)) - 0.25) / 0.25, 0, 1)
    light = _light(scene) if rng.random() < 0.6 else np.float32(1)
    _over(scene, paint.astype(np.float32) * light, a, label)


def curtain(scene: Scene) -> None:
    """Hair that hangs or grows beside the face and covers its edge, on one side or both."""
    rng = scene.rng
    _, _, d = scene.eyes
    colour = _hair_colour(scene)
    oval = scene.mesh[list(OVAL), :2]
    centre = scene.mesh[[33, 263, 1, 61, 291], :2].mean(0)
    alpha = np.zeros((CANVAS, CANVAS), np.float32)
    last = int(rng.integers(5, 15))  # how far down the contour: 9 is beside the mouth
    for side in (-1, 1):
        if rng.random() < 0.25:
            continue
        n = int(np.clip(last + rng.integers(-2, 3), 4, 15))
        rim = oval[[(side * i) % len(oval) for i in range(int(rng.integers(0, 4)), n)]]
        t = np.linspace(0, 1, len(rim))[:, None]
        depth = rng.uniform(0.02, 0.28) * (1 + rng.normal(0, 0.6) * (t - 0.5))
        depth = depth * (1 + 0.5 * np.sin(t * rng.uniform(1, 9) + rng.uniform(0, 6)))
        if rng.random() < 0.6:
            depth = depth * np.minimum(1, 4 * (1 - t))  # the edge comes back to the contour
        inner = rim + (centre - rim) * np.clip(depth, 0, 0.5)
        inner += rng.normal(0, 0.01 * d, inner.shape)
        outer = centre + (rim - centre) * rng.uniform(1.1, 1.6)
        alpha = np.maximum(alpha, _fill(np.concatenate([inner, outer[::-1]])))
    a = _soft(alpha, float(rng.uniform(0.7, 3.5)))
    if rng.random() < 0.6:  # an edge of strands
        a = np.clip(a * (0.6 + 0.9 * _noise(rng, (int(rng.integers(3, 10)), 110))), 0, 1)
    strands = 0.55 + 0.9 * _noise(rng, (int(rng.integers(3, 12)), int(rng.integers(50, 120))))
    paint = colour * strands[..., None] * (0.7 + 0.6 * _noise(rng, 5))[..., None]
    if rng.random() < 0.3:
        paint = 0.5 * paint + 0.5 * _texture(scene) * (colour / 128)
    _shade_below(scene, a, 0.5)
    _over(scene, paint.astype(np.float32), a, np.clip((a - 0.25) / 0.3, 0, 1))


def lock(scene: Scene) -> None:
    """Hair with the grain of a photo: what grows above a face, laid over the forehead or a side."""
    rng = scene.rng
    _, _, d = scene.eyes
    at = scene.mesh[int(rng.choice((10, 109, 338, 54, 284, 127, 356))), :2]
    shape = _blob(rng, at + rng.normal(0, 8, 2), d * rng.uniform(0.3, 0.9))
    shape[:, 1] = at[1] + (shape[:, 1] - at[1]) * rng.uniform(0.5, 1.4)
    alpha = _soft(_fill(shape), rng.uniform(0.8, 3))
    alpha *= np.clip(_noise(rng, (5, 40)) * rng.uniform(1.3, 4), 0, 1)
    photo = scene.textures[int(rng.integers(len(scene.textures)))]
    h, w = photo.shape[:2]
    x = int(rng.integers(w // 4, w // 2))
    patch = photo[: max(8, h // 6), x : x + w // 4]
    paint = cv2.resize(patch, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = _noise(rng, (6, 90))[..., None]
    paint *= np.float32(0.5) + grain
    _shade_below(scene, alpha, 0.4)
    _over(scene, paint, alpha, np.clip((alpha - 0.3) / 0.3, 0, 1))


def hand(scene: Scene, beside: bool = False) -> None:  # noqa: PLR0915 - one drawing, part by part
    """A hand with one to five fingers, made of capsules, skin like the face's or another's.

    Args:
        scene: What it is put in front of.
        beside: It touches only the edge of the face, and its skin is the face's own.
    """
    rng = scene.rng
    _, _, d = scene.eyes
    skin = _skin_colour(scene) * np.exp(rng.normal(0, 0.12)) * rng.uniform(0.92, 1.06, 3)
    if rng.random() < 0.25 and not beside:
        skin = np.array([225, 175, 145]) * np.exp(rng.normal(-0.35, 0.4))
    oval = scene.mesh[list(OVAL), :2]
    inside = oval[int(rng.integers(len(oval)))]
    middle = scene.mesh[[33, 263, 1, 61, 291], :2].mean(0)
    tip = middle + (inside - middle) * (rng.uniform(0.75, 1.1) if beside else rng.uniform(0.1, 0.9))
    heading = rng.normal(0, 0.7) + np.arctan2(middle[1] + 25 - inside[1], middle[0] - inside[0])
    if rng.random() < 0.6:  # hands mostly come from below
        heading = rng.normal(-np.pi / 2, 0.7)
    unit = d * rng.uniform(0.75, 1.2)
    u = np.array([np.cos(heading), np.sin(heading)])
    v = np.array([-u[1], u[0]])
    long = unit * rng.uniform(0.75, 1.05)
    palm = tip - u * (long + unit * 0.5)
    parts: list[tuple[Floats, float]] = []
    arm = palm - u * unit * 4
    parts.append((np.stack([palm - u * unit * 0.4, arm]), unit * rng.uniform(0.6, 0.8)))
    parts.append((np.stack([palm + u * unit * 0.12, palm - u * unit * 0.3]), unit * 0.85))
    shown = int(rng.integers(1, 5)) if rng.random() < 0.3 else 4
    spread, curl = rng.uniform(0.0, 0.35), rng.normal(0, 0.35)
    for n in range(4):
        across = (n - 1.5) / 1.5
        base = palm + u * unit * 0.42 + v * across * unit * 0.33
        turn = across * spread + rng.normal(0, 0.05)
        reach = long * (1 - 0.12 * across * across) * (1 if n < shown else rng.uniform(0.2, 0.4))
        points = [base]
        for joint in (0.45, 0.32, 0.23):
            turn += curl * joint
            step = u * np.cos(turn) + v * np.sin(turn)
            points.append(points[-1] + step * reach * joint)
        parts.append((np.stack(points), unit * rng.uniform(0.2, 0.26)))
    if rng.random() < 0.7:
        side = float(rng.choice((-1, 1)))
        base = palm + v * side * unit * 0.4 - u * unit * 0.2
        turn = side * rng.uniform(0.3, 1.1)
        step = u * np.cos(turn) + v * np.sin(turn)
        bent = u * np.cos(turn * 0.4) + v * np.sin(turn * 0.4)
        mid = base + step * unit * 0.4
        parts.append((np.stack([base, mid, mid + bent * unit * 0.32]), unit * 0.27))
    paint = np.zeros((CANVAS, CANVAS, 3), np.float32)
    total = np.zeros((CANVAS, CANVAS), np.float32)
    lamp = rng.normal(0, 0.5, 2)
    m = np.zeros((CANVAS, CANVAS), np.uint8)
    for line, wide in parts:
        x0, y0 = np.clip(np.floor(line.min(0) - wide), 0, CANVAS).astype(int)
        x1, y1 = np.clip(np.ceil(line.max(0) + wide), 0, CANVAS).astype(int)
        if x1 - x0 < 4 or y1 - y0 < 4:
            continue
        part = m[y0:y1, x0:x1].copy()
        _line(part, line.astype(np.float32) - [x0, y0], max(2, round(wide)), False)
        depth = cv2.distanceTransform((part > 127).astype(np.uint8), cv2.DIST_L2, 3)
        height = np.sqrt(np.minimum(depth * np.float32(2 / wide), 1))
        gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) * np.float32(lamp[0])
        gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * np.float32(lamp[1])
        shade = np.float32(0.62) + np.float32(0.38) * height + np.clip(gx + gy, -0.3, 0.3)
        a = _soft(part, 0.7) * np.float32(1 / 255)
        box = paint[y0:y1, x0:x1]
        box += a[..., None] * (shade[..., None] * skin.astype(np.float32) - box)
        np.maximum(total[y0:y1, x0:x1], a, out=total[y0:y1, x0:x1])
    paint *= (0.9 + 0.2 * _noise(rng, 10) + 0.1 * _noise(rng, 60))[..., None]
    if rng.random() < 0.3:  # a glove or sleeve has its own colour
        paint *= (_palette(rng) / 128)[None, None]
    _shade_below(scene, total, 0.5)
    light = _light(scene) if rng.random() < 0.5 else np.float32(1)
    _over(scene, paint * light, total, total)


def cloth(scene: Scene) -> None:
    """A mask of cloth over nose and chin, or only over the mouth, with its straps."""
    rng = scene.rng
    top = scene.mesh[list(HIGH_MASK if rng.random() < 0.7 else LOW_MASK), :2].copy()
    jaw = scene.mesh[list(OVAL[8:29]), :2].copy()
    middle = scene.mesh[[4, 0], :2].mean(0)
    jaw = middle + (jaw - middle) * rng.uniform(1.0, 1.12)
    if rng.random() < 0.4:  # one that ends at the cheeks, held by straps
        inset = rng.uniform(0.62, 0.9)
        for p in (top, jaw):
            p[:, 0] = middle[0] + (p[:, 0] - middle[0]) * inset
    top[1:-1] += rng.normal(0, 1.5, (len(top) - 2, 2)).astype(np.float32)
    shape = np.concatenate([top, jaw]).astype(np.float32)
    alpha = _soft(_fill(shape), rng.uniform(0.8, 1.8))
    colour = _palette(rng)
    if rng.random() < 0.6:
        choice = int(rng.integers(4))
        colour = np.array(
            ([235, 238, 240], [150, 190, 215], [28, 28, 32], [120, 125, 130])[choice], np.float32
        )
    paint = np.ones((CANVAS, CANVAS, 3), np.float32) * colour
    if rng.random() < 0.25:
        paint = _texture(scene)
    folds = np.zeros((CANVAS, CANVAS), np.float32)
    for _ in range(int(rng.integers(0, 5))):
        y = rng.uniform(middle[1] - 10, middle[1] + 50)
        bow = rng.normal(0, 8)
        xs = np.linspace(0, CANVAS, 12)
        ys = y + bow * ((xs - middle[0]) / 60) ** 2
        line = np.zeros((CANVAS, CANVAS), np.uint8)
        _line(line, np.stack([xs, ys], 1).astype(np.float32), int(rng.integers(1, 4)), False)
        folds = np.maximum(folds, line.astype(np.float32) / 255)
    paint *= (1 - 0.35 * _soft(folds, 1.2))[..., None]
    paint *= (0.85 + 0.25 * _noise(rng, 5) + 0.06 * _noise(rng, 90))[..., None]
    strap = np.zeros((CANVAS, CANVAS), np.uint8)
    if rng.random() < 0.6:
        for vertex, ears in ((0, (234, 127)), (-1, (454, 356))):
            for end in ears:
                ear = scene.mesh[end, :2]
                _line(strap, np.stack([top[vertex], ear]), int(rng.integers(1, 4)), False)
    a = np.maximum(alpha, strap.astype(np.float32) / 255)
    _shade_below(scene, a, 0.3)
    wide = cv2.dilate(strap, np.ones((3, 3), np.uint8)) / 255
    _over(scene, paint * _light(scene), a, np.maximum(alpha, wide))


def held(scene: Scene) -> None:
    """A microphone, a cup or a telephone before mouth, chin or cheek."""
    rng = scene.rng
    _, _, d = scene.eyes
    at = scene.mesh[int(rng.choice((0, 17, 152, 61, 291, 205, 425, 50, 280))), :2]
    at = np.asarray(at + rng.normal(0, 0.25 * d, 2))
    kind = int(rng.integers(3))
    dark, light = np.sort(np.stack([_palette(rng), _palette(rng)]), 0)
    alpha = np.zeros((CANVAS, CANVAS), np.uint8)
    turn = rng.normal(np.pi / 2, 0.6)
    u = np.array([np.cos(turn), np.sin(turn)])
    v = np.array([-u[1], u[0]])
    if kind == 0:
        r = d * rng.uniform(0.12, 0.42)
        _line(alpha, np.stack([at, at + u * 300]), max(2, round(r * rng.uniform(0.5, 1.5))), False)
        squash = (round(r * 16), round(r * 16 * rng.uniform(0.8, 1.3)))
        centre = (round(float(at[0]) * 16), round(float(at[1]) * 16))
        cv2.ellipse(alpha, centre, squash, np.degrees(turn), 0, 360, 255, -1, cv2.LINE_AA, 4)
        if rng.random() < 0.7:
            dark, light = dark * 0.3, dark * 0.9
    else:
        half = d * rng.uniform(0.3, 0.6), d * rng.uniform(0.45, 0.9)
        narrow = rng.uniform(0.65, 1) if kind == 1 else 1.0
        shape = [
            at - v * half[0], at + v * half[0],
            at + u * half[1] * 2 + v * half[0] * narrow,
            at + u * half[1] * 2 - v * half[0] * narrow,
        ]  # fmt: skip
        cv2.fillPoly(alpha, [np.round(np.stack(shape) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    a = _soft(alpha.astype(np.float32) / 255, rng.uniform(0.6, 1.5))
    along = v if rng.random() < 0.7 else u
    ys, xs = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    across = np.abs(((xs - at[0]) * along[0] + (ys - at[1]) * along[1]) / (0.5 * d))
    blend = np.clip(1 - across, 0, 1)[..., None].astype(np.float32)
    paint = dark.astype(np.float32) * (1 - blend) + light.astype(np.float32) * blend
    if rng.random() < 0.35:
        paint = _texture(scene) * (0.5 + 0.5 * blend)
    paint = paint * (0.85 + 0.3 * _noise(rng, int(rng.choice((4, 30, 80)))))[..., None]
    _shade_below(scene, a, 0.5)
    _over(scene, paint.astype(np.float32), a, a)


def shape(scene: Scene) -> None:
    """Any outline with any surface: cut from other photos, plain, striped; near or far."""
    rng = scene.rng
    _, _, d = scene.eyes
    oval = scene.mesh[list(OVAL), :2]
    middle = oval.mean(0)
    at = middle + (oval[int(rng.integers(36))] - middle) * rng.uniform(0.0, 1.5)
    form = rng.random()
    if form < 0.5:
        outline = _blob(rng, at, d * rng.uniform(0.15, 0.9))
    elif form < 0.75:  # a beam, a rope, a branch
        step = rng.normal(0, 1, 2)
        step *= d * rng.uniform(0.5, 4) / (np.linalg.norm(step) + 1e-3)
        side = np.array([-step[1], step[0]])
        side *= d * rng.uniform(0.03, 0.3) / (np.linalg.norm(side) + 1e-3)
        outline = np.stack([at - step - side, at + step - side, at + step + side, at - step + side])
    else:  # a brim, a scarf, a cover: everything beyond a wavy edge
        turn = rng.choice((-np.pi / 2, np.pi / 2, 0, np.pi)) + rng.normal(0, 0.3)
        u = np.array([np.cos(turn), np.sin(turn)])
        v = np.array([-u[1], u[0]])
        edge = middle + u * d * rng.uniform(0.35, 1.0)
        t = np.linspace(-300, 300, 40)
        bow = rng.normal(0, 0.002) * t**2 + rng.normal(0, 3) * np.sin(t / rng.uniform(10, 60))
        outline = np.concatenate([edge + t[:, None] * v + bow[:, None] * u,
                                  edge + t[::-1, None] * v + u * 400])  # fmt: skip
    a = _soft(_fill(outline.astype(np.float32)), float(np.exp(rng.uniform(-0.7, 1.5))))
    p = rng.random()
    if p < 0.45:
        paint = _texture(scene)
    elif p < 0.75:
        paint = _gradient(rng, _palette(rng), _palette(rng))
    else:
        paint = _palette(rng) * (0.6 + 0.8 * _noise(rng, int(rng.choice((3, 12, 60)))))[..., None]
    if rng.random() < 0.5:
        _shade_below(scene, a, 0.5)
    if rng.random() < 0.15:
        a = a * np.float32(rng.uniform(0.7, 1))
    _over(scene, paint.astype(np.float32), a, a)


def letters(scene: Scene) -> None:
    """A line of text, or a bar with text, as television puts over a picture."""
    rng = scene.rng
    text = "".join(chr(int(c)) for c in rng.integers(33, 123, int(rng.integers(3, 18))))
    size, thick = rng.uniform(0.5, 1.6), int(rng.integers(1, 5))
    y = int(rng.uniform(60, CANVAS - 5))
    at = (int(rng.uniform(-10, 90)), y)
    ink = np.zeros((CANVAS, CANVAS), np.uint8)
    rim = np.zeros((CANVAS, CANVAS), np.uint8)
    font = int(rng.choice((0, 1, 2, 3, 4, 6)))
    cv2.putText(ink, text, at, font, size, 255, thick, cv2.LINE_AA)
    cv2.putText(rim, text, at, font, size, 255, thick + int(rng.choice((0, 3))), cv2.LINE_AA)
    front, back = _palette(rng), _palette(rng)
    if rng.random() < 0.6:
        front, back = np.full(3, 245, np.float32), np.zeros(3, np.float32)
    if rng.random() < 0.3:
        bar = np.zeros((CANVAS, CANVAS), np.float32)
        bar[max(0, y - int(30 * size)) : y + 10] = rng.uniform(0.75, 1)
        _over(scene, back, bar, (bar > 0).astype(np.float32))
    a = rim.astype(np.float32) / 255
    _over(scene, back, a, np.clip(_soft(a, 1.0) * 2.5, 0, 1))
    _over(scene, front, ink.astype(np.float32) / 255, None)


KINDS: Final[dict[str, Callable[[Scene], None]]] = {
    "glasses": glasses,
    "hair": hair,
    "lock": lock,
    "hand": hand,
    "cloth": cloth,
    "held": held,
    "shape": shape,
    "letters": letters,
    "wire": partial(glasses, wire=True),
    "curtain": curtain,
    "beside": partial(hand, beside=True),
}
"""What may be put in front of a face."""

MEASURED: Final = {
    "glasses": 0.31, "hair": 0.22, "lock": 0.04, "hand": 0.14, "cloth": 0.05, "held": 0.08,
    "shape": 0.12, "letters": 0.04,
}  # fmt: skip
"""How often each of :data:`KINDS` is drawn for the held-out pictures.

Figures of different weights are comparable only as long as these pictures stay the same, so what
training needs beyond them is in :data:`TRAINED`.
"""

TRAINED: Final = {
    "glasses": 0.22, "hair": 0.19, "lock": 0.04, "hand": 0.12, "cloth": 0.05, "held": 0.07,
    "shape": 0.1, "letters": 0.03, "wire": 0.07, "curtain": 0.08, "beside": 0.03,
}  # fmt: skip
"""How often each of :data:`KINDS` is drawn for training."""


def _chosen(rng: np.random.Generator, chances: Mapping[str, float]) -> list[str]:
    count = int(rng.choice((0, 1, 2, 3), p=(0.12, 0.5, 0.3, 0.08)))
    picked = rng.choice(list(chances), count, replace=False, p=list(chances.values()))
    return [str(k) for k in picked]


def _over(scene: Scene, colour: Any, alpha: Any, label: Any | None = None) -> None:
    alpha = np.asarray(alpha, np.float32)
    x, y, w, h = cv2.boundingRect((alpha > 1e-3).view(np.uint8))
    if w == 0:
        return
    at = slice(y, y + h), slice(x, x + w)
    paint = np.asarray(colour, np.float32)
    image = scene.image[at]
    image += alpha[at][..., None] * ((paint[at] if paint.ndim == 3 else paint) - image)
    if label is not None:
        np.maximum(scene.label, label, out=scene.label, casting="unsafe")


def _shade_below(scene: Scene, alpha: Floats, chance: float) -> None:
    """What is in front may cast a shadow on the skin beside it."""
    rng = scene.rng
    if rng.random() < chance:
        shift = (int(rng.integers(0, 12)), int(rng.integers(-8, 9)))
        s = _soft(np.roll(alpha, shift, (0, 1)), rng.uniform(1.5, 6))
        scene.image *= 1 - s[..., None] * np.float32(rng.uniform(0.1, 0.5))


def _light(scene: Scene) -> Floats:
    """``(CANVAS, CANVAS, 1)`` how bright the face is lit, 1 on average."""
    small = cv2.resize(scene.image.mean(2), (16, 16), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 2.0)
    x0, y0, x1, y1 = np.clip(geometry.bounds(scene.mesh) / 16, 0, 15).astype(int)
    small = small / max(float(small[y0 : y1 + 1, x0 : x1 + 1].mean()), 8.0)
    big = cv2.resize(np.clip(small, 0.3, 1.7), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return np.asarray(big[..., None], np.float32)


def _skin_colour(scene: Scene) -> Colour:
    xy = np.clip(np.round(scene.mesh[list(SKIN), :2]).astype(int), 0, CANVAS - 1)
    return np.asarray(np.median(scene.image[xy[:, 1], xy[:, 0]], 0), np.float32)


def _hair_colour(scene: Scene) -> Colour:
    """The photo's own, from above the forehead, or any."""
    rng = scene.rng
    if rng.random() < 0.6:
        top, nose = scene.mesh[10, :2], scene.mesh[168, :2]
        x, y = np.clip(top + (top - nose) * rng.uniform(0.15, 0.4), 3, CANVAS - 4).astype(int)
        own = scene.image[y - 3 : y + 4, x - 3 : x + 4].mean((0, 1))
        return np.asarray(own * np.exp(rng.normal(0, 0.2)), np.float32)
    base = np.array(
        [[20, 16, 14], [45, 32, 24], [80, 55, 35], [120, 85, 50], [190, 150, 95], [225, 200, 150],
         [120, 60, 30], [150, 148, 145], [215, 212, 208]], np.float32,
    )[int(rng.integers(9))]  # fmt: skip
    return np.asarray(base * np.exp(rng.normal(0, 0.15)), np.float32)


def _frame_colour(rng: np.random.Generator) -> Colour:
    p = rng.random()
    if p < 0.4:
        return np.asarray(rng.uniform(5, 45) * np.ones(3), np.float32)
    if p < 0.58:
        return np.array([70, 42, 24], np.float32) * np.float32(rng.uniform(0.5, 1.6))
    if p < 0.72:
        return np.asarray(rng.uniform(90, 220) * np.ones(3), np.float32)
    if p < 0.82:
        return np.array([200, 160, 95], np.float32) * np.float32(rng.uniform(0.6, 1.1))
    return _palette(rng)


def _palette(rng: np.random.Generator) -> Colour:
    grey = rng.uniform(0, 255)
    return np.asarray(np.clip(grey + rng.normal(0, 45, 3), 0, 255), np.float32)


def _texture(scene: Scene) -> Floats:
    """``(CANVAS, CANVAS, 3)`` a piece of another photo in another light."""
    rng = scene.rng
    photo = scene.textures[int(rng.integers(len(scene.textures)))]
    h, w = photo.shape[:2]
    side = int(rng.uniform(0.25, 1) * min(h, w))
    y, x = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
    piece = np.rot90(photo[y : y + side, x : x + side], int(rng.integers(4)))
    big = cv2.resize(np.ascontiguousarray(piece), (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
    gain = np.exp(rng.normal(0, 0.25)) * rng.uniform(0.7, 1.3, 3)
    return np.asarray(big.astype(np.float32) * gain.astype(np.float32), np.float32)


def _gradient(rng: np.random.Generator, one: Colour, two: Colour) -> Floats:
    t = np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None, None]
    out = one * (1 - t) + two * t
    out = np.broadcast_to(out, (CANVAS, CANVAS, 3))
    return np.asarray(out if rng.random() < 0.7 else out.transpose(1, 0, 2), np.float32)


def _noise(rng: np.random.Generator, cells: int | tuple[int, int]) -> Floats:
    """``(CANVAS, CANVAS)`` 0..1, smooth, with so many cells (rows, columns)."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    grid = rng.random((rows + 1, columns + 1), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR))


def _blob(rng: np.random.Generator, at: Any, radius: float) -> Floats:
    """A closed outline around a point: round, elongated or ragged."""
    n = 40
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    r = np.ones(n)
    for k in range(2, 7):
        r += rng.normal(0, 0.22 / k) * np.cos(k * t + rng.uniform(0, 6.28))
    if rng.random() < 0.25:
        r *= 1 + rng.normal(0, 0.12, n)
    p = np.stack([np.cos(t) * r * rng.uniform(0.5, 1.5), np.sin(t) * r], 1) * radius
    a = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return np.asarray(p @ turn + np.asarray(at), np.float32)


def _fill(outline: Any) -> Floats:
    m = np.zeros((CANVAS, CANVAS), np.uint8)
    cv2.fillPoly(m, [np.round(np.asarray(outline) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return m.astype(np.float32) / np.float32(255)


def _line(m: Image, points: Any, thick: int, closed: bool) -> None:
    fixed = np.round(np.asarray(points) * 16).astype(np.int32)
    cv2.polylines(m, [fixed], closed, 255, thick, cv2.LINE_AA, 4)


def _soft(m: Any, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(np.asarray(m, np.float32), (0, 0), float(sigma)))


def _motion_kernel(rng: np.random.Generator) -> Floats:
    k = np.zeros((7, 7), np.float32)
    a, length = rng.uniform(0, np.pi), rng.uniform(1, 3)
    dx, dy = np.cos(a) * length, np.sin(a) * length
    ends = np.round(np.array([[3 - dx, 3 - dy], [3 + dx, 3 + dy]]) * 16).astype(np.int32)
    cv2.polylines(k, [ends], False, 1.0, 1, cv2.LINE_AA, 4)
    return k / max(float(k.sum()), 1e-3)
