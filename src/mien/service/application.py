"""The HTTP API: routes, what goes wrong as problem details, and the OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI

from mien import __version__, config
from mien.service.asking import Service
from mien.service.calls import Calls
from mien.service.database import Database
from mien.service.files import Files
from mien.service.limits import Rates
from mien.service.metrics import Metrics
from mien.service.settings import ServiceSettings

log = logging.getLogger(__name__)

PREFIX: Final = "/v1"


def service(settings: ServiceSettings, chain: config.Settings) -> Service:
    """The parts of one server; rows are brought into their present shape.

    Raises:
        MediaError: Database or store cannot be used.
    """
    settings.prepare()
    database = Database(settings.database_url)
    database.upgrade()
    metrics = Metrics()
    return Service(
        settings,
        chain,
        database,
        Files(settings.files_url, **settings.files_options),
        Calls(settings.limits.waiting, settings.limits.call_seconds, metrics.note),
        Rates(),
        metrics,
    )


def create_app(
    parts: Service,
    *,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application around the parts of a server.

    A module of ``routes`` has a ``router``, and may have ``ended(service, tenant, identity)``,
    which is called when an identity is revoked; see :data:`mien.service.asking.Ended`. It is named
    in :func:`_modules`.

    Args:
        parts: As :func:`service` makes them.
        start: Called before the first request: starts workers.
        stop: Called at the end.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        start()
        try:
            yield
        finally:
            stop()
            parts.database.close()

    app = FastAPI(
        title="mien",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = parts
    for module in _modules():
        app.include_router(module.router, prefix=getattr(module, "PREFIX", PREFIX))
        if hasattr(module, "ended"):
            parts.ended.append(module.ended)
    return app


def _modules() -> list[Any]:
    """The routes; each module is named here."""
    return []
