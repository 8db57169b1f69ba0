"""Identities: people made of photos, the consent each one rests on, and where they are kept."""

from __future__ import annotations

from mien.identity.challenge import Challenge, Seen
from mien.identity.enrolling import (
    MESH_SCORE,
    PORTRAIT_SIDE,
    STRANGER,
    cut_out,
    enrol,
    find_faces,
    the_face,
)
from mien.identity.liveness import NO_PROOF, Session
from mien.identity.permitting import EVERY, Watch, objection
from mien.identity.records import Entry, checked_name
from mien.identity.store import Store

__all__ = [
    "EVERY",
    "MESH_SCORE",
    "NO_PROOF",
    "PORTRAIT_SIDE",
    "STRANGER",
    "Challenge",
    "Entry",
    "Seen",
    "Session",
    "Store",
    "Watch",
    "checked_name",
    "cut_out",
    "enrol",
    "find_faces",
    "objection",
    "the_face",
]
