"""The three stages of a job, whatever it is made of."""

from __future__ import annotations

import secrets

from mien import media
from mien.errors import UsageError
from mien.service.database import File
from mien.service.executing import pictures, video
from mien.service.executing.piece import Piece
from mien.service.fetching import fetch, name_of
from mien.service.files import Stored
from mien.service.settings import ServiceSettings


def follow(piece: Piece) -> None:
    """Fetch what lies elsewhere; of a video find and follow all faces, and cut it."""
    fetched: list[tuple[File, Stored]] = []
    ids: list[str] = []
    for number, target in enumerate(piece.asked["targets"]):
        piece.holding.check()
        if target["file"]:
            ids.append(str(target["file"]))
            continue
        found = _fetched(piece, number, str(target["url"]))
        fetched.append(found)
        ids.append(found[0].id)
    with piece.or_drop(*(file for file, _ in fetched)):
        paths = [piece.target(number, file) for number, file in enumerate(ids)]
        for path in paths:
            if path.stat().st_size > piece.settings.limits.body_bytes:
                raise UsageError(f"{path}: is too large")
        kinds = {media.kind_of(path) for path in paths}
        if kinds == {"image"}:
            pictures.begin(piece, ids, fetched)
        elif len(paths) == 1:
            video.follow(piece, paths[0], ids, fetched)
        else:
            raise UsageError("targets: expected one video, or pictures alone")


def _fetched(piece: Piece, number: int, url: str) -> tuple[File, Stored]:
    path = piece.folder / f".fetched-{number}-{secrets.token_hex(4)}"
    try:
        fetch(
            url,
            path,
            prefixes=piece.settings.url_prefixes,
            inner=piece.settings.inner_addresses,
            most=piece.settings.limits.body_bytes,
            progress=piece.holding.check,
            options=piece.settings.files_options if _same_store(piece.settings, url) else {},
        )
        return piece.put(path, "upload", name_of(url))
    finally:
        path.unlink(missing_ok=True)


def join(piece: Piece) -> None:
    """Put all parts together, and sign what they make."""
    with piece.working("join") as work:
        if piece.job.plan["kind"] == "video":
            output, name = video.joined(piece, work)
        else:
            output, name = pictures.gathered(piece, work)
        file, stored = piece.put(output, "result", name)
        with piece.or_drop(file):
            piece.surely(lambda: piece.jobs.joined(piece.task, file, stored))


def _same_store(settings: ServiceSettings, url: str) -> bool:
    """Whether the operator's options of the store are for this address, too."""
    return url.partition("://")[0] == settings.files_url.partition("://")[0]
