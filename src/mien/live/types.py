"""What goes into the live engine and comes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mien.media import Marked, Shot
from mien.types import Faces, Frame

OnMiss = Literal["pass", "hold", "blur", "card"]
"""What is shown while the face is missed: the frame as it is, the last good picture, the whole
frame blurred, or a card that says so."""


class Camera(Protocol):
    """Where frames come from, at their own pace; :mod:`mien.media` has some.

    Attributes:
        name: For messages.
        fps: Frames a second that it gives, or 0 where it does not say.
    """

    name: str
    fps: float

    def preview(self) -> Iterator[Frame]:
        """Frames to warm up on, which nobody is shown; a file's are played again afterwards."""
        ...

    def __iter__(self) -> Iterator[Shot]:
        """Frames as they are taken, until the camera is gone. Runs in the capture thread.

        Raises:
            MediaError: The camera is gone.
        """
        ...

    def close(self) -> None:
        """Give the camera back; called from the capture thread, or while it waits in ``iter``."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A finished frame. Several outputs get the same one, so none may write to its pixels.

    Attributes:
        marked: The frame with its mark; ``marked.frame.image`` is ``(H, W, 3)`` uint8 RGB and
            ``marked.frame.index`` grows, with gaps where frames were dropped.
        taken: ``time.monotonic()`` at which the frame was taken; the age of what is shown is
            ``time.monotonic() - taken``. On one machine the clock is the same in every process.
        faces: All faces of the frame, tracked, in pixels of it.
        swapped: How many of them were replaced.
    """

    marked: Marked
    taken: float
    faces: Faces
    swapped: int


class Output(Protocol):
    """Where finished frames go. Each has a thread of its own and gets the newest frame only.

    All three methods are called from that thread, ``open`` once before the first frame.

    Attributes:
        name: For messages and reports.
    """

    name: str

    def open(self, width: int, height: int, fps: float) -> None:
        """Get ready for frames of that size, which stays the same, at about that rate.

        Raises:
            MediaError: It cannot be opened.
        """
        ...

    def write(self, shown: Shown) -> None:
        """Show or encode one frame; slowness costs this output frames, and no other.

        Raises:
            MediaError: It cannot be written; the engine takes the output away and goes on with
                the others, or ends if there is none left.
        """
        ...

    def close(self) -> None:
        """Finish; called once if ``open`` succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How the engine works; what can be changed while it runs is in :class:`Look`.

    Attributes:
        max_latency: Seconds; a frame that would be older when it is shown is dropped before it is
            worked on. Where the machine cannot keep to it, the freshest frames are shown.
        fps: Frames a second asked for; 0 takes the camera's.
        step_down: Whether quality is lowered, in a fixed order, while the machine is too slow.
        private: No raw face is ever shown: what is not replaced is blurred.
        reopen: Whether a camera that ends is opened again; False for files.
        duration: Seconds after which to end; None for never.
    """

    max_latency: float = 0.1
    fps: float = 0.0
    step_down: bool = True
    private: bool = False
    reopen: bool = True
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class OutputStatistics:
    """How one output fares.

    Attributes:
        name: Of the output.
        written: Frames that it took.
        skipped: Finished frames that it was too slow for.
        age_p50: Milliseconds from capture until it had dealt with a frame, encoding included.
        age_p95: The same.
        handed_p95: Milliseconds from capture until a frame was handed to it.
        error: Why it was taken away, empty while all is well.
        lost: Frames that came while its connection was broken.
        reconnected: How often its connection was made again.
    """

    name: str
    written: int
    skipped: int
    age_p50: float
    age_p95: float
    handed_p95: float
    error: str = ""
    lost: int = 0
    reconnected: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the engine does. Ages are those of the first output, after writing.

    ``frames_in = frames_out + dropped``, but for one or two frames on their way while it runs.

    Attributes:
        fps_in: Frames a second from the camera; over the last two seconds while it runs, over the
            whole run at its end. Likewise the next three.
        fps_out: Frames a second finished.
        age_p50: Milliseconds from capture until the output had dealt with the frame.
        age_p95: The same, which one frame in twenty exceeds.
        dropped: Frames that were never worked on.
        swapped: Finished frames with at least one face replaced.
        provider: Where models run.
        frames_in: Frames from the camera.
        frames_out: Frames finished and handed to the outputs.
        late: Finished frames that were older than ``max_latency`` when they were.
        missed: Finished frames in which a face was missed.
        faces: Faces in the last frame.
        step: Of the ladder, 0 is full quality.
        step_name: In words.
        steps_down: How often the engine stepped down.
        recovered: How often the camera came back.
        cosine: Mean and largest cosine of what was shown to the performer, sampled; None unless
            private, or where nothing was sampled.
        work_ms: Milliseconds of work on a frame, median.
        outputs: Each by itself.
        seconds: Since the first frame.
    """

    fps_in: float
    fps_out: float
    age_p50: float
    age_p95: float
    dropped: int
    swapped: int
    provider: str
    frames_in: int
    frames_out: int
    late: int
    missed: int
    faces: int
    step: int
    step_name: str
    steps_down: int
    recovered: int
    cosine: tuple[float, float] | None
    work_ms: float
    outputs: list[OutputStatistics] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """The head-up line."""
        down = f"  {self.step_name}" if self.step else ""
        return (
            f"{self.fps_in:.0f} > {self.fps_out:.0f} fps  age {self.age_p50:.0f}/"
            f"{self.age_p95:.0f} ms  dropped {self.dropped}  faces {self.faces}  "
            f"{self.provider}{down}"
        )
