"""Videos and pictures, swapped in the background."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Header, Query, Response, UploadFile
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from mien import policy
from mien.errors import MediaError, MienError, Refused
from mien.service import addresses, database, people
from mien.service.asking import Parts, Route, Service, asks, keep, scratch
from mien.service.database import Event, Job, Part, Person
from mien.service.examining import examine, limits_of
from mien.service.fetching import check as check_url
from mien.service.fetching import name_of
from mien.service.files import Stored
from mien.service.jobs import ALIVE, Jobs
from mien.service.keys import Caller
from mien.service.limits import check_bytes, check_jobs, fingerprint, once
from mien.service.problems import Details, Problem, documented, missing
from mien.service.problems import of as problem_of
from mien.service.routes.identities import ID, TEXT, Once, which_of
from mien.service.routes.swaps import FACES, Mark, marks_of
from mien.service.webhooks import key_of, new_secret
from mien.types import Consent, Identity, TargetBasis

router = APIRouter(tags=["jobs"], route_class=Route)

MOST_RULES: Final = 16

LOOK: Final = 0.5
"""Seconds between two looks at the rows for somebody who follows events."""

QUIET: Final = 15.0
"""Seconds after which something is said even if nothing happens, so that lines stay open."""

EXAMPLE: Final[dict[str, Any]] = {
    "id": "5d0c4d6f9c1b1f6d2a9f4e110f5e2ab0",
    "name": "take 3",
    "kind": "video",
    "state": "running",
    "stage": "paint",
    "identities": ["0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11"],
    "targets": ["clip.mp4"],
    "progress": {"done": 300, "total": 500, "fraction": 0.6, "seconds_left": 12.5},
    "created": "2031-05-02T10:00:00Z",
    "started": "2031-05-02T10:00:01Z",
    "ended": None,
    "problem": None,
    "output_id": "1a2b3c4d",
    "found": {"frames": 250, "swapped": 248, "faces": 248, "damaged": 0},
    "items": [],
    "result": None,
    "tracks": True,
    "webhook": None,
    "webhook_secret": None,
}

Asks = Annotated[Caller, Depends(asks("jobs"))]
Which_ = Annotated[str, InPath(description="Id of a job.", pattern=ID)]
State = Literal["queued", "running", "paused", "done", "failed", "canceled"]
Seconds = Annotated[float | None, Form(ge=0, le=1e6, allow_inf_nan=False)]


class Progress(BaseModel):
    """How far a job is. The faces of a video are found first, so its frames count twice."""

    done: int
    total: int | None = Field(description="Null until it is known.")
    fraction: float = Field(ge=0, le=1)
    seconds_left: float | None = Field(description="An estimate; null where there is none.")


class Found(BaseModel):
    """What was found in a video."""

    frames: int
    swapped: int = Field(description="Frames in which a face is replaced.")
    faces: int = Field(description="Faces that are replaced, in all frames together.")
    damaged: int = Field(description="Frames that could not be decoded, and are left out.")


class Item(BaseModel):
    """One picture of several."""

    name: str
    state: Literal["queued", "running", "done", "failed"]
    problem: Details | None


class ResultOut(BaseModel):
    """The file that was made."""

    name: str
    media_type: str
    size: int
    sha256: str
    expires: datetime = Field(description="It is gone then.")


class JobOut(BaseModel):
    """A job."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

    id: str
    name: str
    kind: Literal["video", "images"]
    state: State = Field(description="`paused` waits for a disk or a store, and goes on by itself.")
    stage: Literal["follow", "paint", "join"]
    identities: list[str]
    targets: list[str]
    progress: Progress
    created: datetime
    started: datetime | None
    ended: datetime | None
    problem: Details | None = Field(description="Why it failed, is paused or was stopped.")
    output_id: str = Field(description="In the watermark of a video; empty until it is known.")
    found: Found | None
    items: list[Item] = Field(description="Of a job with pictures.")
    result: ResultOut | None
    tracks: bool = Field(description="Whether the faces that were followed can be had.")
    webhook: str | None
    webhook_secret: str | None = Field(
        None, description="In the answer to the request that made the job alone."
    )


class JobList(BaseModel):
    """Some jobs, newest first."""

    model_config = {"json_schema_extra": {"examples": [{"items": [EXAMPLE], "next": None}]}}

    items: list[JobOut]
    next: str | None = Field(description="For `after`, if there are more.")


