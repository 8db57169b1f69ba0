"""Figures for Prometheus."""

from __future__ import annotations

import time
from typing import Final

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from mien.service.asking import Parts, Service
from mien.service.database import STATES, Job
from mien.service.metrics import gpu_memory
from mien.service.problems import missing

PREFIX: Final = ""

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {"schema": {"type": "string"}, "example": "mien_workers_ready 1.0"}
            }
        }
    },
    summary="Figures for Prometheus",
)
def show_metrics(service: Parts) -> Response:
    """Calls by route and status, queues, times of stages, errors; nothing of any tenant."""
    if not service.settings.metrics:
        raise missing("page")
    _ask(service)
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _ask(service: Service) -> None:
    """What is not counted as it happens; a database that is gone leaves the last figures."""
    metrics = service.metrics
    metrics.workers.set(service.calls.ready)
    metrics.waiting.set(service.calls.waiting)
    if service.chain.provider != "cpu":
        for gpu, used in gpu_memory().items():
            metrics.gpu.labels(gpu).set(used)
    try:
        with service.database(write=False) as rows:
            count = func.count()
            found = rows.execute(select(Job.state, count).group_by(Job.state)).all()
            oldest = rows.scalar(select(func.min(Job.created)).where(Job.state == "queued"))
    except SQLAlchemyError:
        return
    by_state = {row[0]: row[1] for row in found}
    for state in STATES:
        metrics.jobs.labels(state).set(by_state.get(state, 0))
    metrics.age.set(0.0 if oldest is None else max(0.0, time.time() - oldest))
