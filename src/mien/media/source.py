"""Sources: one image or one video file, as a stream of upright RGB frames."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av

from mien.errors import MediaError
from mien.media.colour import Converter, Orientation, display_matrix, writable_by_rectangle
from mien.media.images import read_still
from mien.media.info import MediaInfo, kind_of
from mien.media.limits import (
    FORMATS,
    USUAL,
    WAITING,
    Limits,
    check_container,
    check_size,
    check_streams,
)
from mien.types import Frame

log = logging.getLogger(__name__)


class ImageSource:
    """A still picture as a stream of one frame.

    Attributes:
        info: What is known of the file.
        damaged: Always 0: a damaged image is an error.
        limits: What it was read under.
    """

    def __init__(self, path: Path, *, limits: Limits = USUAL) -> None:
        """Read the image; see :func:`mien.media.read_image` for errors."""
        self.limits = limits
        self.still = read_still(path, max_pixels=limits.pixels, max_bytes=limits.photo_bytes)
        self.damaged = 0
        height, width = self.still.image.shape[:2]
        self.info = MediaInfo(
            *(path, "image", width, height), frames=1, codec=self.still.format, pixel_format="rgb24"
        )

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(self.still.image.copy(), origin=self.still)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open."""


def _exact(seconds: float | Fraction | None) -> Fraction | None:
    """The number that was meant: 0.32 is 8/25, else a frame at that time is on the wrong side."""
    if isinstance(seconds, Fraction):
        return seconds
    return None if seconds is None else Fraction(seconds).limit_denominator(1_000_000)


