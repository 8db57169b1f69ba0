"""Filters that take the tremble out of a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from mien.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from mien.track.flow import Seen
from mien.types import Floats


@dataclass(slots=True)
class Steady:
    """Takes the tremble out of a mesh with a lag that is bounded.

    Each point is carried along by what the picture shows of its motion, if that is known, and
    then moves toward its fitted place by a share of its innovation ``e`` that grows with it, the
    weight of Geman and McClure's robust estimator turned round: ``e² / (e² + e₀²)``. What is
    smaller than ``e₀`` is noise and mostly ignored, a blink is followed at once. What stays
    behind, ``e·e₀² / (e² + e₀²)``, is never more than ``e₀ / 2``. A One-Euro filter as steady as
    this (2 Hz, beta 6) lagged by up to 5 % of the face on the same footage and cut blinks in half.

    Where flow carries a point, ``e`` is no motion but tremble, slow error of the fit or of the
    flow. There ``e₀`` is larger, :func:`_slack`, the share ``e⁴ / (e⁴ + e₀⁴)``, which leaves at
    most ``0.57·e₀``, and never less than :data:`PULL`, so that the flow's errors do not add up.

    Attributes:
        tremble: ``e₀`` of points that are not carried, in parts of the face's width.
        value: ``(N, 3)`` the last result.
    """

    tremble: float
    value: Floats | None = None

    def __call__(self, x: Floats, width: float, seen: Seen | None = None) -> Floats:
        """Filtered points of a face; the first call returns x.

        Args:
            x: ``(N, 3)`` as fitted.
            width: Of the face in pixels.
            seen: Where flow saw the points of the last result go.
        """
        if self.value is None:
            self.value = x
            return x
        carried, free = self.value.copy(), np.full(len(x), self.tremble, np.float32)
        if seen is not None:
            carried[:, :2] = seen.points
            free += seen.trust * (_slack(len(x)) - free)
        step = x - carried
        ratio = (step[:, :2] ** 2).sum(1) / ((free * width) ** 2 + 1e-12)
        if seen is None:
            weight = ratio / (1 + ratio)
        else:
            weight = np.maximum(ratio**2 / (1 + ratio**2), PULL)
        self.value = (carried + step * weight[:, None]).astype(np.float32)
        return self.value


PULL: Final = 0.1
"""Least share of the way from where flow carries a point to where it is fitted."""


@cache
def _slack(count: int) -> Floats:
    """``(count,)`` e₀ in parts of the face's width for points that flow carries.

    Lids, irises and lips move faster than flow sees.
    """
    out = np.full(count, 0.02, np.float32)
    out[[v for v in INNER_LIPS + OUTER_LIPS if v < count]] = 0.012
    out[[v for v in LEFT_EYE + RIGHT_EYE if v < count]] = 0.007
    out[468:] = 0.007
    return out


@dataclass(slots=True)
class OneEuro:
    """The One-Euro filter (Casiez, Roussel and Vogel, "1€ filter", CHI 2012) on every point.

    A low-pass whose cutoff grows with speed: ``cutoff + beta·|v|``. Speed is measured in widths
    of the face a second, so that the settings hold at any size and rate. A point has one speed,
    so that it is moved as a whole and not along the axes.

    Attributes:
        cutoff: In hertz, of a point at rest.
        beta: Hertz for each width of the face a second.
        value: ``(N, 3)`` the last result.
    """

    cutoff: float
    beta: float
    value: Floats | None = None
    _before: Floats | None = None
    _speed: Floats | None = None

    def __call__(self, x: Floats, width: float, seconds: float) -> Floats:
        """Filtered points of a face; the first call returns x.

        Args:
            x: ``(N, 3)`` as fitted.
            width: Of the face in pixels.
            seconds: Since the last call.
        """
        if self.value is None or self._before is None or self._speed is None:
            self.value, self._before, self._speed = x, x, np.zeros_like(x)
            return x
        speed = (x - self._before) / np.float32(width * seconds)
        self._speed = self._speed + _share(np.float32(SPEED_CUTOFF), seconds) * (
            speed - self._speed
        )
        cutoff = self.cutoff + self.beta * np.linalg.norm(self._speed[:, :2], axis=1)
        share = _share(cutoff, seconds)
        self._before = x
        self.value = (self.value + share[:, None] * (x - self.value)).astype(np.float32)
        return self.value

    def carry(self, value: Floats) -> None:
        """Put the last result where the face is foreseen to be."""
        if self.value is not None and self._before is not None:
            self._before = self._before + (value - self.value)
            self.value = value


SPEED_CUTOFF: Final = 1.0
"""In hertz, of the speed itself; the paper's own value."""


def _share(cutoff: Floats | np.float32, seconds: float) -> Floats:
    """Of the way to a new value, by a first-order low-pass."""
    turn = 2 * np.pi * cutoff * seconds
    return np.asarray(turn / (turn + 1), np.float32)
