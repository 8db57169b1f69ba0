"""A drawn face that moves: pictures and meshes that belong to nobody.

The mesh is not taken from any person: contour, eyes, mouth and nose are simple curves, and every
other vertex lies in the mean of its neighbours (Tutte, "How to draw a graph", 1963), with a dome
and a nose for depth. No triangle of it is turned over. Painted with hair, shoulders, light from
one side and a grain of skin, it is a face to detectors and to mesh networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np

from mien import motion
from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, OVAL, RIGHT_EYE
from mien.types import Floats, Image

Colour = tuple[float, float, float]

BROWS: Final = ((70, 63, 105, 66, 107), (300, 293, 334, 296, 336))
LIDS: Final = (130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)
LIPS: Final = (
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292, 325, 319, 403, 316, 15, 86, 179, 89, 96),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306, 307, 320, 404, 315, 16, 85, 180, 90, 77),
)
CORNERS: Final = {
    226: (0.523, -0.28),
    113: (0.535, -0.31),
    35: (0.54, -0.25),
    124: (0.58, -0.27),
    57: (0.3, 0.48),
    43: (0.3, 0.52),
}
AXIS: Final = {
    9: -0.47, 151: -0.66, 168: -0.36, 6: -0.27, 197: -0.17, 195: -0.07, 5: 0.03, 1: 0.13,
    2: 0.27, 164: 0.33, 18: 0.67, 200: 0.76, 199: 0.85,
}  # fmt: skip
IRIS: Final = ((0, 0), (1, 0), (0, -1), (-1, 0), (0, 1))
NOSTRILS: Final = (98, 2, 327, 1)

MOUTH: Final = 0.5
"""Height of the mouth's line in the unit mesh."""

EYES: Final = -0.28
"""Height of the eyes' line."""


@dataclass(frozen=True, slots=True)
class Person:
    """Colours of somebody drawn, RGB 0..255."""

    skin: Colour = (205, 155, 130)
    hair: Colour = (62, 44, 36)
    clothes: Colour = (58, 78, 110)


PEOPLE: Final = (
    Person(),
    Person((168, 118, 92), (30, 24, 22), (120, 60, 58)),
    Person((226, 182, 160), (122, 88, 52), (66, 98, 70)),
    Person((122, 82, 62), (22, 18, 18), (150, 140, 120)),
)
"""Who is in the footage, from left to right; then the first again."""

PORTRAIT: Final = Person((214, 168, 146), (84, 54, 36), (90, 86, 130))
"""Whose face is put on the others."""


@cache
def unit_mesh() -> Floats:
    """``(478, 3)`` float32 in a square from -1 to 1, y down, symmetrical to x = 0, nose nearest."""
    pins: dict[int, tuple[float, float]] = {}
    mirror = motion.mirror()

    def lens(
        ring: Sequence[int], centre: tuple[float, float], axes: tuple[float, float], side: int
    ) -> None:
        half = len(ring) // 2
        for i, vertex in enumerate(ring):
            x = 1 - 2 * abs(i - half) / half
            y = (1 - x * x) * (-1 if i < half else 1)
            pins[vertex] = (centre[0] + side * axes[0] * x, centre[1] + axes[1] * y)

    for i, vertex in enumerate(OVAL):
        a = 2 * np.pi * i / len(OVAL)
        pins[vertex] = (0.76 * np.sin(a), -np.cos(a))
    lens(LEFT_EYE, (-0.33, -0.28), (0.145, 0.05), 1)
    lens(RIGHT_EYE, (0.33, -0.28), (0.145, 0.05), -1)
    lens(LIDS, (-0.33, -0.28), (0.18, 0.075), 1)
    lens([int(mirror[v]) for v in LIDS], (0.33, -0.28), (0.18, 0.075), -1)
    for i, ring in enumerate((INNER_LIPS, *LIPS, OUTER_LIPS)):
        lens(ring, (0, MOUTH), (0.2 + 0.03 * i, 0.05 + 0.025 * i), 1)
    for row, side in zip(BROWS, (-1, 1), strict=True):
        for i, vertex in enumerate(row):
            pins[vertex] = (side * (0.52 - 0.1 * i), -0.43 - 0.03 * np.sin(np.pi * i / 4))
    for vertex, (x, y) in CORNERS.items():
        pins[vertex], pins[int(mirror[vertex])] = (-x, y), (x, y)
    pins |= {vertex: (0.0, y) for vertex, y in AXIS.items()}

    topo = motion.topology()
    t = topo.triangles[: topo.surface]
    near = np.zeros((468, 468))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        near[t[:, a], t[:, b]] = near[t[:, b], t[:, a]] = 1
    laplace = np.diag(near.sum(1)) - near
    fixed = np.array(sorted(pins))
    free = np.setdiff1d(np.arange(468), fixed)
    xy = np.zeros((468, 2))
    xy[fixed] = [pins[v] for v in fixed]
    pull = -laplace[np.ix_(free, fixed)] @ xy[fixed]
    xy[free] = np.linalg.solve(laplace[np.ix_(free, free)], pull)
    xy = (xy + xy[mirror] * (-1, 1)) / 2
    across, down = xy.T
    dome = 0.62 * np.sqrt(np.clip(1.05 - (across / 0.8) ** 2 - (down / 1.06) ** 2, 0, None))
    nose = 0.28 * np.exp(-((across / 0.11) ** 2) - ((down - 0.1) / 0.18) ** 2)
    surface = np.c_[xy, 0.3 - dome - nose]
    irises = [(s * 0.33 + 0.04 * dx, -0.28 + 0.04 * dy, -0.2) for s in (-1, 1) for dx, dy in IRIS]
    return np.concatenate([surface, irises]).astype(np.float32)