def jobs_of(service: Service) -> Jobs:
    """The jobs of a service."""
    settings = service.settings
    return Jobs(service.database, service.files, settings.keep, settings.lease_seconds)


def ended(service: Service, tenant: str, identity: str) -> None:
    """Stop the jobs that show somebody who was revoked, and remove what they made."""
    jobs_of(service).revoked(tenant, identity)


# --- create --------------------------------------------------------------------------------------


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobOut,
    responses=documented(409, 507),
    summary="Begin a job",
)
def create_job(  # noqa: PLR0917
    service: Parts,
    caller: Asks,
    identity: Annotated[
        list[Annotated[str, Form(pattern=ID)]],
        Form(description="Whose faces; several for several people.", min_length=1),
    ],
    target: Annotated[
        list[UploadFile] | None,
        File(description="One video, or pictures; or send `url`."),
    ] = None,
    url: Annotated[
        list[Annotated[str, Form(max_length=addresses.LONGEST, pattern=TEXT)]] | None,
        Form(description="Where targets lie, if the operator allows it: https or s3."),
    ] = None,
    faces: Annotated[
        list[Annotated[str, Form(pattern=FACES)]] | None,
        Form(
            description="For each identity all, largest, left, right, or the number of a track "
            "(of a picture: from the left). One for all: all."
        ),
    ] = None,
    name: Annotated[str, Form(max_length=200, pattern=TEXT, examples=["take 3"])] = "",
    target_consent: Annotated[
        TargetBasis | None,
        Form(description="On what the use of the targets rests, for who is replaced."),
    ] = None,
    target_note: Annotated[str, Form(max_length=1000, pattern=TEXT)] = "",
    start: Seconds = None,
    end: Seconds = None,
    format: Annotated[
        Literal["mp4", "mov", "jpeg", "png", "webp"] | None,
        Form(description="Of the result; none for the target's own, where it can be that."),
    ] = None,
    quality: Annotated[
        int | None, Form(ge=1, le=100, description="CRF of a video; of JPEG and WebP 1 to 100.")
    ] = None,
    generator: Annotated[
        str | None,
        Form(max_length=100, pattern=TEXT, description="One that `/v1/models` lists."),
    ] = None,
    label_language: Annotated[
        str | None, Form(max_length=20, pattern=TEXT, examples=["de"])
    ] = None,
    label_preset: Annotated[Literal["usual", "regulated"] | None, Form()] = None,
    marks_off: Annotated[
        list[Mark] | None, Form(description="Marks to leave out, where the policy allows it.")
    ] = None,
    tracks: Annotated[
        UploadFile | None,
        File(description="Faces of the video, followed before and perhaps corrected."),
    ] = None,
    webhook: Annotated[
        str | None,
        Form(
            max_length=addresses.LONGEST,
            pattern=TEXT,
            description="Called when the job ends.",
            examples=["https://example.com/mien"],
        ),
    ] = None,
    webhook_secret: Annotated[
        str | None,
        Form(
            max_length=100,
            pattern=TEXT,
            description="`whsec_` and the Base64 of 24 to 64 random bytes; made if none is sent.",
        ),
    ] = None,
    again: Once = None,
) -> Response:
    """Swap the faces of a video, or of pictures, in the background.

    What can be seen to be wrong with the targets is answered at once; the rest is the job's
    `problem`. A video is worked on in parts that stay done, whatever happens to the servers.
    """
    uploads, urls = target or [], url or []
    rules = _rules(identity, faces)
    _check_targets(service, uploads, urls)
    secret = None
    if webhook is not None:
        addresses.check(
            webhook,
            what="webhook",
            prefixes=service.settings.webhook_prefixes,
            inner=service.settings.inner_addresses,
        )
        secret = webhook_secret or new_secret()
        key_of(secret)
    marks = marks_of(service, label_language, label_preset, marks_off or ())
    asked: dict[str, Any] = {
        "name": name,
        "rules": rules,
        "target_consent": target_consent,
        "target_note": target_note,
        "start": start,
        "end": end,
        "format": format,
        "quality": quality,
        "generator": generator or "",
        "marks": asdict(marks),
        "webhook": None if webhook is None else {"url": webhook, "secret": secret},
    }
    _check_generator(service, generator)
    said = asked | {"urls": urls, "webhook": webhook, "secret": webhook_secret}
    if again is not None:
        files = [*uploads, *([tracks] if tracks else [])]
        said["files"] = [(_name(one), _sha256(one)) for one in files]

    def work() -> tuple[int, dict[str, Any]]:
        whose = {rule["identity"]: None for rule in rules}
        who = people.People(service.database, people.seal_key(service.settings))
        faces_of = [who.get(caller.tenant, one) for one in whose]
        job = Job(
            id=database.new_id(),
            tenant=caller.tenant,
            key=caller.key,
            kind="video",
            identities=",".join(whose),
        )
        _keep_targets(service, caller, job, asked, uploads, urls, tracks, faces_of)
        return 201, _made(service, job, secret)

    status, body, repeated = once(
        service, caller, again, fingerprint("POST", "/v1/jobs", said), work
    )
    headers = {"Location": f"/v1/jobs/{body['id']}"}
    if repeated:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(body, status, headers)


