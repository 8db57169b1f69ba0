"""A person in front of a background: light, eyes, mouth, clothes, hair."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_media import camera, hair, means, skin
from demo_media.head import EYE, SIDES, SKIN, TEETH, TONGUE, Head, Model, Pose, fit, smooth, unit
from mien.types import Floats, Image

SAMPLES = 2
"""Pixels are drawn this many times finer along both axes."""

IRIS = 0.49
"""Angle of the iris' edge from the eye's axis, radians."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """What is chosen freely about a person.

    Attributes:
        origin: Which of MakeHuman's heads is bent to it: african, asian, caucasian.
        gender: female or male, of that head and body.
        cut: The hair.
        paint: On the skin.
        iris: RGB of the outer and the inner iris.
        cloth: RGB.
        lash: Length of the lashes, decimetres.
        lashes: Their strength, 0..1.
    """

    origin: str
    gender: str
    cut: hair.Cut
    paint: skin.Paint
    iris: tuple[Colour, Colour]
    cloth: Colour
    lash: float = 0.034
    lashes: float = 0.45


@dataclass(frozen=True)
class Person:
    look: Look
    head: Head
    texture: Floats
    iris: Floats
    hair: hair.Hair

    @classmethod
    def make(cls, look: Look, mean: means.Mean, model: Model, seed: int = 1) -> Person:
        rng = np.random.default_rng(seed)
        head = fit(model, mean, look.origin, look.gender)
        texture = skin.texture(mean, head, look.paint, rng)
        return cls(look, head, texture, _iris(look, rng), hair.grow(head, look.cut, rng))


@dataclass(frozen=True)
class Light:
    """Where it comes from and how bright it is."""

    way: Floats = field(default_factory=lambda: skin.KEY)
    power: float = 1.0


def _iris(look: Look, rng: np.random.Generator) -> Floats:
    """``(64, 512, 3)`` RGB by distance from the pupil's middle and by angle."""
    streaks = np.zeros((64, 512), np.float32)
    for sigma, weight in ((2, 0.5), (5, 0.3), (12, 0.2)):
        wide = np.tile(rng.standard_normal((64, 512)).astype(np.float32), (1, 3))
        grain = cv2.GaussianBlur(wide, (0, 0), sigmaX=sigma, sigmaY=9)[:, 512:1024]
        streaks += weight * grain / grain.std()
    r = np.linspace(0, 1, 64)[:, None]
    mix = np.clip(0.5 + 0.35 * streaks - 0.9 * (r - 0.45), 0, 1)[..., None]
    outer, inner = (np.array(c, float) for c in look.iris)
    colour = outer * (1 - mix) + inner * mix
    colour *= ((1 - 0.75 * smooth(0.80, 1.0, r)) * (0.75 + 0.25 * smooth(0.38, 0.5, r)))[..., None]
    pupil = (1 - smooth(0.36, 0.43, r))[..., None]
    return (colour * (1 - pupil) + np.array([6, 5, 6]) * pupil).astype(np.float32)


