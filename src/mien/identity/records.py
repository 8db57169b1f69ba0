"""What is known of a record: its facts, as rows and as entries, and what may be a name."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple, get_args

from mien.errors import UsageError
from mien.types import Scope

LONGEST_NAME: Final = 80


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one record, without the biometric data.

    Attributes:
        record: Its id.
        name: Empty once withdrawn, and of a record for one use.
        basis: On what the use rests.
        scope: For what; empty for everything.
        expires: The last day; empty for no end.
        note: Free text; empty once withdrawn.
        added: When, in UTC, ``2031-12-31T23:59:59Z``.
        revoked: When it was withdrawn, empty if it was not.
        verified: ``liveness`` where the person stood before a camera; empty else.
        photos: Portraits that are held.
        embedder: Which network made the embedding.
        form: Name of the attached file.
        form_sha256: Of its contents; stays when they are gone.
        once: It is for one use of a photo, of which nothing else is held.
    """

    record: str
    name: str
    basis: str
    scope: tuple[str, ...]
    expires: str
    note: str
    added: str
    revoked: str
    verified: str
    photos: int
    embedder: str
    form: str
    form_sha256: str
    once: bool

    @property
    def state(self) -> Literal["valid", "expired", "revoked"]:
        """Whether it may be used today."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and date.today().isoformat() > self.expires else "valid"


class Row(NamedTuple):
    """The facts of one record, as they stand in the table."""

    record: str
    name_key: bytes | None
    basis: str
    scope: str
    expires: str
    added: str
    revoked: str
    verified: str
    form_sha256: str

    def scopes(self) -> tuple[Scope, ...]:
        """For what; empty for everything."""
        return tuple(s for s in get_args(Scope) if s in self.scope.split(","))

    def bound(self, part: str) -> bytes:
        """Associated data of a part: it opens with these facts alone."""
        name = "" if self.name_key is None else self.name_key.hex()
        facts = [1, self.record, part, name, self.basis, self.scope, self.expires]
        if self.verified:  # records without it were sealed before there was a check
            facts.append(self.verified)
        return json.dumps(facts).encode()


def checked_name(name: str) -> str:
    """A name as it is kept.

    Raises:
        UsageError: It is empty, too long, or could be a path or a flag.
    """
    name = unicodedata.normalize("NFC", name.strip())
    bad = [c for c in name if c in "/\\:=" or not c.isprintable()]
    if not name or len(name) > LONGEST_NAME or bad or name[0] in "-." or name.isdecimal():
        raise UsageError(
            f"{name!r} cannot be the name of an identity; take up to {LONGEST_NAME} letters, "
            f"without / \\ : = and not beginning with - or a full stop"
        )
    return name


def now() -> str:
    """The time in UTC, ``2031-12-31T23:59:59Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
