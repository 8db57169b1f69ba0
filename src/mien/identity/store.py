"""The store of identities: people who agreed, on what that rests, and until when.

A person is three sealed parts beside the facts: the record (name, note), the biometric data
(embedding, portraits with their meshes) and the signed form, if one was given. The facts stand
in the clear, so that whether a consent was withdrawn can be asked without the key: record id,
basis, scope, last day, when it was added and withdrawn. They are associated data of the sealed
parts, which open with the very facts alone that they were sealed with.

Names are found by a keyed hash. When a consent is withdrawn the sealed parts are overwritten, the
name among them; the facts and the hash stay, so that "was NAME ever here?" still has an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import geometry, home
from mien.errors import MediaError, Refused, UsageError
from mien.identity import exporting, keys
from mien.identity.database import NAME, opened, writing
from mien.identity.packing import pack, seal, unpack, unseal
from mien.identity.records import Entry, Row, checked_name, now
from mien.landmarks import five_points
from mien.types import Consent, Embed, Face, Floats, Frame, Identity, Portrait

LARGEST_FORM: Final = 20_000_000
"""Bytes of an attached form."""

_FACTS: Final = "record, name_key, basis, scope, expires, added, revoked, verified, form_sha256"


@dataclass(slots=True)
class Store:
    """Identities on disk. Safe with several threads and processes; each call opens the file.

    Attributes:
        path: Of the database; the key is beside it, or in the system's keyring.
    """

    path: Path
    _key: bytes = field(default=b"", repr=False)

    @staticmethod
    def open(folder: Path | str | None = None) -> Store:
        """The store of a folder; its files are made when something is first put into it.

        Args:
            folder: None takes :func:`mien.home.folder`.
        """
        return Store((home.folder() if folder is None else Path(folder)) / NAME)

    def add(
        self,
        identity: Identity,
        *,
        embedder: str = "",
        verified: str = "",
        form: Path | None = None,
    ) -> Entry:
        """Keep an enrolled person.

        Args:
            identity: With the consent; a record that it has is not looked at.
            embedder: Which network made the embedding.
            verified: ``liveness``, or empty.
            form: A signed form, kept sealed.

        Raises:
            UsageError: The name cannot be one, or is taken.
            MediaError: The form cannot be read, or the store cannot be written.
        """
        name = checked_name(identity.name)
        record, consent = secrets.token_hex(8), identity.consent
        contents = b"" if form is None else _form(form)
        words = {
            "name": name,
            "note": consent.note,
            "embedder": embedder,
            "photos": len(identity.portraits),
            "form": "" if form is None else form.name,
        }
        with self._writing() as (db, key, pepper):
            name_key = _hashed(pepper, name)
            if self._row(db, "name_key = ? AND revoked = ''", name_key) is not None:
                raise UsageError(_taken(name))
            row = Row(
                record, name_key, consent.basis, ",".join(consent.scope), consent.expires,
                now(), "", verified, hashlib.sha256(contents).hexdigest() if form else "",
            )  # fmt: skip
            self._insert(db, row)
            self._put(db, key, row, "record", json.dumps(words).encode())
            self._put(db, key, row, "person", pack(identity.embedding, identity.portraits))
            if form is not None:
                self._put(db, key, row, "form", contents)
            return self._entry(db, key, row)

    def note(self, consent: Consent) -> Consent:
        """Keep the fact of a consent for one use; nothing of the person is held.

        Returns:
            The consent, with its record.
        """
        row = Row(
            secrets.token_hex(8), None, consent.basis, ",".join(consent.scope), consent.expires,
            now(), "", "", "",
        )  # fmt: skip
        with self._writing() as (db, key, _):
            self._insert(db, row)
            self._put(db, key, row, "record", json.dumps({"note": consent.note}).encode())
        return replace(consent, record=row.record)

    def get(self, name: str, *, embedder: str = "", embed: Embed | None = None) -> Identity:
        """A person as enrolled, whose consent names its record.

        Whether the consent covers a use is not asked here but where the use is; only one that was
        withdrawn has nothing left to give.

        Args:
            name: As added, or the record's id.
            embedder: Which network embeddings are compared in; where another one made what is
                kept, it is made anew of the portraits.
            embed: That network; needed with ``embedder``.

        Raises:
            UsageError: There is no such identity.
            Refused: It was withdrawn.
            MediaError: The store is damaged, or sealed with another key.
        """
        with self._reading() as (db, key, pepper):
            row = self._find(db, pepper, name)
            if row.revoked:
                raise Refused(
                    f"{name}: the consent was withdrawn on {row.revoked[:10]} "
                    f"(rule consent.revoked)"
                )
            words = self._words(db, key, row)
            data = self._get(db, key, row, "person")
        if data is None:
            raise UsageError(f"{name}: is a record of one use; no portrait is held")
        embedding, portraits = unpack(data, str(self.path))
        if embed is not None and embedder and embedder != words["embedder"]:
            embedding = _embedded(portraits, embed)
        consent = Consent(
            row.basis, words["note"], row.record, row.scopes(), row.expires, row.verified
        )
        return Identity(words["name"], embedding, portraits, consent)

    def has(self, name: str) -> bool:
        """Whether there is, or was, such an identity; a store that was never made has none."""
        if not self.path.exists():
            return False
        try:
            self.show(name)
        except UsageError:
            return False
        return True

    def check_free(self, name: str) -> None:
        """See whether a name can still be given, before any work.

        Raises:
            UsageError: It is taken.
        """
        if self.has(name) and not self.show(name).revoked:
            raise UsageError(_taken(name))

    def show(self, name: str) -> Entry:
        """What is known of a person, by name or record.

        Raises:
            UsageError: There is no such identity.
            MediaError: The store is damaged, or sealed with another key.
        """
        with self._reading() as (db, key, pepper):
            return self._entry(db, key, self._find(db, pepper, name))

    def list(self, *, once: bool = False) -> tuple[Entry, ...]:
        """All records, oldest first.

        Args:
            once: Also those of one use.

        Raises:
            MediaError: The store is damaged, or sealed with another key.
        """
        if not self.path.exists():
            return ()
        wanted = "1 = 1" if once else "name_key IS NOT NULL"
        with self._reading() as (db, key, _):
            found = self._rows(db, wanted + " ORDER BY added, record")
            return tuple(self._entry(db, key, row) for row in found)

    def revoke(self, name: str) -> Entry:
        """Withdraw a consent: what is held of the person is overwritten, and the fact stays.

        Streams and jobs that use the identity see it within about a second, by :class:`Watch`.

        Args:
            name: As added, or the record's id.

        Raises:
            UsageError: There is no such identity, or it was withdrawn already.
            MediaError: The store cannot be written.
        """
        with self._writing() as (db, key, pepper):
            row = self._find(db, pepper, name)
            if row.revoked:
                raise UsageError(f"{name}: was withdrawn already, on {row.revoked[:10]}")
            row = row._replace(revoked=now())
            db.execute("DELETE FROM sealed WHERE record = ?", (row.record,))
            db.execute("UPDATE people SET revoked = ? WHERE record = ?", (row.revoked, row.record))
            return self._entry(db, key, row)

    def export(self, name: str, path: Path | str, *, overwrite: bool = False) -> Entry:
        """Write all that is held of a person into a zip archive, for that person.

        Raises:
            UsageError: There is no such identity, or the file is there already.
            MediaError: The file cannot be written, or the store cannot be read.
        """
        path = Path(path)
        with self._reading() as (db, key, pepper):
            row = self._find(db, pepper, name)
            entry = self._entry(db, key, row)
            person = self._get(db, key, row, "person")
            form = self._get(db, key, row, "form")
        if path.exists() and not overwrite:
            raise UsageError(f"{path}: exists already; choose another name or add --overwrite")
        exporting.write(path, entry, person, form, overwrite=overwrite)
        return entry

    def rekey(self) -> int:
        """Seal everything with a new key, and forget the old one; returns the number of parts.

        What an old copy of the database or a block of the disk still holds of people who withdrew
        cannot be read any more then.

        Raises:
            MediaError: The store or the key cannot be written; then the old key still holds.
        """
        folder = self.path.parent
        with self._writing() as (db, key, pepper):
            new, place = secrets.token_bytes(keys.BYTES), _place(db)
            keys.write(folder, place, new, keys.NEXT)
            rows = {row.record: row for row in self._rows(db, "1 = 1")}
            count = 0
            for record, part in db.execute("SELECT record, part FROM sealed").fetchall():
                plain = self._get(db, key, rows[record], part)
                assert plain is not None
                self._put(db, new, rows[record], part, plain)
                count += 1
            _set(db, "pepper", seal(new, pepper, _PEPPER))
        # From here on the new key holds; if this ends now, opening the store finishes it.
        self._key = new
        keys.write(folder, place, new)
        keys.drop(folder, place, keys.NEXT)
        return count

    # --- without the key -----------------------------------------------------------------------

    def is_revoked(self, record: str) -> bool:
        """Whether the consent of a record was withdrawn."""
        return record in self.revoked()

    def revoked(self) -> frozenset[str]:
        """All records that were withdrawn.

        Raises:
            MediaError: The store cannot be read.
        """
        if not self.path.exists():
            return frozenset()
        with opened(self.path) as db:
            found = db.execute("SELECT record FROM people WHERE revoked <> ''").fetchall()
        return frozenset(record for (record,) in found)

    def known(self, records: Iterable[str]) -> set[str]:
        """Those of some records that there are.

        Raises:
            MediaError: The store cannot be read.
        """
        asked = list(records)
        if not asked or not self.path.exists():
            return set()
        with opened(self.path) as db:
            query = "SELECT 1 FROM people WHERE record = ?"
            return {record for record in asked if db.execute(query, (record,)).fetchone()}

    def stamp(self) -> tuple[int, int] | None:
        """Time and size of the file, which change with its contents; None if it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    # --- rows and sealed parts -----------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, bytes, bytes]]:
        with opened(self.path) as db:
            if _get_meta(db, "pepper") is None:
                with writing(db):
                    self._found_key(db)
            db.execute("BEGIN")  # what is read is of one moment
            yield db, *self._found_key(db)
            db.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, bytes, bytes]]:
        with opened(self.path) as db, writing(db):
            yield db, *self._found_key(db)

    def _found_key(self, db: sqlite3.Connection) -> tuple[bytes, bytes]:
        """The key and the key of names; in a new store, made under its lock.

        Raises:
            MediaError: The key is missing, or another.
        """
        folder, sealed = self.path.parent, _get_meta(db, "pepper")
        if sealed is None:
            place: keys.Place = "file" if keys.read(folder, "file") else keys.choose()
            self._key = keys.read(folder, place) or secrets.token_bytes(keys.BYTES)
            keys.write(folder, place, self._key)
            pepper = secrets.token_bytes(keys.BYTES)
            _set(db, "place", place.encode())
            _set(db, "pepper", seal(self._key, pepper, _PEPPER))
            return self._key, pepper
        opened_ = unseal(self._key, sealed, _PEPPER) if self._key else None
        if opened_ is not None:
            return self._key, opened_
        place = _place(db)
        for which in ("", keys.NEXT):
            key = keys.read(folder, place, which)
            opened_ = None if key is None else unseal(key, sealed, _PEPPER)
            if key is not None and opened_ is not None:
                if which:  # a change of keys that was cut short
                    keys.write(folder, place, key)
                    keys.drop(folder, place, which)
                self._key = key
                return key, opened_
        where = "in the system's keyring" if place == "keyring" else f"in {folder / keys.FILE}"
        raise MediaError(
            f"{self.path}: the key that it was sealed with is not {where}; put the key back, or "
            f"move the file away to begin anew"
        )

    def _rows(self, db: sqlite3.Connection, where: str, *values: object) -> tuple[Row, ...]:
        found = db.execute(f"SELECT {_FACTS} FROM people WHERE {where}", values)
        return tuple(Row(*row) for row in found.fetchall())

    def _row(self, db: sqlite3.Connection, where: str, *values: object) -> Row | None:
        return next(iter(self._rows(db, where, *values)), None)

    def _find(self, db: sqlite3.Connection, pepper: bytes, name: str) -> Row:
        """By name, the one that holds before those that were withdrawn, or by record."""
        named = _hashed(pepper, unicodedata.normalize("NFC", name))
        order = "ORDER BY revoked <> '', revoked DESC"
        row = self._row(db, f"name_key = ? {order}", named) or self._row(db, "record = ?", name)
        if row is None:
            raise UsageError(
                f"{name}: there is no identity of that name; 'mien identity list' shows them"
            )
        return row

    def _insert(self, db: sqlite3.Connection, row: Row) -> None:
        marks = ", ".join("?" * len(row))
        db.execute(f"INSERT INTO people ({_FACTS}) VALUES ({marks})", row)

    def _put(self, db: sqlite3.Connection, key: bytes, row: Row, part: str, plain: bytes) -> None:
        db.execute(
            "INSERT OR REPLACE INTO sealed (record, part, data) VALUES (?, ?, ?)",
            (row.record, part, seal(key, plain, row.bound(part))),
        )

    def _get(self, db: sqlite3.Connection, key: bytes, row: Row, part: str) -> bytes | None:
        query = "SELECT data FROM sealed WHERE record = ? AND part = ?"
        found = db.execute(query, (row.record, part)).fetchone()
        if found is None:
            return None
        plain = unseal(key, found[0], row.bound(part))
        if plain is None:
            raise MediaError(
                f"{self.path}: record {row.record} was changed or is damaged; put a copy back, or "
                f"withdraw it with: mien identity revoke {row.record}"
            )
        return plain

    def _words(self, db: sqlite3.Connection, key: bytes, row: Row) -> dict[str, Any]:
        nothing = {"name": "", "note": "", "embedder": "", "photos": 0, "form": ""}
        data = self._get(db, key, row, "record")
        return nothing if data is None else nothing | json.loads(data)

    def _entry(self, db: sqlite3.Connection, key: bytes, row: Row) -> Entry:
        return Entry(
            record=row.record,
            basis=row.basis,
            scope=row.scopes(),
            expires=row.expires,
            added=row.added,
            revoked=row.revoked,
            verified=row.verified,
            form_sha256=row.form_sha256,
            once=row.name_key is None,
            **self._words(db, key, row),
        )


