"""``mien verify``."""

# Commands import what is slow to import (OpenCV, PyAV, cryptography) themselves, so that help and
# messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mien.cli.options import Json, Quiet, Verbose
from mien.cli.terminal import Terminal

if TYPE_CHECKING:
    from mien.provenance.verifying import Verdict

LARGEST: Final = 4 << 30
"""Bytes that are taken from standard input."""


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Photos and videos; - is standard input.")
    ],
    seconds: Annotated[float, typer.Option(help="That one file may take.", min=1)] = 120.0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Say whether files carry the marks of synthetic media, and whether they were altered.

    Exit status, of several files the highest: 0 marked and intact, 1 marked but altered (or
    nothing proves that it was not), 2 no mark found, 3 could not be read.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api
        from mien.errors import MediaError
        from mien.provenance import Verdict

        verdicts = []
        for file in files:
            try:
                with _given(file) as path:
                    verdict = api.verify(path, seconds=seconds)
            except MediaError as error:
                verdict = Verdict(file, 3, f"could not be read: {error}")
            verdicts.append(verdict)
            if not as_json:
                _show(terminal, str(file), verdict)
        status = max(verdict.status for verdict in verdicts)
        if as_json:
            said = [v.as_dict() | {"file": str(f)} for v, f in zip(verdicts, files, strict=True)]
            terminal.print_json({"files": said, "exit_status": status})
        return status

    return terminal.run(work)


@contextmanager
def _given(file: Path) -> Iterator[Path]:
    """The file; standard input becomes one as long as it is needed."""
    from mien.errors import MediaError

    if str(file) != "-":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="mien-") as folder:
        path, taken = Path(folder) / "input", 0
        try:
            with path.open("wb") as copy:
                while block := sys.stdin.buffer.read(1 << 20):
                    taken += len(block)
                    if taken > LARGEST:
                        raise MediaError(f"standard input is longer than {LARGEST} bytes")
                    copy.write(block)
        except OSError as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"standard input cannot be kept ({error.strerror})") from error
        yield path


def _show(terminal: Terminal, name: str, verdict: Verdict) -> None:
    from mien.provenance.manifest import clean

    terminal.say(f"{clean(name)}: {verdict.text}")
    if verdict.status == 3:
        return
    manifest, mark, drawn = verdict.manifest, verdict.watermark, verdict.label
    said: str = manifest.state
    if manifest.state == "broken":
        said += f" ({manifest.reason})"
    elif manifest.state != "absent":
        where = "in the file" if manifest.where == "embedded" else "beside the file"
        said = f"intact, {where}, by {manifest.generator}"
    terminal.say(f"  manifest   {said}")
    if manifest.facts is not None:
        facts = manifest.facts
        over = f", person replaced: {facts.target_consent}" if facts.target_consent else ""
        terminal.say(f"  consent    {facts.consent}{over}")
        models = ", ".join(model for model, _ in facts.models)
        if models:
            terminal.say(f"  models     {models}")
    read = f"output {mark.output_id:08x}, version {mark.version}" if mark else "none"
    if mark is None and manifest.facts is not None:
        told = manifest.facts.watermark
        read += " found, though the manifest names one" if told else "; the manifest names none"
    terminal.say(f"  watermark  {read}")
    found = "none found" if drawn is None else f"{drawn.place}, {drawn.language}"
    terminal.say(f"  label      {found}")
    if verdict.words:
        words = verdict.words.get("mien_content") or verdict.words.get("digital_source_type", "")
        terminal.say(f"  metadata   {clean(words)}")
