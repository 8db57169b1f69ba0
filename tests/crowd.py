"""Made clips of several people who cross, leave, turn away and change places, with the truth.

People are cut out of portraits and pasted over a drawn room, each on a path, so that who is where
is known in every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mien import geometry, media
from mien.identity import find_faces
from mien.pipeline import Stream, Swapper
from mien.types import Face, Frame

WIDTH, HEIGHT, FPS = 480, 270, 30


@dataclass(frozen=True)
class Cutout:
    """A head cut out of a picture.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        alpha: ``(H, W)`` float32 0..1.
        box: ``(4,)`` of the face in it.
    """

    image: np.ndarray
    alpha: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class Place:
    """Where somebody is.

    Attributes:
        x: Middle of the face, pixels.
        y: Likewise.
        height: Of the face, pixels.
        turned: 0 faces the camera, 1 shows the back of the head.
        roll: In radians.
    """

    x: float
    y: float
    height: float = 90.0
    turned: float = 0.0
    roll: float = 0.0


Path_ = Callable[[int], Place | None]


@dataclass(frozen=True)
class Clip:
    """People on paths, the nearest first, before a room.

    Attributes:
        people: Name → cut-out and path.
        frames: How many.
        room: Which background is shown at a frame.
        noise: Of the camera, in grey levels.
    """

    people: dict[str, tuple[Cutout, Path_]]
    frames: int
    room: Callable[[int], int] = lambda t: 0
    noise: float = 2.0

    def pictures(self) -> Iterator[tuple[Frame, dict[str, Place]]]:
        """Each frame, and who is in it where; who shows the back of the head is not."""
        rng = np.random.default_rng(0)
        for t in range(self.frames):
            image = room(self.room(t)).copy()
            truth = {}
            for name, (cutout, path) in reversed(self.people.items()):
                place = path(t)
                if place is None:
                    continue
                _paste(image, cutout, place)
                if place.turned < 0.6:
                    truth[name] = place
            image += rng.normal(0, self.noise, image.shape).astype(np.float32)
            frame = Frame(np.clip(image, 0, 255).astype(np.uint8), t)
            yield frame, dict(reversed(truth.items()))


def cutout(picture: Path | np.ndarray, swapper: Swapper, which: int = 0) -> Cutout:
    """The head of a picture's face; ``which`` counts from the left."""
    image = picture if isinstance(picture, np.ndarray) else media.read_image(picture)
    face = find_faces(Frame(image), swapper.detector, swapper.landmarks)[which]
    x0, y0, x1, y1 = face.box
    w, h, x, y = x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
    middle, axes = (x, y - 0.12 * h), (0.78 * w, 0.80 * h)
    alpha = np.zeros(image.shape[:2], np.float32)
    centre = (round(float(middle[0])), round(float(middle[1])))
    cv2.ellipse(alpha, centre, (round(axes[0]), round(axes[1])), 0, 0, 360, 1, -1)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.02 * h)
    left, top = int(max(middle[0] - 0.9 * w, 0)), int(max(middle[1] - 0.95 * h, 0))
    part = np.s_[top : int(middle[1] + 0.95 * h), left : int(middle[0] + 0.9 * w)]
    scale = 140 / h
    small = [cv2.resize(a[part], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
             for a in (image, alpha)]  # fmt: skip
    box = (face.box - np.array([left, top, left, top])) * scale
    return Cutout(small[0], small[1], box)


def alike(one: Cutout) -> Cutout:
    """Somebody who looks much like them: a little other in form and colour."""
    h, w = one.alpha.shape
    bend = np.array([[1.05, 0, -0.025 * w], [0, 0.97, 0.015 * h]])
    image, alpha = (cv2.warpAffine(a, bend, (w, h)) for a in (one.image, one.alpha))
    image = np.clip(image * np.float32([1.0, 0.95, 0.92]) + 3, 0, 255).astype(np.uint8)
    box = geometry.bounds(geometry.transform(bend, one.box.reshape(2, 2)))
    return Cutout(image, alpha, box)


def room(number: int) -> np.ndarray:
    """``(HEIGHT, WIDTH, 3)`` float32: a wall with things on it, another for each number."""
    rng = np.random.default_rng(number)
    wall = rng.normal(0, 1, (HEIGHT // 15, WIDTH // 15, 3)).astype(np.float32)
    wall = cv2.resize(wall, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return (60, 175, 110)[number % 3] + 12 * wall


def _paste(image: np.ndarray, cutout: Cutout, place: Place) -> None:
    x0, y0, x1, y1 = cutout.box
    scale = place.height / (y1 - y0)
    wide = scale * max(float(np.cos(place.turned * np.pi / 2)), 0.02)
    c, s = np.cos(place.roll), np.sin(place.roll)
    m = np.array([[wide * c, -scale * s, 0], [wide * s, scale * c, 0]])
    m[:, 2] = (place.x, place.y) - m[:, :2] @ ((x0 + x1) / 2, (y0 + y1) / 2)
    size = (image.shape[1], image.shape[0])
    head, alpha = (cv2.warpAffine(a.astype(np.float32), m, size, flags=cv2.INTER_AREA)
                   for a in (cutout.image, cutout.alpha))  # fmt: skip
    if place.turned > 0:  # hair all around, which stays when the face is gone
        hair = np.zeros(size[::-1], np.float32)
        axes = (round(0.62 * place.height), round(0.80 * place.height))
        middle = (round(place.x), round(place.y - 0.12 * place.height))
        cv2.ellipse(hair, middle, axes, 0, 0, 360, 1, -1)
        image[...] = image * (1 - hair[..., None]) + (52, 40, 34) * hair[..., None]
    image[...] = image * (1 - alpha[..., None]) + head * alpha[..., None]


def line(x0: float, x1: float, frames: int, y: float = 150, height: float = 90) -> Path_:
    """From one side to the other at an even pace."""
    return lambda t: Place(x0 + (x1 - x0) * min(t / (frames - 1), 1.0), y, height)


def stays(x: float, y: float = 150, height: float = 90) -> Path_:
    """Stands there."""
    return lambda t: Place(x + 2 * np.sin(t / 9), y + np.cos(t / 11), height)


def crossing(one: Cutout, other: Cutout, *, pace: float = 7.0) -> Clip:
    """``one`` walks to the right, before ``other``, who walks to the left."""
    n = round(330 / pace)
    return Clip({"one": (one, line(75, 405, n)), "other": (other, line(405, 75, n, 158))}, n)


def passing(one: Cutout, other: Cutout, *, pace: float = 8.0) -> Clip:
    """``one`` comes from the right, walks past ``other``, who was there first, and back."""
    n = round(340 / pace)

    def path(t: int) -> Place:
        step = t if t < n else 2 * n - t
        return Place(420 - 340 * min(max(step, 0) / n, 1), 145, 95)

    return Clip({"one": (one, path), "other": (other, stays(200))}, 2 * n)


def leaving(one: Cutout, other: Cutout, *, away: int = 45) -> Clip:
    """``one`` leaves at the left and comes back after a while, at the right."""

    def path(t: int) -> Place | None:
        if t < 25:
            return Place(110 - max(t - 8, 0) * 12, 150)
        if t < 25 + away:
            return None
        return Place(max(540 - (t - 25 - away) * 12, 390), 150)

    return Clip({"one": (one, path), "other": (other, stays(250))}, 25 + away + 30)


def turning(one: Cutout, other: Cutout, *, away: int = 30) -> Clip:
    """``one`` turns away, walks a little, and turns back."""

    def path(t: int) -> Place:
        turned = np.clip((t - 12) / 8, 0, 1) - np.clip((t - 20 - away) / 8, 0, 1)
        walk = 50 * np.clip((t - 20) / away, 0, 1)
        return Place(120 + walk, 150, 90, float(turned))

    return Clip({"one": (one, path), "other": (other, stays(330))}, away + 45)


def cutting(one: Cutout, other: Cutout) -> Clip:
    """Cut: both are there again, each where the other was; cut: one alone, in the other's place."""

    def first(t: int) -> Place:
        return Place(140 if t < 20 else 350, 150)

    def second(t: int) -> Place | None:
        return Place(350 if t < 20 else 140, 150) if t < 40 else None

    shots: Callable[[int], int] = lambda t: (t >= 20) + (t >= 40)  # noqa: E731
    return Clip({"one": (one, first), "other": (other, second)}, 55, shots)


def made(
    pairs: list[tuple[Cutout, Cutout]], lookalikes: list[tuple[Cutout, Cutout]]
) -> dict[str, list[Clip]]:
    """The clips of all kinds, with each pair of people."""
    return {
        "crossing": [crossing(*pair) for pair in pairs],
        "passing": [passing(*pair) for pair in pairs],
        "leaving": [leaving(*pair) for pair in pairs],
        "turning": [turning(*pair) for pair in pairs],
        "alike": [crossing(*pair) for pair in lookalikes],
        "cutting": [cutting(*pair) for pair in pairs],
    }


def whose(face: Face, truth: dict[str, Place]) -> str | None:
    """The person that a face lies on, the nearest to the camera where two are alike near."""
    x, y = (face.box[:2] + face.box[2:]) / 2
    apart = {n: np.hypot(p.x - x, p.y - y) / p.height for n, p in truth.items()}
    near = [n for n in truth if apart[n] < 0.5 and apart[n] < min(apart.values()) + 0.15]
    return near[0] if near else None


@dataclass
class Told:
    """What a stream made of a clip.

    Attributes:
        numbers: Person → number, in each frame.
        astray: Faces on nobody.
        seen: Person → share of the frames in which they face the camera that have their face.
    """

    numbers: list[dict[str, int]]
    astray: int
    seen: dict[str, float]

    @property
    def changes(self) -> list[str]:
        """Frames in which somebody's number is not the one they had first."""
        first: dict[str, int] = {}
        out = []
        for t, named in enumerate(self.numbers):
            for name, number in named.items():
                if first.setdefault(name, number) != number:
                    out.append(f"frame {t}: {name} is {number}, was {first[name]}")
        if len(set(first.values())) < len(first):
            out.append(f"one number for two: {first}")
        return out


def tell(clip: Clip, stream: Stream) -> Told:
    """Run a clip through a stream."""
    numbers, astray, there, found = (
        [],
        0,
        dict.fromkeys(clip.people, 0),
        dict.fromkeys(clip.people, 0),
    )
    for frame, truth in clip.pictures():
        named: dict[str, int] = {}
        for face in stream.observe(frame):
            name = whose(face, truth)
            if name is None or face.track is None:
                astray += 1
            else:
                named[name] = face.track
        for name in truth:
            there[name] += 1
            found[name] += name in named
        numbers.append(named)
    return Told(numbers, astray, {n: found[n] / max(there[n], 1) for n in there})
