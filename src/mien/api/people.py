"""Whose face: identities with the consent they rest on, and references to be found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from mien import identity, media
from mien.api.loading import load
from mien.errors import NoFace, UsageError
from mien.pipeline import Swapper
from mien.types import (
    Consent,
    ConsentBasis,
    Face,
    Floats,
    Frame,
    Identity,
    Image,
    TargetBasis,
    Which,
)


def consent_of(basis: str, note: str = "") -> Consent:
    """On what the use of the portrait rests.

    Raises:
        UsageError: The basis is none of :data:`mien.types.ConsentBasis`.
    """
    return _consent(basis, note, get_args(ConsentBasis), "consent")


def target_consent_of(basis: str, note: str = "") -> Consent:
    """On what the use of the footage rests, for the person who is replaced.

    Raises:
        UsageError: The basis is none of :data:`mien.types.TargetBasis`.
    """
    return _consent(basis, note, get_args(TargetBasis), "target-consent")


def _consent(basis: str, note: str, known: tuple[str, ...], what: str) -> Consent:
    if basis not in known:
        raise UsageError(f"{what} {basis!r} is unknown; known are {', '.join(known)}")
    return Consent(basis, note)


def enrol(
    photos: Path | str | Image | Sequence[Path | str | Image],
    consent: Consent | str,
    *,
    which: Which | int | None = None,
    white_balance: bool = False,
    swapper: Swapper | None = None,
) -> Identity:
    """Make an identity of one or more photos of one person.

    Args:
        photos: Files, or ``(H, W, 3)`` uint8 RGB images.
        consent: On what the use rests: ``self``, ``written``, ``artwork`` or ``synthetic``.
        which: Which face, where a photo has several: ``largest``, ``left``, ``right`` or a
            number from 1, from left to right.
        white_balance: Remove each photo's colour cast first.
        swapper: The models.

    Raises:
        NoFace: A photo has no face, or several and ``which`` is None.
        MediaError: A photo cannot be read.
        UsageError: The consent basis is unknown, or there is no photo.
    """
    several = [photos] if isinstance(photos, str | Path | np.ndarray) else list(photos)
    if not several:
        raise UsageError("no photo was given; one of the person's face is needed")
    swapper = swapper or load()
    return identity.enrol(
        several,
        consent if isinstance(consent, Consent) else consent_of(consent),
        detect=swapper.detector,
        landmarks=swapper.landmarks,
        embed=swapper.embed,
        which=which,
        white_balance=white_balance,
    )


def reference(photo: Path | str | Image, *, swapper: Swapper | None = None) -> Floats:
    """Who the person in a photo is, to be found in a target by ``Rule(reference=…)``.

    Of several faces the one that is at least twice as large as the others is meant, or a large
    one (a tenth of the picture) that alone covers the picture's middle.

    Returns:
        ``(512,)`` float32 of unit length.

    Raises:
        NoFace: No face, or several of similar size.
        MediaError: The photo cannot be read.
    """
    swapper = swapper or load()
    label = "the reference" if isinstance(photo, np.ndarray) else str(photo)
    if not isinstance(photo, np.ndarray):
        photo = media.read_image(photo, max_pixels=swapper.limits.pixels)
    frame = Frame(photo)
    faces = identity.find_faces(frame, swapper.detector, swapper.landmarks)
    faces = sorted(faces, key=lambda f: -_area(f))
    if not faces:
        raise NoFace(f"{label}: no face found; a reference shows the face of one person")
    middle = (frame.image.shape[1] / 2, frame.image.shape[0] / 2)
    centred = [f for f in faces if _holds(f, middle)]
    if len(centred) == 1 and _area(centred[0]) > 0.1 * frame.image.shape[0] * frame.image.shape[1]:
        faces = centred
    if len(faces) > 1 and _area(faces[0]) < 2 * _area(faces[1]):
        raise NoFace(
            f"{label}: {len(faces)} faces found, and it is not clear which one is meant; cut the "
            f"person out, or take a picture that 'mien faces' wrote"
        )
    (face,) = swapper.embed(frame, faces[:1])
    assert face.embedding is not None
    return face.embedding


def _holds(face: Face, point: tuple[float, float]) -> bool:
    x0, y0, x1, y1 = face.box
    return bool(x0 <= point[0] <= x1 and y0 <= point[1] <= y1)


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))
