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
        tremble: Of :class:`Steady`, in parts of the face's width.
    """

    quick: int = 10
    thorough: int = 24
    mesh_score: float = 0.5
    keep: int = 15
    cut: float = 28.0
    tremble: float = 0.005


@dataclass(slots=True)
class Steady:
    """Takes the tremble out of a mesh with a lag that is bounded.

    Each point moves toward its new place by the share ``e² / (e² + e₀²)`` of its innovation
    ``e``, the weight of Geman and McClure's robust estimator turned round: what is smaller than
    ``e₀`` is noise and mostly ignored, a blink or a turn is followed at once. What stays behind,
    ``e·e₀² / (e² + e₀²)``, is never more than ``e₀ / 2``. A One-Euro filter as steady as this
    (2 Hz, beta 6) lagged by up to 5 % of the face on the same footage and cut blinks in half.

    Attributes:
        tremble: ``e₀`` in parts of the face's width.
    """

    tremble: float
    value: Floats | None = None

    def __call__(self, x: Floats, width: float) -> Floats:
        """Filtered ``(N, 3)`` points of a face ``width`` pixels wide; the first call returns x."""
        if self.value is None:
            self.value = x
            return x
        step = x - self.value
        moved = (step[:, :2] ** 2).sum(1, keepdims=True)
        weight = moved / (moved + (self.tremble * width) ** 2 + 1e-12)
        self.value = (self.value + step * weight).astype(np.float32)
        return self.value


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
    smooth: Steady
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

    def __call__(self, frame: Frame) -> Faces:
        """Faces of the next frame, with meshes and track numbers, steadied."""
        options = self.options
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
        return [self._steady(t) for t in self.tracks if t.missed == 0]

    def _follow(self, frame: Frame) -> bool:
        """Fit every face from its last mesh; True if one was lost."""
        seen = [t for t in self.tracks if t.missed == 0]
        lost = False
        for track in self.tracks:
            track.missed += track.missed > 0
        for track, face in zip(seen, self._fit(frame, [t.face for t in seen]), strict=True):
            if self._plausible(face, frame):
                track.face = face
            else:
                track.missed, lost = 1, True
        self._lose_doubles()
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

    def _lose_doubles(self) -> None:
        """Two tracks that slid onto one face: the older keeps it.

        The other may be behind, so its number waits for it as for any lost face.
        """
        kept: list[Track] = []
        for track in self.tracks:
            if track.missed:
                continue
            if _covered(track.face, kept):
                track.missed = 1
            else:
                kept.append(track)

    def _steady(self, track: Track) -> Face:
        face = track.face
        if face.mesh is None:
            return replace(face, track=track.number)
        width = float((face.box[2:] - face.box[:2]).max())
        mesh = track.smooth(face.mesh, width)
        box = geometry.bounds(mesh[:468])
        return replace(face, mesh=mesh, box=box, points=five_points(mesh), track=track.number)

    def _filter(self) -> Steady:
        return Steady(self.options.tremble)

    def _is_cut(self, image: Image) -> bool:
        # Nearest sampling: a thumbnail of a 1080p frame for a few microseconds.
        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_NEAREST)
        now = np.asarray(cv2.blur(small, (3, 3)), np.uint8)
        before, self._thumbnail = self._thumbnail, now
        if before is None:
            return True
        return float(cv2.absdiff(before, now).mean()) > self.options.cut


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
