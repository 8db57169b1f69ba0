"""Liveness for ``self``: who enrols stands before a camera and does a few motions as asked.

It is a hurdle for photos that are held up, for recordings that were made for something else and
for mix-ups. It is no proof: a virtual camera, with a face swap behind it, can do the motions too.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from mien.detect import Detector
from mien.errors import Refused
from mien.identity.challenge import SAME, Challenge, Pose, Seen
from mien.identity.enrolling import MESH_SCORE, enrol
from mien.track import Tracker, TrackOptions
from mien.types import Consent, Embed, Floats, Frame, Identity, Image, Landmarks

RULE: Final = "rule consent.liveness"

NO_PROOF: Final = "the check is a hurdle, not a proof: a virtual camera or a face swap can pass it"
"""Said wherever somebody enrols by it."""


class Session:
    """A challenge before a camera: looks at its frames, and keeps the best of each rest.

    Args:
        detect: Finds faces.
        landmarks: Fits meshes.
        embed: Says who it is.
        challenge: What is asked.
        mirrored: The camera gives mirror images.
    """

    def __init__(
        self,
        detect: Detector,
        landmarks: Landmarks,
        embed: Embed,
        challenge: Challenge,
        *,
        mirrored: bool = False,
    ) -> None:
        self.challenge = challenge
        self._detect, self._landmarks, self._embed = detect, landmarks, embed
        self._mirrored = mirrored
        options = TrackOptions(quick=5, thorough=15, steady="off")
        self._tracker = Tracker(detect.quick, detect.thorough, landmarks, options)
        self._best: dict[int, tuple[float, Image]] = {}

    def __call__(self, frame: Frame, time: float) -> Challenge:
        """Look at the next frame.

        Args:
            frame: Only read.
            time: Seconds by a steady clock, at which it was taken.
        """
        challenge = self.challenge
        if challenge.state != "running":
            return challenge
        seen, image = self.see(frame, time)
        before = challenge.done
        challenge(seen)
        if challenge.first is None and not challenge.resting:
            self._best.clear()  # the first rest begins anew, perhaps with somebody else
        elif challenge.resting and seen.mesh is not None:
            merit = _merit(seen.mesh)
            if before not in self._best or merit > self._best[before][0]:
                self._best[before] = (merit, image.copy())
        return challenge

    def see(self, frame: Frame, time: float) -> tuple[Seen, Image]:
        """What the next frame shows, and its ``(H, W, 3)`` picture, not mirrored."""
        image = frame.image
        picture = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        if self._mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
            frame = Frame(image, frame.index, frame.pts, frame.time_base)
        faces = [f for f in self._tracker(frame) if not f.missed and f.mesh_score >= MESH_SCORE]
        if len(faces) == 1:
            (face,) = self._embed(frame, faces)
            return Seen(time, 1, face.mesh, face.embedding, face.track, picture), image
        return Seen(time, len(faces), picture=picture), image

    @property
    def photos(self) -> list[Image]:
        """The best frame of each rest, ``(H, W, 3)`` uint8 RGB."""
        return [image for _, image in self._best.values()]

    def identity(self, name: str, consent: Consent, *, white_balance: bool = False) -> Identity:
        """Who passed, enrolled of the frames in which the face was at rest.

        Raises:
            Refused: The challenge was not passed, the photos show somebody else than the one who
                passed, the person is on the deny list, or a classifier refuses a photo.
            NoFace: A photo does not show one face.
        """
        challenge = self.challenge
        if challenge.state != "passed" or challenge.first is None:
            raise self.refusal()
        person = enrol(
            self.photos,
            consent,
            detect=self._detect,
            landmarks=self._landmarks,
            embed=self._embed,
            white_balance=white_balance,
            name=name,
        )
        if float(person.embedding @ challenge.first) < SAME * challenge.similarity:
            raise Refused(f"{name}: the photos show another face than the check ({RULE})")
        return person

    def refusal(self) -> Refused:
        """What is said of a challenge that was not passed."""
        why = self.challenge.reason or "the camera ended before the check did"
        return Refused(f"not enrolled: {why} ({RULE})")


def _merit(mesh: Floats) -> float:
    """How good a portrait a face at rest is: frontal, large, eyes open, mouth shut."""
    pose = Pose.of(mesh)
    size = float(np.ptp(mesh[:468, :2], axis=0).max())
    front = float(np.cos(np.radians(pose.yaw))) ** 4
    return front * min(size, 600.0) * (1 - min(pose.mouth, 0.8)) * min(pose.eyes, 0.4)
