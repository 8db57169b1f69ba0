"""``mien bench``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.options import (
    AllowFallback,
    Config,
    Detector,
    Embedder,
    Enhance,
    Json,
    Landmarks,
    Licence,
    Mask,
    Overwrite,
    Quiet,
    Threads,
    Upscale,
    Verbose,
    settings_of,
    zoo_of,
)
from mien.cli.terminal import Terminal
from mien.errors import UsageError


def bench(  # noqa: PLR0917
    models: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Generators; also: none (decode and encode alone), inswapper-sized (random "
            "weights).",
        ),
    ] = None,
    providers: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="cpu, cuda …; a+b is one session with both."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Of models: auto, fp32, fp16, int8.")
    ] = None,
    fused: Annotated[
        str | None,
        typer.Option(metavar="WORD,…", help="Face path as one graph: on, off, auto (if faster)."),
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="SIZE,…", help="720p, 1080p, 2160p, 640x360 …")
    ] = None,
    faces: Annotated[str | None, typer.Option(metavar="N,…", help="In the drawn footage.")] = None,
    streams: Annotated[str, typer.Option(metavar="N,…", help="Videos at a time.")] = "1",
    seconds: Annotated[float, typer.Option(help="Of drawn footage.", min=0.1, max=3600)] = 4.0,
    rounds: Annotated[int, typer.Option(help="Figures are medians over them.", min=1)] = 3,
    footage: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="A video instead of drawn ones.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="bench.json, bench.md, bench.svg."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="BENCH.JSON", help="Say what changed since then.")
    ] = None,
    mask: Mask = None,
    enhance: Enhance = None,
    upscale: Upscale = None,
    detector: Detector = None,
    landmarks: Landmarks = None,
    embedder: Embedder = None,
    workers: Annotated[int | None, typer.Option(help="Frames painted at a time.")] = None,
    encoder: Annotated[str, typer.Option(help="libx264, h264_nvenc …")] = "libx264",
    preset: Annotated[
        str | None, typer.Option(help="The encoder's speed; default: mien's, here veryfast.")
    ] = None,
    threads: Threads = None,
    licence: Licence = None,
    allow_fallback: AllowFallback = False,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Measure how fast this machine swaps faces, stage by stage and all at once.

    The footage is drawn, so that no files are needed. Lists are separated by commas; every
    combination is measured, each in a process of its own.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.bench import measuring, report, writing
        from mien.media import SinkOptions
        from mien.runtime import PRECISIONS

        settings = settings_of(
            config,
            detector=detector,
            landmarks=landmarks,
            embedder=embedder,
            mask=mask or None,
            enhance=enhance,
            upscale=upscale,
            threads=threads,
            workers=workers,
            licence=licence,
            allow_fallback=allow_fallback or None,
        )
        if footage is not None:
            if not footage.is_file():
                raise UsageError(f"{footage}: no such file")
            if resolution is not None or faces is not None:
                raise UsageError("--resolution and --faces are for drawn footage, not for --input")
        chosen = words(models or settings.generator, "--models")
        if not re.fullmatch(r"[\w+-]+(,[\w+-]+)*", providers or "cpu"):
            raise UsageError(f"--providers {providers!r}: expected names, separated by commas")
        together = "auto" if settings.fused == "auto" else "on" if settings.fused else "off"
        named = (providers or settings.provider.replace(",", "+")).split(",")
        options = measuring.Options(
            models=chosen,
            providers=[name.replace("+", ",") for name in named],
            precisions=one_of(precision or settings.precision, "--precision", PRECISIONS),
            fused=one_of(fused or together, "--fused", tuple(measuring.FUSED)),
            stages={
                "detector": settings.detector,
                "landmarker": settings.landmarks,
                "embedder": settings.embedder,
                "masks": settings.mask,
                "enhancer": settings.enhance,
                "upscaler": settings.upscale,
            },
            resolutions=[
                measuring.Resolution.parse(word)
                for word in words(resolution or "1080p", "--resolution")
            ],
            faces=numbers(faces or "1", "--faces"),
            streams=numbers(streams, "--streams"),
            seconds=seconds,
            rounds=rounds,
            clip=footage,
            models_of=zoo_of(settings),
            workers=settings.workers,
            sink=SinkOptions(encoder, preset or ("veryfast" if encoder == "libx264" else None)),
        )
        earlier = None if compare is None else report.load(compare)
        if output is not None:
            writing.prepare(output, overwrite=overwrite)
        with terminal.progress() as progress:
            made = measuring.measure(
                options,
                None if progress is None else lambda what, n, all_: progress(Path(what), n, all_),
            )
        changed = [] if earlier is None else report.change_lines(made, earlier)
        if output is not None:
            writing.write(made, output, changed, overwrite=overwrite)
        for line in (*report.summary(made), *changed):
            terminal.say(line)
        if as_json:
            extra = {} if earlier is None else {"changes": report.changes(made, earlier)}
            terminal.print_json(made | extra | {"warnings": terminal.warnings})
        return 0

    return terminal.run(work)


def words(text: str, flag: str) -> list[str]:
    """The words of a list; a comma before ``key=`` goes on with a model's options.

    Raises:
        UsageError: One of them is empty.
    """
    found = [word.strip() for word in re.split(r",(?![a-z_]+=)", text)]
    if not all(found):
        raise UsageError(f"{flag} {text!r}: expected words, separated by commas")
    return list(dict.fromkeys(found))


def one_of(text: str, flag: str, known: Sequence[str]) -> Any:
    """The words of a list, all of which are known.

    Raises:
        UsageError: One is not.
    """
    found = words(text, flag)
    for word in found:
        if word not in known:
            raise UsageError(f"{flag} {word!r} is unknown; use {', '.join(known)}")
    return found


def numbers(text: str, flag: str) -> list[int]:
    """Whole numbers of a list.

    Raises:
        UsageError: One is none.
    """
    found = words(text, flag)
    for word in found:
        if not word.isdecimal():
            raise UsageError(f"{flag} {word!r}: expected a whole number")
    return [int(word) for word in found]