_PEPPER: Final = b"mien: key of names"


def _taken(name: str) -> str:
    return (
        f"{name}: is an identity already; take another name, or withdraw it first with: "
        f"mien identity revoke {name}"
    )


def _hashed(pepper: bytes, name: str) -> bytes:
    return hmac.digest(pepper, name.encode(), "sha256")


def _get_meta(db: sqlite3.Connection, key: str) -> bytes | None:
    found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if found is None else bytes(found[0])


def _set(db: sqlite3.Connection, key: str, value: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _place(db: sqlite3.Connection) -> keys.Place:
    return "keyring" if _get_meta(db, "place") == b"keyring" else "file"


def _form(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FORM:
            raise UsageError(
                f"{path}: has {size / 1e6:.0f} MB; a form of at most {LARGEST_FORM / 1e6:.0f} MB "
                f"can be attached"
            )
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error


def _embedded(portraits: Sequence[Portrait], embed: Embed) -> Floats:
    """``(D,)`` of unit length by another network: the mean over the portraits."""
    found = []
    for portrait in portraits:
        box = geometry.bounds(portrait.mesh[:468]).astype(np.float32)
        face = Face(box, 1.0, five_points(portrait.mesh), portrait.mesh, 1.0)
        (face,) = embed(Frame(portrait.image.copy()), [face])
        assert face.embedding is not None
        found.append(face.embedding)
    mean = np.mean(found, axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), np.float32)
