"""One output with its thread: it gets the newest finished frame, and slows nobody else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from mien.errors import MienError
from mien.live.counting import Ages
from mien.live.slot import Slot
from mien.live.types import Output, OutputStatistics, Shown

log = logging.getLogger(__name__)

USUAL: Final = 10.0
"""Seconds within which an output finishes."""


class Outlet:
    """Feeds one output.

    Attributes:
        output: What is fed.
        slot: Where the engine leaves finished frames.
        written: From capture until the output had dealt with a frame, encoding included.
        handed: From capture until a frame was handed to it.
        spent: In the output, for each frame.
        error: What ended it, None while all is well.
    """

    def __init__(self, output: Output, ready: Callable[[], None]) -> None:
        """Prepare the thread.

        Args:
            output: What is fed.
            ready: Called when another frame could be taken.
        """
        self.output, self._ready = output, ready
        self.slot: Slot[Shown] = Slot()
        self.written, self.handed, self.spent = Ages(), Ages(), Ages()
        self.count = 0
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, width: int, height: int, fps: float) -> None:
        """Open the output in its thread, and wait until it is open.

        Raises:
            MediaError: It cannot be opened.
        """
        opened = threading.Event()
        arguments = (width, height, fps, opened)
        self._thread = threading.Thread(
            target=self._work, args=arguments, name=f"mien-out-{self.output.name}", daemon=True
        )
        self._thread.start()
        opened.wait()
        if self.error is not None:
            raise self.error

    def _work(self, width: int, height: int, fps: float, opened: threading.Event) -> None:
        try:
            self.output.open(width, height, fps)
        except BaseException as error:
            self.error = error
            return
        finally:
            opened.set()
        try:
            while (shown := self.slot.take()) is not None:
                self._ready()
                began = time.monotonic()
                self.output.write(shown)
                done = time.monotonic()
                self.count += 1
                self.handed.add(began - shown.taken)
                self.written.add(done - shown.taken)
                self.spent.add(done - began)
        except BaseException as error:
            self.error = error
        try:
            self.output.close()
        except MienError as error:
            self.error = self.error or error
        self.slot.close()
        self._ready()

    def stop(self) -> None:
        """Let it write what it has, and finish; a file may take longer than others to."""
        timeout = float(getattr(self.output, "patience", USUAL))
        self.slot.close(keep=True)
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("%s: did not finish within %g s", self.output.name, timeout)

    @property
    def started(self) -> bool:
        """Whether it was opened."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether it still takes frames."""
        return self.error is None and not self.slot.closed

    def statistics(self, *, whole: bool) -> OutputStatistics:
        """How it fares; over the whole run, or over the last seconds."""
        p50, p95 = self.written.all(50, 95) if whole else self.written.recent(50, 95)
        (handed,) = self.handed.all(95) if whole else self.handed.recent(95)
        error = "" if self.error is None else str(self.error)
        lost = int(getattr(self.output, "lost", 0))
        again = int(getattr(self.output, "reconnected", 0))
        return OutputStatistics(
            *(self.output.name, self.count - lost, self.slot.replaced, p50, p95, handed),
            *(error, lost, again),
        )
