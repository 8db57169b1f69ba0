"""What a picture or a video may ask for before it is read, and what of it is read at all.

Files come from strangers. libav knows about 350 containers; some are lists of other files or
addresses, which it would open, so only those that hold pictures themselves are taken, and nothing
but the named file is opened. What a file merely declares is checked before memory is given for it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from mien.errors import MediaError

MAX_PIXELS: Final = 100_000_000
"""Pictures with more pixels are refused before decoding; 100 megapixels are 300 MB as RGB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for files that are read and made; the table ``[limits]`` of the settings.

    Attributes:
        pixels: Of a photo.
        frame_pixels: Of a frame of a video; 8K has 33 million.
        output_pixels: Of a photo or a frame that an upscaler makes.
        photo_bytes: Length of a photo's file.
        video_bytes: Length of a video's file.
        frames: Of a video; 5 million are 46 hours at 30 a second.
        streams: Of a video, sound and subtitles included.
        metadata_bytes: Of all tags of a video.
        open_seconds: Within which a video must have shown what is in it.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    pixels: int = MAX_PIXELS
    frame_pixels: int = 67_108_864
    output_pixels: int = 134_217_728
    photo_bytes: int = 1 << 29
    video_bytes: int = 1 << 38
    frames: int = 5_000_000
    streams: int = 64
    metadata_bytes: int = 1 << 20
    open_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Every bound is above zero: none can be switched off by accident.

        Raises:
            ValueError: One is not.
        """
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be above 0")


USUAL: Final = Limits()

FORMATS: Final = ",".join((
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "live_flv",
    "ogg", "ivf", "h264", "hevc", "m4v", "h263", "h261", "obu", "av1", "vc1", "vvc", "mjpeg",
    "mjpeg_2000", "mxf", "nut", "dv", "gxf", "rm", "wtv", "yuv4mpegpipe", "gif", "apng", "ivr",
    "3dostr", "r3d", "cavsvideo", "dirac", "avs2", "avs3",
    "tiff_pipe", "jpegxl_pipe", "jpegxl_anim", "j2k_pipe", "gif_pipe", "ppm_pipe", "pgm_pipe",
    "webp_pipe", "webp", "qoi_pipe", "exr_pipe", "hdr_pipe",
    "mp3", "aac", "wav", "flac",  # so that a song is told that it has no picture
))  # fmt: skip
"""libav's readers that are used: none of them opens a second file by itself.

Left out are lists (``hls``, ``dash``, ``concat``, ``image2``, ``sdp``), devices, filters
(``lavfi``), subtitles, games' formats and readers that answer to any content.
"""

NETWORK: Final = (
    "http,https,httpproxy,tcp,tls,udp,udplite,rtp,srtp,rtmp,rtmps,rtmpt,srt,rist,crypto"
)
"""What the address of a stream may lead on to: a playlist from a server names no file of ours."""

WAITING: Final = 1024
"""Packets whose frame has not come; no codec holds back more than a few dozen."""

_LISTS: Final = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"[playlist]", b"v=0", b"# VobSub")
"""How files begin that name other files or addresses."""

_PARENTS: Final = {
    b"moov", b"hoov", b"free", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf",
    b"mvex", b"udta", b"dinf", b"tref", b"wave",
}  # fmt: skip
"""Boxes within which libav looks for others."""

_EDITS: Final = 4096
"""Entries of an MP4's edit list: libav copies the frames of each, so 12 bytes can ask for all."""
_BOXES: Final = 1_000_000
_DEEP: Final = 8


def check_regular(path: Path) -> int:
    """Length in bytes of a file that is one: no pipe, socket or device, which have no end.

    Raises:
        MediaError: It is missing, a folder, or something else than a file.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: cannot be read ({reason})") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{path}: is a folder, a file was expected")
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path}: is a pipe, a socket or a device, a file was expected")
    return found.st_size


def check_bytes(path: Path, most: int) -> None:
    """Refuse a file of more than ``most`` bytes.

    Raises:
        MediaError: It is larger, or no file.
    """
    size = check_regular(path)
    if size > most:
        raise MediaError(f"{path}: has {size} bytes, the limit is {most}")


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture of no pixels or of more than ``max_pixels``.

    Raises:
        MediaError: It is.
    """
    if width <= 0 or height <= 0:
        raise MediaError(f"{path}: has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise MediaError(
            f"{path}: {width}x{height} is {_mega(width * height)} megapixels, "
            f"the limit is {_mega(max_pixels)}"
        )


def check_output(path: Path, width: int, height: int, limits: Limits = USUAL) -> None:
    """Refuse to make a picture of more than ``limits.output_pixels``.

    Raises:
        MediaError: It would have more.
    """
    if width * height > limits.output_pixels:
        raise MediaError(
            f"{path}: would become {width}x{height}, {_mega(width * height)} megapixels, the "
            f"limit is {_mega(limits.output_pixels)} (limits.output_pixels); choose a smaller size"
        )


def _mega(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 1e7 else f"{pixels / 1e6:.3g}"


def check_container(path: Path, limits: Limits) -> None:
    """Refuse, before libav sees it, a file that names others or declares more than it holds.

    Raises:
        MediaError: It does.
    """
    check_bytes(path, limits.video_bytes)
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_LISTS):
                raise MediaError(f"{path}: is a list of other files; give the video itself")
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
                _check_boxes(path, file)
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error


def _check_boxes(path: Path, file: BinaryIO) -> None:
    """Walk the index of an MP4 or MOV (ISO/IEC 14496-12, clause 4.2)."""
    waiting, seen = [(0, file.seek(0, 2), 0)], 0
    while waiting:
        at, end, depth = waiting.pop()
        if depth > _DEEP:
            raise MediaError(f"{path}: has parts more than {_DEEP} deep")
        while at + 8 <= end:
            seen += 1
            if seen > _BOXES:
                raise MediaError(f"{path}: has more than {_BOXES} parts")
            file.seek(at)
            head = file.read(32)
            size, kind, first = int.from_bytes(head[:4], "big"), head[4:8], at + 8
            if size == 1:
                size, first = int.from_bytes(head[8:16], "big"), at + 16
            last = end if size == 0 else min(at + size, end)
            if last < first:  # libav says what is wrong with it
                break
            if kind == b"cmov":
                raise MediaError(f"{path}: its index is compressed, which is not taken")
            entries = int.from_bytes(head[first - at + 4 : first - at + 8], "big")
            if kind == b"elst" and entries > _EDITS:
                raise MediaError(f"{path}: has {entries} edits, the limit is {_EDITS}")
            if kind in _PARENTS:
                waiting.append((first, last, depth + 1))
            at = last


def check_streams(path: Path, container: Any, limits: Limits) -> None:
    """Refuse an opened video with too many streams or too much written into it.

    Raises:
        MediaError: It has.
    """
    if len(container.streams) > limits.streams:
        raise MediaError(
            f"{path}: has {len(container.streams)} streams, the limit is {limits.streams}"
        )
    tables = [container.metadata, *(stream.metadata for stream in container.streams)]
    said = sum(len(key) + len(value) for table in tables for key, value in table.items())
    if said > limits.metadata_bytes:
        raise MediaError(
            f"{path}: has {said} characters of metadata, the limit is {limits.metadata_bytes}"
        )
