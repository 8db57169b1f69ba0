"""Identities of tenants. What is biometric lies sealed in the row, and is gone once revoked."""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sqlalchemy import delete, func, select

from mien import identity
from mien.errors import MediaError, Refused
from mien.identity import keys
from mien.service.database import Answer, Database, Person, new_id
from mien.service.problems import Problem, missing
from mien.service.settings import ServiceSettings
from mien.types import Consent, Identity, Scope

PERSON = "person"


def seal_key(settings: ServiceSettings) -> bytes:
    """The key that identities are sealed with; made at the first start of a server of its own.

    Raises:
        MediaError: It cannot be read or made, or is no key.
        Refused: Others may read it.
    """
    named = settings.seal
    folder = settings.folder if named is None else named.parent
    if named is not None and named.name != keys.FILE:
        raise MediaError(f"{named}: the file has to be named {keys.FILE}")
    found = keys.read(folder, "file")
    if found is None:
        if named is not None:
            raise MediaError(
                f"{named}: there is no such key; make one with: mien keys seal {named}"
            )
        found = secrets.token_bytes(keys.BYTES)
        keys.write(folder, "file", found)
    return found


class People:
    """Identities, as workers see them.

    Args:
        database: Where they are.
        key: That they are sealed with.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        self._database, self._key = database, key

    def add(self, tenant: str, me: Identity, *, embedder: str, most: int) -> Person:
        """Keep an identity.

        Args:
            tenant: Whose.
            me: As enrolled.
            embedder: Which network made the embedding.
            most: Identities that the tenant may have.

        Raises:
            Problem: 507: the tenant has that many.
        """
        from mien.identity.packing import pack, seal  # noqa: PLC0415 - OpenCV

        consent = me.consent
        row = Person(
            id=new_id(),
            tenant=tenant,
            name=me.name,
            basis=consent.basis,
            note=consent.note,
            scope=",".join(consent.scope),
            expires=consent.expires,
            verified=consent.verified,
            embedder=embedder,
        )
        row.sealed = seal(self._key, pack(me.embedding, me.portraits), _bound(row))
        with self._database() as rows:
            query = select(func.count()).select_from(Person)
            held = rows.scalar(query.where(Person.tenant == tenant, Person.revoked.is_(None)))
            if int(held or 0) >= most:
                raise Problem(507, "quota", f"{most} identities are kept already; delete some")
            rows.add(row)
        return row

    def get(self, tenant: str, which: str) -> Identity:
        """An identity with the consent that it rests on, whose record is the identity's id.

        Raises:
            Problem: 404: there is none, or it is another tenant's.
            Refused: It was revoked.
            MediaError: It cannot be unsealed.
        """
        from mien.identity.packing import unpack, unseal  # noqa: PLC0415 - OpenCV

        row = show(self._database, tenant, which)
        if row.revoked is not None or row.sealed is None:
            raise Refused("the consent was withdrawn (rule consent.revoked)")
        data = unseal(self._key, row.sealed, _bound(row))
        if data is None:
            raise MediaError(f"identity {row.id}: was changed, or sealed with another key")
        embedding, portraits = unpack(data, f"identity {row.id}")
        return Identity(row.name, embedding, portraits, consent_of(row))


KNOWN: Final = 1000
"""Records of which a :class:`Watch` knows whether they stand."""

FRESH: Final = 60.0
"""Seconds after the last question for which it goes on to look after a record."""


class Watch(identity.Watch):
    """Says whose consent has ended since, by the rows, cheaply enough for every frame.

    It looks after the records that were asked for in the last minute, a thousand at most: one
    query in a while, however long it lives and however many people there were.

    Args:
        database: Where identities are.
        every: Seconds between two looks.
    """

    def __init__(self, database: Database, *, every: float = identity.EVERY) -> None:
        super().__init__(every=every)
        self._database = database
        self._standing: OrderedDict[str, bool] = OrderedDict()
        self._asked: dict[str, float] = {}
        self._seen = -1e9

    def __call__(self) -> frozenset[str]:
        """Records that were withdrawn, of those that were asked for of late."""
        with self._lock:
            self._refresh()
            return frozenset(k for k, stands in self._standing.items() if not stands)

    def objection(self, consent: Consent, use: Scope) -> str:
        """As :func:`mien.identity.objection`, and whether the identity still stands."""
        why = identity.objection(consent, use)
        record = consent.record
        if why or not record:
            return why
        with self._lock:
            if record not in self._standing:
                self._standing |= self._ask([record])
            self._asked[record] = time.monotonic()
            self._standing.move_to_end(record)
            self._forget()
            self._refresh()
            stands = self._standing[record]
        return "" if stands else "the consent was withdrawn (rule consent.revoked)"

    def _forget(self) -> None:
        """Let go of the record that nobody asked for the longest, where it is old or too many."""
        old = time.monotonic() - FRESH
        while len(self._standing) > 1:  # but for the one that was asked for now
            first = next(iter(self._standing))
            if len(self._standing) <= KNOWN and self._asked[first] >= old:
                return
            del self._standing[first], self._asked[first]

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._seen < self._every or not self._standing:
            return
        self._standing |= self._ask(list(self._standing))
        self._seen = now

    def _ask(self, records: Iterable[str]) -> dict[str, bool]:
        asked = list(records)
        with self._database(write=False) as rows:
            query = select(Person.id).where(Person.id.in_(asked), Person.revoked.is_(None))
            stand = set(rows.scalars(query))
        return {record: record in stand for record in asked}


def consent_of(row: Person) -> Consent:
    """On what the use rests."""
    scope: tuple[Scope, ...] = tuple(s for s in row.scope.split(",") if s)  # type: ignore[misc]
    return Consent(row.basis, row.note, row.id, scope, row.expires, row.verified)


def show(database: Database, tenant: str, which: str) -> Person:
    """What is known of an identity, without what is biometric.

    Raises:
        Problem: 404.
    """
    with database(write=False) as rows:
        row = rows.scalar(select(Person).where(Person.tenant == tenant, Person.id == which))
    if row is None:
        raise missing("identity")
    return row


def revoke(database: Database, tenant: str, which: str) -> Person | None:
    """Withdraw a consent: what is biometric, the name and the note are gone, the fact stays.

    Returns:
        The row; None if it was withdrawn before.

    Raises:
        Problem: 404.
    """
    with database() as rows:
        query = select(Person).where(Person.tenant == tenant, Person.id == which)
        row = rows.scalar(query.with_for_update())
        if row is None:
            raise missing("identity")
        if row.revoked is not None:
            return None
        row.revoked, row.sealed, row.name, row.note = time.time(), None, "", ""
        answered = Answer.body["id"].as_string() == which  # they hold name and note
        rows.execute(delete(Answer).where(Answer.tenant == tenant, answered))
    _forget(database)
    return row


def _forget(database: Database) -> None:
    """Empty SQLite's log, in which the old contents of a page would live on for a while."""
    if database.engine.dialect.name == "sqlite":
        connection = database.engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        finally:
            connection.close()


def _bound(row: Person) -> bytes:
    """Associated data: what is sealed opens with these facts alone."""
    return json.dumps([1, PERSON, row.tenant, row.id, row.basis, row.scope, row.expires]).encode()


def seal_file(path: Path) -> None:
    """Make a key file for several machines.

    Raises:
        MediaError: It cannot be written, or there is one.
    """
    if path.name != keys.FILE or path.exists():
        raise MediaError(f"{path}: expected the path of a new file named {keys.FILE}")
    keys.write(path.parent, "file", secrets.token_bytes(keys.BYTES))
