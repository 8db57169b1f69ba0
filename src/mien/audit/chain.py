"""The chain: what an entry is, how its hash is made, and how a whole log is followed."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Final

from mien.errors import UsageError

GENESIS: Final = "0" * 64
"""What stands for the hash before the first entry."""

LONGEST: Final = 65536
"""Bytes of an entry."""

OWN: Final = frozenset({"n", "time", "event", "prev", "hash"})
"""What an entry holds in any case."""

POLICY: Final = "policy"
"""Event: another policy is in force than at the entry before."""

TORN: Final = "torn"
"""Event of the entry after a line that a crash cut short."""

BROKEN: Final = "broken"
"""Event of an entry after a log that did not end where its head said."""

DROPPED: Final = "dropped"
"""Event: an old file was removed, by the number of files that the policy keeps."""


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of an entry; ``5:ab12…`` in words."""

    n: int
    hash: str

    def __str__(self) -> str:
        return f"{self.n}:{self.hash}"

    @staticmethod
    def of(text: str) -> Head:
        """Read the words back.

        Raises:
            UsageError: They are of another form.
        """
        number, _, value = text.strip().partition(":")
        if not number.isdecimal() or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise UsageError(f"head {text!r}: expected NUMBER:HASH as 'mien audit show --head'")
        return Head(int(number), value)


NOTHING: Final = Head(-1, GENESIS)
"""Head of an empty log."""


@dataclass(slots=True)
class Findings:
    """What :meth:`AuditLog.verify` found.

    Attributes:
        entries: How many there are.
        files: Their names, oldest first.
        head: Of the last entry that can be read.
        problems: One sentence for each break, with file and line; empty if all is well.
        notes: What is no break and good to know.
    """

    entries: int = 0
    files: list[str] = field(default_factory=list)
    head: Head = NOTHING
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Check:
    """Follows the chain over all files.

    Attributes:
        found: So far.
        hashes: Number of an entry → its hash.
    """

    def __init__(self, key: bytes) -> None:
        self.found, self.hashes, self._key = Findings(), dict[int, str](), key
        self._open: list[tuple[str, bytes]] = []  # lines that are none, until a torn entry comes
        self._torn = False  # the last line has no end
        self._first: Head | None = None  # what the first entry follows, where it is not the first
        self._dropped: set[str] = set()

    def file(self, name: str, data: bytes) -> None:
        """Follow the lines of the next file."""
        self.found.files.append(name)
        lines = data.split(b"\n")
        self._torn = lines.pop() != b""
        if self._torn:
            lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            where = f"{name}:{number}"
            entry = parsed(line)
            if entry is None:
                self._open.append((where, line))
            else:
                self._entry(where, line, entry)

    def end(self) -> None:
        """Say what only the end shows."""
        if self._open and self._torn:
            where = self._open[0][0]
            self._open.clear()
            self.found.notes.append(f"{where}: was cut short by a crash; the next run says so")
        self._unread()
        first = self._first
        if first is not None and str(first) not in self._dropped:
            self.found.problems.append(
                f"{self.found.files[0]}:1: entries 0 to {first.n} are missing"
            )
        elif first is not None:
            self.found.notes.append(
                f"entries 0 to {first.n} were removed by the number of files that are kept"
            )

    def _entry(self, where: str, line: bytes, entry: dict[str, Any]) -> None:
        found, last = self.found, self.found.head
        n, said = entry["n"], entry["hash"]
        if canonical(entry) != line or not hmac.compare_digest(
            digest({k: v for k, v in entry.items() if k != "hash"}, self._key), said
        ):
            found.problems.append(f"{where}: entry {n} was edited, or the key is another")
        elif not found.entries and n > 0:
            self._first = Head(n - 1, str(entry["prev"]))
        elif n != last.n + 1:
            found.problems.append(
                f"{where}: entry {n} comes after entry {last.n}: lines were removed, inserted or "
                "moved"
            )
        elif entry["prev"] != last.hash:
            found.problems.append(f"{where}: entry {n} does not follow the entry before it")
        if entry["event"] == TORN:
            lines = b"\n".join(line for _, line in self._open)
            if self._open and hashlib.sha256(lines).hexdigest() == entry.get("sha256"):
                found.notes.append(
                    f"{self._open[0][0]}: was cut short by a crash, as entry {n} says"
                )
                self._open.clear()
        elif entry["event"] == BROKEN:
            found.problems.append(
                f"{where}: before entry {n} the log did not end where its head said: lines were "
                "removed or edited"
            )
        elif entry["event"] == DROPPED:
            self._dropped.add(str(entry.get("last")))
        self._unread()
        found.entries += 1
        found.head = Head(n, said)
        self.hashes[n] = said

    def _unread(self) -> None:
        for where, _ in self._open:
            self.found.problems.append(f"{where}: is no entry")
        self._open.clear()


def canonical(entry: dict[str, Any]) -> bytes:
    """An entry in the one form that is hashed and written.

    Raises:
        UsageError: It holds what JSON cannot.
    """
    try:
        text = json.dumps(
            entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"audit log: {error}") from error
    return text.encode("ascii")


def digest(entry: dict[str, Any], key: bytes) -> str:
    """Hash of an entry without its own, in hexadecimal; with a key the HMAC."""
    body = canonical(entry)
    if key:
        return hmac.new(key, body, hashlib.sha256).hexdigest()
    return hashlib.sha256(body).hexdigest()


def parsed(line: bytes) -> dict[str, Any] | None:
    """An entry of a line; None where it has not the form of one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not entry.keys() >= OWN:
        return None
    n = entry["n"]
    words = (entry["hash"], entry["prev"], entry["event"], entry["time"])
    if not isinstance(n, int) or isinstance(n, bool) or n < 0 or len(line) > LONGEST:
        return None
    return entry if all(isinstance(w, str) and w.isascii() for w in words) else None


def last_of(data: bytes) -> tuple[int, dict[str, Any] | None]:
    """Where the last entry of a file ends, and the entry."""
    end = len(data)
    while end > 0:
        begin = data.rfind(b"\n", 0, end) + 1
        line = data[begin:end]
        if line and (entry := parsed(line)) is not None:
            return min(end + 1, len(data)), entry
        end = begin - 1
    return 0, None
