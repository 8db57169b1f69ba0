"""Identities: people made of photos, the consent each one rests on, and where they are kept."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.identity.challenge import Challenge as Challenge
    from mien.identity.challenge import Seen as Seen
    from mien.identity.enrolling import MESH_SCORE as MESH_SCORE
    from mien.identity.enrolling import PORTRAIT_SIDE as PORTRAIT_SIDE
    from mien.identity.enrolling import STRANGER as STRANGER
    from mien.identity.enrolling import cut_out as cut_out
    from mien.identity.enrolling import enrol as enrol
    from mien.identity.enrolling import find_faces as find_faces
    from mien.identity.enrolling import the_face as the_face
    from mien.identity.liveness import NO_PROOF as NO_PROOF
    from mien.identity.liveness import Session as Session
    from mien.identity.permitting import EVERY as EVERY
    from mien.identity.permitting import Watch as Watch
    from mien.identity.permitting import objection as objection
    from mien.identity.records import Entry as Entry
    from mien.identity.records import checked_name as checked_name
    from mien.identity.store import Store as Store

_HOME = {
    "EVERY": "permitting",
    "MESH_SCORE": "enrolling",
    "NO_PROOF": "liveness",
    "PORTRAIT_SIDE": "enrolling",
    "STRANGER": "enrolling",
    "Challenge": "challenge",
    "Entry": "records",
    "Seen": "challenge",
    "Session": "liveness",
    "Store": "store",
    "Watch": "permitting",
    "checked_name": "records",
    "cut_out": "enrolling",
    "enrol": "enrolling",
    "find_faces": "enrolling",
    "objection": "permitting",
    "the_face": "enrolling",
}
"""Public name → module; imported on first use, since who merely serves needs no network."""

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return found
