"""Worker processes: started, started again when they die, and ended with the server."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from mien import config
from mien.service.asking import Service, sweep
from mien.service.jobs import Jobs
from mien.service.limits import forget
from mien.service.settings import ServiceSettings
from mien.service.worker import work

log = logging.getLogger(__name__)

Work = Callable[[str, Connection, ServiceSettings, config.Settings], None]

LOOK: Final = 0.25
"""Seconds between two looks at the workers."""

STEADY: Final = 30.0
"""Seconds that a worker lives for its death to be no sign that all will die."""

LONGEST: Final = 30.0
"""Seconds to wait at most before the next is started."""

PATIENCE: Final = 2.5
"""Seconds that a worker has to give back what it is at; no request waits for it any more."""

SWEEP: Final = 600.0
"""Seconds between two looks for what is left over in the scratch folder."""


@dataclass(slots=True)
class _Place:
    """For one worker after the other."""

    process: SpawnProcess | None = None
    pipe: Connection | None = None
    begun: float = 0.0
    failures: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps workers going, in a thread of its own.

    Args:
        service: Whose.
        work: What a worker does.
    """

    def __init__(self, service: Service, work: Work = work) -> None:
        self._service, self._work = service, work
        self._places = [_Place() for _ in range(service.settings.workers)]
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run)
        self._swept = time.monotonic()

    def start(self) -> None:
        """Start the workers; they warm up on their own."""
        for place in self._places:
            self._begin(place)
        self._thread.start()

    def stop(self) -> None:
        """End them: those that work on something have some seconds to come to an end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for place in self._places:
            if place.pipe is not None:
                with suppress(OSError):
                    place.pipe.send(("stop", None))
        until = time.monotonic() + PATIENCE
        for place in self._places:
            if place.process is None:
                continue
            place.process.join(max(0.1, until - time.monotonic()))
            if place.process.is_alive():
                place.process.kill()
                place.process.join()
            self._release(place.process.name)
            place.process.close()

    @property
    def pids(self) -> list[int]:
        """Of workers that live."""
        return [p.process.pid or 0 for p in self._places if p.process and p.process.is_alive()]

    def _begin(self, place: _Place) -> None:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        name = f"worker-{secrets.token_hex(4)}"
        process = multiprocessing.get_context("spawn").Process(
            target=self._work,
            args=(name, theirs, self._service.settings, self._service.chain),
            name=name,
        )
        process.start()
        theirs.close()  # so that its end is seen when it dies
        place.process, place.pipe, place.begun = process, ours, time.monotonic()

        def end() -> None:
            with suppress(ValueError):  # it has died, and was closed
                process.kill()

        self._service.calls.attach(ours, end)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            for place in self._places:
                self._look(place)
            if time.monotonic() - self._swept > SWEEP:
                self._swept = time.monotonic()
                sweep(self._service.settings.scratch)
                with suppress(SQLAlchemyError):
                    forget(self._service)

    def _look(self, place: _Place) -> None:
        now = time.monotonic()
        if place.process is not None and not place.process.is_alive():
            lived = now - place.begun
            place.failures = 0 if lived > STEADY else place.failures + 1
            wait = min(LONGEST, 0.5 * 2**place.failures) if place.failures > 1 else 0.0
            place.due = now + wait
            log.error("a worker died (%s); another starts in %g s", place.process.exitcode, wait)
            self._service.metrics.restarts.inc()
            self._release(place.process.name)
            place.process.close()
            place.process = None
        if place.process is None and now >= place.due:
            self._begin(place)

    def _release(self, name: str) -> None:
        """Let others go on at once with what a dead worker had; else its leases run out."""
        service = self._service
        settings = service.settings
        jobs = Jobs(service.database, service.files, settings.keep, settings.lease_seconds)
        with suppress(SQLAlchemyError):
            jobs.abandoned(name)
