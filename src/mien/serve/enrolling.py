"""Enrolling on the page: somebody before a browser's camera, with the liveness check."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mien import api, identity, policy
from mien.errors import MienError, UsageError
from mien.identity import NO_PROOF, Challenge, Session
from mien.live.types import Shown
from mien.pipeline import Swapper
from mien.provenance import untouched
from mien.types import Consent, Frame, Identity

Tell = Callable[[dict[str, Any]], None]
"""Takes ``state``, ``prompt``, ``done`` and ``steps`` of the check, for the page."""

BLANK: Final = 16
"""Side of the black picture that is sent back: the page shows its own camera."""


class Enrolment:
    """Looks at the pictures of one browser camera until who is before it passed the check, or not.

    The person is then kept on the basis ``self``.

    Args:
        swapper: Shared by all.
        name: What the person is to be called.
        tell: Told what to do now, whenever that changes.
        kept: Given the identity as it was kept.

    Raises:
        UsageError: The name cannot be one, or is taken.
    """

    def __init__(
        self, swapper: Swapper, name: str, tell: Tell, kept: Callable[[Identity], None]
    ) -> None:
        self._name = identity.checked_name(name)
        identity.Store.open().check_free(self._name)
        self._swapper, self._tell, self._kept = swapper, tell, kept
        self._challenge = Challenge.drawn(swapper.similarity)
        self._session = Session(swapper.detector, swapper.landmarks, swapper.embed, self._challenge)
        self._told: tuple[str, int] = ("", 0)
        self._when = 0.0
        self._over = False
        self._say("running", f"{self._challenge.prompt}; {NO_PROOF}")

    def __call__(self, frame: Frame, taken: float) -> Shown:
        if not self._over:
            self._look(frame, taken)
        blank = np.zeros((BLANK, BLANK, 3), np.uint8)
        (marked,) = untouched([Frame(blank, frame.index)])
        return Shown(marked, taken, [], 0)

    def _look(self, frame: Frame, taken: float) -> None:
        asks = self._session(frame, taken)
        if asks.state == "running":
            now = (asks.prompt, asks.done)
            step = asks.done != self._told[1] or asks.asked
            if now != self._told and (step or time.monotonic() >= self._when):
                self._told, self._when = now, time.monotonic() + api.HINTS
                self._say("running", asks.prompt)
            return
        self._over = True
        try:
            if asks.state == "failed":
                raise policy.load().refused(self._session.refusal())
            person = self._session.identity(self._name, Consent("self"))
            entry = api.keep(person, swapper=self._swapper, verified="liveness")
        except MienError as error:
            self._say("failed", str(error))
            return
        self._kept(api.stored(entry.record, swapper=self._swapper))
        self._say("passed", f"kept as {entry.name}, record {entry.record}")

    def _say(self, state: str, prompt: str) -> None:
        asks = self._challenge
        self._tell({"state": state, "prompt": prompt, "done": asks.done, "steps": len(asks.steps)})

    def settings(self) -> dict[str, Any]:
        """There is nothing to be set."""
        return {}

    def choices(self) -> dict[str, list[Any]]:
        """There is nothing to be chosen."""
        return {}

    def change(self, values: Mapping[str, Any]) -> None:
        """There is nothing to be changed."""
        if values:
            raise UsageError("nothing can be set while somebody is enrolled")
