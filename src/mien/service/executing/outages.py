"""Telling a disk that is full, or a store that is away, from what is wrong with a job."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from mien.errors import MediaError, NoFace, Refused, UsageError
from mien.service import problems
from mien.service.executing.leases import Stopped
from mien.service.files import Files
from mien.service.jobs import Lost
from mien.service.outages import has_room, is_full
from mien.service.problems import Problem

_OTHERWISE: Final = (*(NoFace, UsageError, Refused, Problem), *(Stopped, Lost, SQLAlchemyError))
"""Errors that have nothing to do with the disk, unless they say so."""


class Away(Exception):
    """The store cannot be reached, or a disk is full.

    Attributes:
        problem: As the job says it.
    """

    def __init__(self, status: int, name: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problems.details(status, name, detail)


def store_away() -> Away:
    """What is raised where the store cannot be reached."""
    return Away(503, "store", "the store of files cannot be reached; goes on when it is back")


def disk_full() -> Away:
    """What is raised where a disk is full."""
    return Away(507, "full", "there is no space left; goes on when there is")


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Tell a store that is away, or full, from a file that cannot be read.

    Raises:
        Away: It is.
    """
    try:
        yield
    except MediaError as error:
        if is_full(error):
            raise disk_full() from error
        if isinstance(error.__cause__, FileNotFoundError):
            raise RuntimeError("a file of the job is not in the store any more") from error
        raise store_away() from error


def came_of_full(error: Exception, folder: Path) -> bool:
    """Whether an error came of a full disk; not all that fails then says so."""
    if is_full(error):
        return True
    return not isinstance(error, _OTHERWISE) and not has_room(folder)


def look(scratch: Path, files: Files) -> None:
    """See whether disk and store are there.

    Raises:
        Away: They are not.
    """
    probe = scratch / f".probe-{secrets.token_hex(4)}"
    try:
        if not has_room(scratch):
            raise disk_full()
        probe.write_bytes(bytes(1 << 20))
    except OSError as error:
        raise disk_full() from error
    finally:
        probe.unlink(missing_ok=True)
    path = f"probe/{secrets.token_hex(8)}"
    with storing():
        files.put(path, io.BytesIO(bytes(1 << 20)))
        files.remove(path)
