"""The default generator: light from a network at 128², the portrait painted at full resolution.

The portrait is warped into an upright crop of the target and given the target's low-frequency
colour in closed form. A small network then sees both and predicts, for every pixel, a gain and a
bias: a change of light, *not* the face. Both are smooth, so they are enlarged and applied to the
portrait warped at the target's own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from mien import eyes, geometry, mask, motion, occlude, portrait, runtime, shape, zoo
from mien.errors import UsageError
from mien.generate import light, texture
from mien.generate import mesh as mesh_
from mien.generate.look import Look, look, settle
from mien.landmarks import LEFT_EYE, RIGHT_EYE
from mien.types import Face, Faces, Floats, Frame, Identity, Image, Patch, Rect

CROP: Final = Rect(0, 0, motion.CROP, motion.CROP)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose.

    Attributes:
        strength: Of the identity in the network's light, 0..1; at 0 the light follows the scene
            as closely as the network can, and with it the face of the person who was there.
        shape: Share of the portrait's shape that the target's face takes on, 0..1.
        eyes: Whose irises are seen.
        precision: Of the relight network; ``auto`` as for all other models.
    """

    strength: float = 1.0
    shape: float = 1.0
    eyes: Literal["portrait", "target"] = "portrait"
    precision: Literal["auto", "fp32", "int8"] = "auto"


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


HIDDEN: Final = (0.85, 1.0)
"""How likely something is in front of a face where painting begins to fade, and where it ends.

The rim of doubt around a thin frame of spectacles is as wide as the frame, and shows the eyes of
the person replaced. The right portrait was found in 89.9 of 100 swaps from 0.8 to 1, in 90.1 from
0.85 and in 90.2 from 0.88, where transparent spectacles begin to go.
"""

SURE: Final = (0.5, 0.65)
"""The same for what is cleaned off a portrait, where half of a fringe left is worse."""

OPAQUE: Final = 0.97
"""Share of the face above which nothing is seen through it."""


class Lit(NamedTuple):
    """What is painted of one face, on its aligned crop.

    Attributes:
        gain: ``(128, 128, 3)`` float32.
        bias: ``(128, 128, 3)`` float32, 0..255; portrait · gain + bias is seen.
        alpha: ``(128, 128)`` float32 0..1, where.
        blur: In cells.
        fine: Share of the finest detail that is kept.
    """

    gain: Floats
    bias: Floats
    alpha: Floats
    blur: float
    fine: float = 1.0


@dataclass(slots=True)
class Held:
    """Light, mask and shape of one face in the frames before, in its own aligned crop.

    What the network sees trembles with the mesh and the noise of the camera, and so does what it
    predicts. The crop moves with the face, so holding a share of the last prediction takes that
    out and lags in light alone, and not even there where light changes at once.

    Attributes:
        index: Of the last frame.
        lit: Used there.
        frontal: The target's shape, a mean.
        excess: Frame, and how much finer than the target the painted face was before it was
            softened; a mean.
    """

    index: int = -NEXT - 1
    lit: Lit | None = None
    frontal: Floats | None = None
    excess: tuple[int, float] | None = None

    def shape(self, index: int, frontal: Floats) -> Floats:
        """The target's own shape; a person keeps it, so it is averaged over many frames."""
        if self._follows(index) and self.frontal is not None:
            frontal = self.frontal + np.float32(0.1) * (frontal - self.frontal)
        self.frontal = frontal
        return frontal

    def steady(self, index: int, now: Lit) -> Lit:
        """What to use for the frame with this index; kept for the next one."""
        if self._follows(index) and self.lit is not None:
            last = self.lit
            # Seen on a mid grey, over the middle of the crop.
            middle = slice(32, 96)
            gain, bias = (
                np.array(cv2.mean(cv2.subtract(a[middle, middle], b[middle, middle])))
                for a, b in zip(now[:2], last[:2], strict=True)
            )
            k = float(np.clip(np.abs(gain * 128 + bias).max() / STEP, LEAST, 1))
            # What comes in front of a face must not be painted over, so the mask follows faster.
            share = max(k, 0.6)
            now = Lit(
                cv2.addWeighted(now.gain, k, last.gain, 1 - k, 0).astype(np.float32),
                cv2.addWeighted(now.bias, k, last.bias, 1 - k, 0).astype(np.float32),
                cv2.addWeighted(now.alpha, share, last.alpha, 1 - share, 0).astype(np.float32),
                last.blur + k * (now.blur - last.blur),
                last.fine + k * (now.fine - last.fine),
            )
        self.index, self.lit = index, now
        return now

    def softer(self, index: int, excess: float) -> float:
        """The fineness to go by; what a head in motion loses at once is followed nearly so."""
        if self.excess is not None and 0 < abs(index - self.excess[0]) <= NEXT:
            change = float(np.log(excess / self.excess[1]))
            share = float(np.clip(abs(change) / np.log(2), 0.2, 1))
            excess = self.excess[1] * float(np.exp(share * change))
        self.excess = index, excess
        return excess

    def _follows(self, index: int) -> bool:
        """Frames a little out of order are no harm."""
        return 0 < abs(index - self.index) <= NEXT


