"""What is measured of each target: the face that is followed, and the frames that are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien import geometry, landmarks, media, quality
from mien.errors import NoFace, Refused
from mien.pipeline import Stream, Swapper
from mien.types import Face, Faces, Frame, Image


@dataclass(frozen=True, slots=True)
class Target:
    """One photo or clip, looked through.

    Attributes:
        path: The file.
        frames: How many it has.
        faces: Frame → the face that is followed, as the stream saw it, where it is in view.
        places: Frames that are measured; each has a neighbour before it, but for a photo.
        blinks: Frames in which a blink is deepest.
        gaps: Frames, over half a second at most each time, in which the face was lost from sight.
    """

    path: Path
    frames: int
    faces: dict[int, Face]
    places: tuple[int, ...]
    blinks: tuple[int, ...]
    gaps: int

    @property
    def still(self) -> bool:
        """Whether it is a photo."""
        return self.frames == 1

    @property
    def wanted(self) -> set[int]:
        """Frames that have to be decoded."""
        before = () if self.still else (i - 1 for i in self.places)
        return {*self.places, *before, *self.blinks}


MOST_BLINKS = 4
"""Blinks of a clip that are measured, spread evenly over it."""


def look_through(
    path: Path,
    swapper: Swapper,
    frames: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> Target:
    """Follow the faces of a target once, and choose what to measure of the largest.

    Args:
        path: Photo or video.
        swapper: The models.
        frames: How many frames to measure.
        progress: Called with frames done and frames in all.

    Raises:
        MediaError: The file cannot be read.
        Refused: Nobody in it may be replaced, by the deny list.
        NoFace: There is no face in it, or in a clip never in two frames on end.
    """
    seen: dict[int, dict[int, Face]] = {}
    count, fps = 0, 25.0
    with media.open_source(path) as source:
        still = source.info.kind == "image"
        fps = float(source.info.fps or fps)
        stream = Stream(swapper, identify=not still, still=still)
        for frame in source:
            for face in stream.observe(frame):
                seen.setdefault(face.track or 0, {})[frame.index] = face
            count = frame.index + 1
            if progress is not None:
                progress(count, source.info.frames)
    seen = {number: faces for number, faces in seen.items() if number not in stream.gate.denied}
    if not seen and stream.gate.denied:
        raise Refused(f"deny list: {path}: the people in it must not be replaced")
    if not seen:
        raise NoFace(f"{path}: no face found; a target needs one to be swapped")
    faces = max(seen.values(), key=lambda person: sum(_area(f) for f in person.values()))
    if count == 1:
        return Target(path, 1, faces, (next(iter(faces)),), (), 0)
    pairs = [i for i in faces if i - 1 in faces and _near(faces[i - 1], faces[i])]
    if not pairs:
        raise NoFace(f"{path}: the largest face is never seen in two frames on end")
    openings = [_opening(faces.get(i)) for i in range(count)]
    deepest = [blink.deepest for blink in quality.blinks(openings, fps)]
    return Target(
        path,
        count,
        faces,
        choose(pairs, faces, frames),
        tuple(spread(deepest, MOST_BLINKS)),
        sum(b - a - 1 for a, b in zip(sorted(faces), sorted(faces)[1:], strict=False)
            if b - a - 1 <= fps / 2),
    )  # fmt: skip


def choose(candidates: Sequence[int], faces: dict[int, Face], count: int) -> tuple[int, ...]:
    """Frames spread over a clip and, of three or more, the extremes, where faults show first.

    The extremes are where the eyes are most shut, the mouth is most open and the head is most
    turned; they take three places at most, and no more than half of all.

    Args:
        candidates: Frames that may be taken, in order.
        faces: Frame → face, with meshes.
        count: How many to take.
    """
    keys: tuple[Callable[[Face], float], ...] = (
        lambda f: -_opening(f),
        lambda f: 0.0 if f.mesh is None else quality.mouth_opening(f.mesh),
        lambda f: 0.0 if f.mesh is None else abs(landmarks.yaw(f.mesh)),
    )
    extremes = min(len(keys), count // 2)
    chosen = spread(candidates, count - extremes)
    for key in keys[:extremes]:
        free = [i for i in candidates if all(abs(i - c) > 2 for c in chosen)]
        if free:
            chosen.append(max(free, key=lambda i: key(faces[i])))
    return tuple(sorted(chosen))


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the items, evenly over all: the middle of each of as many parts."""
    if len(items) <= count:
        return list(items)
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]


def pictures(target: Target) -> dict[int, Image]:
    """The pixels of the frames that are wanted, ``(H, W, 3)`` uint8."""
    wanted = target.wanted
    last = max(wanted)
    kept: dict[int, Image] = {}
    with media.open_source(target.path) as source:
        for frame in source:
            if frame.index in wanted:
                kept[frame.index] = frame.image
            if frame.index >= last:
                break
    return kept


def refit(swapper: Swapper, image: Image, face: Face) -> Face:
    """One pass of the landmark network over the crop that the face's own mesh gives.

    Original and swapped picture go through the same crop, so that nothing swapped is no error.
    """
    (fitted,) = swapper.landmarks(Frame(image), [face])
    return fitted


def detected(swapper: Swapper, image: Image, face: Face) -> bool:
    """Whether the detector finds the face in a square of twice its size around it."""
    side = 2 * float((face.box[2:] - face.box[:2]).max())
    matrix = geometry.square_crop((face.box[:2] + face.box[2:]) / 2, side, 0.0, 192)
    found: Faces = swapper.detector.quick(geometry.warp(image, matrix, 192))
    if not found:
        return False
    box = geometry.transform(matrix, face.box.reshape(2, 2)).reshape(1, 4)
    return bool(geometry.overlap(box, np.stack([f.box for f in found])).max() >= 0.4)


def _opening(face: Face | None) -> float:
    if face is None or face.mesh is None:
        return float("nan")
    return float(quality.eye_openings(face.mesh).mean())


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))


def _near(before: Face, after: Face) -> bool:
    """Whether the face hardly moved; else there is a cut, or flow cannot follow."""
    return bool(geometry.overlap(before.box[None], after.box[None])[0, 0] >= 0.6)
