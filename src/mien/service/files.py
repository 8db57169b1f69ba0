"""Files of the service: a folder by default, any store that fsspec knows by a URL."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from mien.errors import MediaError
from mien.service.outages import has_room

BLOCK: Final = 4 << 20
"""Bytes that are moved at a time."""

SECONDS: Final = 20.0
"""For a word of an object store, or a block."""

SLOWEST: Final = 1 << 20
"""Bytes a second that an object store takes at least, for files that are sent."""

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
        if self._folder is None and not self._system.async_impl:
            raise MediaError(f"{url}: expected a folder, or an object store such as s3://…")
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
            if self._folder is None:
                while block := data.read(BLOCK):
                    digest.update(block)
                    size += len(block)
                self._send(whole, source, size)
                return Stored(size, digest.hexdigest())
            self._make_room(whole, source)
            unfinished = Path(f"{whole}{UNFINISHED}")
            try:
                with unfinished.open("wb") as out:
                    while block := data.read(BLOCK):
                        digest.update(block)
                        size += len(block)
                        out.write(block)
                unfinished.replace(whole)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        return Stored(size, digest.hexdigest())

    def _send(self, whole: str, source: Path | IO[bytes], size: int) -> None:
        """Send a file to an object store, which shows none before it is whole."""
        seconds = SECONDS + size / SLOWEST
        if isinstance(source, Path):
            self._soon(self._system._put_file, str(source), whole, seconds=seconds)
        else:
            source.seek(0)
            self._soon(self._system._pipe_file, whole, source.read(), seconds=seconds)

    def _soon(
        self, act: Callable[..., Any], *given: Any, seconds: float | None = None, **more: Any
    ) -> Any:
        """Let the store do something, for so long and no longer.

        Its library bounds the time for an answer, but not that for taking what is sent.

        Raises:
            TimeoutError: It took longer.
        """
        doing = asyncio.wait_for(act(*given, **more), seconds or SECONDS)
        return asyncio.run_coroutine_threadsafe(doing, self._system.loop).result()

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
        with _named(path, "cannot be read from the store"), ExitStack() as held:
            if self._folder is None:
                size = int(self._soon(self._system._info, self._at(path))["size"])
                blocks = self._blocks(path, 0, size)
            else:
                blocks = _blocks(held.enter_context(Path(self._at(path)).open("rb")), 0, None)
            with target.open("wb") as out:
                out.writelines(blocks)

    def read(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes of a file from ``start`` until before ``end``, in blocks.

        Raises:
            MediaError: As for :meth:`get`.
        """
        with _named(path, "cannot be read from the store"):
            if self._folder is None:
                yield from self._blocks(path, start, end)
            else:
                with Path(self._at(path)).open("rb") as data:
                    yield from _blocks(data, start, end - start)

    def _blocks(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """The same of an object store."""
        while start < end:
            wanted = min(BLOCK, end - start)
            block = self._soon(
                self._system._cat_file, self._at(path), start=start, end=start + wanted
            )
            if block:
                yield block
            if len(block) < wanted:
                return
            start += wanted

    def remove(self, path: str) -> None:
        """Remove a file, if it is there.

        Raises:
            MediaError: The store cannot be reached.
        """
        whole = self._at(path)
        with _named(path, "cannot be removed from the store"), suppress(FileNotFoundError):
            if self._folder is None:
                self._soon(self._system._rm_file, whole)
                return
            # Who was killed over it left what it had.
            Path(f"{whole}{UNFINISHED}").unlink(missing_ok=True)
            Path(whole).unlink()

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
        said = str(error) or type(error).__name__
        raise MediaError(f"{path}: {what} ({said})") from error


def _blocks(data: IO[bytes], start: int, size: int | None) -> Iterator[bytes]:
    """Bytes of an open file from a place on, no more than ``size`` of them."""
    data.seek(start)
    left = sys.maxsize if size is None else size
    while left > 0 and (block := data.read(min(BLOCK, left))):
        left -= len(block)
        yield block


@contextmanager
def _reading(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source
