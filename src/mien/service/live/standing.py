"""What live sessions rest on, as the rows and the audit log have it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

from sqlalchemy import select

from mien import identity, policy
from mien.errors import MienError
from mien.service.database import Database, Key, Person
from mien.service.live.session import Session
from mien.types import Consent

WITHDRAWN: Final = "the consent was withdrawn (rule consent.revoked)"


def standing(
    database: Database, consents: Mapping[str, Consent], used: Collection[str]
) -> tuple[dict[str, str], set[str]]:
    """Which consents do not hold any more, and which keys were revoked.

    Args:
        database: Where they are.
        consents: Id of an identity → on what it rests.
        used: Ids of keys.

    Returns:
        Id of an identity → why it may not be shown, without those that may; ids of keys.
    """
    with database(write=False) as rows:
        valid = select(Person.id).where(Person.id.in_(consents), Person.revoked.is_(None))
        stand = set(rows.scalars(valid))
        gone = select(Key.id).where(Key.id.in_(used), Key.revoked.is_not(None))
        revoked = set(rows.scalars(gone))
    said = {
        which: identity.objection(consent, "live") or ("" if which in stand else WITHDRAWN)
        for which, consent in consents.items()
    }
    return {which: why for which, why in said.items() if why}, revoked


def note_lost(session: Session) -> None:
    """Say in the audit log that a session ended, where the engine's process could not."""
    with suppress(MienError):
        policy.load().note(
            "failed", live=session.id, tenant=session.tenant, key=session.key, error="engine"
        )
