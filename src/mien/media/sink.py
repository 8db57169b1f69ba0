"""Sinks: what carries its mark goes into an image or a video file, whole or not at all."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange

from mien.errors import MediaError, MienError
from mien.media import veil
from mien.media.colour import Converter, matrix_of, range_of
from mien.media.info import IMAGE_SUFFIXES, Marked, SinkOptions
from mien.media.metadata import with_xmp, xmp
from mien.media.source import ImageSource, Source, VideoSource, open_input, video_stream
from mien.types import Rect

log = logging.getLogger(__name__)

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Containers that keep timestamps and rotation, by suffix."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Which option of an encoder means speed and which quality, with mien's defaults."""

    speed: str = "preset"
    fast: str | None = None
    quality: str = "crf"
    good: int | None = None
    more: tuple[tuple[str, str], ...] = ()


_ENCODERS = {
    "libx264": _Encoder(fast="veryfast", good=20),
    "libx265": _Encoder(fast="veryfast", good=22, more=(("x265-params", "log-level=error"),)),
    "libsvtav1": _Encoder(fast="8", good=28),
    "libvpx-vp9": _Encoder(
        "cpu-used", "6", good=24, more=(("deadline", "realtime"), ("row-mt", "1"), ("b", "0"))
    ),
    "h264_nvenc": _Encoder(fast="p4", quality="cq", good=19),
    "hevc_nvenc": _Encoder(fast="p4", quality="cq", good=21),
    "av1_nvenc": _Encoder(fast="p4", quality="cq", good=27),
}


class Temporary:
    """A hidden file beside the target that takes its name when all is well.

    Attributes:
        path: The hidden file; it exists, empty, from the start.
    """

    def __init__(
        self,
        target: Path,
        *,
        overwrite: bool,
        finish: Finish | None = None,
        spare: bool = False,
    ) -> None:
        """Create the hidden file.

        Args:
            target: The name it will take.
            overwrite: Whether there may be a file of that name.
            finish: What is still to be done to the whole file.
            spare: The hidden file stays where ``finish`` fails, as it took long to make.

        Raises:
            MediaError: The target exists and must not be overwritten, is a folder, or its
                folder is missing or cannot be written.
        """
        self.target, self.overwrite = target, overwrite
        self._finish, self._spare = finish, spare
        self._check()
        self.path = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with self.path.open("xb"):
                pass
        except OSError as error:
            raise MediaError(f"{target}: cannot be written ({error.strerror})") from error

    def _check(self) -> None:
        if self.target.is_dir():
            raise MediaError(f"{self.target}: is a folder, a file was expected")
        if not self.target.parent.is_dir():
            raise MediaError(f"{self.target}: the folder {self.target.parent} does not exist")
        if self.target.exists() and not self.overwrite:
            raise MediaError(f"{self.target}: exists already and would be overwritten")

    def keep(self) -> None:
        """Finish the file, force it to disk and give it its name.

        Raises:
            MediaError: The disk is full, or somebody else made the target meanwhile.
            MienError: It could not be finished.
        """
        beside = self._finished()
        try:
            self._check()
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            self.path.replace(self.target)
        except OSError as error:  # MediaError is one, too
            if beside is not None:
                beside.drop()
            self.drop()
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{self.target}: cannot be written ({error.strerror})") from error
        if beside is not None:
            beside.keep()

    def _finished(self) -> Beside | None:
        if self._finish is None:
            return None
        try:
            return self._finish(self.path, self.target)
        except MienError as error:
            if not self._spare:
                self.drop()
                raise
            raise type(error)(f"{error}; what was made lies in {self.path}") from error
        except BaseException:
            if not self._spare:
                self.drop()
            raise

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class Beside(Protocol):
    """What is done beside a file: another file written, for instance."""

    def keep(self) -> None:
        """The file has taken its name; do it."""

    def drop(self) -> None:
        """The file has not; leave all as it was."""


Finish = Callable[[Path, Path], Beside | None]
"""Called with a whole file, still hidden, and the name it will take, before it does; changes the
file in place. It may return what is to be done beside it, such as a :class:`Temporary`."""


