"""The pipeline: stages put together, the state of one stream, and the run over a file.

``Swapper`` is frozen and shared; ``Stream`` holds all that changes between frames; ``run`` moves
every frame of a source to a sink, once and in order.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, Literal

import cv2
import numpy as np

from mien import (
    blend,
    detect,
    embed,
    enhance,
    fuse,
    gate,
    generate,
    identity,
    landmarks,
    media,
    policy,
    segment,
    zoo,
)
from mien import upscale as upscale_
from mien.media.limits import USUAL
from mien.provenance import Marker
from mien.track import People, Tracker, TrackOptions
from mien.types import (
    Embed,
    Face,
    Faces,
    Floats,
    Frame,
    Generate,
    Identity,
    Landmarks,
    Patch,
    Rule,
    SwapPlan,
    Which,
)

log = logging.getLogger(__name__)

Pairs = list[tuple[Face, Identity]]


@dataclass(frozen=True, slots=True)
class Swapper:
    """The stages, loaded once and shared by all streams.

    Attributes:
        detector: Finds faces, quickly or thoroughly.
        landmarks: Fits meshes.
        embed: Says who somebody is.
        generate: Makes patches.
        models: Stage → ``(model, provider)``, for reports.
        weights: Name and SHA-256 of the models, as their cards say; content credentials list them.
        similarity: Cosine from which two faces are one person's, as the embedder's card says.
        masks: Say where a face may be replaced; all of them hold.
        enhancer: Restores faces after they were swapped.
        upscaler: Makes frames larger.
        fused: Generator and blending as one graph, where there is one.
        limits: What files may ask for that are opened for it.
    """

    detector: detect.Detector
    landmarks: Landmarks
    embed: Embed
    generate: Generate
    models: dict[str, tuple[str, str]]
    weights: tuple[tuple[str, str], ...] = ()
    similarity: float = 0.38
    masks: tuple[segment.Parser | segment.Occluder, ...] = ()
    enhancer: enhance.Enhancer | None = None
    upscaler: upscale_.Upscaler | None = None
    fused: fuse.Fused | None = None
    limits: media.Limits = USUAL


def load(
    generator: str = "relight",
    *,
    detector: str = detect.DEFAULT,
    landmarker: str = landmarks.DEFAULT,
    embedder: str = embed.DEFAULT,
    masks: Sequence[str] = (),
    enhancer: str = "none",
    upscaler: str = "none",
    fused: bool | Literal["auto"] = "auto",
    models: zoo.Zoo | None = None,
    limits: media.Limits | None = None,
) -> Swapper:
    """Load the stages of a chain.

    Args:
        generator: Name of what makes the faces; options may follow, see :func:`generate.load`.
        detector: ``mien``, or the card of one network, see :func:`detect.load`.
        landmarker: Card of the mesh, or of what refines it, see :func:`landmarks.load`.
        embedder: Card of the network that says who somebody is.
        masks: Cards of mask networks; options may follow, see :func:`segment.load`.
        enhancer: Card of one, or ``none``; options may follow, see :func:`enhance.load`.
        upscaler: Card of one, or ``none``; options may follow, see :func:`upscale.load`.
        fused: Generator and blending as one graph, see :func:`fuse.chosen`.
        models: Where models come from and run.
        limits: What files may ask for that are opened for the chain.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: A model's file is damaged or does not keep its contract.
        ProviderError: The provider is not there.
        Refused: A model's licence is not allowed.
        UsageError: There can be no one graph of what was asked for, or no model of the chain is
            there in the precision that the zoo has.
    """
    models = models or zoo.Zoo()
    where = models.device.providers
    kind = generator.partition(":")[0]
    given = {
        "mask": [name for name in masks if name != "none"],
        "enhance": [] if enhancer == "none" else [enhancer],
        "upscale": [] if upscaler == "none" else [upscaler],
    }
    finders = ["blazeface_full", "centerface"] if detector == detect.DEFAULT else [detector]
    refined = models.find(landmarker).family in landmarks.SPARSE
    fitters = [landmarks.DEFAULT, landmarker] if refined else [landmarker]
    others = [embedder, generator, *chain.from_iterable(given.values())]
    shown = _shown([*finders, *fitters, *others, *(["occlude"] * (kind == "relight"))], models)
    if shown.get("occlude", "occlude") != "occlude":
        shown[generator] += f"+{shown['occlude']}"
    keep_off = tuple(segment.load(name, models) for name in given["mask"])
    restore = [enhance.load(name, models) for name in given["enhance"]]
    limits = limits or USUAL
    enlarge = [
        replace(upscale_.load(name, models), most=limits.output_pixels) for name in given["upscale"]
    ]
    added = {"mask": keep_off, "enhance": restore, "upscale": enlarge}
    make = generate.load(generator, models)
    return Swapper(
        detector=detect.load(models, detector),
        landmarks=landmarks.load(models, landmarker),
        embed=embed.load(models, embedder),
        generate=make,
        models={
            "detect": ("+".join(shown[name] for name in finders), where),
            "landmarks": ("+".join(shown[name] for name in fitters), where),
            "embed": (shown[embedder], where),
            "generate": (shown[generator], "cpu" if kind in ("mesh", "warp") else where),
            **{
                stage: (
                    ", ".join(shown[name] for name in given[stage]),
                    ", ".join({s.model.provider: 0 for s in stages}),
                )
                for stage, stages in added.items()
                if stages
            },
        },
        weights=_weights(shown.values(), models),
        similarity=models.find(embedder).threshold,
        masks=keep_off,
        enhancer=restore[0] if restore else None,
        upscaler=enlarge[0] if enlarge else None,
        fused=fuse.chosen(make, models, fused),
        limits=limits,
    )


def _shown(names: Sequence[str], models: zoo.Zoo) -> dict[str, str]:
    """Names, with options behind them or not, and what is opened for each.

    Raises:
        UsageError: None of them is there in the precision that the zoo has.
    """
    cards = [name.partition(":")[0] for name in names]
    used = models.chosen(cards)
    return {
        name: other + name[len(card) :]
        for name, card, other in zip(names, cards, used, strict=True)
    }


def _weights(shown: Iterable[str], models: zoo.Zoo) -> tuple[tuple[str, str], ...]:
    """Name and SHA-256 of each model; generators without weights of their own have none."""
    names = {part.partition(":")[0] for name in shown for part in name.split("+")}
    return tuple((card.name, card.sha256) for card in models.cards if card.name in names)


class Times:
    """Time spent in each stage, always on; a few hundred nanoseconds a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total: dict[str, int] = defaultdict(int)
        self._calls: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            spent = time.perf_counter_ns() - start
            with self._lock:
                self._total[stage] += spent
                self._calls[stage] += 1

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return function(*args, **kwargs)

        return timed

    def calls(self, stage: str) -> int:
        """How often a stage ran."""
        with self._lock:
            return self._calls[stage]

    def per_frame(self, frames: int) -> dict[str, float]:
        """Milliseconds a frame, by stage."""
        return {k: round(v / 1e6 / max(frames, 1), 3) for k, v in self._total.items()}


