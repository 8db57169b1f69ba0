"""Skin: the mean's colours without their light, spread over the head, with what averaging lost."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from demo_media import camera, head, means
from mien.landmarks import OUTER_LIPS
from mien.types import Floats

SIZE = means.SIZE

KEY = head.unit(np.array([-0.25, 0.45, 1.0]))
"""Where the light comes from in the portraits: above, in front, a little from the left."""

# Lower and upper edge of the brows, from the nose outward.
BROWS = (
    ([55, 65, 52, 53, 46], [107, 66, 105, 63, 70]),
    ([285, 295, 282, 283, 276], [336, 296, 334, 293, 300]),
)
BEARD = (
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361,
    323, 454, 425, 391, 393, 164, 167, 165, 205,
)  # fmt: skip


def shade(normals: Floats, light: Floats = KEY) -> Floats:
    """Brightness of ``(N, 3)`` normals under a large soft light, .5..1; light wraps around."""
    return 0.5 + 0.5 * np.clip((normals @ light + 0.25) / 1.25, 0, 1) ** 1.1


def blur(image: Floats, sigma: float) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def fill(image: Floats, weight: Floats) -> Floats:
    """Continue an image smoothly where its weight is 0: a pyramid of weighted means."""
    height, width = weight.shape
    if min(height, width) <= 2:
        total = max(float(weight.sum()), 1e-6)
        return np.broadcast_to((image * weight[..., None]).sum((0, 1)) / total, image.shape).copy()
    half = ((width + 1) // 2, (height + 1) // 2)
    small = cv2.resize(image * weight[..., None], half, interpolation=cv2.INTER_AREA)
    share = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    low = fill(small / np.maximum(share, 1e-6)[..., None], np.clip(share * 1.5, 0, 1))
    wide = blur(cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC), 1)
    return image * weight[..., None] + wide * (1 - weight[..., None])


def polygon(points: Floats) -> Floats:
    """``(SIZE, SIZE)`` 1 inside."""
    out = np.zeros((SIZE, SIZE), np.float32)
    cv2.fillPoly(out, [np.round(points[:, :2]).astype(np.int32)], 1.0)
    return out


def shrunk(mask: Floats, width: int) -> Floats:
    return cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))


def noise(rng: np.random.Generator, sigma: float) -> Floats:
    """Smooth noise on the canvas with variance 1."""
    out = blur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), sigma)
    return out / out.std()


@dataclass(frozen=True)
class Paint:
    """What is painted on a mean.

    Attributes:
        gain: ``(3,)`` exposure and white balance.
        brow: RGB of the brow hairs.
        brows: Strength of the brow hairs, 0..1.
        stubble: Strength of the stubble, 0..1.
        lip: RGB of lipstick; its strength, 0..1.
    """

    gain: tuple[float, float, float] = (1, 1, 1)
    brow: tuple[int, int, int] = (35, 24, 18)
    brows: float = 0.75
    stubble: float = 0
    lip: tuple[tuple[int, int, int], float] = ((178, 88, 92), 0)


def texture(mean: means.Mean, person: head.Head, paint: Paint, rng: np.random.Generator) -> Floats:
    """``(SIZE, SIZE, 3)`` colour of the skin without light, over the head seen from the front."""
    face = polygon(cv2.convexHull(np.round(mean.shape[:, :2]).astype(np.int32))[:, 0])
    image = fill(mean.image, mean.valid.astype(np.float32))
    sharper = sum(
        amount * (image - blur(image, sigma)) for sigma, amount in ((2.2, 1.6), (5, 1), (12, 0.35))
    )
    image = image + sharper * blur(shrunk(face, 31), 8)[..., None]
    colour, tone = _unlit(image, face, person)
    colour *= 1 + _pores(rng)
    _lips(colour, mean.shape, paint)
    _stubble(colour, mean.shape, paint, rng)
    _brows(colour, mean.shape, paint, float(tone.mean()), rng)
    return (colour * np.array(paint.gain)).astype(np.float32)


def _unlit(image: Floats, face: Floats, person: head.Head) -> tuple[Floats, Floats]:
    """The image over its shading, continued beyond the face; and its median colour."""
    flat = np.c_[person.canvas, person.depth]
    model = person.model
    which = camera.paint(flat, model.triangles, SIZE, SIZE)
    drawn = camera.resolve(flat, model.triangles, model.kind, which)
    light = np.full((SIZE, SIZE), 0.8, np.float32)
    light[drawn.rows, drawn.columns] = shade(head.unit(drawn.carry(person.normals)))
    colour = image / blur(light, 6)[..., None]
    tone = np.median(colour[shrunk(face, 31) > 0], axis=0)
    # Only well-lit skin is continued: hair at the temples would darken neck and scalp.
    bright = colour.mean(2) / tone.mean()
    good = shrunk(face, 71) * ((bright > 0.8) & (bright < 1.35))
    good = cv2.erode(good.astype(np.float32), np.ones((9, 9)))
    near = np.clip(3 * blur(good, 60), 0, 1)[..., None]
    wide = blur(fill(colour.astype(np.float32), good) * near + tone * (1 - near), 12)
    seam = blur(shrunk(face, 49), 14)[..., None]
    return colour * seam + wide * (1 - seam), tone


def _pores(rng: np.random.Generator) -> Floats:
    """``(SIZE, SIZE, 3)`` relative: grain, pores, and blood that shows in places."""
    pits = np.minimum(0, noise(rng, 1.3) + 0.9)
    grain = 0.010 * noise(rng, 0.8) + 0.010 * noise(rng, 2) + 0.013 * pits + 0.006 * noise(rng, 9)
    blood = 0.006 * noise(rng, 22)
    return np.stack([grain + blood, grain - 0.3 * blood, grain], -1)


def _blend(colour: Floats, mask: Floats, with_: Floats) -> None:
    colour += mask[..., None] * (with_ - colour)


def _lips(colour: Floats, shape: Floats, paint: Paint) -> None:
    tint, amount = np.array(paint.lip[0], float), paint.lip[1]
    light = colour.mean(2, keepdims=True)
    _blend(
        colour, blur(polygon(shape[list(OUTER_LIPS)]), 3) * amount, tint / tint.mean() * light * 0.9
    )


def _stubble(colour: Floats, shape: Floats, paint: Paint, rng: np.random.Generator) -> None:
    if not paint.stubble:
        return
    lips = cv2.dilate(polygon(shape[list(OUTER_LIPS)]), np.ones((15, 15)))
    area = blur(polygon(shape[list(BEARD)]), 22) * (1 - blur(lips, 4))
    hairs = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
    spots = rng.integers(0, 2 * SIZE, (54000, 2))
    spots = spots[rng.random(len(spots)) < area[spots[:, 1] // 2, spots[:, 0] // 2]]
    for start in spots[:9000]:
        angle, length = rng.normal(1.57, 0.5), rng.uniform(2, 6)
        stop = start + length * np.array([np.cos(angle), np.sin(angle)])
        ends = start.tolist(), stop.astype(int).tolist()
        cv2.line(hairs, *ends, float(rng.uniform(0.3, 0.9)), 1, cv2.LINE_AA)
    hairs = cv2.resize(blur(hairs, 0.7), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    _blend(colour, np.clip((hairs + 0.16 * area) * paint.stubble, 0, 0.8), np.array([48, 42, 40]))


def _brows(
    colour: Floats, shape: Floats, paint: Paint, tone: float, rng: np.random.Generator
) -> None:
    """Hairs along the brows: upward at the nose, outward along the arch, thick where it is dark."""
    dark = np.clip((0.97 * tone - blur(colour.mean(2), 5)) / (0.22 * tone), 0.5, 1)
    hairs = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
    for low, high in BROWS:
        lower, upper = shape[low, :2], shape[high, :2]
        for _ in range(280):
            t, v = rng.beta(1.1, 1.1) * 0.98, rng.beta(1.6, 1.6)
            start = _along(lower, t) * (1 - v) + _along(upper, t) * v + rng.normal(0, 2, 2)
            out = head.unit(_along(upper, min(1, t + 0.1)) - _along(upper, max(0, t - 0.02)))
            rise = np.clip(0.85 - 1.1 * t + 0.5 * (0.5 - v), -0.25, 0.9)
            step = head.unit(out * (1 - abs(rise)) + np.array([0, -rise]))
            length = 30 * (1 - 0.35 * t) * rng.uniform(0.7, 1.2)
            points = [start]
            for _ in range(6):
                step = head.unit(step + 0.1 * out)
                points.append(points[-1] + step * length / 6)
            line = np.array(points) - step * length * 0.45
            x, y = np.clip(np.round(start).astype(int), 0, SIZE - 1)
            weight = rng.uniform(0.35, 0.9) * (0.55 + 0.45 * np.sin(np.pi * min(1, t * 1.2 + 0.15)))
            fixed = np.round(line * 32).astype(int).tolist()
            for j in range(6):
                much = float(weight * dark[y, x] * (1 - 0.19 * abs(j - 2)))
                cv2.line(hairs, fixed[j], fixed[j + 1], much, 2, cv2.LINE_AA, 4)
    hairs = cv2.resize(blur(hairs, 0.8), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    _blend(colour, hairs * paint.brows, np.array(paint.brow) / 0.9)


def _along(points: Floats, t: float) -> Floats:
    """A point of a line through five points, ``t`` 0..1."""
    return np.array([np.interp(4 * t, range(5), points[:, axis]) for axis in (0, 1)])
