"""What goes into one network of a chain while the chain runs over footage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import detect, identity, landmarks, media, pipeline, policy, runtime, zoo
from mien.errors import NoFace, UsageError
from mien.pipeline import Stream, Swapper
from mien.precision import Sample
from mien.types import Consent, Frame, Identity, Rule, SwapPlan

MOST: Final = 64
"""Samples that are kept, a fair choice of all."""

CALIBRATION: Final = Consent("self", "calibration: no picture is written or shown")
"""Somebody of the footage, put into the same footage; nothing of it is kept."""

UNSEEN: Final = policy.Policy(audit=policy.AuditTable(on=False))
"""Rules for what nobody sees: the operator's are for outputs."""


@dataclass(frozen=True, slots=True)
class Recorder(runtime.Model):
    """A network that remembers what it was asked; it answers like the one it stands for.

    Attributes:
        samples: At most :data:`MOST` inputs, each for a single image.
        chances: Of keeping one of many; each image has the same (Vitter's algorithm R).
        seen: Images so far.
    """

    samples: list[Sample] = field(default_factory=list, kw_only=True)
    chances: np.random.Generator = field(
        default_factory=lambda: np.random.default_rng(7), kw_only=True
    )
    seen: list[int] = field(default_factory=lambda: [0], kw_only=True)

    def __call__(self, *arrays: Any) -> list[Any]:
        """Remember and run."""
        self._remember(arrays)
        return runtime.Model.__call__(self, *arrays)

    def lent(self, *arrays: Any) -> list[Any]:
        """Remember and run."""
        self._remember(arrays)
        return runtime.Model.lent(self, *arrays)

    def _remember(self, arrays: Sequence[Any]) -> None:
        given = [np.asarray(a) for a in arrays]
        free = [isinstance(shape[0], str) for shape in self.inputs.values() if shape]
        count = len(given[0]) if given[0].ndim and len(free) == len(given) and all(free) else 0
        for number in range(max(count, 1)):
            self.seen[0] += 1
            place = self.seen[0] - 1
            if place >= MOST:
                place = int(self.chances.integers(self.seen[0]))
            if place >= MOST:
                continue
            sample = tuple((a[number : number + 1] if count else a).copy() for a in given)
            self.samples[place : place + 1] = [sample]


def recorder(model: runtime.Model) -> Recorder:
    """A recorder in the place of a network."""
    return Recorder(**{f.name: getattr(model, f.name) for f in fields(model) if f.init})


@dataclass(frozen=True, slots=True)
class Instead(zoo.Zoo):
    """A zoo in which one network is another.

    Attributes:
        name: Of its card.
        put: What is put in its place, or makes that of the network itself.
    """

    name: str = ""
    put: runtime.Model | Callable[[runtime.Model], Recorder] | None = None

    def open(self, model: str | zoo.ModelCard) -> tuple[zoo.ModelCard, runtime.Model]:
        """As any zoo, but for the one network."""
        card, loaded = zoo.Zoo.open(self, model)
        if card.name != self.name or self.put is None:
            return card, loaded
        return card, self.put if isinstance(self.put, runtime.Model) else self.put(loaded)


def instead(
    models: zoo.Zoo, name: str, put: runtime.Model | Callable[[runtime.Model], Recorder]
) -> Instead:
    """The same zoo in fp32, with one network changed as it is opened."""
    given = {f.name: getattr(models, f.name) for f in fields(models) if f.init}
    return Instead(**given | {"precision": "fp32", "name": name, "put": put})


def chain(card: zoo.ModelCard, models: zoo.Zoo) -> Swapper:
    """The default chain with a model in the stage that it serves.

    Raises:
        UsageError: No stage runs models of this task by itself.
    """
    name = card.name
    options: dict[str, Any] = {
        "generate": {"generator": name},
        "embed": {"embedder": name},
        "segment": {"masks": (name,)},
        "enhance": {"enhancer": name},
        "upscale": {"upscaler": name},
        "convert": {"generator": _generator_with(card, models)} if card.task == "convert" else {},
        "detect": {},
        "landmarks": {},
        "occlude": {},
    }
    if card.task not in options:
        raise UsageError(f"{name}: no stage of the chain runs models of task {card.task}")
    swapper = pipeline.load(**options[card.task], models=models)
    if card.task == "detect" and name not in ("blazeface_full", "centerface"):
        swapper = replace(swapper, detector=detect.load(models, name))
    if card.task == "landmarks":
        swapper = replace(swapper, landmarks=landmarks.load(models, name))
    return swapper


def _generator_with(card: zoo.ModelCard, models: zoo.Zoo) -> str:
    """A generator whose files are all there and that needs a converter."""
    for other in models.cards:
        if other.swap is not None and other.swap.converter == card.name:
            return other.name
    raise UsageError(f"{card.name}: no generator that mien knows uses this converter")


def frames_of(file: Path, count: int, part: tuple[float, float] = (0.0, 1.0)) -> Iterator[Frame]:
    """Frames spread evenly over a file, one at a time; of a photo the one it has.

    Args:
        file: Photo or video.
        count: How many, of the whole file.
        part: Of the file, from and up to this share of it.

    Raises:
        MediaError: It cannot be read.
    """
    with media.open_source(file) as source:
        total = source.info.frames
    if not total:
        with media.open_source(file) as source:
            total = sum(1 for _ in source)
    places = sorted({int((k + 0.5) * total / count) for k in range(count)})
    places = [place for place in places if part[0] <= (place + 0.5) / total < part[1]]
    if not places:
        return
    wanted = set(places)
    with media.open_source(file) as source:
        for frame in source:
            if frame.index in wanted:
                yield frame
            if frame.index >= places[-1]:
                return


def person_in(frames: Iterable[Frame], swapper: Swapper) -> Identity | None:
    """Whose face is largest in the frames, if there is one; nothing of it is kept."""
    best: Identity | None = None
    size = 0
    for frame in frames:
        try:
            found = identity.enrol(
                [frame.image], CALIBRATION, detect=swapper.detector, landmarks=swapper.landmarks,
                embed=swapper.embed, which="largest",
            )  # fmt: skip
        except NoFace:
            continue
        side = len(found.portraits[0].image)
        if side > size:
            best, size = found, side
    return best


def run(swapper: Swapper, frames: Iterable[Frame], person: Identity | None) -> None:
    """Let every stage work on frames, as a swap does; what comes out is thrown away.

    Args:
        swapper: The chain.
        frames: Left as they are.
        person: Whose face goes on all others; None stops before generating.
    """
    plan = None if person is None else SwapPlan((Rule(person, "all"),))
    for frame in frames:
        swapper.detector.quick(frame.image)
        copy = replace(frame, image=frame.image.copy())
        stream = Stream(swapper, identify=True, still=True, rules=UNSEEN)
        faces = stream.observe(copy)
        if plan is not None and faces:
            stream.render(copy, stream.assign(faces, plan), plan, faces=faces)
