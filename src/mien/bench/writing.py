"""The report as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mien.bench.report import page, plot
from mien.errors import MediaError, UsageError
from mien.media import Temporary

FILES: Final = ("bench.json", "bench.md", "bench.svg")


def prepare(folder: Path, *, overwrite: bool = False) -> None:
    """Make the folder, or refuse it before anything is measured.

    Raises:
        UsageError: It is a file, or has a report already and ``overwrite`` is not set.
        MediaError: It cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; the report goes into a folder")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise UsageError(
            f"{folder}: has a {there[0]} already; choose another folder or add --overwrite"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"{folder}: the folder cannot be made ({error.strerror})") from error


def write(
    report: dict[str, Any], folder: Path, changes: Sequence[str] = (), *, overwrite: bool = False
) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.svg``.

    Raises:
        MediaError: One of them cannot be written.
    """
    texts = (json.dumps(report, indent=2) + "\n", page(report, changes), plot(report))
    for name, text in zip(FILES, texts, strict=True):
        file = Temporary(folder / name, overwrite=overwrite)
        try:
            file.path.write_text(text, encoding="utf-8")
        except OSError as error:
            file.drop()
            raise MediaError(f"{folder / name}: cannot be written ({error.strerror})") from error
        file.keep()
