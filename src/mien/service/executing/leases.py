"""A lease, held while work is done."""

from __future__ import annotations

import threading
from typing import Final, Self

from sqlalchemy.exc import SQLAlchemyError

from mien.service.jobs import Jobs, Task

BEAT: Final = 1.5
"""Seconds between two heartbeats at most; a canceled job stops within that."""


class Stopped(Exception):
    """The worker ends, or the lease is gone."""


class Holding:
    """Renews a lease while its work is done, and learns that it is to stop. A context."""

    def __init__(self, jobs: Jobs, task: Task, stop: threading.Event) -> None:
        """Hold what was claimed.

        Args:
            jobs: Whose.
            task: The claim.
            stop: Set when the worker ends.
        """
        self._jobs, self._task, self._stop = jobs, task, stop
        self._frames, self._lost = 0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mien-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, frames: int) -> None:
        """Say how far the work is.

        Raises:
            Stopped: It is to stop.
        """
        self._frames = frames
        self.check()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: Not.
        """
        if self._lost or self._stop.is_set():
            raise Stopped

    def _beat(self) -> None:
        while not self._over.wait(min(BEAT, self._jobs.lease / 4)):
            try:
                going = self._jobs.beat(self._task, self._frames)
            except SQLAlchemyError:
                continue  # nobody else can take it while the database is away
            if not going:
                self._lost = True
                return
