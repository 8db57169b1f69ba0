"""Faces painted by the fused graph: which region of the frame it sees, and what goes with it."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np

from mien import geometry, runtime, zoo
from mien.blend import BROAD, CELLS
from mien.errors import ModelError, ProviderError, UsageError
from mien.fuse.graph import STAGES, Form, compose
from mien.generate.swapping import SwapGenerator
from mien.runtime import cache
from mien.types import Faces, Floats, Frame, Generate, Identity, Image, Patch, Rect, SwapPlan

log = logging.getLogger(__name__)

STEP: Final = 128
"""Regions are squares of a multiple of this where the frame has room, so that a face that moves
does not ask for other buffers in every frame."""

FORMAT: Final = 1
"""Of the graph; another number makes all that are kept stale."""


@dataclass(slots=True, kw_only=True)
class Outline(Patch):
    """A patch without its picture, which the graph makes.

    Attributes:
        cut: ``(2, 3)`` float64, frame → crop of the generator.
        side: Of that crop in pixels.
        source: What the generator's graph takes, ``(…)`` float32; None where it takes nothing.
    """

    cut: geometry.Matrix
    side: int
    source: Floats | None


@dataclass(frozen=True, slots=True)
class Fused:
    """A generator and the blending of its patches in one graph; holds no state between frames.

    Attributes:
        generator: Says where faces are, and whose is to be made; its network is not run.
        model: The graph that :func:`mien.fuse.graph.compose` writes.
        asked: It was asked for; otherwise it is used where it is measured to be faster.
    """

    generator: SwapGenerator
    model: runtime.Model
    asked: bool = True

    @property
    def batched(self) -> bool:
        """Whether several faces go through in one run."""
        return not isinstance(self.model.inputs["region"][0], int)

    def outline(self, frame: Frame, faces: Faces, identities: Sequence[Identity]) -> list[Outline]:
        """Where faces will be put, and all that their pictures need.

        Args:
            frame: Read only.
            faces: As for the generator.
            identities: One for each face.
        """
        make = self.generator
        jobs = [
            job
            for face, identity in zip(faces, identities, strict=True)
            if (job := make.job(frame.image, face, identity, cut=False)) is not None
        ]
        if not jobs:
            return []
        sources: Sequence[Floats | None] = [None] * len(jobs)
        if make.source is not None:
            seen, people = [j.face for j in jobs], [j.identity for j in jobs]
            sources = list(make.source(frame, seen, people, make.options.strength))
        out = []
        fronts = make.in_front(frame.image, jobs)
        for job, source, front in zip(jobs, sources, fronts, strict=True):
            p = make.patch(job, job.crop, None, front)
            side = job.crop.shape[0]
            out.append(
                Outline(
                    p.image, p.mask, p.matrix, face=p.face, color=p.color,
                    cut=job.matrix, side=side, source=source,
                )
            )  # fmt: skip
        return out

    def paint(self, frame: Frame, outlines: Sequence[Outline], plan: SwapPlan) -> None:
        """Make the faces and put them in; writes to the frame and records the rectangles.

        Faces go through together if the graph takes several and they do not touch each other,
        else one after the other; then the later one sees the earlier one in the frame.

        Raises:
            UsageError: The plan asks for what the graph does not do.
            ModelError: The generator gave values that are no numbers.
        """
        check(plan, self.generator)
        height, width = frame.image.shape[:2]
        placed = [p for o in outlines if (p := place(o, width, height)) is not None]
        for group in self._groups(placed, width, height):
            regions = np.stack([frame.image[p.region.slices()] for p in group])
            for p, painted in zip(group, self(regions, group, plan), strict=True):
                x, y = p.region.x0, p.region.y0
                part = p.written
                inner = painted[part.y0 - y : part.y1 - y, part.x0 - x : part.x1 - x]
                frame.image[part.slices()] = inner
                frame.mark_dirty(part)

    def __call__(self, regions: Image, faces: Sequence[Placed], plan: SwapPlan) -> Image:
        """Paint one face in each region.

        Args:
            regions: ``(N, H, W, 3)`` uint8 RGB.
            faces: N, with the same numbers of pixels that are averaged.
            plan: For its way of colour matching.

        Returns:
            ``(N, H, W, 3)`` uint8 RGB, until the next call in this thread.

        Raises:
            ModelError: The generator gave values that are no numbers.
        """
        first = faces[0].outline
        onto = [_within(p.outline.matrix, p.region) for p in faces]
        cut = [geometry.invert(_within(p.outline.cut, p.region)) for p in faces]
        mode = first.color if plan.color == "auto" else plan.color
        lights = [broad(p.outline.mask) for p in faces]
        values: dict[str, Any] = {
            "region": regions,
            "shrink": np.array(faces[0].shrink, np.int64),
            "cut": np.stack(cut).astype(np.float32),
            "mask": np.stack([p.outline.mask for p in faces]),
            "onto": np.stack(onto).astype(np.float32),
            "back": np.stack([geometry.invert(m) for m in onto]).astype(np.float32),
            "strength": np.array([mode == "lab"], np.float32),
            "area": area(first.mask.shape[0]),
            "weight": np.stack([light.weight for light in lights]),
            "blur": np.stack([light.blur for light in lights]),
        }
        given = [p.outline.source for p in faces if p.outline.source is not None]
        if given:
            values["source"] = np.stack(given)
        painted, total = self.model.lent(*(values[name] for name in self.model.inputs))
        if not np.isfinite(total):
            raise ModelError(
                f"{self.model.name}: the network gave values that are no numbers; "
                "use its fp32 weights"
            )
        return np.asarray(painted, np.uint8)

    def _groups(self, placed: list[Placed], width: int, height: int) -> list[list[Placed]]:
        """Faces that go through together: apart, and with regions of one size."""
        alone = [[p] for p in placed]
        if not self.batched or len(placed) < 2:
            return alone
        first = placed[0]
        alike = all(
            p.shrink == first.shrink and p.outline.mask.shape == first.outline.mask.shape
            for p in placed
        )
        apart = not any(
            _touch(a.written, b.written) for n, a in enumerate(placed) for b in placed[:n]
        )
        if not alike or not apart:
            return alone
        wide = max(p.region.x1 - p.region.x0 for p in placed)
        high = max(p.region.y1 - p.region.y0 for p in placed)
        step = int(np.prod(first.shrink))
        rects = [_grown(p.region, (wide, high), (width, height), step) for p in placed]
        grown = [p._replace(region=r) for p, r in zip(placed, rects, strict=True)]
        sizes = {(r.x1 - r.x0, r.y1 - r.y0) for r in rects}
        return [grown] if len(sizes) == 1 else alone


class Placed(NamedTuple):
    """One face in its frame.

    Attributes:
        outline: Of the face.
        region: What the graph sees.
        written: The part of it that the mask reaches.
        shrink: Sides of the squares over which the region is averaged, one after the other.
    """

    outline: Outline
    region: Rect
    written: Rect
    shrink: tuple[int, ...]


def place(outline: Outline, width: int, height: int) -> Placed | None:
    """Find the region that a face needs; None if nothing of it is in the frame."""
    x, y, w, h = cv2.boundingRect(outline.mask)
    if w == 0:
        return None
    back = geometry.invert(outline.matrix)
    corners = [[x - 1, y - 1], [x + w, y - 1], [x - 1, y + h], [x + w, y + h]]
    written = _around(geometry.transform(back, corners), width, height)
    if written.empty:
        return None
    times, region = geometry.shrinking(outline.cut, outline.side, width, height)
    if times == 1:
        s = outline.side
        corners = [[-1, -1], [s, -1], [-1, s], [s, s]]
        seen = geometry.transform(geometry.invert(outline.cut), corners)
        near = _around(seen, width, height)
        region = Rect(*map(min, near[:2], written[:2]), *map(max, near[2:], written[2:]))
    else:  # what is left over after the last whole square
        region = region._replace(x1=max(region.x1, written.x1), y1=max(region.y1, written.y1))
    side = -(-max(region.x1 - region.x0, region.y1 - region.y0) // STEP) * STEP
    shrink = [2 if times > 2**n else 1 for n in range(STAGES)]
    shrink[-1] = max(1, times // 2 ** (STAGES - 1))
    region = _grown(region, (side, side), (width, height), times)
    return Placed(outline, region, written, tuple(shrink))


class Light(NamedTuple):
    """What the match of broad light takes from the mask alone.

    Attributes:
        weight: ``(G, G)`` float32, the mask on a coarse grid, 0..1.
        blur: ``(G, G)`` float32, blurs rows of that grid.
    """

    weight: Floats
    blur: Floats


def broad(mask: Image) -> Light:
    """For the mask ``(T, T)`` uint8 of a patch, as :mod:`mien.blend` computes it."""
    cells = len(area(mask.shape[0]))
    weight = cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA).astype(np.float32)
    weight *= np.float32(1 / 255)
    sigma = max(BROAD * float(np.sqrt(weight.sum())), 0.1)
    # As many taps as GaussianBlur takes for floats.
    taps = cv2.getGaussianKernel(round(sigma * 8 + 1) | 1, sigma, cv2.CV_32F)
    one = np.ones(1, np.float32)
    blur = cv2.sepFilter2D(np.eye(cells, dtype=np.float32), cv2.CV_32F, one, taps)
    return Light(np.asarray(weight, np.float32), np.asarray(blur, np.float32))


@lru_cache(16)
def area(side: int) -> Floats:
    """``(G, side)`` float32: averages rows of a patch onto the grid of broad light."""
    cells = max(1, round(side * min(1.0, CELLS / side)))
    rows = np.eye(side, dtype=np.float32)
    out = cv2.resize(rows, (side, cells), interpolation=cv2.INTER_AREA)
    return np.asarray(out, np.float32)


def _within(matrix: geometry.Matrix, region: Rect) -> geometry.Matrix:
    """A map of the frame, for pixels of a region of it."""
    out = np.array(matrix, np.float64)
    out[:, 2] += out[:, :2] @ (region.x0, region.y0)
    return out


def _around(points: Floats, width: int, height: int) -> Rect:
    (x0, y0), (x1, y1) = np.floor(points.min(0)), np.ceil(points.max(0)) + 1
    return Rect(max(0, int(x0)), max(0, int(y0)), min(width, int(x1)), min(height, int(y1)))


def _grown(rect: Rect, wished: tuple[int, int], end: tuple[int, int], step: int) -> Rect:
    """A rectangle of the size that is wished, as far as the frame has room.

    To the right and down first, then to the left and up by multiples of ``step``, so that squares
    over which is averaged stay where they are.
    """

    def side(low: int, up: int, n: int) -> tuple[int, int]:
        up = min(end[n], max(up, low + wished[n]))
        more = max(0, wished[n] - (up - low)) // step * step
        return max(low % step, low - more), up

    (x0, x1), (y0, y1) = side(rect.x0, rect.x1, 0), side(rect.y0, rect.y1, 1)
    return Rect(x0, y0, x1, y1)


def _touch(a: Rect, b: Rect) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


# --- Loading, and whether it is worth it ----------------------------------------------------------


def load(generate: Generate, models: zoo.Zoo | None = None, *, asked: bool = True) -> Fused:
    """Put a generator and its blending into one graph.

    Args:
        generate: As :func:`mien.generate.load` gives it.
        models: Where the generator's file is, and where the graph is to run.
        asked: See :class:`Fused`.

    Raises:
        UsageError: The generator is none that makes a crop from a crop, it needs something that
            the graph does not do, or the package onnx is not installed.
        ModelError: The generator's graph cannot be made part of another.
        ProviderError: The provider is not there.
    """
    if not isinstance(generate, SwapGenerator):
        raise UsageError(
            "--fused is for published generators, which make a crop from a crop; relight, mesh "
            "and warp paint in the frame itself"
        )
    models = models or zoo.Zoo()
    network, picked = generate.network, generate.options
    swap = network.card.swap
    if network.ports.morph or (swap is not None and swap.sharpen):
        raise UsageError(
            f"{network.card.name}: sharpens its crop and makes its own mask, as DFM models do, "
            "which is not made in one graph; leave --fused out"
        )
    if generate.times > 1 and not network.batched:
        raise UsageError(
            f"{network.card.name}: takes one crop a run, and pixel boost in one graph needs "
            "several; leave --fused or boost out"
        )
    form = Form(
        network.card,
        network.size,
        network.ports.target,
        network.ports.source,
        generate.times,
        1.0 if generate.takes_strength else min(picked.strength, 1.0),
    )
    source = models.path(models.choose(network.card))
    name = f"{network.card.name}-fused.onnx"

    def make(folder: Path) -> None:
        (folder / name).write_bytes(compose(source, form).SerializeToString())

    root = cache.folder(models.device.cache)
    key = cache.key_of(source, "fused", FORMAT, form)
    place = cache.find(root, "fused", key) or cache.keep(root, "fused", key, source, make)
    with tempfile.TemporaryDirectory(prefix="mien-") as folder:
        if place is None:
            place = Path(folder)
            make(place)
        model = runtime.load(place / name, models.device, name=f"{network.card.name} (fused)")
    return Fused(generate, model, asked)


def chosen(
    generate: Generate, models: zoo.Zoo, wish: bool | Literal["auto"] = "auto"
) -> Fused | None:
    """One graph where it is wished for, or where it may be worth it.

    Args:
        generate: As for :func:`load`.
        models: As for :func:`load`.
        wish: ``auto`` tries it on a GPU, where the stream measures which way is faster; not on
            the processor, where it is slower, nor with TensorRT, which would first spend minutes
            on it.

    Raises:
        UsageError: It is wished for and cannot be had; with ``auto`` that is only said.
        ModelError: Likewise.
        ProviderError: Likewise.
    """
    if wish is True:
        return load(generate, models)
    first = models.device.providers.split(",")[0].strip().partition(":")[0]
    if wish is False or first in ("cpu", "tensorrt") or not isinstance(generate, SwapGenerator):
        return None
    try:
        return load(generate, models, asked=False)
    except (ModelError, ProviderError, UsageError) as error:
        log.info("no graph of the whole face path: %s", error)
        return None


def check(plan: SwapPlan, generator: SwapGenerator) -> None:
    """Whether the graph does what a plan asks for.

    Raises:
        UsageError: It does not; names the setting.
    """
    color = generator.options.color if plan.color == "auto" else plan.color
    for flag, value, right in (("blend", plan.blend, "soft"), ("color", color, "lab or none")):
        if value not in right:
            raise UsageError(f"--fused goes with --{flag} {right}, not {value}; leave one out")


def faster(one: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> bool:
    """Whether one way is faster than the other, by the median of runs that take turns.

    Both run once before that, for what is only done the first time.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for way, seconds in zip((one, other), times, strict=True):
            start = time.perf_counter()
            way()
            if turn:
                seconds.append(time.perf_counter() - start)
    mine, theirs = (statistics.median(t) * 1e3 for t in times)
    log.info("one graph takes %.1f ms, step by step %.1f ms", mine, theirs)
    return mine < theirs
