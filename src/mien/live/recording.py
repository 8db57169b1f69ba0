"""Recording to a file while the engine runs, begun and ended from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from mien import media
from mien.errors import MediaError, UsageError
from mien.live.engine import Engine
from mien.live.outputs import Encoded


class Recorder:
    """One recording at a time, beside the other outputs. All methods may be called by any thread.

    Args:
        engine: Whose picture is recorded.
        make: Makes the output for a file.
        folder: Where all files go; None for the working folder.
    """

    def __init__(
        self, engine: Engine, make: Callable[[str], Encoded], folder: Path | None = None
    ) -> None:
        self._engine, self._make, self._folder = engine, make, folder or Path()
        self._lock = threading.Lock()
        self._output: Encoded | None = None

    @property
    def path(self) -> str:
        """The file that is recorded to, empty if there is none."""
        output = self._output
        return output.name if output is not None and output.writing else ""

    def start(self, name: str = "") -> str:
        """Begin to record.

        Args:
            name: Of the file, without a folder: whoever asks may be any program that reaches the
                control socket. Empty for one made of date and time.

        Returns:
            The file; it has this name when it is finished.

        Raises:
            UsageError: A recording runs, or this is no plain name of a video file.
            MediaError: The file is there already or cannot be written.
        """
        with self._lock:
            if self.path:
                raise UsageError(f"record: {self.path} is being recorded; end it first")
            if not _is_plain(name):
                raise UsageError(f"record: expected a plain name, without a folder, came {name!r}")
            target = str(self._folder / name) if name else self._fresh()
            media.check_target(target)
            output = self._make(target)
            self._engine.add(output)
            self._output = output
            return target

    def stop(self) -> str:
        """End, and wait until the file is finished.

        Returns:
            The file.

        Raises:
            UsageError: Nothing is being recorded.
            MediaError: The file could not be finished.
        """
        with self._lock:
            output, self._output = self._output, None
            if output is None:
                raise UsageError("record: nothing is being recorded")
            self._engine.remove(output)
            error = self._error(output)
            if error:
                raise MediaError(error)
            return output.name

    def _error(self, output: Encoded) -> str:
        found = [o.error for o in self._engine.statistics().outputs if o.name == output.name]
        return found[-1] if found else ""

    def _fresh(self) -> str:
        stem = f"mien-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{stem}{f'-{n}' if n else ''}.mp4" for n in range(1000))
        return str(next(p for n in names if not (p := self._folder / n).exists()))


def _is_plain(name: str) -> bool:
    """Whether it names a file in a folder, on any system, and none that is hidden."""
    return not name.startswith(".") and not set(name) & set("/\\:\0")
