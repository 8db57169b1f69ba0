"""``mien models quantize``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.options import (
    Config,
    Json,
    Licence,
    Models,
    Overwrite,
    Provider,
    Quiet,
    Threads,
    Verbose,
    settings_of,
    zoo_of,
)
from mien.cli.terminal import Terminal
from mien.errors import UsageError


def quantize(  # noqa: PLR0917
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of an fp32 model.")],
    to: Annotated[str, typer.Option(metavar="PRECISION", help="fp16 or int8.")],
    calibrate: Annotated[
        list[Path],
        typer.Option(metavar="FOLDER", help="Your footage: photos, videos, folders; repeatable."),
    ],
    limit: Annotated[
        float, typer.Option(help="Largest loss in any measure that is kept; 0.02 is 2 %.")
    ] = 0.02,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: NAME_PRECISION.onnx there."),
    ] = None,
    provider: Provider = None,
    threads: Threads = None,
    models: Models = None,
    licence: Licence = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Make a model in another precision, by your own footage; measure it; keep it if it is good.

    Half of the footage chooses the ranges, the other half measures. No picture is written. Then
    'mien swap --precision int8' takes it in the place of NAME.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        if to not in ("fp16", "int8"):
            raise UsageError(f"--to {to!r} is unknown; use fp16 or int8")
        missing = [path for path in calibrate if not path.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        from mien import quantize as tool

        settings = settings_of(
            config, provider=provider, threads=threads, models=models, licence=licence
        )
        with terminal.progress() as progress:
            result = tool.quantize(
                name,
                "fp16" if to == "fp16" else "int8",
                calibrate,
                models=zoo_of(settings),
                limit=limit,
                output=output,
                overwrite=overwrite,
                progress=progress,
            )
        for line in (*tool.table(result.report), str(result.file)):
            terminal.say(line)
        if as_json:
            terminal.print_json(result.report | {"file": str(result.file)})
        return 0

    return terminal.run(work)
