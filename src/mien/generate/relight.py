"""The default generator: light from a network at 128², the portrait painted at full resolution.

The portrait is warped into an upright crop of the target and given the target's low-frequency
colour in closed form. A small network then sees both and predicts, for every pixel, a gain and a
bias: a change of light, *not* the face. Both are smooth, so they are enlarged and applied to the
portrait warped at the target's own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from mien import eyes, geometry, mask, motion, occlude, portrait, runtime, shape, zoo
from mien.errors import UsageError
from mien.generate import light
from mien.generate import mesh as mesh_
from mien.types import Faces, Floats, Frame, Identity, Image, Patch, Portrait, Rect

CHANNELS: Final = 13
"""Of the network's input, see :func:`look`."""

FINE: Final = 1.5
"""Blur in cells of 64 of the one-sided light that the network sees."""

CROP: Final = Rect(0, 0, motion.CROP, motion.CROP)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose.

    Attributes:
        strength: Of the identity in the network's light, 0..1; at 0 the light follows the scene
            as closely as the network can, and with it the face of the person who was there.
        shape: Share of the portrait's shape that the target's face takes on, 0..1.
        eyes: Whose irises are seen.
    """

    strength: float = 1.0
    shape: float = 0.5
    eyes: Literal["portrait", "target"] = "portrait"


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that depends on the identity alone.

    Attributes:
        paint: The portrait's pyramid and mesh.
        frontal: The portrait's shape, see :func:`mien.shape.frontal`.
        eyeballs: None where the portrait shows no eye well enough.
    """

    paint: mesh_.Paint
    frontal: Floats
    eyeballs: eyes.Eyeballs | None


NEXT: Final = 3
"""Frames after which what was held is too old to go on from."""

STEP: Final = 10.0
"""Change of light in grey levels, in the mean over the face, that is followed at once."""

LEAST: Final = 0.3
"""Share of a smaller change that is followed in one frame."""


@dataclass(slots=True)
class Held:
    """Light and mask of one face in the frame before, in its own aligned crop.

    What the network sees trembles with the mesh and the noise of the camera, and so does what it
    predicts. The crop moves with the face, so holding a share of the last prediction takes that
    out and lags in light alone, and not even there where light changes at once.
    """

    index: int = -NEXT - 1
    gain: Floats | None = None
    bias: Floats | None = None
    alpha: Floats | None = None
    blur: float = 0.0
    frontal: Floats | None = None

    def shape(self, index: int, frontal: Floats) -> Floats:
        """The target's own shape; a person keeps it, so it is averaged over many frames."""
        if 0 < abs(index - self.index) <= NEXT and self.frontal is not None:
            frontal = self.frontal + np.float32(0.1) * (frontal - self.frontal)
        self.frontal = frontal
        return frontal

    def steady(
        self, index: int, gain: Floats, bias: Floats, alpha: Floats, blur: float
    ) -> tuple[Floats, Floats, Floats, float]:
        """What to use for the frame with this index; kept for the next one.

        Args:
            index: Of the frame; frames a little out of order are no harm.
            gain: ``(128, 128, 3)`` float32.
            bias: ``(128, 128, 3)`` float32, 0..255.
            alpha: ``(128, 128)`` float32.
            blur: In cells.
        """
        if 0 < abs(index - self.index) <= NEXT and self.gain is not None:
            assert self.bias is not None
            assert self.alpha is not None
            # Seen on a mid grey, over the middle of the crop.
            middle = slice(32, 96)
            apart = (gain - self.gain)[middle, middle] * 128 + (bias - self.bias)[middle, middle]
            k = float(np.clip(np.abs(apart.mean((0, 1))).max() / STEP, LEAST, 1))
            gain = cv2.addWeighted(gain, k, self.gain, 1 - k, 0)
            bias = cv2.addWeighted(bias, k, self.bias, 1 - k, 0)
            # What comes in front of a face must not be painted over, so the mask follows faster.
            share = max(k, 0.6)
            alpha = cv2.addWeighted(alpha, share, self.alpha, 1 - share, 0)
            blur = self.blur + k * (blur - self.blur)
        self.index, self.gain, self.bias, self.alpha, self.blur = index, gain, bias, alpha, blur
        return gain, bias, alpha, blur


