"""The folder of what mien keeps: people, keys, certificates and the log of what was done.

``MIEN_HOME`` names it; else it is the system's usual place for a user's data.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from mien.errors import MediaError

VARIABLE: Final = "MIEN_HOME"
"""Environment variable that names the folder."""


def folder() -> Path:
    """The folder, made if it is not there, which its owner alone may read.

    Raises:
        MediaError: It cannot be made, is no folder, or others may read it and that cannot be
            changed.
    """
    path = place()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except FileExistsError as error:
        raise MediaError(
            f"{path}: is a file, and mien keeps its data in a folder; name one with {VARIABLE}"
        ) from error
    except OSError as error:
        raise MediaError(
            f"{path}: mien keeps its data there, and cannot ({error.strerror}); name a folder of "
            f"your own with {VARIABLE}"
        ) from error
    return path


def place() -> Path:
    """Where the folder is or would be; nothing is made."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_data_path  # noqa: PLC0415 - only where it is needed

    return user_data_path("mien", appauthor=False)
