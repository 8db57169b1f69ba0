"""Pictures between two processes: mailboxes in shared memory, and a pipe for words.

A mailbox has three slots and one writer and one reader, each in a process of its own. The writer
fills a slot that is neither the newest nor being read, and then makes it the newest; so nobody
waits, the newest wins, and no slot is written while it is read (a triple buffer). The lock guards
the indices alone, for microseconds.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Lock
from typing import Any, Final

from mien.errors import MienError

SLOTS: Final = 3
_STATE: Final = struct.Struct("<bbB5xQ3I4x")
"""Newest slot and slot being read (-1: none), whether the reader was called, sequence number,
bytes in each slot."""

LOCK_SECONDS: Final = 2.0
"""After which the other process is taken for dead."""


class Gone(MienError, ConnectionError):
    """The other process is not there any more."""


class Board:
    """Mailboxes in one piece of shared memory; made by one process and opened by the other.

    Args:
        sizes: Largest message of each mailbox, in bytes. Memory is taken when it is written to.
        lock: Shared by both processes.
        name: Of the memory to open; None makes it, and :meth:`close` then removes it.

    Raises:
        OSError: There is no room, or no such memory.
    """

    def __init__(self, sizes: Sequence[int], lock: Lock, name: str | None = None) -> None:
        self.sizes = tuple(sizes)
        self._lock, self._mine = lock, name is None
        strides = [_STATE.size + SLOTS * (-(-size // 64) * 64) for size in self.sizes]
        self._starts = [sum(strides[:n]) for n in range(len(strides))]
        self._memory = SharedMemory(name, create=name is None, size=sum(strides))
        assert self._memory.buf is not None
        self._buffer = self._memory.buf
        if self._mine:
            for box in range(len(self.sizes)):
                self._save(box, -1, -1, False, 0, 0, 0, 0)

    @property
    def name(self) -> str:
        """By which the other process opens it."""
        return self._memory.name

    def post(self, box: int, *parts: bytes | memoryview) -> bool:
        """Make this the newest message.

        Args:
            box: Which mailbox.
            parts: The message, in pieces that are put one after another.

        Returns:
            Whether the reader has to be called: it was not since it last took a message.

        Raises:
            ValueError: The message is larger than the mailbox.
            Gone: The reader died in the worst moment.
        """
        length = sum(map(len, parts))
        if length > self.sizes[box]:
            raise ValueError(f"{length} bytes for a mailbox of {self.sizes[box]}")
        with self._locked():
            newest, reading, *_ = self._load(box)
            slot = next(n for n in range(SLOTS) if n not in (newest, reading))
        place = self._slot(box, slot)
        for part in parts:
            self._buffer[place : place + len(part)] = part
            place += len(part)
        with self._locked():
            _, reading, called, number, *lengths = self._load(box)
            lengths[slot] = length
            self._save(box, slot, reading, True, number + 1, *lengths)
        return not called

    def take(self, box: int) -> tuple[int, bytes] | None:
        """Take the newest message, with its sequence number from 1; None if there is none.

        Raises:
            Gone: The writer died in the worst moment.
        """
        with self._locked():
            slot, _, _, number, *lengths = self._load(box)
            self._save(box, slot, slot, False, number, *lengths)
        if slot < 0:
            return None
        start = self._slot(box, slot)
        message = bytes(self._buffer[start : start + lengths[slot]])
        with self._locked():
            newest, _, called, number_now, *lengths = self._load(box)
            # What was taken is not offered again, nor kept.
            newest = -1 if newest == slot else newest
            self._save(box, newest, -1, bool(called), number_now, *lengths)
        return number, message

    def clear(self, box: int) -> None:
        """Forget what is in a mailbox that nobody reads or writes now, and overwrite it."""
        with self._locked():
            _, _, _, number, *lengths = self._load(box)
            for slot, length in enumerate(lengths):
                start = self._slot(box, slot)
                self._buffer[start : start + length] = bytes(length)
            self._save(box, -1, -1, False, number, 0, 0, 0)

    def close(self) -> None:
        """Let go of the memory; whoever made it removes it."""
        del self._buffer
        self._memory.close()
        if self._mine:
            self._memory.unlink()

    def _slot(self, box: int, slot: int) -> int:
        return self._starts[box] + _STATE.size + slot * (-(-self.sizes[box] // 64) * 64)

    def _load(self, box: int) -> tuple[int, ...]:
        return _STATE.unpack_from(self._buffer, self._starts[box])

    def _save(self, box: int, *state: int) -> None:
        _STATE.pack_into(self._buffer, self._starts[box], *state)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise Gone("the other process of the page is not there any more")
        try:
            yield
        finally:
            self._lock.release()


class Link:
    """Words between the two processes, as JSON; any thread may send.

    Args:
        connection: One end of a pipe.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message; nothing happens where the other end is gone, which reading tells."""
        data = json.dumps({"kind": kind, **values}).encode()
        try:
            with self._sending:
                self._connection.send_bytes(data)
        except OSError:
            return

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Messages until the other end closes."""
        while True:
            try:
                yield json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                return

    def close(self) -> None:
        self._connection.close()