class VideoSource:
    """A video file's frames in order of display, each exactly once.

    Attributes:
        info: What is known of the file.
        damaged: Frames that could not be decoded so far and were passed over.
        start: Seconds from which frames are wanted, None for the beginning.
        end: Seconds before which frames are wanted, None for the end.
        matrix: Display matrix of the stream, None if it has none.
        orientation: The same as flip and quarter turns: stored → displayed.
        first: The first wanted frame as decoded; it names format and colour tags.
        limits: What it is read under.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: float | Fraction | None = None,
        end: float | Fraction | None = None,
        limits: Limits = USUAL,
    ) -> None:
        """Open the file and decode its first wanted frame.

        Raises:
            MediaError: No video can be read from the file, no frame of the wanted range, or it is
                over a limit.
        """
        self.start, self.end, self.damaged = _exact(start), _exact(end), 0
        self.limits = limits
        self._container = open_input(path, limits)
        try:
            self.stream = video_stream(self._container, path, limits)
            _check_whole(self._container, path)
            self.stream.thread_type = "AUTO"
            self.time_base: Fraction = self.stream.time_base or Fraction(1, 90_000)
            self.path = path
            self._frames = self._decode()
            try:
                self.first = next(self._frames)
            except StopIteration:
                raise MediaError(f"{path}: {self._nothing()}") from None
        except BaseException:
            self._container.close()
            raise
        self.matrix = display_matrix(self.first)
        self.orientation = Orientation.of(self.matrix)
        self._converter = Converter(self.orientation)
        self.info = self._info()

    def _nothing(self) -> str:
        if not self.stream.codec_context.width:  # libav could not even look at one
            most = self.limits.frame_pixels / 1e6
            return (
                "no frame can be decoded; they are damaged or above the limit of "
                f"{most:.3g} megapixels (limits.frame_pixels)"
            )
        if self.start is None and self.end is None:
            return "no frame of the video can be decoded"
        end = "the end" if self.end is None else f"{float(self.end):g} s"
        return f"no frame lies between {float(self.start or 0):g} s and {end}"

    def _info(self) -> MediaInfo:
        width, height = self.first.width, self.first.height
        if self.orientation.swaps:
            width, height = height, width
        stream, fps = self.stream, self.stream.average_rate or self.stream.guessed_rate
        duration: Fraction | None = None
        if stream.duration:
            duration = stream.duration * self.time_base
        elif self._container.duration:
            duration = Fraction(self._container.duration, av.time_base)
        frames = stream.frames or (round(duration * fps) if duration and fps else None)
        if duration and (self.start is not None or self.end is not None):
            whole = duration
            end = whole if self.end is None else min(whole, self.end)
            duration = max(Fraction(0), end - (self.start or 0))
            frames = round(frames * duration / whole) if frames else None
        return MediaInfo(
            self.path,
            "video",
            width,
            height,
            fps=fps,
            frames=frames,
            duration=float(duration) if duration else None,
            codec=stream.codec_context.name,
            pixel_format=self.first.format.name,
        )

    def __iter__(self) -> Iterator[Frame]:
        """Yield the wanted frames; a source is read once."""
        first, index = self.first, 0
        yield self._frame(first, index)
        for decoded in self._frames:
            index += 1
            if (decoded.width, decoded.height) != (first.width, first.height):
                raise MediaError(
                    f"{self.path}: frame {index} is {decoded.width}x{decoded.height} and the "
                    f"first {first.width}x{first.height}; frames of changing size are not taken"
                )
            yield self._frame(decoded, index)

    def _frame(self, decoded: av.VideoFrame, index: int) -> Frame:
        return Frame(
            self._converter.image(decoded), index, decoded.pts, self.time_base, origin=decoded
        )

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Yield wanted frames with strictly increasing pts; damaged ones are passed over."""
        if self.start:
            with suppress(av.FFmpegError):  # what cannot be sought is read from its beginning
                self._container.seek(int(self.start / self.time_base), stream=self.stream)
        last: int | None = None
        for frame in self._all_frames():
            if frame.pts is None:
                frame.pts = 0 if last is None else last + self._step()
            if last is not None and frame.pts <= last:
                frame.pts = last + 1
            last = frame.pts
            if self._before(frame.pts):
                continue
            if self.end is not None and frame.pts * self.time_base >= self.end:
                return
            if writable_by_rectangle(frame.format):
                yield frame
            else:
                yield frame.reformat(format="rgb24" if frame.format.is_rgb else "yuv444p")

    def _before(self, pts: int) -> bool:
        return self.start is not None and pts * self.time_base < self.start

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """Decode everything from where the container stands, and count what does not come out.

        A decoder says little about what it drops (everything up to the next key frame, after a
        damaged one), so the pts that went in are compared with those that come out.
        """
        waiting: set[int] = set()
        for number, packet in enumerate(self._packets()):
            if number > self.limits.frames:
                raise MediaError(
                    f"{self.path}: has more than {self.limits.frames} frames (limits.frames)"
                )
            if len(waiting) > WAITING:
                gone = min(waiting)
                waiting.discard(gone)
                self._passed_over(gone)
            tracked = self._tracked(packet)
            if tracked:
                waiting.add(packet.pts)
            try:
                decoded = self.stream.decode(packet)
            except av.FFmpegError:
                decoded = []
                if packet is not None and packet.size and not tracked:
                    self._passed_over(packet.pts)
            for frame in decoded:
                if frame.is_corrupt:
                    continue  # stays among those that are waited for
                yield from self._arrived(frame, waiting)
        if waiting:
            for frame in self._tail(waiting):
                yield from self._arrived(frame, waiting)
        for pts in sorted(waiting):
            self._passed_over(pts)

    def _arrived(self, frame: av.VideoFrame, waiting: set[int]) -> Iterator[av.VideoFrame]:
        if frame.pts is not None:
            waiting.discard(frame.pts)
            for pts in sorted(p for p in waiting if p < frame.pts):
                waiting.discard(pts)
                self._passed_over(pts)
        yield frame

    def _tracked(self, packet: Any) -> bool:
        """Whether exactly one frame with the packet's pts must come out."""
        if packet is None or not packet.size or packet.pts is None or packet.is_discard:
            return False
        return bool(self.stream.codec_context.name != "vp8")  # it has packets that show nothing

    def _tail(self, waiting: set[int]) -> Iterator[av.VideoFrame]:
        """Decode the end again, without frame threads.

        PyAV stops draining a decoder at the first error; with frame threads that loses the good
        frames behind it.
        """
        with open_input(self.path, self.limits) as container, suppress(av.FFmpegError):
            stream = video_stream(container, self.path, self.limits)
            stream.thread_type = "SLICE"
            container.seek(min(waiting), stream=stream)
            for packet in container.demux(stream):
                with suppress(av.FFmpegError):
                    for frame in stream.decode(packet):
                        if frame.pts in waiting and not frame.is_corrupt:
                            yield frame

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self.stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                log.warning("%s: the rest cannot be read (%s)", self.path, error.strerror)
                self.damaged += 1
                yield None  # what the decoder still holds
                return

    def _passed_over(self, pts: int | None) -> None:
        if pts is not None and self._before(pts):
            return
        self.damaged += 1
        at = "" if pts is None else f" at {float(pts * self.time_base):.3f} s"
        log.warning("%s: a damaged frame%s is passed over", self.path, at)

    def _step(self) -> int:
        rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        return max(1, round(1 / (rate * self.time_base)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and end its decoder with its threads now: they are in a ring with it."""
        with suppress(ValueError):  # still decoding, in a thread that is about to end
            self._frames.close()
        self._container.close()


Source = ImageSource | VideoSource


def open_source(
    path: Path | str,
    *,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    limits: Limits = USUAL,
) -> Source:
    """Open an image or a video file, told apart by content.

    Args:
        path: The file.
        start: Seconds, exact as a fraction; frames before are left out. For video only.
        end: Seconds; frames from here on are left out. For video only.
        limits: What the file may ask for.

    Raises:
        MediaError: The file is missing, a folder, empty, damaged, no image or video, or too
            large.
    """
    path = Path(path)
    if kind_of(path) == "image":
        return ImageSource(path, limits=limits)
    return VideoSource(path, start=start, end=end, limits=limits)


def open_input(path: Path, limits: Limits = USUAL) -> Any:
    """Open a container for reading; libav may open this file and no other.

    Raises:
        MediaError: libav finds no container that it knows in the file, or it is over a limit.
    """
    check_container(path, limits)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": FORMATS,
        "max_streams": str(limits.streams + 1),
        "max_pixels": str(limits.frame_pixels),
    }
    try:
        container = av.open(
            f"file:{path}",
            options=options,
            metadata_errors="replace",
            timeout=(limits.open_seconds, limits.open_seconds),
        )
    except av.error.ExitError as error:
        raise MediaError(
            f"{path}: cannot be opened within {limits.open_seconds:g} s (limits.open_seconds)"
        ) from error
    except MemoryError as error:  # what libav answers to a stream too many
        raise MediaError(
            f"{path}: has more than {limits.streams} streams, or asks for more memory than there is"
        ) from error
    except av.FFmpegError as error:
        raise MediaError(
            f"{path}: is not an image or a video that can be read, or it is cut off "
            f"({error.strerror})"
        ) from error
    try:
        check_streams(path, container, limits)
    except BaseException:
        container.close()
        raise
    return container


def _check_whole(container: Any, path: Path) -> None:
    """Refuse an MP4 or MOV whose index points behind the end of the file.

    Raises:
        MediaError: It does: the file is cut off.
    """
    if not container.format.name.startswith("mov"):
        return
    lasts = [s.index_entries[-1] for s in container.streams if len(s.index_entries)]
    end = max((entry.pos + entry.size for entry in lasts), default=0)
    size = path.stat().st_size
    if end > size:
        raise MediaError(f"{path}: is cut off, it has {size} of at least {end} bytes")


def video_stream(container: Any, path: Path, limits: Limits = USUAL) -> Any:
    """Return the first video stream that is not a cover picture.

    Raises:
        MediaError: There is none, there is no decoder for it, or its frames are too large.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise MediaError(f"{path}: has no video stream")
    if streams[0].codec_context is None:
        raise MediaError(f"{path}: its video codec is unknown to this build of libav")
    context = streams[0].codec_context
    if context.width or context.height:  # a network stream may not have said yet
        check_size(path, context.width, context.height, limits.frame_pixels)
    # Larger frames may come after small ones: the decoder refuses them by itself.
    context.options = {**context.options, "max_pixels": str(limits.frame_pixels)}
    return streams[0]
