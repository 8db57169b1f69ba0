"""Fetching published files: from the first source that gives the right one, or not at all.

pooch checks the hash and moves what is whole into place. It begins anew after a cut connection,
which hurts with files of half a gigabyte, so the downloader here goes on where it stopped.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import pooch

from mien.errors import ModelError, ModelNotFound, Refused, UsageError
from mien.zoo import pins
from mien.zoo.card import ModelCard
from mien.zoo.folder import make
from mien.zoo.store import Zoo

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

Progress = Callable[[Path, int, int | None], None]
"""Called with the file, and how many bytes of how many are there."""

TRIES: Final = 4
"""How often a source is asked before the next one is."""

CHUNK: Final = 1 << 16

MOST: Final = 1 << 33
"""Bytes of a file whose length nobody has published; four times what ONNX holds in one file."""


def pull(
    models: Zoo, card: ModelCard, progress: Progress | None = None, *, wait: float = 1.0
) -> Path:
    """Fetch the file of a published model into the folder; what is there already stays.

    Args:
        models: Names the folder.
        card: What to fetch.
        progress: Told how far it is.
        wait: Seconds before a source is asked again; doubled each time.

    Returns:
        Where the file is.

    Raises:
        UsageError: There is nothing to fetch: the model ships with mien, or has no source.
        Refused: The zoo is offline, or the licence forbids what it is for.
        ModelNotFound: No source gave the file.
        ModelError: What the sources gave is another file, or another file is there.
        MediaError: The folder cannot be written.
    """
    models.allow(card)
    file = models.locate(card)
    if file.is_file():
        return models.verify(card)
    if not card.sources or Path(card.file).is_absolute():
        raise UsageError(f"model {card.name} has no source to be pulled from; put it at {file}")
    if models.offline:
        raise Refused(
            f"model {card.name} cannot be pulled, because mien is offline; put its file at {file}"
        )
    _room(card, models.folder)
    partial = models.folder / "partial" / file.name
    make(partial)
    wrong, gone = [], []
    for source in card.sources:
        try:
            _fetch(card, source, file, partial=partial, progress=progress, wait=wait)
        except ModelError as error:
            wrong.append(f"{source}: {error}")
            log.info("%s", wrong[-1])
        except OSError as error:
            gone.append(f"{source}: {_said(error)}")
            log.info("%s", gone[-1])
        else:
            pins.check(card, file, models.folder)
            return file
    failed = "; ".join(wrong + gone)
    if wrong:
        raise ModelError(f"model {card.name} was not fetched: {failed}")
    raise ModelNotFound(f"model {card.name} was not fetched: {failed}")


def _fetch(
    card: ModelCard, source: str, file: Path, *, partial: Path, progress: Progress | None,
    wait: float,
) -> None:  # fmt: skip
    """All that is unfinished lies in ``partial``; the file appears when it is whole and right."""
    pooch.get_logger().setLevel(logging.ERROR)  # what there is to say, pull says
    downloader = _Resuming(card, partial / "part", file, progress, wait)
    try:
        whole = pooch.retrieve(
            source,
            known_hash=f"sha256:{card.sha256}" if card.sha256 else None,
            fname=file.name,
            path=partial,
            downloader=downloader,
        )
    except (ModelError, OSError):  # both may be a ValueError too
        raise
    except ValueError as error:  # pooch found another hash, and deleted what came
        raise ModelError(f"the file is not the one with SHA-256 {card.sha256}") from error
    os.replace(whole, file)
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):  # another file is still on its way
        partial.parent.rmdir()


class _Resuming:
    """A downloader for pooch that goes on where an earlier one stopped.

    Two halves are joined only where a hash will show whether they belong together.
    """

    def __init__(
        self, card: ModelCard, part: Path, file: Path, progress: Progress | None, wait: float
    ) -> None:
        self.card, self.part, self.file = card, part, file
        self.progress, self.wait = progress, wait

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        with self.part.open("ab") as stream:
            _lock(stream, self.part)
            if not self.card.sha256:
                stream.truncate(0)
            for attempt in range(TRIES):
                try:
                    self._ask(url, stream)
                    break
                except ModelError:  # what came is of no use to the next source
                    stream.truncate(0)
                    raise
                except OSError as error:
                    if attempt == TRIES - 1 or not self._hopeful(error, stream):
                        raise
                    log.info("%s: %s; asking again", url, _said(error))
                    time.sleep(self.wait * 2**attempt)
        os.replace(self.part, output_file)

    def _ask(self, url: str, stream: BinaryIO) -> None:
        if not self.card.sha256:
            stream.truncate(0)
        bar = _Bar(self.file, stream, self.card, self.progress)
        if self.card.bytes and bar.start == self.card.bytes:
            return
        headers = {"Accept-Encoding": "identity"}
        if bar.start:
            headers["Range"] = f"bytes={bar.start}-"
        fetch = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=CHUNK,
            timeout=30,
            headers=headers,
            hooks={"response": bar.answered},
        )
        fetch(url, stream, None)
        stream.flush()
        if bar.whole and stream.tell() != bar.whole:
            raise ConnectionError(f"the connection was cut after {stream.tell()} bytes")

    def _hopeful(self, error: OSError, stream: BinaryIO) -> bool:
        """Whether to ask the same source again."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 416:  # what is there is no beginning of this file
            stream.truncate(0)
            return True
        return status is None or status in (408, 429) or status >= 500


class _Bar:
    """pooch's kind of progress bar; also watches what a server answers.

    Attributes:
        start: Bytes that are there already.
        total: Bytes that come, as pooch says them.
        whole: Bytes of the whole file; 0 if the server does not say.
    """

    def __init__(
        self, file: Path, stream: BinaryIO, card: ModelCard, progress: Progress | None
    ) -> None:
        self.file, self.stream, self.card, self.progress = file, stream, card, progress
        self.start = stream.seek(0, os.SEEK_END)
        self.total = self.whole = self.done = 0

    def answered(self, response: Any, **_: Any) -> None:
        """See whether the server sends the rest, the whole, or something of another length."""
        if response.is_redirect or not response.ok:
            return
        if response.status_code != 206:
            self.stream.truncate(0)
            self.start = 0
        elif not re.match(rf"bytes {self.start}-", response.headers.get("Content-Range", "")):
            raise ModelError("the server sent another part of the file than was asked for")
        length = int(response.headers.get("Content-Length", 0))
        self.whole = self.start + length if length else 0
        if self.card.bytes and self.whole and self.whole != self.card.bytes:
            raise ModelError(f"expected {self.card.bytes} bytes, came {self.whole}")

    def update(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            there = min(self.start + self.done, self.whole or sys.maxsize)
            self.progress(self.file, there, self.whole or None)
        most = self.card.bytes or MOST
        if self.stream.tell() > most:
            raise ModelError(f"expected {most} bytes at most, came more")

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing to close."""


def _lock(stream: BinaryIO, part: Path) -> None:
    """One process at a time writes a file; the lock goes with the process."""
    if sys.platform != "win32":
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"another process is fetching it into {part}") from error


def _room(card: ModelCard, folder: Path) -> None:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if card.bytes > free:
        raise ModelError(
            f"model {card.name} takes {card.bytes / 1e6:.0f} MB, and {there} has "
            f"{free / 1e6:.0f} MB left"
        )


def _said(error: OSError) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answered {status}"
    return f"{type(error).__name__}: {error}"