@dataclass(frozen=True, slots=True)
class RelightGenerator:
    """Paints the portrait in the target's light, under what is in front of the target's face.

    Attributes:
        network: ``(N, CHANNELS, 128, 128)`` float32 → gain and bias, ``(N, 3, 128, 128)`` each;
            None to light in closed form alone.
        occlude: Finds what is in front of a face; None to look for nothing.
        options: What the user chose.
    """

    network: runtime.Model | None
    occlude: occlude.Occlude | None
    options: Options = Options()
    _prepared: WeakKeyDictionary[Identity, Prepared] = field(default_factory=WeakKeyDictionary)

    def __call__(self, frame: Frame, faces: Faces, identities: Sequence[Identity]) -> list[Patch]:
        """One patch for each face that is in view, after one of its surroundings where they bend.

        Args:
            frame: Read only.
            faces: With meshes.
            identities: One for each face.
        """
        patches = []
        for face, identity in zip(faces, identities, strict=True):
            if face.mesh is None:
                raise ValueError("relight: expected faces with a mesh; run landmarks first")
            if mask.facing(face.mesh) > 0:
                known = self.prepare(identity)
                held = None if face.memory is None else face.memory.setdefault(identity, Held())
                patches += self._one(frame, face.mesh, known, held)
        return patches

    def prepare(self, identity: Identity) -> Prepared:
        """What depends on the identity alone, made once."""
        made = self._prepared.get(identity)
        if made is None:
            first = identity.portraits[0]
            clean = portrait.restore(identity.portraits, self._in_front if self.occlude else None)
            made = Prepared(
                texture_of(first, clean),
                shape.frontal(first.mesh),
                eyes.prepare(first.image, first.mesh),
            )
            made = self._prepared.setdefault(identity, made)
        return made

    def _in_front(self, image: Image, points: Floats) -> Floats:
        """What is in front of the face of a portrait, ``(S, S)`` float32 0..1."""
        assert self.occlude is not None
        aligned = motion.aligned(points)
        crop = geometry.warp(image, aligned, motion.CROP, border=cv2.BORDER_REPLICATE)
        found = self.occlude(crop[None], geometry.transform(aligned, points)[None])[0]
        size = (image.shape[1], image.shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(found, aligned, size, flags=flags), np.float32)

    def _one(self, frame: Frame, points: Floats, known: Prepared, held: Held | None) -> list[Patch]:
        height, width = frame.image.shape[:2]
        patches = []
        aligned = motion.aligned(points)
        crop = geometry.warp(frame.image, aligned, motion.CROP, border=cv2.BORDER_REPLICATE)
        if self.options.shape > 0:
            own = shape.frontal(points)
            if held is not None:
                own = held.shape(frame.index, own)
            bend = shape.bend(points, own, known.frontal, self.options.shape)
            patch = shape.surroundings(frame, bend)
            if patch is not None:
                patches.append(patch)
                crop = shape.bent(crop, bend, aligned)
                points = bend.moved(points)
        region = motion.region_of(points, width, height)
        if region.x1 - region.x0 < 8 or region.y1 - region.y0 < 8:
            return []
        in_crop = geometry.transform(aligned, points)
        cover = motion.cover(in_crop, CROP)
        occluded = self.occlude(crop[None], in_crop[None])[0] if self.occlude else None
        paint = known.paint
        eyeballs = known.eyeballs if self.options.eyes == "portrait" else None
        ratio = _ratio(in_crop, paint.mesh)
        small = _level(ratio, paint)
        seen = look(
            crop, cover, in_crop, paint.levels[small], paint.own[small],
            paint.mesh * np.float32(0.5**small), occluded=occluded,
            strength=self.options.strength, eyes=eyeballs is None,
        )  # fmt: skip
        gain, bias = seen.gain, seen.bias
        if self.network is not None:
            more, extra = self.network(seen.inputs[None])
            more, extra = (np.ascontiguousarray(v[0].transpose(1, 2, 0)) for v in (more, extra))
            gain, bias = gain * more, bias * more + extra * np.float32(255)
        gain, bias = settle(seen, crop, gain, bias)
        alpha, blur = seen.alpha, seen.blur
        if held is not None:
            gain, bias, alpha, blur = held.steady(frame.index, gain, bias, alpha, blur)

        # From here on at the frame's own resolution.
        onto = geometry.invert(aligned)  # crop → frame
        onto[:, 2] -= (region.x0, region.y0)
        size = (region.x1 - region.x0, region.y1 - region.y0)
        zoom = float(np.hypot(onto[0, 0], onto[1, 0]))  # pixels per cell
        level = _level(ratio / zoom, paint)
        lookup = _spread(seen.flow.lookup * np.float32(0.5 ** (level - small)), onto, size)
        painted = mesh_.warp(paint.levels[level], lookup)
        if seen.gamma < 1:
            painted = light.raise_to(painted, seen.gamma)
        painted = _lit(painted, _spread(gain, onto, size), _spread(bias, onto, size))
        if blur * zoom > 0.4:
            painted = np.asarray(cv2.GaussianBlur(painted, (0, 0), blur * zoom), np.uint8)
        alpha = cv2.GaussianBlur(alpha, (0, 0), 0.8) * np.float32(255 * mask.facing(points))
        cut = np.asarray(_spread(alpha.astype(np.uint8), onto, size), np.uint8)
        shift = np.array([[1.0, 0.0, -region.x0], [0.0, 1.0, -region.y0]])
        if eyeballs is not None:
            local = points - np.array([region.x0, region.y0, 0], np.float32)
            eyes.shut(painted, local)
            scene = _under(frame, region, patches)
            eyes.over(painted, eyes.paint(scene, local, eyeballs, blur=blur * zoom))
        return [*patches, Patch(painted, cut, shift)]


