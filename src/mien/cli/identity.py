"""``mien identity``: people who agreed, kept sealed, until they withdraw."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mien import __version__
from mien.cli.options import (
    Config,
    Detector,
    Embedder,
    Json,
    Landmarks,
    Offline,
    Overwrite,
    Provider,
    Quiet,
    Threads,
    Verbose,
    settings_of,
    which_of,
    zoo_of,
)
from mien.cli.terminal import Terminal, say
from mien.errors import UsageError

if TYPE_CHECKING:
    from mien.identity import Challenge, Entry

app = typer.Typer(
    name="identity",
    help="People who agreed to the use of their face: keep, show, export and withdraw them.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="As 'mien identity list' shows it, or a record's id.")
]


@app.command()
def add(  # noqa: PLR0917
    name: Annotated[str, typer.Argument(metavar="NAME", help="To be used as: mien swap -s NAME.")],
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO…", help="Of this one person.")
    ] = None,
    consent: Annotated[
        str | None, typer.Option(help="self, written, artwork or synthetic.", metavar="BASIS")
    ] = None,
    note: Annotated[str, typer.Option(help="For instance where a signed form is kept.")] = "",
    expires: Annotated[
        str, typer.Option(metavar="DATE", help="The last day, as 2031-12-31; default: no end.")
    ] = "",
    scope: Annotated[
        str, typer.Option(metavar="USES", help="Of live, video, photo, with commas; default: all.")
    ] = "",
    attach: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A signed form, kept sealed with it.")
    ] = None,
    from_camera: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="Yourself, before this camera, in place of photos: it asks for three motions.",
        ),
    ] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="The camera gives mirror images.")
    ] = False,
    source_face: Annotated[
        str | None,
        typer.Option(help="Which face of a photo: largest, left, right, number from left."),
    ] = None,
    white_balance: Annotated[
        bool | None,
        typer.Option("--white-balance/--no-white-balance", help="Undo colour casts of photos."),
    ] = None,
    detector: Detector = None,
    landmarks: Landmarks = None,
    embedder: Embedder = None,
    provider: Provider = None,
    threads: Threads = None,
    offline: Offline = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Keep a person: portraits and what they rest on, sealed."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api, identity, media
        from mien.types import Consent

        settings = settings_of(
            config,
            white_balance=white_balance,
            detector=detector,
            landmarks=landmarks,
            embedder=embedder,
            provider=provider,
            threads=threads,
            offline=offline or None,
        )
        called = identity.checked_name(name)
        place = which_of(source_face, "--source-face")
        pictures = photos or []
        if bool(pictures) == (from_camera is not None):
            raise UsageError(f"{called}: give photos, or --from-camera for yourself, and not both")
        if from_camera is None and mirrored:
            raise UsageError("--mirrored is about --from-camera")
        if from_camera is not None and place is not None:
            raise UsageError("--source-face is about photos; before a camera you are alone")
        for file in (*pictures, *([attach] if attach else [])):
            if not file.is_file():
                raise UsageError(f"{file}: no such file")
        if from_camera is not None:  # one that is not there is said before models are loaded
            media.open_camera(from_camera).close()
        terminal.notice()
        given = terminal.consent(consent, note)
        given = Consent(given.basis, note, scope=api.scopes_of(scope), expires=expires)
        identity.Store.open().check_free(called)
        swapper = api.load(
            "mesh",
            detector=settings.detector,
            landmarker=settings.landmarks,
            embedder=settings.embedder,
            models=zoo_of(settings),
        )
        if from_camera is not None:
            person = api.enrol_live(
                from_camera,
                given,
                name=called,
                mirrored=mirrored,
                white_balance=settings.white_balance,
                swapper=swapper,
                tell=_prompts(),
            )
        else:
            person = api.enrol(
                pictures,
                given,
                which=place,
                white_balance=settings.white_balance,
                swapper=swapper,
                name=called,
            )
        verified: Literal["", "liveness"] = "liveness" if from_camera is not None else ""
        entry = api.keep(person, swapper=swapper, verified=verified, form=attach)
        terminal.say(f"{entry.name}: kept, record {entry.record}, {_photos(entry)}")
        return _said(terminal, entry)

    return terminal.run(work)


@app.command("list")
def list_identities(
    everything: Annotated[
        bool, typer.Option("--all", help="Also records of photos that were used once.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List everybody who is kept, and the fact of those who withdrew."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.identity import Store

        entries = Store.open().list(once=everything)
        if as_json:
            rows = [_facts(entry) for entry in entries]
            terminal.print_json({"identities": rows, "mien": __version__})
        elif not quiet:
            _table(entries)
        return 0

    return terminal.run(work)


@app.command()
def show(name: Name, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Show all that is known of a person, but for pictures and measures of the face."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.identity import Store

        entry = Store.open().show(name)
        for key, value in _facts(entry).items():
            terminal.say(f"{key:<14}{', '.join(value) if key == 'scope' else value}".rstrip())
        return _said(terminal, entry)

    return terminal.run(work)


@app.command()
def revoke(name: Name, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Withdraw a consent: what is held of the face is overwritten at once."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        entry = api.revoke(name)
        terminal.say(f"{name}: withdrawn; pictures and measures are deleted, the fact stays")
        return _said(terminal, entry)

    return terminal.run(work)


@app.command()
def export(  # noqa: PLR0917
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.zip", help="What is made.")
    ],
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Write all that is held of a person into a zip archive, to be given to that person."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.identity import Store

        entry = Store.open().export(name, output, overwrite=overwrite)
        terminal.say(f"{output}: all that is held of {name}; for that person alone")
        return _said(terminal, entry, output=str(output))

    return terminal.run(work)


@app.command()
def rekey(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Seal everything with a new key; old copies of the store cannot be read any more."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.identity import Store

        count = Store.open().rekey()
        terminal.say(f"{count} parts sealed with a new key")
        if as_json:
            terminal.print_json({"parts": count, "mien": __version__})
        return 0

    return terminal.run(work)


def _prompts() -> Callable[[Challenge], None]:
    """Says each prompt on standard error, with a bell for those whose eyes are shut."""
    from mien.identity import NO_PROOF

    say(f"you are asked for three motions; left and right are your own; {NO_PROOF}")
    done = 0

    def tell(challenge: Challenge) -> None:
        nonlocal done
        if challenge.done > done:
            done = challenge.done
            bell = "\a" if sys.stderr.isatty() else ""
            print(f"{bell}mien: done, {done} of {len(challenge.steps)}", file=sys.stderr)
        say(challenge.prompt)

    return tell


def _facts(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "state": entry.state} | asdict(entry)


def _said(terminal: Terminal, entry: Entry, **more: Any) -> int:
    if terminal.as_json:
        shared = {"warnings": terminal.warnings, "mien": __version__}
        terminal.print_json(_facts(entry) | more | shared)
    return 0


def _photos(entry: Entry) -> str:
    return "1 photo" if entry.photos == 1 else f"{entry.photos} photos"


def _table(entries: tuple[Entry, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "basis", "for", "until"):
        table.add_column(heading, overflow="fold")
    for heading in ("added", "record"):
        table.add_column(heading, no_wrap=True)
    for e in entries:
        table.add_row(
            *(e.name or ("(one use)" if e.once else "-"), e.state, e.basis),
            *(", ".join(e.scope) or "all", e.expires or "no end", e.added[:10], e.record),
        )
    Console().print(table if entries else "nobody is kept; add one with: mien identity add")
