"""Whether the policy, and the consents, allow a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import select

from mien import policy
from mien.errors import Refused
from mien.service import people
from mien.service.asking import Service
from mien.service.database import Job, Person
from mien.service.keys import Caller
from mien.types import Consent, Identity


def permit(
    service: Service,
    caller: Caller,
    whose: Sequence[Identity],
    kind: Literal["video", "photo"],
    asked: dict[str, Any],
) -> None:
    """Ask the policy, and the consents.

    Raises:
        Refused: They do not allow it.
    """
    from mien.provenance import Marks  # noqa: PLC0415 - OpenCV

    basis = asked["target_consent"]
    people.Watch(service.database).permit(whose, kind)
    policy.load().permit(
        whose,
        policy.Use(
            kind,
            target_consent=None if basis is None else Consent(basis, asked["target_note"]),
            marks=Marks(**asked["marks"]),
            user=caller.tenant,
        ),
    )


def check_standing(rows: Any, job: Job) -> None:
    """See that nobody was revoked meanwhile; who revokes waits for this, and finds the job.

    Raises:
        Refused: Somebody was.
    """
    wanted = sorted(set(job.identities.split(",")))
    query = select(Person).where(Person.id.in_(wanted), Person.tenant == job.tenant)
    stand = [p.id for p in rows.scalars(query.with_for_update()) if p.revoked is None]
    if sorted(stand) != wanted:
        raise Refused("the consent was withdrawn (rule consent.revoked)")
