"""Published generators: an aligned crop of the face goes through a network of the user's own.

One class runs them all; what differs is data of their cards. See ``docs/stages/published.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np

from mien import geometry, mask, motion, occlude, zoo
from mien.errors import UsageError
from mien.generate import networks, sources
from mien.types import Face, Faces, Floats, Frame, Identity, Image, Patch
from mien.zoo import ModelCard, options

BOOSTED: Final = 2048
"""The largest crop that pixel boost makes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose.

    Attributes:
        strength: Of the identity. At 1 as the network makes it; at 0 the face that is there, above
            1 farther away from it than the portrait is, 1.5 at most.
        boost: Side of the crop in pixels, a multiple of the network's; 0 is the network's own.
        color: How the patch's colours are matched unless the plan says otherwise.
        occlusion: Leave what is in front of the face where it is.
    """

    strength: float = 1.0
    boost: int = 0
    color: Literal["none", "lab", "histogram"] = "lab"
    occlusion: bool = True


class Job(NamedTuple):
    """One face that is to be made.

    Attributes:
        face: Of the frame.
        identity: Whose face.
        matrix: Frame → crop.
        crop: ``(S, S, 3)`` uint8, S the side of the crop.
    """

    face: Face
    identity: Identity
    matrix: geometry.Matrix
    crop: Image


@dataclass(frozen=True, slots=True)
class SwapGenerator:
    """Cuts faces out, gives them to a network with the identity, and puts its answer in a patch.

    Attributes:
        network: Makes the faces.
        source: Makes what says whose face; None where the person is in the weights.
        occlude: Finds what is in front of a face; None to look for nothing.
        options: What the user chose.
    """

    network: networks.Network
    source: sources.Source | None
    occlude: occlude.Occlude | None
    options: Options = Options()

    @property
    def times(self) -> int:
        """Polyphase parts along each side of the crop."""
        return max(1, self.options.boost // self.network.size)

    def __call__(self, frame: Frame, faces: Faces, identities: Sequence[Identity]) -> list[Patch]:
        """One patch for each face that is in view; all faces go through the network at once.

        Args:
            frame: Read only.
            faces: With meshes, or with five points alone; then nothing is looked for in front of
                them, and the mask is the crop's.
            identities: One for each face.

        Raises:
            ModelError: The network's answer is not what its card says.
        """
        jobs = [
            job
            for face, identity in zip(faces, identities, strict=True)
            if (job := self.job(frame.image, face, identity)) is not None
        ]
        if not jobs:
            return []
        images, seen = self._made(frame, jobs)
        in_front = self.in_front(frame.image, jobs)
        return [
            self.patch(job, image, mask_, front)
            for job, image, mask_, front in zip(jobs, images, seen, in_front, strict=True)
        ]

    def job(self, image: Image, face: Face, identity: Identity, *, cut: bool = True) -> Job | None:
        """Cut a face out; None if it is out of view or turned away.

        Args:
            image: Of the frame.
            face: In it.
            identity: Whose face it becomes.
            cut: False leaves the crop black, for a graph that cuts it out itself.
        """
        if face.mesh is not None and mask.facing(face.mesh) <= 0:
            return None
        size = self.network.size * self.times
        wanted = template(self.network.card, self.times)
        matrix = geometry.similarity(sources.points_of(face), wanted)
        height, width = image.shape[:2]
        corners = geometry.transform(
            geometry.invert(matrix), [[0, 0], [size, 0], [0, size], [size, size]]
        )
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        if x1 < 1 or y1 < 1 or x0 > width - 2 or y0 > height - 2:
            return None
        if cut:
            crop = geometry.warp(image, matrix, size, border=cv2.BORDER_REPLICATE)
        else:
            crop = np.zeros((size, size, 3), np.uint8)
        return Job(face, identity, matrix, crop)

    def _made(
        self, frame: Frame, jobs: Sequence[Job]
    ) -> tuple[list[Image], Sequence[Floats | None]]:
        """What the network makes of every face, and where it says that the face is."""
        strength, times = self.options.strength, self.times
        crops = np.concatenate([networks.parts(job.crop, times) for job in jobs])
        fed = None
        if self.source is not None:
            faces, identities = [j.face for j in jobs], [j.identity for j in jobs]
            fed = self.source(frame, faces, identities, strength).repeat(times * times, axis=0)
        images, seen = self.network(crops, fed, morph=strength)

        def back(values: Any) -> list[Any]:
            each = np.split(values, len(jobs))
            return [networks.whole(one, times) for one in each]

        made: list[Image] = back(images)
        if strength < 1 and not self.takes_strength:
            made = [
                np.asarray(cv2.addWeighted(m, strength, j.crop, 1 - strength, 0), np.uint8)
                for m, j in zip(made, jobs, strict=True)
            ]
        return made, [None] * len(jobs) if seen is None else back(seen)

    @property
    def takes_strength(self) -> bool:
        """Whether the network itself makes a weaker likeness, so that nothing is mixed after it."""
        return isinstance(self.source, sources.VectorSource) or bool(self.network.ports.morph)

    def in_front(self, image: Image, jobs: Sequence[Job]) -> list[Floats | None]:
        """What is in front of each face, on the grid of its mask."""
        found: list[Floats | None] = [None] * len(jobs)
        if self.occlude is None:
            return found
        meshes = {i: job.face.mesh for i, job in enumerate(jobs) if job.face.mesh is not None}
        if not meshes:
            return found
        maps = [motion.aligned(mesh) for mesh in meshes.values()]
        crops = [geometry.warp(image, m, motion.CROP, border=cv2.BORDER_REPLICATE) for m in maps]
        points = [
            geometry.transform(m, mesh) for m, mesh in zip(maps, meshes.values(), strict=True)
        ]
        seen = self.occlude(np.stack(crops), points)
        for i, aligned, hidden in zip(meshes, maps, seen, strict=True):
            onto = _after(_grid(jobs[i].matrix, jobs[i].crop.shape[0]), geometry.invert(aligned))
            flat = cv2.warpAffine(
                hidden, onto, (motion.CROP, motion.CROP), borderMode=cv2.BORDER_REPLICATE
            )
            found[i] = np.asarray(flat, np.float32)
        return found

    def patch(self, job: Job, image: Image, seen: Floats | None, front: Floats | None) -> Patch:
        """The network's image in its place, with the mask that mesh, network and occlusion say."""
        size = job.crop.shape[0]
        alpha = border(motion.CROP)
        if job.face.mesh is not None:
            alpha *= inside(geometry.transform(_grid(job.matrix, size), job.face.mesh))
            alpha *= mask.facing(job.face.mesh)
        if seen is not None:
            alpha *= _own(seen)
        if front is not None:
            alpha *= np.float32(1) - front
        matrix = job.matrix
        # A patch much larger than the face is averaged here, since pasting only samples it.
        times = 2 ** int(max(0.0, np.log2(max(np.hypot(*matrix[:, 0]), 1e-6))))
        if times > 1 and size % times == 0:
            size //= times
            image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
            matrix = _shrunk(matrix, 1 / times)
        levels = cv2.convertScaleAbs(cv2.resize(alpha, (size, size)), alpha=255)
        return Patch(
            image, np.asarray(levels, np.uint8), matrix, face=job.face, color=self.options.color
        )


