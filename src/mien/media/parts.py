"""A video made in parts: each encoded by itself, and joined without encoding anything again."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaError
from mien.media.info import Marked, SinkOptions
from mien.media.sink import CONTAINERS, VideoSink
from mien.media.source import VideoSource, open_input, video_stream

VERSION: Final = 1

LARGEST: Final = 1 << 32
"""Bytes that a part may have."""


def key_times(path: Path) -> list[int]:
    """Times of a video's key frames in ticks of its stream, growing; nothing is decoded.

    Raises:
        MediaError: The file cannot be read.
    """
    with open_input(path) as container:
        stream = video_stream(container, path)
        try:
            times = {
                packet.pts
                for packet in container.demux(stream)
                if packet.is_keyframe and packet.pts is not None and packet.size
            }
        except av.FFmpegError as error:
            raise MediaError(f"{path}: cannot be read to its end ({error.strerror})") from error
    return sorted(times)


class Packets(NamedTuple):
    """What an encoder made of one part of a video.

    Attributes:
        pts: ``(N,)`` int64, in ticks of the source's stream, in the order of decoding.
        duration: ``(N,)`` int64.
        key: ``(N,)`` bool, whether decoding can begin there.
        size: ``(N,)`` int64, bytes of each.
        data: ``(sum of sizes,)`` uint8.
        extra: What the encoder says once for all packets.
    """

    pts: NDArray[np.int64]
    duration: NDArray[np.int64]
    key: NDArray[np.bool_]
    size: NDArray[np.int64]
    data: NDArray[np.uint8]
    extra: bytes

    @property
    def delay(self) -> int:
        """By how many places frames are moved because others need them first."""
        rank = np.empty(len(self.pts), np.int64)
        rank[np.argsort(self.pts, kind="stable")] = np.arange(len(self.pts))
        return int(max(0, (np.arange(len(self.pts)) - rank).max(initial=0)))


_KINDS: Final = {"pts": "<i8", "duration": "<i8", "key": "|b1", "size": "<i8", "data": "|u1"}


def write_packets(path: Path, packets: Packets) -> None:
    """Write a part; it appears whole, under its name, and on the disk.

    Raises:
        MediaError: It cannot be written, for instance because the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            np.savez(
                file,
                **{name: getattr(packets, name) for name in _KINDS},
                extra=np.frombuffer(packets.extra, np.uint8),
                version=np.array(VERSION),
            )
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error


def read_packets(path: Path) -> Packets:
    """Read a part.

    Raises:
        MediaError: It is missing or damaged.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise MediaError(f"{path}: has more than {LARGEST} bytes")
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if int(file["version"]) != VERSION:
                raise MediaError(f"{path}: is of version {file['version']}, expected {VERSION}")
            read = {name: file[name] for name in _KINDS}
            extra = file["extra"].tobytes()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: is no part of a video, or is damaged ({error})") from error
    packets = Packets(**read, extra=extra)
    count = len(packets.pts)
    fits = all(
        read[name].dtype.str == kind and read[name].ndim == 1 for name, kind in _KINDS.items()
    )
    same = {len(read[name]) for name in ("pts", "duration", "key", "size")} == {count}
    if not (fits and same and count and (packets.size > 0).all()
            and packets.size.sum() == len(packets.data)):  # fmt: skip
        raise MediaError(f"{path}: is damaged: its packets do not go together")
    return packets


class PartSink(VideoSink):
    """Encodes one part of a video, as :class:`VideoSink` does the whole, into packets.

    Frames before the part, which only let what is remembered from frame to frame settle, are
    taken and left out.
    """

    def __init__(
        self,
        path: Path,
        source: VideoSource,
        *,
        target: Path,
        first: int,
        options: SinkOptions,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Open the encoder.

        Args:
            path: Of the packets.
            source: Of the part and what comes before it.
            target: What is made in the end; its name says the container.
            first: Time of the part's first frame, in ticks.
            options: As for the whole.
            size: As for the whole.

        Raises:
            MediaError: See :class:`VideoSink`.
        """
        self._kind, self._first = CONTAINERS[target.suffix.lower()], first
        self._made: list[Any] = []
        super().__init__(path, source, options=options, metadata={}, overwrite=True, size=size)
        self._shift = 0

    def _open(self, options: SinkOptions, metadata: dict[str, str]) -> None:
        self._output = av.open(os.devnull, "w", format="null")
        self._video = self._add_video(self._kind, options)
        self._next = None

    def write(self, marked: Marked) -> None:
        """Encode one frame, if it is of the part."""
        if (marked.frame.pts or 0) >= self._first:
            super().write(marked)

    def _mux(self, packets: list[Any]) -> None:
        self._made += packets

    def close(self) -> None:
        """Write the part.

        Raises:
            MediaError: There is no frame in it, or it cannot be written.
        """
        with self._named():
            self._made += self._video.encode(None)
        made, context = self._made, self._video.codec_context
        self.abort()
        self._done = True
        if not made:
            raise MediaError(f"{self.path}: no frame of the video is in this part")
        base = self._source.time_base

        def ticks(value: int | None, packet: Any) -> int:
            return round((value or 0) * Fraction(packet.time_base) / base)

        write_packets(
            self.path,
            Packets(
                np.array([ticks(p.pts, p) for p in made], np.int64),
                np.array([ticks(p.duration, p) for p in made], np.int64),
                np.array([p.is_keyframe for p in made], bool),
                np.array([p.size for p in made], np.int64),
                np.frombuffer(b"".join(bytes(p) for p in made), np.uint8),
                bytes(context.extradata or b""),
            ),
        )


class JoinSink(VideoSink):
    """Puts parts together, with everything around them as :class:`VideoSink` has it."""

    def join(self, parts: Sequence[Path]) -> int:
        """Write all parts in order, with the sound that is due.

        Returns:
            How many frames were written.

        Raises:
            MediaError: A part is missing, damaged, of another encoder, or not in its place.
        """
        times: list[NDArray[np.int64]] = []
        delay = 0
        for path in parts:  # the packets themselves are read one part at a time
            packets = read_packets(path)
            if packets.extra != bytes(self._video.codec_context.extradata or b""):
                raise MediaError(f"{path}: was encoded otherwise; begin anew")
            if times and packets.pts.min() <= times[-1].max():
                raise MediaError(f"{path}: does not come after the part before it")
            times.append(packets.pts)
            delay = max(delay, packets.delay)
        shown = np.sort(np.concatenate(times)) - self._shift
        step = int(shown[1] - shown[0]) if len(shown) > 1 else 1
        early = shown[0] - step * np.arange(delay, 0, -1)
        due = np.concatenate([early, shown])  # of each packet, in the order of decoding
        number = 0
        for path in parts:
            packets = read_packets(path)
            ends = np.cumsum(packets.size)
            for n, end in enumerate(ends):
                packet: Any = av.Packet(packets.data[end - packets.size[n] : end].tobytes())
                packet.pts, packet.dts = int(packets.pts[n]) - self._shift, int(due[number])
                packet.duration = int(packets.duration[n])
                packet.time_base = self._source.time_base
                packet.is_keyframe = bool(packets.key[n])
                packet.stream = self._video
                with self._named():
                    self._mux([packet])
                number += 1
        return number

    def _flush(self) -> None:
        """The encoder was never used: its packets came from others."""
