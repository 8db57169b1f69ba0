"""The benchmark: every combination that was asked for, measured in rounds, and what came out."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NamedTuple

from pydantic import TypeAdapter

from mien import errors, media, runtime, zoo
from mien.bench import footage, machine, standin
from mien.bench.figures import Alone, Spread, bound, middle, share, slowest
from mien.bench.worker import NONE, Job
from mien.errors import MienError, UsageError
from mien.runtime import Precision

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, how many measurements are done, and how many there are."""

WAIT: Final = 20.0
"""Seconds that the frames of one round may take by estimate; slow models get fewer frames."""

NVIDIA: Final = {"cuda", "tensorrt"}


LINES: Final = {"4k": 2160, "8k": 4320}
"""Names of heights beside ``720p``."""


Fused = Literal["auto", "on", "off"]
"""Whether generator and blending are one graph; by the pipeline's own measure, always, never."""

FUSED: Final[dict[str, bool | Literal["auto"]]] = {"auto": "auto", "on": True, "off": False}


class Resolution(NamedTuple):
    """Size of the frames in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        if (self.width, self.height) == _wide(self.height):
            return f"{self.height}p"
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Resolution:
        """Size of ``720p``, ``4k`` or ``320x180``.

        Raises:
            UsageError: It is none of these, odd, or of no use.
        """
        word = text.strip().lower()
        if match := re.fullmatch(r"(\d{2,4})p", word):
            size = _wide(int(match[1]))
        elif match := re.fullmatch(r"(\d{2,5})x(\d{2,5})", word):
            size = (int(match[1]), int(match[2]))
        elif word in LINES:
            size = _wide(LINES[word])
        else:
            raise UsageError(
                f"--resolution {text!r} is unknown; write 720p, 1080p, 2160p or WIDTHxHEIGHT"
            )
        if min(size) < 64 or max(size) > 8192 or size[0] % 2 or size[1] % 2:
            raise UsageError(
                f"--resolution {text!r}: expected even sides from 64 to 8192 pixels, got "
                f"{size[0]}x{size[1]}"
            )
        return cls(*size)


def _wide(height: int) -> tuple[int, int]:
    """16:9, even."""
    return round(height * 8 / 9) * 2, height


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be measured.

    Attributes:
        models: Generators by name, options included; ``none`` for decoding and encoding alone,
            ``inswapper-sized`` for a network of that size with random weights.
        providers: Execution providers; ``a,b`` in one entry for one session with both.
        precisions: Of the models.
        fused: Whether generator and blending are one graph.
        stages: What else :func:`mien.pipeline.load` is told: detector, masks, enhancer ….
        resolutions: Of drawn footage.
        faces: In drawn footage.
        streams: Videos at a time.
        seconds: Length of drawn footage, and the part of ``clip`` that is used.
        rounds: How often all is measured; figures are medians over the rounds.
        clip: Footage of one's own.
        models_of: Where models come from and run; its device's providers are replaced.
        workers: Frames of a stream painted at a time.
        sink: Encoder and its settings; by default H.264, veryfast.
    """

    models: Sequence[str] = ("relight",)
    providers: Sequence[str] = ("cpu",)
    precisions: Sequence[Precision] = ("auto",)
    fused: Sequence[Fused] = ("auto",)
    stages: Mapping[str, Any] = field(default_factory=dict)
    resolutions: Sequence[Resolution] = (Resolution(1920, 1080),)
    faces: Sequence[int] = (1,)
    streams: Sequence[int] = (1,)
    seconds: float = 4.0
    rounds: int = 3
    clip: Path | None = None
    models_of: zoo.Zoo = field(default_factory=zoo.Zoo)
    workers: int = 1
    sink: media.SinkOptions = field(
        default_factory=lambda: media.SinkOptions("libx264", "veryfast")
    )

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: Names the option.
            MediaError: The clip cannot be read.
        """
        for count in self.faces:
            if not 1 <= count <= footage.MOST:
                raise UsageError(f"--faces {count}: expected 1 to {footage.MOST}")
        for count in self.streams:
            if not 1 <= count <= 64:
                raise UsageError(f"--streams {count}: expected 1 to 64")
        if self.clip is not None and media.kind_of(self.clip) != "video":
            raise UsageError(f"--input {self.clip}: is a picture; a video is needed")


class Chain(NamedTuple):
    """What is loaded for a measurement."""

    model: str
    provider: str
    precision: Precision
    fused: Fused = "auto"

    def __str__(self) -> str:
        fused = {"on": " fused", "off": " not fused"}.get(self.fused, "")
        return f"{self.model} {self.provider} {self.precision}{fused}"


class Case(NamedTuple):
    """One row of the benchmark."""

    chain: Chain
    resolution: Resolution
    faces: int
    streams: int

    def __str__(self) -> str:
        many = f" ×{self.streams}" if self.streams > 1 else ""
        who = "1 face" if self.faces == 1 else f"{self.faces} faces"
        return f"{self.chain}, {self.resolution}, {who}{many}"


class Form(NamedTuple):
    """How a chain's models are had in its precision.

    Attributes:
        generator: Name by which it is loaded.
        weights: Precision of models, where there is one in it; ``auto`` is what mien takes.
        arithmetic: Precision of the provider; ``auto`` is as the weights are.
    """

    generator: str
    weights: Precision = "fp32"
    arithmetic: Precision = "auto"


def form_of(chain: Chain, device: runtime.Device) -> Form:
    """How a chain's models are had in its precision, as ``mien swap --precision`` has them.

    A provider that computes in it does so from the fp32 model; else weights are needed.

    Raises:
        UsageError: The stand-in does not come in it.
        ProviderError: A provider is unknown.
    """
    names = replace(device, providers=chain.provider).names()
    asked = chain.precision not in ("auto", "fp32")
    if asked and any(chain.precision in runtime.PROVIDERS[name].precision for name in names):
        return Form(chain.model, arithmetic=chain.precision)
    if chain.model != standin.NAME:
        return Form(chain.model, chain.precision)
    if chain.precision == "int8":
        raise UsageError(f"--precision int8: {standin.NAME} comes in fp32 and fp16")
    return Form(standin.name_in("fp16" if chain.precision == "fp16" else "fp32"))


def measure(options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Measure all combinations.

    Returns:
        The report, as it goes into ``bench.json``.

    Raises:
        UsageError: An option makes no sense, or a model does not exist in a precision.
        ModelNotFound: There is no such model.
        ModelError: A model cannot be used.
        ProviderError: A provider is not there.
        MediaError: The footage cannot be read or written.
    """
    options.check()
    with TemporaryDirectory(prefix="mien-bench-") as folder:
        return _Bench(options, Path(folder), progress or (lambda *_: None)).report()


