"""What goes wrong, as RFC 9457 problem details: which status, what, which field, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from mien.errors import (
    MediaError,
    MienError,
    ModelNotFound,
    NoFace,
    Refused,
    UsageError,
)
from mien.service.outages import is_full

MEDIA_TYPE: Final = "application/problem+json"

TITLES: Final = {
    400: "The request cannot be read",
    401: "An API key is needed",
    403: "A rule forbids it",
    404: "There is no such thing",
    405: "The method is not allowed here",
    406: "None of the accepted types can be made",
    408: "The body did not come in time",
    409: "It is in a state in which this cannot be done",
    410: "It is not there any more",
    411: "The length is missing",
    413: "The body is too large",
    415: "The type of the body is not taken",
    416: "There is no such range",
    422: "The request cannot be carried out as it is",
    429: "Too much at a time",
    500: "Something went wrong in the server",
    503: "The server cannot do it now",
    507: "There is no space left",
}


_FIELD: Final = re.compile(r"(target|file|photo|source|generator)(?: \d+)?: (.*)", re.DOTALL)
"""How messages begin that are about a field."""

_FIELDS: Final = {"photo": "photos"}


EXAMPLE: Final[dict[str, Any]] = {
    "type": "urn:mien:problem:no-face",
    "title": TITLES[422],
    "status": 422,
    "detail": "target: no face that could be swapped was found",
    "errors": [{"field": "body.target", "cause": "no face that could be swapped was found"}],
}


class Cause(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="Where it stands, for instance `body.consent`.")
    cause: str = Field(description="What is wrong with it.")


class Details(BaseModel):
    """A problem (RFC 9457)."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

    type: str = Field(description="Which kind; stays the same from release to release.")
    title: str = Field(description="The kind in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time.")
    errors: list[Cause] = Field(default=[], description="The fields that are wrong.")


class Problem(HTTPException):
    """An answer that is a problem; may be raised in routes and in what they call.

    Attributes:
        name: Of the kind, for instance ``too-large``.
        errors: Field → cause.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        sent = dict(headers or {})
        if retry_after is None and status in (429, 503):
            retry_after = 5
        if retry_after is None and name == "full":
            retry_after = 60
        if retry_after is not None:
            sent["Retry-After"] = str(max(1, round(retry_after)))
        super().__init__(status, detail, sent or None)
        self.name, self.errors = name, tuple(errors)

    def as_dict(self) -> dict[str, Any]:
        """As it is sent, or kept in a row."""
        return details(self.status_code, self.name, str(self.detail), self.errors)


def details(
    status: int, name: str, detail: str, errors: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Problem details as a dictionary."""
    return {
        "type": f"urn:mien:problem:{name}",
        "title": TITLES.get(status, "The request failed"),
        "status": status,
        "detail": detail,
        "errors": [{"field": field, "cause": cause} for field, cause in errors],
    }


def missing(what: str) -> Problem:
    """404: there is none, or it is another tenant's, which must look the same."""
    return Problem(404, "not-found", f"there is no such {what}")


def of(error: MienError) -> Problem:
    """What an error of mien is for who called.

    Media errors are the caller's files; those of the store and of the disk are raised as
    :class:`Problem` where they happen.
    """
    status, name = 500, "failed"
    for kind, code, word in (
        (Refused, 403, "refused"),
        (NoFace, 422, "no-face"),
        (ModelNotFound, 404, "no-model"),
        (UsageError, 422, "invalid"),
        (MediaError, 422, "media"),
    ):
        if isinstance(error, kind):
            status, name = code, word
            break
    if status == 500:  # its words may name what is the server's own
        return Problem(500, name, "something went wrong in the server; its log says what")
    said = str(error)
    found = _FIELD.match(said)
    errors = [(f"body.{_FIELDS.get(found[1], found[1])}", found[2])] if found else []
    return Problem(status, name, said, errors=errors)


def database_gone(error: Exception | None = None) -> Problem:
    """503: it will be back; or 507, where the error says that its disk is full."""
    if is_full(error):
        return no_space()
    return Problem(503, "database", "the database does not answer", retry_after=5)


def no_space() -> Problem:
    """507: there will be, when something was removed."""
    return Problem(507, "full", "there is no space left on a disk of the server", retry_after=60)


def answer(problem: Problem) -> JSONResponse:
    """The response."""
    return JSONResponse(
        problem.as_dict(), problem.status_code, dict(problem.headers or {}), media_type=MEDIA_TYPE
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: these statuses, and those that every route has.

    Every route may answer 400, 401, 403, 404, 413, 422, 429, 500 and 503.
    """
    every = {400, 401, 403, 404, 408, 413, 422, 429, 500, 503, *statuses}
    return {
        status: {
            "description": TITLES[status],
            "content": {
                MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Details"}},
            },
        }
        for status in sorted(every)
    }
