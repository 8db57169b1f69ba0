"""The HTTP API: routes, what goes wrong as problem details, and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from starlette.exceptions import HTTPException as PlainError

from mien import __version__, config
from mien.errors import MienError
from mien.heap import keep_small, settle
from mien.service import people, problems
from mien.service.asking import Service, sweep
from mien.service.calls import Calls
from mien.service.database import Database
from mien.service.entrance import Entrance
from mien.service.files import Files
from mien.service.limits import Rates
from mien.service.metrics import Metrics
from mien.service.outages import is_full
from mien.service.problems import Details, Problem, answer, database_gone
from mien.service.routes import (
    health,
    identities,
    jobs,
    live,
    metrics,
    models,
    policy,
    swaps,
    verify,
)
from mien.service.settings import ServiceSettings

PREFIX: Final = "/v1"

MODULES: Final[tuple[Any, ...]] = (
    *(identities, swaps, *jobs.MODULES, live, verify, models, policy, health, metrics),
)
"""All routes. A module has a ``router`` and may have ``PREFIX``, else it is under ``/v1``. With
``ended(service, tenant, identity)`` it stops and removes what rests on an identity that is
revoked; see :data:`mien.service.asking.Ended`."""

ABOUT: Final = """\
Puts the face of a consenting person on the faces of photos and videos, and marks what it made.

Send a key as `Authorization: Bearer mien_…`. What goes wrong is said as problem details (RFC
9457): `detail` says what happened, `errors` names the fields. With 429 and 503 the field
`Retry-After` says in how many seconds to try again. A request with `Idempotency-Key` may be
repeated without being carried out twice.
"""


def service(settings: ServiceSettings, chain: config.Settings) -> Service:
    """The parts of one server; rows are brought into their present shape.

    Raises:
        MediaError: Database or store cannot be used.
        UsageError: Settings do not go together.
    """
    settings.prepare()
    sweep(settings.scratch)
    database = Database(settings.database_url)
    database.upgrade()
    people.seal_key(settings)  # is there before workers ask for it
    counted = Metrics()
    return Service(
        settings,
        chain,
        database,
        Files(settings.files_url, **settings.files_options),
        Calls(settings.limits.waiting, settings.limits.call_seconds, counted.note),
        Rates(),
        counted,
    )


def create_app(
    parts: Service,
    *,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
    modules: Sequence[Any] = MODULES,
) -> FastAPI:
    """The application around the parts of a server.

    Args:
        parts: As :func:`service` makes them.
        start: Called before the first request: starts workers.
        stop: Called at the end.
        modules: Routes that are there.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keep_small()
        settle()
        threads = to_thread.current_default_thread_limiter()
        threads.total_tokens += parts.settings.limits.waiting  # who waits keeps nobody else out
        start()
        try:
            yield
        finally:
            stop()
            parts.database.close()

    app = FastAPI(
        title="mien",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = parts
    for module in modules:
        app.include_router(module.router, prefix=getattr(module, "PREFIX", PREFIX))
        if hasattr(module, "ended"):
            parts.ended.append(module.ended)
    _tell_problems(app)
    _document(app)
    app.add_middleware(Entrance, service=parts)
    if parts.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parts.settings.cors,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Range"),
            ],
            expose_headers=[
                *("Content-Range", "Idempotency-Replayed", "Location"),
                *("Mien-Faces", "Mien-Output-Id", "Retry-After"),
            ],
        )
    return app


def _tell_problems(app: FastAPI) -> None:
    """Answer with problem details, whatever was raised."""

    @app.exception_handler(PlainError)
    @app.exception_handler(HTTPException)
    def plain(request: Request, error: PlainError) -> Response:
        if isinstance(error, Problem):
            return answer(error)
        if isinstance(error.__cause__, OSError):
            full = Problem(507, "full", "there is no space for the upload", retry_after=60)
            return answer(full)
        names = {404: "not-found", 405: "method", 400: "unreadable"}
        name = names.get(error.status_code, "failed")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(
                _methods(app, request.url.path, headers.pop("allow", headers.pop("Allow", "")))
            )
        return answer(Problem(error.status_code, name, str(error.detail), headers=headers))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        found = [
            (".".join(str(part) for part in one["loc"]), _lower(one["msg"]))
            for one in error.errors()
        ]
        several = f" and {len(found) - 1} more" if len(found) > 1 else ""
        detail = f"{found[0][0]}: {found[0][1]}{several}" if found else "a field is wrong"
        return answer(Problem(422, "invalid", detail, errors=found))

    @app.exception_handler(MienError)
    def own(_: Request, error: MienError) -> Response:
        return answer(problems.no_space() if is_full(error) else problems.of(error))

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(TimeoutError)
    def database(_: Request, error: Exception) -> Response:
        return answer(database_gone(error))


def _methods(app: FastAPI, path: str, own: str) -> list[str]:
    """What may be done at a path, by all routes together: each names its own alone."""
    found = {method.strip() for method in own.split(",") if method.strip()}
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
            found |= {method.upper() for method in operations}
    return sorted(found)


def _document(app: FastAPI) -> None:
    """Put the schema of problems into the document, in place of FastAPI's own for 422."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            problem = Details.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs", {})
            schemas["Details"] = problem
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
