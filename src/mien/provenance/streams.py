"""Files as the library of content credentials is handed them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mien.errors import MediaError


class Same:
    """Takes what is written without writing it, as it is what the file has at that place.

    The library writes the whole file again where it leaves it unchanged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def write(self, data: bytes) -> int:
        self._file.seek(len(data), os.SEEK_CUR)
        return len(data)

    def flush(self) -> None:
        """Nothing was written."""


class Watched:
    """A file that remembers what went wrong, since the library says it in words of its own."""

    def __init__(self, file: Any, until: float | None = None) -> None:
        self._file, self._until = file, until
        self._error: OSError | None = None
        self.late = False

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self._until is not None and time.monotonic() > self._until:
            self.late = True
            raise TimeoutError
        try:
            return call(*arguments)
        except OSError as error:
            self._error = self._error or error
            raise

    def read(self, *arguments: Any) -> Any:
        return self._do(self._file.read, *arguments)

    def write(self, data: bytes) -> Any:
        return self._do(self._file.write, data)

    def seek(self, *arguments: Any) -> Any:
        return self._do(self._file.seek, *arguments)

    def tell(self) -> Any:
        return self._do(self._file.tell)

    def flush(self) -> Any:
        return self._do(self._file.flush)

    def complain(self, name: Path) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            MediaError: Reading or writing failed, or it took too long.
        """
        if self.late:
            raise MediaError(f"{name}: took too long to check")
        if self._error is not None:
            raise MediaError(f"{name}: cannot be signed or checked ({self._error.strerror})")
