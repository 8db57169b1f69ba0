"""What a file is, what a sink shall make, and the one thing that a sink accepts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from mien.errors import MediaError
from mien.media.limits import check_regular
from mien.types import Floats, Frame

Kind = Literal["image", "video"]

IMAGE_SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
"""What images can be written as, by suffix."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is known of a file before it is read through.

    Attributes:
        path: The file.
        kind: ``image`` or ``video``.
        width: Pixels as displayed, after rotation.
        height: Pixels as displayed, after rotation.
        fps: Average frames a second; None for an image.
        frames: How many frames the file says it has, an estimate; None if it does not say.
        duration: Seconds, None for an image or where the file does not say.
        codec: For instance ``h264`` or ``png``.
        pixel_format: libav's name, for instance ``yuv420p10le``; ``rgb24`` for an image.
    """

    path: Path
    kind: Kind
    width: int
    height: int
    fps: Fraction | None = None
    frames: int | None = None
    duration: float | None = None
    codec: str = ""
    pixel_format: str = ""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """How the output is encoded.

    Attributes:
        encoder: libav's name (``libx264``, ``libx265``, ``libvpx-vp9``, ``libsvtav1``, ``ffv1``
            …); None takes the container's usual one. Ignored for images.
        preset: The encoder's speed setting; None takes ``veryfast`` for libx264 and a similar
            speed for the others.
        quality: CRF for video, 1..100 for JPEG and WebP; None takes a good one (x264: 20,
            JPEG: 95).
        pixel_format: libav's name; None keeps the source's.
        threads: Of the encoder; 0 leaves it to libav, which looks at the machine.
    """

    encoder: str | None = None
    preset: str | None = None
    quality: int | None = None
    pixel_format: str | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """A frame that carries its mark: the only thing that a sink accepts.

    :mod:`mien.provenance` alone makes these, so nothing leaves without a mark.

    Attributes:
        frame: The frame, label drawn and rectangle recorded.
        veil: The invisible watermark where it is not in the pixels yet: a coarse grid of changes
            of brightness, upright, in 8-bit levels, that the file sink adds to the luma of what
            was decoded (see :mod:`mien.media.veil`). None: it is in the pixels, or off.
    """

    frame: Frame
    veil: Floats | None = None


def image_format(head: bytes) -> str | None:
    """Name the image format that a file begins with: ``jpeg``, ``png``, ``webp``, ``bmp``."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "bmp"
    return None


def check_file(path: Path) -> bytes:
    """Return the first bytes of a file that can be read and is not empty.

    Raises:
        MediaError: It is missing, a folder, a pipe or a device, empty or unreadable.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise MediaError(f"{path}: is empty (zero bytes)")
    return head


def kind_of(path: Path | str) -> Kind:
    """Tell an image from anything else by content; whether the else is a video shows on opening.

    Raises:
        MediaError: The file is missing, a folder, empty or unreadable.
    """
    return "image" if image_format(check_file(Path(path))) else "video"


def list_images(folder: Path | str) -> list[Path]:
    """List the images of a folder by content, in order of name; hidden files are left out.

    Raises:
        MediaError: The folder is missing or unreadable, or no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder")
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read ({error.strerror})") from error
    return [path for path in files if _is_image(path)]


def _is_image(path: Path) -> bool:
    try:
        return kind_of(path) == "image"
    except MediaError:
        return False
