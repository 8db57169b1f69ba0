"""Which encoders the libraries behind PyAV have, and which of them this machine can open."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import av
import av.error

ENCODERS: Final = {
    "libx264": "H.264", "libx265": "HEVC", "libvpx-vp9": "VP9", "libsvtav1": "AV1",
    "h264_nvenc": "H.264", "hevc_nvenc": "HEVC", "av1_nvenc": "AV1",
    "h264_qsv": "H.264", "h264_vaapi": "H.264", "h264_amf": "H.264",
    "h264_videotoolbox": "H.264", "h264_v4l2m2m": "H.264",
}  # fmt: skip
"""Encoder → format; those on the processor come first."""


def encoders() -> dict[str, str]:
    """Encoder → ``usable``, or why not.

    Each is opened for a small picture. A driver may print or crash, so this is best asked in a
    process of its own.
    """
    return {name: _tried(name) for name in ENCODERS}


def _tried(name: str) -> str:
    if name not in av.codecs_available:
        return "not built in"
    try:
        context = av.CodecContext.create(name, "w")
        context.width, context.height = 256, 256  # type: ignore[attr-defined]
        context.pix_fmt = "nv12" if name.endswith("qsv") else "yuv420p"  # type: ignore[attr-defined]
        context.time_base = Fraction(1, 30)
        context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"does not open ({getattr(error, 'strerror', None) or error})"
    return "usable"


def versions() -> dict[str, str]:
    """Library → version, of those behind PyAV, and of PyAV."""
    return {"PyAV": av.__version__} | {
        name: ".".join(map(str, av.library_versions[name]))
        for name in ("libavcodec", "libavformat")
    }
