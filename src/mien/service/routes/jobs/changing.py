"""Jobs, canceled, taken up again and removed."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy import select

from mien.service import people
from mien.service.asking import Parts, Service
from mien.service.database import Job
from mien.service.limits import check_jobs
from mien.service.problems import Problem, documented, missing
from mien.service.routes.jobs.answers import Asks, JobOut, Which_, answer_of, find, jobs_of
from mien.service.routes.jobs.permitting import check_standing, permit

router = APIRouter(tags=["jobs"])


def ended(service: Service, tenant: str, identity: str) -> None:
    """Stop the jobs that show somebody who was revoked, and remove what they made."""
    jobs_of(service).revoked(tenant, identity)


@router.post("/jobs/{job}/cancel", responses=documented(409), summary="Cancel a job")
def cancel_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """Stop a job within seconds; it can be retried until its uploads expire."""
    found = jobs_of(service).cancel(caller.tenant, job)
    if found is None:
        raise missing("job")
    if found.state != "canceled":
        raise Problem(409, "ended", f"the job is {found.state} already")
    return answer_of(service, caller.tenant, job)


@router.post("/jobs/{job}/retry", responses=documented(409, 410), summary="Retry a job")
def retry_job(service: Parts, caller: Asks, job: Which_) -> JobOut:
    """Let a job that failed or was canceled go on; parts that are done stay done."""
    with service.database(write=False) as rows:
        found = find(rows, caller.tenant, job)
    who = people.People(service.database, people.seal_key(service.settings))
    whose = [who.get(caller.tenant, one) for one in found.identities.split(",")]
    permit(service, caller, whose, "video" if found.kind == "video" else "photo", found.asked)
    with service.database() as rows:
        row = rows.scalar(select(Job).where(Job.id == found.id).with_for_update())
        if row is None:
            raise missing("job")
        if row.state not in ("failed", "canceled"):
            raise Problem(409, "state", f"the job is {row.state}")
        check_jobs(service, rows, caller)
        check_standing(rows, row)
        if not jobs_of(service).retry(rows, row):
            raise Problem(410, "expired", "the uploads of the job have expired; send them again")
    return answer_of(service, caller.tenant, job)


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
