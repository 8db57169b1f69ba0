"""What the relight network sees of one face, and the light in closed form that it starts from.

Training and use call the same function, so that the network sees in use what it was trained on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np

from mien import mask, motion
from mien.generate import light
from mien.generate import mesh as mesh_
from mien.types import Floats, Image

CHANNELS: Final = 13
"""Of the network's input, see :func:`look`."""

FINE: Final = 1.5
"""Blur in cells of 64 of the one-sided light that the network sees."""


class Look(NamedTuple):
    """What is known about one face before the network runs, on the aligned crop.

    Attributes:
        flow: Motion field onto the portrait.
        painted: ``(128, 128, 3)`` uint8, the portrait through the field.
        gamma: Exponent that its contrast wants, see :func:`mien.generate.light.match_contrast`;
            already applied to ``painted``.
        blur: In cells, to make the portrait as soft as the target.
        fine: Share of detail finer than a cell that is kept, see
            :func:`mien.generate.light.match_fine`.
        gain: ``(128, 128, 3)`` float32, low-frequency light in closed form.
        bias: The same, 0..255; painted · gain + bias is lit.
        alpha: ``(128, 128)`` float32 0..1, where the patch is shown.
        inputs: ``(CHANNELS, 128, 128)`` float32 of the network: the lit portrait (3, 0..1), the
            target with the inner face replaced by its low-frequency colour (3), what is kept of
            it (1), the outline (1), the field's stretch (1), where the portrait is the person's
            own (1), one-sided light of the target (1), the strength of identity (1), and where
            eyes are painted (1).
    """

    flow: motion.MotionField
    painted: Image
    gamma: float
    blur: float
    fine: float
    gain: Floats
    bias: Floats
    alpha: Floats
    inputs: Floats


def look(  # noqa: PLR0917
    crop: Image,
    cover: motion.Cover,
    mesh: Floats,
    texture: Image,
    own: Image | None,
    texture_mesh: Floats,
    *,
    occluded: Floats | None = None,
    strength: float = 1.0,
    eyes: bool = False,
    lids: tuple[float, float] = mask.LIDS,
) -> Look:
    """Warp and light a portrait, and gather what the network sees.

    Args:
        crop: ``(128, 128, 3)`` uint8, the target's aligned crop.
        cover: Of the target's mesh in the crop.
        mesh: ``(468+, 3)`` of the target in pixels of the crop.
        texture: ``(h, w, 3)`` uint8, the portrait at about the crop's resolution.
        own: ``(h, w)`` uint8, 255 where the portrait may be painted; None to judge by colour.
        texture_mesh: ``(504, 3)`` extended mesh in pixels of ``texture``.
        occluded: ``(128, 128)`` float32 0..1, what is in front of the target's face.
        strength: Of the identity, 0..1.
        eyes: Keep the target's eyes.
        lids: How far the target's eyes are usually open, see :func:`mien.mask.shut_eyes`.
    """
    flow = motion.through(cover, texture_mesh)
    painted = mesh_.warp(texture, flow.lookup)
    outline = mask.contour(flow, mesh)
    free = np.float32(1) - mask.openings(flow, mesh, eyes=eyes)
    if occluded is not None:
        free *= np.float32(1) - occluded
    # A blink is the target's: lids drawn shut out of open ones look half open.
    free *= np.float32(1) - mask.shut_eyes(mesh, crop.shape[0], lids)
    points = mesh[list(mask.SKIN), :2]
    theirs = mask.skin(crop, points)
    ours = (
        mesh_.warp(own, flow.lookup).astype(np.float32) * np.float32(1 / 255)
        if own is not None
        else mesh_.only_skin(mask.skin(painted, points), outline, flow, mesh)
    )
    inside = (flow.inside > 0).astype(np.float32)
    shared = inside * flow.visible * free
    bare = shared * (np.float32(1) - mask.features(mesh, crop.shape[0]))
    here, there = light.detail(painted, shared), light.detail(crop, shared)
    # Half of what would make them alike: strong brows are the person, hard light is not, and the
    # network tells which is which.
    gamma = light.match_contrast(here.contrast, there.contrast) ** 0.5
    if gamma < 1:
        painted = light.raise_to(painted, gamma)
    # Contrast that is left over makes fine detail stand out as well.
    rough = max(1.0, gamma * here.contrast / max(there.contrast, 1e-3)) ** 0.5
    source = light.low(painted, bare * ours + np.float32(1e-3))
    scene = light.low(crop, bare * theirs + np.float32(1e-3))
    gain, bias = (_enlarge(v) for v in light.gain_and_bias(source, scene))
    smooth = _enlarge(scene)

    lit = cv2.add(cv2.multiply(painted, gain, dtype=cv2.CV_32F), bias)
    inner = outline * free
    context = cv2.blendLinear(smooth, crop.astype(np.float32), inner, np.float32(1) - inner)
    side = one_sided(crop, cover, shared * theirs)
    h, w = crop.shape[:2]
    inputs = np.empty((CHANNELS, h, w), np.float32)
    for n, colours in ((0, lit), (3, context)):
        np.multiply(colours.transpose(2, 0, 1), np.float32(1 / 255), out=inputs[n : n + 3])
    np.clip(inputs[:3], 0, 1, out=inputs[:3])
    inputs[6], inputs[7] = np.float32(1) - free, outline
    inputs[8], inputs[9] = flow.stretch, ours
    inputs[10], inputs[11], inputs[12] = side, strength, float(eyes)
    # Half of that, too: detail is the person as well.
    soft = 0.5 * light.match_sharpness(rough * here.sharpness, there.sharpness)
    # What is made soft has lost its fine detail by that.
    fine = light.match_fine(gamma * here.fine, there.fine) if soft == 0 else 1.0
    return Look(
        flow, painted, gamma, soft, fine,
        gain, bias, outline * flow.visible * ours * free, inputs,
    )  # fmt: skip


