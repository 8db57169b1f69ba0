"""One live session: whose it is, what it shows, how it fares, and why it ended."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mien.types import Consent

if TYPE_CHECKING:
    from mien.provenance import Marks
    from mien.serve.hub import Client


@dataclass(slots=True, eq=False)
class Session:
    """One stream.

    Attributes:
        id: Nobody guesses it.
        tenant: Whose.
        key: Which made it.
        consents: Identity that may be chosen → on what it rests.
        marks: Of every frame.
        target: Consent of who is replaced; None if unsaid.
        private: No raw face is shown.
        values: Settings, as they were last.
        fares: Figures, as they were last.
        created: Seconds since 1970.
        ended: The same; None while it holds.
        problem: Why it ended, problem details.
        client: Its socket; None where none is open.
        left: ``time.monotonic()`` since which none is.
        ticket: That opens the next; empty if there is none.
        until: ``time.monotonic()`` at which it does so no more.
    """

    id: str
    tenant: str
    key: str
    consents: dict[str, Consent]
    marks: Marks
    target: Consent | None
    private: bool
    values: dict[str, Any]
    fares: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    ended: float | None = None
    problem: dict[str, Any] | None = None
    client: Client | None = None
    left: float = field(default_factory=time.monotonic)
    ticket: str = ""
    until: float = 0.0

    @property
    def state(self) -> str:
        """``waiting`` for a socket, ``running`` or ``ended``."""
        if self.ended is not None:
            return "ended"
        return "waiting" if self.client is None else "running"

    @property
    def settings(self) -> dict[str, Any]:
        """Setting → value, now."""
        return self.values | (self.client.values if self.client is not None else {})

    @property
    def figures(self) -> dict[str, Any]:
        """How it fares; frames a second are 0 once nothing came for two seconds."""
        fares = self.client.fares if self.client is not None else {}
        fares = fares or self.fares
        fresh = bool(fares) and self.client is not None and time.monotonic() - fares["at"] < 2
        return {
            "fps": fares["fps"] if fresh else 0.0,
            "age_p50": fares["age_p50"] if fresh else None,
            "age_p95": fares["age_p95"] if fresh else None,
            "frames": fares.get("frames", 0),
            "swapped": fares.get("swapped", 0),
            "faces": fares.get("faces", 0) if fresh else 0,
        }

    def said(self) -> dict[str, Any]:
        """For the engine's process; of plain types."""
        target = self.target
        return {
            "live": self.id,
            "tenant": self.tenant,
            "key": self.key,
            "identities": list(self.consents),
            "marks": asdict(self.marks),
            "target": None if target is None else [target.basis, target.note],
            "private": self.private,
        }
