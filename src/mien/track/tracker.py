"""Following all faces of one stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final

import cv2
import numpy as np

from mien import geometry
from mien.landmarks import eye_opening, five_points
from mien.mask import LIDS
from mien.track.assign import assign
from mien.track.flow import Flow
from mien.track.kalman import Path
from mien.track.lookout import Lookout
from mien.track.options import TrackOptions
from mien.track.steady import OneEuro, Steady
from mien.types import Face, Faces, Floats, Frame, Image, Landmarks

Look = Callable[[Image], Faces]

Likeness = Callable[[Frame, Faces], list[float]]
"""How much each of some faces looks like the person its track number stands for; NaN if unknown."""


ASIDE: Final = 0.2
"""Share of the way to a second network's points that is gone in a frame."""

RATE: Final = 30.0
"""Frames a second of a stream that has no times."""

REACH: Final = 0.2
"""Of a face's sides, by which the mesh network sees beyond each: others there may disturb it."""

CLEAR: Final = 0.1
"""Difference in likeness that outweighs how two faces moved."""

GATE: Final = 23.5
"""Squared Mahalanobis distance beyond which a face that touches another has not moved but was taken
for it: one motion in ten thousand lies there (chi-square, four degrees of freedom)."""

STRETCH: Final = 0.2
"""Change of a face's size or shape, in parts of it, from which a face that touches another is taken
to have spread over both."""

EASE: Final = 0.05
"""Share of such a change that is taken for real in a frame."""

STRAIN: Final = 0.7
"""Share of the last surprise that is remembered in the next frame."""


def _usual(before: Floats, now: Floats) -> Floats:
    """The usual opening of two eyes, one frame later: soon more, slowly less, blinks left out."""
    rate = np.where(now > before, 0.15, np.where(now > 0.6 * before, 0.03, 0.003))
    return np.asarray(np.maximum(before + rate * (now - before), 0.08), np.float32)


@dataclass(slots=True)
class Track:
    """One person in view.

    Attributes:
        number: Stays with the person.
        face: As last seen, unsmoothed.
        smooth: Filter of the mesh; None for none.
        path: Where the face is foreseen to be.
        flow: What the picture shows of its motion.
        aside: ``(5, 2)`` how far a second network's points lie from the mesh's, smoothed.
        lids: How far both eyes are usually open, height over width.
        missed: Frames since it was last seen.
        shown: How far it is shown, 0..1.
        strain: How much its motion surprised of late.
        alone: While it touches another face: its path had it gone on as before.
        given: The face as last given out.
    """

    number: int
    face: Face
    smooth: Steady | OneEuro | None
    path: Path
    flow: Flow = field(default_factory=Flow)
    aside: Floats | None = None
    lids: Floats = field(default_factory=lambda: np.array(LIDS, np.float32))
    missed: int = 0
    shown: float = 1.0
    strain: float = 0.0
    alone: Path | None = None
    given: Face | None = None


