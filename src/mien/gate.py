"""The policy inside a stream: no identity and no face passes that it does not allow.

Every stream has a gate, whoever made the stream. Identities are permitted before they are used
for the first time. Where people are on the deny list as targets, each face that appears is embedded
before its first swap, and again now and then, as a tracker may take one person for another; that
costs one run of the embedder for each look. Classifiers see the picture once a second, or each
face that appears.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from mien import classify, deny, embed, policy
from mien.errors import Refused
from mien.provenance import Marker
from mien.types import Embed, Face, Floats, Frame, Identity, Image

log = logging.getLogger(__name__)

LOOKS: Final = (0, 5, 15, 40)
"""Frames in view after which a face is compared with the deny list."""

Pair = TypeVar("Pair")

AGAIN: Final = 75
"""Frames between two looks after these."""


class Gate:
    """What one stream may do.

    Args:
        rules: The policy; None reads the one in force.
        use: What the stream is for.
        own: Its embedder, which is used where it is the deny list's.

    Attributes:
        rules: The policy.
        use: What the stream is for.
        denied: Number of a track → entry of the deny list that its face matches.
    """

    def __init__(self, rules: policy.Policy | None, use: policy.Use, own: Embed) -> None:
        self.rules = policy.load() if rules is None else rules
        self.use = use
        self.denied: dict[int, str] = {}
        self._permitted: weakref.WeakSet[Identity] = weakref.WeakSet()
        self._groups: set[frozenset[int]] = set()
        self._embed = _embedder(own)
        self._ages: dict[int, int] = {}
        self._others: dict[int, int] = {}
        self._asked: dict[str, float] = {}
        self._told = False
        self._lock = threading.RLock()
        self._listed = self.rules.denied.has("target")
        self._judges = [(t, c) for t, c in self.rules.classifiers if "target" in t.roles]

    @property
    def looks(self) -> bool:
        """Whether faces or pictures have to be looked at."""
        return self._listed or bool(self._judges)

    def under(self, marker: Marker) -> None:
        """Permit what is marked so from now on: by its marks and the target's consent."""
        use = replace(self.use, marks=marker.marks, target_consent=marker.target_consent)
        if use != self.use:
            self.use = use
            self._permitted, self._groups = weakref.WeakSet(), set()

    def admit(self, identities: Iterable[Identity]) -> None:
        """Let identities pass that are used together; cheap for those that passed before.

        Raises:
            Refused: The policy does not allow them, or this use of them.
        """
        together = set(identities)
        group = frozenset(map(id, together))
        known = all(identity in self._permitted for identity in together)
        if together and not (known and (len(together) == 1 or group in self._groups)):
            self.rules.permit(together, self.use)
            self._permitted.update(together)
            self._groups.add(group)

    def look(self, frame: Frame, faces: Sequence[Face], *, still: bool = False) -> None:
        """Look at the faces of a frame before any of them is swapped.

        Args:
            frame: They are in.
            faces: With track numbers.
            still: Tracks are those of this frame alone.

        Raises:
            Refused: A classifier refuses the picture or a face.
        """
        with self._lock:
            if still:
                self._ages, self.denied, self._asked = {}, {}, {}
            here = [f for f in faces if f.track is not None]
            self._ages = {n: self._ages.get(n, 0) for n in map(_number, here)}
            due = [f for f in here if _due(self._ages[_number(f)]) and not f.missed]
            self._compare(frame, [f for f in due if _number(f) not in self.denied])
            self._judge(frame, [f for f in due if self._ages[_number(f)] == 0])
            for face in here:
                self._ages[_number(face)] += not face.missed

    def passes(self, frame: Frame, face: Face) -> bool:
        """Whether a face may be replaced; one that was not looked at before is looked at now."""
        if not self._listed:
            return True
        with self._lock:
            if face.track is None:
                return self._entry(frame, face) is None
            if face.track not in self._ages:  # found elsewhere, as in a file of tracks
                age = self._others.get(face.track, 0)
                self._others[face.track] = age + 1
                if _due(age) and face.track not in self.denied:
                    self._compare(frame, [face])
            return face.track not in self.denied

    def known(self, face: Face) -> bool:
        """Whether a face that was looked at may be replaced."""
        return face.track not in self.denied

    def forget(self) -> None:
        """Look at all faces anew."""
        with self._lock:
            self._ages, self._others, self.denied = {}, {}, {}

    def at_most(self, pairs: list[Pair]) -> list[Pair]:
        """As many pairs as may be replaced in one picture, the first ones; says so once."""
        most = self.rules.max_faces
        if not most or len(pairs) <= most:
            return pairs
        if not self._told:
            self._told = True
            why = (
                f"{self.rules.where}: {len(pairs)} faces in one picture are not allowed "
                f"(max_faces = {most}); the others stay as they are"
            )
            log.warning("%s", why)
            self.rules.note("limited", why=why)
        return pairs[:most]

    def _entry(self, frame: Frame, face: Face) -> deny.Entry | None:
        (seen,) = self._embed()(frame, [face])
        assert seen.embedding is not None
        return self.rules.denied.match(seen.embedding, "target")

    def _compare(self, frame: Frame, faces: Sequence[Face]) -> None:
        for face in faces if self._listed else ():
            entry = self._entry(frame, face)
            if entry is not None:
                self.denied[_number(face)] = entry.id
                log.warning(
                    "deny list: a face matches entry %s, a person who must not be replaced; it "
                    "stays as it is",
                    entry.id,
                )
                self.rules.note("denied", role="target", entry=entry.id, kind=self.use.kind)

    def _judge(self, frame: Frame, fresh: Sequence[Face]) -> None:
        for said, judge in self._judges:
            if said.sees == "face":
                pictures = [classify.around(frame.image, f.box) for f in fresh]
            else:
                now = _seconds(frame)
                last = self._asked.get(said.name)
                if last is not None and 0 <= now - last < said.every:
                    continue
                self._asked[said.name] = now
                pictures = [frame.image]
            if any(judge.refuses(picture) for picture in pictures):
                raise self.rules.refused(
                    Refused(f"{self.rules.where}: classifier {said.name} refuses the target"),
                    kind=self.use.kind,
                )


