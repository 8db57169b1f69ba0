"""Encoding as frames come: into a file, or to whoever watches over the network."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mien.errors import MediaError, MienError, UsageError
from mien.media.info import Marked, SinkOptions
from mien.media.sink import CONTAINERS, Finish, Temporary
from mien.media.sound import PATIENCE, RATE, Samples, Sound, place

log = logging.getLogger(__name__)

CLOCK: Final = Fraction(1, 90_000)
"""Seconds to a tick of the timestamps."""

STREAMS: Final = {"udp": "mpegts", "tcp": "mpegts", "rtmp": "flv", "rtmps": "flv"}
"""Scheme of an address → libav's container for it."""


def check_target(target: str, *, overwrite: bool = False) -> None:
    """See whether frames could be written there, before anything is loaded.

    Raises:
        UsageError: It is neither a video file nor an address of a kind that is known.
        MediaError: The file exists already.
    """
    scheme = _scheme(target)
    if scheme:
        if scheme not in STREAMS:
            known = ", ".join(f"{s}://" for s in STREAMS)
            raise UsageError(f"{target}: cannot stream to {scheme}://; known are {known}")
        return
    path = Path(target)
    if path.suffix.lower() not in CONTAINERS or path.suffix.lower() == ".webm":
        known = ", ".join(suffix for suffix in CONTAINERS if suffix != ".webm")
        raise UsageError(
            f"{target}: expected window, virtual, a file that ends in {known}, or udp:// or rtmp://"
        )
    if path.exists() and not overwrite:
        raise MediaError(f"{target}: exists already and would be overwritten")


def _scheme(target: str) -> str:
    found = re.match(r"([a-z][a-z0-9]+)://", target)
    return found[1] if found else ""


