"""API keys: made, found, listed, revoked. The secret is shown once, and kept as its hash."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, update

from mien.errors import UsageError
from mien.service.database import Database, Key

SCOPES: Final = ("identities", "swaps", "jobs", "live", "verify")
"""What a key may be for. Models and the policy may be read with any key."""

QUOTAS: Final = ("calls", "jobs", "bytes")

FORM: Final = "mien_"
"""How secrets begin, so that they are found where they should not be."""

LOCAL: Final = "local"
"""Tenant of a server without keys, and of the first key."""

_USED: Final = 60.0
"""Seconds between two notes of a key's last use."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, and whose it is.

    Attributes:
        key: Id of the key; empty without keys.
        tenant: Whose things it may see.
        scopes: What it may do.
        quotas: Its own, beside the server's.
    """

    key: str
    tenant: str
    scopes: frozenset[str]
    quotas: Mapping[str, int]


ANYONE: Final = Caller("", LOCAL, frozenset(SCOPES), {})
"""On a server without keys."""


def make(
    database: Database,
    tenant: str,
    *,
    name: str = "",
    scopes: Sequence[str] = SCOPES,
    quotas: Mapping[str, int] | None = None,
) -> tuple[Key, str]:
    """Make a key; returns its row and the secret, which is kept nowhere.

    Raises:
        UsageError: A scope or quota is unknown, or the tenant's name cannot be one.
    """
    if not 0 < len(tenant) <= 64 or not all(c.isalnum() or c in "-_." for c in tenant):
        raise UsageError(f"tenant {tenant!r}: expected up to 64 letters, digits, - _ and .")
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(f"scope {scope!r} is unknown; known are {', '.join(SCOPES)}")
    for quota, number in (quotas or {}).items():
        if quota not in QUOTAS or number < 0:
            raise UsageError(f"quota {quota}={number}: expected {', '.join(QUOTAS)}, from 0 on")
    secret = FORM + secrets.token_urlsafe(32)
    row = Key(
        tenant=tenant,
        name=name,
        sha256=hashed(secret),
        scopes=",".join(s for s in SCOPES if s in scopes),
        quotas=dict(quotas or {}),
    )
    with database() as rows:
        rows.add(row)
    return row, secret


def hashed(secret: str) -> str:
    """As it is kept: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def find(database: Database, secret: str) -> Caller | None:
    """Whose secret it is; None if nobody's, or if the key was revoked."""
    with database(write=False) as rows:
        row = rows.scalar(select(Key).where(Key.sha256 == hashed(secret)))
    if row is None or row.revoked is not None:
        return None
    now = time.time()
    if row.used is None or now - row.used > _USED:
        with database() as rows:
            rows.execute(update(Key).where(Key.id == row.id).values(used=now))
    quotas: dict[str, Any] = row.quotas or {}
    return Caller(row.id, row.tenant, frozenset(row.scopes.split(",")), quotas)


def listed(database: Database) -> list[Key]:
    """All keys, oldest first."""
    with database(write=False) as rows:
        return list(rows.scalars(select(Key).order_by(Key.created, Key.id)))


def there_are(database: Database) -> bool:
    """Whether there is any key that holds."""
    with database(write=False) as rows:
        query = select(func.count()).select_from(Key).where(Key.revoked.is_(None))
        return bool(rows.scalar(query))


def revoke(database: Database, key: str) -> Key:
    """Revoke a key by its id; what it made stays its tenant's.

    Raises:
        UsageError: There is none, or it was revoked before.
    """
    with database() as rows:
        row = rows.get(Key, key)
        if row is None:
            raise UsageError(f"{key}: there is no key of that id; 'mien keys list' shows them")
        if row.revoked is not None:
            raise UsageError(f"{key}: was revoked already")
        row.revoked = time.time()
    return row