class ImageSink:
    """One still picture, written when the sink is closed."""

    def __init__(
        self,
        path: Path,
        source: ImageSource,
        *,
        options: SinkOptions,
        metadata: Mapping[str, str],
        overwrite: bool,
        finish: Finish | None = None,
    ) -> None:
        """Prepare the file.

        Raises:
            MediaError: The name ends in no known image format, or the file cannot be written.
        """
        self.path, self._still = path, source.still
        self._format = IMAGE_SUFFIXES[path.suffix.lower()]
        self._options, self._metadata = options, metadata
        self._encoded: bytes | None = None
        self._file = Temporary(path, overwrite=overwrite, finish=finish)

    def write(self, marked: Marked) -> None:
        """Encode the picture.

        Raises:
            TypeError: It carries no mark.
            MediaError: It cannot be encoded, or there has been one already.
        """
        if not isinstance(marked, Marked):
            raise TypeError(f"a sink takes what provenance marked, not {type(marked).__name__}")
        if self._encoded is not None:
            raise MediaError(f"{self.path}: an image file holds one picture")
        image = cv2.cvtColor(marked.frame.image, cv2.COLOR_RGB2BGR)
        if self._still.alpha is not None and self._format != "jpeg":
            alpha, size = self._still.alpha, (image.shape[1], image.shape[0])
            if alpha.shape != image.shape[:2]:
                alpha = np.asarray(cv2.resize(alpha, size), np.uint8)
            image = np.dstack((image, alpha))
        words = xmp(self._metadata)
        chunks = {cv2.IMAGE_METADATA_XMP: words} if self._format == "webp" else {}
        if self._still.icc:
            chunks[cv2.IMAGE_METADATA_ICCP] = self._still.icc
        data = self._encode(image, chunks)
        if data is None and self._still.icc:
            del chunks[cv2.IMAGE_METADATA_ICCP]
            log.warning("%s: the colour profile is damaged and left out", self.path)
            data = self._encode(image, chunks)
        if data is None:
            raise MediaError(f"{self.path}: cannot be encoded as {self._format.upper()}")
        self._encoded = data if self._format == "webp" else with_xmp(data, words)

    def _encode(self, image: Any, chunks: dict[int, bytes]) -> bytes | None:
        arrays = [np.frombuffer(value, np.uint8) for value in chunks.values()]
        try:
            done, data = cv2.imencodeWithMetadata(
                f".{self._format}", image, list(chunks), arrays, self._parameters()
            )
        except cv2.error:
            return None
        return data.tobytes() if done else None

    def _parameters(self) -> list[int]:
        quality = self._options.quality
        if self._format == "jpeg":
            return [
                *(cv2.IMWRITE_JPEG_QUALITY, 95 if quality is None else quality),
                *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
            ]
        if self._format == "webp":
            return [cv2.IMWRITE_WEBP_QUALITY, 95 if quality is None else quality]
        return []

    def abort(self, *, keep: bool = False) -> bool:
        """Stop early; ``keep`` writes the picture if there is one. Returns whether it did."""
        if keep and self._encoded is not None:
            self.close()
            return True
        self._file.drop()
        return False

    def close(self) -> None:
        """Write the file.

        Raises:
            MediaError: No picture came, or the disk is full.
        """
        if self._encoded is None:
            self._file.drop()
            raise MediaError(f"{self.path}: no picture was written")
        try:
            self._file.path.write_bytes(self._encoded)
        except OSError as error:
            self._file.drop()
            raise MediaError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._file.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class VideoSink:
    """A video file: frames are encoded, sound and subtitles are copied from the source's file."""

    def __init__(
        self,
        path: Path,
        source: VideoSource,
        *,
        options: SinkOptions,
        metadata: Mapping[str, str],
        overwrite: bool,
        size: tuple[int, int] | None = None,
        finish: Finish | None = None,
    ) -> None:
        """Open the encoder and the container, and write its header.

        ``size`` is width and height of the frames as displayed; None is the source's.

        Raises:
            MediaError: The file cannot be written, the encoder is unknown or refuses its
                settings, or the container cannot hold a stream.
        """
        self.path, self._source = path, source
        self._converter = Converter(source.orientation)
        self._size = (source.first.width, source.first.height)
        if size is not None and size != (source.info.width, source.info.height):
            self._size = size[::-1] if source.orientation.swaps else size
        # A trimmed output begins at zero: everything moves by the first frame's exact time.
        self._shift = source.first.pts or 0 if source.start else 0
        self._written: Fraction | None = None
        self._done = False
        self._file = Temporary(path, overwrite=overwrite, finish=finish, spare=True)
        self._input = open_input(source.path, source.limits)
        try:
            with self._named():
                self._open(options, dict(metadata))
        except BaseException:
            self.abort()
            raise

    def _open(self, options: SinkOptions, metadata: dict[str, str]) -> None:
        kind = CONTAINERS[self.path.suffix.lower()]
        container_options = {}
        if kind in ("mp4", "mov"):
            base = self._source.time_base
            rates = [s.rate for s in self._input.streams.audio if s.codec_context and s.rate]
            container_options["movflags"] = "use_metadata_tags"
            # Pts stay the same numbers, and the edit list's start is exact, not whole
            # milliseconds.
            container_options["movie_timescale"] = str(_movie_timescale(base.denominator, rates))
            if base.numerator == 1:
                container_options["video_track_timescale"] = str(base.denominator)
        self._output = av.open(
            str(self._file.path), "w", format=kind, container_options=container_options
        )
        self._output.metadata.update(self._input.metadata)
        self._output.metadata.update(metadata)
        if not self._shift:
            self._output.set_chapters(self._input.chapters())
        self._video = self._add_video(kind, options)
        self._copies: dict[int, Any] = {}
        self._add_copies(kind)
        self._packets = self._other_packets()
        self._next = next(self._packets, None)
        self._output.start_encoding()

    def _add_video(self, kind: str, options: SinkOptions) -> Any:
        source, first = self._source.stream.codec_context, self._source.first
        name = options.encoder or _usual_encoder(kind, first.format, self._size)
        pixel_format = self._pixel_format(name, options.pixel_format or first.format.name)
        known = _ENCODERS.get(name, _Encoder())
        settings = dict(known.more)
        for key, value in (
            (known.speed, options.preset or known.fast),
            (known.quality, known.good if options.quality is None else options.quality),
        ):
            if value is not None:
                settings[key] = str(value)
        # SVT-AV1 writes its settings to standard error unless the environment says otherwise.
        os.environ.setdefault("SVT_LOG", "1")
        rate = self._source.info.fps or Fraction(25)
        stream: Any
        try:
            stream = self._output.add_stream(
                name,
                rate=rate,
                options=settings,
                width=self._size[0],
                height=self._size[1],
                time_base=self._source.time_base,
            )
        except ValueError as error:
            raise self._cannot_hold("video", name) from error
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.thread_type = "AUTO"  # PyAV's default, slices, makes x264 slower and worse
        if options.threads:
            context.thread_count = options.threads
        context.flags |= av.codec.context.Flags.frame_duration  # the last frame's, too
        context.flags |= av.codec.context.Flags.global_header  # as all of CONTAINERS want it
        context.color_range = range_of(first)
        context.colorspace = source.colorspace
        context.color_primaries = source.color_primaries
        context.color_trc = source.color_trc
        if first.format.is_rgb and not stream.format.is_rgb:
            context.colorspace, context.color_range = matrix_of(first), ColorRange.MPEG
        elif self._size != (first.width, first.height):
            context.colorspace = matrix_of(first)  # unsaid, players would go by the new size
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
        if self._source.matrix is not None:
            stream.set_display_matrix(self._source.matrix)
        stream.metadata.update(self._source.stream.metadata)
        try:
            context.open()
        except (av.FFmpegError, ValueError) as error:
            said = ", ".join(f"{k}={v}" for k, v in settings.items())
            fits = _takes(name, first.format, self._size)
            hint = "" if fits else "; such an odd size needs yuv444p or libsvtav1"
            raise MediaError(
                f"{self.path}: {name} refuses {self._size[0]}x{self._size[1]} {pixel_format} "
                f"with {said or 'no settings'}{hint}"
            ) from error
        return stream

    def _pixel_format(self, name: str, wanted: str) -> str:
        """Return what the encoder calls the wanted pixel format.

        Raises:
            MediaError: There is no such video encoder, or it does not take the format.
        """
        formats = _formats_of(name)
        if formats is None:
            raise MediaError(f"{self.path}: there is no video encoder {name!r} here")
        plain = wanted.replace("yuvj", "yuv")  # the same with its full range said elsewhere
        if formats and wanted not in formats and plain not in formats:
            raise MediaError(
                f"{self.path}: {name} cannot encode {wanted}; choose one of these pixel formats: "
                f"{', '.join(formats)}"
            )
        return wanted if wanted in formats or not formats else plain

    def _add_copies(self, kind: str) -> None:
        video = video_stream(self._input, self._source.path)
        video.discard = av.stream.Discard.all  # not even read where the container has an index
        for stream in self._input.streams:
            if stream.type not in ("audio", "subtitle"):
                if stream.index != video.index:
                    log.warning(
                        "%s: its stream %d (%s) is left out",
                        *(self._source.path, stream.index, stream.type),
                    )
                continue
            if stream.codec_context is None:
                raise MediaError(
                    f"{self._source.path}: {stream.type} stream {stream.index} has an unknown codec"
                )
            try:
                copy = self._output.add_stream_from_template(stream, opaque=True)
            except ValueError as error:
                raise self._cannot_hold(stream.type, stream.codec_context.name) from error
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy

    def _cannot_hold(self, what: str, codec: str) -> MediaError:
        """Name the stream, its codec, the container, and containers that hold all streams."""
        copied = (s.codec_context for s in self._input.streams if s.type in ("audio", "subtitle"))
        wanted = {context.name for context in copied if context is not None}
        could = [suffix for suffix, kind in CONTAINERS.items() if wanted <= _codecs_of(kind)]
        advice = f"a name that ends in {' or '.join(could)} can" if could else "none can"
        return MediaError(
            f"{self.path}: a {self.path.suffix} file cannot hold {what} in {codec}; {advice}"
        )

    def _other_packets(self) -> Iterator[tuple[Fraction, Any]]:
        """Yield copied packets with the time in seconds by which they are due."""
        if not self._copies:
            return
        tb = self._source.time_base
        begin = self._shift * tb
        end = self._source.end
        packet: Any
        for packet in self._input.demux([self._input.streams[i] for i in self._copies]):
            if packet.size == 0 and packet.pts is None:
                continue
            base = packet.time_base
            time = (packet.pts if packet.pts is not None else packet.dts or 0) * base
            if self._shift and time < begin:
                continue
            if end is not None and time >= end:
                if time >= end + 10:  # no container interleaves its streams as loosely as that
                    return
                continue
            due = (packet.dts if packet.dts is not None else packet.pts or 0) * base - begin
            if self._shift:
                moved = round(begin / base)
                packet.pts = None if packet.pts is None else packet.pts - moved
                packet.dts = None if packet.dts is None else packet.dts - moved
            if packet.stream.type == "audio" and packet.pts is not None:
                # Sound is decoded in the order it is heard. MP4 writes only the dts of sound, so
                # a file in which the two differ would be moved.
                packet.dts = packet.pts
            packet.stream = self._copies[packet.stream.index]
            yield due, packet

    def write(self, marked: Marked) -> None:
        """Encode one frame, and copy the sound and subtitles that are due with it.

        Raises:
            TypeError: It carries no mark.
            MediaError: It cannot be encoded or written, for instance because the disk is full.
        """
        if not isinstance(marked, Marked):
            raise TypeError(f"a sink takes what provenance marked, not {type(marked).__name__}")
        frame = marked.frame
        decoded: av.VideoFrame = frame.origin
        same_size = sorted(frame.image.shape[:2]) == sorted((decoded.height, decoded.width))
        in_luma = veil.fits(decoded.format if same_size else self._video.format)
        if marked.veil is not None and not in_luma:  # for instance RGB: the pixels take it
            veil.add_to_image(frame.image, marked.veil)
            frame.dirty[:] = [Rect(0, 0, frame.image.shape[1], frame.image.shape[0])]
        if same_size:
            self._converter.write_back(frame.image, decoded, frame.dirty)
        else:
            decoded = self._converter.renew(frame.image, decoded, self._video.pix_fmt)
        if marked.veil is not None and in_luma:
            veil.add_to_luma(decoded, marked.veil, self._converter.orientation)
        if decoded.format.name != self._video.pix_fmt:
            decoded = self._converter.convert(decoded, self._video.pix_fmt)
        decoded.pict_type = 0  # else the encoder repeats the source's choice of I, P and B
        decoded.pts = (frame.pts or 0) - self._shift
        decoded.time_base = self._source.time_base
        self._written = ((frame.pts or 0) - self._shift) * self._source.time_base
        with self._named():
            self._mux(self._video.encode(decoded))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._copy_until(packet.dts * packet.time_base)
            self._output.mux_one(packet)

    def _copy_until(self, time: Fraction | None) -> None:
        while self._next is not None and (time is None or self._next[0] <= time):
            self._output.mux_one(self._next[1])
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            MediaError: The disk is full, or somebody else made the target meanwhile.
        """
        self._finish(None)

    def _finish(self, until: Fraction | None) -> None:
        try:
            with self._named():
                self._flush()
                self._copy_until(until)
                self._output.close()
        except BaseException:
            self.abort()
            raise
        self._input.close()
        self._done = True
        self._file.keep()

    def _flush(self) -> None:
        self._mux(self._video.encode(None))

    def abort(self, *, keep: bool = False) -> bool:
        """Stop early.

        Args:
            keep: Finish a playable file of the frames so far, if there is one.

        Returns:
            Whether there is a file under the target's name.
        """
        if self._done:
            return True
        if keep and self._written is not None:
            self._finish(self._written)
            return True
        self._done = True
        self._input.close()
        with suppress(AttributeError, av.FFmpegError):
            self._output.close()
        self._file.drop()
        return False

    def _named(self) -> Any:
        return _names_errors(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._done:
            self.close()
        elif kind is not None:
            self.abort()


def _formats_of(encoder: str) -> list[str] | None:
    """List the pixel formats an encoder takes (empty: it does not say); None if it is not here."""
    try:
        codec = av.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        return None
    return [f.name for f in codec.video_formats or ()] if codec.type == "video" else None


def _takes(encoder: str, pixel_format: av.VideoFormat, size: tuple[int, int]) -> bool:
    """Tell whether an encoder takes frames of this format, width and height."""
    formats, wanted = _formats_of(encoder) or [], pixel_format.name
    if wanted not in formats and wanted.replace("yuvj", "yuv") not in formats:
        return False
    odd = (pixel_format.chroma_width(2) == 1 and size[0] % 2) or (
        pixel_format.chroma_height(2) == 1 and size[1] % 2
    )
    return not (odd and encoder in ("libx264", "libx265"))


def _usual_encoder(kind: str, pixel_format: av.VideoFormat, size: tuple[int, int]) -> str:
    """Choose VP9 for WebM and H.264 for the others, or AV1 where those do not take the frames.

    Those are odd sizes with subsampled chroma, and 10 bits in WebM (wheels have VP9 in 8 bits).
    """
    usual = "libvpx-vp9" if kind == "webm" else "libx264"
    av1 = _takes("libsvtav1", pixel_format, size) and kind != "mov"
    if av1 and not _takes(usual, pixel_format, size):
        return "libsvtav1"
    return usual


def _movie_timescale(denominator: int, rates: list[int]) -> int:
    """Return ticks a second in which the starts of all tracks are whole, if 31 bits suffice."""
    exact = math.lcm(denominator, *rates)
    return exact if exact < 2**31 else denominator


def _codecs_of(kind: str) -> set[str]:
    with av.open(os.devnull, "w", format=kind) as container:
        return container.supported_codecs


@contextmanager
def _names_errors(path: Path) -> Iterator[None]:
    """Turn libav's errors into one that names the file."""
    try:
        yield
    except MediaError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error