def _rules(identities: Sequence[str], faces: Sequence[str] | None) -> list[dict[str, Any]]:
    """Who goes where.

    Raises:
        Problem: 422.
    """
    said = list(faces or ["all"])
    if len(said) == 1:
        said *= len(identities)
    if len(said) != len(identities) or len(identities) > MOST_RULES:
        why = f"expected one for each identity, of which there may be {MOST_RULES}"
        raise Problem(422, "invalid", f"faces: {why}", errors=[("body.faces", why)])
    return [
        {"identity": one, "faces": which_of(where)}
        for one, where in zip(identities, said, strict=True)
    ]


def _check_targets(service: Service, uploads: Sequence[UploadFile], urls: Sequence[str]) -> None:
    """See that there are targets, and that their addresses are allowed.

    Raises:
        Problem: 422.
        MienError: An address is not allowed.
    """
    most = service.settings.limits.photos
    if not 0 < len(uploads) + len(urls) <= most:
        why = f"expected one video, or 1 to {most} pictures, as target or url"
        raise Problem(422, "invalid", f"target: {why}", errors=[("body.target", why)])
    settings = service.settings
    for one in urls:
        check_url(one, prefixes=settings.url_prefixes, inner=settings.inner_addresses)


def _check_generator(service: Service, generator: str | None) -> None:
    known = dict.fromkeys((service.chain.generator, *service.settings.generators))
    if generator and generator not in known:
        why = f"expected one of {', '.join(known)}"
        raise Problem(422, "invalid", f"generator: {why}", errors=[("body.generator", why)])


def _keep_targets(  # noqa: PLR0917
    service: Service,
    caller: Caller,
    job: Job,
    asked: dict[str, Any],
    uploads: Sequence[UploadFile],
    urls: Sequence[str],
    tracks: UploadFile | None,
    whose: Sequence[Identity],
) -> None:
    """Look at what came, put it into the store, and let the job be there."""
    jobs, kinds = jobs_of(service), set[str]()
    limits = limits_of(service.settings, service.chain)
    stored: list[tuple[database.File, Stored]] = []
    said: list[dict[str, Any]] = []
    try:
        with scratch(service) as folder:
            for number, upload in enumerate(uploads):
                name = _name(upload)
                path = keep(upload, folder / f"target-{number}{PurePosixPath(name).suffix[:8]}")
                try:
                    kinds.add(
                        examine(
                            path,
                            folder,
                            limits,
                            service.settings.limits.seconds,
                            format=asked["format"],
                            start=asked["start"],
                            end=asked["end"],
                        )
                    )
                except MienError as error:
                    raise _named(error, path, name, folder) from error
                file = _stored(jobs, caller, job, "upload", path, name, stored)
                said.append({"name": name, "file": file.id, "url": None})
            for one in urls:
                name = name_of(one)[:255]
                said.append({"name": name, "file": None, "url": one})
            if tracks is not None:
                from mien.tracks import Reader  # noqa: PLC0415 - NumPy's ZIP

                path = keep(tracks, folder / "tracks.npz")
                try:
                    Reader(path).close()
                except MienError as error:
                    raise _named(error, path, "tracks", folder) from error
                file = _stored(jobs, caller, job, "upload", path, "tracks.npz", stored)
                asked["tracks"] = file.id
        if "video" in kinds and len(said) > 1:
            why = "expected one video, or pictures alone"
            raise Problem(422, "invalid", f"target: {why}", errors=[("body.target", why)])
        video = "image" not in kinds
        job.kind = "video" if video else "images"
        _permit(service, caller, whose, "video" if video else "photo", asked)
        job.asked = asked | {"targets": said}
        with service.database() as rows:
            check_jobs(service, rows, caller)
            check_bytes(service, rows, caller, sum(one.size for _, one in stored))
            _check_standing(rows, job)
            for file, put in stored:
                jobs.count(rows, file, put)
            jobs.add(rows, job)
    except BaseException:
        for file, _ in stored:
            jobs.discard(file)
        raise
    policy.load().note(
        "job", job=job.id, tenant=caller.tenant, key=caller.key,
        identities=job.identities.split(","),
    )  # fmt: skip


