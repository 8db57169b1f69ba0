"""Folders of thousands of photos, swapped by a pool."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from mien import api, media, policy
from mien.api import FileProgress, Result, check_output, list_media
from mien.api.files import for_file, is_still, make_folder, output_names
from mien.api.plans import consent_to, made_of, people_of, plan_of, use_of
from mien.api.results import copied_through
from mien.errors import MediaError, MienError, UsageError
from mien.media.sink import Temporary
from mien.pipeline import Report, Swapper
from mien.provenance import Marker, Marks, credentials
from mien.scale import carried
from mien.scale.carried import Words
from mien.scale.pool import Pool, checked
from mien.scale.videos import options_of, paint_parts, watching
from mien.types import Consent, Identity, SwapPlan


class _Photo(NamedTuple):
    """One photo on its way; its run is in the log."""

    target: Path
    output: Path
    marker: Marker
    run: policy.Run
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class _Job:
    """What all photos share.

    Attributes:
        plan: Whose faces.
        rules: What is allowed.
        marker: Says what is said of each.
        weights: Of the models.
        overwrite: Whether existing files may be replaced.
        failed: Photos that did not get as far as a worker.
        open: Runs whose end is not in the log.
    """

    plan: SwapPlan
    rules: policy.Policy
    marker: Marker
    weights: tuple[tuple[str, str], ...]
    overwrite: bool
    failed: list[Result] = field(default_factory=list)
    open: dict[int, policy.Run] = field(default_factory=dict)


def swap_photos(
    pool: Pool,
    names: Mapping[Path, Path],
    who: Identity | SwapPlan,
    *,
    weights: tuple[tuple[str, str], ...] = (),
    target_consent: Consent | None = None,
    marks: Marks | None = None,
    options: media.SinkOptions | None = None,
    overwrite: bool = False,
) -> Iterator[Result]:
    """Swap photos on a pool. One that fails does not stop the others.

    Photos are read, entered in the log, signed and written here; workers find faces, paint, mark
    and encode. Only a few photos are in memory at a time, however many there are.

    Args:
        pool: Whose actors do it.
        names: Photo → the file to be made.
        who: As for :func:`mien.api.swap`, like all that is not named here.
        weights: Name and SHA-256 of the models, for content credentials.
        target_consent: As there.
        marks: As there.
        options: As there.
        overwrite: As there.

    Yields:
        A result for each photo as soon as it is done, in any order.

    Raises:
        UsageError: The policy names classifiers, which look at photos where mien was called.
        Refused: The policy does not allow it, or a consent has ended.
    """
    plan, rules = plan_of(who), policy.load()
    if rules.classifiers:
        raise UsageError(f"{rules.where}: its classifiers do not look at photos on a cluster")
    marker = Marker(marks, consent=consent_to(plan), target_consent=target_consent)
    job = _Job(plan, rules, marker, weights, overwrite)
    rules.permit(people_of(plan), use_of("photo", marker))
    what = ray.put(
        {
            "key": secrets.token_hex(8),
            "kind": "photo",
            "plan": carried.of_plan(plan),
            "options": asdict(options_of(options or media.SinkOptions(), pool)),
            "policy": carried.of_policy(rules, policy.user()),
        }
    )
    done = pool.spread(
        _photos(job, names),
        lambda actor, photo: actor.swap_photo.remote(
            what,
            carried.of_marker(photo.marker),
            (photo.target.name, photo.output.name),
            photo.data,
        ),
        watching(people_of(plan), "photo"),
        most=len(names),
    )
    try:
        for photo, answer in done:
            yield _result(job, photo, answer)
            while job.failed:
                yield job.failed.pop()
        yield from job.failed
    finally:
        done.close()
        for run in job.open.values():
            run.end("stopped")


def swap_folder(
    pool: Pool,
    folder: Path,
    who: Identity | SwapPlan,
    output: Path,
    *,
    swapper: Swapper,
    target_consent: Consent | None = None,
    marks: Marks | None = None,
    options: media.SinkOptions | None = None,
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: FileProgress | None = None,
) -> Iterator[Result]:
    """Swap every photo and video of a folder on a pool; videos one after the other, in parts.

    Args:
        pool: Whose actors do it.
        folder: As for :func:`mien.api.swap_folder`, like all that is not named here.
        who: As there.
        output: As there.
        swapper: Follows the faces of videos, here.
        target_consent: As there.
        marks: As there.
        options: As there.
        start: As there.
        end: As there.
        overwrite: As there.
        resume: As there.
        progress: Called after each photo, and of videos after each frame or part.

    Yields:
        A result for each file as soon as it is done.

    Raises:
        MediaError: As there.
        UsageError: As there.
    """
    if output.is_dir() and output.samefile(folder):
        raise UsageError(f"{output}: is the input, too; choose another folder for the output")
    names = {target: output / name for target, name in output_names(list_media(folder)).items()}
    made = make_folder(output)
    said: dict[str, Any] = {
        "target_consent": target_consent, "marks": marks, "options": options,
        "overwrite": overwrite,
    }  # fmt: skip
    try:
        for target in [t for t, there in names.items() if resume and there.exists()]:
            yield Result(target, names.pop(target), earlier=True)
        photos = {target: name for target, name in names.items() if is_still(target)}
        for result in swap_photos(pool, photos, who, weights=swapper.weights, **said):
            if progress is not None:
                progress(result.target, 1, 1)
            yield result
        for target in [t for t in names if t not in photos]:
            try:
                yield api.swap(
                    target,
                    who,
                    names[target],
                    start=start,
                    end=end,
                    progress=for_file(progress, target),
                    swapper=swapper,
                    painting=partial(paint_parts, pool),
                    **said,
                )
            except MienError as error:
                yield Result(target, None, error=error)
    finally:
        if made and not any(output.iterdir()):
            output.rmdir()


def _photos(job: _Job, names: Mapping[Path, Path]) -> Iterator[_Photo]:
    """Photos, read when it is their turn, each entered in the log."""
    for target, output in names.items():
        marker = job.marker.anew()
        try:
            check_output([target], output, overwrite=job.overwrite)
            data = np.fromfile(target, np.uint8)
            run = job.rules.begin(people_of(job.plan), use_of("photo", marker), target)
        except MienError as error:
            job.failed.append(Result(target, None, error=error))
        except OSError as error:
            said = MediaError(f"{target}: cannot be read ({error.strerror})")
            job.failed.append(Result(target, None, error=said))
        else:
            job.open[id(run)] = run
            yield _Photo(target, output, marker, run, data)


def _result(job: _Job, photo: _Photo, answer: Words) -> Result:
    """Write and sign what a worker made."""
    job.open.pop(id(photo.run))
    target, output, marker, run, _ = photo
    try:
        with run:
            checked(answer, str(target))
            report = Report(**answer["report"])
            for entry in answer["denied"]:
                job.rules.note("denied", role="target", entry=entry, kind="photo")
            if not report.swapped:
                run.end("copied")
                return copied_through(target, output, report, overwrite=job.overwrite)
            marker.fit(*answer["size"])
            sign = credentials.signing_of(
                marker, people_of(job.plan), job.weights, target, job.rules.credentials
            )
            file = Temporary(output, overwrite=job.overwrite, finish=sign)
            try:
                file.path.write_bytes(answer["data"])
                file.keep()
            except BaseException:
                file.drop()
                raise
            run.end("made", output=output, **made_of(report, marker))
    except MienError as error:
        return Result(target, None, error=error)
    except OSError as error:
        said = MediaError(f"{output}: cannot be written ({error.strerror})")
        return Result(target, None, error=said)
    return Result(target, output, report, missing=marker.missing)
