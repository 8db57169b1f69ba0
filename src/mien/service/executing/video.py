"""Videos: followed as a whole, painted in parts, joined."""

from __future__ import annotations

import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from mien import media, parts, policy, tracks
from mien.api.files import open_part
from mien.api.plans import by_person, people_of
from mien.api.resuming import asked_of
from mien.errors import NoFace
from mien.pipeline import Stream, Swapper
from mien.provenance import credentials
from mien.provenance.watermark import new_output_id
from mien.service.database import File, Part
from mien.service.executing.piece import Piece
from mien.service.files import Stored
from mien.service.jobs import Lost
from mien.types import SwapPlan

log = logging.getLogger(__name__)


def follow(piece: Piece, target: Path, ids: list[str], fetched: list[tuple[File, Stored]]) -> None:
    """Find and follow all faces, and say where the video is cut.

    Args:
        piece: The work.
        target: The video.
        ids: Of its file's row.
        fetched: That file, if it was fetched just now and does not count yet.

    Raises:
        NoFace: There is nobody who could be swapped.
    """
    plan, swapper = piece.plan(), piece.swapper()
    rules, use = piece.permitted(plan, "video")
    with piece.working("follow") as work:
        output = work / f"output{piece.suffix(target)}"
        start, end = piece.asked.get("start"), piece.asked.get("end")
        piece.examine(target, work)
        with open_part(target, start, end, piece.models.limits) as source:
            info = source.info
        if swapper.upscaler is not None:
            swapper.upscaler.check(info.width, info.height, str(target))
        output_id = f"{new_output_id():08x}"
        begun = parts.begin(
            work / "job",
            target,
            {},
            output_id=output_id,
            start=start,
            end=end,
            seconds=piece.settings.part_seconds,
        )
        run = rules.begin(people_of(plan), use, target)
        stream = Stream(swapper, identify=by_person(plan, still=False), rules=rules, use=use)
        stream.watch = piece.models.watch
        with media.open_source(target, start=begun.start, end=begun.end) as source:
            assert isinstance(source, media.VideoSource)
            if piece.asked.get("tracks"):
                given = piece.cached(work / "given.npz", piece.row(piece.asked["tracks"]).path)
                report = parts.take(given, begun.tracks, parts.by_plan(stream, plan))
            else:
                decide = parts.by_plan(stream, plan)
                report = parts.follow(source, begun.tracks, stream, decide, piece.holding.progress)
        if not report.swapped:
            run.end("copied")
            raise NoFace(f"{target}: no face that could be swapped was found")
        with tracks.Reader(begun.tracks) as reader:
            every = begun.parts(int(reader.pts[0]))
        frames = report.frames_in
        file, stored = piece.put(begun.tracks, "tracks", "tracks.npz")
        found = {
            "kind": "video",
            "targets": ids,
            "tracks": file.id,
            "run": run.id,
            "output_id": output_id,
            "suffix": output.suffix,
            "start": _text(begun.start),
            "end": _text(begun.end),
            "time_base": str(begun.time_base),
            "cuts": list(begun.cuts),
            "frames": frames,
            "swapped": report.swapped,
            "faces": report.faces,
            "damaged": report.damaged,
            "asked": asked_of(plan, swapper, piece.marker(plan), piece.options, output),
        }
        with piece.or_drop(file):
            piece.surely(
                lambda: piece.jobs.followed(
                    piece.task,
                    found,
                    [(part.first, part.end) for part in every],
                    [*fetched, (file, stored)],
                    frames=frames,
                    total=2 * frames,
                )
            )


def paint(piece: Piece, part: Part) -> int:
    """Paint and encode one part of a video; says how many frames it has."""
    plan, swapper = piece.plan(), piece.swapper()
    rules, use = piece.permitted(plan, "video")
    job, output = _begun(piece, plan, swapper)
    here = parts.Part(part.number, part.first, part.end)
    path = job.path(here)
    if not path.is_file():  # else it was painted here, and did not get into the store
        # Who was killed over it may have had this process's number, as is usual in containers.
        path.with_name(f".{path.name}.{os.getpid()}.part").unlink(missing_ok=True)
        with piece.spacious():
            piece.models.paint(
                job,
                here,
                output,
                swapper,
                plan,
                piece.marker(plan),
                options=piece.options,
                progress=piece.holding.progress,
                rules=rules,
                use=use,
                watch=piece.models.watch,
            )
    with tracks.Reader(job.tracks) as reader:
        pts = reader.pts
        until = len(pts) if part.end is None else int(pts.searchsorted(part.end))
        frames = until - int(pts.searchsorted(part.first))
    file, stored = piece.put(path, "part", path.name)
    with piece.or_drop(file):
        piece.surely(lambda: piece.jobs.painted(piece.task, file, stored, frames))
    return frames


def joined(piece: Piece, work: Path) -> tuple[Path, str]:
    """Put all parts together, and sign what they make; says what it is called, too."""
    plan, swapper = piece.plan(), piece.swapper()
    rules, _ = piece.permitted(plan, "video")
    job, output = _begun(piece, plan, swapper)
    marker, output = piece.marker(plan), work / output.name
    every: list[parts.Part] = []
    for row, stored in piece.done():
        part = parts.Part(row.number, row.first, row.end)
        piece.holding.check()
        piece.cached(job.path(part), stored)
        every.append(part)
    parts.join(
        job,
        output,
        every,
        swapper,
        options=piece.options,
        marker=marker,
        finish=credentials.signing_of(
            marker, people_of(plan), swapper.weights, job.target, rules.credentials
        ),
    )
    piece.holding.check()
    found = piece.job.plan
    policy.Run(rules, str(found["run"])).end(
        "made",
        output=output,
        **marker.account,
        frames=found["frames"],
        swapped=found["swapped"],
        tenant=piece.job.tenant,
        key=piece.job.key,
    )
    return output, Path(str(piece.asked["targets"][0]["name"])).stem + output.suffix


def _begun(piece: Piece, plan: SwapPlan, swapper: Swapper) -> tuple[parts.Job, Path]:
    """The job as it was followed, and what its result is called; its tracks are there.

    Raises:
        Lost: It was followed by other models, and begins anew.
    """
    found = piece.job.plan
    made = piece.folder / str(found["output_id"])
    made.mkdir(exist_ok=True)
    output = made / f"output{found['suffix']}"
    asked = asked_of(plan, swapper, piece.marker(plan), piece.options, output)
    if asked != found["asked"]:
        log.warning("job %s: begins anew, with other models", piece.job.id)
        piece.surely(lambda: piece.jobs.begin_anew(piece.task))
        raise Lost
    base = _fraction(found["time_base"])
    assert base is not None
    job = parts.Job(
        made,
        piece.target(0, found["targets"][0]),
        _fraction(found["start"]),
        _fraction(found["end"]),
        base,
        tuple(found["cuts"]),
        str(found["output_id"]),
    )
    piece.cached(job.tracks, piece.row(found["tracks"]).path)
    return job, output


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)


def _fraction(text: Any) -> Fraction | None:
    return None if text is None else Fraction(text)
