"""Where a face will be: a Kalman filter of its box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mien.types import Floats

Doubles = NDArray[np.float64]

SEEN: Final = np.array([0.015, 0.015, 0.015, 0.02])
"""Standard deviation of a measured box: of its middle in parts of its height, and of the
logarithms of height and of width over height."""

PUSH: Final = np.array([0.012, 0.012, 0.006, 0.0])
"""Likewise of what changes its speed in a frame; the shape has none."""

DRIFT: Final = np.array([0.0, 0.0, 0.0, 0.02])
"""Likewise of what changes it without speed."""

FADING: Final = np.array([0.98, 0.98, 0.8, 0.0])
"""Share of its speed that a face has after a frame in which it was not seen."""


@dataclass(slots=True)
class Path:
    """The motion of one box: middle, height and shape, at constant speed but for chance.

    The state is SORT's (Bewley et al., "Simple online and realtime tracking", 2016) with the
    logarithm of the height in place of the area; noise grows with the height as in DeepSORT
    (Wojke et al., "Simple online and realtime tracking with a deep association metric", 2017).
    The four coordinates are independent, so each has a filter of two numbers, and no matrix is
    inverted.

    Attributes:
        place: ``(4,)`` middle x and y in pixels, ln height, ln of width over height.
        speed: ``(4,)`` of these in a frame.
        spread: ``(3, 4)`` variance of place, covariance, variance of speed.
    """

    place: Doubles
    speed: Doubles = field(default_factory=lambda: np.zeros(4))
    spread: Doubles = field(default_factory=lambda: np.zeros((3, 4)))

    @classmethod
    def start(cls, box: Floats) -> Path:
        """A face that appears in ``(4,)`` xyxy, moving nobody knows how."""
        place = _place(box)
        noise = SEEN**2 * _scale(place)
        moving = np.array([0.05, 0.05, 0.02, 0]) ** 2 * _scale(place)
        return cls(place, np.zeros(4), np.stack([noise, np.zeros(4), moving]))

    @property
    def box(self) -> Floats:
        """``(4,)`` float32 xyxy of the state."""
        x, y, tall, shape = self.place
        height = np.exp(tall)
        w, h = height * np.exp(shape) / 2, height / 2
        return np.array([x - w, y - h, x + w, y + h], np.float32)

    def predict(self, *, seen: bool = True) -> None:
        """Go on by a frame; one that was not seen in the last comes slowly to rest."""
        if not seen:
            self.speed = self.speed * FADING
        a, b, c = self.spread
        scale = _scale(self.place)
        push = PUSH**2 * scale
        self.place = self.place + self.speed
        self.spread = np.stack(
            [a + 2 * b + c + push / 4 + DRIFT**2 * scale, b + c + push / 2, c + push]
        )

    def update(self, box: Floats) -> None:
        """Take in where it was seen, ``(4,)`` xyxy."""
        a, b, c = self.spread
        wrong = _place(box) - self.place
        total = a + SEEN**2 * _scale(self.place)
        first, second = a / total, b / total
        self.place = self.place + first * wrong
        self.speed = self.speed + second * wrong
        self.spread = np.stack([(1 - first) * a, (1 - first) * b, c - second * b])

    def surprise(self, box: Floats) -> float:
        """The squared Mahalanobis distance of ``(4,)`` xyxy from what is foreseen."""
        total = self.spread[0] + SEEN**2 * _scale(self.place)
        return float(((_place(box) - self.place) ** 2 / total).sum())

    def copy(self) -> Path:
        """One that goes its own way."""
        return Path(self.place.copy(), self.speed, self.spread)


def _place(box: Floats) -> Doubles:
    x0, y0, x1, y1 = (float(v) for v in box)
    height, width = max(y1 - y0, 1e-3), max(x1 - x0, 1e-3)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, np.log(height), np.log(width / height)])


def _scale(place: Doubles) -> Doubles:
    """Variances are in parts of the height squared, where it is a matter of pixels."""
    square = float(np.exp(2 * place[2]))
    return np.array([square, square, 1.0, 1.0])
