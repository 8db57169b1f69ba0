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

__all__ = [
    "MESH_SCORE",
    "PORTRAIT_SIDE",
    "STRANGER",
    "cut_out",
    "enrol",
    "find_faces",
    "the_face",
]