Sink = ImageSink | VideoSink


def check_suffix(path: Path, source: Source) -> None:
    """Refuse a target that is the source, or whose suffix does not suit it.

    Raises:
        MediaError: It is or does.
    """
    if path.exists() and path.samefile(source.info.path):
        raise MediaError(f"{path}: is the input, too; choose another name for the output")
    suffix, wanted = path.suffix.lower(), source.info.kind
    suffixes = IMAGE_SUFFIXES if wanted == "image" else CONTAINERS
    if suffix not in suffixes:
        raise MediaError(
            f"{path}: the suffix {suffix!r} does not name a format for the {wanted} "
            f"{source.info.path.name}; use one of {', '.join(suffixes)}"
        )


def open_sink(
    path: Path | str,
    source: Source,
    *,
    options: SinkOptions | None = None,
    metadata: Mapping[str, str],
    overwrite: bool = False,
    size: tuple[int, int] | None = None,
    finish: Finish | None = None,
) -> Sink:
    """Open the output for what a source yields; by suffix, an image or a video container.

    Args:
        path: Target; it appears, whole, when the sink is closed.
        source: What is being changed; sound, subtitles, colour tags and timing come from it.
        options: Encoder, speed, quality and pixel format.
        metadata: From :func:`mien.provenance.metadata`; goes into the file.
        overwrite: Whether an existing file may be replaced.
        size: Width and height of the frames that will come, as displayed; None: the source's.
        finish: What is still to be done to the whole file before it takes its name.

    Raises:
        MediaError: See :class:`ImageSink` and :class:`VideoSink`; also if the target is the
            source, or the suffix does not suit it.
    """
    path, options = Path(path), options or SinkOptions()
    check_suffix(path, source)
    if isinstance(source, ImageSource):
        return ImageSink(
            path, source, options=options, metadata=metadata, overwrite=overwrite, finish=finish
        )
    return VideoSink(
        path,
        source,
        options=options,
        metadata=metadata,
        overwrite=overwrite,
        size=size,
        finish=finish,
    )
