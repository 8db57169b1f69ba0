"""What is said of a job: its state, progress, problem and result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Depends
from fastapi import Path as InPath
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from mien.service import database
from mien.service.asking import Service, asks
from mien.service.database import Job, Part
from mien.service.jobs import Jobs
from mien.service.keys import Caller
from mien.service.problems import Details, Problem, missing
from mien.service.routes.fields import ID, moment

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


def store_gone() -> Problem:
    """503: it will be back."""
    return Problem(503, "store", "the store of files cannot be reached", retry_after=10)


def answer_of(service: Service, tenant: str, job: str) -> JobOut:
    """A job of a tenant, by its id.

    Raises:
        Problem: 404.
    """
    with service.database(write=False) as rows:
        return answers_of(rows, [find(rows, tenant, job)])[0]


def find(rows: Any, tenant: str, job: str) -> Job:
    """A job of a tenant.

    Raises:
        Problem: 404.
    """
    found: Job | None = rows.scalar(select(Job).where(Job.id == job, Job.tenant == tenant))
    if found is None:
        raise missing("job")
    return found


def answers_of(rows: Any, jobs: Sequence[Job]) -> list[JobOut]:
    """Jobs as they are sent."""
    ids, now = [job.id for job in jobs], time.time()
    painted = frames_painted(rows, ids)
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


def frames_painted(rows: Any, jobs: Sequence[str]) -> dict[str, int]:
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
            "created": moment(job.created),
            "started": moment(job.started),
            "ended": moment(job.ended),
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
                "expires": moment(result.expires),
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
