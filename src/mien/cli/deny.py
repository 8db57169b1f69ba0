"""``mien deny``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.options import Json, Overwrite, Quiet, Verbose, which_of
from mien.cli.terminal import Terminal
from mien.errors import UsageError

app = typer.Typer(
    name="deny",
    help="People who must not be used as a source or replaced as a target.",
    no_args_is_help=True,
)


@app.command()
def add(  # noqa: PLR0917
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO…", help="Of one person.")],
    role: Annotated[str, typer.Option(help="source, target or both.")] = "both",
    note: Annotated[str, typer.Option(help="For yourself; no name is needed.")] = "",
    face: Annotated[
        str | None, typer.Option(help="Which face: largest, left, right, number from left.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Put a person on the list. An embedding is kept, no photo."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        if role not in ("source", "target", "both"):
            raise UsageError(f"--role {role!r} is unknown; known are source, target, both")
        missing = [p for p in photos if not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        entry = api.deny_person(
            photos,
            role,  # type: ignore[arg-type]
            note=note,
            which=which_of(face, "--source-face"),
        )
        if as_json:
            terminal.print_json({"id": entry.id, "role": entry.role, "note": entry.note})
        terminal.say(f"{entry.id}: {entry.role}")
        return 0

    return terminal.run(work)


@app.command("list")
def list_entries(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Show who is on the list, by id; of whom, only the note tells."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import policy

        entries = policy.load().denied.entries
        if as_json:
            terminal.print_json(
                {
                    "entries": [
                        {"id": e.id, "role": e.role, "note": e.note, "added": e.added,
                         "signer": e.signer}
                        for e in entries
                    ]
                }
            )  # fmt: skip
        for e in entries:
            words = (e.id, e.role, e.added, f"of {e.signer}" if e.signer else "", e.note)
            terminal.say("  ".join(word for word in words if word))
        if not entries:
            terminal.say("nobody is on the list")
        return 0

    return terminal.run(work)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="As 'mien deny list' shows it.")],
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Take an entry of your own off the list."""
    terminal = Terminal(quiet, verbose)

    def work() -> int:
        from mien import api

        api.allow_person(name)
        terminal.say(f"{name}: removed")
        return 0

    return terminal.run(work)


@app.command()
def export(  # noqa: PLR0917
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list to be made.")],
    sign: Annotated[
        bool, typer.Option("--sign/--no-sign", help="Unsigned lists nobody imports.")
    ] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Write your own entries as a signed list for others. It holds biometric data."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        key = api.export_denied(file, sign=sign, overwrite=overwrite)
        if as_json:
            terminal.print_json({"file": str(file), "key": key or None})
        terminal.say(f"{file}: written")
        if key:
            terminal.say(f'those who import it put this under [deny.keys]: NAME = "{key}"')
        return 0

    return terminal.run(work)


@app.command("import")
def import_list(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed list.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Take a list that a key of policy.toml signed; it replaces the signer's earlier one."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        name, count = api.import_denied(file)
        if as_json:
            terminal.print_json({"signer": name, "entries": count})
        terminal.say(f"{count} entries of {name}")
        return 0

    return terminal.run(work)
