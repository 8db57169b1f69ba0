"""One measurement in a process of its own, so that peaks of memory do not mix.

Reads a :class:`Job` from standard input and writes its figures, as one line of JSON, to standard
output: ``python -m mien.bench.worker BEGAN``, where ``BEGAN`` is when the process was started, by
the monotonic clock that all processes share.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from mien import identity, media, pipeline, zoo
from mien.bench import face, footage, machine
from mien.bench.figures import Alone, intervals
from mien.bench.power import Gpu, Rapl
from mien.errors import MienError
from mien.provenance import Marker
from mien.types import Consent, Faces, Frame, Identity, Rule, SwapPlan

CONSENT: Final = Consent("synthetic", "a drawn face")

NONE: Final = "none"
"""As the name of a generator: faces are not even looked for; decoding and encoding remain."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured.

    Attributes:
        task: ``start``, how long until the first frame; ``alone``, each stage with nothing beside
            it; ``run``, everything at once.
        generator: As for :func:`mien.pipeline.load`, or ``none``.
        models: Where models come from and run.
        stages: What else :func:`mien.pipeline.load` is told.
        clip: Footage; not read for ``start``.
        end: Seconds of it that are used; None for all.
        size: Width and height of the one frame of ``start``.
        streams: Videos at a time, each with its own state, all with the same models.
        workers: Frames of a stream painted at a time.
        frames: Of the clip, for ``alone``.
        options: Of the encoder.
    """

    task: Literal["start", "alone", "run"]
    generator: str
    models: zoo.Zoo
    stages: dict[str, Any] = field(default_factory=dict)
    clip: Path = Path()
    end: float | None = None
    size: tuple[int, int] = (1920, 1080)
    streams: int = 1
    workers: int = 1
    frames: int = 48
    options: media.SinkOptions = field(default_factory=media.SinkOptions)


class Samples(pipeline.Times):
    """Times that keep every sample.

    Attributes:
        wall: Stage → milliseconds by the clock, one for each call.
        processor: Stage → milliseconds of all threads of the process meanwhile: the stage's own
            only where nothing else runs.
        outer: Stages that are not part of another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wall: dict[str, list[float]] = {}
        self.processor: dict[str, list[float]] = {}
        self.outer: set[str] = set()
        self._inside = threading.local()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        depth = getattr(self._inside, "depth", 0)
        if depth == 0:
            self.outer.add(stage)
        self._inside.depth = depth + 1
        used, start = time.process_time_ns(), time.perf_counter_ns()
        try:
            with super().__call__(stage):
                yield
        finally:
            spent = (time.perf_counter_ns() - start) / 1e6
            self.processor.setdefault(stage, []).append((time.process_time_ns() - used) / 1e6)
            self.wall.setdefault(stage, []).append(spent)
            self._inside.depth = depth


class _Idle(pipeline.Stream):
    """A stream in which nobody is looked for."""

    def observe(self, frame: Frame) -> Faces:
        return []


@dataclass(frozen=True, slots=True)
class Chain:
    """The models of a job, ready to work.

    Attributes:
        swapper: Shared by all streams.
        plan: One drawn person on all faces.
        idle: Nothing is swapped.
        mark: Draws the label, which it renders once.
    """

    swapper: pipeline.Swapper
    plan: SwapPlan
    idle: bool
    mark: Marker = field(default_factory=lambda: Marker(consent=CONSENT))

    def stream(self, times: pipeline.Times | None = None) -> pipeline.Stream:
        """State for one more video."""
        return (_Idle if self.idle else pipeline.Stream)(self.swapper, times=times)

    def paint(self, stream: pipeline.Stream, frame: Frame) -> Frame:
        """All that is done to a frame between decoding and the mark."""
        faces = stream.observe(frame)
        return stream.render(frame, stream.assign(faces, self.plan), self.plan, faces=faces)

    def warm(self, frame: Frame) -> None:
        """Do once, on a copy of a frame, what the first frame of a stream costs beyond others."""
        own = Frame(frame.image.copy(), frame.index, frame.pts, frame.time_base)
        self.mark(self.paint(self.stream(), own))

    def sink(self, folder: Path, source: media.Source, options: media.SinkOptions) -> media.Sink:
        """A file in the folder, as large as frames become."""
        enlarge, info = self.swapper.upscaler, source.info
        return media.open_sink(
            folder / "out.mp4",
            source,
            options=options,
            metadata=self.mark.metadata(),
            size=None if enlarge is None else enlarge.size(info.width, info.height),
        )


def load(job: Job) -> pipeline.Swapper:
    """The models of a job."""
    if job.generator == NONE:
        nothing: Any = SimpleNamespace(quick=None, thorough=None)
        return pipeline.Swapper(nothing, nothing, nothing, nothing, {})
    return pipeline.load(job.generator, models=job.models, **job.stages)


def chain(job: Job, swapper: pipeline.Swapper) -> Chain:
    """Enrol the drawn person."""
    if job.generator == NONE:
        return Chain(swapper, SwapPlan(()), idle=True)
    return Chain(swapper, SwapPlan((Rule(_me(swapper)),)), idle=False)


def _me(swapper: pipeline.Swapper) -> Identity:
    return identity.enrol(
        [face.portrait()],
        CONSENT,
        detect=swapper.detector,
        landmarks=swapper.landmarks,
        embed=swapper.embed,
    )


