"""A disk that is full: how its errors look, and what is left free of it."""

from __future__ import annotations

import errno
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

SPARE: Final = 8 << 20
"""Bytes of a disk that are left free, so that rows can still be written."""

RESERVE: Final = "reserve"
"""Name of a file in the data folder that is given up where rows cannot be written any more."""

_RESERVED: Final = 4 << 20

_NUMBERS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

_SQLITE: Final = 13
"""``SQLITE_FULL``, https://www.sqlite.org/rescode.html"""

_POSTGRESQL: Final = "53100"
"""``disk_full``, https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_DEEPEST: Final = 20


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, says that a disk is full."""
    for _ in range(_DEEPEST):
        if error is None:
            return False
        if (
            getattr(error, "errno", None) in _NUMBERS
            or getattr(error, "sqlite_errorcode", None) == _SQLITE
            or getattr(error, "sqlstate", None) == _POSTGRESQL
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def has_room(folder: Path, size: int = 0) -> bool:
    """Whether a disk takes so many bytes more, and what is to be left free is left."""
    try:
        return shutil.disk_usage(folder).free - size >= SPARE
    except OSError:
        return False


def keep_reserve(folder: Path) -> None:
    """Take some space for the rows, if there is enough for it and for others.

    Somebody else may take the last byte of a disk; a job could not even say then that it waits.
    """
    path = folder / RESERVE
    if not path.exists() and has_room(folder, 2 * _RESERVED):
        with suppress(OSError):
            path.write_bytes(secrets.token_bytes(_RESERVED))  # zeros take no space everywhere


def give_reserve(folder: Path) -> None:
    """Let the rows have it."""
    (folder / RESERVE).unlink(missing_ok=True)
