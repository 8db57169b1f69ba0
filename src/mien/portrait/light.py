"""Light from one side and cast shadows, found by comparing a face with its mirror image."""

from __future__ import annotations

import cv2
import numpy as np

from mien import mask, motion
from mien.landmarks import LEFT_EYE, RIGHT_EYE, yaw
from mien.portrait.grids import CELLS, FRONTAL, blur, features, guided, shrink, spread
from mien.types import Floats, Image


def even(image: Image, mesh: Floats, bare: Floats) -> tuple[Image, Floats]:
    """Take light from one side out of a portrait, and the shadows that it casts.

    A face is nearly symmetric, light is not: the difference in log colour between a place and
    its mirrored place is light. Of the two places the one nearer to the face's own tone is
    believed, so that a shadow is lifted and a glare is lowered. The difference is smoothed
    within the edges of the picture by a guided filter (He, Sun and Tang, 2010), which keeps a
    cast shadow's edge and drops what a mesh a little off makes of pores and wrinkles; colour is
    smoothed more than brightness, since there is little of it in the dark. Brows, eyes, nostrils
    and lips take the light of the skin around them.

    Args:
        image: ``(S, S, 3)`` uint8.
        mesh: ``(468+, 3)`` in its pixels.
        bare: ``(h, w)`` float32 0..1 on the grid of the face's region: not covered.

    Returns:
        The image, and ``(h, w)`` float32 0..1: how much of it was too dark to be lifted well.
    """
    side = image.shape[0]
    region = motion.region_of(mesh, side, side)
    flow = motion.field(mesh, motion.extended(mesh[motion.mirror()]), region, grid=CELLS)
    h, w = bare.shape
    part = image[region.slices()]
    log = np.log(shrink(part, w, h).astype(np.float32) + 4)
    inside = (flow.inside > 0).astype(np.float32)
    weight = inside * bare
    x, y = np.moveaxis(flow.to_grid(flow.lookup), 2, 0)

    def across(values: Floats) -> Floats:
        return np.asarray(cv2.remap(values, x, y, cv2.INTER_LINEAR), np.float32)

    # A mesh is off by a cell or two: compare what is a little blurred.
    soft = blur(log, weight + np.float32(1e-3), 1.0)
    other = across(soft)
    luma, luma_other = soft.mean(2, keepdims=True), other.mean(2, keepdims=True)
    both = weight * across(weight) * cv2.erode(flow.visible, np.ones((5, 5), np.uint8))
    plain = both * (1 - features(flow, mesh, 0.02)) + np.float32(1e-4)
    at = np.round(flow.to_grid(mesh[list(mask.SKIN), :2])).astype(int).clip(0, (w - 1, h - 1))
    tone = float(np.percentile(luma[at[:, 1], at[:, 0]], 75))
    far = np.abs(blur(luma, plain, 0.03 * w) - tone)
    share = np.clip(0.5 + 1.25 * (far - across(far)[..., None]), 0, 1)
    # A shadow has an edge, a glare has none worth keeping.
    edged = guided(luma[..., 0], luma - luma_other, plain, 0.045 * w, 0.01)
    broad = blur(luma - luma_other, plain, 0.05 * w)
    dark = np.clip(edged, -1.2, 0) + np.clip(broad, 0, 0.5) * (edged > 0)
    # Colour comes from the lit side as it is there: a dark place has little to enlarge.
    colour = blur((soft - luma) - (other - luma_other), plain, 2.0)
    light = spread(np.concatenate([dark, colour], axis=2), plain)
    eyes = features(flow, mesh, 0.01, (LEFT_EYE, RIGHT_EYE))[..., None]
    light[..., :1] = np.clip(light[..., :1], -1.0, 0.5) * (1 - np.float32(0.6) * eyes)
    light[..., 1:] = np.clip(light[..., 1:], -0.4, 0.4) * (1 - eyes)
    light[..., 1:] *= np.clip(np.abs(light[..., :1]) / 0.15, 0, 1)
    light = (light[..., :1] + light[..., 1:]) * share
    light *= blur(both[..., None], inside + np.float32(1e-3), 0.01 * w)
    # The far side of a three-quarter view is seen too flat to tell light from shape: there only
    # what is broad is brought toward the tone.
    near = float(np.clip(2 - abs(yaw(mesh)) / FRONTAL, 0, 1))
    bare_skin = weight * (1 - features(flow, mesh, 0.02)) + np.float32(1e-4)
    level = 0.6 * np.clip(blur(luma, bare_skin, 0.08 * w) - tone, -0.9, 0.3)
    light = near * light + (1 - near) * level
    light *= blur(inside[..., None], np.ones_like(inside), 1.5)
    lifted = light.mean(2)
    left = (tone - luma[..., 0] + lifted) * (1 - features(flow, mesh, 0.03))
    shade = inside * np.clip((np.maximum(-lifted - 0.55, left - 0.5)) / 0.3, 0, 1)
    out = image.copy()
    out[region.slices()] = _relit(part, np.asarray(light, np.float32))
    return out, np.asarray(shade, np.float32)


def _relit(part: Image, light: Floats) -> Image:
    """Divide an image by light in log colour; noise of dark places is not enlarged with them.

    The light is enlarged by the image's own edges: that of a shadow lies elsewhere by a pixel or
    two in what was found on the grid, and would stay as a bright streak beside a dark one.
    """
    size = part.shape[1::-1]
    log = np.log(part.astype(np.float32) + 4)
    luma = np.asarray(log.mean(2), np.float32)
    whole = np.ones(luma.shape, np.float32)
    large = cv2.resize(light, size, interpolation=cv2.INTER_CUBIC)
    large = guided(luma, np.asarray(large, np.float32), whole, 0.02 * size[0] + 1, 0.004)
    smooth = guided(luma, log, whole, 0.008 * size[0] + 1, 0.02)
    damped = np.exp(np.minimum(large.mean(2, keepdims=True), 0))
    out = np.exp(smooth - large + (log - smooth) * damped) - 4
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)
