"""The three steps of a job: follow the faces, paint the parts, join them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import __version__, identity, media, pipeline, policy, tracks
from mien.errors import MediaError, MienError
from mien.parts.job import Job, Part
from mien.pipeline import Pairs, Report, Stream
from mien.provenance import Marker
from mien.types import Faces, Frame, SwapPlan

SETTLE: Final = 24
"""Frames painted before a part begins, and thrown away: light and masks that are held from frame to
frame are then what they would be had all been painted in one go."""

Progress = Callable[[int], None]


Decide = Callable[[Faces], list[int]]
"""Number of the rule that chose each face, -1 for none."""


def by_plan(stream: Stream, plan: SwapPlan) -> Decide:
    """Decides as a plan says."""
    identities = [rule.identity for rule in plan.rules]

    def decide(faces: Faces) -> list[int]:
        chosen = {id(f): identities.index(i) for f, i in stream.assign(faces, plan)}
        return [chosen.get(id(face), -1) for face in faces]

    return decide


def nobody(faces: Faces) -> list[int]:
    """Decides that nobody is swapped."""
    return [-1] * len(faces)


def follow(
    source: media.VideoSource,
    output: Path,
    stream: Stream,
    decide: Decide,
    progress: Progress | None = None,
) -> Report:
    """Find and follow the faces of a whole video, and decide who goes on whom.

    Args:
        source: Open; closed by the caller.
        output: The file of tracks; it appears whole, or not at all.
        stream: State for this video alone.
        decide: Who goes where.
        progress: Called with the number of frames so far.

    Returns:
        Counts of frames and faces.

    Raises:
        MediaError: The video cannot be read, or the tracks not be written.
    """
    report, info = Report(), source.info
    made_by = {"mien": __version__} | {k: name for k, (name, _) in stream.swapper.models.items()}
    header = tracks.Header(info.width, info.height, source.time_base, made_by=made_by)
    with _whole(output) as unfinished, tracks.Writer(unfinished, header) as writer:
        for frame in source:
            faces = stream.observe(frame)
            rules = decide(faces)
            writer.write(tracks.Seen(frame.pts or 0, faces, rules))
            _count(report, rules)
            if progress is not None:
                progress(report.frames_in)
    report.damaged = source.damaged
    return report


def take(given: Path, output: Path, decide: Decide) -> Report:
    """Take a file of tracks, made before and perhaps corrected, and decide anew who goes on whom.

    Raises:
        MediaError: It is damaged, or the new one cannot be written.
    """
    report = Report()

    def change(seen: tracks.Seen) -> tracks.Seen:
        rules = decide(seen.faces)
        _count(report, rules)
        return seen._replace(rules=rules)

    rewritten(given, output, change)
    return report


def rewritten(given: Path, output: Path, change: Callable[[tracks.Seen], tracks.Seen]) -> None:
    """Write a file of tracks anew, each frame changed; it appears whole, or not at all.

    Raises:
        MediaError: It is damaged, or the new one cannot be written.
    """
    with _whole(output) as unfinished:
        tracks.rewrite(given, unfinished, change)


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A file that takes its name when all is well."""
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(output)
    except OSError as error:
        if isinstance(error, MienError):  # Refused is an OSError, too
            raise
        raise MediaError(f"{output}: cannot be written ({error.strerror})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _count(report: Report, rules: list[int]) -> None:
    chosen = sum(rule >= 0 for rule in rules)
    report.frames_in += 1
    report.faceless += not rules
    report.swapped += chosen > 0
    report.faces += chosen


def counted(path: Path) -> Report:
    """The counts of :func:`follow` from its tracks; damaged frames are not known any more."""
    report = Report()
    with tracks.Reader(path) as reader:
        for seen in reader:
            _count(report, seen.rules)
    return report


class Known(Stream):
    """A stream whose faces were found before."""

    def __init__(
        self,
        swapper: pipeline.Swapper,
        reader: tracks.Reader,
        rules: policy.Policy | None = None,
        use: policy.Use | None = None,
    ) -> None:
        """Read faces instead of finding them.

        Args:
            swapper: Paints.
            reader: Open while the stream is used.
            rules: As for :class:`mien.pipeline.Stream`.
            use: As there.
        """
        super().__init__(swapper, rules=rules, use=use)
        self._reader = reader
        self._rules: list[int] = []

    def observe(self, frame: Frame) -> Faces:
        """The faces of a frame, by its time.

        Raises:
            MediaError: The frame was not there when faces were followed.
        """
        seen = self._reader(frame.pts or 0)
        if seen is None:
            raise MediaError(
                f"{self._reader.path}: has no frame at {frame.pts}; the video is another "
                "one, or so damaged that it has to be swapped in one go"
            )
        self._rules = seen.rules
        return self.remembering(seen.faces)

    def assign(self, faces: Faces, plan: SwapPlan) -> Pairs:
        """Who goes on whom, as it was decided then."""
        return [
            (face, plan.rules[rule].identity)
            for face, rule in zip(faces, self._rules, strict=True)
            if 0 <= rule < len(plan.rules)
        ]


def paint(  # noqa: PLR0917
    job: Job,
    part: Part,
    output: Path,
    swapper: pipeline.Swapper,
    plan: SwapPlan,
    marker: Marker,
    *,
    options: media.SinkOptions,
    workers: int = 1,
    progress: Progress | None = None,
    rules: policy.Policy | None = None,
    use: policy.Use | None = None,
    watch: identity.Watch | None = None,
) -> Report:
    """Paint and encode one part; it counts once its file is there.

    Args:
        job: With tracks.
        part: Of it.
        output: What is made in the end; its name says the container.
        swapper: The models.
        plan: Whose faces; who goes where was decided by :func:`follow`.
        marker: Of this part alone, with the job's output id.
        options: Of the encoder.
        workers: Frames painted at a time.
        progress: Called with the number of frames of this part so far.
        rules: What is allowed; None takes the policy in force on this machine.
        use: What the part is for, and who asked; None takes a video of this machine's user.
        watch: Says whose consent has ended since; None asks this machine's store of identities.

    Returns:
        Counts; ``interrupted`` if the user stopped it, and then there is no file.

    Raises:
        MediaError: Reading or writing failed.
    """
    with tracks.Reader(job.tracks) as reader:
        at = int(np.searchsorted(reader.pts, part.first))
        early = max(0, at - SETTLE)
        # Where the job begins the file is not sought in: it may not begin with a key frame.
        start = job.start if early == 0 else Fraction(int(reader.pts[early])) * job.time_base
        end = job.end if part.end is None else part.end * job.time_base
        with media.open_source(job.target, start=start, end=end) as source:
            assert isinstance(source, media.VideoSource)
            size = _size(swapper, source.info) or (source.info.width, source.info.height)
            scale = size[0] / source.info.width
            marker.recall(
                size[1],
                size[0],
                (
                    (float(pts * job.time_base), [replace(f, box=f.box * scale) for f in faces])
                    for pts, faces in reader.boxes(int(reader.pts[early]))
                ),
            )
            sink = media.PartSink(
                job.path(part),
                source,
                target=output,
                first=part.first,
                options=options,
                size=size,
            )
            stream = Known(swapper, reader, rules, use)
            stream.watch = watch or stream.watch
            try:
                report = pipeline.run(
                    source,
                    sink,
                    stream,
                    plan,
                    marker,
                    workers=workers,
                    progress=progress and (lambda done: progress(max(0, done - at + early))),
                )
                if not report.interrupted:
                    sink.close()
            finally:
                sink.abort()
    return report


def join(
    job: Job,
    output: Path,
    parts: list[Part],
    swapper: pipeline.Swapper,
    *,
    options: media.SinkOptions,
    marker: Marker,
    overwrite: bool = False,
    **more: Any,
) -> int:
    """Put all parts together into the output, with the sound of the target.

    Args:
        job: Of which all parts are done.
        output: The file to be made.
        parts: All of them.
        swapper: As for :func:`paint`.
        options: As for :func:`paint`.
        marker: Of the whole job; learns the size of the output.
        overwrite: Whether an existing output may be replaced.
        more: Passed on to the sink.

    Returns:
        How many frames it has.

    Raises:
        MediaError: A part is damaged, or the output cannot be written.
    """
    with tracks.Reader(job.tracks) as reader:
        frames = len(reader.pts)
    with media.open_source(job.target, start=job.start, end=job.end) as source:
        assert isinstance(source, media.VideoSource)
        size = _size(swapper, source.info)
        marker.fit(*(size or (source.info.width, source.info.height)))
        with media.JoinSink(
            output,
            source,
            options=options,
            metadata=marker.metadata(),
            overwrite=overwrite,
            size=size,
            **more,
        ) as sink:
            written = sink.join([job.path(part) for part in parts])
            if written != frames:
                raise MediaError(
                    f"{output}: expected {frames} frames, the parts in {job.folder} have {written}"
                )
    return written


def _size(swapper: pipeline.Swapper, info: media.MediaInfo) -> tuple[int, int] | None:
    return None if swapper.upscaler is None else swapper.upscaler.size(info.width, info.height)