def backdrop(
    width: int,
    height: int,
    colours: tuple[Colour, Colour],
    seed: int,
    lamps: tuple[tuple[Colour, float], ...] = (),
) -> Floats:
    """A soft background, from the middle's colour to the corners', with lamps out of focus."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    t = np.clip(((x / width - 0.5) ** 2 + (y / height - 0.42) ** 2) * 1.9, 0, 1)[..., None]
    out = np.array(colours[0]) * (1 - t) + np.array(colours[1]) * t
    cloud = rng.standard_normal((6, 6)).astype(np.float32)
    out *= 1 + 0.025 * cv2.resize(cloud, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    for colour, strength in lamps:
        place = int(rng.uniform(0, width)), int(rng.uniform(0, 0.7 * height))
        radius = int(rng.uniform(0.013, 0.045) * width)
        spot = np.zeros((height, width), np.float32)
        cv2.circle(spot, place, radius, strength, -1, cv2.LINE_AA)
        spot = cv2.GaussianBlur(spot, (0, 0), 0.22 * radius)[..., None]
        out = out * (1 - spot) + np.array(colour) * spot
    return out.astype(np.float32)


def render(
    person: Person,
    view: camera.View,
    background: Floats,
    pose: Pose,
    light: Light | None = None,
    grain: float = 1.6,
    seed: int = 0,
) -> Image:
    """Draw a person; returns ``(height, width, 3)`` uint8 RGB.

    Args:
        person: Who.
        view: Of the picture.
        background: ``(height, width, 3)`` RGB 0..255.
        pose: What the person does.
        light: On the person.
        grain: Standard deviation of the film's grain.
        seed: Of the grain.
    """
    light = light or Light()
    head, model = person.head, person.head.model
    fine_view = view.times(SAMPLES)
    points = pose.carry(model.refine(pose.express(head)))
    drawn = camera.draw(fine_view, points, model.triangles, model.kind)
    depth = np.full((fine_view.height, fine_view.width), np.inf)
    depth[drawn.rows, drawn.columns] = camera.DISTANCE - drawn.carry(points)[:, 2]
    size = fine_view.width, fine_view.height
    image = cv2.resize(background, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    surface = _Surface(person, pose, light, fine_view, drawn, points)
    image[drawn.rows, drawn.columns] = surface.colour()
    strands = pose.carry(person.hair.strands)
    image *= _hair_shadow(strands, depth, fine_view)[..., None]
    middle = np.array([0, 7.6, 0.25]) + np.array(pose.sway)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    colours = person.hair.colours(strands, light.way, middle)
    camera.draw_hairs(pixels, depth, fine_view, strands, colours, 0.03)
    with_lashes = pixels.copy()
    lashes = pose.carry(hair.lashes(head, pose, person.look.lash))
    dark = np.full((*lashes.shape[:1], 4, 3), (28, 20, 16), float)
    camera.draw_hairs(with_lashes, depth, fine_view, lashes, dark, 0.2)
    image = cv2.addWeighted(
        pixels.astype(np.float32), 1 - person.look.lashes,
        with_lashes.astype(np.float32), person.look.lashes, 0,
    )  # fmt: skip
    out = cv2.resize(image * light.power, (view.width, view.height), interpolation=cv2.INTER_AREA)
    film = np.random.default_rng(seed).standard_normal(out.shape[:2]).astype(np.float32)
    film = skin.blur(film, 0.6)
    return np.clip(out + grain * (film / film.std())[..., None], 0, 255).astype(np.uint8)


def _hair_shadow(strands: Floats, depth: Floats, view: camera.View) -> Floats:
    """``(H, W)`` factor: hair in front darkens the skin just below it."""
    height, width = depth.shape
    flat = view(strands[::3] + np.array([0.01, -0.045, 0]))
    place = np.round(flat[..., :2]).astype(np.int32)
    x, y = np.clip(place[..., 0], 0, width - 1), np.clip(place[..., 1], 0, height - 1)
    seen = (flat[..., 2] < depth[y, x] + 0.02) & (flat[..., 2] < camera.DISTANCE - 0.35)
    hair_, part = np.nonzero(seen[:, 1:] & seen[:, :-1])
    dark = np.zeros((height, width), np.float32)
    ends = np.stack([place[hair_, part], place[hair_, part + 1]], 1)
    cv2.polylines(dark, list(ends), False, 1.0, 2)
    dark = np.clip(skin.blur(dark, 0.03 * view.scale), 0, 1)
    return 1 - 0.42 * dark * np.isfinite(depth)


class _Surface:
    """Colours of everything but hair at the drawn pixels."""

    def __init__(
        self,
        person: Person,
        pose: Pose,
        light: Light,
        view: camera.View,
        drawn: camera.Drawn,
        points: Floats,
    ) -> None:
        head = person.head
        self.person, self.pose, self.light = person, pose, light
        self.view, self.drawn = view, drawn
        self.normal = unit(drawn.carry(head.model.normals(points)))
        self.rest = drawn.carry(head.fine)
        self.canvas = drawn.carry(head.canvas)
        self.lining = drawn.carry(head.mouth)
        self.lit = skin.shade(self.normal, light.way)

    def colour(self) -> Floats:
        """``(P, 3)`` RGB 0..255."""
        kind = self.drawn.kind
        out = self._skin()
        self._cloth(out)
        for side in SIDES:
            mine = (kind == EYE) & (self.rest[:, 0] * side > 0)
            if mine.any():
                out[mine] = self._eye(side, mine)
        self._mouth(out)
        return out

    def _skin(self) -> Floats:
        view, drawn = self.view, self.drawn
        grid = np.zeros((2, view.height, view.width), np.float32)
        grid[:, drawn.rows, drawn.columns] = self.canvas.T
        bent = cv2.remap(
            self.person.texture, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        x, y, z = self.rest.T
        # The jaw shades the neck; the shell of the ear shades itself.
        jaw = np.minimum(6.42 + (1.05 - z) * 0.97, 7.0)
        open_ = 1 - 0.4 * smooth(0, 0.22, jaw - y - 0.03) * smooth(5.65, 6.35, y)
        ear = (np.abs(x) > 0.72) & (y > 6.95) & (y < 7.65) & (z < 0.65)
        open_ = np.where(ear, 0.82 * open_, open_)
        half = unit(self.light.way + np.array([0, 0, 1.0]))
        gloss = 0.035 * np.clip(self.normal @ half, 0, 1) ** 14
        out = bent[drawn.rows, drawn.columns] * (self.lit * open_)[:, None]
        out = out + gloss[:, None] * np.array([255, 245, 235])
        grown = 0.85 * hair.scalp(self.rest)[:, None]
        under = 0.55 * self.lit[:, None] * np.array(self.person.look.cut.colour)
        return out * (1 - grown) + under * grown

    def _cloth(self, out: Floats) -> None:
        """A round-necked shirt: below a tilted plane skin is knitted cotton."""
        skin_ = self.drawn.kind == SKIN
        below = 6.02 - self.rest[:, 1] - 0.42 * (self.rest[:, 2] - 0.3)
        edge = skin_ & (below <= 0) & (below > -0.05)
        out[edge] *= (1 - 0.3 * (1 + below[edge] / 0.05))[:, None]
        mine = skin_ & (below > 0)
        x, y, z = self.rest[mine].T
        deep = below[mine]
        folds = 0.93 + 0.035 * (1 + np.sin(9 * x + 3 * np.sin(5 * y) + 7 * y))
        weave = 1 + 0.035 * np.sin(260 * x) * np.sin(260 * y)
        ribs = 0.05 - 0.10 * (0.5 + 0.5 * np.sin(220 * np.arctan2(x, z)))
        band = 1 + ribs * (deep < 0.075) - 0.22 * np.exp(-(((deep - 0.08) / 0.012) ** 2))
        bright = self.lit[mine] * folds * weave * band * (0.8 + 0.2 * smooth(0, 0.5, deep))
        out[mine] = np.array(self.person.look.cloth) * bright[:, None]

    def _gaze(self, side: int) -> Floats:
        """Axis of an eye in the head's own directions."""
        if self.pose.gaze is not None:
            return unit(np.array([*np.tan(np.radians(self.pose.gaze)), 1.0]))
        eye = self.pose.carry(self.person.head.eyes[side][0][None])[0]
        seer = np.array([0, self.view.middle, camera.DISTANCE])
        return self.pose.rotation.T @ unit(seer - eye)

    def _eye(self, side: int, mine: NDArray[np.bool_]) -> Floats:
        centre, radius = self.person.head.eyes[side]
        off = (self.rest[mine] - centre) / radius
        angle = np.arccos(np.clip(unit(off) @ self._gaze(side), -1, 1))
        around = (np.arctan2(off[:, 1], off[:, 0]) % (2 * np.pi)) / (2 * np.pi) * 511
        ring = np.clip(angle / IRIS, 0, 1) * 63
        iris = self.person.iris[np.round(ring).astype(int), np.round(around).astype(int)]
        white = (
            np.array([208, 195, 185])
            * (
                (1 - 0.18 * smooth(0.5, 1.1, angle))
                * (1 - 0.3 * smooth(0.55, 1.05, np.abs(off[:, 0])))
            )[:, None]
        )
        edge = smooth(0.94 * IRIS, 1.06 * IRIS, angle)[:, None]
        lid = self._lid_shadow()[self.drawn.rows[mine], self.drawn.columns[mine]]
        bright = (0.5 + 0.5 * lid) * (0.72 + 0.28 * self.lit[mine])
        out = (white * edge + iris * (1 - edge)) * bright[:, None]
        for way, cosine, strength in (
            ((-0.22, 0.30, 1), 0.9965, 1),
            ((0.30, -0.25, 1), 0.9985, 0.25),
        ):
            shine = self.normal[mine] @ unit(np.array(way, float))
            spark = strength * smooth(cosine - 0.0012, cosine + 0.0012, shine)[:, None]
            out = out * (1 - spark) + np.array([255, 252, 248]) * spark
        return out

    def _lid_shadow(self) -> Floats:
        """``(H, W)`` 0 at the lids, mostly the upper ones, to 1 in the middle of the eye."""
        eye = np.zeros((self.view.height, self.view.width), np.float32)
        eye[self.drawn.rows, self.drawn.columns] = self.drawn.kind == EYE
        sigma = 0.03 * self.view.scale
        return np.clip((np.roll(skin.blur(eye, sigma), int(0.9 * sigma), 0) - 0.25) / 0.5, 0, 1)

    def _mouth(self, out: Floats) -> None:
        kind, lip = self.drawn.kind, self.person.head.lip
        tooth = kind == TEETH
        x, _, z = self.rest[tooth].T
        gap = 1 - 0.3 * smooth(0.82, 1.0, np.abs((x / 0.078) % 1 - 0.5) * 2)
        open_ = 0.35 + 0.65 * smooth(lip - 0.42, lip - 0.12, z)
        open_ *= 0.45 + 0.55 * smooth(0.24, 0.10, np.abs(x))
        bright = (0.26 + 0.62 * self.lit[tooth]) * open_ * gap
        out[tooth] = np.array([232, 219, 200]) * bright[:, None]
        tongue = kind == TONGUE
        bright = 0.25 + 0.65 * smooth(lip - 0.75, lip - 0.30, self.rest[tongue][:, 2])
        bright *= 0.2 + 0.6 * self.lit[tongue]
        out[tongue] = np.array([150, 72, 70]) * bright[:, None]
        out *= 1 - self.lining * (1 - np.array([0.30, 0.15, 0.15]))
