"""Reading the marks of a file back."""

from __future__ import annotations

from pathlib import Path

from mien import policy
from mien.media.limits import USUAL, Limits
from mien.provenance import Verdict, verifying


def verify(
    path: Path | str, *, seconds: float = verifying.SECONDS, limits: Limits = USUAL
) -> Verdict:
    """Read label, watermark, metadata and content credentials of a file, and judge it.

    Trusted are the signatures of this machine and of the ``authorities`` that the policy names.

    Args:
        path: A photo or a video; a manifest beside it is found by its name.
        seconds: How long it may take.
        limits: Of what is read at all.

    Raises:
        UsageError: The policy or its authorities cannot be read.
    """
    signing = policy.load().credentials
    return verifying.verify(path, signing=signing, seconds=seconds, limits=limits)
