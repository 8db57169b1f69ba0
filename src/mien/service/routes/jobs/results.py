"""What a job made: whole files, or ranges of their bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from mien.errors import MediaError
from mien.service import database
from mien.service.asking import Parts, Service
from mien.service.jobs import ALIVE
from mien.service.keys import Caller
from mien.service.problems import Problem, documented
from mien.service.routes.jobs.answers import Asks, Which_, find, store_gone

router = APIRouter(tags=["jobs"])

_BYTES: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_TYPES: Final = (
    "video/mp4", "video/quicktime", "image/jpeg", "image/png", "image/webp", "application/zip",
)  # fmt: skip
_WHOLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": dict.fromkeys(_TYPES, _BYTES)},
    206: {"description": "A part of it.", "content": dict.fromkeys(_TYPES, _BYTES)},
    304: {"description": "It is the one that `If-None-Match` names."},
}
_TRACKS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": said["description"], "content": {"application/octet-stream": _BYTES}}
    if status != 304
    else said
    for status, said in _WHOLE.items()
}

Range = Annotated[str | None, Header(max_length=1000, examples=["bytes=0-1023"])]
Tag = Annotated[str | None, Header(max_length=1000)]


@router.head("/jobs/{job}/result", include_in_schema=False)
@router.get(
    "/jobs/{job}/result",
    response_class=Response,
    responses=_WHOLE | documented(409, 410, 416),
    summary="Get a job's result",
)
def job_result(  # noqa: PLR0917
    service: Parts,
    caller: Asks,
    job: Which_,
    range: Range = None,
    if_range: Tag = None,
    if_none_match: Tag = None,
) -> Response:
    """The video, the picture, or a ZIP with several; or a range of its bytes."""
    return _file(service, caller, job, "result", range, if_range, if_none_match)


@router.head("/jobs/{job}/tracks", include_in_schema=False)
@router.get(
    "/jobs/{job}/tracks",
    response_class=Response,
    responses=_TRACKS | documented(409, 410, 416),
    summary="Get the faces of a job's video",
)
def job_tracks(  # noqa: PLR0917
    service: Parts,
    caller: Asks,
    job: Which_,
    range: Range = None,
    if_range: Tag = None,
    if_none_match: Tag = None,
) -> Response:
    """Where faces are in each frame; `mien faces` shows and corrects the file."""
    return _file(service, caller, job, "tracks", range, if_range, if_none_match)


def _file(  # noqa: PLR0917
    service: Service,
    caller: Caller,
    job: str,
    kind: str,
    wanted: str | None,
    if_range: str | None,
    if_none_match: str | None,
) -> Response:
    with service.database(write=False) as rows:
        found = find(rows, caller.tenant, job)
        query = select(database.File).where(
            database.File.job == job,
            database.File.tenant == caller.tenant,
            database.File.kind == kind,
            database.File.sha256 != "",
        )
        file = rows.scalar(query)
    if kind == "result" and found.state != "done":
        raise Problem(409, "not-done", f"the job is {found.state}")
    if file is None or (file.expires is not None and file.expires <= time.time()):
        if found.state in ALIVE:
            raise Problem(409, "not-done", f"the job is {found.state}")
        raise Problem(410, "expired", f"the {kind} of the job is gone")
    tag = f'"{file.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
        "Cache-Control": "private, no-cache",
    }
    if if_none_match is not None and tag in [t.strip() for t in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, file.size, 200
    if wanted is not None and (if_range is None or if_range == tag):
        span = span_of(wanted, file.size)
        if span is not None:
            start, end = span
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - start)
    blocks = service.files.read(file.path, start, end)
    try:
        first = next(blocks, b"")  # what cannot be read is known before the status is sent
    except MediaError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise Problem(410, "expired", f"the {kind} of the job is gone") from error
        raise store_gone() from error
    return StreamingResponse(_blocks(first, blocks), status, headers, media_type=file.media_type)


def _blocks(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def span_of(text: str, size: int) -> tuple[int, int] | None:
    """The bytes that a field ``Range`` asks for (RFC 9110, 14.1.2); None for the whole file.

    Several ranges at once are answered with the whole, as are fields of another form.

    Raises:
        Problem: 416: there are no such bytes.
    """
    unit, _, said = text.partition("=")
    first, dash, last = said.strip().partition("-")
    first, last = first.strip(), last.strip()
    digits = all(not t or (t.isascii() and t.isdecimal()) for t in (first, last))
    if unit.strip().lower() != "bytes" or not dash or not digits or not (first or last):
        return None
    if first and last and int(first) > int(last):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size or (not first and not int(last)):
        raise Problem(416, "range", f"the file has {size} bytes",
                      headers={"Content-Range": f"bytes */{size}"})  # fmt: skip
    return start, end
