"""What is to be done with identities, and who asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from mien.types import Consent, Identity

if TYPE_CHECKING:
    from mien.provenance import Marks

MARKS: Final = ("label", "watermark", "credentials")

Kind = Literal["photo", "video", "live"]


@dataclass(frozen=True, slots=True)
class Use:
    """What is to be done with identities.

    Attributes:
        kind: A photo, a video, or live.
        people: Faces that are to be replaced in one picture, 0 where that is not known yet.
        target_consent: On what the use of the footage rests; None if unsaid.
        marks: Of the output; None where no output is spoken of yet, as in a stream before its
            marker is known. Then nothing is asked of the target's consent either.
        user: Who asks; empty for the user of the system that runs mien.
    """

    kind: Kind
    people: int = 0
    target_consent: Consent | None = None
    marks: Marks | None = None
    user: str = ""

    @property
    def off(self) -> tuple[str, ...]:
        """The marks that are turned off."""
        return tuple(m for m in MARKS if self.marks and not getattr(self.marks, f"{m}_on"))


def facts(identities: Iterable[Identity], use: Use) -> dict[str, Any]:
    """What the log says of a use; no name, no note, nothing of a face."""
    people = [{"record": i.consent.record or "one-off", "consent": i.consent.basis}
              for i in identities]  # fmt: skip
    said: dict[str, Any] = {"kind": use.kind, "identities": people}
    if use.target_consent is not None:
        said["target_consent"] = use.target_consent.basis
    if use.off:
        said["marks_off"] = list(use.off)
    return said


def user() -> str:
    """Who runs mien, as the system says and not as the environment does."""
    if sys.platform == "win32":
        return os.getlogin()
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
