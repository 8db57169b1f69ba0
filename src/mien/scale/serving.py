"""Replicas of a server through Ray Serve: where streams go, how many there are, how they end.

Ray Serve starts a replica's actor, hands requests and sockets on to it, asks how many it carries,
and has more or fewer of them accordingly. Here is what it does not know: which replica has a
stream, that a stream which was promised weighs as much as one that runs, and that whoever is to go
has to be told, so that its streams end with a word instead of a cut.

What is served is the caller's: nothing here knows of swaps.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import pickle
import random
import re
import socket
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from mien import errors
from mien.errors import MienError, ProviderError, UsageError
from mien.scale.pool import _connect

log = logging.getLogger(__name__)

NAME: Final = "mien"
"""Of the application."""

LETTERS: Final = 8
"""Of a replica's mark, with which ids of its streams begin."""

PROMISED: Final = 60.0
"""Seconds for which a stream that was made, but not opened, weighs on its replica."""

ONGOING: Final = 256
"""Requests and sockets of one replica at a time; its own limits are far below and say why."""

MARGIN: Final = 20.0
"""Seconds beyond the streams' for a replica to come to an end, until it is killed."""

SURE: Final = 5.0
"""Seconds for which a replica is not among those that run, until it takes itself for one that has
to go: another ``max_ongoing_requests``, say, takes each out for a tenth of a second."""

LOOK_BACK: Final = 11.0
"""Seconds of which the most streams count; Ray Serve hears of them every ten."""

TRIES: Final = 3
"""Replicas that may fail before they are ready."""


class Served(Protocol):
    """What a replica serves."""

    @property
    def app(self) -> Any:
        """ASGI application, with a lifespan."""

    async def ready(self) -> None:
        """Return when requests can be answered quickly; called after the lifespan's start.

        Raises:
            MienError: They never can.
        """

    def drain(self, seconds: float) -> None:
        """Take up nothing new, and end what still runs after so many seconds."""


Make = Callable[[str, dict[str, Any]], Served]
"""Makes it, in the replica's process, of its mark and facts that :func:`application` was given.
A function of a module, which is named, not sent."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas.

    Attributes:
        least: Also without any stream.
        most: At a time.
        streams: That each is meant to carry; more replicas are started beyond it.
        drain_seconds: Which streams of a replica that is to go may last.
        up_seconds: For which there have to be more streams until there are more replicas.
        down_seconds: The same for fewer.
        cpus: Cores that Ray sets aside for each.
        gpus: Likewise.
    """

    least: int
    most: int
    streams: float
    drain_seconds: float
    up_seconds: float
    down_seconds: float
    cpus: float
    gpus: float


def mark_of(replica: str) -> str:
    """The mark of a replica: hexadecimal digits that follow from its name."""
    return hashlib.sha256(replica.encode()).hexdigest()[:LETTERS]


class Replica:
    """One server in an actor of its own.

    Args:
        make: Makes what it serves.
        facts: For that.
        drain_seconds: See :class:`Scaling`.
    """

    def __init__(self, make: Make, facts: dict[str, Any], drain_seconds: float) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._id = serve.get_replica_context().replica_id.unique_id
        self._drain_seconds = drain_seconds
        self._served = make(mark_of(self._id), facts)
        self._ready = self._here = self._drained = False
        self._going: asyncio.TimerHandle | None = None
        self._watch: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        return self._served.app

    async def check_health(self) -> None:
        """Asked by Ray Serve: first of all before anything is sent here.

        Raises:
            MienError: It has to be replaced.
        """
        if self._drained and self._here:
            raise MienError("this replica took itself for one that has to go, and is to stay")
        if self._ready:
            return
        self._loop = asyncio.get_running_loop()
        await self._served.ready()
        here = serve.get_replica_context()
        # A handle to oneself: its Placing is told of all replicas, whenever there are others.
        handle = serve.get_deployment_handle(here.deployment, here.app_name)
        self._watch = handle.options(stream=True)
        self._ready = True

    def see(self, replicas: set[str]) -> None:
        """Replicas that requests may be sent to; called by any thread.

        One that was among them and is no more has been told to go: Ray Serve waits for what it
        still does, and does not say so to it.
        """
        self._loop.call_soon_threadsafe(self._seen, self._id in replicas)

    def _seen(self, here: bool) -> None:
        if here and self._going is not None:
            self._going.cancel()
            self._going = None
        if self._here and not here:
            self._going = self._loop.call_later(SURE, self._drain)
        self._here = here

    def _drain(self) -> None:
        if not self._drained:
            self._drained = True
            self._served.drain(self._drain_seconds)