def mesh(
    centre: tuple[float, float],
    height: float,
    *,
    roll: float = 0.0,
    yaw: float = 0.0,
    pitch: float = 0.0,
    mouth: float = 0.0,
    shut: float = 0.0,
) -> Floats:
    """The face at a place of a frame, ``(478, 3)`` float32.

    Args:
        centre: In pixels.
        height: Pixels from hairline to chin.
        roll: Radians, clockwise.
        yaw: Radians; positive turns the nose to the viewer's right.
        pitch: Radians; positive lifts the chin.
        mouth: How far the jaw is down: 1 while speaking, 2 at most.
        shut: How far both eyes are, 0..1.
    """
    points = unit_mesh().astype(np.float64)
    if mouth:
        # The jaw, and with it the lower lip, moves down; the cheeks follow less.
        below = np.clip((points[:, 1] - MOUTH) / 0.04, 0, 1) * np.exp(-((points[:, 0] / 0.5) ** 2))
        points[:, 1] += 0.16 * mouth * below
    for ring, iris in ((LEFT_EYE, 468), (RIGHT_EYE, 473)) if shut else ():
        rows, disc = list(ring), slice(iris, iris + 5)
        points[rows, 1] = EYES + (points[rows, 1] - EYES) * (1 - shut) + 0.02 * shut
        points[disc, :2] = points[iris, :2] + (points[disc, :2] - points[iris, :2]) * (1 - shut)
    c, s = np.cos(yaw), np.sin(yaw)
    p = points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
    if pitch:
        c, s = np.cos(pitch), np.sin(pitch)
        p = p @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]).T
    c, s = np.cos(roll), np.sin(roll)
    p[:, :2] = p[:, :2] @ np.array([[c, -s], [s, c]]).T
    p *= height / 2
    p[:, :2] += centre
    return np.asarray(p, np.float32)


def paint(image: Image, points: Floats, person: Person) -> None:
    """Paint somebody with this mesh into an image, in place, from the hair to the shoulders."""
    face = points[:468, :2]
    height = float(np.ptp(face[:, 1]))
    x, y = (float(v) for v in face[list(OVAL)].mean(0))
    _ellipse(image, (x, y + 1.32 * height), (0.95 * height, 0.6 * height), person.clothes)
    _ellipse(image, (x, y + 0.5 * height), (0.25 * height, 0.4 * height), _dark(person.skin, 0.82))
    _ellipse(image, (x, y - 0.1 * height), (0.47 * height, 0.56 * height), person.hair)
    fill = _Filler(image, points)
    fill(OVAL, person.skin)
    for row in BROWS:
        fill.line(row, _dark(person.skin, 0.3), height * 0.022)
    fill(NOSTRILS, _dark(person.skin, 0.75))
    r, g, b = person.skin
    fill(OUTER_LIPS, (0.8 * r, 0.55 * g, 0.6 * b))
    fill(INNER_LIPS, (60, 15, 20))
    for ring, iris in ((LEFT_EYE, 468), (RIGHT_EYE, 473)):
        fill(ring, (235, 235, 235))
        radius = float(np.hypot(*(points[iris + 1, :2] - points[iris, :2]))) * 0.9
        _ellipse(image, (float(points[iris, 0]), float(points[iris, 1])), (radius, radius),
                 (40, 60, 40))  # fmt: skip
    _shade(image, points, height)


