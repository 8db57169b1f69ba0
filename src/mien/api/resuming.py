"""A video swapped in parts: whoever breaks off goes on where it was."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from mien import __version__, media, parts, policy, tracks
from mien.api.files import Progress, check_output, open_part
from mien.api.loading import load
from mien.api.plans import by_person, consent_to, made_of, people_of, plan_of, use_of
from mien.api.results import Result, copied_through
from mien.errors import UsageError
from mien.pipeline import Report, Stream, Swapper
from mien.provenance import Marker, Marks, credentials
from mien.types import Consent, Identity, SwapPlan

log = logging.getLogger(__name__)


class Painting(Protocol):
    """Paints the parts of a job elsewhere, as :mod:`mien.scale` does on a cluster."""

    def __call__(
        self,
        job: parts.Job,
        missing: Sequence[parts.Part],
        output: Path,
        plan: SwapPlan,
        marker: Marker,
        *,
        options: media.SinkOptions,
        rules: policy.Policy,
        progress: parts.Progress | None = None,
    ) -> None:
        """Paint parts; each counts once its file is in the job's folder.

        Args:
            job: With tracks.
            missing: Those to be painted.
            output: What is made in the end; its name says the container.
            plan: Whose faces.
            marker: Of the job.
            options: Of the encoder.
            rules: What is allowed.
            progress: Called with the number of frames painted so far.
        """


def work_folder(output: Path) -> Path:
    """Where a job keeps what is done until the output is there."""
    return output.with_name(f".{output.name}.work")


def swap_in_parts(
    target: Path | str,
    who: Identity | SwapPlan,
    output: Path | str,
    *,
    target_consent: Consent | None = None,
    marks: Marks | None = None,
    options: media.SinkOptions | None = None,
    start: float | None = None,
    end: float | None = None,
    workers: int = 1,
    overwrite: bool = False,
    seconds: float = parts.SECONDS,
    tracked: Path | None = None,
    progress: Progress | None = None,
    swapper: Swapper | None = None,
    painting: Painting | None = None,
) -> Result:
    """Swap the faces of a video in parts; what is done stays done, whatever happens.

    Faces are followed through the whole video first, so two passes are made over it, and
    ``progress`` counts both. The folder ``.NAME.work`` beside the output holds what is done; the
    same call goes on with it, after Ctrl-C, a crash or a full disk, and it is gone in the end.

    Args:
        target: A video.
        who: As for :func:`mien.api.swap`, like all that is not named here.
        output: As there.
        target_consent: As there.
        marks: As there.
        options: As there.
        start: As there.
        end: As there.
        workers: As there.
        overwrite: As there.
        seconds: Least length of a part.
        tracked: The faces of the video, followed before and perhaps corrected; see
            :func:`mien.api.follow_faces`.
        progress: Called after each frame of either pass.
        swapper: As there.
        painting: Paints the parts elsewhere; None for here, one after the other.

    Raises:
        UsageError: What is in the folder was begun with another portrait, model or setting.
        MediaError: The target cannot be read, or the disk is full.
        Refused: The policy does not allow it.
    """
    target, output = Path(target), Path(output)
    plan, options = plan_of(who), options or media.SinkOptions()
    if tracked is not None and any(rule.reference is not None for rule in plan.rules):
        raise UsageError(f"{tracked}: says where faces are, not who; choose them by their numbers")
    check_output([target], output, overwrite=overwrite)
    began = time.perf_counter()
    with ExitStack() as stack:
        with open_part(target, start, end, swapper.limits if swapper else None) as source:
            info = source.info
            media.check_suffix(output, source)
        swapper = swapper or load()
        if swapper.upscaler is not None:
            swapper.upscaler.check(info.width, info.height, str(target))
        first = Marker(marks, consent=consent_to(plan), target_consent=target_consent)
        rules, use = policy.load(), use_of("video", first)
        run = stack.enter_context(rules.begin(people_of(plan), use, target))
        job = parts.begin(
            work_folder(output),
            target,
            asked_of(plan, swapper, first, options, output) | _said(tracked),
            output_id=first.output_id,
            start=start,
            end=end,
            seconds=seconds,
        )

        def marker() -> Marker:
            return first.anew(job.output_id)

        report = Report(interrupted=True)
        try:
            both = 2 * info.frames if info.frames else None
            stream = Stream(swapper, identify=by_person(plan, still=False), rules=rules, use=use)
            report = _followed(job, tracked, plan, stream, _further(progress, 0, both))
            if report.swapped:
                with tracks.Reader(job.tracks) as reader:
                    every = job.parts(int(reader.pts[0]))
                if painting is not None:
                    painting(
                        job,
                        job.missing(every),
                        output,
                        plan,
                        marker(),
                        options=options,
                        rules=rules,
                        progress=_further(progress, report.frames_in, 2 * report.frames_in),
                    )
                for part in every:
                    if job.path(part).is_file():
                        report.frames_out = _end(job, part, report.frames_in)
                        continue
                    done = report.frames_in + report.frames_out
                    painted = parts.paint(
                        job,
                        part,
                        output,
                        swapper,
                        plan,
                        marker(),
                        options=options,
                        workers=workers,
                        progress=_further(progress, done, 2 * report.frames_in),
                    )
                    if painted.interrupted:
                        raise KeyboardInterrupt
                    report.frames_out = _end(job, part, report.frames_in)
                last = marker()
                parts.join(
                    job,
                    output,
                    every,
                    swapper,
                    options=options,
                    marker=last,
                    overwrite=overwrite,
                    finish=credentials.signing_of(
                        last, people_of(plan), swapper.weights, target, rules.credentials
                    ),
                )
                report.seconds = time.perf_counter() - began
                run.end("made", output=output, **made_of(report, last))
                job.remove()
                return Result(target, output, report, missing=last.missing)
        except KeyboardInterrupt:
            log.warning("what is done is kept in %s; --resume goes on with it", job.folder)
            run.end("stopped")
            report.interrupted = True
            return Result(target, None, report)
        run.end("copied")
        job.remove()
    return copied_through(
        target, output, report, options=options, start=start, end=end, overwrite=overwrite
    )


def follow_faces(
    target: Path | str,
    output: Path | str,
    *,
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    swapper: Swapper | None = None,
) -> Report:
    """Find and follow the faces of a video, and write where they are into a file of tracks.

    Args:
        target: A video.
        output: The file to be made, see docs/tracks.md.
        start: Seconds; what lies before is left out.
        end: Seconds; what lies from there on is left out.
        overwrite: Whether an existing file may be replaced.
        progress: Called after each frame.
        swapper: The models.

    Returns:
        Counts of frames.

    Raises:
        MediaError: The target cannot be read, or the file not be written.
        UsageError: The target is no video, or the file is there.
    """
    target, output = Path(target), Path(output)
    check_output([target], output, overwrite=overwrite)
    with open_part(target, start, end, swapper.limits if swapper else None) as source:
        if not isinstance(source, media.VideoSource):
            raise UsageError(f"{target}: is no video; faces are followed in videos")
        swapper = swapper or load()
        stream = Stream(swapper, identify=True)
        shown = _further(progress, 0, source.info.frames)
        return parts.follow(source, output, stream, parts.nobody, shown)


def correct_tracks(
    given: Path,
    output: Path | None,
    renumber: Mapping[int, int],
    drop: Collection[int],
    overwrite: bool = False,
) -> None:
    """Write a file of tracks anew: with other numbers, and without some faces.

    Args:
        given: The file.
        output: The new one.
        renumber: Numbers that become others.
        drop: Numbers that are left out.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: No output was named, a number is not in the file, or would be twice in a frame.
        MediaError: The file is damaged, or the new one cannot be written.
    """
    if output is None or output.suffix != ".npz":
        raise UsageError(f"{given}: name the corrected file with -o NEW.npz")
    check_output([given], output, overwrite=overwrite)
    there = {line.number for line in tracks.lines_of(given)}
    unknown = sorted(({*renumber} | {*drop}) - there)
    if unknown:
        raise UsageError(f"{given}: has no track {unknown[0]}; 'mien faces {given}' shows them")
    parts.rewritten(
        given,
        output,
        lambda seen: tracks.corrected(seen, renumber=renumber, drop=frozenset(drop)),
    )


def asked_of(
    plan: SwapPlan, swapper: Swapper, marker: Marker, options: media.SinkOptions, output: Path
) -> dict[str, str]:
    """All that decides what the result looks like, as hashes by name."""
    portraits = b"".join(
        rule.identity.embedding.tobytes()
        + b"".join(portrait.image.tobytes() for portrait in rule.identity.portraits)
        for rule in plan.rules
    )
    faces = [
        (r.which, "" if r.reference is None else r.reference.tobytes().hex()) for r in plan.rules
    ]
    return {
        name: hashlib.sha256(repr(said).encode()).hexdigest()
        for name, said in {
            "portrait": hashlib.sha256(portraits).digest(),
            "choice of faces": (faces, plan.similarity),
            "blending": (plan.blend, plan.color),
            "models": sorted((stage, name) for stage, (name, _) in swapper.models.items()),
            "marks": (marker.marks, marker.consent, marker.target_consent),
            "encoder": (options, output.suffix.lower()),
            "version of mien": __version__,
        }.items()
    }


def _followed(
    job: parts.Job,
    given: Path | None,
    plan: SwapPlan,
    stream: Stream,
    progress: parts.Progress | None,
) -> Report:
    if job.tracks.is_file():
        return parts.counted(job.tracks)
    decide = parts.by_plan(stream, plan)
    if given is not None:
        return parts.take(given, job.tracks, decide)
    with media.open_source(job.target, start=job.start, end=job.end) as source:
        assert isinstance(source, media.VideoSource)
        return parts.follow(source, job.tracks, stream, decide, progress)


def _said(tracked: Path | None) -> dict[str, str]:
    """Which file of tracks was given, for comparison.

    Raises:
        MediaError: It is none.
    """
    if tracked is None:
        return {}
    with tracks.Reader(tracked):
        return {"file of tracks": hashlib.sha256(tracked.read_bytes()).hexdigest()}


def _end(job: parts.Job, part: parts.Part, frames: int) -> int:
    """How many frames there are up to the end of a part."""
    if part.end is None:
        return frames
    with tracks.Reader(job.tracks) as reader:
        return int(reader.pts.searchsorted(part.end))


def _further(progress: Progress | None, before: int, total: int | None) -> parts.Progress | None:
    if progress is None:
        return None
    return lambda done: progress(before + done, total)
