"""People who must not be used or replaced: put on the list by photos, which are not kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mien import deny, detect, embed, identity, landmarks, media, policy
from mien.errors import UsageError
from mien.types import Floats, Frame, Image, Which


def deny_person(
    photos: Sequence[Path | str | Image],
    role: deny.Roles = "both",
    *,
    note: str = "",
    which: Which | int | None = None,
) -> deny.Entry:
    """Put the person in some photos on one's own deny list; their embedding alone is kept.

    Args:
        photos: Of one person; several make fewer misses.
        role: What the person must not be: ``source``, ``target`` or ``both``.
        note: For oneself; no name is needed.
        which: Which face, where a photo has several.

    Raises:
        NoFace: A photo has no face, or several and ``which`` is None.
        MediaError: A photo cannot be read, or the list not be written.
        UsageError: There is no photo, or the role is unknown.
    """
    if not photos:
        raise UsageError("no photo was given; one of the person's face is needed")
    detector, mesh, embedder = detect.load(), landmarks.load(), embed.load(None, deny.EMBEDDER)
    found: list[Floats] = []
    for number, photo in enumerate(photos, 1):
        label = f"photo {number}" if isinstance(photo, np.ndarray) else str(photo)
        frame = Frame(photo if isinstance(photo, np.ndarray) else media.read_image(photo))
        face = identity.the_face(identity.find_faces(frame, detector, mesh), label, which)
        (face,) = embedder(frame, [face])
        assert face.embedding is not None
        found.append(face.embedding)
    rules = policy.load()
    entry = deny.DenyFile().add(deny.mean(found), role, note)
    rules.note("deny", what="add", entry=entry.id, role=role)
    return entry


def allow_person(name: str) -> None:
    """Take an entry off one's own deny list.

    Raises:
        UsageError: There is none of that id, or it is of a shared list.
    """
    entry = deny.DenyFile().remove(name)
    policy.load().note("deny", what="remove", entry=entry.id, role=entry.role)


def import_denied(path: Path | str) -> tuple[str, int]:
    """Take a shared list that one of the policy's keys signed.

    Returns:
        Name of the signer, and how many entries the list has.

    Raises:
        Refused: It is unsigned, of an unknown signer, changed, or older than the one here.
        MediaError: The file cannot be read.
    """
    rules = policy.load()
    name, count = deny.DenyFile().take(Path(path), rules.deny.keys)
    rules.note("deny", what="import", signer=name, entries=count, list=rules.hashes(Path(path)))
    return name, count


def export_denied(path: Path | str, *, sign: bool = True, overwrite: bool = False) -> str:
    """Write one's own entries as a list for others; see :meth:`mien.deny.DenyFile.export`."""
    key = deny.DenyFile().export(Path(path), sign=sign, overwrite=overwrite)
    policy.load().note("deny", what="export", signed=sign)
    return key
