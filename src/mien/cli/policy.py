"""``mien policy`` and ``mien notice``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.options import Json, Quiet, Verbose
from mien.cli.terminal import Terminal

if TYPE_CHECKING:
    from mien.policy import Policy

app = typer.Typer(name="policy", help="What the operator allows.", no_args_is_help=True)

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="Default: the one in force.")]


@app.command()
def show(
    file: File = None, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0
) -> int:
    """Show what is in force: the file's values, and the defaults of what it leaves out."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import policy

        read = policy.load(file)
        values = read.model_dump(mode="json")
        if as_json:
            terminal.print_json({"file": read.where if read.sha256 else None} | values)
            return 0
        terminal.say(f"# {read.where}")
        for line in as_toml(values):
            terminal.say(line)
        return 0

    return terminal.run(work)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Check a file: keys, values, the deny lists, classifiers and the key that it names."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import policy

        read = policy.load(file)
        counts = checked(read)
        if as_json:
            terminal.print_json({"file": read.where, "sha256": read.sha256} | counts)
        terminal.say(
            f"{read.where}: in order; {counts['denied']} people denied, "
            f"{counts['classifiers']} classifiers"
        )
        return 0

    return terminal.run(work)


def notice(quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Show what should be read before the first use."""
    terminal = Terminal(quiet, verbose)

    def work() -> int:
        from mien import notice as notice_
        from mien import policy

        print(notice_.text(policy.load().contact))
        return 0

    return terminal.run(work)


def checked(read: Policy) -> dict[str, Any]:
    """Read all that a policy names, and count it."""
    read.log()
    return {"denied": len(read.denied.entries), "classifiers": len(read.classifiers)}


def as_toml(values: dict[str, Any], table: str = "") -> list[str]:
    """Lines of TOML for the values of a policy; what is None is left out."""
    simple = {k: v for k, v in values.items() if not _is_table(v) and v is not None}
    lines = [f"{key} = {_toml(value)}" for key, value in simple.items()]
    for key, value in values.items():
        name = f"{table}.{key}" if table else key
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *as_toml(value, name)]
        elif _is_table(value):
            for each in value:
                lines += ["", f"[[{name}]]", *as_toml(each, name)]
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and lists are written alike
