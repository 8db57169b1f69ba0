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
from mien.media.limits import NETWORK
from mien.media.sound import RATE, Decoded, Feed, Samples, Sound, audio_stream, place
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

SETTLE: Final = 0.05
"""Share of a frame in what is known of a stream's delay."""

AHEAD: Final = 0.1
"""Seconds by which a file's sound is decoded before its picture."""


class FileCamera:
    """A video file played at its own rate, as if it were a camera.

    A frame is taken when its pts says so, counted from the first frame, even if the decoder was
    late with it.

    Attributes:
        name: Of the file.
        fps: Frames a second.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int] | None = None,
        fps: float = 0,
        loop: bool = False,
        sound: Sound | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: The file.
            size: See :func:`fit`.
            fps: At most that many frames a second; 0 for all.
            loop: Begin anew at the end.
            sound: Where its sound goes, in step with the frames.

        Raises:
            MediaError: It is missing or no video, or it has no sound, which was wanted.
        """
        check_file(path)
        self.path, self.name, self.loop = path, str(path), loop
        self._sound, self._first, self._played = sound, 0.0, 0.0
        self._size, self._limit = size, fps
        self._stop = threading.Event()
        with open_input(path) as container:
            stream = video_stream(container, path)
            own = float(stream.average_rate or stream.guessed_rate or 25)
            if sound is not None and audio_stream(container) is None:
                raise MediaError(f"{path}: has no sound")
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
            sounds = None if self._sound is None else self._sounds()
            if self._sound is not None:
                self._sound.cut(place(began))
            for frame, seconds in self._frames():
                due = began + seconds
                now = time.monotonic()
                if now - due > BEHIND:
                    began += now - due
                    due = now
                elif self._stop.wait(max(0.0, due - now)):
                    return
                last = due
                if sounds is not None:
                    self._play(sounds, began, seconds + AHEAD)
                yield Shot(frame, due)
            if not self.loop or self._stop.is_set():
                return
            began = last + 1 / self.fps

    def _play(self, sounds: Iterator[tuple[float, Samples]], began: float, until: float) -> None:
        """Leave the sound up to a time of the file where outputs read it."""
        assert self._sound is not None
        while self._played < until:
            block = next(sounds, None)
            if block is None:
                self._played = float("inf")
                return
            at, samples = block
            self._sound.put(place(began + at), samples)
            self._played = at + len(samples) / RATE

    def _sounds(self) -> Iterator[tuple[float, Samples]]:
        """Blocks of sound with their time in seconds from the first frame."""
        self._played = float("-inf")
        return self._decoded_sounds()

    def _decoded_sounds(self) -> Iterator[tuple[float, Samples]]:
        with open_input(self.path) as container:
            decoded = Decoded()
            try:
                for frame in container.decode(audio_stream(container)):
                    for at, samples in decoded(frame):
                        begin = at - self._first
                        late = max(0, round(-begin * RATE))  # what is before the first frame
                        if late < len(samples):
                            yield begin + late / RATE, samples[late:]
            except av.FFmpegError as error:
                log.warning("%s: its sound cannot be decoded (%s)", self.path, error.strerror)

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
                    first = self._first = decoded.time if first is None else first
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
        sound: Sound | None = None,
    ) -> None:
        """Open it.

        Args:
            name: Its address.
            options: Of libav's input.
            size: See :func:`fit`.
            sound: Where its sound goes, if it has any.

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
        self._audio = None if sound is None else audio_stream(self._container)
        self._feed = None if sound is None else Feed(sound)
        if sound is not None and self._audio is None:
            log.warning("%s: has no sound", name)
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
        heard = Decoded()
        behind: float | None = None
        number = 0
        wanted = [s for s in (self._stream, self._audio) if s is not None]
        try:
            for decoded in self._container.decode(*wanted):
                now = time.monotonic()
                if self._stop.is_set():
                    return
                if isinstance(decoded, av.AudioFrame):
                    self._hear(heard(decoded), behind)
                    continue
                if decoded.time is not None:
                    # By how much frames are taken later than they say; sound is, too.
                    late = now - decoded.time
                    if behind is None or abs(late - behind) > BEHIND:
                        behind = late
                    behind += (late - behind) * SETTLE
                converter = converter or _converter(decoded)
                image = fit(converter.image(decoded), self._size)
                yield Shot(Frame(image, number, decoded.pts, decoded.time_base), now)
                number += 1
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{self.name}: is gone ({error.strerror})") from error
        finally:
            self._container.close()

    def _hear(self, blocks: Iterator[tuple[float, Samples]], behind: float | None) -> None:
        for at, samples in blocks:
            if self._feed is not None and behind is not None:
                self._feed(samples, at + behind)

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


def cameras(devices: Path = Path("/sys/class/video4linux")) -> list[tuple[str, str]]:
    """Number and name of the cameras of this machine; on Linux as the kernel lists them.

    Args:
        devices: Where the kernel does.
    """
    found: list[tuple[str, str]] = []
    if sys.platform.startswith("linux"):
        for entry in sorted(devices.glob("video*"), key=lambda e: int(e.name[5:])):
            # A camera's other nodes give no pictures.
            if _text(entry / "index") in ("0", ""):
                found.append((entry.name[5:], _text(entry / "name") or "unnamed"))
        return found
    kind = "dshow" if sys.platform == "win32" else "avfoundation"
    try:
        devices_ = av.enumerate_input_devices(kind)
    except (av.FFmpegError, ValueError, AttributeError):  # not in this build
        return found
    named = [d.description or d.name for d in devices_ if "video" in d.media_types]
    return [(str(number), name) for number, name in enumerate(named)]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def open_camera(
    what: str,
    *,
    size: tuple[int, int] | None = None,
    fps: float = 0,
    loop: bool = False,
    sound: Sound | None = None,
) -> FileCamera | DeviceCamera | StreamCamera:
    """Open a camera by its number or device, a file, or the address of a stream.

    Args:
        what: ``0``, ``/dev/video0``, ``clip.mp4``, ``rtsp://…``, ``udp://…`` or ``http://…``.
        size: Asked of a device; whatever comes is brought to it, see :func:`fit`.
        fps: Asked of a device; a file is thinned to it.
        loop: Begin a file anew at its end.
        sound: Where the sound of a file or of a stream goes; a device has none.

    Raises:
        MediaError: It cannot be opened, or a file has no sound, which was wanted.
    """
    if re.match(r"[a-z0-9]+://", what):
        options = {"fflags": "nobuffer", "flags": "low_delay", "protocol_whitelist": NETWORK}
        if what.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        return StreamCamera(what, options=options, size=size, sound=sound)
    if what.isdecimal() or what.startswith("/dev/"):
        return DeviceCamera(what, size=size, fps=fps)
    return FileCamera(Path(what), size=size, fps=fps, loop=loop, sound=sound)
