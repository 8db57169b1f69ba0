"""How faces are followed live."""

from __future__ import annotations

from dataclasses import replace

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
