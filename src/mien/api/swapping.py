"""Swapping: a picture in memory, a file, a folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien import media, pipeline, policy
from mien.api.files import (
    FileProgress,
    Progress,
    check_output,
    for_file,
    is_still,
    list_media,
    make_folder,
    open_part,
    output_names,
    with_total,
)
from mien.api.loading import load
from mien.errors import MediaError, MienError, UsageError
from mien.media.info import IMAGE_SUFFIXES
from mien.media.sink import CONTAINERS, Temporary
from mien.pipeline import Report, Stream, Swapper
from mien.provenance import Marker, Marks, credentials, untouched
from mien.types import (
    Consent,
    Frame,
    Identity,
    Image,
    Rule,
    SwapPlan,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target.

    Attributes:
        target: The file.
        output: What was written, None if nothing was.
        report: Counts and times.
        copied: Nothing was swapped, and the target was copied through.
        error: Why it failed, in a folder; a single file raises instead.
    """

    target: Path
    output: Path | None
    report: Report = field(default_factory=Report)
    copied: bool = False
    error: MienError | None = None


def swap_image(
    image: Image,
    who: Identity | SwapPlan,
    *,
    target_consent: Consent | None = None,
    marks: Marks | None = None,
    swapper: Swapper | None = None,
) -> Image:
    """Swap the faces of a picture in memory; the result carries the visible label.

    Args:
        image: ``(H, W, 3)`` uint8 RGB; left as it is.
        who: Whose face goes on all others, or a plan that says more.
        target_consent: On what the use of the picture rests.
        marks: What the result carries, and what its label says; None for the usual marks.
        swapper: The models.

    Returns:
        ``(H, W, 3)`` uint8 RGB, larger with an upscaler; an unmarked copy as large as it was if
        there was no face to swap.

    Raises:
        Refused: The policy does not allow it; see :mod:`mien.policy`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(
            f"expected an image of shape (H, W, 3) and dtype uint8, "
            f"not {image.shape} and {image.dtype}"
        )
    plan = _plan(who)
    frame = Frame(np.array(image, order="C"))
    marker = Marker(marks, consent=_all_consent(plan), target_consent=target_consent)
    rules, use = policy.load(), _use("photo", marker)
    with rules.begin(_people(plan), use, image) as run:
        stream = Stream(
            swapper or load(), identify=_by_person(plan), still=True, rules=rules, use=use
        )
        faces = stream.observe(frame)
        pairs = stream.assign(faces, plan)
        if not pairs:
            run.end("copied")
            return frame.image
        made = marker(stream.render(frame, pairs, plan, faces=faces), faces).frame.image
        run.end("made", output=made, output_id=marker.output_id, faces=len(pairs))
    return made


def swap(
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
    progress: Progress | None = None,
    swapper: Swapper | None = None,
) -> Result:
    """Swap the faces of a photo or a video; everything else stays.

    A target in which nothing is to be swapped is copied through, with a warning in the log.
    An interrupt (Ctrl-C) ends the work early; what was done is kept as a playable file.

    Args:
        target: Photo or video.
        who: Whose face goes on all others, or a plan that says more.
        output: The file to be made; its folder is there.
        target_consent: On what the use of the target rests, for the person who is replaced.
        marks: What the output carries, and what its label says; None for the usual marks.
        options: Encoder, speed, quality, pixel format.
        start: Seconds; what lies before is left out. For video only.
        end: Seconds; what lies from there on is left out. For video only.
        workers: Frames painted at a time.
        overwrite: Whether an existing output may be replaced.
        progress: Called after each frame.
        swapper: The models.

    Raises:
        MediaError: The target cannot be read, or the output cannot be written.
        UsageError: Target and output do not go together.
        Refused: The policy does not allow it; see :mod:`mien.policy`.
    """
    target, output = Path(target), Path(output)
    plan = _plan(who)
    check_output([target], output, overwrite=overwrite)
    limits = swapper.limits if swapper is not None else None
    with open_part(target, start, end, limits) as source, ExitStack() as stack:
        still = source.info.kind == "image"
        marker = Marker(marks, consent=_all_consent(plan), target_consent=target_consent)
        rules, use = policy.load(), _use("photo" if still else "video", marker)
        run = stack.enter_context(rules.begin(_people(plan), use, target))
        swapper = swapper or load()
        identify = _by_person(plan, still=still)
        stream = Stream(swapper, identify=identify, still=still, rules=rules, use=use)
        enlarge, info = swapper.upscaler, source.info
        if enlarge is not None:
            enlarge.check(info.width, info.height, str(target))
        sink = media.open_sink(
            output,
            source,
            options=options,
            metadata=marker.metadata(),
            overwrite=overwrite,
            size=None if enlarge is None else enlarge.size(info.width, info.height),
            finish=credentials.signing_of(
                marker, _people(plan), swapper.weights, target, rules.credentials
            ),
        )
        try:
            report = pipeline.run(
                source,
                sink,
                stream,
                plan,
                marker,
                workers=workers,
                progress=with_total(progress, source.info.frames),
            )
            if report.interrupted:
                kept = output if sink.abort(keep=True) else None
                run.end("stopped", output=kept, **_done(report, marker))
                return Result(target, kept, report)
            if report.swapped:
                sink.close()
                run.end("made", output=output, **_done(report, marker))
                return Result(target, output, report)
            sink.abort()
            run.end("copied")
        except BaseException:
            sink.abort()
            raise
    cause = "no face was found"
    if report.faceless < report.frames_in:
        cause = "none of the faces in it is the one that was asked for"
    log.warning("%s: %s; it was copied through unchanged", target, cause)
    _copy(target, output, options, start, end, overwrite=overwrite)
    return Result(target, output, report, copied=True)


def swap_folder(
    folder: Path | str,
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
    progress: FileProgress | None = None,
    swapper: Swapper | None = None,
) -> Iterator[Result]:
    """Swap every photo and video of a folder; results get the same names in another folder.

    One file that fails does not stop the others. Folders inside the folder are left out.

    Args:
        folder: With photos, videos, or both.
        who: As for :func:`swap`.
        output: A folder; made if it is not there but the folder that it lies in is.
        target_consent: As for :func:`swap`.
        marks: As for :func:`swap`.
        options: As for :func:`swap`.
        start: As for :func:`swap`; photos are taken whole.
        end: As for :func:`swap`; photos are taken whole.
        workers: As for :func:`swap`.
        overwrite: As for :func:`swap`.
        progress: Called after each frame with the file.
        swapper: The models.

    Yields:
        A result for each file as soon as it is done.

    Raises:
        MediaError: The folder cannot be read, or the output folder cannot be made.
        UsageError: The output is the folder itself, or there is nothing to swap.
    """
    folder, output = Path(folder), Path(output)
    if output.is_dir() and output.samefile(folder):
        raise UsageError(f"{output}: is the input, too; choose another folder for the output")
    names = output_names(list_media(folder))
    plan = _plan(who)
    about = Marker(marks, consent=_all_consent(plan), target_consent=target_consent)
    policy.permit(_people(plan), _use("video", about))  # what holds for all is said once
    made = make_folder(output)
    swapper = swapper or load()
    try:
        for target, name in names.items():
            still = is_still(target)
            try:
                result = swap(
                    target,
                    who,
                    output / name,
                    target_consent=target_consent,
                    marks=marks,
                    options=options,
                    start=None if still else start,
                    end=None if still else end,
                    workers=workers,
                    overwrite=overwrite,
                    progress=for_file(progress, target),
                    swapper=swapper,
                )
            except MienError as error:
                result = Result(target, None, error=error)
            yield result
            if result.report.interrupted:
                return
    finally:
        if made and not any(output.iterdir()):
            output.rmdir()


def _copy(
    target: Path,
    output: Path,
    options: media.SinkOptions | None,
    start: float | None,
    end: float | None,
    *,
    overwrite: bool,
) -> None:
    """Copy a target in which nothing was swapped; without marks, since nothing was made."""
    formats = IMAGE_SUFFIXES | CONTAINERS
    same = formats.get(target.suffix.lower()) == formats.get(output.suffix.lower())
    if same and start is None and end is None:
        file = Temporary(output, overwrite=overwrite)
        try:
            shutil.copyfile(target, file.path)
            file.keep()
        except OSError as error:
            file.drop()
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{output}: cannot be written ({error.strerror})") from error
        except BaseException:
            file.drop()
            raise
        return
    # Another container or a part of it: decoded and encoded again. The label stays off, as it
    # would be untrue.
    with (
        media.open_source(target, start=start, end=end) as source,
        media.open_sink(output, source, options=options, metadata={}, overwrite=overwrite) as sink,
    ):
        for marked in untouched(source):
            sink.write(marked)


def _plan(who: Identity | SwapPlan) -> SwapPlan:
    return who if isinstance(who, SwapPlan) else SwapPlan((Rule(who),))


def _people(plan: SwapPlan) -> list[Identity]:
    return [rule.identity for rule in plan.rules]


def _use(kind: policy.Kind, marker: Marker) -> policy.Use:
    return policy.Use(kind, target_consent=marker.target_consent, marks=marker.marks)


def _done(report: Report, marker: Marker) -> dict[str, Any]:
    """What the audit log says of a run that made something."""
    return {"output_id": marker.output_id, "frames": report.frames_out, "swapped": report.swapped}


def _by_person(plan: SwapPlan, *, still: bool = True) -> bool:
    """Whether the plan needs to know who is who; a number in a still is a place."""
    return any(
        r.reference is not None or (isinstance(r.which, int) and not still) for r in plan.rules
    )


def _all_consent(plan: SwapPlan) -> Consent:
    """What the use of all portraits of a plan rests on."""
    each = [r.identity.consent for r in plan.rules]
    bases = dict.fromkeys(c.basis for c in each)
    notes = dict.fromkeys(c.note for c in each if c.note)
    return Consent(", ".join(bases), "; ".join(notes))
