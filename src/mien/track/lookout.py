"""The thorough look taken beside the work, so that no frame waits for it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np

from mien.types import Faces, Floats, Image

BACK_SEAT = 10
"""Niceness of the looking thread where the system has one for each thread: frames go first."""


class Lookout:
    """Looks at one frame in another thread, while those after it are worked on.

    A look that is done is taken up with the next frame: where nobody was known then, somebody has
    come in. Faces move little in the two or three frames that it takes, and are fitted anew.

    Args:
        look: The detector's thorough look.
    """

    def __init__(self, look: Callable[[Image], Faces]) -> None:
        self._look = look
        self._running: Future[Faces] | None = None
        self._known: Floats = np.zeros((0, 4), np.float32)

    @property
    def busy(self) -> bool:
        """Whether a look was begun and not taken up yet."""
        return self._running is not None

    def begin(self, image: Image, known: Floats) -> None:
        """Begin to look.

        Args:
            image: ``(H, W, 3)`` uint8 RGB; copied, since frames are painted on.
            known: ``(N, 4)`` boxes of those who are followed in it.
        """
        self._known = known
        self._running = _watchmen().submit(self._look, image.copy())

    def take(self) -> tuple[Faces, Floats] | None:
        """The faces of the last look and the boxes known when it began; None while it lasts."""
        if self._running is None or not self._running.done():
            return None
        done, self._running = self._running, None
        return done.result(), self._known

    def drop(self) -> None:
        """Forget the look that was begun: the scene is another one now."""
        if self._running is not None:
            self._running.cancel()  # if it has not begun, nobody waits behind it
        self._running = None


@cache
def _watchmen() -> ThreadPoolExecutor:
    """For all streams of the process: threads of its own would outlive each that ends."""
    return ThreadPoolExecutor(
        max(1, (os.cpu_count() or 1) // 2), "mien-lookout", initializer=_back_seat
    )


def _back_seat() -> None:
    if sys.platform == "linux":  # elsewhere this would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACK_SEAT)