class Placing(RequestRouter):
    """Says which replica gets a request: its stream's own, the least loaded, or any.

    Every proxy of Ray Serve has one.
    """

    def initialize_state(self, *, path: str, keep: float) -> None:  # type: ignore[override]
        """Take what :func:`application` gives.

        Args:
            path: Where ``POST`` makes a stream; ``path/ID`` and all below are the stream's.
            keep: Seconds for which a replica that is to go still gets requests for its streams.
        """
        self._path, self._keep = path, keep
        self._own = re.compile(re.escape(path) + rf"/([0-9a-f]{{{LETTERS}}})")
        self._promised: dict[str, deque[float]] = defaultdict(deque)
        self._carried: dict[str, int] = {}
        self._there: dict[str, RunningReplica] = {}
        self._leaving: dict[str, tuple[RunningReplica, float]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take up who there is."""
        super().update_replicas(replicas)
        now = time.monotonic()
        there = {mark_of(replica.replica_id.unique_id): replica for replica in replicas}
        left = {mark: (r, now + self._keep) for mark, r in self._there.items() if mark not in there}
        self._leaving = left | {m: kept for m, kept in self._leaving.items() if kept[1] > now}
        self._there = there
        self._promised = defaultdict(deque, {m: p for m, p in self._promised.items() if m in there})
        self._carried = {mark: load for mark, load in self._carried.items() if mark in there}
        try:
            here = serve.get_replica_context().servable_object
        except RayServeException:  # in a proxy
            return
        # Ray Serve sends this class with a copy of its module: there, Replica is another class.
        see = getattr(here, "see", None)
        if see is not None:
            see({replica.replica_id.unique_id for replica in replicas})

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Those of which the least loaded gets the request."""
        kind, method, path = _asked(pending_request)
        found = self._own.match(path)
        if found is not None:
            mark = found[1]
            if mark in self._there:
                if kind == "websocket" and self._promised[mark]:
                    self._promised[mark].popleft()  # it is one that runs from now on
                return [[self._there[mark]]]
            if mark in self._leaving:
                return [[self._leaving[mark][0]]]
        if method == "POST" and path == self._path:
            return [[await self._least(candidate_replicas)]]
        return [random.sample(candidate_replicas, len(candidate_replicas))]

    async def _select_from_candidate_replicas(
        self, candidates: list[RunningReplica], backoff_index: int
    ) -> RunningReplica | None:
        """Ray Serve would ask a single one once more, and leave out one that is to go."""
        if len(candidates) == 1:
            return candidates[0]
        return await super()._select_from_candidate_replicas(candidates, backoff_index)

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Nothing more is sent there."""
        super().on_replica_actor_died(replica_id)
        mark = mark_of(replica_id.unique_id)
        self._there.pop(mark, None)
        self._leaving.pop(mark, None)

    async def _least(self, replicas: list[RunningReplica]) -> RunningReplica:
        """The one that has the fewest streams, and promises of streams."""
        answers = await asyncio.gather(
            *(replica.get_queue_len(deadline_s=1.0) for replica in replicas),
            return_exceptions=True,
        )
        since = time.monotonic() - PROMISED
        loads = []
        for replica, carried in zip(replicas, answers, strict=True):
            mark = mark_of(replica.replica_id.unique_id)
            waiting = self._promised[mark]
            while waiting and waiting[0] < since:
                waiting.popleft()
            if isinstance(carried, int):  # else what it said last, if anything
                self._carried[mark] = carried
            loads.append((self._carried.get(mark, 0) + len(waiting), random.random(), replica))
        least = min(loads, key=lambda load: load[:2])[2]
        self._promised[mark_of(least.replica_id.unique_id)].append(time.monotonic())
        return least


class _Packed(pickle.Unpickler):
    """Reads a request as Ray's proxy has just packed it in this process; makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class without code in the place of the one that is named."""
        if name == "StreamingHTTPRequest":
            return SimpleNamespace
        raise pickle.UnpicklingError(f"{module}.{name} is no request")


def _asked(request: PendingRequest | None) -> tuple[str, str, str]:
    """Kind (``http``, ``websocket``), method and path; empty where it is no such request."""
    if request is None or not request.args or not isinstance(request.args[0], bytes):
        return "", "", ""
    scope = _Packed(io.BytesIO(request.args[0])).load()._asgi_scope
    return scope["type"], scope.get("method", ""), scope["path"]


def application(make: Make, facts: dict[str, Any], scaling: Scaling, *, path: str) -> Any:
    """An application of Ray Serve, as its configuration files and :func:`running` take it.

    Args:
        make: Makes what a replica serves.
        facts: For that.
        scaling: How many replicas.
        path: See :meth:`Placing.initialize_state`.
    """
    made: Any = serve.deployment(
        serve.ingress()(Replica),
        name="server",
        autoscaling_config=AutoscalingConfig(
            min_replicas=scaling.least,
            initial_replicas=scaling.least,
            max_replicas=scaling.most,
            target_ongoing_requests=scaling.streams,
            upscale_delay_s=scaling.up_seconds,
            downscale_delay_s=scaling.down_seconds,
            look_back_period_s=LOOK_BACK,
            aggregation_function="max",  # streams last: those that there are count, not a mean
        ),
        max_ongoing_requests=ONGOING,
        max_constructor_retry_count=TRIES,
        health_check_period_s=5.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=scaling.drain_seconds + MARGIN,
        ray_actor_options={"num_cpus": scaling.cpus, "num_gpus": scaling.gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=cast("Any", f"{__name__}:{Placing.__name__}"),
            request_router_kwargs={"path": path, "keep": scaling.drain_seconds + MARGIN},
        ),
        logging_config={"enable_access_log": False},
    )
    return made.bind(make, facts, scaling.drain_seconds)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where one is.

    Attributes:
        several: Whether it has machines other than this one.
        ours: Whether it was begun here, and ends with this process.
    """

    several: bool
    ours: bool


@contextmanager
def connected(address: str, cores: int = 0) -> Iterator[Cluster]:
    """In a Ray cluster, which is begun and ended here if the address is ``local``.

    Args:
        address: As for :class:`mien.scale.Pool`; not ``ray://``.
        cores: That one which is begun here has at least, more than there are if need be.

    Raises:
        UsageError: No such cluster.
    """
    if address.startswith("ray://"):
        raise UsageError(
            f"{address}: replicas cannot be started through Ray Client; run it on a machine of "
            f"the cluster, with --ray auto"
        )
    ours = _connect(address, cores)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells of each step
    try:
        here = {"localhost", socket.gethostname()}
        names = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        yield Cluster(not names <= here, ours)
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def running(
    cluster: Cluster, made: Any, host: str, port: int, *, tls: tuple[str, str] | None = None
) -> Iterator[None]:
    """Serve an application, until its replicas are drained in the end.

    Args:
        cluster: Of :func:`connected`. One with several machines gets a proxy on each of those with
            a replica, else there is one on the head.
        made: By :func:`application`.
        host: Address on which Ray Serve's proxies listen.
        port: Likewise.
        tls: Files with certificate and key.

    Raises:
        UsageError: The cluster serves others on another port, or mien already.
        MienError: Replicas cannot be started.
    """
    try:
        there = serve.status().applications
    except RayServeException:
        there = {}
    if NAME in there:
        raise UsageError(f"the cluster serves {NAME} already; 'serve status' shows it")
    cert, key = tls or (None, None)
    try:
        serve.start(
            proxy_location="EveryNode" if cluster.several else "HeadOnly",
            http_options=HTTPOptions(host=host, port=port, ssl_certfile=cert, ssl_keyfile=key),
            logging_config={"enable_access_log": False},
        )
    except (RayError, TimeoutError) as error:
        raise ProviderError(
            "Ray Serve's proxy did not come up in time; a machine that is less busy, or a longer "
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S (seconds, 5 by default), may help"
        ) from error
    try:
        try:
            serve.run(made, name=NAME)
        except RuntimeError as error:
            raise _said(error) from error
        yield
    finally:
        _leave()
        if not there:
            serve.shutdown()  # where the cluster is ours, too: else it is asked for again later


def _leave() -> None:
    """Have the replicas drained, and wait for it."""
    serve.delete(NAME, _blocking=False)
    while NAME in serve.status().applications:  # each replica has its own limit
        time.sleep(0.2)


def _said(error: RuntimeError) -> MienError:
    """What a replica said that could not start."""
    status = serve.status().applications.get(NAME)
    words = [error.args[0] if error.args else ""]
    if status is not None:
        words += [status.message, *(d.message for d in status.deployments.values())]
    found = re.findall(r"mien\.errors\.(\w+): (.+)", "\n".join(words))
    if not found:
        log.debug("%s", json.dumps(words))
        return ProviderError("replicas end before they are ready; Ray's logs say more")
    kind, said = found[-1]
    return getattr(errors, kind, MienError)(said)  # type: ignore[no-any-return]