class _Bench:
    """One benchmark on its way."""

    def __init__(self, options: Options, folder: Path, progress: Progress) -> None:
        self.options, self.folder, self.progress = options, folder, progress
        self.models = options.models_of
        chains = [
            Chain(*words)
            for words in product(
                options.models, options.providers, options.precisions, options.fused
            )
        ]
        # Without models there is nothing that a precision or a provider could change.
        chains = [Chain(NONE, "cpu", "auto") if c.model == NONE else c for c in chains]
        self.chains = list(dict.fromkeys(chains))
        sizes, self.fps = list(product(options.resolutions, options.faces)), float(footage.FPS)
        if options.clip is not None:
            with media.open_source(options.clip) as source:
                sizes = [(Resolution(source.info.width, source.info.height), 0)]
                self.fps = float(source.info.fps or footage.FPS)
        self.cases = [
            Case(chain, *size, streams)
            for chain, size, streams in product(self.chains, sizes, options.streams)
        ]
        self.cases = list(dict.fromkeys(self.cases))
        # Found before anything is measured: a form that does not exist.
        self.forms = {chain: form_of(chain, self.models.device) for chain in self.chains}
        self._add_stand_ins()
        alone = {(c.chain, c.resolution, c.faces) for c in self.cases}
        starts = len(self.chains) * (1 + options.rounds)
        self.total = starts + (len(self.cases) + len(alone)) * options.rounds
        self.done = 0
        self.clips: dict[tuple[Resolution, int, int], Path] = {}

    def _add_stand_ins(self) -> None:
        """Build the networks with random weights that are asked for."""
        made = {form.generator for c, form in self.forms.items() if c.model == standin.NAME}
        cards = [
            standin.card(self.folder, p) for p in standin.PRECISIONS if standin.name_in(p) in made
        ]
        self.models = replace(self.models, cards=(*self.models.cards, *cards))

    def report(self) -> dict[str, Any]:
        before = machine.load_average()
        starts = {chain: self._starts(chain) for chain in self.chains}
        alones: dict[Case, list[dict[str, Any]]] = {}
        runs: dict[Case, list[dict[str, Any]]] = {case: [] for case in self.cases}
        # Rounds outside, so that a noisy minute hits all alike.
        for _ in range(self.options.rounds):
            fresh: set[Case] = set()
            for case in self.cases:
                single, frame = case._replace(streams=1), starts[case.chain]["cached"]["frame"]
                if single not in fresh:
                    fresh.add(single)
                    alones.setdefault(single, []).append(self._call("alone", single, frame))
                runs[case].append(self._call("run", case, frame))
        found = machine.describe()
        if not found["gpu"] and any(NVIDIA & set(c.provider.split(",")) for c in self.chains):
            log.warning("memory and power of the GPU are not measured: 'pip install nvidia-ml-py'")
        return {
            "kind": "mien bench",
            "format": 1,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": found,
            "load": {"before": before, "after": machine.load_average()},
            "settings": {
                "seconds": self.options.seconds,
                "rounds": self.options.rounds,
                "input": None if self.options.clip is None else self.options.clip.name,
                "encoder": self.options.sink.encoder,
                "preset": self.options.sink.preset,
                "threads": self.models.device.threads
                or runtime.threads_for(runtime.cores(), self.models.device.sessions),
                "workers": self.options.workers,
            },
            "runs": [
                row(case, starts[case.chain], alones[case._replace(streams=1)], runs[case])
                for case in self.cases
            ],
        }

    def _starts(self, chain: Chain) -> dict[str, dict[str, float]]:
        """Seconds of a first start, with caches that are empty, and of later ones (median)."""
        caches = self.folder / f"caches-{self.chains.index(chain)}"
        caches.mkdir()
        resolution = self.cases[0].resolution
        job = replace(
            self._job("start", chain, cache=str(caches)),
            size=(resolution.width, resolution.height),
        )
        each = []
        for _ in range(1 + self.options.rounds):
            self._say(f"{chain}: start")
            each.append(call(job))
        later = {key: median(e[key] for e in each[1:]) for key in each[0]}
        later["frame"] = min(e["frame"] for e in each)  # others may slow it, nothing speeds it up
        return {
            "cold": {k: round(v, 3) for k, v in each[0].items()},
            "cached": {k: round(v, 3) for k, v in later.items()},
        }

    def _call(self, task: Any, case: Case, frame: float) -> dict[str, Any]:
        wanted = max(2, round(self.options.seconds * self.fps))
        frame *= max(case.faces, 1) * case.streams
        frames = min(wanted, max(2, int(WAIT / max(frame, 1e-3))))
        clip = self._clip(case, frames)
        self._say(f"{case}: {'stages alone' if task == 'alone' else 'all at once'}")
        large = case.resolution.width * case.resolution.height > 4_000_000
        job = replace(
            self._job(task, case.chain),
            clip=clip,
            end=None if self.options.clip is None else frames / self.fps,
            streams=case.streams,
            # As many as have thorough looks in their due share; of large ones fewer fit memory.
            frames=min(frames, 24 if large else 48),
        )
        return call(job)

    def _job(self, task: Any, chain: Chain, *, cache: str | None = None) -> Job:
        form, old = self.forms[chain], self.models.device
        device = replace(
            old,
            providers=chain.provider,
            precision=form.arithmetic,
            cache=old.cache if cache is None else cache,
        )
        models = replace(self.models, device=device, precision=form.weights)
        if chain.model == standin.NAME:
            models = replace(models, folder=self.folder)  # what is noted of its file goes, too
        return Job(
            task,
            form.generator,
            models,
            stages={**self.options.stages, "fused": FUSED[chain.fused]},
            workers=self.options.workers,
            options=self.options.sink,
        )

    def _clip(self, case: Case, frames: int) -> Path:
        if self.options.clip is not None:
            return self.options.clip
        key = (case.resolution, case.faces, frames)
        if key not in self.clips:
            path = self.folder / f"{case.resolution}-{case.faces}-{frames}.mp4"
            footage.write(path, *case.resolution, case.faces, frames)
            self.clips[key] = path
        return self.clips[key]

    def _say(self, what: str) -> None:
        self.progress(what, self.done, self.total)
        self.done += 1


