"""A short random challenge: what is asked of who enrols, and whether it is done.

Sides are the person's own. In a picture that is not mirrored the person's left is at the viewer's
right; a camera that mirrors has to be said to do so.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from mien import geometry
from mien.landmarks import eye_opening, mouth_opening, yaw
from mien.types import Floats

Motion = Literal["left", "right", "up", "mouth", "eyes"]
MOTIONS: Final[tuple[Motion, ...]] = get_args(Motion)

STEPS: Final = 3
"""Motions of a challenge."""

LOOK: Final = "look straight into the camera, mouth shut"

PROMPTS: Final[dict[Motion, str]] = {
    "left": "turn your head to your own left",
    "right": "turn your head to your own right",
    "up": "lift your chin and look up",
    "mouth": "open your mouth wide",
    "eyes": "shut both eyes for a second, then open them",
}

DONE: Final[dict[Motion, str]] = {
    "left": "the head turned to its left",
    "right": "the head turned to its right",
    "up": "the chin was lifted",
    "mouth": "the mouth opened",
    "eyes": "the eyes shut",
}

# What counts as a motion, measured from the person's own rest: scripts/measure_liveness.py.
TURN: Final = 18.0
"""Degrees of the mesh's yaw; it shows about six tenths of the turn of a drawn head."""

LIFT: Final = 14.0
"""Degrees by which the line from forehead to chin leans back."""

WIDE: Final = 0.55
"""Height of the mouth over its width."""

SHUT: Final = 0.55
"""Share of the usual opening below which the wider of both eyes counts as shut."""

NEAR: Final = (9.0, 9.0, 0.2)
"""Yaw and pitch in degrees and mouth opening by which rest may differ from the first one."""

FRONT: Final = (14.0, 0.3, 0.12)
"""Yaw in degrees and mouth opening of the first rest at most, and opening of the eyes at least."""

STILL: Final = 7.0
"""Degrees by which yaw and pitch may change in the first rest."""

HOLD: Final[dict[Motion, float]] = {
    "left": 0.15, "right": 0.15, "up": 0.15, "mouth": 0.3, "eyes": 0.5,
}  # fmt: skip
"""Seconds for which a motion lasts to count. A blink lasts 0.1 to 0.3 s and does not."""

PAUSE: Final = (0.6, 1.6)
"""Seconds of rest before a motion, drawn anew for each."""

FIRST_REST, REST, STEP = 20.0, 6.0, 5.0
"""Seconds in which the first rest, a later one and a motion have to be reached."""

GAP, AWAY, CROWD = 0.7, 0.5, 0.2
"""Seconds without a frame, without a face and with a second face that are borne."""

FROZEN: Final = 1.0
"""Seconds for which a camera may repeat one picture to the last bit."""

SMALLEST: Final = 90.0
"""Pixels of the larger side of a face that is enrolled."""

MOVE, ZOOM, SPIN = (0.15, 4.0), (0.15, 2.0), (12.0, 250.0)
"""How far a face moves (in parts of its size), grows (logarithm) and turns (degrees) between two
frames at most: a constant and an amount for each second."""

SAME, SAME_MOVED = 1.2, 0.8
"""Cosine with the first rest, in later rests and in motions, in parts of the embedder's threshold:
a turned or laughing face is less like itself."""


class Seen(NamedTuple):
    """What one frame shows.

    Attributes:
        time: Seconds by any steady clock.
        faces: In view.
        mesh: ``(478, 3)`` of the face, in pixels of a picture that is not mirrored; None for none.
        embedding: ``(D,)`` of unit length; None for none.
        track: Number that stays with the face.
        picture: Digest of the pixels; empty if unknown.
    """

    time: float
    faces: int
    mesh: Floats | None = None
    embedding: Floats | None = None
    track: int | None = None
    picture: bytes = b""


