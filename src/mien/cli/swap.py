"""``mien swap``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.options import (
    AllowFallback,
    Config,
    ConsentNote,
    Detector,
    Embedder,
    End,
    Enhance,
    Fused,
    Generator,
    Json,
    LabelLanguage,
    LabelPreset,
    Landmarks,
    Licence,
    Mask,
    Match,
    NoCredentials,
    NoLabel,
    NoWatermark,
    Offline,
    Overwrite,
    PortraitConsent,
    Precision,
    Provider,
    Quiet,
    Similarity,
    SourceFace,
    Start,
    TargetConsent,
    Threads,
    Upscale,
    Verbose,
    WhiteBalance,
    marks_of,
    parse_map,
    settings_of,
    time_range,
    which_of,
)
from mien.cli.terminal import Terminal
from mien.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mien.api import Result
    from mien.config import Settings
    from mien.scale import Pool
    from mien.types import SwapPlan


def swap(  # noqa: PLR0915, PLR0917
    target: Annotated[
        Path, typer.Option("--target", "-t", metavar="FILE|FOLDER", help="Photo, video or folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|FOLDER", help="What is made.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--source", "-s", metavar="PHOTO|NAME", help="Portrait, more -s: same; or an identity."
        ),
    ] = None,
    consent: PortraitConsent = None,
    consent_note: ConsentNote = "",
    target_consent: TargetConsent = None,
    faces: Annotated[
        str | None,
        typer.Option(help="all, largest, left, right, or a number as 'mien faces' shows it."),
    ] = None,
    match: Match = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="ME=REF:BASIS", help="Portrait=reference:consent; repeatable."
        ),
    ] = None,
    similarity: Similarity = None,
    source_face: SourceFace = None,
    start: Start = None,
    end: End = None,
    blend: Annotated[str | None, typer.Option(help="soft or poisson.")] = None,
    color: Annotated[str | None, typer.Option(help="auto, none, lab or histogram.")] = None,
    white_balance: WhiteBalance = None,
    generator: Generator = None,
    mask: Mask = None,
    enhance: Enhance = None,
    upscale: Upscale = None,
    fused: Fused = None,
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
    workers: Annotated[int | None, typer.Option(help="Frames painted at a time.")] = None,
    encoder: Annotated[str | None, typer.Option(help="libx264, libx265, libvpx-vp9 …")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed.")] = None,
    quality: Annotated[int | None, typer.Option(help="Video: CRF. JPEG, WebP: 1 to 100.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="For instance yuv420p.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what is done, and go on with it after a stop."),
    ] = False,
    tracks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the faces are, from 'mien faces --tracks'."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on a Ray cluster; 'local' starts one here."),
    ] = None,
    ray_actors: Annotated[
        int, typer.Option(min=0, help="Workers there; default: as many as there is room for.")
    ] = 0,
    ray_threads: Annotated[
        int, typer.Option(min=0, help="Cores of each worker; 0 for all of its machine.")
    ] = 1,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Put the face of a portrait on the faces of a photo, a video or a folder of them."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api
        from mien.media import SinkOptions
        from mien.types import Rule, SwapPlan

        settings = settings_of(
            config,
            similarity=similarity,
            blend=blend,
            color=color,
            white_balance=white_balance,
            generator=generator,
            detector=detector,
            landmarks=landmarks,
            embedder=embedder,
            mask=mask or None,
            enhance=enhance,
            upscale=upscale,
            fused=fused,
            provider=provider,
            allow_fallback=allow_fallback or None,
            precision=precision,
            threads=threads,
            offline=offline or None,
            licence=licence,
            workers=workers,
            encoder=encoder,
            preset=preset,
            quality=quality,
            pixel_format=pixel_format,
        )
        marks = marks_of(
            settings,
            label_language,
            label_preset,
            no_label=no_label,
            no_watermark=no_watermark,
            no_credentials=no_credentials,
        )
        begin, finish = time_range(start, end)
        if tracks is not None and target.is_dir():
            raise UsageError("--tracks is of one video, and the target is a folder")
        if not source and not mapping:
            raise UsageError("a portrait is needed: -s PHOTO or NAME, or --map ME=REF:BASIS")
        which = which_of(faces, "--faces")
        if match is not None and faces is not None:
            raise UsageError("--match and --faces both choose who is swapped; give one of them")
        maps = [parse_map(text) for text in mapping or ()]
        stored = api.stored_name(source or ())
        given_files = [*([match] if match else []), target]
        missing = [p for p in given_files if not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        if not target.is_dir():
            photos = [*(source or ()), *(p for me, ref, _ in maps for p in (me, ref))]
            photos = [p for p in photos if p.exists()] + ([match] if match else [])
            api.check_output([target, *photos], output, overwrite=overwrite)
        if stored and consent is not None:
            raise UsageError(api.own_consent(stored))
        unsaid = [me for me, _, basis in maps if basis is None and not api.stored_name([me])]
        needed = (bool(source) and not stored) or bool(unsaid)
        terminal.notice()
        given = terminal.consent(consent, consent_note) if needed else None
        about_target = terminal.target_consent(target_consent)

        swapper = api.chain_of(settings)
        place = which_of(source_face, "--source-face")
        enrolling: dict[str, Any] = {
            "which": place,
            "white_balance": settings.white_balance,
            "swapper": swapper,
        }
        rules = []
        for me, ref, basis in maps:
            said = api.consent_of(basis, consent_note) if basis else given if me in unsaid else None
            rules.append(
                Rule(
                    api.whose([me], said, **enrolling),
                    reference=api.reference(ref, swapper=swapper),
                )
            )
        if source:
            person = None if match is None else api.reference(match, swapper=swapper)
            rules.append(
                Rule(
                    api.whose(source, None if stored else given, **enrolling),
                    which or "all",
                    person,
                )
            )
        plan = SwapPlan(
            tuple(rules),
            blend=settings.blend,
            color=settings.color,
            similarity=settings.similarity,
        )
        common: dict[str, Any] = {
            "target_consent": about_target,
            "marks": marks,
            "options": SinkOptions(
                settings.encoder, settings.preset, settings.quality, settings.pixel_format
            ),
            "start": begin,
            "end": finish,
            "workers": settings.workers,
            "overwrite": overwrite,
            "resume": resume,
            "swapper": swapper,
        }
        with ExitStack() as stack:
            pool = None
            if ray is not None:
                pool = stack.enter_context(_pool(settings, ray, ray_actors, ray_threads))
            progress = stack.enter_context(terminal.progress())
            results = []
            for result in _results(pool, target, plan, output, tracks, progress, common):
                if target.is_dir():
                    terminal.one_of_many(result)
                results.append(result)
        return terminal.summary(results, swapper, many=target.is_dir())

    return terminal.run(work)


def _results(  # noqa: PLR0917
    pool: Pool | None,
    target: Path,
    plan: SwapPlan,
    output: Path,
    tracks: Path | None,
    progress: Callable[[Path, int, int | None], None] | None,
    common: dict[str, Any],
) -> Iterator[Result]:
    """Here or on a pool, a file or a folder."""
    from mien import api

    if target.is_dir() and pool is None:
        yield from api.swap_folder(target, plan, output, progress=progress, **common)
        return
    if pool is not None:
        from mien import scale

        if target.is_dir():
            del common["workers"]
            yield from scale.swap_folder(pool, target, plan, output, progress=progress, **common)
            return
        common["painting"] = partial(scale.paint_parts, pool)
    shown = None if progress is None else partial(progress, target)
    yield api.swap(target, plan, output, progress=shown, tracked=tracks, **common)


def _pool(settings: Settings, address: str, actors: int, threads: int) -> Pool:
    """Workers on a Ray cluster, which start while faces are followed here.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    try:
        from mien.scale import Pool
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UsageError("--ray: Ray is not installed; pip install 'mien[scale]'") from error
    pool = Pool(settings, address, actors=actors, threads=threads)
    pool.begin()
    return pool
