"""The folder in which models lie that do not come with mien."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mien.errors import MediaError


def default_folder() -> Path:
    """Where the system keeps an application's data: ``~/.local/share/mien/models`` on Linux.

    Nothing is created; the folder is there once something is put into it.
    """
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA")
        data = Path(home) if home else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        home = os.environ.get("XDG_DATA_HOME", "")
        # The specification says that a path that is not absolute counts as not set.
        data = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share"
    return data / "mien" / "models"


def make(folder: Path) -> None:
    """Make a folder, and those that it is in.

    Raises:
        MediaError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{folder}: cannot be made ({error.strerror})") from error


def write(file: Path, text: str) -> None:
    """Write a small file whole or not at all, whoever else writes or reads it meanwhile.

    Raises:
        OSError: The folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
