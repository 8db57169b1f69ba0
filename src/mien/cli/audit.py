"""``mien audit``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli.options import Json, Quiet, Verbose
from mien.cli.terminal import Terminal
from mien.errors import UsageError

if TYPE_CHECKING:
    from mien.audit import AuditLog

app = typer.Typer(name="audit", help="The log of what was done.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Of a copy; default: your own log.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Default: the policy's.")
]


@app.command()
def show(  # noqa: PLR0917
    last: Annotated[int, typer.Option(metavar="N", help="Entries; 0 for all.", min=0)] = 20,
    event: Annotated[str | None, typer.Option(help="Only these: begin, made, refused …")] = None,
    head: Annotated[
        bool, typer.Option("--head", help="Number and hash of the last entry, to keep elsewhere.")
    ] = False,
    folder: Folder = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show the last entries, or the head."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        log = log_of(folder, None)
        if head:
            found = log.head()
            if found is None:
                raise UsageError(f"{log.folder}: has no audit log yet")
            print(json.dumps({"head": str(found)}) if as_json else found)
            return 0
        entries = deque(
            (e for e in log.entries() if event in (None, e["event"])), maxlen=last or None
        )
        if as_json:
            terminal.print_json({"entries": list(entries)})
        for entry in entries:
            said = {
                k: v for k, v in entry.items() if k not in ("n", "time", "event", "prev", "hash")
            }
            terminal.say(
                f"{entry['n']}  {entry['time']}  {entry['event']}  "
                f"{json.dumps(said, ensure_ascii=False)}"
            )
        return 0

    return terminal.run(work)


@app.command()
def verify(  # noqa: PLR0917
    head: Annotated[
        str | None, typer.Option(metavar="NUMBER:HASH", help="What 'show --head' said before.")
    ] = None,
    folder: Folder = None,
    key: KeyFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Follow the chain. Exit status 0: no break; 1: edited, inserted, moved, removed or cut off."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import audit
        from mien.cli.terminal import say

        anchor = None if head is None else audit.Head.of(head)
        found = log_of(folder, key).verify(anchor)
        for problem in found.problems:
            say(problem)
        if as_json:
            terminal.print_json(asdict(found) | {"sound": not found.problems})
        for note in found.notes:
            terminal.say(note)
        state = f"{len(found.problems)} breaks" if found.problems else "no break"
        terminal.say(f"{found.entries} entries in {len(found.files)} files, {state}")
        return 1 if found.problems else 0

    return terminal.run(work)


def log_of(folder: Path | None, key: Path | None) -> AuditLog:
    """The log of the policy in force, or a copy of one.

    Raises:
        UsageError: There is no such folder, or the key cannot be read.
    """
    from mien import audit, home, policy

    secret = b""
    if key is not None:
        if not key.is_file():
            raise UsageError(f"{key}: no such file")
        secret = key.read_bytes().strip()
    elif (log := policy.load().log()) is not None:
        secret = log.key
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return audit.AuditLog(home.place() if folder is None else folder, key=secret)
