"""What can be said of a target before any work: whether it is one, and whether it may be that."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from mien import config, media
from mien.errors import MediaError, UsageError
from mien.service.settings import ServiceSettings

Kind = Literal["video", "image"]

VIDEOS: Final = {"mp4": ".mp4", "mov": ".mov"}
PICTURES: Final = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
"""Formats of results: those that hold their manifest."""


def limits_of(settings: ServiceSettings, chain: config.Settings) -> media.Limits:
    """What files may ask for: the smaller of what service and chain allow."""
    own, other = settings.limits, chain.limits
    return replace(
        other,
        pixels=min(own.pixels, other.pixels),
        frame_pixels=min(own.frame_pixels, other.frame_pixels),
        frames=min(own.frames, other.frames),
        photo_bytes=min(own.photo_bytes, other.photo_bytes),
        video_bytes=min(own.body_bytes, other.video_bytes),
    )


def suffix_of(path: Path, kind: Kind, format: str | None) -> str:
    """Of the result: as asked for, or that of the target where results can have it.

    Raises:
        UsageError: The format is none for that.
    """
    known = VIDEOS if kind == "video" else PICTURES
    if format:
        if format not in known:
            raise UsageError(f"format: {kind}s can be {', '.join(known)}, not {format}")
        return known[format]
    suffix = path.suffix.lower().replace(".jpeg", ".jpg")
    return suffix if suffix in known.values() else (".mp4" if kind == "video" else ".png")


def examine(
    path: Path,
    work: Path,
    limits: media.Limits,
    seconds: float,
    *,
    format: str | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Kind:
    """Look at a target.

    Args:
        path: Of it.
        work: A folder in which nothing is left.
        limits: For files.
        seconds: Of a video.
        format: Of the result.
        start: Seconds.
        end: Seconds.

    Raises:
        MediaError: It is none, is cut off, is too large, or its result could not hold its sound.
        UsageError: What was asked for does not go with it.
    """
    kind = media.kind_of(path)
    output = work / f"examined{suffix_of(path, kind, format)}"
    if kind == "image":
        if start is not None or end is not None:
            raise UsageError(f"{path}: is a photo; start and end are for videos")
        media.read_image(path, max_pixels=limits.pixels)
        return kind
    with media.open_source(path, start=start, end=end, limits=limits) as source:
        long = source.info.duration or 0.0
        if not math.isfinite(long) or long > seconds:
            raise MediaError(f"{path}: is {long:.0f} s long, {seconds:.0f} s are allowed")
        if (source.info.frames or 0) > limits.frames:
            raise MediaError(
                f"{path}: has {source.info.frames} frames, {limits.frames} are allowed"
            )
        # Whether the container holds sound and subtitles is known now, not in the end.
        media.open_sink(output, source, metadata={}).abort()
    return kind
