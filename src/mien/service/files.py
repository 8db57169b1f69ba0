"""Files of the service: a folder by default, any store that fsspec knows by a URL."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from mien.errors import MediaError
from mien.service.outages import has_room

BLOCK: Final = 1 << 20
"""Bytes that are moved at a time."""

PATIENT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "read_timeout": 10,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
"""What botocore is told, https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html,
unless the operator says otherwise: its own five attempts of a minute would hold whoever waits."""

UNFINISHED: Final = ".part"
"""Behind the names of files in a folder that are not whole yet."""


class Stored(NamedTuple):
    """What was put into the store.

    Attributes:
        size: In bytes.
        sha256: Hexadecimal.
    """

    size: int
    sha256: str


class Files:
    """A store of files by path. Paths are made by the service alone, never of what a user says.

    Attributes:
        url: ``/a/folder``, ``file:///a/folder`` or ``s3://bucket/prefix`` and so on.
    """

    def __init__(self, url: str, **options: Any) -> None:
        """Open the store.

        Args:
            url: Where it is.
            options: Of fsspec's file system, for instance ``endpoint_url``.

        Raises:
            MediaError: No such kind of store is installed.
        """
        import fsspec  # noqa: PLC0415 - slow

        self.url = url
        try:
            self._system, self._root = fsspec.core.url_to_fs(url, **patient(url, options))
        except (ImportError, ValueError) as error:
            raise MediaError(f"{url}: there is no such store ({error})") from error
        self._folder = Path(self._root) if "file" in self._system.protocol else None
        if hasattr(self._system, "retries"):
            self._system.retries = 1  # s3fs tries again what botocore has tried again

    def _at(self, path: str) -> str:
        parts = path.split("/")
        if not all(p and p not in (".", "..") and p.isprintable() for p in parts) or "\\" in path:
            raise MediaError(f"{path!r}: expected a path inside the store")
        return f"{self._root}/{path}"

    def put(self, path: str, source: Path | IO[bytes]) -> Stored:
        """Put a file into the store; it appears whole, or not at all, and once: paths are new.

        Raises:
            MediaError: The store cannot be reached, or is full.
        """
        digest, size = hashlib.sha256(), 0
        with _named(path, "cannot be stored"), _reading(source) as data:
            whole = self._at(path)
            # An object store shows no file before it is whole; a folder does.
            unfinished = whole if self._folder is None else f"{whole}{UNFINISHED}"
            try:
                if self._folder is not None:
                    self._make_room(whole, source)
                with self._system.open(unfinished, "wb") as out:
                    while block := data.read(BLOCK):
                        digest.update(block)
                        size += len(block)
                        out.write(block)
                if unfinished != whole:
                    self._system.mv(unfinished, whole)
            except BaseException:
                if unfinished != whole:
                    with suppress(Exception):
                        self._system.rm_file(unfinished)
                raise
        return Stored(size, digest.hexdigest())

    def _make_room(self, whole: str, source: Path | IO[bytes]) -> None:
        """Make the folder of a file, on a disk that has room for it and then some.

        Raises:
            OSError: It has not.
        """
        folder = Path(whole).parent
        folder.mkdir(parents=True, exist_ok=True)
        if not has_room(folder, source.stat().st_size if isinstance(source, Path) else 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def get(self, path: str, target: Path) -> None:
        """Copy a file out of the store.

        Raises:
            MediaError: It is not there, the store cannot be reached, or the disk is full.
        """
        with (
            _named(path, "cannot be read from the store"),
            self._system.open(self._at(path), "rb") as data,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(data, out, BLOCK)

    def read(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes of a file from ``start`` until before ``end``, in blocks.

        Raises:
            MediaError: As for :meth:`get`.
        """
        with (
            _named(path, "cannot be read from the store"),
            self._system.open(self._at(path), "rb") as data,
        ):
            data.seek(start)
            left = end - start
            while left > 0 and (block := data.read(min(BLOCK, left))):
                left -= len(block)
                yield block

    def remove(self, path: str) -> None:
        """Remove a file, if it is there.

        Raises:
            MediaError: The store cannot be reached.
        """
        whole = self._at(path)
        # Who was killed over it left what it had.
        every = (whole,) if self._folder is None else (whole, f"{whole}{UNFINISHED}")
        for one in every:
            with _named(path, "cannot be removed from the store"), suppress(FileNotFoundError):
                self._system.rm_file(one)

    def clear(self, folder: str) -> None:
        """Remove a folder of the store and everything in it, if it is there.

        Raises:
            MediaError: The store cannot be reached.
        """
        with _named(folder, "cannot be removed from the store"), suppress(FileNotFoundError):
            self._system.invalidate_cache()  # others put files there, too
            self._system.rm(self._at(folder), recursive=True)


def patient(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a store, with bounds of time where they have none."""
    if url.partition("://")[0] not in ("s3", "s3a"):
        return dict(options)
    return {**options, "config_kwargs": PATIENT | dict(options.get("config_kwargs") or {})}


@contextmanager
def _named(path: str, what: str) -> Iterator[None]:
    """Turn the errors of a store into one that names the file; each kind of store has its own."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{path}: {what} ({error})") from error


@contextmanager
def _reading(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source
