"""Files of the service: a folder by default, any store that fsspec knows by a URL."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from mien.errors import MediaError

BLOCK: Final = 1 << 20
"""Bytes that are moved at a time."""


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
            self._system, self._root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise MediaError(f"{url}: there is no such store ({error})") from error

    def _at(self, path: str) -> str:
        parts = path.split("/")
        if not all(p and p not in (".", "..") and p.isprintable() for p in parts) or "\\" in path:
            raise MediaError(f"{path!r}: expected a path inside the store")
        return f"{self._root}/{path}"

    def put(self, path: str, source: Path | IO[bytes]) -> Stored:
        """Put a file into the store; it appears whole, or not at all.

        Raises:
            MediaError: The store cannot be reached, or is full.
        """
        digest, size = hashlib.sha256(), 0
        unfinished = f"{path}.{secrets.token_hex(4)}.part"
        with _named(path, "cannot be stored"):
            self._system.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
            try:
                with _reading(source) as data, self._system.open(self._at(unfinished), "wb") as out:
                    while block := data.read(BLOCK):
                        digest.update(block)
                        size += len(block)
                        out.write(block)
                self._system.mv(self._at(unfinished), self._at(path))
            except BaseException:
                with suppress(Exception):
                    self._system.rm_file(self._at(unfinished))
                raise
        return Stored(size, digest.hexdigest())

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
        with _named(path, "cannot be removed from the store"), suppress(FileNotFoundError):
            self._system.rm_file(self._at(path))

    def clear(self, folder: str) -> None:
        """Remove a folder of the store and everything in it, if it is there.

        Raises:
            MediaError: The store cannot be reached.
        """
        with _named(folder, "cannot be removed from the store"), suppress(FileNotFoundError):
            self._system.invalidate_cache()  # others put files there, too
            self._system.rm(self._at(folder), recursive=True)


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
