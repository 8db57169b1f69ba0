"""A video swapped in parts: whoever breaks off goes on where it was."""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import ExitStack
from pathlib import Path

from mien import __version__, media, parts, policy, tracks
from mien.api.files import Progress, check_output, open_part
from mien.api.loading import load
from mien.api.plans import by_person, consent_to, made_of, people_of, plan_of, use_of
from mien.api.results import Result, copied_through
from mien.pipeline import Report, Stream, Swapper
from mien.provenance import Marker, Marks, credentials
from mien.types import Consent, Identity, SwapPlan

log = logging.getLogger(__name__)


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
    progress: Progress | None = None,
    swapper: Swapper | None = None,
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
        progress: Called after each frame of either pass.
        swapper: As there.

    Raises:
        UsageError: What is in the folder was begun with another portrait, model or setting.
        MediaError: The target cannot be read, or the disk is full.
        Refused: The policy does not allow it.
    """
    target, output = Path(target), Path(output)
    plan, options = plan_of(who), options or media.SinkOptions()
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
            asked_of(plan, swapper, first, options, output),
            output_id=first.output_id,
            start=start,
            end=end,
            seconds=seconds,
        )

        def marker() -> Marker:
            return Marker(
                marks,
                consent=first.consent,
                target_consent=target_consent,
                output_id=job.output_id,
            )

        report = Report(interrupted=True)
        try:
            report = _followed(job, plan, swapper, progress, info.frames, rules, use)
            if report.swapped:
                with tracks.Reader(job.tracks) as reader:
                    every = job.parts(int(reader.pts[0]))
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
                    metadata=last.metadata(),
                    overwrite=overwrite,
                    finish=credentials.signing_of(
                        last, people_of(plan), swapper.weights, target, rules.credentials
                    ),
                )
                report.seconds = time.perf_counter() - began
                run.end("made", output=output, **made_of(report, last))
                job.remove()
                return Result(target, output, report)
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


def _followed(  # noqa: PLR0917
    job: parts.Job,
    plan: SwapPlan,
    swapper: Swapper,
    progress: Progress | None,
    frames: int | None,
    rules: policy.Policy,
    use: policy.Use,
) -> Report:
    if job.tracks.is_file():
        return parts.counted(job.tracks)
    stream = Stream(swapper, identify=by_person(plan, still=False), rules=rules, use=use)
    return parts.follow(job, stream, plan, _further(progress, 0, 2 * frames if frames else None))


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
