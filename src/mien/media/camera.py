"""Cameras: files played at their own rate, devices, network streams, and what somebody pushes."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.colour import Converter, Orientation, display_matrix
from mien.media.info import check_file
from mien.media.source import open_input, video_stream
from mien.types import Frame, Image

log = logging.getLogger(__name__)


class Shot(NamedTuple):
    """A frame and when it was taken.

    Attributes:
        frame: Upright RGB.
        time: Seconds of ``time.monotonic()``.
    """

    frame: Frame
    time: float


def fit(image: Image, size: tuple[int, int] | None) -> Image:
    """Bring a picture to the largest even size within ``size`` that keeps its shape.

    Args:
        image: ``(H, W, 3)`` uint8.
        size: Width and height; None leaves it, but for an odd row or column.
    """
    height, width = image.shape[:2]
    scale = 1.0 if size is None else min(size[0] / width, size[1] / height)
    to = max(2, int(width * scale + 0.01) // 2 * 2), max(2, int(height * scale + 0.01) // 2 * 2)
    if to == (width, height):
        return image
    if scale == 1:
        return np.ascontiguousarray(image[: to[1], : to[0]])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, to, interpolation=how), np.uint8)


BEHIND: Final = 1.0
"""Seconds by which a file may fall behind its own clock before the clock is set back."""

FIRST: Final = 3
"""Frames of a preview."""


class FileCamera:
    """A video file played at its own rate, as if it were a camera.

    A frame is taken when its pts says so, counted from the first frame, even if the decoder was
    late with it.

    Attributes:
        name: Of the file.
        fps: Frames a second.
    """

    def __init__(
        self, path: Path, *, size: tuple[int, int] | None = None, fps: float = 0, loop: bool = False
    ) -> None:
        """Open the file.

        Args:
            path: The file.
            size: See :func:`fit`.
            fps: At most that many frames a second; 0 for all.
            loop: Begin anew at the end.

        Raises:
            MediaError: It is missing or no video.
        """
        check_file(path)
        self.path, self.name, self.loop = path, str(path), loop
        self._size, self._limit = size, fps
        self._stop = threading.Event()
        with open_input(path) as container:
            stream = video_stream(container, path)
            own = float(stream.average_rate or stream.guessed_rate or 25)
        self.fps = min(own, fps) if fps else own

    def preview(self) -> Iterator[Frame]:
        """The first frames, which are played later all the same."""
        for number, (frame, _) in enumerate(self._frames()):
            if number == FIRST:
                return
            yield frame

    def __iter__(self) -> Iterator[Shot]:
        began = time.monotonic()
        while True:
            last = began
            for frame, seconds in self._frames():
                due = began + seconds
                now = time.monotonic()
                if now - due > BEHIND:
                    began += now - due
                    due = now
                elif self._stop.wait(max(0.0, due - now)):
                    return
                last = due
                yield Shot(frame, due)
            if not self.loop or self._stop.is_set():
                return
            began = last + 1 / self.fps

    def _frames(self) -> Iterator[tuple[Frame, float]]:
        """Frames with their time in seconds from the first one."""
        with open_input(self.path) as container:
            stream = video_stream(container, self.path)
            stream.thread_type = "AUTO"
            converter: Converter | None = None
            first: float | None = None
            shown = -1.0
            number = 0
            try:
                for decoded in container.decode(stream):
                    if decoded.pts is None or decoded.time is None:
                        continue
                    first = decoded.time if first is None else first
                    seconds = decoded.time - first
                    if self._limit and seconds - shown < 0.98 / self._limit and shown >= 0:
                        continue
                    if seconds <= shown:
                        continue
                    shown = seconds
                    converter = converter or _converter(decoded)
                    image = fit(converter.image(decoded), self._size)
                    yield Frame(image, number, decoded.pts, decoded.time_base), seconds
                    number += 1
            except av.FFmpegError as error:
                raise MediaError(f"{self.path}: cannot be decoded ({error.strerror})") from error

    def close(self) -> None:
        """Stop waiting for the next frame."""
        self._stop.set()


def _converter(first: av.VideoFrame) -> Converter:
    return Converter(Orientation.of(display_matrix(first)))


class DeviceCamera:
    """A camera of this machine, through OpenCV: PyAV's wheels come without libavdevice.

    Attributes:
        name: As messages call it.
        fps: Frames a second that the driver promises, or 0.
    """

    def __init__(self, what: str, *, size: tuple[int, int] | None = None, fps: float = 0) -> None:
        """Open it and ask for a size and a rate.

        Raises:
            MediaError: It is not there, or somebody else has it.
        """
        self.name, self._size = f"camera {what}", size
        device = f"/dev/video{what}" if what.isdecimal() else what
        if sys.platform.startswith("linux") and not Path(device).exists():
            raise MediaError(f"{self.name}: there is no {device}; 'mien doctor' lists cameras")
        self._capture = cv2.VideoCapture(int(what)) if what.isdecimal() else cv2.VideoCapture(what)
        if not self._capture.isOpened():
            raise MediaError(f"{self.name}: cannot be opened; is another program using it?")
        if size is not None and size[0] * size[1] > 640 * 480:
            # USB 2 has no room for more that is not packed.
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, size[0] if size else 0),
            (cv2.CAP_PROP_FRAME_HEIGHT, size[1] if size else 0),
            (cv2.CAP_PROP_FPS, fps),
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        ):
            if value:
                self._capture.set(key, value)
        self.fps = max(0.0, float(self._capture.get(cv2.CAP_PROP_FPS)))
        self._stop = threading.Event()
        self._number = 0

    def preview(self) -> Iterator[Frame]:
        """Frames that are used up by it."""
        return (shot.frame for shot in self)

    def __iter__(self) -> Iterator[Shot]:
        try:
            while not self._stop.is_set():
                there, bgr = self._capture.read()
                now = time.monotonic()
                if not there:
                    self._capture.release()  # else it could not be opened again
                    raise MediaError(f"{self.name}: gives no more frames")
                image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                self._number += 1
                yield Shot(Frame(fit(image, self._size), self._number), now)
        finally:
            if self._stop.is_set():
                self._capture.release()

    def close(self) -> None:
        """Stop at the next frame."""
        self._stop.set()


class StreamCamera:
    """A network stream: frames are taken when they arrive.

    Attributes:
        name: As given.
        fps: Frames a second that it says it has, or 0.
    """

    def __init__(
        self,
        name: str,
        *,
        options: dict[str, str],
        size: tuple[int, int] | None = None,
    ) -> None:
        """Open it.

        Args:
            name: Its address.
            options: Of libav's input.
            size: See :func:`fit`.

        Raises:
            MediaError: It is not there, taken, or gives no video.
        """
        self.name, self._size = name, size
        try:
            self._container: Any = av.open(name, options=options, timeout=(5.0, 1.5))
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{name}: cannot be opened ({reason})") from error
        try:
            self._stream = video_stream(self._container, Path(name))
        except BaseException:
            self._container.close()
            raise
        self._stream.thread_type = "SLICE"  # threads by frame would hold frames back
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self._stop = threading.Event()
        self._frames = self._decode()

    def preview(self) -> Iterator[Frame]:
        """Frames that are used up by it."""
        return (shot.frame for shot in self._frames)

    def __iter__(self) -> Iterator[Shot]:
        return self._frames

    def _decode(self) -> Iterator[Shot]:
        converter: Converter | None = None
        number = 0
        try:
            for decoded in self._container.decode(self._stream):
                now = time.monotonic()
                if self._stop.is_set():
                    return
                converter = converter or _converter(decoded)
                image = fit(converter.image(decoded), self._size)
                yield Shot(Frame(image, number, decoded.pts, decoded.time_base), now)
                number += 1
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{self.name}: is gone ({error.strerror})") from error
        finally:
            self._container.close()

    def close(self) -> None:
        """Stop at the next frame, or when none comes for 1.5 s."""
        self._stop.set()


class PushCamera:
    """Frames that somebody else takes, for instance a browser.

    Attributes:
        name: For messages.
        fps: As said.
    """

    def __init__(self, name: str = "pushed", fps: float = 30.0) -> None:
        self.name, self.fps = name, fps
        self._changed = threading.Condition()
        self._shots: list[Shot] = []
        self._closed = False
        self._number = 0
        self.replaced = 0

    def push(self, image: Image, taken: float | None = None) -> None:
        """Give the next frame, from any thread; the newest wins.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, C-contiguous, even sides; given away. Frames of
                another size than the first are brought to it.
            taken: ``time.monotonic()`` when it was taken; None for now.
        """
        with self._changed:
            frame = Frame(image, self._number, self._number, Fraction(1, 30))
            self._number += 1
            self.replaced += len(self._shots)
            self._shots = [Shot(frame, time.monotonic() if taken is None else taken)]
            self._changed.notify()

    def preview(self) -> Iterator[Frame]:
        """Nothing: the first pushed frame is shown."""
        return iter(())

    def __iter__(self) -> Iterator[Shot]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._shots or self._closed)
                if self._closed:
                    return
                shot = self._shots.pop()
            yield shot

    def close(self) -> None:
        """End the stream."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def open_camera(
    what: str, *, size: tuple[int, int] | None = None, fps: float = 0, loop: bool = False
) -> FileCamera | DeviceCamera | StreamCamera:
    """Open a camera by its number or device, a file, or the address of a stream.

    Args:
        what: ``0``, ``/dev/video0``, ``clip.mp4``, ``rtsp://…``, ``udp://…`` or ``http://…``.
        size: Asked of a device; whatever comes is brought to it, see :func:`fit`.
        fps: Asked of a device; a file is thinned to it.
        loop: Begin a file anew at its end.

    Raises:
        MediaError: It cannot be opened.
    """
    if re.match(r"[a-z0-9]+://", what):
        options = {"fflags": "nobuffer", "flags": "low_delay"}
        if what.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        return StreamCamera(what, options=options, size=size)
    if what.isdecimal() or what.startswith("/dev/"):
        return DeviceCamera(what, size=size, fps=fps)
    return FileCamera(Path(what), size=size, fps=fps, loop=loop)
