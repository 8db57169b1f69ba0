"""Whose face, before a camera: enrolling with the liveness check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Final

from mien import media, policy
from mien.api.loading import load
from mien.errors import UsageError
from mien.identity.challenge import Challenge
from mien.identity.liveness import Session
from mien.pipeline import Swapper
from mien.types import Consent, Identity

SIZE: Final = (1280, 720)
"""Asked of a device: portraits want pixels."""

FPS: Final = 15.0
"""Frames a second of a file, which waits for nobody: enough to see motions, and few enough for a
slow machine. A device gives its newest frame."""

HINTS: Final = 2.0
"""Seconds between two hints."""


def enrol_live(
    camera: str,
    consent: Consent | None = None,
    *,
    name: str,
    mirrored: bool = False,
    white_balance: bool = False,
    swapper: Swapper | None = None,
    tell: Callable[[Challenge], None] | None = None,
) -> Identity:
    """Enrol who stands before a camera and does three motions as asked, see :mod:`mien.identity`.

    Keep the identity with ``keep(…, verified="liveness")``. A check that fails is written to the
    audit log.

    Args:
        camera: Number, device, file or address, as for :func:`mien.media.open_camera`.
        consent: On the basis ``self``; None for that alone.
        name: What the person is called.
        mirrored: The camera gives mirror images.
        white_balance: Remove each photo's colour cast first.
        swapper: The models.
        tell: Given the challenge, whose ``prompt`` says what to do, before the first frame and
            whenever the prompt changes.

    Raises:
        UsageError: The basis is another than ``self``.
        Refused: The check was not passed, or a rule forbids the person.
        MediaError: The camera cannot be opened, or fails.
    """
    consent = consent or Consent("self")
    if consent.basis != "self":
        raise UsageError(
            f"before a camera people enrol themselves, on the basis 'self', not {consent.basis!r}; "
            f"give photos of others"
        )
    swapper = swapper or load()
    challenge = Challenge.drawn(swapper.similarity)
    session = Session(
        swapper.detector, swapper.landmarks, swapper.embed, challenge, mirrored=mirrored
    )
    device = camera.isdecimal() or camera.startswith("/dev/")
    size, fps = (SIZE, 0.0) if device else (None, FPS)
    told: tuple[int, bool, str] = (-1, False, "")
    when = 0.0
    with closing(media.open_camera(camera, size=size, fps=fps)) as shots:
        for shot in shots:
            now = challenge.done, challenge.asked, challenge.prompt
            # What is asked is told at once; hints, which change from frame to frame, now and then.
            if tell is not None and now != told and (now[:2] != told[:2] or shot.time > when):
                told, when = now, shot.time + HINTS
                tell(challenge)
            session(shot.frame, shot.time)
            if challenge.state != "running":
                break
    if challenge.state != "passed":
        raise policy.load().refused(session.refusal())
    return session.identity(name, consent, white_balance=white_balance)
