"""What a caller may ask for: size of bodies, requests a minute, jobs; and idempotency keys."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mien.service.asking import Service
from mien.service.database import Answer, File, Job
from mien.service.keys import Caller
from mien.service.problems import Problem

STALE: Final = 900.0
"""Seconds after which a request that never ended no longer holds its idempotency key."""

LONGEST: Final = 255
"""Letters of an idempotency key."""


class Rates:
    """Requests a minute of each key: a bucket that fills steadily, and holds ten seconds' worth."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._full: dict[str, float] = {}

    def wait(self, key: str, a_minute: int) -> float:
        """Count a request; seconds to wait if it is one too many, else 0 (then it is counted)."""
        if a_minute <= 0:
            return 0.0
        step = 60.0 / a_minute
        most = max(10.0, step)
        with self._lock:
            now = self._clock()
            full = max(self._full.get(key, now), now) + step
            if full - now > most:
                return full - now - most
            if len(self._full) > 100_000:
                self._full = {k: at for k, at in self._full.items() if at > now}
            self._full[key] = full
            return 0.0


def quota(service: Service, caller: Caller, name: str) -> int:
    """The key's own quota, or the server's: ``calls``, ``jobs`` or ``bytes``."""
    own = caller.quotas.get(name)
    return int(getattr(service.settings.quotas, name) if own is None else own)


def check_jobs(service: Service, rows: Session, caller: Caller) -> None:
    """Refuse one job more than the key may have at a time; in the transaction that adds it.

    Raises:
        Problem: 429.
    """
    most = quota(service, caller, "jobs")
    query = (
        select(func.count())
        .select_from(Job)
        .where(
            Job.tenant == caller.tenant,
            Job.key == caller.key,
            Job.state.in_(("queued", "running", "paused")),
        )
    )
    if int(rows.scalar(query) or 0) >= most:
        raise Problem(
            429, "jobs", f"the key has {most} jobs already that are not done", retry_after=10
        )


def check_bytes(service: Service, rows: Session, caller: Caller, more: int) -> None:
    """Refuse to keep more bytes of a tenant than its key may.

    Raises:
        Problem: 507.
    """
    most = quota(service, caller, "bytes")
    kept = rows.scalar(select(func.sum(File.size)).where(File.tenant == caller.tenant)) or 0
    if int(kept) + more > most:
        raise Problem(507, "quota", f"{int(kept) + more} bytes would be kept, the quota is {most}")


def fingerprint(method: str, path: str, said: Mapping[str, Any]) -> str:
    """SHA-256 of a request: what it says, and hashes of its files, but not how it is wrapped."""
    words = json.dumps([method, path, said], sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()


def forget(service: Service) -> None:
    """Remove answers that are kept for nobody any more."""
    with service.database() as rows:
        over = Answer.created < time.time() - service.settings.keep.answers
        rows.execute(delete(Answer).where(over))


def once(
    service: Service,
    caller: Caller,
    key: str | None,
    request: str,
    work: Callable[[], tuple[int, dict[str, Any]]],
) -> tuple[int, dict[str, Any], bool]:
    """Do something once, however often it is asked for with one idempotency key.

    An error is not kept: the request may be made again.

    Args:
        service: Of which.
        caller: Keys are the tenant's own.
        key: Of the field ``Idempotency-Key``; None to just do it.
        request: Its :func:`fingerprint`.
        work: Gives status and body.

    Returns:
        Status, body, and whether they are those of an earlier request.

    Raises:
        Problem: 400: the key is too long; 409: the first request is still being worked on; 422: it
            was another request.
    """
    if key is None:
        return (*work(), False)
    if not 0 < len(key) <= LONGEST or not key.isprintable():
        raise Problem(400, "idempotency-key", f"expected 1 to {LONGEST} printable letters",
                      errors=[("header.Idempotency-Key", "cannot be a key")])  # fmt: skip
    row = Answer(tenant=caller.tenant, key=key, request=request)
    now = time.time()
    try:
        with service.database() as rows:
            rows.execute(
                delete(Answer).where(
                    Answer.tenant == caller.tenant,
                    Answer.key == key,
                    (Answer.created < now - service.settings.keep.answers)
                    | (Answer.status.is_(None) & (Answer.created < now - STALE)),
                )
            )
            rows.add(row)
    except IntegrityError:
        with service.database(write=False) as rows:
            first = rows.scalar(
                select(Answer).where(Answer.tenant == caller.tenant, Answer.key == key)
            )
        if first is not None and first.request != request:
            raise Problem(
                422,
                "idempotency-key",
                "the key was used for another request",
                errors=[("header.Idempotency-Key", "was used before")],
            ) from None
        if first is None or first.status is None:
            raise Problem(409, "in-progress", "the first request with this key is not done yet",
                          retry_after=1) from None  # fmt: skip
        return first.status, first.body or {}, True
    try:
        status, body = work()
    except BaseException:
        with service.database() as rows:
            rows.execute(delete(Answer).where(Answer.id == row.id))
        raise
    with service.database() as rows:
        kept = rows.get(Answer, row.id)
        if kept is not None:
            kept.status, kept.body = status, body
    return status, body, False
