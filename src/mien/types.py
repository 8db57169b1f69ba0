"""The types that flow between stages, and the stage aliases.

Nothing here imports more than numpy and the errors, so that every module can import it.

Conventions: images are RGB uint8, C-contiguous, shape ``(H, W, 3)``; BGR exists nowhere. Points
are ``(x, y)`` in pixels of the frame with the centre of the top left pixel at (0, 0). Matrices
are ``(2, 3)`` float and map *frame* to *patch* unless their name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mien.errors import UsageError

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Rect(NamedTuple):
    """Half-open rectangle of pixels: ``image[y0:y1, x0:x1]``."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def empty(self) -> bool:
        return self.x1 <= self.x0 or self.y1 <= self.y0

    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def even(self, width: int, height: int, step: int = 2) -> Rect:
        """Grow to multiples of ``step`` (chroma planes are subsampled), clipped to the frame."""
        return Rect(
            max(0, self.x0 // step * step),
            max(0, self.y0 // step * step),
            min(width, -(-self.x1 // step) * step),
            min(height, -(-self.y1 // step) * step),
        )


@dataclass(slots=True)
class Frame:
    """One picture on its way through the pipeline; it has one owner at a time.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, C-contiguous. Read-only for all stages but blend and mark.
        index: Position in the stream, from 0.
        pts: Presentation time in units of ``time_base``; None for a still.
        time_base: Seconds per unit of ``pts``.
        origin: What the source decoded (an ``av.VideoFrame`` for video); only media looks at it.
        dirty: Rectangles that blend or mark wrote, even-aligned. The sink converts only these.
    """

    image: Image
    index: int = 0
    pts: int | None = None
    time_base: Fraction | None = None
    origin: Any = None
    dirty: list[Rect] = field(default_factory=list)

    def mark_dirty(self, rect: Rect) -> None:
        """Record that the pixels of ``rect`` were written."""
        height, width = self.image.shape[:2]
        grown = rect.even(width, height)
        if not grown.empty:
            self.dirty.append(grown)


@dataclass(slots=True)
class Face:
    """One face in a frame.

    Attributes:
        box: ``(4,)`` float32 ``x0, y0, x1, y1`` in pixels, upright.
        score: Detector's confidence, 0..1.
        points: ``(5, 2)`` float32: left eye, right eye, nose, left and right corner of the mouth,
            left and right as the viewer sees them.
        mesh: ``(468, 3)`` or ``(478, 3)`` float32, x and y in pixels, z in the same scale,
            smaller is nearer; None until landmarks ran.
        mesh_score: Landmark network's own confidence that this is a face, 0..1.
        track: Number that stays with the person while in view; None before tracking.
        embedding: ``(512,)`` float32, unit length; only when asked for.
        lids: Opening of the left and the right eye, height over width, as it usually is in this
            track; None before tracking.
        memory: What a generator keeps of this track from frame to frame, put there by the stream,
            which owns it; None in a still.
        missed: Frames since it was last seen; from 1 on its place is foreseen, not found.
        fade: How far it is to be shown, 0..1: 1 wholly, less while a face comes in or goes.
    """

    box: Floats
    score: float
    points: Floats
    mesh: Floats | None = None
    mesh_score: float = 0.0
    track: int | None = None
    embedding: Floats | None = None
    lids: tuple[float, float] | None = None
    memory: dict[Any, Any] | None = None
    missed: int = 0
    fade: float = 1.0


Faces = list[Face]

ConsentBasis = Literal["self", "written", "artwork", "synthetic"]
TargetBasis = Literal["self", "written", "artwork", "synthetic", "licensed"]


Scope = Literal["live", "video", "photo"]


@dataclass(frozen=True, slots=True)
class Consent:
    """On what the use of somebody's face rests.

    Attributes:
        basis: One of :data:`ConsentBasis` (or :data:`TargetBasis` for the person replaced);
            where several people's are said together, several with ``, `` between.
        note: Free text, for instance where a signed form is kept.
        record: Id of the record in the store of identities; empty where there is none.
        scope: What the face may be used for; empty for everything.
        expires: The last day on which it may be used, as ``2031-12-31``; empty for no end.
        verified: ``liveness`` where the person stood before a camera; empty else.

    Raises:
        UsageError: The basis is empty or unknown, or the scope, or the day is none.
    """

    basis: str
    note: str = ""
    record: str = ""
    scope: tuple[Scope, ...] = ()
    expires: str = ""
    verified: str = ""

    def __post_init__(self) -> None:
        """Refuse what says nothing: without a basis there is no identity."""
        bases = dict.fromkeys((*get_args(ConsentBasis), *get_args(TargetBasis)))
        if not set(self.basis.split(", ")) <= set(bases):
            raise UsageError(f"consent {self.basis!r} is unknown; known are {', '.join(bases)}")
        scopes = get_args(Scope)
        if not set(self.scope) <= set(scopes):
            raise UsageError(
                f"consent: scope {', '.join(map(str, self.scope))!r} is unknown; known are "
                f"{', '.join(scopes)}"
            )
        if self.expires and not _is_day(self.expires):
            raise UsageError(
                f"consent: expected a day like 2031-12-31 at which it ends, came {self.expires!r}"
            )


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Portrait:
    """One photo of a person, cut out around the face.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB, the aligned crop.
        mesh: ``(N, 3)`` float32 in pixels of the crop.
    """

    image: Image
    mesh: Floats


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Identity:
    """A person whose face may be put on others.

    Attributes:
        name: What the person is called in reports.
        embedding: ``(512,)`` float32 of unit length, the mean over all photos.
        portraits: At least one, best first.
        consent: What the use rests on.
    """

    name: str
    embedding: Floats
    portraits: tuple[Portrait, ...]
    consent: Consent


Which = Literal["all", "largest", "left", "right"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Puts one identity on some of the faces.

    Attributes:
        identity: Whose face.
        which: ``all``, ``largest``, ``left`` or ``right`` of the faces that qualify, or the
            number of one, from 1: of its track, or from the left in a still.
        reference: ``(512,)`` unit embedding; then only faces of that person qualify.
    """

    identity: Identity
    which: Which | int = "all"
    reference: Floats | None = None


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """Which identity goes on which face, first matching rule wins, and how it is put there.

    Attributes:
        rules: At least one.
        blend: ``soft`` mask or ``poisson``.
        color: Colour matching: ``none``, ``lab``, ``histogram``, or ``auto`` for what each patch
            asks for, which is none where the generator gives it the scene's light itself.
        similarity: Cosine from which a face counts as the person of a rule's reference; None takes
            the threshold on the embedder's card. At 0.38 the default embedder takes one stranger
            in a thousand for the person (MODELS.md).
    """

    rules: tuple[Rule, ...]
    blend: Literal["soft", "poisson"] = "soft"
    color: Literal["auto", "none", "lab", "histogram"] = "auto"
    similarity: float | None = None


@dataclass(slots=True)
class Patch:
    """What a generator made for one face.

    Attributes:
        image: ``(S, T, 3)`` uint8 RGB.
        mask: ``(S, T)`` uint8, 255 where the patch replaces the frame.
        matrix: ``(2, 3)`` float64, frame → patch. A generator that paints at the frame's own
            resolution returns a pure whole-pixel shift, which blend pastes without resampling.
        surround: The patch is not the face but what is around it, moved to make room.
        face: The face that it is for; None where nobody asks.
        color: How its colours are to be matched with what it covers; see :class:`SwapPlan`.
    """

    image: Image
    mask: Image
    matrix: NDArray[np.float64]
    surround: bool = False
    face: Face | None = None
    color: Literal["none", "lab", "histogram"] = "none"


class FaceMask(NamedTuple):
    """Where a face may be replaced, as seen in the frame.

    Attributes:
        image: ``(S, S)`` uint8, 0 where the frame must stay as it is.
        matrix: ``(2, 3)`` float64, frame → mask. Beyond the mask its rim goes on.
    """

    image: Image
    matrix: NDArray[np.float64]


Detect = Callable[[Frame], Faces]
Landmarks = Callable[[Frame, Faces], Faces]
Embed = Callable[[Frame, Faces], Faces]
Generate = Callable[[Frame, Faces, Sequence[Identity]], list[Patch]]
Blend = Callable[[Frame, Patch], None]
Segment = Callable[[Frame, Faces], list[FaceMask]]
Enhance = Callable[[Frame, Faces], None]
Upscale = Callable[[Frame], Frame]
Mark = Callable[[Frame], None]
