"""``mien models``: what there is, and fetching, adding, checking and removing it."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien import __version__
from mien.cli.options import (
    Config,
    Json,
    Licence,
    Models,
    Offline,
    Quiet,
    Verbose,
    settings_of,
    zoo_of,
)
from mien.cli.quantize import quantize
from mien.cli.terminal import Terminal, say
from mien.errors import MienError, UsageError

if TYPE_CHECKING:
    from mien.zoo import ModelCard, Zoo

app = typer.Typer(
    name="models",
    help="Models that do not come with mien: see, fetch, add, check and remove them.",
    no_args_is_help=True,
)

app.command()(quantize)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As 'mien models list' shows it.")]
Names = Annotated[
    list[str], typer.Argument(metavar="NAME…", help="As 'mien models list' shows them.")
]


@app.command("list")
def list_models(  # noqa: PLR0917
    task: Annotated[
        str | None, typer.Option(help="Of this task only: detect, embed, generate …")
    ] = None,
    models: Models = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List all models: what each is for, its licence, its size and whether it is here."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.zoo.card import TASKS

        zoo = _zoo(config, models=models)
        if task is not None and task not in TASKS:
            raise UsageError(f"--task {task!r} is unknown; known are {', '.join(TASKS)}")
        cards = [card for card in zoo.cards if task in (None, card.task)]
        if as_json:
            rows = [_row(zoo, card) for card in cards]
            terminal.print_json({"folder": str(zoo.folder), "models": rows, "mien": __version__})
        elif not quiet:
            _table(zoo, cards)
        return 0

    return terminal.run(work)


@app.command()
def show(  # noqa: PLR0917
    name: Name,
    models: Models = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show all that is known of a model."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        zoo = _zoo(config, models=models)
        facts = _facts(zoo, zoo.find(name))
        if as_json:
            terminal.print_json(facts | {"mien": __version__})
        elif not quiet:
            for key, value in _flat(facts):
                print(f"{key:<24}{value}")
        return 0

    return terminal.run(work)


@app.command()
def pull(  # noqa: PLR0917
    names: Names,
    models: Models = None,
    offline: Offline = False,
    licence: Licence = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Fetch models into the folder, and what they cannot be used without.

    This is the only command that uses the network.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.zoo.pulling import pull as fetch

        zoo = _zoo(config, models=models, offline=offline or None, licence=licence)
        done = []
        for card in _with_companions(zoo, [zoo.find(name) for name in names]):
            before = zoo.state(card)
            try:
                with _bytes(terminal) as progress:
                    file = zoo.verify(card) if card.shipped else fetch(zoo, card, progress)
            except KeyboardInterrupt:
                say(f"stopped; pull {card.name} again to go on")
                return 1
            word = "fetched" if before == "missing" else "is here"
            terminal.say(f"{card.name}: {word}, {file} ({_licence(card)})")
            if not card.sha256:
                terminal.say(f"{card.name}: pinned to SHA-256 {_pinned(zoo, card)}, because {_NO}")
            done.append(_row(zoo, card))
        if as_json:
            terminal.print_json({"models": done, "warnings": terminal.warnings})
        return 0

    return terminal.run(work)


@app.command()
def add(  # noqa: PLR0917
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX or DFM file.")],
    like: Annotated[str, typer.Option(metavar="NAME", help="The model that yours is like.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="What yours is to be called.")],
    licence: Annotated[str, typer.Option(help="Of the weights.", metavar="TEXT")] = "unknown",
    commercial: Annotated[
        bool, typer.Option("--commercial", help="The licence allows commercial use.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(help="Side of the input, if another than --like's.", min=1)
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the file into the folder of models.")
    ] = False,
    models: Models = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Add a model of your own, which is fed and read as one that mien knows.

    The file is loaded and compared with that model's contract before anything is written.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import zoo as zoos

        zoo = _zoo(config, models=models)
        card = zoos.add(
            zoo,
            file,
            like=like,
            name=name,
            licence=licence,
            commercial=commercial,
            size=size,
            copy=copy,
        )
        terminal.say(f"{card.name}: added as {zoo.folder / 'cards' / card.name}.toml")
        terminal.say(f"{card.name}: pinned to SHA-256 {card.sha256}")
        if as_json:
            terminal.print_json(_row(zoo, card))
        return 0

    return terminal.run(work)


@app.command()
def verify(  # noqa: PLR0917
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: all that are here.")
    ] = None,
    models: Models = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Hash models anew and compare them with their cards and pins; exit status 1 if one is bad."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        zoo = _zoo(config, models=models)
        if names:
            cards = [zoo.find(name) for name in names]
        else:
            cards = [card for card in zoo.cards if zoo.state(card) in ("shipped", "present")]
        results = []
        for card in cards:
            error, known = None, card.sha256
            try:
                known = known or _pinned(zoo, card)
                zoo.verify(card)
            except MienError as failure:
                error = str(failure)
                say(error)
            else:
                against = "as its card says" if card.sha256 else "as pinned"
                if not known:
                    against = f"pinned to SHA-256 {_pinned(zoo, card)}, because {_NO}"
                terminal.say(f"{card.name}: {against}")
            results.append({"name": card.name, "good": error is None, "error": error})
        bad = sum(not result["good"] for result in results)
        if bad and len(results) > 1:
            say(f"{bad} of {len(results)} models are bad")
        if as_json:
            terminal.print_json({"models": results, "bad": bad, "mien": __version__})
        return 1 if bad else 0

    return terminal.run(work)


@app.command()
def remove(  # noqa: PLR0917
    name: Name,
    models: Models = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Delete a model that was fetched or added; a file of yours outside the folder stays."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import zoo as zoos

        zoo = _zoo(config, models=models)
        gone = [str(file) for file in zoos.remove(zoo, zoo.find(name))]
        for file in gone:
            terminal.say(f"{file}: removed")
        if as_json:
            terminal.print_json({"removed": gone})
        return 0

    return terminal.run(work)


_NO = "nobody has published its hash"


def _zoo(config: Path | None, **flags: Any) -> Zoo:
    return zoo_of(settings_of(config, **flags))


def _pinned(zoo: Zoo, card: ModelCard) -> str:
    from mien.zoo import pinned

    return pinned(card, zoo.folder)


def _with_companions(zoo: Zoo, cards: list[ModelCard]) -> list[ModelCard]:
    """Each model behind the recogniser and the converter that it is of no use without."""
    chain: dict[str, ModelCard] = {}
    for card in cards:
        if card.swap is not None:
            for other in (card.swap.recogniser, card.swap.converter):
                if other and other != "emap":
                    chain[other] = zoo.find(other)
        chain[card.name] = card
    return list(chain.values())


def _row(zoo: Zoo, card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "task": card.task,
        "family": card.family,
        "licence": card.licence,
        "commercial": card.commercial,
        "bytes": card.bytes,
        "state": zoo.state(card),
    }


def _facts(zoo: Zoo, card: ModelCard) -> dict[str, Any]:
    from dataclasses import asdict

    state = zoo.state(card)
    where = None if state == "pattern" else str(zoo.locate(card))
    pin = "" if card.sha256 else _pinned(zoo, card)
    return asdict(card) | {"state": state, "path": where, "pinned": pin}


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (tuple, list)):
            yield f"{prefix}{key}", " ".join(_short(v) for v in value) or "-"
        else:
            yield f"{prefix}{key}", _short(value)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"({', '.join(_short(v) for v in value)})"
    return "-" if value in ("", None) else str(value)


def _licence(card: ModelCard) -> str:
    return card.licence if card.commercial else f"{card.licence}; no commercial use"


def _table(zoo: Zoo, cards: list[ModelCard]) -> None:
    rows = [
        (card.name, card.task, "yes" if card.commercial else "no", _size(card), zoo.state(card),
         card.licence)
        for card in cards
    ]  # fmt: skip
    headings = ("name", "task", "commercial", "size", "state", "licence")
    if not sys.stdout.isatty():
        for row in (headings, *rows):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in headings:
        right = heading == "size"
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading == "name")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _size(card: ModelCard) -> str:
    return f"{card.bytes / 1e6:.1f} MB" if card.bytes else "?"


@contextmanager
def _bytes(terminal: Terminal) -> Iterator[Callable[[Path, int, int | None], None] | None]:
    """A bar with bytes, speed and the time left, on a terminal only."""
    if terminal.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[Path, Any] = {}

    def update(file: Path, done: int, total: int | None) -> None:
        if file not in tasks:
            tasks[file] = bar.add_task(escape(file.name), total=total)
        bar.update(tasks[file], completed=done, total=total)

    with bar:
        yield update
