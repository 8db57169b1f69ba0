"""What routes share: the service's parts, who asks, and whether the key is for that."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from mien import config
from mien.service.database import Database
from mien.service.files import Files
from mien.service.keys import Caller
from mien.service.outages import has_room
from mien.service.problems import Problem, no_space
from mien.service.settings import ServiceSettings

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile

    from mien.service.calls import Calls
    from mien.service.limits import Rates
    from mien.service.metrics import Metrics

Ended = Callable[["Service", str, str], None]
"""Told of a tenant and the id of an identity that was revoked, after the rows say so."""

REQUEST: Final = "request-"
"""How folders of requests begin."""

MOST_FILES: Final = 24
MOST_FIELDS: Final = 64
LONGEST: Final = 1 << 16
"""Bytes of a field that is no file."""

_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="`Bearer mien_…`")


@dataclass(slots=True)
class Service:
    """The parts of one server; ``request.app.state.service``.

    Attributes:
        settings: Of the service.
        chain: Settings of the models that workers run.
        database: Rows.
        files: Store.
        calls: Asks workers, and waits for what they say.
        rates: Requests a minute of each key.
        metrics: For Prometheus.
        ended: Called when an identity is revoked: each stops what is its own, and removes it.
        mark: With which ids of live sessions begin, so that they say which replica has them.
    """

    settings: ServiceSettings
    chain: config.Settings
    database: Database
    files: Files
    calls: Calls
    rates: Rates
    metrics: Metrics
    ended: list[Ended] = field(default_factory=list)
    mark: str = ""


def service_of(request: Request) -> Service:
    """The service; as a dependency ``Annotated[Service, Depends(service_of)]``."""
    service: Service = request.app.state.service
    return service


def asks(scope: str = "") -> Callable[..., Caller]:
    """A dependency: who asks, whose key must have the scope (none for any key).

    Keys are looked up before the body is read, by
    :class:`mien.service.entrance.Entrance`, where 401 comes from.
    """

    def caller(
        request: Request,
        bearer: Any = Security(_BEARER),  # noqa: B008 - for the OpenAPI document
    ) -> Caller:
        found: Caller = request.scope["state"]["caller"]
        if scope and scope not in found.scopes:
            raise Problem(403, "scope", f"the key is not for {scope}; its scopes are "
                          f"{', '.join(sorted(found.scopes)) or 'none'}")  # fmt: skip
        return found

    return caller


Parts = Annotated[Service, Depends(service_of)]
"""For routes: ``service: Parts``."""


class Slim(Request):
    """A request whose form has few parts, so that little of it lies in memory."""

    def form(self, **limits: Any) -> Any:
        """The form; files of more than a megabyte are on disk."""
        return super().form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=LONGEST)


class Route(APIRoute):
    """For ``APIRouter(route_class=Route)`` where uploads come."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As every route's, with :class:`Slim` requests."""
        handler = super().get_route_handler()

        async def slim(request: Request) -> Response:
            return await handler(Slim(request.scope, request.receive))

        return slim


@contextmanager
def scratch(service: Service) -> Iterator[Path]:
    """A folder for one request, gone at the end."""
    folder = make_scratch(service)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_scratch(service: Service) -> Path:
    """The same where the folder outlives the call; who asks removes it.

    Raises:
        Problem: The disk is full.
    """
    try:
        if has_room(service.settings.scratch):
            return Path(tempfile.mkdtemp(prefix=REQUEST, dir=service.settings.scratch))
    except OSError as error:
        raise no_space() from error
    raise no_space()


def sweep(folder: Path, older: float = 3600.0) -> None:
    """Remove what requests left that were cut off by the end of a server."""
    for path in folder.glob(f"{REQUEST}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > older:
                shutil.rmtree(path, ignore_errors=True)


def keep(upload: UploadFile, path: Path) -> Path:
    """Write an upload, which the server keeps in a file without a name, where a worker finds it.

    Raises:
        Problem: The disk is full.
    """
    try:
        if not has_room(path.parent, upload.size or 0):
            raise no_space()
        with path.open("wb") as out:
            upload.file.seek(0)
            shutil.copyfileobj(upload.file, out, 1 << 20)
    except OSError as error:
        raise no_space() from error
    return path
