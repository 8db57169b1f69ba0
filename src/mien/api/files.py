"""Which files: what a folder holds, which outputs can be, and who is told of progress."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mien import media
from mien.errors import MediaError, UsageError
from mien.media.info import IMAGE_SUFFIXES
from mien.media.sink import CONTAINERS

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with frames done and frames in all, None where the file does not say."""


FileProgress = Callable[[Path, int, int | None], None]
"""The same for one file of a folder."""


VIDEO_SUFFIXES: Final = {
    *(*CONTAINERS, ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".ogv")
}
"""Names that say video, as not every system's list of types knows them."""


def list_media(folder: Path | str) -> list[Path]:
    """Photos and videos of a folder in order of name; hidden files are left out.

    What is neither by its name nor an image by its content is left out, with a note in the log.

    Raises:
        MediaError: The folder cannot be read.
        UsageError: There is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder")
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read ({error.strerror})") from error
    images = set(media.list_images(folder))
    found = [p for p in files if p in images or _named_as_media(p)]
    for path in files:
        if path not in found:
            log.info("%s: is left out; it is no photo and no video by its name", path)
    if not found:
        raise UsageError(f"{folder}: has no photo and no video in it")
    return found


def _named_as_media(path: Path) -> bool:
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return kind in ("image", "video") or path.suffix.lower() in VIDEO_SUFFIXES


def is_still(path: Path) -> bool:
    """Whether a file is a photo; of what cannot be read its opening will say more."""
    try:
        return media.kind_of(path) == "image"
    except MediaError:
        return True


def output_names(targets: Sequence[Path]) -> dict[Path, str]:
    """The same name, or one whose suffix mien writes; no two the same."""
    taken = {t.name for t in targets}
    names = {}
    for target in targets:
        suffix, name = target.suffix.lower(), target.name
        if suffix not in IMAGE_SUFFIXES and suffix not in CONTAINERS:
            image = suffix == ".bmp" or (mimetypes.guess_type(name)[0] or "").startswith("image/")
            name = target.stem + (".png" if image else ".mkv")
            if name in taken:
                name = target.name + (".png" if image else ".mkv")
            taken.add(name)
        names[target] = name
    return names


def make_folder(path: Path) -> bool:
    """Make the folder if it is not there; says whether it was made."""
    if path.is_dir():
        return False
    if path.exists():
        raise UsageError(f"{path}: is a file; the target is a folder, so the output must be one")
    try:
        path.mkdir()
    except FileNotFoundError as error:
        raise MediaError(f"{path}: the folder {path.parent} does not exist") from error
    except OSError as error:
        raise MediaError(f"{path}: the folder cannot be made ({error.strerror})") from error
    return True


def check_output(inputs: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output that cannot be.

    Raises:
        UsageError: It is one of the inputs, a folder, or there already without ``overwrite``.
        MediaError: Its folder is missing.
    """
    if output.is_dir():
        raise UsageError(
            f"{output}: is a folder; the target is one file, so the output must be one"
        )
    if not output.parent.is_dir():
        raise MediaError(f"{output}: the folder {output.parent} does not exist")
    if output.exists():
        if any(p.exists() and output.samefile(p) for p in inputs):
            raise UsageError(f"{output}: is the input, too; choose another name for the output")
        if not overwrite:
            raise UsageError(f"{output}: exists already; choose another name or add --overwrite")


def open_part(
    target: Path, start: float | None, end: float | None, limits: media.Limits | None = None
) -> media.Source:
    """Open a target or a part of it.

    Raises:
        MediaError: It cannot be read.
        UsageError: A part of a photo was asked for.
    """
    source = media.open_source(target, start=start, end=end, limits=limits or media.Limits())
    if source.info.kind == "image" and not (start is None and end is None):
        source.close()
        raise UsageError(f"{target}: is a photo; start and end are for videos")
    return source


def with_total(progress: Progress | None, total: int | None) -> Callable[[int], None] | None:
    """The caller's progress in the form that the pipeline calls."""
    if progress is None:
        return None
    return lambda done: progress(done, total)


def for_file(progress: FileProgress | None, file: Path) -> Progress | None:
    """The caller's progress over a folder in the form for one file."""
    if progress is None:
        return None
    return lambda done, total: progress(file, done, total)
