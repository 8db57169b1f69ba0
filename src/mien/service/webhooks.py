"""Telling others that a job ended: signed, tried again, and never to an address inside.

Messages are those of the Standard Webhooks specification, 1.0
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md), so
that its libraries check them: the fields ``webhook-id``, ``webhook-timestamp`` and
``webhook-signature``, which is ``v1,`` and the Base64 of HMAC-SHA256 of
``{id}.{timestamp}.{body}``, with the secret behind ``whsec_`` as the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import select

from mien.errors import MienError, UsageError
from mien.service import addresses
from mien.service.database import Database, Delivery, Job
from mien.service.fetching import Unanswered, answered

log = logging.getLogger(__name__)

FORM: Final = "whsec_"

WAITS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0, 12 * 3600.0)
"""Seconds until the next attempt; after the last one it is given up."""

HELD: Final = 60.0
"""Seconds in which nobody else tries what is being tried."""

SECONDS: Final = 10.0
"""For an answer."""


def new_secret() -> str:
    """A secret for one job's messages."""
    return FORM + base64.b64encode(secrets.token_bytes(24)).decode()


def key_of(secret: str) -> bytes:
    """The key in a secret.

    Raises:
        UsageError: It has not the form that the specification asks for.
    """
    try:
        key = base64.b64decode(secret.removeprefix(FORM), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(FORM) or not 24 <= len(key) <= 64:
        raise UsageError("webhook_secret: expected whsec_ and the Base64 of 24 to 64 random bytes")
    return key


def signature(secret: str, message: str, timestamp: int, body: bytes) -> str:
    """What the field ``webhook-signature`` says."""
    said = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), said, hashlib.sha256)).decode()


class Webhooks:
    """Delivers what is due; several workers may do so at one time.

    Args:
        database: Rows.
        prefixes: Addresses that are allowed; None for any outside.
        inner: Whether private addresses are.
        clock: Seconds since 1970.
        resolve: Of names.
    """

    def __init__(
        self,
        database: Database,
        prefixes: Sequence[str] | None,
        *,
        inner: bool = False,
        clock: Callable[[], float] = time.time,
        resolve: addresses.Resolve = addresses.resolve,
    ) -> None:
        self._database, self._clock, self._resolve = database, clock, resolve
        self._prefixes, self._inner = prefixes, inner

    def deliver_once(self) -> bool:
        """Try the delivery that is due longest; False if none is."""
        now = self._clock()
        due = select(Delivery.id).where(Delivery.due <= now).order_by(Delivery.due).limit(1)
        with self._database(write=False) as rows:
            found = rows.scalar(due)
        if found is None:
            return False
        with self._database() as rows:
            row = rows.get(Delivery, found, with_for_update=True)
            if row is None or row.due is None or row.due > now:
                return True  # another took it
            row.due, row.attempt = now + HELD, row.attempt + 1
            attempt = row.attempt
            job = rows.get(Job, row.job)
            secret = str(((job.asked if job else {}).get("webhook") or {}).get("secret", ""))
        status = self._post(row, secret)
        good = status is not None and 200 <= status < 300
        gone = status in (410, 0)  # it asks for no more, or the address is refused
        over = good or gone or attempt > len(WAITS)
        with self._database() as rows:
            row = rows.get(Delivery, found, with_for_update=True)
            if row is not None:
                row.status = status
                row.due = None if over else self._clock() + WAITS[attempt - 1]
        if not good:
            log.warning("webhook %s: attempt %d: status %s", found, attempt, status)
        return True

    def _post(self, row: Delivery, secret: str) -> int | None:
        """The status; None if there was no answer, 0 if the address is not allowed."""
        body = json.dumps(row.body, separators=(",", ":")).encode()
        timestamp = int(self._clock())
        try:
            place = addresses.check(
                row.url,
                what="webhook",
                prefixes=self._prefixes,
                inner=self._inner,
                resolve=self._resolve,
            )
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "mien",
                "webhook-id": row.id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(secret, row.id, timestamp, body),
            }
            with answered("POST", place, headers=headers, content=body, seconds=SECONDS) as answer:
                return answer.status_code
        except Unanswered:
            return None
        except MienError as error:
            # A name that is not found may be found later; an address inside is refused for good.
            return None if isinstance(error, UsageError) and secret else 0
