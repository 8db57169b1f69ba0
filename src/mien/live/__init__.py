"""Live: a camera in, the swapped picture out, with a delay that does not grow.

:class:`Engine` captures, swaps and feeds outputs in threads of their own. Between them lies one
frame at most, the newest; what would be late is dropped before it is worked on.
"""

from __future__ import annotations

from mien.live.account import keep_account
from mien.live.changing import KEYS as KEYS
from mien.live.control import Commands, ControlSocket
from mien.live.engine import Engine
from mien.live.outputs import Encoded, Virtual
from mien.live.recording import Recorder
from mien.live.show import Look
from mien.live.types import (
    Camera,
    OnMiss,
    Options,
    Output,
    OutputStatistics,
    Shown,
    Statistics,
)
from mien.live.window import Window

__all__ = [
    "KEYS",
    "Camera",
    "Commands",
    "ControlSocket",
    "Encoded",
    "Engine",
    "Look",
    "OnMiss",
    "Options",
    "Output",
    "OutputStatistics",
    "Recorder",
    "Shown",
    "Statistics",
    "Virtual",
    "Window",
    "keep_account",
]
