"""JPEG in memory: what live pictures travel as between processes and to browsers."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.images import header_size, too_many_scans
from mien.types import Image

QUALITY: Final = 85
"""On libjpeg's scale; a 720p frame takes about 100 kB."""


def encode_jpeg(image: Image, quality: int = QUALITY) -> bytes:
    """Encode ``(H, W, 3)`` uint8 RGB; colours are halved in both directions (4:2:0).

    Args:
        image: Not changed.
        quality: 1 to 100.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise MediaError(f"a picture of {image.shape[1]}x{image.shape[0]} cannot be made a JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, *, max_pixels: int) -> Image:
    """Decode a JPEG from a stranger as ``(H, W, 3)`` uint8 RGB.

    Raises:
        MediaError: It is no JPEG, is damaged, or has more than ``max_pixels``, which is checked
            before a pixel is decoded.
    """
    size = header_size(data, "jpeg") if data[:3] == b"\xff\xd8\xff" else None
    if size is None:
        raise MediaError("expected a picture as JPEG, and something else came")
    width, height = size
    if not 0 < width * height <= max_pixels:
        raise MediaError(f"a picture of {width}x{height} came, the limit is {max_pixels} pixels")
    if too_many_scans(data):
        raise MediaError("a JPEG of too many passes came")
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise MediaError(f"a damaged JPEG came ({error.err})") from error
    if image is None or image.size == 0:
        raise MediaError("a damaged JPEG came")
    if image.shape[0] * image.shape[1] > max_pixels:
        raise MediaError(f"a JPEG came that is larger than the {width}x{height} it declares")
    return np.ascontiguousarray(image)
