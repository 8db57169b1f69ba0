"""What is shown: faces replaced and faded, and what takes their place when they are missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import cv2
import numpy as np

from mien.live.ladder import shrink
from mien.live.types import OnMiss
from mien.pipeline import Pairs, Stream
from mien.provenance import Marker
from mien.types import Face, Faces, Floats, Frame, Image, Rect, SwapPlan

LINGER: Final = 2.0
"""Seconds for which a face that is gone may still be there unseen, which matters in private."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be seen; replaced as a whole, between two frames.

    Attributes:
        plan: Who goes on which face.
        marker: Marks every frame.
        strength: Of the swap, 0..1; always 1 where the engine is private.
        masks: Whether mask networks are used that the chain has.
        on_miss: What is shown while a face is missed.
        paused: Nothing is swapped.
    """

    plan: SwapPlan
    marker: Marker
    strength: float = 1.0
    masks: bool = True
    on_miss: OnMiss = "pass"
    paused: bool = False

    @property
    def chosen(self) -> bool:
        """Whether some faces are meant and others are not."""
        return any(r.reference is not None or r.which != "all" for r in self.plan.rules)


class Painted(NamedTuple):
    """One finished picture.

    Attributes:
        frame: What is shown, not marked yet.
        swapped: Faces replaced in it.
        missed: A face was missed.
        known: Faces in the frame, or where they were last.
    """

    frame: Frame
    swapped: int
    missed: bool
    known: Faces


@dataclass(slots=True)
class Painter:
    """Renders frames of one stream, and remembers what holding and hiding need.

    Faces that the tracker only foresees come with a share by which they are to be shown
    (``Face.fade``), so that they fade.

    Attributes:
        stream: Observed frame by frame by the engine.
        private: No raw face may be left.
    """

    stream: Stream
    private: bool = False
    _seen: dict[int, float] = field(default_factory=dict)
    _held: Image | None = None
    _known: Faces = field(default_factory=list)

    def __call__(
        self,
        frame: Frame,
        faces: Faces,
        pairs: Pairs,
        look: Look,
        *,
        taken: float,
        scale: float = 1.0,
    ) -> Painted:
        """Paint one frame.

        Args:
            frame: Written to.
            faces: All of them, tracked.
            pairs: Who goes on whom.
            look: What is to be seen.
            taken: Seconds, when the frame was taken.
            scale: Of the picture to paint in.
        """
        self._known = [f for f in faces if not f.missed] or self._known
        if look.paused:
            self._seen.clear()
            if self.private:
                _blur(frame.image)
            return Painted(frame, 0, False, self._known)
        missed = self._is_missed(pairs, taken)
        if missed and (self.private or look.on_miss != "pass"):
            return Painted(self._instead(frame, look.on_miss), 0, True, self._known)
        self._paint(frame, pairs, faces, look, scale)
        if look.on_miss == "hold":
            self._held = frame.image.copy()
        return Painted(frame, len(pairs), missed, self._known)

    def forget(self) -> None:
        """Drop the picture that is held: somebody in it is not to be shown any more."""
        self._held = None

    def _is_missed(self, pairs: Pairs, taken: float) -> bool:
        """Whether nobody is there to be replaced, or one who was is not found."""
        there = {face.track or 0 for face, _ in pairs if not face.missed}
        if not self.private:
            return not there or any(face.fade < 1 and face.missed for face, _ in pairs)
        self._seen |= dict.fromkeys(there, taken)
        self._seen = {n: at for n, at in self._seen.items() if taken - at < LINGER}
        return not there or len(self._seen) > len(there)

    def _paint(self, frame: Frame, pairs: Pairs, faces: Faces, look: Look, scale: float) -> None:
        strength = 1.0 if self.private else look.strength
        before = frame.image.copy() if strength < 1 else None
        if scale < 1:
            small = Frame(shrink(frame.image, scale), frame.index, frame.pts, frame.time_base)
            to = _scaled(frame.image.shape, small.image.shape)
            self.stream.render(
                small, [(to(f), i) for f, i in pairs], look.plan, faces=[to(f) for f in faces]
            )
            size = frame.image.shape[1], frame.image.shape[0]
            frame.image = np.asarray(cv2.resize(small.image, size), np.uint8)
            written = [_grown_back(r, small.image.shape, frame.image.shape) for r in small.dirty]
        else:
            self.stream.render(frame, pairs, look.plan, faces=faces)
            written = list(frame.dirty)
        if before is not None:
            whole = Rect(0, 0, frame.image.shape[1], frame.image.shape[0])
            _mix(frame.image, before, whole, strength)
        if self.private:
            self._hide(frame.image, faces, [f for f, _ in pairs], written)

    def _hide(self, image: Image, faces: Faces, swapped: Faces, written: list[Rect]) -> None:
        """Blur faces that were not replaced, or for which no patch was made."""
        done = [f for f in swapped if _covered(f, written)]
        for face in faces:
            if not any(face.track == f.track for f in done):
                _blur(image[_around(face, image).slices()])

    def _instead(self, frame: Frame, on_miss: OnMiss) -> Frame:
        if on_miss == "hold" and self._held is not None:
            frame.image = self._held.copy()
        elif on_miss in ("card", "hold"):
            frame.image = card(frame.image.shape[1], frame.image.shape[0])
        else:
            _blur(frame.image)
        return frame


def card(width: int, height: int) -> Image:
    """A picture that says that there is nothing to be seen, ``(height, width, 3)``."""
    image = np.full((height, width, 3), 40, np.uint8)
    text, font = "one moment, please", cv2.FONT_HERSHEY_SIMPLEX
    scale = width / 640
    (wide, high), _ = cv2.getTextSize(text, font, scale, 2)
    place = (width - wide) // 2, (height + high) // 2
    cv2.putText(image, text, place, font, scale, (200, 200, 200), 2, cv2.LINE_AA)
    return image


CELLS: Final = 12
"""Cells across a picture that is blurred: a face in it is a few of them."""


def _blur(image: Image) -> None:
    """Leave a dozen cells of a picture across, in place."""
    height, width = image.shape[:2]
    if not height or not width:
        return
    cells = min(CELLS, width), min(max(2, round(CELLS * height / width)), height)
    small = cv2.resize(image, cells, interpolation=cv2.INTER_AREA)
    image[...] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _around(face: Face, image: Image) -> Rect:
    """A face's box with its hair and chin, within the picture."""
    x0, y0, x1, y1 = map(float, face.box)
    dx, dy = 0.35 * (x1 - x0), 0.35 * (y1 - y0)
    height, width = image.shape[:2]
    left, top = (int(np.clip(v, 0, n)) for v, n in ((x0 - dx, width), (y0 - dy, height)))
    right, bottom = (int(np.clip(v, 0, n)) for v, n in ((x1 + dx, width), (y1 + dy, height)))
    return Rect(left, top, right, bottom)


