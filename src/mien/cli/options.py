"""Flags that several commands share, and how their words are read."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mien.errors import UsageError

if TYPE_CHECKING:
    from mien.config import Settings
    from mien.provenance import Marks
    from mien.runtime import Device
    from mien.types import Which
    from mien.zoo import Zoo

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say errors only.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv adds tracebacks.")
]
Json = Annotated[bool, typer.Option("--json", help="Summary as one JSON object on stdout.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings; default: mien.toml, if there.")
]
Start = Annotated[str | None, typer.Option(metavar="TIME", help="From here: 12.5 or 1:02:03.")]
End = Annotated[str | None, typer.Option(metavar="TIME", help="Up to here.")]
Detector = Annotated[str | None, typer.Option(help="What finds faces: mien, or a model.")]
Landmarks = Annotated[str | None, typer.Option(help="Model of the mesh or of its five points.")]
Embedder = Annotated[str | None, typer.Option(help="Model that says who somebody is.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Provider = Annotated[
    str | None, typer.Option(help="Where models run: cpu, cuda, tensorrt,cuda …", metavar="NAMES")
]
AllowFallback = Annotated[
    bool, typer.Option("--allow-fallback", help="Warn, not fail, where they run elsewhere.")
]
Precision = Annotated[str | None, typer.Option(help="Of models: fp32, fp16 or int8.")]
Threads = Annotated[int | None, typer.Option(help="Of each model; default: by the machine.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Licence = Annotated[
    str | None, typer.Option(help="any, or commercial: refuse models that forbid it.")
]
Models = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where models lie.")]
LabelLanguage = Annotated[
    str | None, typer.Option(metavar="CODE", help="Of the visible label: en, zh, es, de, fr, ja …")
]
LabelPreset = Annotated[
    str | None, typer.Option(help="Of the label: usual, or regulated: at least 5 % high.")
]
NoLabel = Annotated[
    bool, typer.Option("--no-label", help="No visible label, where the policy allows it.")
]
NoWatermark = Annotated[
    bool, typer.Option("--no-watermark", help="No invisible watermark; the same holds.")
]
NoCredentials = Annotated[
    bool, typer.Option("--no-credentials", help="No content credentials; the same holds.")
]
Mask = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL[:regions=…]", help="Keep off what is no face; repeatable."),
]
Enhance = Annotated[
    str | None, typer.Option(metavar="MODEL[:OPTIONS]", help="Restore swapped faces; or none.")
]
Upscale = Annotated[
    str | None, typer.Option(metavar="MODEL[:OPTIONS]", help="Enlarge the output; or none.")
]
ConsentNote = Annotated[str, typer.Option(help="For instance where it is kept.")]
TargetConsent = Annotated[
    str | None, typer.Option(help="The same for who is replaced; also: licensed.", metavar="BASIS")
]
PortraitConsent = Annotated[
    str | None, typer.Option(help="Portrait: self, written, artwork or synthetic.", metavar="BASIS")
]
Match = Annotated[
    Path | None, typer.Option(metavar="PHOTO", help="Swap only the person in this photo.")
]
Similarity = Annotated[
    float | None, typer.Option(help="How alike a face and the reference must be, -1 to 1.")
]
SourceFace = Annotated[
    str | None,
    typer.Option(help="Which face of a portrait: largest, left, right, number from left."),
]
WhiteBalance = Annotated[
    bool | None,
    typer.Option("--white-balance/--no-white-balance", help="Undo colour casts of portraits."),
]
Generator = Annotated[
    str | None, typer.Option(help="What makes the face: relight, mesh, warp, or a model of yours.")
]
Fused = Annotated[
    bool | None,
    typer.Option("--fused/--no-fused", help="Face path as one graph; default: if faster."),
]


def settings_of(config: Path | None, **flags: Any) -> Settings:
    """The settings, flags above files."""
    from mien import config as settings

    return settings.load(config, flags=flags)


def marks_of(
    settings: Settings,
    language: str | None,
    preset: str | None,
    *,
    no_label: bool,
    no_watermark: bool,
    no_credentials: bool,
) -> Marks:
    """The marks of outputs, flags above the settings' table ``[marks]``.

    Raises:
        UsageError: No such language or preset, or words that cannot be drawn.
    """
    from mien.provenance import Marks

    table = settings.marks
    return Marks(
        label_on=table.label and not no_label,
        preset=preset or table.preset,  # type: ignore[arg-type]
        language=language or table.language,
        words=table.words,
        watermark_on=table.watermark and not no_watermark,
        credentials_on=table.credentials and not no_credentials,
        producer=table.producer,
    )


def device_of(settings: Settings) -> Device:
    """Where models run, by the settings."""
    from mien.api import loading

    return loading.device_of(settings)


def zoo_of(settings: Settings) -> Zoo:
    """Where models come from and run, by the settings."""
    from mien.api import loading

    return loading.zoo_of(settings)


def parse_time(text: str) -> float:
    """Seconds of ``12.5``, ``1:05`` or ``1:02:03.5``.

    Raises:
        UsageError: It is none of these.
    """
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        raise UsageError(f"{text!r} is no time; write seconds, or hours:minutes:seconds")
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def time_range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """Seconds of ``--start`` and ``--end``.

    Raises:
        UsageError: One is no time, or they are in the wrong order.
    """
    begin = None if start is None else parse_time(start)
    finish = None if end is None else parse_time(end)
    if finish is not None and finish <= (begin or 0):
        raise UsageError(f"--end {end} is not after --start {start or 0}")
    return begin, finish


def which_of(text: str | None, flag: str) -> Which | int | None:
    """Which faces a flag means.

    Raises:
        UsageError: Names the words it knows.
    """
    if text is None:
        return None
    if text in ("all", "largest", "left", "right") and not (
        text == "all" and flag == "--source-face"
    ):
        return text  # type: ignore[return-value]
    if text.isdecimal() and int(text) > 0:
        return int(text)
    words = "largest, left, right" if flag == "--source-face" else "all, largest, left, right"
    raise UsageError(f"{flag} {text!r} is unknown; use {words} or a number from 1")


def parse_map(text: str) -> tuple[Path, Path, str | None]:
    r"""Portrait, or identity, reference and consent basis of ``portrait=reference:basis``.

    What follows the last colon is the basis if it has letters only, so that ``C:\me.jpg`` may
    stand on both sides; without a basis that of ``--consent`` holds. Where a name has a ``=`` in
    it, the two parts are told by which files exist.

    Raises:
        UsageError: It is not of that form, the basis is unknown, or a file is not there.
    """
    from mien.types import ConsentBasis

    form = f"--map {text!r}: expected PORTRAIT=REFERENCE:BASIS"
    names, colon, tail = text.rpartition(":")
    basis = tail if colon and tail.isalpha() else None
    if basis is None:
        names = text
    elif basis not in get_args(ConsentBasis):
        known = ", ".join(get_args(ConsentBasis))
        raise UsageError(f"--map {text!r}: consent {basis!r} is unknown; known are {known}")
    cuts = [i for i, letter in enumerate(names) if letter == "="]
    pairs = [(Path(names[:i]), Path(names[i + 1 :])) for i in cuts if names[:i] and names[i + 1 :]]
    if not pairs:
        raise UsageError(form)
    there = [p for p in pairs if p[0].is_file() and p[1].is_file()] or [
        p for p in pairs if p[1].is_file() and _is_identity(p[0])
    ]
    if len(there) == 1:
        return (*there[0], basis)
    if there:
        raise UsageError(f"--map {text!r}: it is not clear at which '=' it is to be cut")
    missing = next(p for p in pairs[0] if not p.is_file())
    raise UsageError(f"--map {text!r}: {missing}: no such file")


def _is_identity(path: Path) -> bool:
    from mien.identity import Store

    return not path.exists() and Store.open().has(str(path))