def _stored(  # noqa: PLR0917
    jobs: Jobs,
    caller: Caller,
    job: Job,
    kind: str,
    path: Path,
    name: str,
    stored: list[tuple[database.File, Stored]],
) -> database.File:
    """Put a file into the store.

    Raises:
        Problem: 503: it is away or full.
    """
    file = jobs.announce(caller.tenant, job.id, kind, name, path.suffix.lower())
    try:
        stored.append((file, jobs.files.put(file.path, path)))
    except MediaError as error:
        jobs.discard(file)
        raise store_gone() from error
    return file


def store_gone() -> Problem:
    """503: it will be back."""
    return Problem(503, "store", "the store of files cannot be reached", retry_after=10)


def _permit(
    service: Service,
    caller: Caller,
    whose: Sequence[Identity],
    kind: Literal["video", "photo"],
    asked: dict[str, Any],
) -> None:
    """Ask the policy, and the consents.

    Raises:
        Refused: They do not allow it.
    """
    from mien.provenance import Marks  # noqa: PLC0415 - OpenCV

    basis = asked["target_consent"]
    people.Watch(service.database).permit(whose, kind)
    policy.load().permit(
        whose,
        policy.Use(
            kind,
            target_consent=None if basis is None else Consent(basis, asked["target_note"]),
            marks=Marks(**asked["marks"]),
            user=caller.tenant,
        ),
    )


def _check_standing(rows: Any, job: Job) -> None:
    """See that nobody was revoked meanwhile; who revokes waits for this, and finds the job.

    Raises:
        Refused: Somebody was.
    """
    wanted = sorted(set(job.identities.split(",")))
    query = select(Person).where(Person.id.in_(wanted), Person.tenant == job.tenant)
    stand = [p.id for p in rows.scalars(query.with_for_update()) if p.revoked is None]
    if sorted(stand) != wanted:
        raise Refused("the consent was withdrawn (rule consent.revoked)")


def _named(error: MienError, path: Path, name: str, folder: Path) -> Problem:
    """An error with the caller's name of the file."""
    said = problem_of(error)
    detail = str(said.detail).replace(str(path), name).replace(path.name, name)
    detail = detail.replace(f"{folder}/", "")
    field = "body.tracks" if name == "tracks" else "body.target"
    return Problem(said.status_code, said.name, detail, errors=[(field, detail)])


def _name(upload: UploadFile) -> str:
    """What a file is called, without folders and what cannot be printed."""
    name = PurePosixPath((upload.filename or "").replace("\\", "/")).name
    return "".join(c for c in name if c.isprintable())[-200:] or "target"


def _sha256(upload: UploadFile) -> str:
    digest = hashlib.file_digest(upload.file, "sha256").hexdigest()  # type: ignore[arg-type]
    upload.file.seek(0)
    return digest


def _made(service: Service, job: Job, secret: str | None) -> dict[str, Any]:
    return _shown_by_id(service, job.tenant, job.id).model_dump(mode="json") | {
        "webhook_secret": secret
    }


# --- show ----------------------------------------------------------------------------------------