def template(card: ModelCard, times: int) -> Floats:
    """Where the five points belong in a crop of ``times`` the network's size, in its pixels.

    The parts of a larger crop begin up to ``times`` - 1 pixels from its corner, and the network
    is to see the face at its place in their middle: pixel x of the network's crop is spread around
    ``times``·x + (``times`` - 1) / 2.
    """
    assert card.swap is not None
    points = np.array(card.template, np.float64) + card.swap.offset
    return np.asarray(points * times + (times - 1) / 2, np.float32)


# --- Masks, on a grid of motion.CROP cells over the crop ------------------------------------------


def _grid(matrix: geometry.Matrix, size: int) -> geometry.Matrix:
    """Frame → grid, from frame → crop."""
    return _shrunk(matrix, motion.CROP / size)


def _shrunk(matrix: geometry.Matrix, scale: float) -> geometry.Matrix:
    """A map onto pixels, for the same picture with ``scale`` times as many of them a side."""
    out = matrix * scale
    out[:, 2] += (scale - 1) / 2  # the edges stay in place, not the middles of the first pixels
    return out


def _after(second: geometry.Matrix, first: geometry.Matrix) -> geometry.Matrix:
    """One map after another."""
    out = second[:, :2] @ first
    out[:, 2] += second[:, 2]
    return out