def portrait(
    frame: Frame, face: Face, label: str, *, own: Embed, rules: policy.Policy | None = None
) -> None:
    """Let a portrait pass before an identity is made of it.

    Args:
        frame: The photo.
        face: In it, with points; its embedding is used if ``own`` is the deny list's embedder.
        label: The photo's name for messages.
        own: The chain's embedder.
        rules: None reads those in force.

    Raises:
        Refused: The person is on the deny list, or a classifier refuses the photo.
    """
    rules = policy.load() if rules is None else rules
    try:
        if rules.denied.has("source"):
            vector: Floats | None = face.embedding
            if vector is None or not _is_default(own):
                (seen,) = _embedder(own)()(frame, [face])
                vector = seen.embedding
            assert vector is not None
            rules.denied.check(vector, "source", label)
        for said, judge in rules.classifiers:
            if "portrait" not in said.roles:
                continue
            seen_by: Image = frame.image
            if said.sees == "face":
                seen_by = classify.around(frame.image, face.box)
            if judge.refuses(seen_by):
                raise Refused(f"{rules.where}: classifier {said.name} refuses {label}")
    except Refused as error:
        rules.note("refused", why=str(error).replace(label, "the portrait"), role="source")
        raise


def _is_default(own: Embed) -> bool:
    card = getattr(own, "card", None)
    return card is not None and str(card.name).startswith(deny.EMBEDDER)


def _embedder(own: Embed) -> Callable[[], Embed]:
    """What measures for the deny list: the chain's embedder if it is the list's, else that."""
    made: list[Embed] = [own] if _is_default(own) else []

    def get() -> Embed:
        if not made:
            made.append(embed.load(None, deny.EMBEDDER))
        return made[0]

    return get


def _due(age: int) -> bool:
    return age in LOOKS or (age > LOOKS[-1] and (age - LOOKS[-1]) % AGAIN == 0)


def _number(face: Face) -> int:
    if face.track is None:
        raise ValueError("expected a face with a track number")
    return face.track


def _seconds(frame: Frame) -> float:
    if frame.pts is None or frame.time_base is None:
        return frame.index / 25
    return float(frame.pts * frame.time_base)
