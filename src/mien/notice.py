"""What everybody should have read before the first use; shown once, never in a script's way."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from mien import home
from mien.errors import MienError

SHARED: Final = (
    "The person whose face is shown has agreed to it, and so has everybody in front of the camera.",
    "Do not use it to pass an identity check, to pretend to be somebody, to harass or to deceive, "
    "or for sexual content without the consent of all.",
    "Pictures carry the label “AI-generated”. Where you show them, say so.",
)
"""What the page says as well, in the same words."""

LAW: Final = (
    "Some states forbid made-up pictures of candidates in the weeks before an election.",
    "Law asks for more than this: the EU's AI Act (article 50) and China's rules on deep synthesis "
    "and on labels of 2025 want such pictures to be marked and said to be what they are; GDPR, "
    "BIPA and PIPL bind those who keep faces.",
    "This is no legal advice.",
)

FILE: Final = "notice"
"""In mien's folder: which text was shown."""

ABUSE: Final = "Report abuse as SECURITY.md says."


def text(contact: str = "") -> str:
    """The notice.

    Args:
        contact: The operator's line for reports of abuse, from ``contact`` in policy.toml.
    """
    report = f"Report abuse to {contact}." if contact else ABUSE
    lines = ["mien replaces a face in a picture with another person's. Before you start:"]
    lines += [f"  - {line}" for line in (*SHARED, *LAW, report)]
    return "\n".join(lines)


def show_once(contact: str = "", stream: TextIO | None = None) -> bool:
    """Show the notice on a terminal that has not seen this text yet.

    A script gets nothing, and nothing is remembered for it. Where it cannot be remembered it is
    shown again the next time.

    Args:
        contact: As for :func:`text`.
        stream: Instead of standard error.

    Returns:
        Whether it was shown.
    """
    stream = sys.stderr if stream is None else stream
    words = text(contact)
    if not stream.isatty() or _shown(words):
        return False
    print(words, "  'mien notice' shows this again.", "", sep="\n", file=stream)
    with suppress(MienError, OSError):
        (home.folder() / FILE).write_text(_stamp(words), "ascii")
    return True


def _shown(words: str) -> bool:
    path: Path = home.place() / FILE
    try:
        return path.read_text("ascii") == _stamp(words)
    except (OSError, ValueError):
        return False


def _stamp(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()
