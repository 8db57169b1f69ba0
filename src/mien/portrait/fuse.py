"""Several views of a face made one, and what none of them shows continued from the skin around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from mien import mask, motion
from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from mien.portrait.canvas import View
from mien.portrait.grids import (
    LEFT_BROW,
    LEFT_NOSTRIL,
    RIGHT_BROW,
    RIGHT_NOSTRIL,
    blur,
    enlarge,
    features,
    mix,
    shrink,
    spread,
)
from mien.portrait.photo import like_skin
from mien.types import Floats, Image

PAIRS: Final = (LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW)
"""Features that are taken whole or not at all."""

MUZZLE: Final = (2, 203, 206, 216, 212, 202, 204, 194, 199, 418, 424, 422, 432, 436, 426, 423)
"""Around the mouth, where a beard grows."""

NARROW: Final = 6
"""A hole narrower than twice this, in cells, is continued from both its sides."""

CHEEKS: Final = (50, 280, 101, 330, 117, 346, 118, 347, 36, 266, 205, 425, 187, 411)


def fuse(
    views: Sequence[View], flow: motion.MotionField, mesh: Floats
) -> tuple[Image, Floats, Floats]:
    """Lay the views over the first where they show more; returns image, known and trust."""
    middle = features(flow, mesh, 0.012, (OUTER_LIPS, LEFT_NOSTRIL, RIGHT_NOSTRIL))
    beard = features(flow, mesh, 0.05, (MUZZLE,))
    pairs = [features(flow, mesh, 0.025, (ring,)) > 0.5 for ring in PAIRS]
    rim = np.clip((1 - mask.contour(flow, mesh)) * 1.6, 0, 1)
    shown = [view.shown for view in views]
    for i in range(0, len(views), 2):
        # Near the outline, what is no skin on one side and skin on the other is hair or what
        # is behind the face.
        one, other = views[i], views[i + 1]
        foreign = [rim * v.skin * v.shown * (1 - u.skin) for u, v in ((one, other), (other, one))]
        foreign = [cv2.dilate(f, np.ones((5, 5), np.uint8)) for f in foreign]
        shown[i] = shown[i] * (1 - np.clip(2 * foreign[0], 0, 1))
        shown[i + 1] = shown[i + 1] * (1 - np.clip(2 * foreign[1], 0, 1))
    # A feature that is seen at all is better than none: what is left of it is not filled.
    some = np.clip(4 * views[0].near, 0, 1) * np.maximum(np.max(pairs, axis=0), middle)
    image, known = views[0].image, np.maximum(views[0].shown, some).astype(np.float32)
    trust = shown[0] * np.float32(views[0].worth)
    merit = shown[0] * views[0].detail * np.float32(1.25)
    for view, seen in zip(views[1:], shown[1:], strict=True):
        value = seen * view.detail * np.float32(view.worth)
        better = (value > merit) & (value > 0.08)
        # Who has a beard in one photo may have none in another.
        better &= (np.maximum(middle, beard) < 0.5) | (known < 0.3)
        if view.mirrored:
            better &= merit < 0.3
        # Half a brow of one photo and half of another make no brow; a mirrored eye squints.
        for number, ring in enumerate(pairs):
            gone = float((known[ring] < 0.3).mean()) > 0.25 and float(seen[ring].mean()) > 0.6
            better[ring] = gone and not (view.mirrored and number < 2)
        take = cv2.erode(better.astype(np.float32), np.ones((3, 3), np.uint8))
        take = np.minimum(cv2.GaussianBlur(cv2.dilate(take, np.ones((5, 5))), (0, 0), 2.0), 1)
        take = np.asarray(take, np.float32) * np.clip(seen * 3, 0, 1)
        if float(take.max()) < 0.05:
            continue
        image = mix(image, _matched(view, seen, image, merit), enlarge(take, image))
        known = np.maximum(known, take * seen)
        merit = merit + take * (value - merit)
        trust = trust + take * (np.float32(view.worth) - trust)
    return image, known, trust


def _matched(view: View, seen: Floats, to: Image, merit: Floats) -> Image:
    """A view in the low-frequency colour of another, continued to where that is not known."""
    h, w = seen.shape
    image = view.image
    log = [np.log(shrink(i, w, h).astype(np.float32) + 4) for i in (to, image)]
    sure = np.minimum(np.clip(2 * merit, 0, 1), np.clip(2 * view.detail * seen, 0, 1))
    both = cv2.erode(sure, np.ones((5, 5), np.uint8))
    weight: Floats = np.asarray(np.clip(2 * both - 1, 0, 1), np.float32)
    step = blur(np.asarray(log[0] - log[1], np.float32), weight + np.float32(1e-4), 3.0)
    step = spread(step, weight)
    large = cv2.resize(np.clip(step, -0.7, 0.7), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((image + 4.0) * np.exp(large) - 4 + 0.5, 0, 255), np.uint8)


def fill(
    image: Image, known: Floats, trust: Floats, flow: motion.MotionField, mesh: Floats
) -> tuple[Image, Floats, Floats]:
    """Fill what no view shows with the skin's own colour and grain."""
    h, w = known.shape
    inside = flow.inside > 0
    hole = np.clip(1.6 - 2 * known, 0, 1) * inside
    hole = cv2.dilate(hole, np.ones((3, 3), np.uint8))
    # Beyond the outline, too, so that nothing of what was there is left along it.
    hole = np.maximum(hole, cv2.dilate(hole, np.ones((9, 9), np.uint8)) * ~inside)
    hole = cv2.GaussianBlur(hole, (0, 0), 1.0)
    hole = hole * (1 - features(flow, mesh, 0.0, (LEFT_EYE, RIGHT_EYE, INNER_LIPS)))
    if float(hole.max()) < 0.05:
        return image, known, trust
    small = shrink(image, w, h)
    log = np.log(small.astype(np.float32) + 4)
    skin = like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
    sure = cv2.erode(known, np.ones((5, 5), np.uint8)) * inside * np.clip(3 * skin - 0.5, 0, 1)
    sure = np.clip(2 * sure - 1, 0, 1) * (1 - features(flow, mesh, 0.03))
    sure = np.asarray(sure, np.float32)
    at = np.round(flow.to_grid(mesh[list(CHEEKS), :2])).astype(int).clip(0, (w - 1, h - 1))
    tone = np.median(log[at[:, 1], at[:, 0]], axis=0).astype(np.float32)
    # A shadow under a fringe would be continued upward; the cheeks' tone holds against it.
    smooth = spread(blur(log, sure + np.float32(1e-4), 3.0), sure, tone, 0.001)
    # A frame of spectacles is narrow: what is on its two sides is continued, brows and all.
    core = cv2.morphologyEx(hole, cv2.MORPH_OPEN, np.ones((2 * NARROW + 1, 2 * NARROW + 1)))
    core = cv2.GaussianBlur(cv2.dilate(core, np.ones((3, 3), np.uint8)), (0, 0), 1.5)[..., None]
    held = np.asarray(cv2.erode(known, np.ones((3, 3), np.uint8)) * (flow.inside > 0), np.float32)
    smooth = smooth * core + spread(log, np.clip(4 * held - 3, 0, 1)) * (1 - core)
    grain = _grain(image, sure, flow, mesh)
    large = cv2.resize(smooth, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    fill = np.clip(np.exp(large + grain) - 4 + 0.5, 0, 255).astype(np.uint8)
    out = mix(image, fill, enlarge(np.asarray(hole, np.float32), image))
    filled = np.asarray(hole * inside, np.float32)
    return out, np.maximum(known, filled), trust + filled * (np.float32(0.25) - trust)


def _grain(image: Image, sure: Floats, flow: motion.MotionField, mesh: Floats) -> Floats:
    """Skin's fine texture everywhere: noise with the spectrum of the largest patch of bare skin.

    Random phases keep a micro-texture's look and repeat nothing (Galerne, Gousseau and Morel,
    "Random phase textures", 2011).

    Returns:
        ``(H, W, 3)`` float32 in log colour, zero mean.
    """
    height, width = image.shape[:2]
    sx, sy = flow.scale
    room = cv2.distanceTransform((sure > 0.5).astype(np.uint8), cv2.DIST_C, 3)
    y, x = np.unravel_index(int(np.argmax(room)), room.shape)
    half = int(max(float(room[y, x]) - 1, 0) / max(sx, sy))
    if half < 6:
        return np.zeros((height, width, 3), np.float32)
    cx, cy = round((x + 0.5) / sx), round((y + 0.5) / sy)
    patch = image[max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half]
    log = np.log(patch.astype(np.float32) + 4)
    band = log - cv2.GaussianBlur(log, (0, 0), max(1.5 / sx, 1.5))
    limit = 2.5 * 1.4826 * float(np.median(np.abs(band))) + 1e-3
    band = np.clip(band, -limit, limit)  # a mole or a hair is no grain
    band -= band.mean((0, 1))
    n, m = band.shape[:2]
    fade = np.sqrt(np.outer(np.hanning(n + 2)[1:-1], np.hanning(m + 2)[1:-1]))[..., None]
    padded = np.zeros((height, width, 3), np.float32)
    rows, columns = min(n, height), min(m, width)
    padded[:rows, :columns] = (band * fade)[:rows, :columns]
    phase = np.fft.rfft2(np.random.default_rng(0).standard_normal((height, width)))
    phase /= np.abs(phase) + 1e-9
    made = np.fft.irfft2(
        np.fft.rfft2(padded, axes=(0, 1)) * phase[..., None], s=(height, width), axes=(0, 1)
    )
    spread = band.std((0, 1)) / (made.std((0, 1)) + 1e-9)
    return np.asarray(made * spread, np.float32)


def own_of(
    image: Image, known: Floats, filled: Floats, flow: motion.MotionField, mesh: Floats
) -> Floats:
    """``(h, w)`` 0..1: known or filled, and skin by its colour near the outline."""
    h, w = known.shape
    small = shrink(image, w, h)
    skin = like_skin(small, flow.to_grid(mesh[list(mask.SKIN), :2]))
    sure = cv2.erode(np.clip(2 * skin - 1, 0, 1), np.ones((5, 5), np.uint8))
    rim = np.clip((1 - mask.contour(flow, mesh)) * 1.6, 0, 1)
    # Brows that no photo shows are not made up: the target keeps its own.
    made_up = np.zeros((h, w), np.float32)
    for brow in (LEFT_BROW, RIGHT_BROW):
        ring = features(flow, mesh, 0.0, (brow,)) > 0.5
        if float((filled[ring] > 0.5).mean()) > 0.25:
            made_up = np.maximum(made_up, features(flow, mesh, 0.035, (brow,)))
    own = (
        (1 - (1 - sure) * rim * (1 - filled))
        * (1 - made_up)
        * np.clip(known * 2, 0, 1)
        * (flow.inside > 0)
    )
    return np.asarray(cv2.GaussianBlur(own, (0, 0), 1.5), np.float32)
