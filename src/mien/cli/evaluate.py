"""``mien evaluate``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from mien.cli.options import (
    AllowFallback,
    Config,
    ConsentNote,
    Detector,
    Embedder,
    Json,
    LabelLanguage,
    LabelPreset,
    Landmarks,
    Licence,
    NoCredentials,
    NoLabel,
    NoWatermark,
    Offline,
    Overwrite,
    Precision,
    Provider,
    Quiet,
    TargetConsent,
    Threads,
    Verbose,
    marks_of,
    settings_of,
    zoo_of,
)
from mien.cli.terminal import Terminal
from mien.errors import UsageError


class Lists(TyperCommand):
    """A command whose flags take all the words that follow, up to the next flag."""

    SEVERAL: Final = ("--identities", "--targets", "--generator")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such a flag before each of its words, which is how the parser wants them."""
        spread: list[str] = []
        flag = ""
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            if not word.startswith("-"):
                spread += [flag, word] if flag else [word]
            elif word not in self.SEVERAL:
                flag = ""
                spread.append(word)
            elif following.startswith("-"):
                raise typer.BadParameter(f"{word} needs at least one word after it", ctx=ctx)
            else:
                flag = word
        return super().parse_args(ctx, spread)


def evaluate(  # noqa: PLR0917
    identities: Annotated[
        list[Path], typer.Option(metavar="PHOTO|NAME…", help="Portraits, each of another person.")
    ],
    targets: Annotated[
        list[Path], typer.Option(metavar="FILE…", help="Photos and videos to swap into.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the report goes.")
    ],
    generator: Annotated[
        list[str] | None, typer.Option(metavar="NAME…", help="What makes the faces.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="REPORT.JSON", help="Say what is better and worse.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames measured of each video.", min=1)] = 8,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Make a contact sheet.")
    ] = True,
    consent: Annotated[
        str | None,
        typer.Option(help="Portraits: self, written, artwork or synthetic.", metavar="BASIS"),
    ] = None,
    consent_note: ConsentNote = "",
    target_consent: TargetConsent = None,
    detector: Detector = None,
    landmarks: Landmarks = None,
    embedder: Embedder = None,
    provider: Provider = None,
    allow_fallback: AllowFallback = False,
    precision: Precision = None,
    threads: Threads = None,
    offline: Offline = False,
    licence: Licence = None,
    label_language: LabelLanguage = None,
    label_preset: LabelPreset = None,
    no_label: NoLabel = False,
    no_watermark: NoWatermark = False,
    no_credentials: NoCredentials = False,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Put every identity on every target, and measure how good the swaps are.

    Writes report.json, report.html and sheet.jpg. --identities, --targets and --generator take
    several words each; a folder stands for all that is in it.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api
        from mien import evaluate as evaluating

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
        marks = marks_of(
            settings,
            label_language,
            label_preset,
            no_label=no_label,
            no_watermark=no_watermark,
            no_credentials=no_credentials,
        )
        missing = [p for p in targets if not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        terminal.notice()
        photos = [p for p in identities if not api.stored_name([p])]
        if consent is not None and not photos:
            raise UsageError(api.own_consent(str(identities[0])))
        given = terminal.consent(consent, consent_note) if photos else None
        about_target = terminal.target_consent(target_consent)
        with terminal.progress() as progress:
            result = evaluating.evaluate(
                identities,
                targets,
                output,
                consent=given,
                target_consent=about_target,
                marks=marks,
                generators=generator or [settings.generator],
                detector=settings.detector,
                landmarker=settings.landmarks,
                embedder=settings.embedder,
                frames=frames,
                against=against,
                pictures=pictures,
                overwrite=overwrite,
                models=zoo_of(settings),
                progress=progress,
            )
        for line in (*evaluating.table(result.report), *result.changes):
            terminal.say(line)
        terminal.say(str(output / "report.html"))
        if as_json:
            terminal.print_json(result.report | {"changes": result.changes})
        return 0

    return terminal.run(work)