RIM: Final = 0.06
"""Width of the crop's faded border in parts of its side."""

SOFT: Final = 0.09
"""Width of the outline's faded band in parts of the face's height."""


def border(side: int) -> Floats:
    """``(side, side)`` float32, 1 in the middle and 0 at the edges, so that no crop shows."""
    at = np.arange(side, dtype=np.float32)
    ramp = np.clip(np.minimum(at, side - 1 - at) / np.float32(RIM * side), 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.asarray(ramp[:, None] * ramp, np.float32)


def inside(mesh: Floats) -> Floats:
    """The inside of a face's outline, fading inward; ``(CROP, CROP)`` float32 0..1.

    The outline is the convex hull of the surface: of a turned head the ring of vertices around
    the face runs across the far cheek.

    Args:
        mesh: ``(468+, 3)`` in cells.
    """
    # With room around, so that an outline beyond the crop does not fade at its edge.
    room = motion.CROP // 2
    canvas = np.zeros((2 * motion.CROP, 2 * motion.CROP), np.uint8)
    points = np.clip(mesh[:468, :2], -4 * motion.CROP, 5 * motion.CROP) + room
    outline = cv2.convexHull(np.round(points * 16).astype(np.int32))
    cv2.fillPoly(canvas, [outline], 255, cv2.LINE_8, 4)
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 3)
    height = max(float(np.hypot(*(mesh[152, :2] - mesh[10, :2]))), 1.0)
    ramp = np.clip(distance / np.float32(SOFT * height), 0, 1)
    ramp = ramp[room : room + motion.CROP, room : room + motion.CROP]
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _own(seen: Floats) -> Floats:
    """A network's own mask on the grid, shrunk a little and softened."""
    side = motion.CROP
    small = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return np.asarray(cv2.GaussianBlur(cv2.erode(small, kernel), (0, 0), 3.0), np.float32)


# --- Loading ------------------------------------------------------------------------------------


def load(card: ModelCard, chosen: str = "", models: zoo.Zoo | None = None) -> SwapGenerator:
    """A published generator with its chain.

    Args:
        card: Of the generator.
        chosen: ``key=value`` pairs of :class:`Options`, joined by commas.
        models: Where models come from and run.

    Raises:
        UsageError: An option is unknown, out of range or not for this generator; or the card does
            not say how the generator is fed.
        ModelNotFound: A file of the chain is not there.
        ModelError: A file does not keep its contract.
        ProviderError: The provider is not there.
    """
    models = models or zoo.Zoo()
    if card.swap is None or not card.template:
        raise UsageError(
            f"{card.name}: its card does not say how a generator is fed: the template and the "
            "table 'swap' are missing"
        )
    picked = parse(card, chosen)
    network = networks.load(card, models, many=picked.boost > card.size > 0)
    if picked.boost % network.size:
        raise UsageError(
            f"{card.name}: boost must be a multiple of {network.size}, came {picked.boost}"
        )
    source = sources.load(card, models)
    generator = SwapGenerator(
        network, source, occlude.load(models) if picked.occlusion else None, picked
    )
    if picked.strength > 1 and not isinstance(source, sources.VectorSource):
        raise UsageError(
            f"{card.name}: strength must be from 0 to 1, came {picked.strength:g}; only generators "
            "that are fed a vector can go beyond the portrait"
        )
    return generator


WORDS: Final[dict[str, options.Kind]] = {
    "strength": options.Number(0, 1.5),
    "boost": options.Number(0, BOOSTED),
    "color": ("none", "lab", "histogram"),
    "occlusion": ("on", "off"),
}
"""What options may be."""


def parse(card: ModelCard, chosen: str) -> Options:
    """Options from ``strength=0.8,boost=512,color=lab,occlusion=off``.

    Raises:
        UsageError: Names the option and what it may be.
    """
    assert card.swap is not None
    known = {k: v for k, v in WORDS.items() if k != "boost" or card.swap.boost}
    _, values = options.split(f"{card.name}:{chosen}", known)
    boost = values.get("boost", 0)
    if boost != int(boost):
        raise UsageError(f"{card.name}: boost must be a whole number of pixels, came {boost:g}")
    return Options(
        strength=values.get("strength", 1.0),
        boost=int(boost),
        color=values.get("color", "lab"),
        occlusion=values.get("occlusion", "on") == "on",
    )
