"""What is painted of a portrait, and where: made once for each identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from mien import motion, portrait
from mien.generate import light
from mien.generate import mesh as mesh_
from mien.landmarks import OUTER_LIPS, mouth_opening
from mien.types import Floats, Image, Portrait

GAPE: Final = (0.35, 0.7)
"""Opening of a mouth, height over width, up to which a portrait's lips are painted, and from which
on they are not."""

DARK: Final = (0.12, 0.18)
"""Share of a face too dark for its light to be evened, up to which the evened portrait is painted,
and from which on it is not: with a quarter of it guessed one was recognised in 13 of 23 swaps, in
its own light in 22."""


def texture_of(first: Portrait, clean: portrait.Restored) -> mesh_.Paint:
    """What is painted: the restored portrait, which is lit alike all over.

    Of a photo with much deep shadow only what it hides is taken from there. What it shows is
    painted in its own light, less the broad light from one side.

    Args:
        first: The best photo.
        clean: Restored from all of them.
    """
    mesh = motion.extended(clean.mesh)
    if clean.image.shape != first.image.shape or not np.allclose(clean.mesh, first.mesh[:468]):
        return mesh_.pyramid(clean.image, _without_gape(clean.own, clean.mesh), mesh)
    calm = np.ascontiguousarray(portrait.denoise(first.image, first.mesh))
    plain = mesh_.prepare(replace(first, image=calm))
    seen = np.asarray(np.clip((clean.trust.astype(np.float32) - 200) / 40, 0, 1), np.float32)
    # A little into what is seen, so that no rim of what was hidden stays.
    width = max(1, int(np.ptp(first.mesh[:468, 0])) // 60)
    seen = np.asarray(cv2.erode(seen, np.ones((2 * width + 1,) * 2, np.uint8)), np.float32)
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), width), np.float32)
    image = clean.image
    guessed = float(np.clip((clean.dark - DARK[0]) / (DARK[1] - DARK[0]), 0, 1))
    if guessed > 0:
        sure = seen + np.float32(1e-3)
        gain, bias = light.light(clean.image, sure, plain.levels[0], sure)
        filled = light.apply(clean.image, gain, bias)
        lit = np.asarray(cv2.blendLinear(plain.levels[0], filled, seen, 1 - seen), np.uint8)
        image = np.asarray(cv2.addWeighted(lit, guessed, image, 1 - guessed, 0), np.uint8)
    own = plain.own[0] * seen + clean.own * (1 - seen)
    own = _without_gape(own.astype(np.uint8), clean.mesh)
    return mesh_.pyramid(image, own, mesh)


def _without_gape(own: Image, mesh: Floats) -> Image:
    """Where a portrait may be painted: not on the lips if its mouth is wide open.

    Lips drawn apart are thin and lie on teeth; on a mouth that is shut they would swell, so the
    target keeps its own.

    Args:
        own: ``(S, S)`` uint8.
        mesh: ``(468+, 3)`` in its pixels.
    """
    share = float(np.clip((mouth_opening(mesh) - GAPE[0]) / (GAPE[1] - GAPE[0]), 0, 1))
    if share == 0:
        return own
    ring = mesh[list(OUTER_LIPS), :2]
    ring = ring.mean(0) + (ring - ring.mean(0)) * np.float32(1.15)
    lips = np.zeros_like(own)
    cv2.fillPoly(lips, [np.round(ring * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    soft = cv2.GaussianBlur(lips, (0, 0), 0.05 * float(np.ptp(ring[:, 0])) + 0.5)
    return np.asarray(cv2.subtract(own, cv2.convertScaleAbs(soft, alpha=share)), np.uint8)
