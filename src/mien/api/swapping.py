"""Swapping: a picture in memory, a file, a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

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
from mien.api.plans import by_person, consent_to, made_of, people_of, plan_of, use_of
from mien.api.results import Result, copied_through
from mien.api.resuming import Painting, swap_in_parts
from mien.errors import MienError, UsageError
from mien.pipeline import Stream, Swapper
from mien.provenance import Marker, Marks, credentials
from mien.types import (
    Consent,
    Frame,
    Identity,
    Image,
    SwapPlan,
)

log = logging.getLogger(__name__)


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
    plan = plan_of(who)
    frame = Frame(np.array(image, order="C"))
    marker = Marker(marks, consent=consent_to(plan), target_consent=target_consent)
    rules, use = policy.load(), use_of("photo", marker)
    with rules.begin(people_of(plan), use, image) as run:
        stream = Stream(
            swapper or load(), identify=by_person(plan), still=True, rules=rules, use=use
        )
        faces = stream.observe(frame)
        pairs = stream.assign(faces, plan)
        if not pairs:
            run.end("copied")
            return frame.image
        made = marker(stream.render(frame, pairs, plan, faces=faces), faces).frame.image
        run.end("made", output=made, **marker.account, faces=len(pairs))
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
    resume: bool = False,
    tracked: Path | None = None,
    progress: Progress | None = None,
    swapper: Swapper | None = None,
    painting: Painting | None = None,
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
        resume: Work on a video in parts that stay done, see :func:`mien.api.swap_in_parts`.
        tracked: The video's faces, followed before; then it is worked on in parts, too.
        progress: Called after each frame.
        swapper: The models.
        painting: Paints a video's parts elsewhere; then it is worked on in parts, too.

    Raises:
        MediaError: The target cannot be read, or the output cannot be written.
        UsageError: Target and output do not go together.
        Refused: The policy does not allow it; see :mod:`mien.policy`.
    """
    target, output = Path(target), Path(output)
    plan = plan_of(who)
    check_output([target], output, overwrite=overwrite)
    if tracked is not None or ((resume or painting is not None) and not is_still(target)):
        return swap_in_parts(
            target, plan, output, target_consent=target_consent, marks=marks, options=options,
            start=start, end=end, workers=workers, overwrite=overwrite, tracked=tracked,
            progress=progress, swapper=swapper, painting=painting,
        )  # fmt: skip
    limits = swapper.limits if swapper is not None else None
    with open_part(target, start, end, limits) as source, ExitStack() as stack:
        still = source.info.kind == "image"
        marker = Marker(marks, consent=consent_to(plan), target_consent=target_consent)
        rules, use = policy.load(), use_of("photo" if still else "video", marker)
        run = stack.enter_context(rules.begin(people_of(plan), use, target))
        swapper = swapper or load()
        identify = by_person(plan, still=still)
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
                marker, people_of(plan), swapper.weights, target, rules.credentials
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
                run.end("stopped", output=kept, **made_of(report, marker))
                return Result(target, kept, report, missing=marker.missing)
            if report.swapped:
                sink.close()
                run.end("made", output=output, **made_of(report, marker))
                return Result(target, output, report, missing=marker.missing)
            sink.abort()
            run.end("copied")
        except BaseException:
            sink.abort()
            raise
    return copied_through(
        target, output, report, options=options, start=start, end=end, overwrite=overwrite
    )


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
    resume: bool = False,
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
        resume: Leave out files whose output is there, and work on videos in parts.
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
    plan = plan_of(who)
    about = Marker(marks, consent=consent_to(plan), target_consent=target_consent)
    policy.permit(people_of(plan), use_of("video", about))  # what holds for all is said once
    made = make_folder(output)
    swapper = swapper or load()
    try:
        for target, name in names.items():
            if resume and (output / name).exists():  # outputs appear whole, or not at all
                yield Result(target, output / name, earlier=True)
                continue
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
                    resume=resume,
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