def start(job: Job, began: float) -> dict[str, Any]:
    """Seconds from the start of the process to each step on the way to the first frame.

    Returns:
        Those, and under ``frame`` what a frame takes when everything is warm, found anew.
    """
    imported = time.monotonic() - began
    swapper = load(job)
    loaded = time.monotonic() - began
    ready = chain(job, swapper)
    enrolled = time.monotonic() - began
    image = next(footage.pictures(*job.size, 1, 1))
    drawn = time.monotonic() - began - enrolled  # no part of starting
    ready.warm(Frame(image))
    first = time.monotonic() - began - drawn
    again = time.monotonic()
    ready.warm(Frame(image))
    steps = {"imported": imported, "loaded": loaded, "enrolled": enrolled, "first_frame": first}
    return steps | {"frame": time.monotonic() - again}


def alone(job: Job) -> dict[str, Any]:
    """Milliseconds a frame of each stage with nothing beside it, by clock and by processor."""
    ready = chain(job, load(job))
    times = Samples()
    stream = ready.stream(times)
    with (
        TemporaryDirectory(prefix="mien-bench-") as folder,
        media.open_source(job.clip, end=job.end) as source,
    ):
        frames, decoding = _decoded(source, job.frames)
        ready.warm(frames[0])
        painted = [ready.paint(stream, frame) for frame in frames]
        with times("mark"):
            marked = [ready.mark(frame) for frame in painted]
        with times("encode"), ready.sink(Path(folder), source, job.options) as sink:
            for one in marked:
                sink.write(one)
    count = len(frames)
    stages = {"decode": decoding}
    for name in times.wall:
        wall, processor = sum(times.wall[name]), sum(times.processor[name])
        stages[name] = Alone(wall / count, processor / count)
    outer = {"decode", *times.outer}
    return {
        "stages": {name: asdict(stage) for name, stage in stages.items() if name in outer},
        "parts": {name: asdict(stage) for name, stage in stages.items() if name not in outer},
        "frames": count,
    }


def _decoded(source: media.Source, most: int) -> tuple[list[Frame], Alone]:
    """Frames of a clip, and what decoding them took; opening the file is left out."""
    frames = iter(source)
    found = [next(frames)]
    used, began = time.process_time(), time.perf_counter()
    found += islice(frames, most - 1)
    wall, processor = time.perf_counter() - began, time.process_time() - used
    count = max(len(found) - 1, 1)
    return found, Alone(1000 * wall / count, 1000 * processor / count)


def run(job: Job) -> dict[str, Any]:
    """All at once, as a user's job runs: speed, every sample, memory and power."""
    gpu = Gpu()  # before the models, whose memory counts
    ready = chain(job, load(job))
    with media.open_source(job.clip, end=job.end) as source:
        ready.warm(next(iter(source)))
    videos = [_Video(job, ready) for _ in range(job.streams)]
    rapl, busy = Rapl(), machine.Busy()
    used, began = time.process_time(), time.perf_counter()
    gpu.start()
    for video in videos:
        video.start()
    for video in videos:
        video.join()
    seconds = time.perf_counter() - began
    processor = time.process_time() - used
    on_gpu, on_processor, others = gpu.stop(), rapl.stop(), busy.others()
    for video in videos:
        if video.error is not None:
            raise video.error
    frames = sum(v.report.frames_out for v in videos)
    names = list(dict.fromkeys(n for v in videos for n in v.times.wall))
    return {
        "fps": frames / seconds,
        "seconds": seconds,
        "frames": frames,
        "faces": sum(v.report.faces for v in videos) / max(frames, 1),
        "processor": 1000 * processor / max(frames, 1),
        "others": others,
        "stages": {n: [t for v in videos for t in v.times.wall.get(n, ())] for n in names},
        "models": {stage: name for stage, (name, _) in ready.swapper.models.items()},
        "outer": sorted({n for v in videos for n in v.times.outer}),
        "intervals": [t for v in videos for t in intervals(v.written)],
        "peak_mb": machine.peak_memory(),
        "gpu": None if on_gpu is None else asdict(on_gpu),
        "rapl": None if on_processor is None else asdict(on_processor),
    }


class _Video(threading.Thread):
    """One stream, from file to file."""

    def __init__(self, job: Job, ready: Chain) -> None:
        super().__init__(name="mien-stream", daemon=True)
        self._job, self._ready = job, ready
        self.times, self.report = Samples(), pipeline.Report()
        self.written: list[float] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        job, ready = self._job, self._ready
        try:
            with (
                TemporaryDirectory(prefix="mien-bench-") as folder,
                media.open_source(job.clip, end=job.end) as source,
                self._ready.sink(Path(folder), source, job.options) as sink,
            ):
                self.report = pipeline.run(
                    *(source, sink, ready.stream(self.times), ready.plan, ready.mark),
                    workers=job.workers,
                    progress=lambda _: self.written.append(time.perf_counter()),
                )
        except BaseException as error:
            self.error = error


def main() -> None:
    """Do the job and print what was measured, or the error as its class and its words."""
    began = float(sys.argv[1])
    job = TypeAdapter(Job).validate_json(sys.stdin.buffer.read())
    warnings = _Warnings(logging.WARNING)
    logging.getLogger("mien").addHandler(warnings)
    try:
        if job.task == "start":
            figures = start(job, began)
        else:
            figures = alone(job) if job.task == "alone" else run(job)
    except MienError as error:
        figures = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(figures | {"warnings": warnings.texts}))


class _Warnings(logging.Handler):
    """Keeps what would be shown to the user, for the process that has one."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


if __name__ == "__main__":
    main()