class Pose(NamedTuple):
    """What is read off a mesh.

    Attributes:
        yaw: Degrees, positive towards the person's own left.
        pitch: Degrees by which the chin is nearer than the forehead is; falls when it is lifted.
        eyes: Height over width of the wider of both.
        mouth: Height over width.
    """

    yaw: float
    pitch: float
    eyes: float
    mouth: float

    @staticmethod
    def of(mesh: Floats) -> Pose:
        """The pose of a ``(478, 3)`` mesh."""
        down = mesh[152] - mesh[10]
        lean = float(np.arctan2(down[2], np.hypot(down[0], down[1])))
        return Pose(
            float(np.degrees(yaw(mesh))),
            float(np.degrees(lean)),
            max(eye_opening(mesh)),
            mouth_opening(mesh),
        )


def draw(source: random.Random | None = None) -> tuple[tuple[Motion, ...], tuple[float, ...]]:
    """Motions and pauses of a challenge.

    Three different ones in any order; one of them at least moves a part of the face, which no
    photo does. There are 54 such orders, all as likely.

    Args:
        source: Of chance; None takes the system's, which cannot be foreseen.

    Returns:
        The motions; seconds of rest before each and after the last.
    """
    source = source or secrets.SystemRandom()
    steps: list[Motion] = []
    while not {"mouth", "eyes"} & set(steps):
        steps = source.sample(MOTIONS, STEPS)
    return tuple(steps), tuple(source.uniform(*PAUSE) for _ in range(STEPS + 1))


