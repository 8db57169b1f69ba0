"""Footage without files: people who turn, sway and talk before a moving wall, as H.264."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np

from mien.bench import face
from mien.types import Floats, Image

FPS: Final = 30

MOST: Final = 8
"""Faces that are drawn at most."""

ROW: Final = 4
"""Faces beside each other at most."""

SIZE: Final = 0.4
"""Height of a face from hairline to chin in parts of the frame's; less where many share it."""


def meshes(width: int, height: int, faces: int, time: float) -> list[Floats]:
    """Where everybody is at a time, ``(478, 3)`` for each face.

    Args:
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.
        faces: How many people.
        time: In seconds.
    """
    rows = -(-faces // ROW)
    columns = -(-faces // rows)
    cell_width, cell_height = width / columns, height / rows
    tall = min(SIZE * cell_height, 0.68 * cell_width)
    out = []
    for i in range(faces):
        row, column = divmod(i, columns)
        phase = 1.3 * i
        # The last row may have fewer people; they stand in its middle.
        here = min(columns, faces - row * columns)
        x = (column + 0.5 + (columns - here) / 2) * cell_width
        x += 0.1 * tall * np.sin(0.9 * time + phase)
        y = (row + 0.45) * cell_height + 0.03 * tall * np.sin(2.3 * time + phase)
        talk = max(0.0, np.sin(0.7 * time + phase)) * (0.5 + 0.5 * np.sin(17 * time + phase))
        out.append(
            face.mesh(
                (float(x), float(y)),
                tall * (1 + 0.04 * np.sin(0.5 * time + phase)),
                roll=0.07 * float(np.sin(1.1 * time + phase)),
                yaw=0.28 * float(np.sin(1.6 * time + phase)),
                mouth=float(talk),
            )
        )
    return out


def pictures(width: int, height: int, faces: int, frames: int) -> Iterator[Image]:
    """Frames at 30 a second, ``(height, width, 3)`` uint8 RGB.

    A plain wall would cost a codec next to nothing, so this one has texture that moves and the
    grain of a camera.
    """
    drift = max(8, width // 16)
    wall = _wall(width + drift, height)
    rng = np.random.default_rng(1)
    margin = 32
    grain = rng.normal(8, 3, (height + margin, width + margin, 1))
    grain = np.repeat(np.clip(np.rint(grain), 0, 16).astype(np.uint8), 3, axis=2)
    for n in range(frames):
        time = n / FPS
        at = round(drift / 2 * (1 + np.sin(0.8 * time)))
        image = np.ascontiguousarray(wall[:, at : at + width])
        for i, points in enumerate(meshes(width, height, faces, time)):
            face.paint(image, points, face.PEOPLE[i % len(face.PEOPLE)])
        y, x = rng.integers(0, margin, 2)
        yield np.asarray(cv2.add(image, grain[y : y + height, x : x + width]), np.uint8)


def _wall(width: int, height: int) -> Image:
    """A textured background without anything that looks like a face."""
    shade = face.octaves(width, height, (3, 12, 60, 240), 5)[:, :, None]
    base = np.array((92, 104, 112), np.float32) + np.float32(22) * shade
    return np.clip(base, 0, 255).astype(np.uint8)


def write(path: Path, width: int, height: int, faces: int, frames: int) -> None:
    """Write the footage as a camera would: H.264, 4:2:0, a key frame every two seconds.

    Raises:
        OSError: The file cannot be written.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "20", "g": str(2 * FPS)}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_type = "AUTO"
        for n, picture in enumerate(pictures(width, height, faces, frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