@dataclass(slots=True)
class Tracker:
    """All state of following faces in one stream.

    Attributes:
        quick: Detector's quick look, for the frames between.
        thorough: Detector's thorough look, for first frames and cuts.
        landmarks: The mesh stage.
        options: See :class:`TrackOptions`.
        likeness: Asked, if given, where motion alone may take one face for another.
        parted: Numbers of faces that touched another until the last frame and no longer do.
    """

    quick: Look
    thorough: Look
    landmarks: Landmarks
    options: TrackOptions = field(default_factory=TrackOptions)
    likeness: Likeness | None = None
    tracks: list[Track] = field(default_factory=list)
    detections: int = 0
    parted: set[int] = field(default_factory=set)
    _since_quick: int = 0
    _since_thorough: int = 0
    _numbers: int = 0
    _thumbnail: Image | None = None
    _time: float | None = None
    _lookout: Lookout = field(init=False)

    def __post_init__(self) -> None:
        self._lookout = Lookout(self.thorough)

    def __call__(self, frame: Frame) -> Faces:
        """Faces of the next frame, with meshes and track numbers, steadied.

        With ``bridge`` or ``fade`` faces are among them that were missed in this frame.
        """
        options = self.options
        seconds = self._seconds(frame)
        cut = self._is_cut(frame.image)
        if cut:
            self.tracks.clear()
            self._lookout.drop()
        lost = self._follow(frame)
        self._since_quick += 1
        self._since_thorough += 1
        due = self._since_thorough >= options.thorough
        if cut or (due and not options.beside):
            self._join(frame, self.thorough(frame.image), at_once=cut)
            self._since_quick = self._since_thorough = 0
        elif (seen := self._lookout.take()) is not None:
            self._join(frame, *seen)
        elif lost or self._since_quick >= options.quick:
            self._join(frame, self.quick(frame.image))
            self._since_quick = 0
        elif due and not self._lookout.busy:
            boxes = [t.face.box for t in self.tracks if t.missed == 0]
            self._lookout.begin(frame.image, np.reshape(boxes, (-1, 4)).astype(np.float32))
            self._since_thorough = 0
        self.tracks = [t for t in self.tracks if t.missed <= options.keep]
        self._touch()
        return self._give(frame, seconds)

    def _follow(self, frame: Frame) -> bool:
        """Fit every face from its last mesh; True if one was lost."""
        for track in self.tracks:
            track.path.predict(seen=track.missed == 0)
            if track.alone is not None:
                track.alone.predict()
            track.missed += track.missed > 0
        seen = [t for t in self.tracks if t.missed == 0]
        lost = False
        for track, fit in zip(seen, self._fit(frame, [t.face for t in seen]), strict=True):
            face = fit
            if _slides(track, face):
                (face,) = self._fit(frame, [self._foreseen(track)])
            if self._plausible(face, frame) and not _slides(track, face):
                track.face = face
                track.strain = STRAIN * track.strain + track.path.surprise(face.box)
                track.path.update(face.box)
                if track.alone is not None:
                    track.alone.place[2:] += EASE * (track.path.place[2:] - track.alone.place[2:])
            else:
                self._lose(track)
                lost = True
        self._lose_doubles(frame)
        if self.options.bridge or self.options.fade:
            self._regain(frame)
        return lost

    def _regain(self, frame: Frame) -> None:
        """Fit those who were just missed where they are foreseen."""
        out = [t for t in self.tracks if t.missed and t.shown > 0 and t.given is not None]
        there = [(t, self._foreseen(t)) for t in out]
        current = [t for t in self.tracks if t.missed == 0]
        there = [(t, f) for t, f in there if not _covered(f, current)]
        fits = self._fit(frame, [f for _, f in there])
        for (track, guess), face in zip(there, fits, strict=True):
            near = float(geometry.overlap(face.box, guess.box)[0, 0]) > 0.5
            current = [t for t in self.tracks if t.missed == 0]
            if near and self._plausible(face, frame) and not _covered(face, current):
                track.face, track.missed = face, 0
                track.path.update(face.box)

    def _foreseen(self, track: Track) -> Face:
        """The face of a track as last given out, moved to where it is foreseen to be."""
        face = replace(track.given or track.face, missed=0, fade=1.0)
        mesh = face.mesh
        if mesh is None:
            return replace(face, box=track.path.box)
        old, new = geometry.bounds(mesh[:468]), track.path.box
        zoom = float((new[3] - new[1]) / max(float(old[3] - old[1]), 1e-3))
        here, there = (old[:2] + old[2:]) / 2, (new[:2] + new[2:]) / 2
        moved = mesh * np.float32(zoom)
        moved[:, :2] = (mesh[:, :2] - here) * zoom + there
        points = ((face.points - here) * zoom + there).astype(np.float32)
        return replace(face, mesh=moved, box=geometry.bounds(moved[:468]), points=points)

    def _join(
        self, frame: Frame, found: Faces, known: Floats | None = None, *, at_once: bool = False
    ) -> None:
        """Match detections to tracks; fit and add those that are new.

        Args:
            frame: Where they are fitted.
            found: What the detector saw.
            known: ``(N, 4)`` boxes of those who were followed when it looked, if that was before.
            at_once: New faces are shown wholly from now on.
        """
        self.detections += 1
        current = [t for t in self.tracks if t.missed == 0]
        fresh = [f for f in found if not _covered(f, current)]
        if known is not None:
            fresh = [f for f in fresh if not _within(f, known)]
        fresh.sort(key=lambda f: float(f.box[0]))  # numbers run from left to right
        faces: Faces = []
        for face in self._fit(frame, [replace(f, mesh=None) for f in fresh]):
            others = [t.face for t in current] + faces
            if self._plausible(face, frame) and not _over(face, others):
                faces.append(face)
        returning = self._returning(faces)
        for n, face in enumerate(faces):
            back = returning.get(n)
            if back is None:
                if face.score < self.options.sure and face.mesh_score < self.options.sure_mesh:
                    continue
                self._numbers += 1
                back = Track(self._numbers, face, None, Path.start(face.box))
                back.shown = 1.0 if at_once else 0.0
                self.tracks.append(back)
            back.face, back.missed = face, 0
            back.path, back.alone, back.strain = Path.start(face.box), None, 0.0
            back.smooth, back.flow = self._filter(), Flow()

    def _returning(self, faces: Faces) -> dict[int, Track]:
        """Which of the lost tracks each of some faces is, by the least cost of all.

        The cost is 1 less the overlap with where the track was last seen or is foreseen to be.
        """
        away = [t for t in self.tracks if t.missed]
        if not away or not faces:
            return {}
        boxes = np.stack([f.box for f in faces])
        shared = np.maximum(
            geometry.overlap(boxes, np.stack([t.face.box for t in away])),
            geometry.overlap(boxes, np.stack([t.path.box for t in away])),
        )
        return {n: away[m] for n, m in assign(1 - shared) if shared[n, m] > 0.2}

    def _fit(self, frame: Frame, faces: Faces) -> Faces:
        return self.landmarks(frame, faces) if faces else []

    def _plausible(self, face: Face, frame: Frame) -> bool:
        side = face.box[2:] - face.box[:2]
        return (
            face.mesh_score >= self.options.mesh_score
            and float(side.min()) > 6
            and _inside(face, frame)
        )

    def _lose_doubles(self, frame: Frame) -> None:
        """Two tracks that slid onto one face, or of which one is hidden: one keeps it.

        The other may be behind, so its number waits for it as for any lost face.
        """
        seen = [t for t in self.tracks if t.missed == 0]
        for one, other in combinations(seen, 2):
            if not (one.missed or other.missed) and _over(other.face, [one.face]):
                hidden = self._hidden(frame, one, other)
                self._lose(hidden)
                hidden.shown = 0.0

    def _hidden(self, frame: Frame, one: Track, other: Track) -> Track:
        """Of two who are in one place the one behind.

        It looks less like itself, or moved less as foreseen: its mesh slid onto the other.
        """
        if self.likeness is not None:
            faces = [replace(t.face, track=t.number) for t in (one, other)]
            first, second = self.likeness(frame, faces)
            if abs(first - second) > CLEAR:
                return one if first < second else other
        return one if one.strain > other.strain else other

    def _lose(self, track: Track) -> None:
        track.missed = 1
        if track.alone is not None:
            track.path, track.alone = track.alone, None

    def _touch(self) -> None:
        """Note who touches another's face, and who no longer does."""
        wide = {t.number: _grown(t.face.box if t.missed == 0 else t.path.box) for t in self.tracks}
        self.parted = set()
        for track in self.tracks:
            if track.missed:
                continue
            # Who is hidden behind another is still with them.
            others = [box for number, box in wide.items() if number != track.number]
            close = (
                bool(others)
                and float(geometry.overlap(wide[track.number], np.stack(others)).max()) > 0
            )
            if close and track.alone is None:
                track.alone = track.path.copy()
            elif not close and track.alone is not None:
                track.alone = None
                self.parted.add(track.number)

    def _give(self, frame: Frame, seconds: float) -> Faces:
        """The faces to be shown, steadied, and those foreseen."""
        step = 1 / (self.options.fade + 1)
        current = [t for t in self.tracks if t.missed == 0]
        out = []
        for track in self.tracks:
            if track.missed == 0:
                track.shown = min(track.shown + step, 1.0)
                track.given = replace(self._steady(frame, track, seconds), fade=track.shown)
                out.append(track.given)
                continue
            if track.missed > self.options.bridge:
                track.shown = track.shown - step if track.shown > 1.5 * step else 0.0
            if track.shown == 0:
                track.given = None
            if track.given is None or track.given.mesh is None:
                continue
            face = self._foreseen(track)
            if _covered(face, current) or not _inside(face, frame):
                track.shown = 0.0
                continue
            face = self._seen_to_move(frame, track, face)
            if track.smooth is not None and face.mesh is not None:
                if isinstance(track.smooth, OneEuro):
                    track.smooth.carry(face.mesh)
                else:
                    track.smooth.value = face.mesh
            track.given = replace(face, missed=track.missed, fade=track.shown)
            out.append(track.given)
        return out

    def _seen_to_move(self, frame: Frame, track: Track, face: Face) -> Face:
        """A face that was not found, moved as the picture shows it where that can be believed."""
        before = track.given
        if self.options.steady != "flow" or before is None or before.mesh is None:
            return face
        mesh = face.mesh if face.mesh is not None else before.mesh
        seen = track.flow(frame.image, mesh, before.mesh)
        if seen is None or float(np.median(seen.trust)) < 0.5:
            return face
        step = geometry.similarity(before.mesh[:468, :2], seen.points[:468])
        moved = before.mesh.copy()
        moved[:, :2] = geometry.transform(step, before.mesh[:, :2])
        box = geometry.bounds(moved[:468])
        if float(geometry.overlap(box, face.box)[0, 0]) < 0.6:
            return face
        points = np.asarray(geometry.transform(step, before.points), np.float32)
        return replace(face, mesh=moved, box=box, points=points)

    def _steady(self, frame: Frame, track: Track, seconds: float) -> Face:
        face, smooth = track.face, track.smooth
        if face.mesh is None:
            return replace(face, track=track.number)
        width = float((face.box[2:] - face.box[:2]).max())
        mesh = face.mesh
        if isinstance(smooth, Steady):
            last = mesh if smooth.value is None else smooth.value
            mesh = smooth(mesh, width, track.flow(frame.image, mesh, last))
        elif isinstance(smooth, OneEuro):
            mesh = smooth(mesh, width, seconds)
        box = geometry.bounds(mesh[:468])
        # Points of a second network lie a little beside the mesh's, by how much changes slowly.
        aside = face.points - five_points(face.mesh)
        before = aside if track.aside is None else track.aside
        track.aside = np.asarray(before + ASIDE * (aside - before), np.float32)
        points = np.asarray(five_points(mesh) + track.aside, np.float32)
        track.lids = _usual(track.lids, np.array(eye_opening(mesh), np.float32))
        lids = float(track.lids[0]), float(track.lids[1])
        return replace(face, mesh=mesh, box=box, points=points, track=track.number, lids=lids)

    def _filter(self) -> Steady | OneEuro | None:
        options = self.options
        if options.steady == "one-euro":
            return OneEuro(options.cutoff, options.beta)
        return Steady(options.tremble) if options.steady == "flow" else None

    def _seconds(self, frame: Frame) -> float:
        """Since the last frame; a wild time is taken for none."""
        if frame.pts is None or frame.time_base is None:
            return 1 / RATE
        now = float(frame.pts * frame.time_base)
        before, self._time = self._time, now
        passed = 0.0 if before is None else now - before
        return passed if 1e-3 < passed < 1 else 1 / RATE

    def _is_cut(self, image: Image) -> bool:
        # Nearest sampling: a thumbnail of a 1080p frame for a few microseconds.
        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_NEAREST)
        now = np.asarray(cv2.blur(small, (3, 3)), np.uint8)
        before, self._thumbnail = self._thumbnail, now
        if before is None:
            return True
        return float(cv2.absdiff(before, now).mean()) > self.options.cut