class Stream:
    """State of one stream of frames: tracks, people, and who was chosen.

    Args:
        swapper: The stages.
        identify: Measure embeddings, so that numbers stay with people who leave and come back,
            and rules may name a person. Costs one run of the embedder for each new face.
        still: Frames have nothing to do with each other: no tracking, a thorough look at each.
        times: Where to count time.
        options: Of the tracker.
        rules: What is allowed; None takes the policy in force, see :mod:`mien.policy`.
        use: What the stream is for; None takes a photo or a video.

    Attributes:
        gate: Lets identities and faces pass, or not; see :mod:`mien.gate`.
        watch: Says whose consent has ended since.

    Raises:
        UsageError: The policy in force cannot be read.
    """

    def __init__(
        self,
        swapper: Swapper,
        *,
        identify: bool = False,
        still: bool = False,
        times: Times | None = None,
        options: TrackOptions | None = None,
        rules: policy.Policy | None = None,
        use: policy.Use | None = None,
    ) -> None:
        self.swapper = swapper
        use = use or policy.Use("photo" if still else "video")
        self.gate = gate.Gate(rules, use, swapper.embed)
        self.watch = identity.Watch()
        self.still = still
        self.times = times or Times()
        timed = self.times.wrap
        self._detect = timed("detect", swapper.detector)
        self._landmarks = timed("landmarks", swapper.landmarks)
        self._people = People(self._embed, swapper.similarity)
        self._tracker = Tracker(
            quick=timed("detect", swapper.detector.quick),
            thorough=timed("detect", swapper.detector.thorough),
            landmarks=self._landmarks,
            options=options or TrackOptions(),
        )
        self.identify = identify
        self._chosen: dict[int, tuple[Which, int]] = {}
        self._memories: dict[int, dict[Any, Any]] = {}
        self._one_graph: bool | None = None  # not decided yet
        self._deciding = threading.Lock()

    @property
    def identify(self) -> bool:
        """Whether faces are told apart by what they look like; may be changed between frames."""
        return self._tracker.likeness is not None

    @identify.setter
    def identify(self, on: bool) -> None:
        if on != self.identify:  # numbers mean something else from now on
            self.gate.forget()
        self._tracker.likeness = self._people.likeness if on else None

    def look(self, options: TrackOptions) -> None:
        """Follow faces in this way from the next frame on; who is followed stays so."""
        self._tracker.options = options

    def observe(self, frame: Frame) -> Faces:
        """Find and follow the faces of the next frame.

        Returns:
            Faces with mesh and track number, from left to right in a still. With ``identify``
            they carry embeddings, and the number is the person's.

        Raises:
            Refused: A classifier that the policy names refuses the picture.
        """
        faces = self._observe(frame)
        if self.gate.looks:
            with self.times("policy"):
                self.gate.look(frame, faces, still=self.still)
        return faces

    def _observe(self, frame: Frame) -> Faces:
        if self.still:
            faces = identity.find_faces(frame, self._detect, self._landmarks)
            faces = [replace(f, track=n) for n, f in enumerate(faces, 1)]
            return self._embed(frame, faces) if self.identify else faces
        with self.times("track"):
            faces = self._tracker(frame)
        faces = self.remembering(faces)
        return self._people(frame, faces, self._tracker.parted) if self.identify else faces

    def remembering(self, faces: Faces) -> Faces:
        """The faces, each with what is held of its track from frame to frame."""
        self._memories = {n: self._memories.get(n, {}) for n in map(_number, faces)}
        return [replace(f, memory=self._memories[_number(f)]) for f in faces]

    def forget(self, who: Identity) -> None:
        """Drop what is held of an identity that is not used any more."""
        for memory in list(self._memories.values()):
            memory.pop(who, None)

    def _admit(self, identities: Sequence[Identity]) -> None:
        self.gate.admit(identities)
        self.watch.permit(identities, self.gate.use.kind)

    def assign(self, faces: Faces, plan: SwapPlan) -> Pairs:
        """Which identity goes on which face; a choice by place or size stays with the person.

        Raises:
            Refused: The policy does not allow an identity, or the use of it, or a consent has
                ended.
        """
        self._admit([rule.identity for rule in plan.rules])
        own = self.swapper.similarity
        similarity = own if plan.similarity is None else plan.similarity
        pairs: Pairs = []
        left = [f for f in faces if self.gate.known(f)]
        for number, rule in enumerate(plan.rules):
            for face in self._choose(number, rule, left, similarity):
                pairs.append((face, rule.identity))
                left = [f for f in left if f is not face]
        return self.gate.at_most(pairs)

    def render(
        self, frame: Frame, pairs: Pairs, plan: SwapPlan, *, faces: Sequence[Face] = ()
    ) -> Frame:
        """Put identities on faces, enhance them, enlarge the frame; frames may overlap.

        Args:
            frame: Written to.
            pairs: From :meth:`assign`.
            plan: How patches are put in.
            faces: All faces of the frame, for an enhancer that is meant for everybody.

        Returns:
            The frame, or a larger one in its place.

        Raises:
            Refused: As :meth:`assign`.
        """
        self._admit([identity for _, identity in pairs])
        pairs = self.gate.at_most([p for p in pairs if self.gate.passes(frame, p[0])])
        swapper = self.swapper
        if whole := [p for p in pairs if p[0].fade >= 1]:
            self._swap(frame, whole, plan)
        for pair in pairs:
            if pair[0].fade < 1:
                self._swap_in_part(frame, pair, plan)
        if swapper.enhancer is not None:
            meant = list(faces) if swapper.enhancer.everybody and faces else [f for f, _ in pairs]
            with self.times("enhance"):
                swapper.enhancer(frame, meant)
        if swapper.upscaler is not None:
            with self.times("upscale"):
                frame = swapper.upscaler(frame)
        return frame

    def _swap(self, frame: Frame, pairs: Pairs, plan: SwapPlan) -> None:
        fused = self.swapper.fused
        if fused is not None and self._as_one_is_better(fused, frame, pairs, plan):
            self._as_one(fused, frame, pairs, plan)
        else:
            self._by_steps(frame, pairs, plan)

    def _swap_in_part(self, frame: Frame, pair: tuple[Face, Identity], plan: SwapPlan) -> None:
        """Put an identity on a face that comes in or goes, as far as it is to be shown."""
        before, known = frame.image.copy(), len(frame.dirty)
        self._swap(frame, [pair], plan)
        blend.fade(frame, before, frame.dirty[known:], pair[0].fade)

    def _as_one_is_better(
        self, fused: fuse.Fused, frame: Frame, pairs: Pairs, plan: SwapPlan
    ) -> bool:
        """Whether the one graph was asked for, or is faster by a trial on the first faces."""
        if fused.asked:
            return True
        with self._deciding:
            if self._one_graph is None:
                one, other = Frame(frame.image.copy()), Frame(frame.image.copy())
                try:
                    fuse.check(plan, fused.generator)
                    self._one_graph = fuse.faster(
                        lambda: self._as_one(fused, one, pairs, plan),
                        lambda: self._by_steps(other, pairs, plan),
                    )
                except Exception as error:  # nobody asked for it, and a device may refuse it
                    log.info("no graph of the whole face path: %s", error)
                    self._one_graph = False
            return self._one_graph

    def _as_one(self, fused: fuse.Fused, frame: Frame, pairs: Pairs, plan: SwapPlan) -> None:
        with self.times("generate"):
            outlines = fused.outline(frame, [f for f, _ in pairs], [i for _, i in pairs])
        if self.swapper.masks:
            with self.times("mask"):
                kept = self._masked(frame, list(outlines))
                outlines = [o for o in kept if isinstance(o, fuse.Outline)]
        with self.times("fused"):
            fused.paint(frame, outlines, plan)

    def _by_steps(self, frame: Frame, pairs: Pairs, plan: SwapPlan) -> None:
        with self.times("generate"):
            patches = self.swapper.generate(frame, [f for f, _ in pairs], [i for _, i in pairs])
        if self.swapper.masks:
            with self.times("mask"):
                patches = self._masked(frame, patches)
        with self.times("blend"):
            for patch in patches:
                if patch.surround:  # the frame's own pixels, moved; they have no other colour
                    blend.soft(frame, patch)
                else:
                    blend.BLENDS[plan.blend](frame, blend.match_color(patch, frame, plan.color))

    def _masked(self, frame: Frame, patches: list[Patch]) -> list[Patch]:
        """The patches, kept out of what the mask networks see before anything is painted."""
        which = [n for n, p in enumerate(patches) if p.face is not None and not p.surround]
        faces = [face for n in which if (face := patches[n].face) is not None]
        layers = [mask(frame, faces) for mask in self.swapper.masks]
        out = list(patches)
        for n, *own in zip(which, *layers, strict=True):
            out[n] = segment.apply(out[n], own)
        return out

    def _choose(self, number: int, rule: Rule, faces: Faces, similarity: float) -> Faces:
        if rule.reference is not None:
            reference = rule.reference
            faces = [
                f
                for f in faces
                if f.embedding is not None and float(f.embedding @ reference) >= similarity
            ]
            # One reference is one person: of two that qualify the nearer is meant.
            faces = sorted(faces, key=lambda f: -float(_known(f.embedding) @ reference))[:1]
        if not faces or rule.which == "all":
            return faces
        if isinstance(rule.which, int):
            return [f for f in faces if f.track == rule.which]
        before = [f for f in faces if (rule.which, f.track) == self._chosen.get(number)]
        if before and not self.still:
            return before
        if rule.which == "largest":
            best = max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
        else:
            places = sorted(faces, key=lambda f: float(f.box[0] + f.box[2]))
            best = places[0] if rule.which == "left" else places[-1]
        if best.track is not None:
            self._chosen[number] = rule.which, best.track
        return [best]

    def _embed(self, frame: Frame, faces: Faces) -> Faces:
        if not faces:
            return faces
        with self.times("embed"):
            return self.swapper.embed(frame, faces)


