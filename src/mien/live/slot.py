"""A mailbox with one place, in which the newest wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Passes the newest of something from one thread to another.

    Attributes:
        replaced: How many were put there and never taken.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self.replaced = 0

    def put(self, item: T) -> None:
        """Leave something; what lies there is thrown away. After ``close`` so is this."""
        with self._changed:
            if self._closed or self._item is not None:
                self.replaced += 1
            if not self._closed:
                self._item = item
                self._changed.notify()

    def take(self, timeout: float | None = None) -> T | None:
        """Wait for something; None when the time is over or the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return item

    @property
    def empty(self) -> bool:
        """Whether nothing lies there."""
        with self._changed:
            return self._item is None

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        with self._changed:
            return self._closed

    def close(self, *, keep: bool = False) -> None:
        """Let nothing more in, and wake who waits.

        Args:
            keep: What lies there may still be taken; else it counts as replaced.
        """
        with self._changed:
            self._closed = True
            if not keep and self._item is not None:
                self._item = None
                self.replaced += 1
            self._changed.notify_all()
