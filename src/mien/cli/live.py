"""``mien live``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mien.cli.options import (
    AllowFallback,
    Config,
    ConsentNote,
    Detector,
    Embedder,
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
    TargetConsent,
    Threads,
    Verbose,
    WhiteBalance,
    marks_of,
    parse_time,
    settings_of,
    which_of,
)
from mien.cli.terminal import Terminal
from mien.errors import UsageError

if TYPE_CHECKING:
    from mien.config import Settings
    from mien.live import Output, Statistics
    from mien.media import Sound
    from mien.provenance import Marker
    from mien.serve import PageOptions


def live(  # noqa: PLR0915, PLR0917
    source: Annotated[
        list[Path],
        typer.Option(
            "--source", "-s", metavar="PHOTO|NAME", help="Portrait, repeatable; or an identity."
        ),
    ],
    consent: PortraitConsent = None,
    consent_note: ConsentNote = "",
    target_consent: TargetConsent = None,
    camera: Annotated[
        str | None,
        typer.Option(metavar="N", help="By number or device, default 0; none: browsers' alone."),
    ] = None,
    source_file: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE|URL", help="A file or a stream as the camera."),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a file anew at its end.")] = False,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Sound for files and streams: default, number or name of a microphone; "
            "input: the sound of --input.",
        ),
    ] = None,
    list_devices: Annotated[
        bool,
        typer.Option(
            "--list-devices",
            help="List cameras and microphones, and end.",
            is_eager=True,
            callback=lambda wanted: show_devices() if wanted else None,
        ),
    ] = False,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="WHERE",
            help="window, browser, virtual, FILE.mp4, udp://…, tcp://…, rtmp://…; repeatable; "
            "default: window.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Of the page; other machines need the token it prints then.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the page; 0 takes a free one.")] = 8765,
    ice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVER",
            help="For browsers behind a router: stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT.",
        ),
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(metavar="PHOTO|NAME", help="Somebody else for the page; repeatable."),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Of the picture.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, at most.")] = None,
    max_latency: Annotated[
        str, typer.Option(metavar="TIME", help="Older frames are dropped: 100ms, 0.2s.")
    ] = "100ms",
    on_miss: Annotated[
        str, typer.Option(help="While a face is missed: pass, hold, blur or card.")
    ] = "pass",
    private: Annotated[
        bool, typer.Option("--private", help="Never show a raw face; blur instead.")
    ] = False,
    step_down: Annotated[
        bool, typer.Option("--step-down/--no-step-down", help="Lower quality while too slow.")
    ] = True,
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after: 12.5 or 1:02:03.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="SOCKET", help="Take commands: a path, or a port.")
    ] = None,
    recordings: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For what --control and the page record.")
    ] = Path(),
    faces: Annotated[str | None, typer.Option(help="all, largest, left, right, number.")] = None,
    match: Match = None,
    similarity: Similarity = None,
    source_face: SourceFace = None,
    strength: Annotated[float, typer.Option(help="Of the swap, 0 to 1.")] = 1.0,
    blend: Annotated[str | None, typer.Option(help="soft or poisson.")] = None,
    color: Annotated[str | None, typer.Option(help="auto, none, lab or histogram.")] = None,
    white_balance: WhiteBalance = None,
    generator: Generator = None,
    mask: Mask = None,
    enhance: Enhance = None,
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
    encoder: Annotated[str | None, typer.Option(help="Of files and streams: libx264 …")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed.")] = None,
    quality: Annotated[int | None, typer.Option(help="The encoder's CRF.")] = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Put the face of a portrait on the faces before a camera, as they move."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:  # noqa: PLR0912, PLR0915
        from mien import api, media, policy, serve
        from mien import live as live_
        from mien.provenance import Marker
        from mien.track import LIVE
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
            fused=fused,
            provider=provider,
            allow_fallback=allow_fallback or None,
            precision=precision,
            threads=threads,
            offline=offline or None,
            licence=licence,
            encoder=encoder,
            preset=preset,
            quality=quality,
        )
        marks = marks_of(
            settings,
            label_language,
            label_preset,
            no_label=no_label,
            no_watermark=no_watermark,
            no_credentials=no_credentials,
        )
        if camera is not None and source_file is not None:
            raise UsageError("--camera and --input both say where frames come from; give one")
        if match is not None and faces is not None:
            raise UsageError("--match and --faces both choose who is swapped; give one of them")
        if on_miss not in get_args(live_.OnMiss):
            known = ", ".join(get_args(live_.OnMiss))
            raise UsageError(f"--on-miss {on_miss!r} is unknown; known are {known}")
        if not 0 <= strength <= 1:
            raise UsageError(f"--strength: expected a number from 0 to 1, came {strength:g}")
        if fps is not None and not 1 <= fps <= 240:
            raise UsageError(f"--fps: expected a number from 1 to 240, came {fps:g}")
        where = source_file or camera or "0"
        wanted = parse_size(size)
        options = live_.Options(
            max_latency=parse_latency(max_latency),
            fps=fps or 0.0,
            step_down=step_down,
            private=private,
            reopen=source_file is None or "://" in source_file,
            duration=None if duration is None else parse_time(duration),
        )
        targets = list(dict.fromkeys(output or ["window"]))
        if camera == "none" and targets != ["browser"]:
            raise UsageError("--camera none: then -o browser has to be the only output")
        check_audio(audio, source_file, targets, control)
        if not recordings.is_dir():
            raise UsageError(f"--recordings {recordings}: no such folder")
        if also and "browser" not in targets:
            raise UsageError("--also: people are chosen on the page; add -o browser")
        page_options = page_at(host, port, ice) if "browser" in targets else None
        for target in targets:
            if target not in ("window", "virtual", "browser"):
                media.check_target(target, overwrite=overwrite)
        if match is not None and not match.exists():
            raise UsageError(f"{match}: no such file")
        stored = api.stored_name(source)
        photos = [p for p in also or () if not api.stored_name([p])]
        if stored and consent is not None and not photos:
            raise UsageError(api.own_consent(stored))
        # Photos have their consent said, all of them one; identities bring their own.
        terminal.notice()
        given = None if stored and not photos else terminal.consent(consent, consent_note)
        about_target = terminal.target_consent(target_consent)
        # A camera that is not there is said before models are loaded.
        sound = None if audio is None else media.Sound()
        own = sound if audio == "input" else None
        if camera != "none":
            media.open_camera(where, size=wanted, fps=fps or 0, sound=own).close()
        if sound is not None and audio is not None and own is None:
            media.Microphone(audio, sound).close()

        swapper = api.chain_of(settings, upscaler="none")  # frames are not enlarged live
        me = api.whose(
            source,
            None if stored else given,
            which=which_of(source_face, "--source-face"),
            white_balance=settings.white_balance,
            swapper=swapper,
        )
        person = None if match is None else api.reference(match, swapper=swapper)
        plan = SwapPlan(
            (Rule(me, which_of(faces, "--faces") or "all", person),),
            blend=settings.blend,
            color=settings.color,
            similarity=settings.similarity,
        )
        marker = Marker(marks, consent=me.consent, target_consent=about_target)
        look = live_.Look(plan, marker, strength=strength, on_miss=on_miss)  # type: ignore[arg-type]
        with ExitStack() as stack:
            page = None
            if page_options is not None:
                others = []
                for one in also or ():
                    said = given if one in photos else None
                    others.append(api.whose([one], said, swapper=swapper))
                people = serve.People([me, *others])
                del others  # or who withdraws would stay in memory
                page = serve.browser_output(
                    *(swapper, look, people, page_options), private=private, sound=sound
                )
                stack.callback(page.close)
                terminal.say(f"the page: {page.url}")
            if camera == "none" and page is not None:
                page.wait(options.duration)
                return 0
            outputs = outputs_of(targets, settings, marker, sound, overwrite=overwrite)
            outputs += [page] if page is not None else []
            engine = live_.Engine(
                lambda: media.open_camera(where, size=wanted, fps=fps or 0, loop=loop, sound=own),
                *(swapper, look, outputs, options),
                tracking=replace(
                    LIVE,
                    steady=settings.steady,
                    cutoff=settings.steady_cutoff,
                    beta=settings.steady_beta,
                ),
            )
            if sound is not None and audio is not None and own is None:
                stack.callback(media.Microphone(audio, sound).close)

            signing = policy.load().credentials

            def recording(file: str) -> live_.Encoded:
                (made,) = outputs_of([file], settings, engine.look.marker, sound, overwrite=False)
                assert isinstance(made, live_.Encoded)
                live_.keep_account(made, engine, swapper.weights, signing)
                return made

            recorder = live_.Recorder(engine, recording, recordings)
            if page is not None:
                page.attach(serve.EngineControls(engine, people, recorder))
            for made in outputs:
                if isinstance(made, live_.Window):
                    made.engine = engine
                elif isinstance(made, live_.Encoded):
                    live_.keep_account(made, engine, swapper.weights, signing)
            if control is not None:
                commands = live_.Commands(
                    engine, swapper, consent_note=consent_note, recorder=recorder
                )
                stack.enter_context(live_.ControlSocket(control, commands))
            figures = engine.run()
        return summary(terminal, figures)

    return terminal.run(work)


def page_at(host: str, port: int, ice: list[str] | None = None) -> PageOptions:
    """Where the page is served; where other machines reach it, with a new token.

    Raises:
        UsageError: The port is out of range, an ICE server is none, or what the page needs is
            not installed.
    """
    from importlib.util import find_spec

    needed = ("aiortc", "fastapi", "uvicorn", "websockets")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(f"-o browser needs {missing[0]}; install it with: pip install mien[serve]")
    from mien.serve import IceServer, PageOptions, is_loopback, new_token

    token = "" if is_loopback(host) else new_token()
    servers = tuple(IceServer.parse(text) for text in ice or ())
    return PageOptions(host, port, token, ice=servers)


def check_audio(
    audio: str | None, source_file: str | None, targets: list[str], control: str | None
) -> None:
    """See whether sound was asked for where there is some, and where it goes somewhere.

    Raises:
        UsageError: It was not.
    """
    if audio is None:
        return
    if audio == "input" and source_file is None:
        raise UsageError("--audio input: is the sound of --input; a camera has none of its own")
    records = control is not None or "browser" in targets
    if not records and set(targets) <= {"window", "virtual"}:
        raise UsageError("--audio: goes into files and streams; add one with -o")


def show_devices() -> None:
    """What ``--list-devices`` prints."""
    from mien import media
    from mien.errors import MediaError

    cameras = media.cameras()
    for number, name in cameras:
        typer.echo(f"camera {number}: {name}")
    if not cameras:
        typer.echo("no camera found")
    try:
        microphones = media.microphones()
    except MediaError as error:
        typer.echo(str(error))
    else:
        for index, name in microphones:
            typer.echo(f"microphone {index}: {name}")
        if not microphones:
            typer.echo("no microphone found")
    raise typer.Exit


def outputs_of(
    targets: list[str],
    settings: Settings,
    marker: Marker,
    sound: Sound | None = None,
    *,
    overwrite: bool,
) -> list[Output]:
    """What ``-o`` asks for."""
    from mien import live as live_
    from mien.media import SinkOptions

    options = SinkOptions(settings.encoder, settings.preset, settings.quality)
    made: list[Output] = []
    for target in targets:
        if target == "browser":
            continue  # made before the others, since it outlives the engine
        if target == "window":
            made.append(live_.Window())
        elif target == "virtual":
            made.append(live_.Virtual())
        else:
            made.append(live_.Encoded(target, marker.metadata(), options, overwrite, sound))
    return made


def summary(terminal: Terminal, figures: Statistics) -> int:
    """The end of a run, for people or as JSON."""
    speed = f"{figures.fps_out:.1f} of {figures.fps_in:.1f} fps"
    latency = f"age {figures.age_p50:.0f} ms (median), {figures.age_p95:.0f} ms (p95)"
    terminal.say(
        f"{figures.frames_out} frames, {speed}, {latency}, "
        f"{figures.dropped} dropped, {figures.swapped} swapped"
    )
    if figures.cosine is not None:
        terminal.say(f"likeness to the performer: mean {figures.cosine[0]:.2f}")
    if terminal.as_json:
        terminal.print_json(asdict(figures) | {"warnings": terminal.warnings})
    return 0


def parse_latency(text: str) -> float:
    """Seconds of ``100ms`` or ``0.1s``.

    Raises:
        UsageError: It is neither, or not between a millisecond and ten seconds.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0.001 <= seconds <= 10:
        raise UsageError(f"--max-latency {text!r}: expected from 1ms to 10s, for instance 100ms")
    return seconds


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height of ``1280x720``.

    Raises:
        UsageError: It is not of that form, or too small or too large.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if not found or min(map(int, found.groups())) < 64:
        raise UsageError(f"--size {text!r}: expected WIDTHxHEIGHT from 64x64, as in 1280x720")
    return int(found[1]), int(found[2])
