"""Clips made of the bundled photo, and mien as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mien import media

MEDIA = Path(__file__).resolve().parents[1] / "examples" / "media"
PORTRAIT = MEDIA / "portrait-1.jpg"
PHOTO = MEDIA / "photo.jpg"
MIEN = Path(sys.executable).with_name("mien")


def write_clip(path, pictures, *, fps=25, sound=True, options=None):
    """A video of RGB pictures with a tone of the same length."""
    with av.open(str(path), "w", options=options or {}) as output:
        video = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": "5"})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        tone = output.add_stream("aac", rate=16000) if sound else None
        for picture in pictures:
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(video.encode(None))
        if tone is not None:
            for start in range(0, 16000 * len(pictures) // fps, 1024):
                wave = np.sin((start + np.arange(1024)) * 0.17)[None].astype(np.float32) * 0.2
                block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                block.sample_rate, block.pts = 16000, start
                block.time_base = Fraction(1, 16000)
                output.mux(tone.encode(block))
            output.mux(tone.encode(None))
    return path


def pan(photo=PHOTO, frames=20, width=480, height=320):
    """The photo, seen through a window that moves to the right two pixels a frame."""
    image = media.read_image(photo)[::2, ::2]
    steps = [min(2 * i, image.shape[1] - width) for i in range(frames)]
    return [np.ascontiguousarray(image[:height, x : x + width]) for x in steps]


def noise(frames=10, width=160, height=120):
    """Pictures without a face."""
    gradient = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    return [
        np.ascontiguousarray(np.broadcast_to(np.roll(gradient, i, 1), (height, width, 3)))
        for i in range(frames)
    ]


def environment(**more):
    """The process's own, without settings of mien, but with the test's folder of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MIEN_") or k == "MIEN_HOME"}
    return kept | more


def mien(*arguments, cwd, **options):
    """Run the installed command to its end."""
    return subprocess.run(
        [MIEN, *map(str, arguments)],
        cwd=cwd,
        env=options.pop("env", None) or environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        **options,
    )


def listing(folder):
    """Every file below a folder, hidden ones too, with its bytes."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(Path(folder).rglob("*"))
    }