@dataclass(frozen=True, slots=True)
class RelightGenerator:
    """Paints the portrait in the target's light, under what is in front of the target's face.

    Attributes:
        network: see :mod:`mien.generate.look`: the face → gain and bias, ``(N, 3, 128, 128)`` each;
            None to light in closed form alone.
        occlude: Finds what is in front of a face; None to look for nothing.
        options: What the user chose.
    """

    network: runtime.Model | None
    occlude: occlude.Occlude | None
    options: Options = Options()
    _prepared: WeakKeyDictionary[Identity, Prepared] = field(default_factory=WeakKeyDictionary)
    _beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "beside"))

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
                patches += [
                    patch if patch.surround else replace(patch, face=face)
                    for patch in self._one(frame, face, face.mesh, known, held)
                ]
        return patches

    def prepare(self, identity: Identity) -> Prepared:
        """What depends on the identity alone, made once."""
        made = self._prepared.get(identity)
        if made is None:
            first = identity.portraits[0]
            clean = portrait.restore(identity.portraits, self._in_front if self.occlude else None)
            made = Prepared(
                texture.texture_of(first, clean),
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
        in_crop = geometry.transform(aligned, points)
        found = occlude.spectacles(self.occlude(crop[None], in_crop[None])[0], in_crop)
        found = occlude.spared(found, in_crop)
        # Only what is sure is cleaned away: what a photo shows is more the person than a filling.
        found = np.clip((found - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
        size = (image.shape[1], image.shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(found, aligned, size, flags=flags), np.float32)

    def _one(
        self, frame: Frame, face: Face, points: Floats, known: Prepared, held: Held | None
    ) -> list[Patch]:
        height, width = frame.image.shape[:2]
        beside: Future[Patch] | None = None
        facing = mask.facing(points)
        aligned = motion.aligned(points)
        crop = geometry.warp(frame.image, aligned, motion.CROP, border=cv2.BORDER_REPLICATE)
        if self.options.shape > 0:
            own = shape.frontal(points)
            if held is not None:
                own = held.shape(frame.index, own)
            # With the patch, so that nothing jumps where a head turns away.
            bend = shape.bend(points, own, known.frontal, self.options.shape * facing)
            around = shape.reach(bend, width, height)
            if around is not None:
                # Nothing needs them before the eyes, so they are painted meanwhile.
                beside = self._beside.submit(shape.surroundings, frame, bend, around)
                crop = shape.bent(crop, bend, aligned)
                points = bend.moved(points)
        region = motion.region_of(points, width, height)
        if region.x1 - region.x0 < 8 or region.y1 - region.y0 < 8:
            return []
        in_crop = geometry.transform(aligned, points)
        cover = motion.cover(in_crop, CROP)
        occluded = self.occlude(crop[None], in_crop[None])[0] if self.occlude else None
        if occluded is not None:
            occluded = np.clip((occluded - HIDDEN[0]) / (HIDDEN[1] - HIDDEN[0]), 0, 1)
        paint = known.paint
        eyeballs = known.eyeballs if self.options.eyes == "portrait" else None
        ratio = _ratio(in_crop, paint.mesh)
        small = _level(ratio, paint)
        seen = look(
            crop, cover, in_crop, paint.levels[small], paint.own[small],
            paint.mesh * np.float32(0.5**small), occluded=occluded,
            strength=self.options.strength, eyes=eyeballs is None, lids=face.lids or mask.LIDS,
        )  # fmt: skip
        lit = self._light(seen, crop)
        if held is not None:
            lit = held.steady(frame.index, lit)
        onto = geometry.invert(aligned)  # crop → frame
        region = _shown(lit.alpha, onto, region)
        if region.empty:
            return [] if beside is None else [beside.result()]
        onto[:, 2] -= (region.x0, region.y0)
        painted, cut = _painted(paint, seen, lit, ratio, small, onto, region)
        local = points - np.array([region.x0, region.y0, 0], np.float32)
        sigma = _softness(painted, frame.image[region.slices()], cut, local, held, frame.index)
        if sigma > 0:
            painted = geometry.soften(painted, sigma)
        cut = np.asarray(cv2.convertScaleAbs(cut, alpha=facing), np.uint8)
        patches = [] if beside is None else [beside.result()]
        if eyeballs is not None:
            sight = eyes.sight(local)
            eyes.shut(painted, local, sight)
            scene = _under(frame, region, patches)
            soft = float(np.hypot(lit.blur * _zoom(onto), sigma))
            eyes.over(painted, eyes.paint(scene, local, eyeballs, blur=soft, look=sight))
        shift = np.array([[1.0, 0.0, -region.x0], [0.0, 1.0, -region.y0]])
        return [*patches, Patch(painted, cut, shift)]

    def _light(self, seen: Look, crop: Image) -> Lit:
        """Run the network on one face."""
        gain, bias = seen.gain, seen.bias
        if self.network is not None:
            more, extra = self.network(seen.inputs[None])
            # A tenth of the time of a transposed copy.
            more, extra = (np.asarray(cv2.merge(tuple(v[0]))) for v in (more, extra))
            gain, bias = gain * more, bias * more + extra * np.float32(255)
        gain, bias = settle(seen, crop, gain, bias)
        # A trace of the target's face through its middle would be doubt, not something in front.
        alpha = np.minimum(seen.alpha * np.float32(1 / OPAQUE), np.float32(1))
        return Lit(gain, bias, alpha, seen.blur, seen.fine)


def load(options: str = "", models: zoo.Zoo | None = None) -> RelightGenerator:
    """The default generator with the shipped networks.

    Args:
        options: ``key=value`` pairs of :class:`Options`, joined by commas.
        models: Where networks come from and run.

    Raises:
        UsageError: An option is unknown or out of range.
        ModelNotFound: A network's file is missing.
        ProviderError: The provider is not there.
    """
    chosen = parse(options)
    models = models or zoo.Zoo()
    alike = models if chosen.precision == "auto" else replace(models, precision=chosen.precision)
    _, network = alike.open("relight")
    return RelightGenerator(network, occlude.load(models), chosen)


WORDS: Final = {"eyes": ("portrait", "target"), "precision": ("auto", "fp32", "int8")}
"""What options may be that are no numbers."""


def parse(options: str) -> Options:
    """Options from ``strength=1,shape=0.5,eyes=target``.

    Raises:
        UsageError: Names the option and what it may be.
    """
    chosen: dict[str, Any] = {}
    for pair in filter(None, options.split(",")):
        key, _, value = pair.partition("=")
        if key in WORDS:
            if value not in WORDS[key]:
                raise UsageError(f"relight: {key} must be {' or '.join(WORDS[key])}, got {value!r}")
            chosen[key] = value
            continue
        if key not in ("strength", "shape"):
            raise UsageError(
                f"relight: no option {key!r}; known are strength, shape, eyes, precision"
            )
        try:
            chosen[key] = float(value)
        except ValueError:
            chosen[key] = -1.0
        if not 0 <= chosen[key] <= 1:
            raise UsageError(f"relight: {key} must be a number from 0 to 1, got {value!r}")
    return Options(**chosen)


def _painted(  # noqa: PLR0917
    paint: mesh_.Paint,
    seen: Look,
    lit: Lit,
    ratio: float,
    small: int,
    onto: geometry.Matrix,
    region: Rect,
) -> tuple[Image, Image]:
    """The lit portrait and its mask at the frame's own resolution.

    Args:
        paint: The portrait.
        seen: The face on its crop.
        lit: Its light.
        ratio: Pixels of the portrait to a cell.
        small: Level of the portrait in which the crop's field points.
        onto: Crop → region.
        region: Of the frame.
    """
    size = (region.x1 - region.x0, region.y1 - region.y0)
    zoom = _zoom(onto)
    level = _level(ratio / zoom, paint)
    alpha = (cv2.GaussianBlur(lit.alpha, (0, 0), 0.8) * np.float32(255)).astype(np.uint8)
    places = seen.flow.lookup * np.float32(0.5 ** (level - small))
    lookup = geometry.enlarged_places(places, onto, size)
    gain, bias = (geometry.Enlarged(v, onto, size, fine=True) for v in (lit.gain, lit.bias))
    cut = geometry.Enlarged(alpha, onto, size)
    image, mask_ = np.zeros((size[1], size[0], 3), np.uint8), np.zeros(size[::-1], np.uint8)
    for rect in geometry.blocks(alpha > 0, onto, size):
        part = geometry.sample(paint.levels[level], lookup.block(rect))
        if seen.gamma < 1:
            part = light.raise_to(part, seen.gamma)
        scaled = cv2.multiply(part, gain.block(rect), dtype=cv2.CV_32F)
        cv2.add(scaled, bias.block(rect), dst=image[rect.slices()], dtype=cv2.CV_8U)
        mask_[rect.slices()] = cut.block(rect)
    if lit.blur * zoom > 0.4:
        image = geometry.soften(image, lit.blur * zoom)
    if lit.fine < 0.97:
        broad = geometry.soften(image, max(zoom, 0.8))
        image = np.asarray(cv2.addWeighted(image, lit.fine, broad, 1 - lit.fine, 0), np.uint8)
    return image, mask_


def _softness(  # noqa: PLR0917
    painted: Image, scene: Image, cut: Image, mesh: Floats, held: Held | None, index: int
) -> float:
    """Blur in pixels that makes what is painted no finer than the scene; 0 for none.

    A soft lens, motion and compression take the finest detail from a face.

    Args:
        painted: ``(h, w, 3)`` uint8.
        scene: The same region of the frame.
        cut: ``(h, w)`` uint8, where it is shown.
        mesh: ``(468+, 3)`` of the face in the region.
        held: What is known from the frames before.
        index: Of the frame.
    """
    skin = cut.copy()
    for ring in (LEFT_EYE, RIGHT_EYE):
        eye = mesh[list(ring), :2]
        grown = eye.mean(0) + (eye - eye.mean(0)) * np.float32(1.3)
        cv2.fillConvexPoly(skin, np.round(grown).astype(np.int32), 0)
    ours, theirs = light.fineness(painted, skin), light.fineness(scene, skin)
    if not ours.now * theirs.now > 0:
        return 0.0
    excess = ours.now / theirs.now
    if held is not None:
        excess = held.softer(index, excess)
    sigma = light.match_fineness(ours, ours.now / excess)
    return sigma if sigma >= 0.3 else 0.0


def _shown(alpha: Floats, onto: geometry.Matrix, region: Rect) -> Rect:
    """The part of a region of the frame in which anything is painted; ``onto`` is crop → frame."""
    x, y, w, h = cv2.boundingRect((alpha > 1 / 512).astype(np.uint8))
    # Two cells more, which the mask's own softness reaches.
    corners = [[x - 3, y - 3], [x + w + 2, y - 3], [x - 3, y + h + 2], [x + w + 2, y + h + 2]]
    low, high = geometry.bounds(geometry.transform(onto, corners)).reshape(2, 2)
    x0, y0 = np.maximum(np.floor(low).astype(int), region[:2])
    x1, y1 = np.minimum(np.ceil(high).astype(int) + 1, region[2:])
    return Rect(int(x0), int(y0), int(x1), int(y1))


def _zoom(onto: geometry.Matrix) -> float:
    """Pixels of the frame to a cell."""
    return float(np.hypot(onto[0, 0], onto[1, 0]))


def _ratio(in_crop: Floats, portrait: Floats) -> float:
    """Pixels of the portrait to a cell of the crop."""
    a, b = geometry.bounds(in_crop[:468]), geometry.bounds(portrait[:468])
    return float(np.sqrt(np.prod(b[2:] - b[:2]) / max(float(np.prod(a[2:] - a[:2])), 1.0)))


def _level(ratio: float, paint: mesh_.Paint) -> int:
    """The level of the portrait just above a resolution."""
    return int(np.clip(np.floor(np.log2(max(ratio, 1e-3))), 0, len(paint.levels) - 1))


def _under(frame: Frame, region: Rect, patches: Sequence[Patch]) -> Image:
    """A region of the frame with patches pasted that replace it as they are."""
    out = frame.image[region.slices()]
    for patch in patches:
        x, y = -patch.matrix[:, 2].astype(int)
        h, w = patch.mask.shape
        both = Rect(max(region.x0, x), max(region.y0, y), min(region.x1, x + w),
                    min(region.y1, y + h))  # fmt: skip
        there = Rect(both.x0 - x, both.y0 - y, both.x1 - x, both.y1 - y)
        if both == region:
            out = patch.image[there.slices()]
        elif not both.empty:
            out = out.copy()
            here = Rect(both.x0 - region.x0, both.y0 - region.y0, both.x1 - region.x0,
                        both.y1 - region.y0)  # fmt: skip
            out[here.slices()] = patch.image[there.slices()]
    return out
