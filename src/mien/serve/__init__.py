"""One page for browsers, and the way in for games and scripts.

The engine's process calls :func:`browser_output` for a :class:`BrowserOutput`, an output like
any other: ``open``, ``write`` and ``close`` are called by the engine, and the page is at ``url``
from the beginning. A second process (:mod:`mien.serve.process`) does HTTP and sockets; pictures
cross by mailboxes in shared memory, words by a pipe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.serve.control import EngineControls as EngineControls
    from mien.serve.control import People as People
    from mien.serve.options import PORT as PORT
    from mien.serve.options import IceServer as IceServer
    from mien.serve.options import PageOptions as PageOptions
    from mien.serve.options import is_loopback as is_loopback
    from mien.serve.options import new_token as new_token
    from mien.serve.output import BrowserOutput as BrowserOutput
    from mien.serve.output import Controls as Controls
    from mien.serve.output import browser_output as browser_output
    from mien.serve.visitors import Perform as Perform

_HOME = {
    "PORT": "options",
    "BrowserOutput": "output",
    "Controls": "output",
    "EngineControls": "control",
    "IceServer": "options",
    "PageOptions": "options",
    "People": "control",
    "Perform": "visitors",
    "browser_output": "output",
    "is_loopback": "options",
    "new_token": "options",
}
"""Public name → module; imported on first use, since the server's process needs no pixels."""

__all__ = [
    "PORT",
    "BrowserOutput",
    "Controls",
    "EngineControls",
    "IceServer",
    "PageOptions",
    "People",
    "Perform",
    "browser_output",
    "is_loopback",
    "new_token",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
