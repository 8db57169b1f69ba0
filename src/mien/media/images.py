"""Still pictures: size check before decoding, decoding, encoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.info import check_file, image_format
from mien.media.limits import MAX_PIXELS, USUAL, check_bytes, check_size
from mien.types import Image

SCANS: Final = 100
"""Passes of a progressive JPEG; encoders make about ten, and a pass may cost only 20 bytes."""

_PLAIN = {0x01, *range(0xD0, 0xD8)}
"""JPEG's markers without a content (ITU-T T.81, table B.1)."""


@dataclass(frozen=True, slots=True)
class Still:
    """A decoded image and what goes back into its output besides the RGB pixels.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, upright.
        alpha: ``(H, W)`` uint8 or None.
        icc: The RGB colour profile as it was embedded, or None.
        format: ``jpeg``, ``png``, ``webp`` or ``bmp``.
    """

    image: Image
    alpha: Image | None = None
    icc: bytes | None = None
    format: str = ""


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read a JPEG, PNG, WebP or BMP as upright ``(H, W, 3)`` uint8 RGB.

    EXIF orientation is honoured; grey becomes RGB, 16 bits become 8, alpha is left out.

    Raises:
        MediaError: The file is missing, a folder, empty, no image, damaged, cut off, or larger
            than ``max_pixels``, which is checked before any pixel is decoded.
    """
    return read_still(Path(path), max_pixels=max_pixels).image


def read_still(
    path: Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = USUAL.photo_bytes
) -> Still:
    """Read an image with its alpha and colour profile; see :func:`read_image` for errors."""
    kind = image_format(check_file(path))
    if kind is None:
        raise MediaError(f"{path}: is not a JPEG, PNG, WebP or BMP image")
    check_bytes(path, max_bytes)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    size = header_size(data, kind)
    if size is None or _cut_off(data, kind):
        raise MediaError(f"{path}: the {kind.upper()} image is damaged or cut off")
    check_size(path, *size, max_pixels)
    if kind == "jpeg" and too_many_scans(data):
        raise MediaError(f"{path}: the JPEG image comes in more than {SCANS} passes")
    try:
        image, kinds, chunks = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), flags=cv2.IMREAD_COLOR_RGB
        )
    except cv2.error as error:
        raise MediaError(f"{path}: the {kind.upper()} image is damaged ({error.err})") from error
    if image is None or image.size == 0:
        raise MediaError(f"{path}: the {kind.upper()} image is damaged")
    if sorted(image.shape[:2]) != sorted(size):
        raise MediaError(f"{path}: the {kind.upper()} image has another size than it declares")
    found = [c for k, c in zip(kinds, chunks, strict=False) if k == cv2.IMAGE_METADATA_ICCP]
    icc = np.asarray(found[0], np.uint8).tobytes() if found else b""
    return Still(
        np.ascontiguousarray(image),
        _alpha(data, image.shape[:2]) if kind in ("png", "webp") else None,
        icc if icc[16:20] == b"RGB " else None,  # a grey or CMYK profile does not fit the output
        kind,
    )


def _alpha(data: bytes, shape: tuple[int, int]) -> Image | None:
    raw: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.ndim != 3 or raw.shape[2] != 4 or raw.shape[:2] != shape:
        return None
    alpha = raw[:, :, 3]
    return np.ascontiguousarray(alpha if alpha.dtype == np.uint8 else (alpha >> 8).astype(np.uint8))


def header_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """Read width and height, as stored, from an image's header; None where it is damaged."""
    readers = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size, "bmp": _bmp_size}
    try:
        return readers[kind](data)
    except IndexError:
        return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 26:
        return None
    if data[14:18] == b"\x0c\0\0\0":  # the oldest header has sizes of two bytes
        return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
    width = int.from_bytes(data[18:22], "little", signed=True)
    return abs(width), abs(int.from_bytes(data[22:26], "little", signed=True))


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Read the canvas of a WebP file (RFC 9649)."""
    if data[12:16] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return width, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        return width, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, body in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame headers
            return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment before the scan (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        if data[at + 1] in _PLAIN:
            at += 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + size]
        at += 2 + size


def too_many_scans(data: bytes) -> bool:
    """Tell a JPEG that is coded in so many passes over the picture that it never ends."""
    return data.count(b"\xff\xda") > SCANS


def _cut_off(data: bytes, kind: str) -> bool:
    """Tell whether the end is missing, which the decoders would fill with grey."""
    if kind == "jpeg":  # inside the scan 0xFF is always stuffed, so this is the real end marker
        return data.find(b"\xff\xd9", data.find(b"\xff\xda")) < 0
    if kind == "png":
        return not _ends(data)
    if kind == "webp":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return len(data) < int.from_bytes(data[2:6], "little")


def _ends(data: bytes) -> bool:
    """Walk a PNG to its end: OpenCV takes memory for the length that a chunk declares."""
    at = 8
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return at <= len(data)
    return False
