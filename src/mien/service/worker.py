"""A worker process: warm models, a thread that answers calls, and one that works on jobs."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

from mien import config
from mien.errors import MienError
from mien.heap import keep_small, settle
from mien.service.database import Database
from mien.service.entrance import said as said_of
from mien.service.files import Files
from mien.service.jobs import Jobs
from mien.service.outages import is_full
from mien.service.people import People, Watch, seal_key
from mien.service.problems import Problem, no_space
from mien.service.settings import ServiceSettings
from mien.service.webhooks import Webhooks

if TYPE_CHECKING:
    from mien.service.answering import Answering

log = logging.getLogger(__name__)

Tell = Callable[[str, Any], None]

POLL: Final = 0.5
"""Seconds between two looks for something to do."""

SWEEP: Final = 2.0
"""Seconds between two looks for what expired or is over."""

PATIENCE: Final = 1.5
"""Seconds for what is being done to be given back, at the end; the server gives back the rest."""

QUIET: Final = 30.0
"""Seconds between two words about an error that stays."""


def work(name: str, pipe: Connection, settings: ServiceSettings, chain: config.Settings) -> None:
    """Work until the server says stop, or is gone.

    Args:
        name: Of the worker, for leases and metrics.
        pipe: To the server; see :mod:`mien.service.calls`.
        settings: Of the service.
        chain: Of the models.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which then says stop
    keep_small()
    from mien.service.answering import Answering, warm  # noqa: PLC0415 - OpenCV, ONNX Runtime

    database = Database(settings.database_url)
    people, watch = People(database, seal_key(settings)), Watch(database)
    stop, said = threading.Event(), threading.Lock()

    def tell(what: str, facts: Any) -> None:
        with said:
            pipe.send((what, facts))

    answering = Answering(settings, chain, people, watch)
    warm(answering.swapper)
    settle()
    tell("ready", answering.about())
    threads = [
        threading.Thread(target=act, args=(stop,), name=f"mien-{named}", daemon=True)
        for named, act in _background(
            name, settings, chain, database, answering, people, watch, tell
        )
    ]
    for thread in threads:
        thread.start()
    try:
        while not stop.is_set():
            what, call = pipe.recv()
            if what == "stop":
                break
            kind, facts = call
            _answer(answering, kind, facts, tell)
    except (EOFError, OSError):
        pass  # the server is gone
    finally:
        stop.set()
        until = time.monotonic() + PATIENCE
        for thread in threads:  # all of them together
            thread.join(max(0.0, until - time.monotonic()))
        database.close()


def _answer(answering: Answering, kind: str, facts: Any, tell: Tell) -> None:
    """Answer one call."""
    try:
        found, notes = answering(kind, facts)
    except Problem as problem:
        tell("problem", (problem.status_code, problem.name, str(problem.detail)))
    except Exception as error:
        known = isinstance(error, MienError)
        if not known:
            said_of(error, kind)
        tell("note", ("error", {"work": kind, "error": type(error).__name__}))
        if is_full(error):
            full = no_space()
            tell("problem", (full.status_code, full.name, str(full.detail)))
        else:
            tell("failed", (type(error).__name__, str(error) if known else ""))
    else:
        for note in notes:
            tell("note", note)
        tell("done", found)


def _background(  # noqa: PLR0917
    name: str,
    settings: ServiceSettings,
    chain: config.Settings,
    database: Database,
    answering: Answering,
    people: People,
    watch: Watch,
    tell: Tell,
) -> list[tuple[str, Callable[[threading.Event], None]]]:
    """What is done beside calls: jobs, if they are worked on here; webhooks and what expires."""
    from mien.service.executing import Executor, Models  # noqa: PLC0415 - OpenCV, ONNX Runtime

    files = Files(settings.files_url, **settings.files_options)
    jobs = Jobs(database, files, settings.keep, settings.lease_seconds)
    hooks = Webhooks(database, settings.webhook_prefixes, inner=settings.inner_addresses)
    models, painter = Models(answering.chosen, answering.limits, watch), None
    if settings.executor == "ray":
        from mien.scale import Painter  # noqa: PLC0415 - Ray

        painter = Painter(chain, settings.ray or "local")
        models = replace(models, paint=painter)
    swept = [0.0]

    def work_on_jobs(stop: threading.Event) -> None:
        executor = Executor(
            jobs, people, models, settings, name, stop, note=lambda *said: tell("note", said)
        )
        try:
            _over_and_over(executor.work_once, stop, POLL)
        finally:
            if painter is not None:
                painter.leave()

    def keep_house(stop: threading.Event) -> None:
        executor = Executor(jobs, people, models, settings, name, stop)

        def once() -> bool:
            if time.monotonic() - swept[0] > SWEEP:
                swept[0] = time.monotonic()
                jobs.catch_up()
                jobs.sweep()
                executor.sweep()
            return hooks.deliver_once()

        _over_and_over(once, stop, POLL)

    house: tuple[str, Callable[[threading.Event], None]] = ("house", keep_house)
    at_once = {"local": 1, "ray": settings.ray_actors, "none": 0}[settings.executor]
    return [*[("jobs", work_on_jobs)] * at_once, house]


def _over_and_over(act: Callable[[], bool], stop: threading.Event, pause: float) -> None:
    """Until the end; after a pause where there was nothing to do, or it failed."""
    told = -QUIET
    while not stop.is_set():
        try:
            busy = act()
        except Exception as error:  # the database is away, or the server: both come back, or end us
            if time.monotonic() - told >= QUIET:
                told = time.monotonic()
                said_of(error, "background work")
            busy = False
        if not busy:
            stop.wait(pause)
