"""Capturing: the newest frame of a camera that may go and come back."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from mien.errors import MediaError
from mien.live.counting import Rate
from mien.live.slot import Slot
from mien.live.types import Camera, Options
from mien.media import Shot

log = logging.getLogger(__name__)

RETRY: Final = 0.25
"""Seconds between two tries to open a camera that is gone."""


class Capture:
    """Takes frames from a camera and leaves the newest in a slot.

    Args:
        opened: Opens the camera; called again when it is gone.
        options: Whether it is opened again, and when to end.
        stopping: Set when all is to end, or by the capture itself when the time is over.

    Attributes:
        slot: Where the newest frame lies.
        rate: Frames from the camera.
        recovered: How often the camera came back.
        refused: Frames that came after the time was over.
    """

    def __init__(
        self, opened: Callable[[], Camera], options: Options, stopping: threading.Event
    ) -> None:
        self._opened, self._options, self._stopping = opened, options, stopping
        self._camera: Camera | None = None
        self._own: deque[float] = deque(maxlen=30)
        self.slot: Slot[Shot] = Slot()
        self.rate = Rate()
        self.recovered = self.refused = 0

    def open(self) -> Camera:
        """Open the camera for the first time.

        Raises:
            MediaError: It cannot be opened.
        """
        self._camera = self._opened()
        return self._camera

    def run(self) -> None:
        """Take frames until the end; in a thread of its own.

        Raises:
            MediaError: The camera is gone, and is not to be opened again.
        """
        while not self._stopping.is_set():
            try:
                self._shoot()
            except MediaError as error:
                if not self._options.reopen:
                    raise
                log.warning("%s", error)
            if not self._options.reopen or not self._reopen():
                break
        self.slot.close(keep=True)

    def freshest(self) -> float:
        """Age in seconds of the youngest frames when they come."""
        return min(list(self._own), default=0.0)

    def close(self) -> None:
        """Give the camera back."""
        camera = self._camera
        if camera is not None:
            camera.close()

    def _shoot(self) -> None:
        camera, ends = self._camera, self._options.duration
        if camera is None:
            return
        for shot in camera:
            now = time.monotonic()
            if self._stopping.is_set():
                return
            self.rate.add()
            if ends is not None and self.rate.seconds >= ends:
                self.refused += 1
                self._stopping.set()
                return
            self._own.append(now - shot.time)
            self.slot.put(shot)

    def _reopen(self) -> bool:
        """Try until the camera is back; False if all is to end meanwhile."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        if not self._stopping.is_set():
            log.warning("the camera is gone; waiting for it")
        while not self._stopping.wait(RETRY):
            try:
                camera = self._opened()
            except MediaError as error:
                log.debug("%s", error)
                continue
            self._camera = camera
            self.recovered += 1
            log.warning("%s: the camera is back", camera.name)
            return True
        return False
