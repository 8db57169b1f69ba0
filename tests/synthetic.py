"""A drawn face, and scripted scenes of it: pictures and meshes that belong to nobody.

The mesh is the benchmark's; the drawing is plainer, so that tests know every colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from mien import geometry, landmarks
from mien.bench.face import BROWS, mesh, unit_mesh  # noqa: F401
from mien.types import Consent, Face, Faces, Frame, Identity, Portrait

CONSENT = Consent("synthetic")
SKIN = (205, 155, 130)
DARK = (92, 62, 48)


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
