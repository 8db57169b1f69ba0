"""Where the visible label is: clear of faces, and in a video where it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mien.types import Face, Rect

PATIENCE: Final = 0.4
"""Seconds for which a face is over the label before that moves."""

REST: Final = 2.0
"""Seconds for which it does not move again."""

NEAR: Final = 0.12
"""Share of its box by which a face is larger than that, hair and chin included."""

CALM: Final = 0.4
"""The same for a place to be moved to, so that the face does not follow at once."""


class Placer:
    """Chooses where the label is: clear of faces, and in a video where it was.

    In a video the label moves when a face has been over it for :data:`PATIENCE` seconds and
    another place is free with some room around, and then stays there in turn.
    """

    def __init__(self) -> None:
        self._at = ""
        self._covered: float | None = None
        self._seen = self._moved = -np.inf

    def __call__(
        self, rects: dict[str, Rect], faces: Sequence[Face], now: float | None = None
    ) -> str:
        """Choose one of the places.

        Args:
            rects: Place → rectangle, the best place first.
            faces: Of the frame.
            now: Seconds in the stream; None for a still, which is not like the one before.
        """
        if now is None:
            return _freest(rects, faces)
        if not self._seen <= now or self._at not in rects:
            self._at, self._covered, self._moved = _freest(rects, faces), None, -np.inf
        self._seen = now
        if _cover(rects[self._at], faces, NEAR) <= 0:
            self._covered = None
            return self._at
        if self._covered is None:
            self._covered = now
        if now - self._covered >= PATIENCE and now - self._moved >= REST:
            best = _freest(rects, faces, CALM)
            if _cover(rects[best], faces, NEAR) < 0.5 * _cover(rects[self._at], faces, NEAR):
                self._at, self._covered, self._moved = best, None, now
        return self._at


def _freest(rects: dict[str, Rect], faces: Sequence[Face], grown: float = NEAR) -> str:
    """The first place that faces keep off, or else the one that they cover least."""
    free = (p for p in rects if _cover(rects[p], faces, grown) <= 0)
    return next(free, "") or min(rects, key=lambda p: _cover(rects[p], faces, NEAR))


def _cover(rect: Rect, faces: Sequence[Face], grown: float) -> float:
    """How much of a rectangle faces cover, 0..1 and more where they cover it twice."""
    area = max(1, (rect.x1 - rect.x0) * (rect.y1 - rect.y0))
    total = 0.0
    for face in faces:
        x0, y0, x1, y1 = map(float, face.box)
        dx, dy = grown * (x1 - x0), grown * (y1 - y0)
        across = min(rect.x1, x1 + dx) - max(rect.x0, x0 - dx)
        down = min(rect.y1, y1 + dy) - max(rect.y0, y0 - dy)
        if across > 0 and down > 0:
            total += across * down / area
    return total
