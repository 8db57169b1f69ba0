"""Whose face: identities with the consent they rest on, and references to be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mien import identity, media, policy
from mien.api.loading import load
from mien.errors import NoFace, Refused, UsageError
from mien.pipeline import Swapper
from mien.types import (
    Consent,
    ConsentBasis,
    Face,
    Floats,
    Frame,
    Identity,
    Image,
    Scope,
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
    name: str = "",
) -> Identity:
    """Make an identity of one or more photos of one person.

    Args:
        photos: Files, or ``(H, W, 3)`` uint8 RGB images.
        consent: On what the use rests: ``self``, ``written``, ``artwork`` or ``synthetic``.
        which: Which face, where a photo has several: ``largest``, ``left``, ``right`` or a
            number from 1, from left to right.
        white_balance: Remove each photo's colour cast first.
        swapper: The models.
        name: What the person is called; the first file's stem if not given.

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
        name=name,
    )


def stored_name(sources: Sequence[Path | str]) -> str:
    """The identity that ``-s`` names; empty where it names photos.

    A file of that name goes before an identity.

    Raises:
        UsageError: There is neither, or an identity stands beside other sources.
    """
    names = [str(source) for source in sources if not Path(source).exists()]
    for name in names:
        if not identity.Store.open().has(name):
            raise UsageError(
                f"{name}: no such file, and no identity of that name; 'mien identity list' shows "
                f"those that there are"
            )
    if names and len(sources) > 1:
        raise UsageError(f"{names[0]}: is an identity with photos of its own; give it alone")
    return names[0] if names else ""


def stored(name: str, *, swapper: Swapper | None = None) -> Identity:
    """A person who was kept with :func:`keep` or ``mien identity add``, consent included.

    Args:
        name: As it was kept, or the record's id.
        swapper: The models; the embedding is made anew if their embedder is another one.

    Raises:
        UsageError: There is no such identity.
        Refused: The consent was withdrawn.
        MediaError: The store is damaged, or sealed with another key.
    """
    swapper = swapper or load()
    embedder = swapper.models["embed"][0]
    return identity.Store.open().get(name, embedder=embedder, embed=swapper.embed)


def whose(
    sources: Sequence[Path | str],
    consent: Consent | None,
    *,
    which: Which | int | None = None,
    white_balance: bool = False,
    swapper: Swapper | None = None,
) -> Identity:
    """What ``-s`` stands for: a kept identity, or one made of photos for this use alone.

    Of the second the store keeps a record of the consent, and nothing else, so that what is made
    can refer to it.

    Args:
        sources: The name of an identity, or photos of one person.
        consent: Of photos.
        which: As for :func:`enrol`.
        white_balance: As for :func:`enrol`.
        swapper: The models.

    Raises:
        UsageError: There is neither file nor identity, photos come without a consent, or an
            identity comes with another one.
        Refused: The identity's consent was withdrawn.
        NoFace: A photo has no face, or several and ``which`` is None.
        MediaError: A photo or the store cannot be read.
    """
    name = stored_name(sources)
    if name:
        if consent is not None:
            raise UsageError(own_consent(name))
        return stored(name, swapper=swapper)
    if consent is None:
        raise UsageError(f"{sources[0]}: is a photo, whose use needs a consent")
    me = enrol(sources, consent, which=which, white_balance=white_balance, swapper=swapper)
    return replace(me, consent=noted(consent))


def noted(consent: Consent) -> Consent:
    """A consent for one use, with a record of it in the store; nothing of a face is kept.

    Raises:
        MediaError: The store cannot be written.
    """
    return identity.Store.open().note(consent)


def own_consent(name: str) -> str:
    """What is said when an identity comes with a consent again."""
    return f"{name}: is an identity, which has its own consent; leave --consent away"


def keep(
    me: Identity,
    *,
    swapper: Swapper,
    verified: Literal["", "liveness"] = "",
    form: Path | None = None,
) -> identity.Entry:
    """Keep an enrolled person in the store, by name.

    Args:
        me: As :func:`enrol` made it.
        swapper: The models that it was made with.
        verified: ``liveness`` where the person stood before a camera, see :func:`enrol_live`.
        form: A signed form.

    Raises:
        UsageError: The name cannot be one, or is taken.
        MediaError: The form cannot be read, or the store cannot be written.
        Refused: The policy takes nobody on the basis ``self`` without that check.
    """
    rules = policy.load()
    try:
        rules.check_self(me.consent.basis, verified)
    except Refused as error:
        raise rules.refused(error) from None
    embedder = swapper.models["embed"][0]
    entry = identity.Store.open().add(me, embedder=embedder, verified=verified, form=form)
    said = {"verified": verified} if verified else {}
    rules.note("enrolled", record=entry.record, consent=entry.basis, **said)
    return entry


def revoke(name: str) -> identity.Entry:
    """Withdraw a consent; streams and jobs that use the identity see it within about a second.

    Args:
        name: As it was kept, or the record's id.

    Raises:
        UsageError: There is no such identity, or it was withdrawn already.
        MediaError: The store or the audit log cannot be written.
    """
    entry = identity.Store.open().revoke(name)
    policy.load().note("revoked", record=entry.record, consent=entry.basis)
    return entry


def scopes_of(text: str) -> tuple[Scope, ...]:
    """Uses, out of ``live,video``.

    Raises:
        UsageError: One of them is unknown.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = get_args(Scope)
    for word in words:
        if word not in known:
            raise UsageError(f"--scope {word!r} is unknown; known are {', '.join(known)}")
    return tuple(scope for scope in known if scope in words)


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
