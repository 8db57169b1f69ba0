"""What a network in another precision loses, in the measure of its own stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import geometry, quality, runtime, zoo
from mien.errors import NoFace
from mien.evaluate import report
from mien.evaluate.measuring import Samples, measure
from mien.evaluate.targets import look_through
from mien.identity import find_faces
from mien.pipeline import Swapper
from mien.precision import Difference, Sample
from mien.types import Faces, Frame, Identity

log = logging.getLogger(__name__)

STEPS: Final = 5
"""A measure of ``mien evaluate`` that is near zero counts as this many of its steps, so that a
share of it can be told."""


SAME: Final = 0.7
"""Intersection over union from which two boxes are of one face, and lie well enough."""

PLACES: Final = 8
"""Frames of a clip that are measured."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One measure in both precisions.

    Attributes:
        full: In fp32; 1 for measures that say how much of fp32's result is left.
        now: In the other precision.
        loss: How much worse that is, as a share; 0 if it is better.
    """

    full: float
    now: float
    loss: float


def left(share: float) -> Loss:
    """Of a measure that is the share of fp32's result that is left, 0..1."""
    return Loss(1.0, share, max(0.0, 1.0 - share) if np.isfinite(share) else float("inf"))


@dataclass(frozen=True, slots=True)
class Footage:
    """What is measured on: other files, or other frames, than ranges were taken on.

    Attributes:
        frames: Gives stills of it, one at a time.
        clips: File → whether only its second half is measured.
        people: Whose faces generators make.
    """

    frames: Callable[[], Iterable[Frame]]
    clips: Mapping[Path, bool]
    people: Sequence[Identity]


def losses(  # noqa: PLR0917
    card: zoo.ModelCard,
    pair: tuple[Swapper, Swapper],
    models: tuple[runtime.Model, runtime.Model],
    samples: Sequence[Sample],
    footage: Footage,
    outputs: Mapping[str, Difference],
) -> dict[str, Loss]:
    """Measure by the task of a card.

    Args:
        card: Of the fp32 model.
        pair: Chains with the fp32 model and with the other one.
        models: Both networks.
        samples: Inputs of the network.
        footage: To be measured on.
        outputs: How outputs differ, for tasks without a measure of their own.
    """
    if card.task == "detect":
        return _detection(pair, footage.frames())
    if card.task == "landmarks":
        return _mesh(pair, footage.frames())
    if card.task == "embed":
        return {"cosine with fp32's embedding": left(_cosine(models, samples))}
    if card.task in ("occlude", "segment"):
        return {"overlap of masks (IoU)": left(_overlap(models, samples))}
    if card.task == "generate" and footage.people and footage.clips:
        return _quality(pair, footage)
    return {
        f"output {name}: difference, share of its range": left(
            1.0 - value.mean / max(value.range, 1e-9)
        )
        for name, value in outputs.items()
    }


def _detection(pair: tuple[Swapper, Swapper], frames: Iterable[Frame]) -> dict[str, Loss]:
    """Faces found again, and faces found besides."""
    found = again = besides = 0
    for frame in frames:
        looks: tuple[Callable[[Swapper], Faces], ...] = (
            lambda s: s.detector.quick(frame.image),  # noqa: B023 - called at once
            lambda s: s.detector.thorough(frame.image),  # noqa: B023
        )
        for look in looks:
            full, now = (look(swapper) for swapper in pair)
            found += len(full)
            best = np.zeros(len(full))
            if full and now:
                table = geometry.overlap(
                    np.stack([f.box for f in full]), np.stack([f.box for f in now])
                )
                best = table.max(axis=1)
                besides += int((table.max(axis=0) < SAME).sum())
            else:
                besides += len(now)
            again += int((best >= SAME).sum())
    if not found:
        return {}
    return {
        "faces found again": left(again / found),
        "faces that were there": left(again / max(again + besides, 1)),
    }


def _mesh(pair: tuple[Swapper, Swapper], frames: Iterable[Frame]) -> dict[str, Loss]:
    """Distance between points as a share of the face's size, one fit from the same crop."""
    gaps: list[float] = []
    for frame in frames:
        faces = find_faces(frame, pair[0].detector, pair[0].landmarks)
        full, now = (swapper.landmarks(frame, faces) for swapper in pair)
        for a, b in zip(full, now, strict=True):
            if a.mesh is not None and b.mesh is not None:
                size = float((a.box[2:] - a.box[:2]).max())
                distance = np.linalg.norm(a.mesh[:, :2] - b.mesh[:, :2], axis=1)
                gaps.append(float(distance.mean()) / max(size, 1.0))
    return {"points, by the face's size": left(1.0 - float(np.mean(gaps)))} if gaps else {}


def _cosine(models: tuple[runtime.Model, runtime.Model], samples: Sequence[Sample]) -> float:
    found = []
    for sample in samples:
        a, b = (np.asarray(model(*sample)[0], np.float64).ravel() for model in models)
        size = max(float(np.linalg.norm(a)) * float(np.linalg.norm(b)), 1e-12)
        found.append(float(a @ b) / size)
    return float(np.mean(found))


def _overlap(models: tuple[runtime.Model, runtime.Model], samples: Sequence[Sample]) -> float:
    """Of all classes of all pixels, weighted by how many there are."""
    both = either = 0
    for sample in samples:
        a, b = (_classes(np.asarray(model(*sample)[0])) for model in models)
        for kind in (True,) if a.dtype == bool else np.union1d(a, b):
            both += int(((a == kind) & (b == kind)).sum())
            either += int(((a == kind) | (b == kind)).sum())
    return both / either if either else 1.0


def _classes(output: Any) -> Any:
    """The class of each pixel: the likeliest of several channels, or one against a half."""
    several = output.ndim == 4 and 1 < output.shape[1] <= 64 < output.shape[2]
    return output.argmax(axis=1) if several else output > 0.5


def _quality(pair: tuple[Swapper, Swapper], footage: Footage) -> dict[str, Loss]:
    """The measures of ``mien evaluate``, each clip with each person."""
    samples: dict[str, list[Samples]] = {"full": [], "now": []}
    generators = {"full": pair[0].generate, "now": pair[1].generate}
    for clip, half in footage.clips.items():
        try:
            target = look_through(clip, pair[0], PLACES * (1 + half))
        except NoFace as error:
            log.info("%s", error)
            continue
        if half:
            target = replace(
                target,
                places=target.places[len(target.places) // 2 :],
                blinks=tuple(i for i in target.blinks if i >= target.frames // 2),
            )
        if not target.places:
            continue
        found = measure(target, footage.people, generators, pair[0])
        for (name, _), values in found.samples.items():
            samples[name].append(values)
    full, now = (report.figures(samples[name]) for name in ("full", "now"))
    out = {}
    for key, kind in quality.MEASURES.items():
        before, after = full[key], now[key]
        if before is None or after is None:
            continue
        scale = 1.0 if kind.better == "one" else max(abs(before), STEPS * kind.step)
        out[kind.title] = Loss(before, after, max(0.0, -kind.gain(after, before)) / scale)
    return out
