"""A pool of actors with warm models, and how work is given to them."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, TypeVar

import ray

from mien import __version__, config, errors
from mien.errors import ProviderError, UsageError
from mien.scale.carried import Words
from mien.scale.worker import Worker, scratch

log = logging.getLogger(__name__)

Task = TypeVar("Task")

GOING: Final = 30
"""Tenths of a second that killed actors get to be gone."""

AHEAD: Final = 2
"""Tasks that an actor has at most: the next begins while the last one's bytes travel."""

TRIES: Final = 3
"""Actors that may be lost with a task, or before they are ready, until it counts as their cause."""

EVERY: Final = 1.0
"""Seconds between two looks at who left and whose consent ended."""

RECOUNT: Final = 5.0
"""Seconds between two looks at how large the cluster is."""

PATIENCE: Final = 20.0
"""Seconds without any worker after which the log says what is missing."""

GPUS: Final = {"cuda", "tensorrt", "rocm"}
"""Providers for which an actor takes a GPU of its own."""


@dataclass(slots=True, eq=False)
class _Hand:
    """An actor.

    Attributes:
        actor: Ray's handle.
        starting: What it was asked last before it is ready; None once it is.
        about: Where it is.
        cores: On which it stays.
        load: Tasks that it has.
    """

    actor: Any
    starting: Any
    about: Words = field(default_factory=dict)
    cores: list[int] = field(default_factory=list)
    load: int = 0