@dataclass(slots=True)
class Challenge:
    """Says what to do, and looks whether it is done: rest, motion, rest, motion, rest.

    Fed with frames in order; ``state`` says how it stands. Another motion than the one that is
    asked, a face that jumps or is gone, a second one, another person, or too much time fail it,
    and nothing after that changes it.

    Attributes:
        steps: Motions, in order.
        pauses: Seconds of rest before each motion and after the last.
        similarity: Cosine from which two faces are one person's, as the embedder's card says.
        state: How it stands.
        reason: Why it failed.
        done: Motions that were done.
        asked: A motion is asked for now, not rest.
        hint: What keeps the first rest from being reached.
        resting: The last frame belongs to a rest, and shows the face as it usually is.
        first: Mean embedding of the first rest.
    """

    steps: tuple[Motion, ...]
    pauses: tuple[float, ...]
    similarity: float
    state: Literal["running", "passed", "failed"] = "running"
    reason: str = ""
    done: int = 0
    asked: bool = False
    hint: str = ""
    resting: bool = False
    first: Floats | None = None
    _usual: Pose | None = None
    _began: float | None = None
    _rest: list[tuple[float, Pose, Floats]] = field(default_factory=list)
    _since: dict[Motion, float] = field(default_factory=dict)
    _moved: list[Floats] = field(default_factory=list)
    _rested: bool = False
    _last: Seen | None = None
    _face: tuple[float, Pose, Floats] | None = None
    _track: int | None = None
    _crowd: float | None = None
    _pictures: dict[bytes, float] = field(default_factory=dict)
    _still: float = 0.0

    @staticmethod
    def drawn(similarity: float, source: random.Random | None = None) -> Challenge:
        """A challenge that nobody knows beforehand; see :func:`draw`."""
        return Challenge(*draw(source), similarity)

    @property
    def prompt(self) -> str:
        """What to do now."""
        if self.state != "running":
            return "passed" if self.state == "passed" else self.reason
        if self.asked:
            return PROMPTS[self.steps[self.done]]
        return f"{LOOK} ({self.hint})" if self.hint and self._usual is None else LOOK

    def __call__(self, seen: Seen) -> None:
        """Take the next frame."""
        if self.state != "running":
            return
        self.resting = False
        trouble = self._trouble(seen)
        self._last = seen
        if trouble and self._usual is None:  # nothing is asked yet: begin anew
            self._rest.clear()
            self._face, self.hint, trouble = None, trouble, ""
        if trouble:
            self._fail(trouble)
            return
        if self._began is None:
            self._began = seen.time
        if seen.mesh is not None and seen.embedding is not None and seen.faces == 1:
            pose = Pose.of(seen.mesh)
            self._face, self._track = (seen.time, pose, seen.mesh), seen.track
            self._judge(seen.time, pose, seen.embedding, seen.mesh)
        if self.state == "running":
            self._late(seen.time)

    def tick(self, time: float) -> None:
        """Say that no frame has come up to now."""
        if self.state == "running" and self._last is not None and time > self._last.time:
            if self._usual is not None and time - self._last.time > GAP:
                self._fail(f"no picture came for {time - self._last.time:.1f} s")
            else:
                self._late(time)

    # --- what must not be ----------------------------------------------------------------------

    def _trouble(self, seen: Seen) -> str:
        """Why the frame cannot follow the last one; empty if it can."""
        last, face, why = self._last, self._face, ""
        crowded = seen.faces > 1
        if last is not None and not 0 < seen.time - last.time <= GAP:
            why = f"no picture came for {abs(seen.time - last.time):.1f} s"
        elif seen.picture and (again := self._repeats(seen.picture, seen.time)):
            why = again
        elif crowded:
            self._crowd = seen.time if self._crowd is None else self._crowd
            if seen.time - self._crowd >= CROWD:
                why = "a second face is in view"
        elif seen.mesh is None:
            if face is None or seen.time - face[0] > AWAY:
                why = "the face is out of view"
        elif face is not None and seen.track != self._track:
            why = "the picture jumped: the face could not be followed"
        elif face is not None:
            why = _jump(face, (seen.time, Pose.of(seen.mesh), seen.mesh))
        self._crowd = self._crowd if crowded else None
        return why

    def _repeats(self, picture: bytes, time: float) -> str:
        """Whether a picture was there before, to the last bit, as no sensor gives it."""
        before = self._pictures.get(picture)
        last = "" if self._last is None else self._last.picture
        if picture != last:
            self._still = time
        self._pictures[picture] = time
        if before is not None and picture != last:
            return "the pictures repeat, as those of a recording do"
        return "the picture stands still" if time - self._still > FROZEN else ""

    def _late(self, time: float) -> None:
        assert self._began is not None
        spent = time - self._began
        if self.asked and spent > STEP:
            self._fail(f"asked to {PROMPTS[self.steps[self.done]]}, nothing was seen in time")
        elif not self.asked and spent > (REST if self._usual else FIRST_REST):
            why = f" ({self.hint})" if self.hint else ""
            self._fail(f"asked to {LOOK}, nobody did in time{why}")

    # --- what has to be ------------------------------------------------------------------------

    def _judge(self, time: float, pose: Pose, embedding: Floats, mesh: Floats) -> None:
        if self._usual is None:
            size = float(np.ptp(mesh[:468, :2], axis=0).max())
            self.hint = self._first_hint(pose, size)
            self._take_rest(time, pose, embedding, not self.hint)
            return
        now = motions(pose, self._usual)
        self._since = {m: self._since.get(m, time) for m in now}
        reached = {m for m, since in self._since.items() if time - since >= HOLD[m]}
        if self.asked:
            wanted = self.steps[self.done]
            if wanted in now:
                self._moved.append(embedding)
            if reached - {wanted}:
                said = " and ".join(DONE[m] for m in sorted(reached - {wanted}))
                sides = reached | {wanted} == {"left", "right"}
                said += ", or this camera gives mirror images" if sides else ""
                self._fail(f"asked to {PROMPTS[wanted]}, {said}")
            elif wanted in reached and self._is_first(self._moved, SAME_MOVED):
                self._turn(time, asked=False, done=self.done + 1)
            return
        # Until rest is reached, the motion just done is on its way back.
        going = {self.steps[self.done - 1]} if self.done and not self._rested else set()
        if reached - going:
            said = " and ".join(DONE[m] for m in sorted(reached - going))
            self._fail(f"asked to {LOOK}, {said}")
            return
        away = np.abs(np.array(pose[:2]) - self._usual[:2])
        near = bool((away < NEAR[:2]).all()) and pose.mouth < self._usual.mouth + NEAR[2]
        self._take_rest(time, pose, embedding, near and "eyes" not in reached)

    def _first_hint(self, pose: Pose, size: float) -> str:
        """What keeps this frame from the first rest, with which there is nothing to compare."""
        if size < SMALLEST:
            return "come nearer"
        if abs(pose.yaw) >= FRONT[0]:
            return "face the camera"
        if pose.mouth >= FRONT[1]:
            return "shut your mouth"
        if pose.eyes < FRONT[2]:
            return "open your eyes"
        start = self._rest[0][1] if self._rest else pose
        moved = max(abs(pose.yaw - start.yaw), abs(pose.pitch - start.pitch))
        return "hold still" if moved > STILL else ""

    def _take_rest(self, time: float, pose: Pose, embedding: Floats, good: bool) -> None:
        if not good:
            self._rest.clear()
            return
        self._rest.append((time, pose, embedding))
        wide = self._usual.eyes if self._usual else np.median([p.eyes for _, p, _ in self._rest])
        self.resting = pose.eyes > 0.8 * float(wide)
        self._rested = True
        if time - self._rest[0][0] < self.pauses[self.done]:
            return
        if self._usual is None:
            self._usual = Pose(*np.median([p for _, p, _ in self._rest], axis=0).tolist())
            self.first = mean([e for _, _, e in self._rest])
        if not self._is_first([e for _, _, e in self._rest], SAME):
            return
        if self.done == len(self.steps):
            self.state = "passed"
        else:
            self._turn(time, asked=True, done=self.done)

    def _is_first(self, embeddings: Sequence[Floats], share: float) -> bool:
        """Whether it is the face of the first rest; fails if not."""
        assert self.first is not None
        if float(mean(embeddings) @ self.first) >= share * self.similarity:
            return True
        self._fail("this does not seem to be the face of the beginning")
        return False

    def _turn(self, time: float, *, asked: bool, done: int) -> None:
        self.asked, self.done, self._began = asked, done, time
        if asked:
            self._since.clear()  # a motion counts from when it is asked
        self._rest, self._moved, self._rested = [], [], False

    def _fail(self, reason: str) -> None:
        self.state, self.reason, self.resting = "failed", reason, False


