"""What all work on the rows of jobs shares: states, claims, and who is next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from mien.service.database import Event, File, Job, Part

ALIVE: Final = ("queued", "running", "paused")


class Lost(Exception):
    """The lease ran out and another has the work, or the job is not to be worked on any more."""


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work that a worker claimed.

    Attributes:
        job: Its row, as it was then.
        stage: ``follow``, ``paint`` or ``join``.
        part: To be painted; None for the other stages.
        owner: Name of this claim alone.
    """

    job: Job
    stage: str
    part: Part | None
    owner: str


def waiting(rows: Session, now: float) -> list[str]:
    """Jobs that may have something to do, those of the least busy tenants first."""
    held = select(Job.tenant, func.count()).where(Job.lease > now).group_by(Job.tenant)
    painted = (
        select(Job.tenant, func.count())
        .join(Part, Part.job == Job.id)
        .where(Part.lease > now)
        .group_by(Job.tenant)
    )
    found = rows.execute(
        select(Job.id, Job.tenant)
        .where(
            Job.state.in_(ALIVE),
            or_(Job.due.is_(None), Job.due <= now),
            or_(Job.lease.is_(None), Job.lease < now),
        )
        .order_by(Job.created)
        .limit(1000)
    ).all()
    if len({tenant for _, tenant in found}) < 2:
        return [job for job, _ in found]
    busy: dict[str, int] = {}
    for query in (held, painted):
        for tenant, number in rows.execute(query):
            busy[tenant] = busy.get(tenant, 0) + int(number)
    return [job for job, _ in sorted(found, key=lambda row: busy.get(row[1], 0))]


def is_due(job: Job, now: float) -> bool:
    """The same for one job, after it was locked."""
    free = job.lease is None or job.lease < now
    return job.state in ALIVE and free and (job.due is None or job.due <= now)


def is_committed(rows: Session, file: File) -> bool:
    """Whether a file counts already."""
    row = rows.get(File, file.id)
    return row is not None and bool(row.sha256)


def locked(rows: Session, tenant: str, job: str) -> Job | None:
    """A tenant's job, which nobody else changes until the end of the transaction."""
    return rows.scalar(select(Job).where(Job.id == job, Job.tenant == tenant).with_for_update())


def step_done(job: Job) -> None:
    """The job's stage is done."""
    job.owner = job.lease = None
    job.attempt = job.deaths = 0


def let_go(job: Job, part: Part | None) -> None:
    """Others may have what was claimed."""
    had = job if part is None else part
    had.owner = had.lease = None
    if part is not None:
        part.state = "queued"


def note(rows: Session, job: Job, kind: str, data: dict[str, Any]) -> Event:
    """Write an event; the job's row is locked, so ids of its events grow as they are committed."""
    event = Event(tenant=job.tenant, job=job.id, kind=kind, data=data, at=time.time())
    rows.add(event)
    return event