def _number(face: Face) -> int:
    if face.track is None:
        raise ValueError("expected a face with a track number")
    return face.track


def _known(embedding: Floats | None) -> Floats:
    if embedding is None:
        raise ValueError("expected a face with an embedding; run the stream with identify=True")
    return embedding


@dataclass(slots=True)
class Report:
    """What a run did.

    Attributes:
        frames_in: Frames that the source gave.
        frames_out: Frames that the sink took.
        swapped: Frames with at least one face replaced.
        faces: Faces replaced, over all frames.
        faceless: Frames in which no face was found.
        damaged: Frames that could not be decoded.
        seconds: Wall-clock time.
        stages: Milliseconds a frame, by stage.
        interrupted: The run was stopped by the user.
    """

    frames_in: int = 0
    frames_out: int = 0
    swapped: int = 0
    faces: int = 0
    faceless: int = 0
    damaged: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def fps(self) -> float:
        """Frames a second by the wall clock."""
        return self.frames_out / self.seconds if self.seconds > 0 else 0.0


DEPTH: Final = 4
"""Frames that may wait between two steps; what bounds memory."""

_END: Final = object()


@contextmanager
def brisk() -> Iterator[None]:
    """Let the threads of a pipeline take turns briskly, while inside.

    A swap makes about 150 calls that give the interpreter away, and beside a thread that computes
    in Python each may wait a whole turn, 5 ms by default, to get it back: 0.8 s for a frame
    that takes 15 ms alone. Turns of half a millisecond cost nothing that could be measured.

    About four threads work at a time, so OpenCV gets a quarter of the cores for each of its calls.
    On two cores one instead of two is 3 % more frames of a file, and a tenth less age live.
    """
    before, threads = sys.getswitchinterval(), cv2.getNumThreads()
    sys.setswitchinterval(min(before, 0.0005))
    cv2.setNumThreads(min(threads, max(1, (os.cpu_count() or 1) // 4)))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        cv2.setNumThreads(threads)


@brisk()
def run(
    source: media.Source,
    sink: media.Sink,
    stream: Stream,
    plan: SwapPlan,
    mark: Marker,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Move every frame from source to sink, swapped and marked, once and in order.

    Decoding, following faces, painting and encoding each have a thread (painting ``workers``),
    joined by bounded queues, so that a slow step holds back those before it.

    Args:
        source: Open; closed by the caller.
        sink: Open; closed by the caller, who aborts it on an error.
        stream: State for this source alone.
        plan: Who goes where.
        mark: Marks every frame.
        workers: Frames painted at a time.
        progress: Called with the number of frames written so far.

    Raises:
        MediaError: Reading or writing failed.
        Refused: The policy does not allow this use.
        KeyboardInterrupt: Never: an interrupt ends the run early and is noted in the report.
    """
    stream.gate.under(mark)
    stream.gate.admit(rule.identity for rule in plan.rules)
    report = Report()
    belt = _Belt(stream.times, queue.Queue(DEPTH), queue.Queue(DEPTH + workers))
    started = time.perf_counter()
    reader = belt.start(_decode, source, belt)
    writer = belt.start(_encode, sink, mark, belt, report, progress)
    with ThreadPoolExecutor(workers, thread_name_prefix="mien-paint") as pool:
        try:
            while (frame := belt.get(belt.decoded)) is not _END:
                report.frames_in += 1
                faces = stream.observe(frame)
                pairs = stream.assign(faces, plan)
                report.faceless += not faces
                report.swapped += bool(pairs)
                report.faces += len(pairs)
                painting = pool.submit(stream.render, frame, pairs, plan, faces=faces)
                belt.put(belt.painted, (painting, faces, frame.image.shape[1]))
        except KeyboardInterrupt:
            # What was painted is still written; what was only decoded is not.
            report.interrupted = True
        except BaseException as error:
            belt.fail(error)
        finally:
            belt.put(belt.painted, _END)
            writer.join()
            belt.stop.set()
            reader.join()
    if belt.failures:
        raise belt.failures[0]
    report.damaged = source.damaged
    report.seconds = time.perf_counter() - started
    report.stages = stream.times.per_frame(report.frames_out)
    return report


@dataclass(frozen=True, slots=True)
class _Belt:
    """The bounded queues between the threads of a run, and how they stop."""

    times: Times
    decoded: queue.Queue[Any]
    painted: queue.Queue[Any]
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.stop.set()

    def start(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Do the work in a thread; what it raises stops the others."""

        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.fail(error)

        thread = threading.Thread(target=guarded, name=f"mien{work.__name__}", daemon=True)
        thread.start()
        return thread

    def put(self, to: queue.Queue[Any], item: Any) -> None:
        """Wait for a place in the queue, unless all is to stop."""
        while not self.stop.is_set():
            try:
                return to.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    def get(self, source: queue.Queue[Any]) -> Any:
        """Wait for the next item; the end if all is to stop."""
        while not self.stop.is_set():
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue
        return _END


def _decode(source: media.Source, belt: _Belt) -> None:
    frames = iter(source)
    frame: Frame | None = None
    while not belt.stop.is_set():
        with belt.times("decode"):
            frame = next(frames, None)
        if frame is None:
            break
        belt.put(belt.decoded, frame)
    belt.put(belt.decoded, _END)


def _encode(
    sink: media.Sink,
    mark: Marker,
    belt: _Belt,
    report: Report,
    progress: Callable[[int], None] | None,
) -> None:
    while (item := belt.get(belt.painted)) is not _END:
        painting, faces, width = item
        frame = painting.result()
        with belt.times("mark"):
            scale = frame.image.shape[1] / width  # of an upscaler
            marked = mark(frame, [replace(f, box=f.box * scale) for f in faces])
        with belt.times("encode"):
            sink.write(marked)
        report.frames_out += 1
        if progress is not None:
            progress(report.frames_out)
