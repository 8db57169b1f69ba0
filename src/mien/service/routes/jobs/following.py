"""What happens to a job, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from mien.service.asking import Parts, Service
from mien.service.database import Event
from mien.service.jobs import ALIVE
from mien.service.problems import Problem, documented
from mien.service.routes.jobs.answers import Asks, Which_, find, frames_painted, progress_of

router = APIRouter(tags=["jobs"])

LOOK: Final = 0.5
"""Seconds between two looks at the rows for somebody who follows events."""

QUIET: Final = 15.0
"""Seconds after which something is said even if nothing happens, so that lines stay open."""


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
        find(rows, caller.tenant, job)
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
        found = find(rows, tenant, job)
        painted = frames_painted(rows, [job]).get(job, 0)
        query = select(Event).where(Event.job == job, Event.tenant == tenant, Event.id > after)
        events = [
            (event.id, event.kind, json.dumps(event.data | {"at": event.at}))
            for event in rows.scalars(query.order_by(Event.id).limit(500))
        ]
        progress = progress_of(found, painted)
    return found.state, json.dumps(progress), events
