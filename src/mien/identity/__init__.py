"""Identities: people made of photos, the consent each one rests on, and where they are kept."""

from __future__ import annotations

from mien.identity.enrolling import (
    MESH_SCORE,
    PORTRAIT_SIDE,
    STRANGER,
    cut_out,
    enrol,
    find_faces,
    the_face,
)
from mien.identity.permitting import EVERY, Watch, objection
from mien.identity.records import Entry, checked_name
from mien.identity.store import Store

__all__ = [
    "EVERY",
    "MESH_SCORE",
    "PORTRAIT_SIDE",
    "STRANGER",
    "Entry",
    "Store",
    "Watch",
    "checked_name",
    "cut_out",
    "enrol",
    "find_faces",
    "objection",
    "the_face",
]
