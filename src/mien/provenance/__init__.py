"""What every output says of itself, and how to read it back.

:class:`Marker` alone makes :class:`Marked` frames, and sinks accept nothing else, so nothing
leaves without its mark.
"""

from __future__ import annotations

from mien.provenance.marker import (
    DIGITAL_SOURCE_TYPE,
    SYNTHETIC,
    Marked,
    Marker,
    Marks,
    metadata,
    read,
    untouched,
)
from mien.provenance.verifying import Verdict, verify

__all__ = [
    "DIGITAL_SOURCE_TYPE",
    "SYNTHETIC",
    "Marked",
    "Marker",
    "Marks",
    "Verdict",
    "metadata",
    "read",
    "untouched",
    "verify",
]
