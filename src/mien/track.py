"""Tracking: which face is whose from frame to frame, with detection only now and then.

The mesh carries each face from one frame to the next (its last fit is the next crop); detection
runs every few frames, at cuts, and when a mesh is lost, to find who came in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np

from mien import geometry
from mien.landmarks import five_points
from mien.types import Face, Faces, Floats, Frame, Image, Landmarks

Look = Callable[[Image], Faces]


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """When to look again, and how much to smooth.

    Attributes:
        quick: Frames between quick looks of the detector.
        thorough: Frames between thorough ones.
        mesh_score: A face whose mesh scores less is lost.
        keep: Frames for which a lost face keeps its number.
        cut: Mean change of a 32×18 thumbnail, in grey levels, that counts as a cut.
        min_cutoff: Of the One-Euro filter, in Hz: lower is steadier for a still face.
        beta: Of the One-Euro filter, in 1 / (face widths): higher follows faster.
    """

    quick: int = 10
    thorough: int = 40
    mesh_score: float = 0.5
    keep: int = 15
    cut: float = 28.0
    min_cutoff: float = 2.0
    beta: float = 6.0


@dataclass(slots=True)
class OneEuro:
    """One-Euro filter (Casiez et al., CHI 2012) on arrays, one speed for each element.

    Units: the value is divided by ``scale`` for the speed, so that settings hold for any size.
    """

    min_cutoff: float
    beta: float
    value: Floats | None = None
    speed: Floats | None = None

    def __call__(self, x: Floats, scale: float, dt: float) -> Floats:
        """Filtered ``x`` after ``dt`` seconds; the first call returns ``x``."""
        if self.value is None or self.speed is None:
            self.value, self.speed = x, np.zeros_like(x)
            return x
        rate = (x - self.value) / (scale * dt)
        self.speed += _alpha(1.0, dt) * (rate - self.speed)
        # One cutoff for a point, not for each coordinate: else motion bends toward the axes.
        pace = np.sqrt((self.speed[..., :2] ** 2).sum(-1, keepdims=True))
        alpha = _alpha(self.min_cutoff + self.beta * pace, dt)
        self.value = (self.value + alpha * (x - self.value)).astype(np.float32)
        return self.value


def _alpha(cutoff: Floats | float, dt: float) -> Floats | float:
    r = 2 * np.pi * dt * cutoff
    return r / (r + 1)  # type: ignore[no-any-return]


@dataclass(slots=True)
class Track:
    """One person in view.

    Attributes:
        number: Stays with the person.
        face: As last seen, unsmoothed.
        smooth: Filter of the mesh.
        missed: Frames since it was last seen.
    """

    number: int
    face: Face
    smooth: OneEuro
    missed: int = 0


@dataclass(slots=True)
class Tracker:
    """All state of following faces in one stream.

    Attributes:
        quick: Detector's quick look, for the frames between.
        thorough: Detector's thorough look, for first frames and cuts.
        landmarks: The mesh stage.
        options: See :class:`TrackOptions`.
    """

    quick: Look
    thorough: Look
    landmarks: Landmarks
    options: TrackOptions = TrackOptions()
    tracks: list[Track] = field(default_factory=list)
    detections: int = 0
    _since_quick: int = 0
    _since_thorough: int = 0
    _numbers: int = 0
    _thumbnail: Image | None = None
    _time: float | None = None

    def __call__(self, frame: Frame) -> Faces:
        """Faces of the next frame, with meshes and track numbers, steadied."""
        options = self.options
        dt = self._elapsed(frame)
        cut = self._is_cut(frame.image)
        if cut:
            self.tracks.clear()
        lost = self._follow(frame)
        self._since_quick += 1
        self._since_thorough += 1
        if cut or self._since_thorough >= options.thorough:
            self._join(frame, self.thorough(frame.image))
            self._since_quick = self._since_thorough = 0
        elif lost or self._since_quick >= options.quick:
            self._join(frame, self.quick(frame.image))
            self._since_quick = 0
        self.tracks = [t for t in self.tracks if t.missed <= options.keep]
        return [self._steady(t, dt) for t in self.tracks if t.missed == 0]

    def _follow(self, frame: Frame) -> bool:
        """Fit every face from its last mesh; True if one was lost."""
        seen = [t for t in self.tracks if t.missed == 0]
        lost = False
        for track, face in zip(seen, self._fit(frame, [t.face for t in seen]), strict=True):
            if self._plausible(face, frame):
                track.face = face
            else:
                track.missed, lost = 1, True
        for track in self.tracks:
            if track.missed:
                track.missed += 1
        self._drop_doubles()
        return lost

    def _join(self, frame: Frame, found: Faces) -> None:
        """Match detections to tracks; fit and add those that are new."""
        self.detections += 1
        current = [t for t in self.tracks if t.missed == 0]
        fresh = [f for f in found if not _covered(f, current)]
        fresh.sort(key=lambda f: float(f.box[0]))  # numbers run from left to right
        for face in self._fit(frame, [replace(f, mesh=None) for f in fresh]):
            current = [t for t in self.tracks if t.missed == 0]
            if not self._plausible(face, frame) or _covered(face, current):
                continue
            back = self._returning(face)
            if back is None:
                self._numbers += 1
                back = Track(self._numbers, face, self._filter())
                self.tracks.append(back)
            back.face, back.missed, back.smooth = face, 0, self._filter()

    def _returning(self, face: Face) -> Track | None:
        """The lost track whose last place this face is at, if any."""
        away = [t for t in self.tracks if t.missed]
        if not away:
            return None
        shared = geometry.overlap(face.box, np.stack([t.face.box for t in away]))[0]
        best = int(shared.argmax())
        return away[best] if shared[best] > 0.2 else None

    def _fit(self, frame: Frame, faces: Faces) -> Faces:
        return self.landmarks(frame, faces) if faces else []

    def _plausible(self, face: Face, frame: Frame) -> bool:
        height, width = frame.image.shape[:2]
        side = face.box[2:] - face.box[:2]
        centre = (face.box[:2] + face.box[2:]) / 2
        inside = -0.1 * width < centre[0] < 1.1 * width and -0.1 * height < centre[1] < 1.1 * height
        return face.mesh_score >= self.options.mesh_score and float(side.min()) > 6 and inside

    def _drop_doubles(self) -> None:
        """Two tracks that slid onto one face: the older keeps it."""
        kept: list[Track] = []
        for track in self.tracks:
            if track.missed or not _covered(track.face, [t for t in kept if not t.missed]):
                kept.append(track)
        self.tracks = kept

    def _steady(self, track: Track, dt: float) -> Face:
        face = track.face
        if face.mesh is None:
            return replace(face, track=track.number)
        width = float((face.box[2:] - face.box[:2]).max())
        mesh = track.smooth(face.mesh, width, dt)
        box = geometry.bounds(mesh[:468])
        return replace(face, mesh=mesh, box=box, points=five_points(mesh), track=track.number)

    def _filter(self) -> OneEuro:
        return OneEuro(self.options.min_cutoff, self.options.beta)

    def _elapsed(self, frame: Frame) -> float:
        """Seconds since the last frame, by its timestamps; 1/30 where there are none."""
        if frame.pts is None or frame.time_base is None:
            return 1 / 30
        now = float(frame.pts * frame.time_base)
        before, self._time = self._time, now
        return 1 / 30 if before is None else min(max(now - before, 1 / 240), 0.5)

    def _is_cut(self, image: Image) -> bool:
        # Nearest sampling: a thumbnail of a 1080p frame for a few microseconds.
        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_NEAREST)
        before, self._thumbnail = self._thumbnail, cv2.blur(small, (3, 3))
        if before is None:
            return True
        return float(cv2.absdiff(before, self._thumbnail).mean()) > self.options.cut


NEAR: Final = 0.3
"""Overlap from which two boxes are one face."""


def _covered(face: Face, tracks: list[Track]) -> bool:
    if not tracks:
        return False
    boxes = np.stack([t.face.box for t in tracks])
    if float(geometry.overlap(face.box, boxes).max()) > NEAR:
        return True
    # A detector's box is larger than the mesh's: one inside the other is one face as well.
    centre = (face.box[:2] + face.box[2:]) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = 0.35 * np.minimum(
        (boxes[:, 2:] - boxes[:, :2]).min(1), (face.box[2:] - face.box[:2]).min()
    )
    return bool((np.linalg.norm(middle - centre, axis=1) < reach).any())
