"""Tracking: which face is whose from frame to frame, with detection only now and then.

The mesh carries each face from one frame to the next (its last fit is the next crop); detection
runs every few frames, at cuts, and when a mesh is lost, to find who came in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from mien import geometry
from mien.landmarks import (
    INNER_LIPS,
    LEFT_EYE,
    OUTER_LIPS,
    OVAL,
    RIGHT_EYE,
    eye_opening,
    five_points,
    roll,
)
from mien.mask import LIDS
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


SIDE: Final = 160
"""Side in pixels of the grey crop of a face in which optical flow is measured."""

CELL: Final = 4
"""Pixels of that crop to a cell of the grid on which the flow is smoothed."""


BLUR: Final = 1.2
"""Of the flow, in cells."""


class Seen(NamedTuple):
    """Where points went, by optical flow.

    Attributes:
        points: ``(N, 2)`` float32 in pixels of the frame.
        trust: ``(N,)`` float32 0..1, how far the picture bears it out.
    """

    points: Floats
    trust: Floats


@dataclass(slots=True)
class Flow:
    """Where the points of one face went from the last frame to this one, seen in the picture.

    Dense inverse search (Kroeger et al., "Fast optical flow using dense inverse search", 2016)
    between grey crops of the two frames. The crop stays where it was while the face stays near,
    so that what is still is sampled alike and does not seem to move; else it follows the face,
    so that a quick motion is no motion to the crop.

    Attributes:
        matrix: ``(2, 3)`` frame → crop of the last frame; None before the first.
        grey: ``(SIDE, SIDE)`` uint8, that crop.
    """

    matrix: geometry.Matrix | None = None
    grey: Image | None = None
    _search: Any = field(  # its stubs know no calc without a first guess
        default_factory=lambda: cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    )

    def __call__(self, image: Image, mesh: Floats, points: Floats) -> Seen | None:
        """Look at the next frame.

        Args:
            image: ``(H, W, 3)`` uint8, the frame.
            mesh: ``(468+, 3)`` the fit in this frame, which says where to look.
            points: ``(N, 2+)`` places in the last frame.

        Returns:
            Where they are in this frame; None at the first.
        """
        before, old = self.grey, self.matrix
        self.matrix = matrix = self._place(mesh)
        self.grey = grey = _grey(image, matrix)
        if before is None or old is None:
            return None
        start = geometry.transform(old, points[:, :2])
        step, trust = self._measure(before, grey, start)
        return Seen(geometry.transform(geometry.invert(matrix), start + step), trust)

    def _place(self, mesh: Floats) -> geometry.Matrix:
        """The crop of this frame: the last one, if the face is still near its middle."""
        x0, y0, x1, y1 = geometry.bounds(mesh[:468])
        side = max(1.3 * float(max(x1 - x0, y1 - y0)), 4.0)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        fresh = geometry.square_crop(centre, side, roll(five_points(mesh)), SIDE)
        if self.matrix is None:
            return fresh
        corners = np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]])
        there = geometry.transform(self.matrix, geometry.transform(geometry.invert(fresh), corners))
        return self.matrix if float(np.abs(there - corners).max()) < 0.06 * SIDE else fresh

    def _measure(self, before: Image, now: Image, at: Floats) -> tuple[Floats, Floats]:
        """Flow and trust at points of the crop, smoothed over the face from where it is seen."""
        flow = np.asarray(self._search.calc(before, now, None), np.float32)
        # What follows is smooth: half the crop's resolution will do, then cells.
        m, n = SIDE // 2, SIDE // CELL
        flow = np.asarray(cv2.resize(flow, (m, m), interpolation=cv2.INTER_AREA), np.float32)
        first, second = (cv2.resize(g, (m, m), interpolation=cv2.INTER_AREA) for g in (before, now))
        x, y = np.moveaxis(_XY + flow * np.float32(0.5), 2, 0)
        arrived = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        wrong = cv2.absdiff(first, np.asarray(arrived, np.uint8))
        across, down = cv2.spatialGradient(first)
        rough = across.astype(np.float32) ** 2 + down.astype(np.float32) ** 2
        cells = np.dstack([flow, wrong.astype(np.float32), rough])
        cells = np.asarray(cv2.resize(cells, (n, n), interpolation=cv2.INTER_AREA), np.float32)
        flow, wrong, rough = cells[..., :2], cells[..., 2], cells[..., 3]

        at_cell = ((at + 0.5) / CELL - 0.5).astype(np.float32)
        face = np.zeros((n, n), np.uint8)
        outline = np.round(at_cell[list(OVAL)] * 16).astype(np.int32)
        cv2.fillPoly(face, [outline], 1, cv2.LINE_8, 4)
        # What looks different where it is said to have gone was hidden, or moved otherwise; by
        # how much all of it differs, through a change of light or noise, does not matter.
        usual = float(np.median(wrong[face > 0])) if face.any() else 0.0
        right = 1 / (1 + (wrong / (3 * usual + 2)) ** 2)
        # Only where there is something to see is motion seen.
        weight = face * right**2 * (rough + 16)
        total = float(weight.sum()) + 1e-6
        mean = (flow * weight[..., None]).sum((0, 1)) / total
        packed = np.dstack([(flow - mean) * weight[..., None], weight, right])
        packed = np.asarray(cv2.GaussianBlur(packed, (0, 0), BLUR), np.float32)
        x, y = at_cell.T[:, None]
        found = cv2.remap(packed, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found = np.asarray(found, np.float32)[0]
        step = mean + found[:, :2] / (found[:, 2:3] + 1e-3 * total / n**2)
        return step.astype(np.float32), found[:, 3]


_XY: Final = np.ascontiguousarray(
    np.moveaxis(np.indices((SIDE // 2, SIDE // 2), np.float32)[::-1], 0, 2)
)


def _grey(image: Image, matrix: geometry.Matrix) -> Image:
    """The crop, from the part of the frame that it shows alone."""
    corners = geometry.transform(
        geometry.invert(matrix), [[-1, -1], [SIDE, -1], [-1, SIDE], [SIDE, SIDE]]
    )
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 1, (x0 + 1, y0 + 1), (width, height))
    part = np.asarray(cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY), np.uint8)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (x0, y0)
    return geometry.warp(part, moved, SIDE, border=cv2.BORDER_REPLICATE)


@dataclass(slots=True)
class Steady:
    """Takes the tremble out of a mesh with a lag that is bounded.

    Each point is carried along by what the picture shows of its motion, if that is known, and
    then moves toward its fitted place by a share of its innovation ``e`` that grows with it, the
    weight of Geman and McClure's robust estimator turned round: ``e² / (e² + e₀²)``. What is
    smaller than ``e₀`` is noise and mostly ignored, a blink is followed at once. What stays
    behind, ``e·e₀² / (e² + e₀²)``, is never more than ``e₀ / 2``. A One-Euro filter as steady as
    this (2 Hz, beta 6) lagged by up to 5 % of the face on the same footage and cut blinks in half.

    Where flow carries a point, ``e`` is no motion but tremble, slow error of the fit or of the
    flow. There ``e₀`` is larger, :func:`_slack`, the share ``e⁴ / (e⁴ + e₀⁴)``, which leaves at
    most ``0.57·e₀``, and never less than :data:`PULL`, so that the flow's errors do not add up.

    Attributes:
        tremble: ``e₀`` of points that are not carried, in parts of the face's width.
        value: ``(N, 3)`` the last result.
    """

    tremble: float
    value: Floats | None = None

    def __call__(self, x: Floats, width: float, seen: Seen | None = None) -> Floats:
        """Filtered points of a face; the first call returns x.

        Args:
            x: ``(N, 3)`` as fitted.
            width: Of the face in pixels.
            seen: Where flow saw the points of the last result go.
        """
        if self.value is None:
            self.value = x
            return x
        carried, free = self.value.copy(), np.full(len(x), self.tremble, np.float32)
        if seen is not None:
            carried[:, :2] = seen.points
            free += seen.trust * (_slack(len(x)) - free)
        step = x - carried
        ratio = (step[:, :2] ** 2).sum(1) / ((free * width) ** 2 + 1e-12)
        if seen is None:
            weight = ratio / (1 + ratio)
        else:
            weight = np.maximum(ratio**2 / (1 + ratio**2), PULL)
        self.value = (carried + step * weight[:, None]).astype(np.float32)
        return self.value


PULL: Final = 0.1
"""Least share of the way from where flow carries a point to where it is fitted."""


@cache
def _slack(count: int) -> Floats:
    """``(count,)`` e₀ in parts of the face's width for points that flow carries.

    Lids, irises and lips move faster than flow sees.
    """
    out = np.full(count, 0.02, np.float32)
    out[[v for v in INNER_LIPS + OUTER_LIPS if v < count]] = 0.012
    out[[v for v in LEFT_EYE + RIGHT_EYE if v < count]] = 0.007
    out[468:] = 0.007
    return out


ASIDE: Final = 0.2
"""Share of the way to a second network's points that is gone in a frame."""


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
        smooth: Filter of the mesh.
        flow: What the picture shows of its motion.
        aside: ``(5, 2)`` how far a second network's points lie from the mesh's, smoothed.
        lids: How far both eyes are usually open, height over width.
        missed: Frames since it was last seen.
    """

    number: int
    face: Face
    smooth: Steady
    flow: Flow = field(default_factory=Flow)
    aside: Floats | None = None
    lids: Floats = field(default_factory=lambda: np.array(LIDS, np.float32))
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
        return [self._steady(frame, t) for t in self.tracks if t.missed == 0]

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
            back.face, back.missed = face, 0
            back.smooth, back.flow = self._filter(), Flow()

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

    def _steady(self, frame: Frame, track: Track) -> Face:
        face = track.face
        if face.mesh is None:
            return replace(face, track=track.number)
        width = float((face.box[2:] - face.box[:2]).max())
        last = track.smooth.value
        seen = track.flow(frame.image, face.mesh, face.mesh if last is None else last)
        mesh = track.smooth(face.mesh, width, seen)
        box = geometry.bounds(mesh[:468])
        # Points of a second network lie a little beside the mesh's, by how much changes slowly.
        aside = face.points - five_points(face.mesh)
        before = aside if track.aside is None else track.aside
        track.aside = np.asarray(before + ASIDE * (aside - before), np.float32)
        points = np.asarray(five_points(mesh) + track.aside, np.float32)
        track.lids = _usual(track.lids, np.array(eye_opening(mesh), np.float32))
        lids = float(track.lids[0]), float(track.lids[1])
        return replace(face, mesh=mesh, box=box, points=points, track=track.number, lids=lids)

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