def _slides(track: Track, face: Face) -> bool:
    """Whether the mesh of a face that touches another seems to be going over to that one."""
    if track.alone is None:
        return False
    was, now = track.alone.box, face.box
    change = np.log(np.maximum(now[2:] - now[:2], 1) / np.maximum(was[2:] - was[:2], 1))
    return track.path.surprise(now) > GATE or float(np.abs(change).max()) > STRETCH


def _grown(box: Floats) -> Floats:
    side = REACH * (box[2:] - box[:2])
    return np.concatenate([box[:2] - side, box[2:] + side])


def _inside(face: Face, frame: Frame) -> bool:
    height, width = frame.image.shape[:2]
    x, y = (face.box[:2] + face.box[2:]) / 2
    return bool(-0.1 * width < x < 1.1 * width and -0.1 * height < y < 1.1 * height)


NEAR: Final = 0.3
"""Overlap from which two boxes are one face."""


def _covered(face: Face, tracks: list[Track]) -> bool:
    return _over(face, [t.face for t in tracks])


def _over(face: Face, others: Faces) -> bool:
    """Whether a face lies where one of the others does."""
    return bool(others) and _within(face, np.stack([f.box for f in others]))


def _within(face: Face, boxes: Floats) -> bool:
    """Whether a face lies where one of ``(N, 4)`` boxes does."""
    if not len(boxes):
        return False
    if float(geometry.overlap(face.box, boxes).max()) > NEAR:
        return True
    # A detector's box is larger than the mesh's: one inside the other is one face as well.
    centre = (face.box[:2] + face.box[2:]) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = 0.35 * np.minimum(
        (boxes[:, 2:] - boxes[:, :2]).min(1), (face.box[2:] - face.box[:2]).min()
    )
    return bool((np.linalg.norm(middle - centre, axis=1) < reach).any())
