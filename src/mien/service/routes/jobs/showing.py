"""Jobs, listed and shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from mien.service.asking import Parts
from mien.service.database import Job
from mien.service.problems import documented
from mien.service.routes.fields import After, Limit, page
from mien.service.routes.jobs.answers import (
    Asks,
    JobList,
    JobOut,
    State,
    Which_,
    answer_of,
    answers_of,
)

router = APIRouter(tags=["jobs"])


@router.get("/jobs", responses=documented(), summary="List jobs")
def list_jobs(
    service: Parts,
    caller: Asks,
    state: Annotated[State | None, Query(description="Those alone.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> JobList:
    """The tenant's jobs, newest first."""
    with service.database(write=False) as rows:
        own = select(Job).where(Job.tenant == caller.tenant)
        only = [] if state is None else [Job.state == state]
        found, more = page(rows, own, Job.created, Job.id, limit, after, "job", only)
        return JobList(items=answers_of(rows, found), next=more)


@router.get("/jobs/{job}", responses=documented(), summary="Show a job")
def show_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """State, progress and time left of a job."""
    return answer_of(service, caller.tenant, job)