SETTLE: Final = 0.15
"""Share of what is left of the difference in broad light that is made good for at the end."""


def settle(seen: Look, crop: Image, gain: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """Bring the broad brightness of what will be painted, features and all, to the target's.

    Args:
        seen: The face.
        crop: ``(128, 128, 3)`` uint8, the target.
        gain: ``(128, 128, 3)`` float32.
        bias: ``(128, 128, 3)`` float32, 0..255.

    Returns:
        Both, times what was missing.
    """
    weight = seen.alpha + np.float32(1e-3)
    lit = cv2.add(cv2.multiply(seen.painted, gain, dtype=cv2.CV_32F), bias)
    grey = np.full((1, 3), 1 / 3, np.float32)
    ours = light.low(np.asarray(cv2.transform(np.clip(lit, 0, 255), grey), np.float32), weight)
    theirs = light.low(np.asarray(cv2.transform(crop.astype(np.float32), grey), np.float32), weight)
    missing = _enlarge(((theirs + 4) / (ours + 4)) ** np.float32(SETTLE))
    each = cv2.merge((missing,) * 3)
    return np.asarray(cv2.multiply(gain, each)), np.asarray(cv2.multiply(bias, each))


def one_sided(crop: Image, cover: motion.Cover, weight: Floats) -> Floats:
    """Light that falls on one half of the face alone, in log luminance; ``(128, 128)`` float32.

    Features are nearly symmetric and shadows are not: half the difference to the mirrored place
    tells the network where hard shadows lie, and little of whose face they lie on.

    Args:
        crop: ``(128, 128, 3)`` uint8, the aligned crop.
        cover: Of its mesh.
        weight: ``(128, 128)`` float32, where it shows skin.
    """
    lookup = motion.mirrored(cover)
    h, w = lookup.shape[:2]
    grey = cv2.cvtColor(light.shrink(crop, w, h), cv2.COLOR_RGB2GRAY).astype(np.float32)
    trust = cv2.resize(weight, (w, h), interpolation=cv2.INTER_AREA) + np.float32(1e-3)
    total = cv2.GaussianBlur(trust, (0, 0), FINE)
    log = cv2.GaussianBlur(np.log(grey + 4) * trust, (0, 0), FINE) / total
    x, y = np.moveaxis(lookup, 2, 0)
    across = cv2.remap(np.dstack([log, trust]), x, y, cv2.INTER_LINEAR)
    difference = np.clip((log - across[..., 0]) / 2, -0.8, 0.8) * trust * across[..., 1]
    return np.asarray(cv2.resize(difference, (2 * w, 2 * h)), np.float32)


def _enlarge(values: Floats) -> Floats:
    """From the grid of light to the crop."""
    size = (motion.CROP, motion.CROP)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_CUBIC), np.float32)
