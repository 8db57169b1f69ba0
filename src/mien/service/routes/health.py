"""Whether the server lives, and whether it can work."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from mien.service.asking import Parts
from mien.service.problems import MEDIA_TYPE, Problem

PREFIX: Final = ""

router = APIRouter(tags=["health"])

_NOT: Final = {
    "description": "It cannot do it now.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Details"}}},
}


class Health(BaseModel):
    """Fine; anything else is a problem."""

    model_config = {"json_schema_extra": {"examples": [{"status": "ok"}]}}

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="The server lives")
async def healthz() -> Health:
    """Answered as long as the server's process answers at all."""
    return Health()


@router.get("/readyz", responses={503: _NOT}, summary="The server can work")
def readyz(service: Parts) -> Health:
    """Answered with 200 once a worker has warmed up, and while the database answers."""
    if service.settings.workers and not service.calls.ready:
        raise Problem(503, "not-ready", "no worker is ready yet", retry_after=2)
    try:
        with service.database(write=False) as rows:
            rows.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        raise Problem(503, "database", "the database does not answer", retry_after=5) from error
    return Health()
