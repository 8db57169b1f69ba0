"""Pictures: each swapped by itself, and gathered."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from mien import media, pipeline
from mien.api.plans import by_person, made_of, people_of
from mien.errors import NoFace, UsageError
from mien.pipeline import Stream
from mien.provenance import credentials
from mien.service import problems
from mien.service.database import File, Part
from mien.service.executing.piece import Piece
from mien.service.files import Stored


def begin(piece: Piece, ids: list[str], fetched: list[tuple[File, Stored]]) -> None:
    """Let each picture be a part.

    Args:
        piece: The work.
        ids: Of the rows of their files.
        fetched: Those of them that were fetched just now and do not count yet.
    """
    most = piece.settings.limits.photos
    if len(ids) > most:
        raise UsageError(f"targets: at most {most} pictures")
    piece.permitted(piece.plan(), "photo")
    found: dict[str, Any] = {"kind": "images", "targets": ids}
    spans = [(number, None) for number in range(len(ids))]
    piece.surely(
        lambda: piece.jobs.followed(piece.task, found, spans, fetched, frames=0, total=len(ids))
    )


def swap(piece: Piece, part: Part) -> None:
    """Swap one picture."""
    plan, swapper = piece.plan(), piece.swapper()
    rules, use = piece.permitted(plan, "photo")
    target = piece.target(part.number, piece.job.plan["targets"][part.number])
    with piece.working("swap") as work:
        output = work / f"output{piece.suffix(target)}"
        marker = piece.marker(plan)
        with (
            media.open_source(target, limits=piece.models.limits) as source,
            rules.begin(people_of(plan), use, target) as run,
        ):
            info, enlarge = source.info, swapper.upscaler
            if enlarge is not None:
                enlarge.check(info.width, info.height, str(target))
            identify = by_person(plan)
            stream = Stream(swapper, identify=identify, still=True, rules=rules, use=use)
            stream.watch = piece.models.watch
            sink = media.open_sink(
                output,
                source,
                options=piece.options,
                metadata=marker.metadata(),
                size=None if enlarge is None else enlarge.size(info.width, info.height),
                finish=credentials.signing_of(
                    marker, people_of(plan), swapper.weights, target, rules.credentials
                ),
            )
            try:
                report = pipeline.run(source, sink, stream, plan, marker)
                if not report.swapped:
                    raise NoFace(f"{target}: no face that could be swapped was found")
                sink.close()
            except BaseException:
                sink.abort()
                raise
            run.end("made", output=output, tenant=piece.job.tenant, key=piece.job.key,
                    **made_of(report, marker))  # fmt: skip
        piece.holding.check()
        name = Path(str(piece.asked["targets"][part.number]["name"])).stem + output.suffix
        file, stored = piece.put(output, "part", name)
        with piece.or_drop(file):
            piece.surely(lambda: piece.jobs.painted(piece.task, file, stored, 1))


def gathered(piece: Piece, work: Path) -> tuple[Path, str]:
    """One picture as it is, several in a ZIP, under the names of the targets."""
    made = piece.done()
    if not made:
        with piece.jobs.database(write=False) as rows:
            first = rows.get(Part, (piece.job.id, 0))
        said = (first and first.problem) or {}
        raise problems.Problem(
            int(said.get("status", 422)),
            str(said.get("type", "urn:mien:problem:failed")).rpartition(":")[2],
            str(said.get("detail", "no picture could be swapped")),
        )
    names: dict[str, Path] = {}
    for row, stored in made:
        suffix = Path(stored).suffix
        stem = Path(str(piece.asked["targets"][row.number]["name"])).stem or "picture"
        name = f"{stem}{suffix}"
        if name in names:
            name = f"{stem}-{row.number + 1}{suffix}"
        names[name] = piece.cached(work / f"{row.number}{suffix}", stored)
    if len(piece.asked["targets"]) == 1:
        ((name, path),) = names.items()
        return path, name
    output = work / "output.zip"
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, path in names.items():
            archive.write(path, name)
    return output, f"{piece.asked['name'] or piece.job.id}.zip"