def load(options: str = "", *, provider: str = "cpu", threads: int = 1) -> RelightGenerator:
    """The default generator with the shipped networks.

    Args:
        options: ``key=value`` pairs of :class:`Options`, joined by commas.
        provider: Where the networks run.
        threads: Of each.

    Raises:
        UsageError: An option is unknown or out of range.
        ModelNotFound: A network's file is missing.
        ProviderError: The provider is not there.
    """
    chosen = parse(options)
    card = zoo.find("relight")
    network = runtime.load(zoo.path(card), provider=provider, threads=threads, name=card.name)
    return RelightGenerator(network, occlude.load(provider=provider, threads=threads), chosen)


def parse(options: str) -> Options:
    """Options from ``strength=1,shape=0.5,eyes=target``.

    Raises:
        UsageError: Names the option and what it may be.
    """
    chosen: dict[str, Any] = {}
    for pair in filter(None, options.split(",")):
        key, _, value = pair.partition("=")
        if key == "eyes" and value in ("portrait", "target"):
            chosen[key] = value
            continue
        if key == "eyes":
            raise UsageError(f"relight: eyes must be portrait or target, got {value!r}")
        if key not in ("strength", "shape"):
            raise UsageError(f"relight: no option {key!r}; known are strength, shape and eyes")
        try:
            chosen[key] = float(value)
        except ValueError:
            chosen[key] = -1.0
        if not 0 <= chosen[key] <= 1:
            raise UsageError(f"relight: {key} must be a number from 0 to 1, got {value!r}")
    return Options(**chosen)


def texture_of(first: Portrait, clean: portrait.Restored) -> mesh_.Paint:
    """What is painted: the photo itself where it shows the face, else what was restored.

    The restored portrait is lit alike all over, for which light and shade of the photo had to be
    guessed; what the photo shows is more the person than that. A photo that was turned to the
    front is used as it was restored.

    Args:
        first: The best photo.
        clean: Restored from all of them.
    """
    mesh = motion.extended(clean.mesh)
    if clean.image.shape != first.image.shape or not np.allclose(clean.mesh, first.mesh[:468]):
        return mesh_.pyramid(clean.image, clean.own, mesh)
    calm = np.ascontiguousarray(portrait.denoise(first.image, first.mesh))
    plain = mesh_.prepare(replace(first, image=calm))
    seen = np.clip((clean.trust.astype(np.float32) - 200) / 40, 0, 1)
    # A little into what is seen, so that no rim of what was hidden stays.
    width = max(1, int(np.ptp(first.mesh[:468, 0])) // 60)
    seen = cv2.erode(seen, np.ones((2 * width + 1,) * 2, np.uint8))
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), width), np.float32)
    sure = seen + np.float32(1e-3)
    gain, bias = light.light(clean.image, sure, plain.levels[0], sure)
    filled = light.apply(clean.image, gain, bias)
    image = cv2.blendLinear(plain.levels[0], filled, seen, 1 - seen)
    own = plain.own[0] * seen + clean.own * (1 - seen)
    return mesh_.pyramid(np.asarray(image, np.uint8), own.astype(np.uint8), mesh)