def motions(pose: Pose, usual: Pose) -> set[Motion]:
    """The motion that a pose shows against the usual one, if any.

    Eyes and mouth count only where the face is seen from the front, since a turn changes how they
    look, and eyes only where the mouth is not wide, since who yawns shuts them.
    """
    turn, lift = pose.yaw - usual.yaw, usual.pitch - pose.pitch
    if abs(turn) >= TURN:
        return {"left" if turn > 0 else "right"}
    if lift >= LIFT:
        return {"up"}
    if pose.mouth >= max(WIDE, usual.mouth + 0.3):
        return {"mouth"}
    return {"eyes"} if pose.eyes <= SHUT * usual.eyes and abs(turn) < NEAR[0] else set()


def _jump(before: tuple[float, Pose, Floats], after: tuple[float, Pose, Floats]) -> str:
    """Whether no head moves like that between two frames."""
    passed = after[0] - before[0]
    boxes = [geometry.bounds(mesh[:468]) for _, _, mesh in (before, after)]
    sizes = [float((box[2:] - box[:2]).max()) for box in boxes]
    moved = float(np.hypot(*((boxes[1] - boxes[0])[:2] + (boxes[1] - boxes[0])[2:]))) / 2
    far = moved / max(sizes[0], 1.0) > MOVE[0] + MOVE[1] * passed
    grown = abs(float(np.log(sizes[1] / sizes[0]))) > ZOOM[0] + ZOOM[1] * passed
    spun = abs(after[1].yaw - before[1].yaw) > SPIN[0] + SPIN[1] * passed
    return "the picture jumped: no head moves like that" if far or grown or spun else ""


def mean(embeddings: Sequence[Floats]) -> Floats:
    """``(D,)`` of unit length: the mean of some."""
    total = np.mean(embeddings, axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)