class LiveSink:
    """Encodes each frame at once, with the time at which it was taken.

    H.264 without look-ahead and without B frames: what goes in comes out with the same call, so
    that the time of :meth:`write` includes encoding and muxing. A file takes its name when it is
    closed.
    """

    def __init__(
        self,
        target: str,
        size: tuple[int, int],
        fps: float,
        *,
        metadata: Mapping[str, str],
        options: SinkOptions | None = None,
        overwrite: bool = False,
        sound: Sound | None = None,
        finish: Finish | None = None,
    ) -> None:
        """Open the encoder, and the file or the connection.

        Args:
            target: A file (``.mp4``, ``.m4v``, ``.mov``, ``.mkv``), ``udp://…``, ``tcp://…`` or
                ``rtmp://…``.
            size: Width and height, even.
            fps: About how many frames will come in a second.
            metadata: From :func:`mien.provenance.metadata`; goes into the container.
            options: Encoder, speed and quality.
            overwrite: Whether an existing file may be replaced.
            sound: What is heard, encoded as AAC up to the time of the last frame; None for none.
            finish: What is still to be done to a whole file before it takes its name.

        Raises:
            UsageError: See :func:`check_target`.
            MediaError: The file cannot be written, nobody answers, or the encoder refuses.
        """
        check_target(target, overwrite=overwrite)
        self.target = target
        options = options or SinkOptions()
        scheme = _scheme(target)
        self._file = (
            None
            if scheme
            else Temporary(Path(target), overwrite=overwrite, finish=finish, spare=True)
        )
        kind = STREAMS[scheme] if scheme else CONTAINERS[Path(target).suffix.lower()]
        where = str(self._file.path) if self._file else _address(target)
        self._kind, self._metadata = kind, dict(metadata)
        extra: dict[str, str] = {}
        if kind in ("mp4", "mov"):
            # Written in fragments, which are made one index at the end: on a full disk what was
            # written until then can be played.
            extra = {"movflags": "use_metadata_tags+frag_keyframe+hybrid_fragmented"}
        if scheme:
            extra = {"flush_packets": "1"}
        if scheme in ("tcp", "rtmp", "rtmps"):
            extra["rw_timeout"] = "5000000"  # who does not read holds nobody for longer
        self._first: float | None = None
        self._last = -1
        self._swscale = VideoReformatter()
        self._output: Any = None
        self._sound, self._audio = sound, None
        self._heard = 0  # number of the sample after the last one that was read
        self._pending: Samples = np.zeros((0, 2), np.float32)
        self._encoded = 0
        self._interval = 1 / fps
        try:
            self._output = av.open(where, "w", format=kind, container_options=extra, timeout=5.0)
            self._output.metadata.update(metadata)
            self._stream = self._add(options, size, fps, streamed=bool(scheme))
            if sound is not None:
                self._audio = self._add_audio()
            self._output.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._drop()
            if isinstance(error, MediaError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{target}: cannot be written ({reason})") from error

    def _add(
        self, options: SinkOptions, size: tuple[int, int], fps: float, *, streamed: bool
    ) -> Any:
        name = options.encoder or "libx264"
        settings: dict[str, str] = {}
        if name == "libx264":
            settings = {"preset": "ultrafast", "tune": "zerolatency", "crf": "21"}
        if options.preset is not None:
            settings["preset"] = options.preset
        if options.quality is not None:
            settings["crf"] = str(options.quality)
        if streamed and name == "libx264":
            settings |= {"maxrate": "6M", "bufsize": "3M"}
        stream: Any = self._output.add_stream(
            name,
            rate=Fraction(fps).limit_denominator(1001),
            options=settings,
            width=size[0],
            height=size[1],
            time_base=CLOCK,
        )
        stream.pix_fmt = options.pixel_format or "yuv420p"
        context = stream.codec_context
        context.gop_size = round(2 * fps)  # who tunes in waits two seconds at most
        context.max_b_frames = 0
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.open()
        return stream

    def _add_audio(self) -> Any:
        stream = self._output.add_stream("aac", rate=RATE, layout="stereo")
        stream.bit_rate = 128_000
        stream.time_base = Fraction(1, RATE)
        stream.codec_context.open()
        return stream

    def _hear(self, until: float, *, end: bool = False) -> None:
        """Encode what was heard up to a time; what is late for long is silence.

        Args:
            until: Seconds.
            end: Nothing more will come.
        """
        sound = self._sound
        if sound is None or self._audio is None:
            return
        to = min(place(until), max(sound.newest, place(until - PATIENCE)))
        if to > self._heard:
            self._pending = np.concatenate([self._pending, sound.read(self._heard, to)])
            self._heard = to
        size = self._audio.codec_context.frame_size or 1024
        while len(self._pending) >= size or (end and len(self._pending)):
            block, self._pending = self._pending[:size], self._pending[size:]
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(block.T), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = self._encoded
            self._encoded += len(block)
            for packet in self._audio.encode(frame):
                self._output.mux_one(packet)

    def write(self, marked: Marked, taken: float) -> None:
        """Encode and send one frame.

        Args:
            marked: Read only.
            taken: Seconds on a clock that does not go back.

        Raises:
            TypeError: It carries no mark.
            MediaError: It cannot be written, or the connection is gone.
        """
        if not isinstance(marked, Marked):
            raise TypeError(f"a sink takes what provenance marked, not {type(marked).__name__}")
        if self._first is None:
            self._first = taken
            if self._audio is not None:
                # The encoder begins with a packet of its own, before the first sample; sound from
                # behind it on keeps the picture's first timestamp at zero.
                self._encoded = self._audio.codec_context.frame_size
                self._heard = place(taken) + self._encoded
        made = self._swscale.reformat(
            av.VideoFrame.from_numpy_buffer(marked.frame.image, "rgb24"),
            format=self._stream.pix_fmt,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        made.pts = self._last = max(self._last + 1, round((taken - self._first) / CLOCK))
        made.time_base = CLOCK
        try:
            self._hear(taken)
            for packet in self._stream.encode(made):
                self._output.mux_one(packet)
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Any) -> MediaError:
        reason = getattr(error, "strerror", None) or error
        return MediaError(f"{self.target}: cannot be written ({reason})")

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Finish, and give a file its name. On a full disk a file is kept as far as it goes.

        Args:
            metadata: Instead of what the file was opened with, if that has changed since; the
                file is copied once for it. Nothing for a stream.

        Raises:
            MediaError: The disk is full, or the connection is gone.
        """
        if self._output is None:
            return
        if self._first is None:
            self._drop()
            return
        try:
            self._hear(self._first + float(self._last * CLOCK) + self._interval, end=True)
            for stream in (self._audio, self._stream):
                for packet in stream.encode(None) if stream is not None else ():
                    self._output.mux_one(packet)
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            self._rescue()
            raise self._failed(error) from error
        self._output = None
        if self._file is None:
            return
        if metadata is not None and dict(metadata) != self._metadata:
            try:
                _retag(self._file.path, self._kind, metadata)
            except (av.FFmpegError, OSError) as error:
                # What it says of itself would be wrong, so it is not kept.
                self._file.drop()
                raise self._failed(error) from error
        self._file.keep()

    def _rescue(self) -> None:
        """Keep a file that could not be finished as far as it can be played."""
        output, self._output = self._output, None
        with suppress(av.FFmpegError, OSError):
            output.close()
        if self._file is None:
            return
        try:
            with av.open(str(self._file.path)) as container:
                next(container.decode(video=0))
                seconds = max((p.pts * p.time_base for p in container.demux() if p.pts), default=0)
        except (av.FFmpegError, OSError, IndexError, StopIteration):
            self._file.drop()
            return
        try:
            self._file.keep()
        except MienError as error:  # it says where the file lies; what broke first is raised
            log.warning("%s", error)
        else:
            log.warning("%s: kept, %.0f s of it can be played", self.target, seconds)

    def _drop(self) -> None:
        if self._output is not None:
            with suppress(av.FFmpegError, OSError):
                if self._file is not None and self._first is None and self._output.streams.video:
                    self._blank()
                self._output.close()
            self._output = None
        if self._file is not None:
            self._file.drop()

    def _blank(self) -> None:
        """Write one frame: libav crashes where a file in fragments is closed without a packet."""
        stream = self._output.streams.video[0]
        frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
        frame.pts, frame.time_base = 0, CLOCK
        for packet in (*stream.encode(frame), *stream.encode(None)):
            self._output.mux_one(packet)


def _retag(path: Path, kind: str, metadata: Mapping[str, str]) -> None:
    """Copy a file with other metadata, packet by packet."""
    made = path.with_name(f"{path.name}.tags")
    extra = {"movflags": "use_metadata_tags"} if kind in ("mp4", "mov") else {}
    try:
        with (
            av.open(str(path)) as source,
            av.open(str(made), "w", format=kind, container_options=extra) as output,
        ):
            output.metadata.update(metadata)
            streams = {s.index: output.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    output.mux_one(packet)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _address(target: str) -> str:
    """Packets of MPEG-TS that fill a datagram without being split."""
    if target.startswith("udp://") and "pkt_size" not in target:
        return f"{target}{'&' if '?' in target else '?'}pkt_size=1316"
    return target
