"""Writing the log, safely with several threads and processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from mien import home
from mien.audit.chain import (
    BROKEN,
    DROPPED,
    LONGEST,
    NOTHING,
    OWN,
    POLICY,
    TORN,
    Check,
    Findings,
    Head,
    canonical,
    digest,
    last_of,
    parsed,
)
from mien.errors import MediaError, UsageError

FILE: Final = "audit.jsonl"
"""The log in use; full ones are ``audit-000001.jsonl`` and so on beside it."""

HEAD: Final = "audit.head"
LOCK: Final = "audit.lock"

PATIENCE: Final = 30.0
"""Seconds to wait for the lock while other processes write."""


class AuditLog:
    """The log of one folder. Safe with several threads and processes; each call opens the files.

    Args:
        folder: Where it lies; None takes :func:`mien.home.folder`.
        limit: Bytes after which a new file is begun; 0 for never.
        keep: Full files that are kept; 0 for all.
        key: Makes the hashes HMACs, which cannot be computed without it; empty for plain hashes.
    """

    def __init__(
        self, folder: Path | None = None, *, limit: int = 0, keep: int = 0, key: bytes = b""
    ) -> None:
        self.folder = home.folder() if folder is None else folder
        self.limit, self.keep, self.key = limit, keep, key

    def append(self, event: str, *, policy: str = "", **facts: Any) -> dict[str, Any]:
        """Write one entry, and return it when it is on the disk.

        Args:
            event: What happened, one word.
            policy: SHA-256 of the policy in force; another one than at the last entry is an
                entry of its own, before this one.
            facts: Anything that JSON can hold; no pictures, no embeddings, no contents of files.

        Raises:
            MediaError: The log cannot be written, or others write it for too long.
            UsageError: The entry is too long, or uses a name of the log's own.
        """
        if taken := OWN & facts.keys():
            raise UsageError(f"audit log: {min(taken)!r} is a name of the log's own")
        try:
            with self.alone():
                last, known = self._mend()
                if policy and policy != known:
                    last, _ = self._write(last, POLICY, {"sha256": policy, "before": known}, policy)
                last, entry = self._write(last, event, facts, policy or known)
                if self.limit and (self.folder / FILE).stat().st_size >= self.limit:
                    self._turn_over(last, policy or known)
        except OSError as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(
                f"{self.folder / FILE}: the audit log cannot be written ({error.strerror})"
            ) from error
        return entry

    def files(self) -> list[Path]:
        """The files of the log that are there, oldest first."""
        old = sorted(self.folder.glob("audit-[0-9]*.jsonl"))
        now = self.folder / FILE
        return [*old, now] if now.is_file() else old

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries that can be read, oldest first; nothing is checked."""
        for path in self.files():
            for line in _read(path).split(b"\n"):
                if (entry := parsed(line)) is not None:
                    yield entry

    def head(self) -> Head | None:
        """Number and hash of the last entry, as the head file says; None where it does not."""
        return self._head()[0]

    def verify(self, anchor: Head | None = None) -> Findings:
        """Follow the chain from the first line to the last.

        Args:
            anchor: A head that was kept elsewhere; the log has to hold that entry.

        Raises:
            MediaError: A file of the log cannot be read.
        """
        check = Check(self.key)
        with self.alone(reading=True):
            for path in self.files():
                check.file(path.name, _read(path))
            head = self._head()[0]
        check.end()
        found = check.found
        if head is None and found.entries > 1:
            found.problems.append(
                f"{HEAD}: is missing or damaged; the log has {found.entries} entries"
            )
        elif head is not None and head.n > found.head.n:
            found.problems.append(
                f"{HEAD}: says that the last entry is {head.n}, the log ends with {found.head.n}: "
                "it was cut off"
            )
        elif head is not None and check.hashes.get(head.n) != head.hash:
            found.problems.append(f"{HEAD}: does not fit entry {head.n} of the log")
        elif head is not None and head.n < found.head.n:
            found.notes.append(f"{HEAD}: is behind the log, as after a crash")
        if anchor is not None and check.hashes.get(anchor.n) != anchor.hash:
            found.problems.append(
                f"entry {anchor.n}: is not there as it was anchored; the log was cut off or "
                "written anew"
            )
        return found

    # --- writing -----------------------------------------------------------------------------

    def _write(
        self, last: Head, event: str, facts: dict[str, Any], policy: str, before: bytes = b""
    ) -> tuple[Head, dict[str, Any]]:
        """Write an entry after ``last``; ``before`` goes before it in the same write."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"n": last.n + 1, "time": now, "event": event, "prev": last.hash, **facts}
        entry["hash"] = digest(entry, self.key)
        line = canonical(entry)
        if len(line) > LONGEST:
            raise UsageError(f"audit log: an entry has {len(line)} bytes, {LONGEST} are the most")
        with _open(self.folder / FILE, os.O_WRONLY | os.O_APPEND) as file:
            file.write(before + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        head = Head(entry["n"], entry["hash"])
        part = self.folder / (HEAD + ".part")
        with _open(part, os.O_WRONLY | os.O_TRUNC) as file:
            file.write(canonical({"head": str(head), "policy": policy}))
        part.replace(self.folder / HEAD)
        return head, entry

    def _mend(self) -> tuple[Head, str]:
        """The last entry, after what a crash or a hand left was put on record; and the policy."""
        head, policy = self._head()
        last, junk = NOTHING, b""
        for path in reversed(self.files()):
            data = _tail(path)
            place, entry = last_of(data)
            if entry is None:
                data = _read(path)
                place, entry = last_of(data)
            tail = data[place:]
            if entry is not None and not data.endswith(b"\n") and not tail:
                # Whole but for its end of line.
                with _open(path, os.O_WRONLY | os.O_APPEND) as file:
                    file.write(b"\n")
            elif path.name == FILE:
                junk = tail
            if entry is not None:
                last = Head(int(entry["n"]), str(entry["hash"]))
                break
        if junk and not junk.endswith(b"\n"):  # what a crash leaves has no end of line
            facts = {"bytes": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}
            sound = self._extends(head, last)
            last, _ = self._write(last, TORN, facts, policy, b"\n")
            if sound:
                return last, policy
        elif not junk and self._extends(head, last):
            return last, policy
        said = {"expected": "none" if head is None else str(head)}
        return self._write(last, BROKEN, said, policy)[0], policy

    def _extends(self, head: Head | None, last: Head) -> bool:
        """Whether a log that ends with ``last`` holds what its head file says."""
        if head is None:
            return last.n <= 0
        if head.n >= last.n:
            return head == last
        # After a crash the log may be ahead.
        return any(e.get("n") == head.n and e.get("hash") == head.hash for e in self.entries())

    def _turn_over(self, last: Head, policy: str) -> None:
        """Begin a new file, and remove the oldest ones beyond those that are kept."""
        old = self.files()[:-1]
        number = 1 + max((int(p.stem.removeprefix("audit-")) for p in old), default=0)
        full = self.folder / f"audit-{number:06}.jsonl"
        (self.folder / FILE).rename(full)
        for path in [*old, full][: -self.keep] if self.keep else []:
            entry = last_of(_read(path))[1] or {}
            facts = {"file": path.name, "last": f"{entry.get('n')}:{entry.get('hash')}"}
            last, _ = self._write(last, DROPPED, facts, policy)
            path.unlink()

    def _head(self) -> tuple[Head | None, str]:
        """What the head file says, and the policy that was in force."""
        try:
            said = json.loads((self.folder / HEAD).read_bytes())
            return Head.of(said["head"]), str(said["policy"])
        except (OSError, ValueError, TypeError, KeyError):
            return None, ""

    @contextmanager
    def alone(self, *, reading: bool = False) -> Iterator[None]:
        """Hold the log against all other threads and processes; a copy to be read needs no lock."""
        try:
            file = _open(self.folder / LOCK, os.O_RDWR)
        except OSError:
            if reading:
                yield
                return
            raise
        with file:
            deadline = time.monotonic() + PATIENCE
            while not _locked(file):
                if time.monotonic() > deadline:
                    raise MediaError(
                        f"{self.folder / LOCK}: other processes hold the audit log for more than "
                        f"{PATIENCE:.0f} s"
                    )
                time.sleep(0.003)
            try:
                yield
            finally:
                _unlock(file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: the audit log cannot be read ({error.strerror})") from error


def _tail(path: Path) -> bytes:
    """The end of a file, long enough for two entries."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * LONGEST))
            return file.read()
    except OSError as error:
        raise MediaError(f"{path}: the audit log cannot be read ({error.strerror})") from error


def _open(path: Path, flags: int) -> IO[bytes]:
    """Open a file that its owner alone may read; made if it is not there."""
    flags |= os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    mode = "r+b" if flags & os.O_RDWR else "wb"
    return open(path, mode, opener=lambda p, _: os.open(p, flags, 0o600))


if sys.platform == "win32":
    import msvcrt

    def _locked(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        with suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _locked(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def sha256_of(path: Path | str | Iterable[bytes]) -> str:
    """SHA-256 of a file's contents, or of pieces of bytes, in hexadecimal.

    Raises:
        MediaError: The file cannot be read.
    """
    made = hashlib.sha256()
    if not isinstance(path, str | Path):
        for piece in path:
            made.update(piece)
        return made.hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: made).hexdigest()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