def call(job: Job) -> dict[str, Any]:
    """Do a job in a fresh process.

    Raises:
        MienError: What the job raised, of its class; or the process ended without a word.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mien.bench.worker", repr(time.monotonic())],
        input=TypeAdapter(Job).dump_json(job),
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        figures = dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise MienError(
            f"benchmark of {job.generator}: the process ended with status {done.returncode} "
            f"({said[-1] if said else 'it said nothing'})"
        ) from None
    for text in figures.pop("warnings"):
        log.warning("%s", text)
    if "error" in figures:
        raise getattr(errors, str(figures["error"]), MienError)(figures["message"])
    return figures


def row(
    case: Case,
    starts: dict[str, dict[str, float]],
    alones: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Figures of one combination over its rounds."""
    rounds = [{n: Alone(**v) for n, v in a["stages"].items()} for a in alones]
    parts = middle([{n: Alone(**v) for n, v in a["parts"].items()} for a in alones])
    stages, cores = middle(rounds), machine.cores()
    # Of pairs measured in the same minute, as the machine's speed is not the same in the next.
    pairs = zip(rounds, runs, strict=True)
    efficiency = median(r["fps"] / bound(a, cores, case.streams) for a, r in pairs)
    names = list(dict.fromkeys(n for r in runs for n in r["stages"]))
    samples = {n: [t for r in runs for t in r["stages"].get(n, ())] for n in names}
    spreads = {n: Spread.of(values) for n, values in samples.items()}
    interval = Spread.of([t for r in runs for t in r["intervals"]])
    peaks = [r["peak_mb"] for r in runs if r["peak_mb"] is not None]
    return {
        **case.chain._asdict(),
        "label": standin.LABEL if case.chain.model == standin.NAME else "",
        "models": runs[0]["models"],
        "resolution": str(case.resolution),
        "faces": case.faces,
        "streams": case.streams,
        "fps": round(median(r["fps"] for r in runs), 2),
        "fps_rounds": [round(r["fps"], 2) for r in runs],
        "frames": sum(r["frames"] for r in runs),
        "faces_a_frame": round(median(r["faces"] for r in runs), 3),
        "stages": {n: s.as_dict() for n, s in spreads.items() if s is not None},
        "inner": sorted(set(names) - {n for r in runs for n in r["outer"]}),
        "interval": None if interval is None else interval.as_dict(),
        "alone": {
            n: {"ms": round(s.wall, 3), "processor_ms": round(s.processor, 3)}
            for n, s in (stages | parts).items()
        },
        "slowest": slowest(stages),
        "slowest_share": round(share(stages), 3),
        "bound_fps": round(bound(stages, cores, case.streams), 2),
        "efficiency": round(efficiency, 3),
        "processor_ms": round(median(r["processor"] for r in runs), 2),
        "others": _median(r["others"] for r in runs),
        "peak_mb": max(peaks) if peaks else None,
        "gpu": _drawn([r["gpu"] for r in runs], runs),
        "cpu_power": _drawn([r["rapl"] for r in runs], runs),
        "start": starts,
    }


def _drawn(
    rounds: Sequence[dict[str, Any] | None], runs: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Power over the rounds, and energy a frame; None where it could not be read."""
    known = [(d, r) for d, r in zip(rounds, runs, strict=True) if d is not None]
    if not known:
        return None
    return {
        "watts": _median(d["watts"] for d, _ in known),
        "joules_per_frame": _median(
            None if d["joules"] is None else d["joules"] / r["frames"] for d, r in known
        ),
        "memory_mb": _median(d["memory_mb"] for d, _ in known),
    }


def _median(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return round(median(known), 3) if known else None
