"""A job in its folder: what was asked for, where the video is cut, and what is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from mien import media
from mien.errors import MediaError, UsageError

VERSION: Final = 1

SECONDS: Final = 8.0
"""Least length of a part: what is lost at worst, and what a part's first frames cost less than."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a video.

    Attributes:
        number: From 0.
        first: Time of its first frame in ticks.
        end: Time of the next part's first frame, None for the last.
    """

    number: int
    first: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job in its folder.

    Attributes:
        folder: Holds ``job.json``, ``tracks.npz`` and ``part-00000.npz`` and so on.
        target: The video.
        start: Seconds from which frames are wanted, None for the beginning.
        end: Seconds before which frames are wanted, None for the end.
        time_base: Seconds to a tick.
        cuts: Times in ticks at which parts begin, but for the first.
        output_id: Of the result, in every part's watermark.
    """

    folder: Path
    target: Path
    start: Fraction | None
    end: Fraction | None
    time_base: Fraction
    cuts: tuple[int, ...]
    output_id: str

    @property
    def tracks(self) -> Path:
        """The faces of the whole video; there once they were followed to the end."""
        return self.folder / "tracks.npz"

    def path(self, part: Part) -> Path:
        """Where a part's packets are once it is done."""
        return self.folder / f"part-{part.number:05d}.npz"

    def parts(self, first: int) -> list[Part]:
        """All parts.

        Args:
            first: Time of the job's first frame.
        """
        begins = [first, *(cut for cut in self.cuts if cut > first)]
        return [
            Part(n, begin, end)
            for n, (begin, end) in enumerate(zip(begins, [*begins[1:], None], strict=True))
        ]

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Those that are not done."""
        return [part for part in parts if not self.path(part).is_file()]

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(
    folder: Path,
    target: Path,
    asked: Mapping[str, str],
    *,
    output_id: str,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    seconds: float = SECONDS,
) -> Job:
    """Begin a job, or go on with the one in the folder.

    Args:
        folder: Of the job; made if it is not there.
        target: The video.
        asked: Whatever decides what the result looks like, by name; compared with what was asked
            for when the job was begun.
        output_id: For a new job.
        start: Seconds; frames before are left out.
        end: Seconds; frames from here on are left out.
        seconds: Least length of a part; 0 for one part only.

    Raises:
        UsageError: The job in the folder was asked for something else; says what differs.
        MediaError: The folder cannot be written, or the target not be read.
    """
    size = target.stat()
    said = {**asked, "target": f"{target.name} {size.st_size} {size.st_mtime_ns}"}
    about = folder / "job.json"
    if about.exists():
        return _known(about, target, said)
    with media.open_source(target, start=start, end=end) as source:
        if not isinstance(source, media.VideoSource):
            raise UsageError(f"{target}: is no video; only videos are made in parts")
        job = Job(
            folder,
            target,
            source.start,
            source.end,
            source.time_base,
            tuple(_cuts(source, media.key_times(target), seconds)) if seconds else (),
            output_id,
        )
    words = {
        "version": VERSION,
        "asked": said,
        "start": _text(job.start),
        "end": _text(job.end),
        "time_base": _text(job.time_base),
        "cuts": job.cuts,
        "output_id": job.output_id,
    }
    try:
        folder.mkdir(exist_ok=True)
        unfinished = about.with_suffix(".part")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(words, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(about)
    except OSError as error:
        raise MediaError(f"{folder}: cannot be written ({error.strerror})") from error
    return job


def _known(about: Path, target: Path, said: Mapping[str, str]) -> Job:
    try:
        words: dict[str, Any] = json.loads(about.read_text("utf-8"))
        if words["version"] != VERSION:
            raise UsageError(
                f"{about.parent}: the work in it was begun by another version of mien; remove it"
            )
        differ = [k for k in {**words["asked"], **said} if words["asked"].get(k) != said.get(k)]
        if differ:
            raise UsageError(
                f"{about.parent}: the work in it was begun with another {', '.join(sorted(differ))}"
                "; ask for the same again, or remove it to begin anew"
            )
        base = _fraction(words["time_base"])
        assert base is not None
        return Job(
            about.parent,
            target,
            _fraction(words["start"]),
            _fraction(words["end"]),
            base,
            tuple(int(cut) for cut in words["cuts"]),
            str(words["output_id"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AssertionError) as error:
        if isinstance(error, UsageError):
            raise
        raise MediaError(f"{about}: is damaged ({error}); remove {about.parent}") from error


def _cuts(source: media.VideoSource, keys: Sequence[int], seconds: float) -> list[int]:
    """Key frames at which to cut, each far enough from the last and from the end."""
    least = round(Fraction(seconds).limit_denominator(1000) / source.time_base)
    first, cuts = source.first.pts or 0, []
    end = None if source.end is None else int(source.end / source.time_base)
    last = first
    for key in keys:
        if key - last >= least and (end is None or key < end):
            cuts.append(key)
            last = key
    return cuts


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)


def _fraction(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(text)
