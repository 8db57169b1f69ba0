"""Whether a consent covers a use: its scope, its last day, and whether it was withdrawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mien.errors import MediaError, Refused
from mien.types import Consent, Identity, Scope

if TYPE_CHECKING:
    from mien.identity.store import Store

EVERY: Final = 1.0
"""Seconds between two looks at the store."""

ANYWAY: Final = 10.0
"""Seconds after which it is read whatever its time says: some clocks are coarse."""

BLIND: Final = 30.0
"""Seconds for which a store that cannot be read is taken to be as it was."""


def objection(consent: Consent, use: Scope, *, today: date | None = None) -> str:
    """Why a consent does not cover a use, with the name of the rule; empty if it does.

    Args:
        consent: What the use rests on.
        use: ``photo``, ``video`` or ``live``.
        today: Instead of the day by this machine's clock.
    """
    if consent.scope and use not in consent.scope:
        return (
            f"the consent is for {', '.join(consent.scope)}, and this is {use} (rule consent.scope)"
        )
    if consent.expires and (today or date.today()).isoformat() > consent.expires:
        return f"the consent ended with {consent.expires} (rule consent.expires)"
    return ""


class Watch:
    """Says whose consent has ended since, cheaply enough to be asked for every frame.

    The store is looked at about once a second: its file's time and size, and if they changed, or
    every ten seconds, what was withdrawn. Several threads may ask.

    Args:
        folder: Of the store; None takes :func:`mien.home.folder`.
        every: Seconds between two looks.
    """

    def __init__(self, folder: Path | str | None = None, *, every: float = EVERY) -> None:
        self._folder, self._every = folder, every
        self._store: Store | None = None
        self._looked = self._read = -1e9
        self._stamp: tuple[int, int] | None = None
        self._revoked: frozenset[str] = frozenset()
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self) -> frozenset[str]:
        """Records that were withdrawn.

        Raises:
            MediaError: The store could not be read for half a minute.
        """
        with self._lock:
            return self._look()

    def _look(self) -> frozenset[str]:
        now = time.monotonic()
        if now - self._looked < self._every:
            return self._revoked
        first, self._looked = self._looked < 0, now
        if self._store is None:
            from mien.identity.store import Store  # noqa: PLC0415 - OpenCV, ONNX Runtime

            self._store = Store.open(self._folder)
        stamp = self._store.stamp()
        if stamp is not None and stamp == self._stamp and now - self._read < ANYWAY:
            return self._revoked
        try:
            self._revoked = self._store.revoked()
            self._known &= self._store.known(self._known)
        except MediaError:
            if first or now - self._read > BLIND:
                raise
        else:
            self._stamp, self._read = stamp, now
        return self._revoked

    def objection(self, consent: Consent, use: Scope) -> str:
        """As :func:`objection`, and whether the consent's record still stands."""
        why = objection(consent, use)
        if why or not consent.record:
            return why
        with self._lock:
            if consent.record in self._look():
                return "the consent was withdrawn (rule consent.revoked)"
            assert self._store is not None
            if consent.record not in self._known:
                self._known |= self._store.known({consent.record})
            if consent.record not in self._known:
                return (
                    f"there is no record {consent.record} of the consent in {self._store.path} "
                    f"(rule consent.record)"
                )
        return ""

    def permit(self, identities: Iterable[Identity], use: Scope) -> None:
        """Refuse a use that one of the consents does not cover.

        Raises:
            Refused: Names the identity and the rule.
        """
        for identity in identities:
            why = self.objection(identity.consent, use)
            if why:
                raise Refused(f"{identity.name}: {why}")
