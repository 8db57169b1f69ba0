"""``mien faces``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.options import (
    AllowFallback,
    Config,
    Detector,
    Embedder,
    End,
    Json,
    Landmarks,
    Licence,
    Offline,
    Overwrite,
    Precision,
    Provider,
    Quiet,
    Start,
    Threads,
    Verbose,
    settings_of,
    time_range,
    zoo_of,
)
from mien.cli.terminal import Terminal, say
from mien.errors import UsageError


def list_faces(  # noqa: PLR0917
    target: Annotated[
        Path, typer.Argument(help="Photo, video, folder, or a file of tracks.", metavar="TARGET")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Default: NAME-faces, right here."),
    ] = None,
    tracks: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Write where the faces of a video are, instead."),
    ] = None,
    renumber: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="In a file of tracks; with -o NEW.npz; repeatable."),
    ] = None,
    drop: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", help="Take a face out of a file of tracks; repeatable."),
    ] = None,
    start: Start = None,
    end: End = None,
    detector: Detector = None,
    landmarks: Landmarks = None,
    embedder: Embedder = None,
    provider: Provider = None,
    allow_fallback: AllowFallback = False,
    precision: Precision = None,
    threads: Threads = None,
    offline: Offline = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List who is in a photo, a video or a folder, and write a picture of each.

    The numbers are those that 'mien swap --faces' takes; person-N.jpg serves for --match.
    With --tracks, write where the faces of a video are, for 'mien swap --tracks'; such a file is
    shown, and corrected by --renumber and --drop.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        settings = settings_of(
            config,
            detector=detector,
            landmarks=landmarks,
            embedder=embedder,
            provider=provider,
            allow_fallback=allow_fallback or None,
            precision=precision,
            threads=threads,
            offline=offline or None,
            licence=licence,
        )
        begin, finish = time_range(start, end)
        if not target.exists():
            raise UsageError(f"{target}: no such file")
        if target.suffix == ".npz":
            if renumber or drop or output is not None:
                api.correct_tracks(target, output, _numbers(renumber), drop or (), overwrite)
            return terminal.tracks(output or target)
        if renumber or drop:
            raise UsageError(f"{target}: --renumber and --drop are for files of tracks (.npz)")
        swapper = api.load(
            detector=settings.detector,
            landmarker=settings.landmarks,
            embedder=settings.embedder,
            models=zoo_of(settings),
            limits=settings.limits,
        )
        if tracks is not None:
            with terminal.progress() as progress:
                api.follow_faces(
                    target,
                    tracks,
                    start=begin,
                    end=finish,
                    overwrite=overwrite,
                    progress=None if progress is None else partial(progress, target),
                    swapper=swapper,
                )
            return terminal.tracks(tracks)
        listings = []
        with terminal.progress() as progress:
            for listing in api.list_people(
                target,
                output,
                start=begin,
                end=finish,
                overwrite=overwrite,
                progress=progress,
                swapper=swapper,
            ):
                if listing.error is not None:
                    say(str(listing.error))
                listings.append(listing)
        return terminal.people(listings, many=target.is_dir())

    return terminal.run(work)


def _numbers(given: list[str] | None) -> dict[int, int]:
    pairs = [text.partition("=") for text in given or ()]
    for old, _, new in pairs:
        if not (old.strip().isdecimal() and new.strip().isdecimal()):
            raise UsageError(f"--renumber: expected OLD=NEW, came {old}={new}")
    return {int(old): int(new) for old, _, new in pairs}