class Look(NamedTuple):
    """What is known about one face before the network runs, on the aligned crop.

    Attributes:
        flow: Motion field onto the portrait.
        painted: ``(128, 128, 3)`` uint8, the portrait through the field.
        gamma: Exponent that its contrast wants, see :func:`mien.generate.light.match_contrast`;
            already applied to ``painted``.
        blur: In cells, to make the portrait as soft as the target.
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
    """
    flow = motion.through(cover, texture_mesh)
    painted = mesh_.warp(texture, flow.lookup)
    outline = mask.contour(flow, mesh)
    free = np.float32(1) - mask.openings(flow, mesh, eyes=eyes)
    if occluded is not None:
        free *= np.float32(1) - occluded
    # A blink is the target's: lids drawn shut out of open ones look half open.
    free *= np.float32(1) - mask.shut_eyes(mesh, crop.shape[0])
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

    lit = painted * gain + bias
    inner = (outline * free)[..., None]
    context = smooth * inner + crop * (np.float32(1) - inner)
    side = one_sided(crop, cover, shared * theirs)
    h, w = crop.shape[:2]
    inputs = np.empty((CHANNELS, h, w), np.float32)
    inputs[0:3] = np.clip(lit, 0, 255).transpose(2, 0, 1)
    inputs[3:6] = context.transpose(2, 0, 1)
    inputs[:6] *= np.float32(1 / 255)
    inputs[6], inputs[7] = np.float32(1) - free, outline
    inputs[8], inputs[9] = flow.stretch, ours
    inputs[10], inputs[11], inputs[12] = side, strength, float(eyes)
    return Look(
        flow, painted, gamma, light.match_sharpness(rough * here.sharpness, there.sharpness),
        gain, bias, outline * flow.visible * ours * free, inputs,
    )  # fmt: skip


SETTLE: Final = 0.2
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
    lit = np.clip(seen.painted * gain + bias, 0, 255)
    ours = light.low(lit, weight).mean(2)
    theirs = light.low(crop, weight).mean(2)
    missing = _enlarge(((theirs + 4) / (ours + 4)) ** np.float32(SETTLE))[..., None]
    return gain * missing, bias * missing


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


def _ratio(in_crop: Floats, portrait: Floats) -> float:
    """Pixels of the portrait to a cell of the crop."""
    a, b = geometry.bounds(in_crop[:468]), geometry.bounds(portrait[:468])
    return float(np.sqrt(np.prod(b[2:] - b[:2]) / max(float(np.prod(a[2:] - a[:2])), 1.0)))


def _level(ratio: float, paint: mesh_.Paint) -> int:
    """The level of the portrait just above a resolution."""
    return int(np.clip(np.floor(np.log2(max(ratio, 1e-3))), 0, len(paint.levels) - 1))


def _spread(values: Floats, onto: geometry.Matrix, size: tuple[int, int]) -> Floats:
    """A map of the crop, enlarged onto a region of the frame.

    Smoothly to twice its size, then linearly: the eye sees no kinks at that scale, and cubic
    enlargement to a large face would cost more than everything else here.
    """
    zoom = float(np.hypot(onto[0, 0], onto[1, 0]))
    if zoom > 2:
        h, w = values.shape[:2]
        values = np.asarray(cv2.resize(values, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC))
        # Cell x of the crop has its middle at 2x + 0.5.
        onto = np.column_stack([onto[:, :2] / 2, onto[:, 2] - onto[:, :2].sum(1) / 4])
    out = cv2.warpAffine(
        values, onto, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out)


def _lit(image: Image, gain: Floats, bias: Floats) -> Image:
    """``gain·image + bias``, saturated to uint8."""
    lit = cv2.multiply(image, gain, dtype=cv2.CV_32F)
    return np.asarray(cv2.add(lit, bias, dtype=cv2.CV_8U), np.uint8)


def _under(frame: Frame, region: Rect, patches: Sequence[Patch]) -> Image:
    """A region of the frame with patches pasted that replace it as they are."""
    out = frame.image[region.slices()]
    for patch in patches:
        x, y = -patch.matrix[:, 2].astype(int)
        h, w = patch.mask.shape
        both = Rect(max(region.x0, x), max(region.y0, y), min(region.x1, x + w),
                    min(region.y1, y + h))  # fmt: skip
        if not both.empty:
            out = out.copy()
            here = Rect(both.x0 - region.x0, both.y0 - region.y0, both.x1 - region.x0,
                        both.y1 - region.y0)  # fmt: skip
            there = Rect(both.x0 - x, both.y0 - y, both.x1 - x, both.y1 - y)
            out[here.slices()] = patch.image[there.slices()]
    return out
