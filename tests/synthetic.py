"""A drawn face, and scripted scenes of it: pictures and meshes that belong to nobody.

The mesh is not taken from any person: contour, eyes, mouth and nose are simple curves, and every
other vertex lies in the mean of its neighbours (Tutte, "How to draw a graph", 1963), with a dome
and a nose for depth. No triangle of it is turned over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np

from mien import geometry, landmarks, motion
from mien.types import Consent, Face, Faces, Frame, Identity, Portrait

CONSENT = Consent("synthetic")
SKIN = (205, 155, 130)
DARK = (92, 62, 48)

BROWS = ((70, 63, 105, 66, 107), (300, 293, 334, 296, 336))
LIDS = (130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)
LIPS = (
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292, 325, 319, 403, 316, 15, 86, 179, 89, 96),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306, 307, 320, 404, 315, 16, 85, 180, 90, 77),
)
CORNERS = {
    226: (0.523, -0.28),
    113: (0.535, -0.31),
    35: (0.54, -0.25),
    124: (0.58, -0.27),
    57: (0.3, 0.48),
    43: (0.3, 0.52),
}
AXIS = {
    9: -0.47, 151: -0.66, 168: -0.36, 6: -0.27, 197: -0.17, 195: -0.07, 5: 0.03, 1: 0.13,
    2: 0.27, 164: 0.33, 18: 0.67, 200: 0.76, 199: 0.85,
}  # fmt: skip
IRIS = ((0, 0), (1, 0), (0, -1), (-1, 0), (0, 1))


@cache
def unit_mesh() -> np.ndarray:
    """``(478, 3)`` float32 in a square from -1 to 1, y down, symmetrical to x = 0, nose nearest."""
    pins: dict[int, tuple[float, float]] = {}
    mirror = motion.mirror()

    def lens(ring, centre, axes, side):
        half = len(ring) // 2
        for i, vertex in enumerate(ring):
            x = 1 - 2 * abs(i - half) / half
            y = (1 - x * x) * (-1 if i < half else 1)
            pins[vertex] = (centre[0] + side * axes[0] * x, centre[1] + axes[1] * y)

    for i, vertex in enumerate(landmarks.OVAL):
        a = 2 * np.pi * i / len(landmarks.OVAL)
        pins[vertex] = (0.76 * np.sin(a), -np.cos(a))
    lens(landmarks.LEFT_EYE, (-0.33, -0.28), (0.145, 0.05), 1)
    lens(landmarks.RIGHT_EYE, (0.33, -0.28), (0.145, 0.05), -1)
    lens(LIDS, (-0.33, -0.28), (0.18, 0.075), 1)
    lens([int(mirror[v]) for v in LIDS], (0.33, -0.28), (0.18, 0.075), -1)
    for i, ring in enumerate((landmarks.INNER_LIPS, *LIPS, landmarks.OUTER_LIPS)):
        lens(ring, (0, 0.5), (0.2 + 0.03 * i, 0.05 + 0.025 * i), 1)
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
    x, y = xy.T
    dome = 0.62 * np.sqrt(np.clip(1.05 - (x / 0.8) ** 2 - (y / 1.06) ** 2, 0, None))
    nose = 0.28 * np.exp(-((x / 0.11) ** 2) - ((y - 0.1) / 0.18) ** 2)
    surface = np.c_[xy, 0.3 - dome - nose]
    irises = [(s * 0.33 + 0.04 * dx, -0.28 + 0.04 * dy, -0.2) for s in (-1, 1) for dx, dy in IRIS]
    return np.concatenate([surface, irises]).astype(np.float32)


def mesh(
    centre: tuple[float, float], height: float, *, roll: float = 0.0, yaw: float = 0.0
) -> np.ndarray:
    """The face at a place of a frame, ``height`` pixels from hairline to chin; angles in radians.

    Positive roll turns clockwise, positive yaw turns the nose to the viewer's right.
    """
    c, s = np.cos(yaw), np.sin(yaw)
    p = unit_mesh().astype(np.float64) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
    c, s = np.cos(roll), np.sin(roll)
    p[:, :2] = p[:, :2] @ np.array([[c, -s], [s, c]]).T
    p *= height / 2
    p[:, :2] += centre
    return p.astype(np.float32)


def face(points: np.ndarray, track: int | None = None) -> Face:
    """A face that has this mesh."""
    five = landmarks.five_points(points)
    return Face(geometry.bounds(points[:468]), 1.0, five, points, 1.0, track)


def draw(
    image: np.ndarray,
    points: np.ndarray,
    skin: tuple[int, int, int] = SKIN,
    *,
    lips: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Draw the face with this mesh into an image, in place, antialiased by drawing it larger."""
    over = 4
    h, w = image.shape[:2]
    x0, y0 = np.clip(np.floor(points[:468, :2].min(0)).astype(int) - 2, 0, (w, h))
    x1, y1 = np.clip(np.ceil(points[:468, :2].max(0)).astype(int) + 3, 0, (w, h))
    if x1 <= x0 or y1 <= y0:
        return image
    region = image[y0:y1, x0:x1]
    big = cv2.resize(region, None, fx=over, fy=over, interpolation=cv2.INTER_NEAREST)
    p = (points[:, :2] - (x0, y0) + 0.5) * over - 0.5
    base = np.array(skin, np.float64)

    def fill(ring, colour):
        cv2.fillPoly(big, [np.round(p[list(ring)]).astype(np.int32)], tuple(map(float, colour)))

    fill(landmarks.OVAL, base)
    for row in BROWS:
        line = np.round(p[list(row)]).astype(np.int32)
        thick = max(1, round(float(np.ptp(p[:468, 1])) * 0.02))
        cv2.polylines(big, [line], False, tuple(base * 0.3), thick)
    fill((98, 2, 327, 1), base * 0.75)
    fill(landmarks.OUTER_LIPS, lips or base * (0.8, 0.55, 0.6))
    fill(landmarks.INNER_LIPS, (60, 15, 20))
    for ring, iris in ((landmarks.LEFT_EYE, 468), (landmarks.RIGHT_EYE, 473)):
        fill(ring, (235, 235, 235))
        radius = float(np.hypot(*(p[iris + 1] - p[iris]))) * 0.9
        cv2.circle(big, tuple(np.round(p[iris]).astype(int)), round(radius), (40, 60, 40), -1)
    region[...] = cv2.resize(big, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return image


def picture(
    width: int,
    height: int,
    *meshes: np.ndarray,
    skin: tuple[int, int, int] = SKIN,
    background: tuple[int, int, int] = (70, 90, 110),
) -> np.ndarray:
    """``(height, width, 3)`` uint8 with these faces on a plain background."""
    image = np.full((height, width, 3), background, np.uint8)
    for points in meshes:
        draw(image, points, skin)
    return image


def portrait(side: int = 256, skin: tuple[int, int, int] = SKIN, **pose: float) -> Portrait:
    """A portrait of that face, with the margin that real ones have."""
    points = mesh((side / 2 - 0.5, side / 2 - 0.5), side / 1.7, **pose)
    return Portrait(picture(side, side, points, skin=skin), points)


def identity(
    side: int = 256, skin: tuple[int, int, int] = SKIN, name: str = "drawn", **pose: float
) -> Identity:
    """A person with one portrait."""
    unit = np.zeros(512, np.float32)
    unit[0] = 1
    return Identity(name, unit, (portrait(side, skin, **pose),), CONSENT)


WIDTH, HEIGHT = 640, 360
Place = tuple[float, float, float] | None
Walk = Callable[[int], Place]


def stays(x: float, y: float = 180, height: float = 90) -> Walk:
    return lambda t: (x, y, height)


@dataclass
class Scene:
    """People on paths (nearest first), and the detector and mesh network that see them.

    The networks are as real ones are: the detector's boxes are larger than the mesh's, a mesh is
    fitted to whoever is nearest to where one looks, and who is behind another is not seen.
    """

    people: dict[str, Walk]
    backdrop: Callable[[int], int] = lambda t: 100
    time: int = 0
    quick_at: list[int] = field(default_factory=list)
    thorough_at: list[int] = field(default_factory=list)
    quick_sees: Callable[[str], bool] = lambda name: True

    def seen(self) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for name, path in self.people.items():
            place = path(self.time)
            if place is None:
                continue
            points = mesh(place[:2], place[2])
            apart = [np.linalg.norm(points[1, :2] - m[1, :2]) for m in out.values()]
            if not apart or min(apart) > 0.4 * place[2]:
                out[name] = points
        return out

    def look(self, names: list[str]) -> Faces:
        faces = []
        for name in names:
            points = self.seen()[name]
            box = geometry.bounds(points[:468])
            grow = 0.1 * (box[2:] - box[:2])
            box = np.concatenate([box[:2] - grow, box[2:] + grow]).astype(np.float32)
            faces.append(Face(box, 0.9, landmarks.five_points(points)))
        return faces[::-1]  # no order to rely on

    def quick(self, image: np.ndarray) -> Faces:
        self.quick_at.append(self.time)
        return self.look([n for n in self.seen() if self.quick_sees(n)])

    def thorough(self, image: np.ndarray) -> Faces:
        self.thorough_at.append(self.time)
        return self.look(list(self.seen()))

    def fit(self, frame: Frame, faces: Faces) -> Faces:
        out = []
        for face in faces:
            centre = (face.box[:2] + face.box[2:]) / 2
            seen = list(self.seen().values())
            away = [np.linalg.norm(centre - (m[10, :2] + m[152, :2]) / 2) for m in seen]
            if seen and min(away) < 0.5 * np.ptp(face.box[1::2]):
                points, score = seen[int(np.argmin(away))], 1.0
            else:
                points, score = mesh(tuple(centre), 60), 0.05
            box, five = geometry.bounds(points[:468]), landmarks.five_points(points)
            out.append(replace(face, mesh=points, mesh_score=score, box=box, points=five))
        return out

    def who(self, face: Face) -> str:
        """The person that a face is on."""
        seen = self.seen()
        return min(seen, key=lambda n: float(np.abs(seen[n][1, :2] - face.mesh[1, :2]).sum()))
