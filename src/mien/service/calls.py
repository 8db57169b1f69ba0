"""One picture in, one out: calls wait in a bounded queue for a worker process, in order.

Each worker answers one call at a time, over a pipe; see :mod:`mien.service.worker` for its end.
Pictures pass as files in the scratch folder, never through the pipe.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

from mien import errors
from mien.errors import MienError
from mien.service.problems import Problem

log = logging.getLogger(__name__)

Kind = Literal["enrol", "swap", "verify"]

Note = Callable[[str, dict[str, Any]], None]
"""What a worker tells besides: name and facts, for metrics."""

QUEUED: Final = 30.0
"""Seconds that a call waits for a worker at most."""

WORTH: Final = 0.75
"""Share of that which the queue is made to last."""

KNOWN: Final = 10_000
"""Keys that are remembered to have been refused."""

_SECONDS: Final = 1.0
"""Taken for the length of a call before the first is done."""


class _Gone(Exception):
    """The worker died over a call."""


@dataclass(slots=True, eq=False)
class Line:
    """The server's end of one worker.

    Attributes:
        connection: Pipe to it.
        end: Ends the process, at once.
        state: ``starting`` until it has warmed up.
        waiting: For the answer to the call that it works on.
    """

    connection: Connection
    end: Callable[[], None]
    state: Literal["starting", "idle", "busy", "gone"] = "starting"
    waiting: Future[dict[str, Any]] | None = field(default=None)
    about: dict[str, Any] = field(default_factory=dict)


class Calls:
    """The queue in front of the workers. Threads may ask at the same time.

    Args:
        waiting: Calls that may wait.
        seconds: Of work on one; a worker that takes longer is ended.
        note: Told what workers tell.
    """

    def __init__(
        self, waiting: int, seconds: float, note: Note = lambda _name, _facts: None
    ) -> None:
        self._most, self._seconds, self._note = waiting, seconds, note
        self._lines: list[Line] = []
        self._turns: deque[object] = deque()
        self._change = threading.Condition()
        self._mean = _SECONDS
        self._refused: dict[str, float] = {}

    # --- for who starts workers ----------------------------------------------------------------

    def attach(self, connection: Connection, end: Callable[[], None]) -> Line:
        """Take up a worker that was started; it gets calls once it says that it is ready."""
        line = Line(connection, end)
        with self._change:
            self._lines.append(line)
        threading.Thread(target=self._listen, args=(line,), daemon=True, name="calls").start()
        return line

    def _listen(self, line: Line) -> None:
        try:
            while True:
                self._heard(line, *line.connection.recv())
        except (EOFError, OSError):
            pass
        with self._change:
            line.state, waiting, line.waiting = "gone", line.waiting, None
            self._lines.remove(line)
            self._change.notify_all()
        if waiting is not None:
            waiting.set_exception(_Gone())

    def _heard(self, line: Line, what: str, said: Any) -> None:
        if what == "note":
            self._note(*said)
            return
        with self._change:
            waiting, line.waiting = line.waiting, None
            line.state = "idle"
            if what == "ready":
                line.about = said
            self._change.notify_all()
        if what == "done" and waiting is not None:
            waiting.set_result(said)
        elif what == "failed" and waiting is not None:
            kind, message = said
            made = getattr(errors, kind, None)
            waiting.set_exception(made(message) if made else RuntimeError(kind))
        elif what == "problem" and waiting is not None:
            waiting.set_exception(Problem(*said))

    # --- for routes ------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """Workers that have warmed up."""
        with self._change:
            return sum(line.state in ("idle", "busy") for line in self._lines)

    @property
    def waiting(self) -> int:
        """Calls that wait for a worker."""
        with self._change:
            return len(self._turns)

    @property
    def about(self) -> dict[str, Any]:
        """What a worker that has warmed up said of its models; empty if there is none."""
        with self._change:
            return next((line.about for line in self._lines if line.about), {})

    def ask(self, kind: Kind, *, whose: str = "", **said: Any) -> dict[str, Any]:
        """Let a worker do something, and wait for it.

        Args:
            kind: What.
            whose: Key of who asks. Who was refused comes before those who were not.
            said: Facts, of plain types and paths.

        Returns:
            What the worker says.

        Raises:
            MienError: As the work raised it.
            Problem: 503 with Retry-After: there is no worker, too many wait, or the worker died or
                took too long.
        """
        line, answer = self._line(whose), Future[dict[str, Any]]()
        begun = time.monotonic()
        with self._change:
            line.waiting = answer
        try:
            line.connection.send(("call", (kind, said)))
            found = answer.result(self._seconds)
        except Late:
            line.end()
            raise Problem(503, "too-long", f"the work took longer than {self._seconds:g} s and "
                          "was ended", retry_after=5) from None  # fmt: skip
        except (_Gone, OSError) as error:
            if isinstance(error, MienError):
                raise
            line.end()
            raise Problem(503, "worker", "the worker died over it; another takes its place",
                          retry_after=5) from None  # fmt: skip
        with self._change:
            self._mean += 0.2 * (time.monotonic() - begun - self._mean)
        return found

    def _line(self, key: str) -> Line:
        """A worker that is free, by turns; it is busy from then on."""
        turn, until = object(), time.monotonic() + QUEUED
        with self._change:
            workers = sum(line.state in ("idle", "busy") for line in self._lines)
            if not workers:
                raise Problem(503, "not-ready", "no worker is ready yet", retry_after=3)
            if len(self._turns) >= self._places(key, workers):
                raise self._full(key, workers)
            self._refused.pop(key, None)
            self._turns.append(turn)
            try:
                while True:
                    free = next((line for line in self._lines if line.state == "idle"), None)
                    if free is not None and self._turns[0] is turn:
                        free.state = "busy"
                        return free
                    if not self._change.wait(until - time.monotonic()):
                        raise self._full(key, workers)
            finally:
                self._turns.remove(turn)
                self._change.notify_all()

    def _places(self, key: str, workers: int) -> int:
        """How many may wait for this one to be let in.

        No more than can be answered while a call waits. A place is kept for each key that was
        refused before this one: else who was just answered would come back before them, and of
        those who were refused the lucky ones, while others try for minutes.
        """
        now = time.monotonic()
        self._refused = {k: until for k, until in self._refused.items() if until > now}
        most = min(self._most, max(1, int(WORTH * QUEUED / self._mean * workers)))
        before = list(self._refused).index(key) if key in self._refused else len(self._refused)
        return max(1, most - before)  # where nobody waits, nothing is kept for who may be gone

    def _full(self, key: str, workers: int) -> Problem:
        """A refusal, with the time after which there is likely to be a place."""
        ahead = len(self._turns) - self._places(key, workers) + 1
        soon = max(0.5, min(QUEUED, self._mean * ahead / workers))
        if len(self._refused) < KNOWN or key in self._refused:
            self._refused[key] = time.monotonic() + 2 * soon + 2  # in the order of first refusals
        return Problem(503, "busy", f"{len(self._turns)} calls wait already", retry_after=soon)