@router.get("/jobs", responses=documented(), summary="List jobs")
def list_jobs(
    service: Parts,
    caller: Asks,
    state: Annotated[State | None, Query(description="Those alone.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    after: Annotated[str | None, Query(pattern=ID, description="From `next`.")] = None,
) -> JobList:
    """The tenant's jobs, newest first."""
    with service.database(write=False) as rows:
        query = select(Job).where(Job.tenant == caller.tenant)
        if after is not None:
            last = rows.scalar(query.where(Job.id == after))
            if last is None:
                raise Problem(422, "invalid", "after: there is no such job",
                              errors=[("query.after", "there is none")])  # fmt: skip
            query = query.where(
                (Job.created < last.created) | ((Job.created == last.created) & (Job.id < last.id))
            )
        if state is not None:
            query = query.where(Job.state == state)
        found = list(
            rows.scalars(query.order_by(Job.created.desc(), Job.id.desc()).limit(limit + 1))
        )
        items = _shown(rows, found[:limit])
    return JobList(items=items, next=found[limit - 1].id if len(found) > limit else None)


@router.get("/jobs/{job}", responses=documented(), summary="Show a job")
def show_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """State, progress and time left of a job."""
    return _shown_by_id(service, caller.tenant, job)


def _shown_by_id(service: Service, tenant: str, job: str) -> JobOut:
    with service.database(write=False) as rows:
        return _shown(rows, [_row(rows, tenant, job)])[0]


def _row(rows: Any, tenant: str, job: str) -> Job:
    """A job of a tenant.

    Raises:
        Problem: 404.
    """
    found: Job | None = rows.scalar(select(Job).where(Job.id == job, Job.tenant == tenant))
    if found is None:
        raise missing("job")
    return found


def _shown(rows: Any, jobs: Sequence[Job]) -> list[JobOut]:
    """Jobs as they are sent."""
    ids, now = [job.id for job in jobs], time.time()
    painted = _painted(rows, ids)
    parts: dict[str, list[Part]] = {}
    pictures = [job.id for job in jobs if job.plan.get("kind") == "images"]
    for part in rows.scalars(select(Part).where(Part.job.in_(pictures)).order_by(Part.number)):
        parts.setdefault(part.job, []).append(part)
    made: dict[tuple[str, str], database.File] = {}
    query = select(database.File).where(
        database.File.job.in_(ids),
        database.File.kind.in_(("result", "tracks")),
        database.File.sha256 != "",
        database.File.expires.is_(None) | (database.File.expires > now),
    )
    for file in rows.scalars(query):
        made[str(file.job), file.kind] = file
    return [_one(job, painted.get(job.id, 0), parts.get(job.id, []), made) for job in jobs]


def _painted(rows: Any, jobs: Sequence[str]) -> dict[str, int]:
    """Job → frames that were painted."""
    query = select(Part.job, func.sum(Part.frames)).where(Part.job.in_(jobs)).group_by(Part.job)
    return {job: int(frames) for job, frames in rows.execute(query)}


def _one(
    job: Job,
    painted: int,
    parts: Sequence[Part],
    made: dict[tuple[str, str], database.File],
) -> JobOut:
    asked, result = job.asked, made.get((job.id, "result"))
    names = [str(target["name"]) for target in asked["targets"]]
    return JobOut.model_validate(
        {
            "id": job.id,
            "name": asked["name"],
            "kind": job.kind,
            "state": job.state,
            "stage": job.stage,
            "identities": job.identities.split(","),
            "targets": names,
            "progress": progress_of(job, painted),
            "created": _time(job.created),
            "started": _time(job.started),
            "ended": _time(job.ended),
            "problem": job.problem,
            "output_id": job.output_id,
            "found": job.plan if "frames" in job.plan else None,
            "items": [
                {"name": name, "state": part.state, "problem": part.problem}
                for name, part in zip(names, parts, strict=False)
            ],
            "result": None
            if result is None or job.state != "done"
            else {
                "name": result.name,
                "media_type": result.media_type,
                "size": result.size,
                "sha256": result.sha256,
                "expires": _time(result.expires),
            },
            "tracks": (job.id, "tracks") in made,
            "webhook": (asked.get("webhook") or {}).get("url"),
        }
    )


def progress_of(job: Job, painted: int) -> dict[str, Any]:
    """How far a job is, from its row and the frames that were painted."""
    done = job.done
    if job.stage != "follow" and job.state != "done":
        done += painted
    total = job.total
    done = done if total is None else min(done, total)
    left = None
    if job.state == "running" and job.started is not None and total and done:
        left = round((time.time() - job.started) / done * (total - done), 1)
    fraction = done / total if total else float(job.state == "done")
    return {
        "done": done, "total": total, "fraction": round(fraction, 4), "seconds_left": left,
    }  # fmt: skip


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


# --- change --------------------------------------------------------------------------------------


@router.post("/jobs/{job}/cancel", responses=documented(409), summary="Cancel a job")
def cancel_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """Stop a job within seconds; it can be retried until its uploads expire."""
    found = jobs_of(service).cancel(caller.tenant, job)
    if found is None:
        raise missing("job")
    if found.state != "canceled":
        raise Problem(409, "ended", f"the job is {found.state} already")
    return _shown_by_id(service, caller.tenant, job)


@router.post("/jobs/{job}/retry", responses=documented(409, 410), summary="Retry a job")
def retry_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """Let a job that failed or was canceled go on; parts that are done stay done."""
    with service.database(write=False) as rows:
        found = _row(rows, caller.tenant, job)
    who = people.People(service.database, people.seal_key(service.settings))
    whose = [who.get(caller.tenant, one) for one in found.identities.split(",")]
    _permit(service, caller, whose, "video" if found.kind == "video" else "photo", found.asked)
    with service.database() as rows:
        row = rows.scalar(select(Job).where(Job.id == found.id).with_for_update())
        if row is None:
            raise missing("job")
        if row.state not in ("failed", "canceled"):
            raise Problem(409, "state", f"the job is {row.state}")
        check_jobs(service, rows, caller)
        _check_standing(rows, row)
        if not jobs_of(service).retry(rows, row):
            raise Problem(410, "expired", "the uploads of the job have expired; send them again")
    return _shown_by_id(service, caller.tenant, job)


@router.delete(
    "/jobs/{job}",
    status_code=204,
    response_class=Response,
    responses=documented(),
    summary="Remove a job",
)
def delete_job(service: Parts, caller: Asks, job: Which_) -> Response:
    """Stop a job, and remove its uploads, its result and all that is known of it."""
    if not jobs_of(service).remove(caller.tenant, job):
        raise missing("job")
    return Response(status_code=204)


# --- files ---------------------------------------------------------------------------------------

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
        found = _row(rows, caller.tenant, job)
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


# --- events --------------------------------------------------------------------------------------


@router.get(
    "/jobs/{job}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `created`, `running`, `followed`, `part`, `paused`,"
            " `again`, `anew`, `done`, `failed`, `canceled`, `removed`, each with an id; and"
            " `progress`, without.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(),
    },
    summary="Follow a job",
)
def job_events(
    service: Parts,
    caller: Asks,
    job: Which_,
    last_event_id: Annotated[
        str | None, Header(description="Goes on behind that event.", max_length=30)
    ] = None,
) -> Response:
    """What happens to a job, as it happens; ends with the job."""
    with service.database(write=False) as rows:
        _row(rows, caller.tenant, job)
    said = last_event_id or ""
    after = int(said) if said.isascii() and said.isdecimal() and len(said) < 19 else 0
    return StreamingResponse(
        _events(service, caller.tenant, job, after), media_type="text/event-stream"
    )


async def _events(service: Service, tenant: str, job: str, after: int) -> AsyncIterator[str]:
    """Events as text; whoever was cut off comes again, and says which was the last."""
    yield "retry: 2000\n\n"
    last, quiet = "", time.monotonic()
    while True:
        try:
            state, progress, events = await asyncio.to_thread(_look, service, tenant, job, after)
        except (SQLAlchemyError, Problem):  # the database is away, or the job was removed
            return
        for number, kind, data in events:
            after = number
            yield f"id: {number}\nevent: {kind}\ndata: {data}\n\n"
        moved = progress != last and state in ALIVE
        if moved:
            last = progress
            yield f"event: progress\ndata: {progress}\n\n"
        elif not events and time.monotonic() - quiet > QUIET:
            quiet = time.monotonic()
            yield ": nothing yet\n\n"
        if moved or events:
            quiet = time.monotonic()
        elif state not in ALIVE:
            return
        await asyncio.sleep(LOOK if state in ALIVE else 0)


def _look(
    service: Service, tenant: str, job: str, after: int
) -> tuple[str, str, list[tuple[int, str, str]]]:
    with service.database(write=False) as rows:
        found = _row(rows, tenant, job)
        painted = _painted(rows, [job]).get(job, 0)
        query = select(Event).where(Event.job == job, Event.tenant == tenant, Event.id > after)
        events = [
            (event.id, event.kind, json.dumps(event.data | {"at": event.at}))
            for event in rows.scalars(query.order_by(Event.id).limit(500))
        ]
        progress = progress_of(found, painted)
    return found.state, json.dumps(progress), events
