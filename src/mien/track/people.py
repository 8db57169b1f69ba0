"""Who is who: the embeddings of those seen in a stream, in memory only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from mien.track.assign import assign
from mien.types import Embed, Face, Faces, Floats, Frame

LOOKS: Final = (0, 5, 15, 40, 100)
"""Frames in view after which a face's embedding is measured; the mean counts."""

SAME: Final = 0.92
"""Cosine from which a face that comes back is the person who was there before, in parts of the
embedder's threshold: .35 for the default one."""

SOON: Final = 0.6
"""Likewise for somebody who was in view until shortly before."""

SHORTLY: Final = 75
"""Frames for which that holds."""

OTHER: Final = 0.4
"""Cosine below which a face that appears in somebody's last place is somebody else, likewise."""

CLEAR: Final = 0.1
"""By how much more a face must look like another person to outweigh where it was."""

BUDGET: Final = 2
"""Embeddings a frame, those of faces that were not in the last frame left out."""


@dataclass(slots=True)
class _Person:
    """Somebody seen in the stream.

    Attributes:
        embedding: ``(512,)`` unit mean of what was measured.
        looks: How often that was.
        last: Frame in which the person was last in view.
    """

    embedding: Floats
    looks: int = 1
    last: int = 0


@dataclass(slots=True)
class People:
    """Numbers faces by person: who comes back gets the old number.

    An embedding costs as much as following a face for five frames, so it is measured only when
    a face appears, now and then while it stays, where two faces lie on one another and when they
    have parted.

    Attributes:
        embed: Measures it.
        threshold: Cosine from which two faces are one person's.
    """

    embed: Embed
    threshold: float
    _people: dict[int, _Person] = field(default_factory=dict)
    _person_of: dict[int, int] = field(default_factory=dict)
    _ages: dict[int, int] = field(default_factory=dict)
    _due: dict[int, bool] = field(default_factory=dict)
    _frame: int = 0

    def __call__(self, frame: Frame, faces: Faces, parted: Iterable[int] = ()) -> Faces:
        """Number the faces of the next frame by person, and give them the person's embedding.

        Args:
            frame: They are in.
            faces: With track numbers.
            parted: Tracks that may have been mistaken for each other.
        """
        self._frame += 1
        seen = {_number(f): f for f in faces if not f.missed}
        # Who was out of view is measured anew: another may stand in the same place.
        self._ages = {n: self._ages.get(n, 0) for n in seen}
        for number in parted:
            self._due[number] = True
        for number, age in self._ages.items():
            if age in LOOKS[1:]:
                self._due.setdefault(number, False)
        self._due = {n: why for n, why in self._due.items() if n in seen}
        fresh = [n for n, age in self._ages.items() if age == 0]
        others = [n for n in self._due if n not in fresh][:BUDGET]
        self._meet(frame, [seen[n] for n in fresh + others], set(fresh), seen)
        for number in fresh + others:
            self._due.pop(number, None)
        out = []
        for face in faces:
            person = self._person_of.get(_number(face))
            if person is None:
                continue
            if not face.missed:
                self._ages[_number(face)] += 1
                self._people[person].last = self._frame
            out.append(replace(face, track=person, embedding=self._people[person].embedding))
        shown: dict[int | None, Face] = {}
        for face in sorted(out, key=lambda f: f.missed):  # one who was found is not foreseen too
            shown.setdefault(face.track, face)
        return [f for f in out if shown[f.track] is f]

    def likeness(self, frame: Frame, faces: Faces) -> list[float]:
        """Cosine of each face with the person of its track; NaN for one not met yet."""
        if any(_number(f) not in self._person_of for f in faces):
            return [float("nan")] * len(faces)
        return [self._like(_known(f.embedding), self._person_of[_number(f)])
                for f in self.embed(frame, faces)]  # fmt: skip

    def _like(self, embedding: Floats, person: int) -> float:
        return float(self._people[person].embedding @ embedding)

    def _meet(self, frame: Frame, faces: Faces, fresh: set[int], seen: dict[int, Face]) -> None:
        """Decide who some faces are, all at once."""
        if not faces:
            return
        faces = self.embed(frame, faces)
        # One who comes in may look like somebody whose track is on the wrong face.
        known = {self._person_of.get(n): n for n in seen if n not in map(_number, faces)}
        nearest = {self._nearest(f) for f in faces if _number(f) in fresh}
        rivals = {known[person] for person in nearest if person in known}
        faces += self.embed(frame, [seen[n] for n in rivals])
        faces.sort(key=lambda f: float(f.box[0]))  # numbers run from left to right
        taken = {self._person_of.get(n) for n in seen if n not in map(_number, faces)}
        free = [p for p in self._people if p not in taken]
        gains = np.full((len(faces), len(free) + len(faces)), -1.0)
        for n, face in enumerate(faces):
            for m, person in enumerate(free):
                gains[n, m] = self._gain(face, person, _number(face) in fresh)
        for n, m in assign(-gains):
            number = _number(faces[n])
            if m < len(free) and gains[n, m] > -1:
                self._person_of[number] = free[m]
            elif number in fresh:
                new = len(self._people) + 1
                self._people[new] = _Person(_known(faces[n].embedding), 0)
                self._person_of[number] = new
        for face in faces:
            who = self._people[self._person_of[_number(face)]]
            if self._due.get(_number(face)) and _number(face) not in fresh and who.looks > 1:
                continue  # who was just behind another may still be half hidden
            mean = who.embedding * who.looks + _known(face.embedding)
            who.embedding = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
            who.looks += 1

    def _nearest(self, face: Face) -> int | None:
        """The person whom a face surely looks like, if there is one."""
        like = {p: self._like(_known(face.embedding), p) for p in self._people}
        best = max(like, key=lambda p: like[p], default=None)
        return best if best is not None and like[best] >= SAME * self.threshold else None

    def _gain(self, face: Face, person: int, fresh: bool) -> float:
        """What speaks for a face being a person, -1 where too little does."""
        like = self._like(_known(face.embedding), person)
        if self._person_of.get(_number(face)) == person:
            return like + CLEAR if not fresh or like >= OTHER * self.threshold else -1.0
        soon = self._frame - self._people[person].last <= SHORTLY
        least = min(SAME, SOON if soon else SAME) * self.threshold
        return like if like >= least else -1.0


def _number(face: Face) -> int:
    if face.track is None:
        raise ValueError("expected a face with a track number")
    return face.track


def _known(embedding: Floats | None) -> Floats:
    if embedding is None:
        raise ValueError("expected a face with an embedding; run the stream with identify=True")
    return embedding