def _covered(face: Face, written: list[Rect]) -> bool:
    x, y = (face.box[:2] + face.box[2:]) / 2
    return any(r.x0 <= x < r.x1 and r.y0 <= y < r.y1 for r in written)


def _mix(image: Image, before: Image, rect: Rect, share: float) -> None:
    if not rect.empty:
        part = image[rect.slices()]
        part[...] = cv2.addWeighted(part, share, before[rect.slices()], 1 - share, 0)


def _grown_back(rect: Rect, small: tuple[int, ...], large: tuple[int, ...]) -> Rect:
    across, down = large[1] / small[1], large[0] / small[0]
    return Rect(
        int(rect.x0 * across), int(rect.y0 * down), int(rect.x1 * across), int(rect.y1 * down)
    )


def _scaled(large: tuple[int, ...], small: tuple[int, ...]) -> Callable[[Face], Face]:
    """Moves a face from one size of the picture to another."""
    across, down = small[1] / large[1], small[0] / large[0]

    def points(values: Floats) -> Floats:
        out = values.copy()
        out[:, 0] = (values[:, 0] + 0.5) * across - 0.5
        out[:, 1] = (values[:, 1] + 0.5) * down - 0.5
        out[:, 2:] *= across
        return out

    def move(face: Face) -> Face:
        return replace(
            face,
            box=points(face.box.reshape(2, 2)).reshape(4),
            points=points(face.points),
            mesh=None if face.mesh is None else points(face.mesh),
        )

    return move
