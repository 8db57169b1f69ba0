"""What became of a target, and what is done with one in which nothing was swapped."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from mien import media
from mien.errors import MediaError, MienError
from mien.media.info import IMAGE_SUFFIXES
from mien.media.sink import CONTAINERS, Temporary
from mien.pipeline import Report
from mien.provenance import untouched
from mien.provenance.credentials import unsigned

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target.

    Attributes:
        target: The file.
        output: What was written, None if nothing was.
        report: Counts and times.
        copied: Nothing was swapped, and the target was copied through.
        earlier: The output was there from an earlier run.
        missing: Marks that are on and that the output is too small for; see
            :attr:`mien.provenance.Marker.missing`.
        error: Why it failed, in a folder; a single file raises instead.
    """

    target: Path
    output: Path | None
    report: Report = field(default_factory=Report)
    copied: bool = False
    earlier: bool = False
    missing: tuple[str, ...] = ()
    error: MienError | None = None


def copied_through(
    target: Path,
    output: Path,
    report: Report,
    *,
    options: media.SinkOptions | None = None,
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
) -> Result:
    """Copy a target in which nothing was swapped, and say why."""
    cause = "no face was found"
    if report.faceless < report.frames_in:
        cause = "none of the faces in it is the one that was asked for"
    log.warning("%s: %s; it was copied through unchanged", target, cause)
    _copy(target, output, options, start, end, overwrite=overwrite)
    return Result(target, output, report, copied=True)


def _copy(
    target: Path,
    output: Path,
    options: media.SinkOptions | None,
    start: float | None,
    end: float | None,
    *,
    overwrite: bool,
) -> None:
    """Copy a target in which nothing was swapped; without marks, since nothing was made."""
    formats = IMAGE_SUFFIXES | CONTAINERS
    same = formats.get(target.suffix.lower()) == formats.get(output.suffix.lower())
    if same and start is None and end is None:
        file = Temporary(output, overwrite=overwrite, finish=unsigned)
        try:
            shutil.copyfile(target, file.path)
            file.keep()
        except OSError as error:
            file.drop()
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{output}: cannot be written ({error.strerror})") from error
        except BaseException:
            file.drop()
            raise
        return
    # Another container or a part of it: decoded and encoded again. The label stays off, as it
    # would be untrue.
    with (
        media.open_source(target, start=start, end=end) as source,
        media.open_sink(
            *(output, source), options=options, metadata={}, overwrite=overwrite, finish=unsigned
        ) as sink,
    ):
        for marked in untouched(source):
            sink.write(marked)