class _Filler:
    """Fills rings of a mesh, antialiased."""

    def __init__(self, image: Image, points: Floats) -> None:
        self._image, self._points = image, np.round(points[:, :2] * 16).astype(np.int32)

    def __call__(self, ring: Sequence[int], colour: Colour) -> None:
        cv2.fillPoly(self._image, [self._points[list(ring)]], colour, cv2.LINE_AA, shift=4)

    def line(self, row: Sequence[int], colour: Colour, width: float) -> None:
        points = [self._points[list(row)]]
        thick = max(1, round(width))
        cv2.polylines(self._image, points, False, colour, thick, cv2.LINE_AA, shift=4)


def _ellipse(
    image: Image, centre: tuple[float, float], axes: tuple[float, float], colour: Colour
) -> None:
    x, y = (round(16 * v) for v in centre)
    a, b = (round(16 * v) for v in axes)
    cv2.ellipse(image, (x, y), (a, b), 0, 0, 360, colour, -1, cv2.LINE_AA, shift=4)


def _dark(colour: Colour, share: float) -> Colour:
    r, g, b = colour
    return r * share, g * share, b * share


@cache
def _skin() -> Image:
    """``(512, 512, 3)`` uint8, what a head is multiplied with, in 128ths: light and pores."""
    side = 512
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    light = 1.04 - 0.16 * across - 0.1 * (across**2 + down**2)
    grain = octaves(side, side, (8, 32, 128, 512), 7)
    inside = np.clip((0.72 - np.hypot(across, down)) / 0.2, 0, 1)
    plane = 128 * (1 + inside * (light * (1 + 0.05 * grain) - 1))
    return np.repeat(np.clip(plane, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _shade(image: Image, points: Floats, height: float) -> None:
    """Multiply a head with its light; the grain moves with the face."""
    left, right = points[234, :2], points[454, :2]  # where the contour is widest
    along = (right - left) / max(float(np.hypot(*(right - left))), 1e-6)
    centre = points[list(OVAL), :2].mean(0)
    scale = 1.5 * height / 512
    turn = scale * np.array([[along[0], -along[1]], [along[1], along[0]]])
    matrix = np.c_[turn, centre - turn @ (256, 256)]
    h, w = image.shape[:2]
    x0, y0 = np.clip(np.floor(centre - 0.8 * height), 0, (w, h)).astype(int)
    x1, y1 = np.clip(np.ceil(centre + 0.8 * height), 0, (w, h)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return
    matrix[:, 2] -= (x0, y0)
    region = np.ascontiguousarray(image[y0:y1, x0:x1])
    light = cv2.warpAffine(
        *(_skin(), matrix, (int(x1 - x0), int(y1 - y0))),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(128, 128, 128),
    )
    lit = cv2.multiply(region, light, scale=1 / 128)
    image[y0:y1, x0:x1] = cv2.GaussianBlur(lit, (0, 0), max(height / 500, 0.5))


def octaves(width: int, height: int, cells: Sequence[int], seed: int) -> Floats:
    """``(height, width)`` float32 of smooth noise, about -1..1: a sum of grids, coarse to fine.

    Args:
        width: In pixels.
        height: In pixels.
        cells: Of each grid along the longer side.
        seed: The same noise for the same seed.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for count in cells:
        step = max(width, height) / count
        small = rng.standard_normal((round(height / step) + 2, round(width / step) + 2))
        total += cv2.resize(
            small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
    return np.asarray(total / (1.5 * len(cells) ** 0.5), np.float32)


def portrait(side: int = 640) -> Image:
    """A photo of the one whose face is put on the others, ``(side, side, 3)`` uint8."""
    image = np.full((side, side, 3), (150, 160, 165), np.uint8)
    paint(image, mesh((side / 2 - 0.5, side * 0.47), side * 0.48), PORTRAIT)
    return image
