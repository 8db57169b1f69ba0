"""People who must not be used as a source or replaced as a target: embeddings, never photos.

A list is a file of the default embedder's vectors in mien's folder, for its owner alone. Lists
can be shared: one is signed with Ed25519 (RFC 8032) when it is exported and taken only if the key
that signed it is named in policy.toml. An embedding is biometric data too: whoever has it can
look for the person in other pictures, so a list goes only to those who may know who is on it.

A face matches an entry whose cosine with it is at least the threshold. What that costs is
measured by ``scripts/measure_deny.py``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from mien import home
from mien.audit import AuditLog
from mien.errors import MediaError, Refused, UsageError
from mien.types import Floats

Role = Literal["source", "target"]
"""Whose face is shown, or whose is replaced."""

Roles = Literal["source", "target", "both"]

FILE: Final = "deny.json"
KEY: Final = "deny.key"
"""Private key for signing lists, 32 bytes."""

EMBEDDER: Final = "faceres512"
"""Card of the network whose vectors a list holds; those of others mean nothing to it."""

SIZE: Final = 512

THRESHOLD: Final = 0.48
"""Cosine from which a face is the person of an entry; docs/policy.md has the rates of errors."""

FORMAT: Final = "mien deny list 1"

MOST: Final = 100_000
"""Entries of a list."""

LARGEST: Final = 512 * 1024 * 1024
"""Bytes of a list's file."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One person.

    Attributes:
        id: What the entry is called in messages and in the log; it says nothing of the person.
        role: What the person must not be.
        embedding: ``(512,)`` float32 of unit length.
        note: Whose words they are is the list's business; no name is needed.
        added: Day, as ``2031-12-31``.
        signer: Name of the key that signed the shared list; empty for an entry of one's own.
    """

    id: str
    role: Roles
    embedding: Floats
    note: str = ""
    added: str = ""
    signer: str = ""

    def covers(self, role: Role) -> bool:
        """Whether the entry forbids this role."""
        return self.role in (role, "both")


@dataclass(frozen=True, slots=True, eq=False)
class DenyList:
    """Entries of all lists in force, ready to be compared with.

    Attributes:
        entries: In order.
        threshold: Cosine from which a face is the person of an entry.
        where: For messages.
    """

    entries: tuple[Entry, ...] = ()
    threshold: float = THRESHOLD
    where: str = "deny list"
    _vectors: dict[str, tuple[Floats, list[Entry]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Stack the vectors of each role."""
        for role in get_args(Role):
            own = [e for e in self.entries if e.covers(role)]
            if own:
                self._vectors[role] = np.stack([e.embedding for e in own]), own

    def has(self, role: Role) -> bool:
        """Whether anybody is on the list in this role."""
        return role in self._vectors

    def match(self, embedding: Floats, role: Role) -> Entry | None:
        """The entry that a face looks most like, if it does.

        Args:
            embedding: ``(512,)`` of unit length, of the default embedder.
            role: What the face is to be.
        """
        if role not in self._vectors or embedding.shape != (SIZE,):
            return None
        vectors, entries = self._vectors[role]
        cosines = vectors @ embedding
        best = int(cosines.argmax())
        return entries[best] if cosines[best] >= self.threshold else None

    def check(self, embedding: Floats, role: Role, what: str = "the face") -> None:
        """Refuse a face that is on the list.

        Args:
            embedding: As for :meth:`match`.
            role: What the face is to be.
            what: Whose face, for the message.

        Raises:
            Refused: Names the entry.
        """
        entry = self.match(embedding, role)
        if entry is not None:
            raise Refused(
                f"{self.where}: {what} matches entry {entry.id}, a person who must not be "
                f"{'used as a source' if role == 'source' else 'replaced'}"
            )


