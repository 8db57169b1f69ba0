"""How faces are followed live."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mien.track import LIVE, TrackOptions

QUICK, THOROUGH = 1, 8
"""Frames between looks of the detector in private: who comes in must not be seen.

Everything that might be a face is taken for one there, too."""


def tracking_of(tracking: TrackOptions | None, *, private: bool) -> TrackOptions:
    """The tracker's options: those given, or the usual ones; stricter in private."""
    usual = tracking or replace(LIVE, beside=True)
    if not private:
        return usual
    return replace(usual, quick=QUICK, thorough=THOROUGH, beside=False, fade=0, sure=0.0)


WAIT: Final = 0.5
"""Intervals that a frame may have waited before one is left out."""

SELDOM: Final = 2.0
"""Seconds between two frames that are left out."""


@dataclass(slots=True)
class CatchUp:
    """Says when to leave a frame out, so that the next one is fresh again.

    After a frame that took long those that follow wait, and make up for it little by little: ten
    of them are late. Leaving one out is enough. It is done seldom, so that a machine on which all
    frames wait loses next to none by it.
    """

    _last: float = float("-inf")

    def __call__(self, waited: float, now: float) -> bool:
        """Whether to leave this frame out.

        Args:
            waited: For how long it lay there, in intervals between frames.
            now: Seconds on any clock that does not go back.
        """
        if waited <= WAIT or now - self._last < SELDOM:
            return False
        self._last = now
        return True
