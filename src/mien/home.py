"""The folder of what mien keeps: people, keys, certificates and the log of what was done.

``MIEN_HOME`` names it; else it is the system's usual place for a user's data.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from mien.errors import MediaError, Refused

VARIABLE: Final = "MIEN_HOME"
"""Environment variable that names the folder."""

OWN: Final = ("people.db", "key", "audit.jsonl", "policy.toml", "certificate")
"""What tells that a folder is mien's."""


def folder() -> Path:
    """The folder, made if it is not there, which its owner alone may read.

    Raises:
        MediaError: It cannot be made, or is no folder.
        Refused: Others may read it, and it holds other things than mien's.
    """
    path = place()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            names = {entry.name for entry in path.iterdir()}
            if names and names.isdisjoint(OWN):
                raise Refused(
                    f"{path}: others may read this folder, and it holds other things, by the rule "
                    f"that what mien keeps is its owner's alone; name a folder of its own with "
                    f"{VARIABLE}"
                )
            path.chmod(0o700)
    except Refused:
        raise
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