class DenyFile:
    """One's own list and the shared ones that were imported, in one file of mien's folder.

    Args:
        folder: Where it lies; None takes :func:`mien.home.folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = home.place() if folder is None else folder
        self.path = self.folder / FILE

    def entries(self) -> tuple[Entry, ...]:
        """All entries, one's own first; none where there is no file.

        Raises:
            MediaError: The file is there and cannot be read, or is damaged.
        """
        return tuple(entry for part in self._read().values() for entry in part.entries)

    def add(self, embedding: Floats, role: Roles, note: str = "") -> Entry:
        """Put somebody on one's own list.

        Raises:
            UsageError: The role is unknown, or the embedding is of another network.
            MediaError: The file cannot be written.
        """
        _known_role(role)
        if embedding.shape != (SIZE,):
            raise UsageError(f"deny list: expected {SIZE} numbers, came {embedding.shape}")
        entry = Entry(secrets.token_hex(4), role, embedding, note, _today())
        with self._alone():
            parts = self._read()
            own = parts.get("", Signed())
            self._write(parts | {"": replace(own, entries=(*own.entries, entry))})
        return entry

    def remove(self, name: str) -> Entry:
        """Take an entry off one's own list.

        Raises:
            UsageError: There is none of that id, or it is of a shared list.
        """
        with self._alone():
            parts = self._read()
            found = [e for part in parts.values() for e in part.entries if e.id == name]
            for entry in found[:1]:
                if entry.signer:
                    raise UsageError(
                        f"deny list: entry {name} is of the shared list of {entry.signer!r}, "
                        "who alone can take it off"
                    )
                left = tuple(e for e in parts[""].entries if e is not entry)
                self._write(parts | {"": replace(parts[""], entries=left)})
                return entry
        raise UsageError(f"deny list: there is no entry {name!r}; 'mien deny list' shows them")

    def export(self, path: Path, *, sign: bool = True, overwrite: bool = False) -> str:
        """Write one's own entries as a list for others.

        Args:
            path: The file.
            sign: With one's own key, made at the first use; unsigned lists nobody imports.
            overwrite: Whether the file may be replaced.

        Returns:
            The public key in Base64, for the policy.toml of those who import it; empty unsigned.

        Raises:
            UsageError: There is nothing to export, or the file is there already.
            MediaError: It cannot be written.
        """
        own = self._read().get("", Signed()).entries
        if not own:
            raise UsageError("deny list: has no entry of its own to export")
        if path.exists() and not overwrite:
            raise UsageError(f"{path}: exists already; choose another name or add --overwrite")
        said: dict[str, Any] = {
            "format": FORMAT,
            "embedder": EMBEDDER,
            "made": datetime.now(UTC).isoformat(timespec="microseconds"),
            "entries": [_words(entry) for entry in own],
        }
        public = ""
        if sign:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
                Ed25519PrivateKey,
            )

            private = Ed25519PrivateKey.from_private_bytes(self._key())
            public = _base64(private.public_key().public_bytes_raw())
            said["key"] = public
            said["signature"] = _base64(private.sign(_signed(said)))
        _write_private(path, json.dumps(said, indent=1).encode() + b"\n")
        return public

    def take(self, path: Path, keys: Mapping[str, str]) -> tuple[str, int]:
        """Import a shared list; an earlier one of the same signer is replaced.

        Args:
            path: The file.
            keys: Name → public key in Base64, of those whose lists are taken.

        Returns:
            Name of the signer, and how many entries the list has.

        Raises:
            Refused: The list is unsigned, of an unknown signer, was changed after it was signed,
                or is older than the one that is there.
            MediaError: The file cannot be read.
        """
        name, new = read_signed(path, keys)
        with self._alone():
            parts = self._read()
            if name in parts and new.made < parts[name].made:
                raise Refused(
                    f"{path}: is of {new.made}, older than the list of {name!r} that is here "
                    f"({parts[name].made})"
                )
            self._write(parts | {name: new})
        return name, len(new.entries)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Change the file while no other process does, by the lock of the audit log beside it."""
        home.folder()
        with AuditLog(self.folder).alone():
            yield

    def _read(self) -> dict[str, Signed]:
        if not self.path.exists():
            return {}
        said = _load(self.path)
        try:
            return {
                str(name): Signed(
                    str(part["made"]), tuple(_entry(words, str(name)) for words in part["entries"])
                )
                for name, part in said["lists"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MediaError(f"{self.path}: is damaged ({error})") from error

    def _write(self, parts: Mapping[str, Signed]) -> None:
        lists = {
            name: {"made": part.made, "entries": [_words(entry) for entry in part.entries]}
            for name, part in parts.items()
        }
        home.folder()
        _write_private(self.path, json.dumps({"format": FORMAT, "lists": lists}).encode())

    def _key(self) -> bytes:
        path = self.folder / KEY
        if not path.exists():
            home.folder()
            _write_private(path, secrets.token_bytes(32))
        key = path.read_bytes()
        if len(key) != 32:
            raise MediaError(f"{path}: expected 32 bytes, came {len(key)}")
        return key


@dataclass(frozen=True, slots=True)
class Signed:
    """A list of one signer.

    Attributes:
        made: When it was exported, ISO 8601; empty for one's own.
        entries: Its own.
    """

    made: str = ""
    entries: tuple[Entry, ...] = ()


def read_signed(path: Path, keys: Mapping[str, str]) -> tuple[str, Signed]:
    """Read a shared list and check who signed it; as :meth:`DenyFile.take`, nothing is kept."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    said = _load(path)
    names = {key: name for name, key in keys.items()}
    key, signature = said.get("key"), said.get("signature")
    if not isinstance(key, str) or not isinstance(signature, str):
        raise Refused(f"{path}: is not signed, and only signed lists are taken")
    if key not in names:
        raise Refused(
            f"{path}: is signed with the key {key}, which policy.toml does not name under "
            "[deny.keys]"
        )
    try:
        public = Ed25519PublicKey.from_public_bytes(_bytes(key))
        public.verify(_bytes(signature), _signed(said))
    except (InvalidSignature, ValueError) as error:
        raise Refused(f"{path}: the signature does not hold; it was changed") from error
    name = names[key]
    if said.get("format") != FORMAT or said.get("embedder") != EMBEDDER:
        raise Refused(
            f"{path}: expected {FORMAT!r} with vectors of {EMBEDDER}, came {said.get('format')!r} "
            f"with those of {said.get('embedder')!r}"
        )
    try:
        entries = tuple(_entry(words, name) for words in said["entries"])
        return name, Signed(str(said["made"]), entries)
    except (KeyError, TypeError, ValueError) as error:
        raise MediaError(f"{path}: is damaged ({error})") from error


def mean(embeddings: Sequence[Floats]) -> Floats:
    """The unit mean of ``(512,)`` unit vectors of one person."""
    total = np.mean(np.stack(embeddings), axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)


def _signed(said: Mapping[str, Any]) -> bytes:
    """What a signature is over: all but itself, in canonical form."""
    rest = {key: value for key, value in said.items() if key != "signature"}
    return json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()


def _words(entry: Entry) -> dict[str, str]:
    vector = _base64(np.asarray(entry.embedding, "<f4").tobytes())
    return {"id": entry.id, "role": entry.role, "note": entry.note, "added": entry.added,
            "embedding": vector}  # fmt: skip


def _entry(words: Mapping[str, Any], signer: str) -> Entry:
    vector = np.frombuffer(_bytes(str(words["embedding"])), "<f4").astype(np.float32)
    if vector.shape != (SIZE,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
        raise ValueError(f"expected {SIZE} numbers of unit length")
    role = words["role"]
    _known_role(role)
    name, note, added = (str(words[key])[:200] for key in ("id", "note", "added"))
    if not name.isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no id")
    return Entry(name, role, vector, note, added, signer)


def _known_role(role: object) -> None:
    if role not in get_args(Roles):
        raise UsageError(f"role {role!r} is unknown; known are {', '.join(get_args(Roles))}")


def _load(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise MediaError(f"{path}: has {size} bytes, {LARGEST} are the most for a list")
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{path}: is no deny list ({error})") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(said, dict):
        raise MediaError(f"{path}: is no deny list (expected an object)")
    listed = said.get("entries", ())
    if isinstance(listed, list) and len(listed) > MOST:
        raise MediaError(f"{path}: has {len(listed)} entries, {MOST} are the most")
    return said


def _write_private(path: Path, content: bytes) -> None:
    """Write a file whole, for its owner alone."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(part, "wb", opener=lambda p, _: os.open(p, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
