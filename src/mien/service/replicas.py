"""Replicas of the service on a Ray cluster, through Ray Serve: interactive requests and streams.

Each is a server of its own, with a worker and the engine of live sessions, both warm before
anything is sent there. Jobs are not worked on here and their routes are not there: a proxy of Ray
Serve holds bodies in memory, so videos go to ``mien serve`` on the same database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import make_url
from starlette.types import ASGIApp, Receive, Scope, Send

from mien import __version__, config, policy
from mien.errors import ProviderError, UsageError
from mien.scale import serving
from mien.service import application as application_
from mien.service import people
from mien.service import settings as settings_
from mien.service.problems import Problem, answer
from mien.service.routes import (
    health,
    identities,
    live,
    metrics,
    models,
    swaps,
    verify,
)
from mien.service.routes import policy as policy_
from mien.service.settings import ServiceSettings
from mien.service.supervisor import Supervisor

log = logging.getLogger(__name__)

MODULES: Final[tuple[Any, ...]] = (
    *(identities, swaps, live, verify, models, policy_, health, metrics),
)
"""Routes of a replica."""

STREAMS: Final = f"{application_.PREFIX}/live"

BEGINS: Final = (STREAMS, f"{application_.PREFIX}/swaps")
"""What a replica that is to go begins no more."""

START_SECONDS: Final = 300.0
"""For a replica to be warm."""


class Server:
    """What one replica serves; see :class:`mien.scale.serving.Served`.

    Args:
        mark: With which ids of its live sessions begin.
        settings: Of the service.
        chain: Of the models.
    """

    def __init__(self, mark: str, settings: ServiceSettings, chain: config.Settings) -> None:
        parts = self._parts = application_.service(settings, chain)
        parts.mark = mark
        workers = Supervisor(parts)
        self._inner = application_.create_app(
            parts, start=workers.start, stop=workers.stop, modules=MODULES
        )
        self._draining = False

    @property
    def app(self) -> ASGIApp:
        """The application behind its door."""
        return self

    async def ready(self) -> None:
        """Wait for the worker and for the engine of live sessions.

        Raises:
            ProviderError: They do not come up.
        """
        until = time.monotonic() + START_SECONDS
        why = "no worker is ready"
        while time.monotonic() < until:
            if self._parts.calls.ready:
                try:
                    if self._parts.settings.live:
                        await self._inner.state.live.warm()
                    return
                except Problem as problem:
                    why = str(problem.detail)
            await asyncio.sleep(0.2)
        raise ProviderError(f"a replica was not ready within {START_SECONDS:.0f} s: {why}")

    def drain(self, seconds: float) -> None:
        """Begin nothing new; after so many seconds end the live sessions that there still are."""
        if not self._draining:
            log.warning("this replica is to go; its streams end in %g s at the latest", seconds)
            self._draining = True
            asyncio.get_running_loop().call_later(seconds, self._inner.state.live.end_all)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, unless it would begin something here that is to go."""
        if self._draining and scope["type"] == "http":
            path = scope["path"]
            if path == "/readyz" or (scope["method"] == "POST" and path in BEGINS):
                gone = Problem(503, "draining", "this replica is to go; ask again", retry_after=1)
                await answer(gone)(scope, receive, send)
                return
        await self._inner(scope, receive, send)


def make(mark: str, facts: Mapping[str, Any]) -> Server:
    """A replica's server; called in its process.

    Args:
        mark: See :class:`Server`.
        facts: Of :func:`_facts`, or empty: then settings are those of the machine.

    Raises:
        UsageError: The machine has another mien or another policy than who asked.
        MediaError: It has another key of identities.
    """
    if not facts:
        settings, chain = settings_.load()
        return Server(mark, as_replica(settings), chain)
    if facts["version"] != __version__:
        raise UsageError(f"a machine has mien {__version__}, and who asked {facts['version']}")
    settings = ServiceSettings.model_validate_json(facts["settings"])
    if policy.load().sha256 != facts["policy"]:
        raise UsageError(
            "a machine of the cluster has another policy than this one; give all the same file"
        )
    if _hashed(people.seal_key(settings)) != facts["seal"]:
        raise UsageError("a machine of the cluster has another key of identities than this one")
    return Server(mark, settings, config.Settings.model_validate_json(facts["chain"]))


def as_replica(settings: ServiceSettings) -> ServiceSettings:
    """Settings as a replica has them: jobs are not its own, and no body is longer than photos'."""
    limits = settings.limits
    small = min(limits.body_bytes, limits.photo_bytes)
    return settings.model_copy(
        update={
            "data": settings.folder,
            "executor": "none",
            "replicas": None,
            "workers": max(1, settings.workers),
            "limits": limits.model_copy(update={"body_bytes": small}),
        }
    )


def application(_: Mapping[str, Any] | None = None) -> Any:
    """For configuration files of Ray Serve: ``import_path: mien.service.replicas:application``.

    Settings are those of each machine: environment and mien.toml.
    """
    settings, _chain = settings_.load()
    return serving.application(make, {}, _scaling(settings), path=STREAMS)


@contextmanager
def running(settings: ServiceSettings, chain: config.Settings) -> Iterator[None]:
    """Serve on a cluster, until replicas are drained in the end.

    Args:
        settings: Of the service, with ``replicas``.
        chain: Of the models.

    Raises:
        UsageError: There is no such cluster, or settings are for one machine alone.
        MienError: Replicas cannot be started.
    """
    scaling = _scaling(settings)
    tls = None
    if settings.tls_cert and settings.tls_key:
        tls = str(settings.tls_cert.absolute()), str(settings.tls_key.absolute())
    with serving.connected(settings.ray or "local", -int(-scaling.most * scaling.cpus)) as cluster:
        if cluster.several:
            _check_shared(settings)
        made = serving.application(make, _facts(settings, chain), scaling, path=STREAMS)
        with serving.running(cluster, made, settings.host, settings.port, tls=tls):
            yield


def _facts(settings: ServiceSettings, chain: config.Settings) -> dict[str, Any]:
    return {
        "version": __version__,
        "settings": as_replica(settings).model_dump_json(),
        "chain": chain.model_dump_json(),
        "policy": policy.load().sha256,
        "seal": _hashed(people.seal_key(settings)),
    }


def _hashed(key: bytes) -> str:
    return hashlib.sha256(b"mien seal " + key).hexdigest()


def _scaling(settings: ServiceSettings) -> serving.Scaling:
    asked = settings.replicas or settings_.ReplicasTable()
    return serving.Scaling(**asked.model_dump())


def _check_shared(settings: ServiceSettings) -> None:
    """Whether machines can share what replicas share.

    Raises:
        UsageError: They cannot.
    """
    if make_url(settings.database_url).drivername.startswith("sqlite"):
        raise UsageError(
            "database: SQLite is for one machine, and the cluster has more; name a PostgreSQL "
            "database"
        )
    if settings.seal is None:
        raise UsageError(
            "seal: the cluster has more than one machine; put one key on all of them "
            "(mien keys seal FOLDER) and name it"
        )
