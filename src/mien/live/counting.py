"""What is counted while the engine runs, in memory that does not grow."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

import numpy as np

BIN: Final = 0.0005
"""Seconds of age to a bin of the histogram."""

BINS: Final = 20_000
"""Ages from ten seconds on are counted as that."""

WINDOW: Final = 2.0
"""Seconds over which a running engine's figures are taken."""


class Ages:
    """Ages of frames: percentiles of all, and of the last seconds. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = np.zeros(BINS, np.int64)
        self._recent: deque[tuple[float, float]] = deque(maxlen=512)

    def add(self, seconds: float) -> None:
        """Count one."""
        with self._lock:
            self._counts[min(BINS - 1, max(0, int(seconds / BIN)))] += 1
            self._recent.append((time.monotonic(), seconds))

    def all(self, *percentiles: float) -> list[float]:
        """Milliseconds that so many percent do not exceed; 0 where nothing was counted."""
        with self._lock:
            total = np.cumsum(self._counts)
        if not total[-1]:
            return [0.0] * len(percentiles)
        places = np.searchsorted(total, [max(1.0, p / 100 * total[-1]) for p in percentiles])
        return [round(float(place + 0.5) * BIN * 1000, 2) for place in places]

    def recent(self, *percentiles: float) -> list[float]:
        """The same of the last two seconds."""
        since = time.monotonic() - WINDOW
        with self._lock:
            ages = [age for at, age in self._recent if at >= since]
        if not ages:
            return [0.0] * len(percentiles)
        return [round(float(v) * 1000, 2) for v in np.percentile(ages, percentiles)]

    def last(self, count: int) -> list[float]:
        """The newest, in seconds."""
        with self._lock:
            return [age for _, age in list(self._recent)[-count:]]


class Rate:
    """How often something happens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=512)
        self.count = 0
        self._first = 0.0

    def add(self) -> None:
        """It happened."""
        now = time.monotonic()
        with self._lock:
            self._first = self._first if self.count else now
            self.count += 1
            self._times.append(now)

    def all(self) -> float:
        """Times a second from the first to the last."""
        with self._lock:
            spent = self._times[-1] - self._first if self.count > 1 else 0.0
            return round((self.count - 1) / spent, 2) if spent > 0 else 0.0

    def recent(self) -> float:
        """Times a second over the last two seconds, or since the first."""
        now = time.monotonic()
        with self._lock:
            if not self.count:
                return 0.0
            span = min(WINDOW, max(now - self._first, 0.1))
            return round(sum(at >= now - span for at in self._times) / span, 2)

    @property
    def seconds(self) -> float:
        """Since the first; 0 before."""
        with self._lock:
            return time.monotonic() - self._first if self.count else 0.0


def usually(seconds: list[float]) -> float:
    """What four of five stay below; 0 of none."""
    return float(np.percentile(seconds, 80)) if seconds else 0.0