class Pool:
    """Actors on this machine or on a cluster; a context.

    Each loads the models once and keeps them. One that is lost, with its node or alone, is replaced
    as soon as there is room, and what it was working on is done again by others.

    Args:
        settings: Of the chain that every actor loads; models of one's own have to lie in the same
            folder on every machine.
        address: ``local`` starts Ray on this machine and stops it in the end; else as for
            ``ray.init``: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        actors: How many; 0 for as many as there is room for. On a cluster one more is asked for
            while there is work, so that one that grows by itself does.
        threads: Cores of each actor, on which its models, its decoder and its encoder stay; 0 lets
            each use what its machine has. Pinned on Linux alone.
        gpus: Of each actor; None for one where the provider needs it, and none else.

    One thread at a time has work done by a pool; a process may have several pools.

    Attributes:
        footage: The video that was sent last, and references to its bytes.

    Raises:
        UsageError: No such cluster.
    """

    def __init__(
        self,
        settings: config.Settings,
        address: str = "local",
        *,
        actors: int = 0,
        threads: int = 1,
        gpus: float | None = None,
    ) -> None:
        names = set(settings.provider.split(","))
        self.gpus = (1.0 if names & GPUS else 0.0) if gpus is None else gpus
        self.threads = threads
        self.settings = settings.model_copy(
            update={"threads": settings.threads or threads, "workers": 1}
        )
        self.footage: Words = {}
        self._session = secrets.token_hex(16)
        self._alone = address == "local"
        self._owner = _connect(address, actors * max(threads, 1))
        self.actors = actors
        self._hands: list[_Hand] = []
        self._rooms = 0
        self._counted = -1e9
        self._failed = 0
        self._models: Words | None = None
        self._kind = ray.remote(Worker).options(
            num_cpus=max(threads, 1),
            num_gpus=self.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the actors go, and what they kept."""
        hands, self._hands = self._hands, []
        try:
            ready = [hand.actor.leave.remote() for hand in hands if hand.starting is None]
            if ready:
                ray.wait(ready, num_returns=len(ready), timeout=5.0)
            for hand in hands:
                ray.kill(hand.actor)
        finally:
            if self._owner:
                self._owner = False
                ray.shutdown()
            # Of those that were lost; one that is just being killed may still write.
            for _ in range(GOING):
                shutil.rmtree(scratch(self._session), ignore_errors=True)
                time.sleep(0.1)
                if not scratch(self._session).exists():
                    break

    @property
    def alone(self) -> bool:
        """Whether the cluster is this machine, and no other can join it."""
        return self._alone

    @property
    def models(self) -> Words | None:
        """Stage → what the actors loaded for it; None before one is ready."""
        return self._models

    @property
    def ready(self) -> int:
        """Actors with warm models."""
        return sum(hand.starting is None for hand in self._hands)

    def begin(self) -> None:
        """Have the actors start, so that they are ready when there is work for them."""
        self._hire()

    def warm(self) -> None:
        """Wait until all actors are ready; not needed, but for measuring.

        Raises:
            MienError: An actor cannot load the models.
        """
        self._hire()
        while self.ready < min(len(self._hands), self.actors or max(self._rooms, 1)):
            self._look(self._wait({}))
            self._hire()

    def spread(
        self,
        tasks: Iterable[Task],
        send: Callable[[Any, Task], Any],
        watch: Callable[[], None] | None = None,
        *,
        most: int = 0,
    ) -> Generator[tuple[Task, Words]]:
        """Have tasks done, each once as far as the caller sees, in any order.

        Args:
            tasks: Read as actors become free, so that few of them wait in memory.
            send: Calls a method of an actor.
            watch: Called about once a second; what it raises ends the work.
            most: Tasks at most, where that is known, so that no more actors are asked for.

        Yields:
            Each task and its answer, which may be an error; see :func:`checked`.

        Raises:
            MienError: An actor cannot be had, or what ``watch`` raises.
        """
        waiting, coming = deque[Task](), iter(tasks)
        flying: dict[Any, tuple[_Hand, Task]] = {}
        lost: Counter[int] = Counter()
        alone = time.monotonic()
        try:
            while True:
                self._hire(most)
                _fill(waiting, coming, AHEAD * len(self._hands))
                if not waiting and not flying:
                    return
                self._send(waiting, flying, send)
                done = self._wait(flying)
                if watch is not None:
                    watch()
                for ref in self._look(done):
                    hand, task = flying.pop(ref)
                    hand.load -= 1
                    answer, why = self._answer(ref, hand)
                    if answer is None:
                        lost[id(task)] += 1
                        if lost[id(task)] < TRIES:
                            waiting.appendleft(task)
                            continue
                        answer = {
                            "error": "MediaError",
                            "message": f"the work on it was lost with {TRIES} workers, one after "
                            f"the other ({why}); they may have too little memory",
                        }
                    lost.pop(id(task), None)
                    yield task, answer
                if self.ready:
                    alone = time.monotonic()
                elif time.monotonic() - alone > PATIENCE:
                    alone = time.monotonic() + 1e9
                    log.warning(
                        "no worker is there yet; each needs %d free cores%s",
                        max(self.threads, 1), f" and {self.gpus:g} GPUs" if self.gpus else "",
                    )  # fmt: skip
        finally:
            for hand, _ in flying.values():  # given up: it would go on for nothing
                self._dismiss(hand)

    # --- actors ------------------------------------------------------------------------------

    def _hire(self, most: int = 0) -> None:
        """Ask for actors that are wanted and not there."""
        wanted = self.actors
        if not wanted:
            if time.monotonic() - self._counted > RECOUNT:
                self._counted = time.monotonic()
                self._rooms = _rooms(self.threads, self.gpus)
            wanted = max(1, self._rooms) if self.alone else self._rooms + 1
        for _ in range(min(wanted, most or wanted) - len(self._hands)):
            actor = self._kind.remote(self._session)
            self._hands.append(_Hand(actor, actor.about.remote()))  # type: ignore[attr-defined,unused-ignore]

    def _dismiss(self, hand: _Hand) -> None:
        if hand in self._hands:
            self._hands.remove(hand)
            ray.kill(hand.actor)

    def _wait(self, flying: Iterable[Any]) -> list[Any]:
        refs = [*flying, *(h.starting for h in self._hands if h.starting is not None)]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done:
            done, _ = ray.wait(refs, num_returns=1, timeout=EVERY)
        return list(done)

    def _look(self, done: Iterable[Any]) -> list[Any]:
        """See to actors that start; gives what is left."""
        starting = {hand.starting: hand for hand in self._hands if hand.starting is not None}
        others = []
        for ref in done:
            if ref in starting:
                self._started(starting[ref])
            else:
                others.append(ref)
        return others

    def _started(self, hand: _Hand) -> None:
        answer, why = self._answer(hand.starting, hand)
        if answer is None:
            self._failed += 1
            self._dismiss(hand)
            if self._failed >= TRIES:
                raise ProviderError(
                    f"workers end before they are ready, the last on "
                    f"{hand.about.get('host', 'a node')} ({why}); Ray's logs there say more"
                )
            return
        checked(answer, hand.about.get("host", ""))
        if not hand.about:
            hand.about = answer
            if answer["version"] != __version__:
                raise UsageError(
                    f"{answer['host']}: has mien {answer['version']}, and this is {__version__}"
                )
            hand.cores = self._cores(hand)
            hand.starting = hand.actor.warm.remote(self.settings.model_dump_json(), hand.cores)
            return
        self._failed = 0
        self._models = self._models or answer["models"]
        if answer["models"] != self._models:
            raise UsageError(
                f"{hand.about['host']}: takes other models than another machine "
                f"({answer['models']}, {self._models}); say --precision fp32"
            )
        hand.starting = None

    def _cores(self, hand: _Hand) -> list[int]:
        """Those of its machine that the fewest others stay on."""
        if not self.threads:
            return []
        near = [h for h in self._hands if h.about.get("node") == hand.about["node"]]
        taken = Counter(core for h in near for core in h.cores)
        return sorted(hand.about["cores"], key=lambda core: (taken[core], core))[: self.threads]

    def _send(
        self,
        waiting: deque[Task],
        flying: dict[Any, tuple[_Hand, Task]],
        send: Callable[[Any, Task], Any],
    ) -> None:
        """Give each actor one task before any gets its second; near the end nobody has two."""
        for depth in range(AHEAD):
            for hand in self._hands:
                if depth and len(waiting) < len(self._hands):
                    return
                if waiting and hand.starting is None and hand.load == depth:
                    task = waiting.popleft()
                    flying[send(hand.actor, task)] = hand, task
                    hand.load += 1

    def _answer(self, ref: Any, hand: _Hand) -> tuple[Words | None, str]:
        """What an actor says; None and why if it failed, or is lost and let go."""
        try:
            return ray.get(ref), ""
        except ray.exceptions.RayTaskError as error:  # it is there still
            log.debug("%s", error)
            why = type(error.cause or error).__name__
            log.warning("a worker on %s failed (%s)", hand.about.get("host", "a node"), why)
            return None, why
        except ray.exceptions.RayError as error:
            log.debug("%s", error)
            why = type(error).__name__
            if hand in self._hands:
                log.warning(
                    "a worker on %s is lost (%s); others do its work",
                    hand.about.get("host", "a node"), why,
                )  # fmt: skip
            self._dismiss(hand)
            return None, why


def checked(answer: Words, what: str) -> Words:
    """An answer that is no error.

    Args:
        answer: Of an actor.
        what: Named before the error's words where they do not begin with it.

    Raises:
        MienError: Of the class that the actor named.
    """
    if "error" in answer:
        said = str(answer["message"])
        kind = getattr(errors, answer["error"], errors.MienError)
        raise kind(f"{what}: {said}" if what and not said.startswith(what) else said)
    return answer


def _connect(address: str, wanted: int) -> bool:
    """Connect to Ray; says whether it is this process's to leave again.

    Args:
        address: As for :class:`Pool`.
        wanted: Cores that were asked for; on this machine more than there are, are shared.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    # What Ray will do by itself some day; until then it says so at each start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            cores = max(os.cpu_count() or 1, wanted)
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(
            f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]})"
        ) from error
    return True


def _rooms(threads: int, gpus: float) -> int:
    """How many actors the cluster has room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(
            int(has.get("CPU", 0) // threads) if threads else int(has.get("CPU", 0) >= 1),
            int(has.get("GPU", 0) / gpus) if gpus else 1 << 20,
        )
        for has in nodes
    )


def _fill(waiting: deque[Task], coming: Iterable[Task], up_to: int) -> None:
    for task in coming if len(waiting) < up_to else ():
        waiting.append(task)
        if len(waiting) >= up_to:
            return
