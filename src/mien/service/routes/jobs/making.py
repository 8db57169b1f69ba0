"""How jobs are begun: what came with a request is looked at, kept, and put into the rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, File, Form, Response, UploadFile
from sqlalchemy.exc import SQLAlchemyError

from mien import policy
from mien.errors import MediaError, MienError
from mien.service import addresses, database, people
from mien.service.asking import Parts, Route, Service, keep, scratch
from mien.service.database import Job
from mien.service.fetching import check as check_url
from mien.service.fetching import name_of
from mien.service.files import Stored
from mien.service.jobs import Jobs
from mien.service.keys import Caller
from mien.service.limits import check_bytes, check_jobs
from mien.service.outages import is_full
from mien.service.problems import Problem, documented, no_space
from mien.service.problems import of as problem_of
from mien.service.routes.fields import (
    FACES,
    ID,
    TEXT,
    Generator,
    LabelLanguage,
    LabelPreset,
    MarksOff,
    Note,
    Once,
    created,
    marks_of,
    sha256_of,
    which_of,
)
from mien.service.routes.jobs.answers import Asks, JobOut, answer_of, jobs_of, store_gone
from mien.service.routes.jobs.permitting import check_standing, permit
from mien.service.webhooks import key_of, new_secret
from mien.types import Identity, TargetBasis

router = APIRouter(tags=["jobs"], route_class=Route)

MOST_RULES: Final = 16


Seconds = Annotated[float | None, Form(ge=0, le=1e6, allow_inf_nan=False)]


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
    target_note: Note = "",
    start: Seconds = None,
    end: Seconds = None,
    format: Annotated[
        Literal["mp4", "mov", "jpeg", "png", "webp"] | None,
        Form(description="Of the result; none for the target's own, where it can be that."),
    ] = None,
    quality: Annotated[
        int | None, Form(ge=1, le=100, description="CRF of a video; of JPEG and WebP 1 to 100.")
    ] = None,
    generator: Generator = None,
    label_language: LabelLanguage = None,
    label_preset: LabelPreset = None,
    marks_off: MarksOff = None,
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
        said["files"] = [(_name(one), sha256_of(one)) for one in files]

    def work() -> dict[str, Any]:
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
        made = answer_of(service, caller.tenant, job.id).model_dump(mode="json")
        return made | {"webhook_secret": secret}

    return created(service, caller, "/v1/jobs", again, said, work)


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
    from mien.service.examining import examine, limits_of  # noqa: PLC0415 - OpenCV, PyAV

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
        permit(service, caller, whose, "video" if video else "photo", asked)
        job.asked = asked | {"targets": said}
        with service.database() as rows:
            check_jobs(service, rows, caller)
            check_bytes(service, rows, caller, sum(one.size for _, one in stored))
            check_standing(rows, job)
            for file, put in stored:
                jobs.count(rows, file, put)
            jobs.add(rows, job)
            policy.load().note(  # what cannot be written down is not begun
                "job", job=job.id, tenant=caller.tenant, key=caller.key,
                identities=job.identities.split(","),
            )  # fmt: skip
    except BaseException:
        for file, _ in stored:
            _drop(jobs, file)
        raise


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
        Problem: 503: it is away; 507: it is full.
    """
    file = jobs.announce(caller.tenant, job.id, kind, name, path.suffix.lower())
    try:
        stored.append((file, jobs.files.put(file.path, path)))
    except MediaError as error:
        _drop(jobs, file)
        raise (no_space() if is_full(error) else store_gone()) from error
    return file


def _drop(jobs: Jobs, file: database.File) -> None:
    with suppress(SQLAlchemyError):  # it expires anyway
        jobs.discard(file)


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
