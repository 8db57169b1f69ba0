"""A disk that is full: how its errors look, and what is left free of it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Final

SPARE: Final = 8 << 20
"""Bytes of a disk that are left free, so that rows can still be written."""

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
