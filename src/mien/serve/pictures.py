"""What becomes of a finished frame on its way to browsers: a JPEG, and words on its faces."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from mien.errors import MediaError
from mien.landmarks import roll, yaw
from mien.live.types import Shown
from mien.media.jpeg import encode_jpeg
from mien.serve import protocol
from mien.types import Face, Image

FACES: Final = 16
"""Faces that are described, the first ones; each takes about 250 bytes."""


def message(shown: Shown, number: int, captured: int, *, quality: int, limit: int) -> bytes:
    """Encode a frame as a message of at most ``limit`` bytes.

    Args:
        shown: The frame.
        number: Of the frame, as whoever captured it counts.
        captured: Microseconds on the clock of whoever captured it.
        quality: Of the JPEG, 1 to 100; lower where it would be too large.
        limit: Bytes.

    Raises:
        MediaError: It is larger at any quality.
    """
    image = shown.marked.frame.image
    height, width = image.shape[:2]
    metadata = {"faces": [describe(face) for face in shown.faces[:FACES]]}
    jpeg = _fit(image, quality, limit - 8192)
    header = protocol.Header(
        number,
        captured,
        round((time.monotonic() - shown.taken) * 1e6),
        width,
        height,
        protocol.SWAPPED if shown.swapped else 0,
    )
    return protocol.pack(header, jpeg, metadata)


def _fit(image: Image, quality: int, limit: int) -> bytes:
    while len(data := encode_jpeg(image, quality)) > limit:
        quality -= 20
        if quality < 1:
            height, width = image.shape[:2]
            raise MediaError(f"a picture of {width}x{height} is too large for the page")
    return data


def describe(face: Face) -> dict[str, Any]:
    """What clients are told of a face: box, five points and pose, in pixels and degrees."""
    words: dict[str, Any] = {
        "box": _rounded(face.box),
        "points": _rounded(face.points),
        "score": round(float(face.score), 3),
    }
    if face.track is not None:
        words["track"] = face.track
    if face.mesh is not None:
        words["pose"] = {
            "yaw": round(float(np.degrees(yaw(face.mesh))), 1),
            "roll": round(float(np.degrees(roll(face.points))), 1),
        }
    return words


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), 1).tolist()
