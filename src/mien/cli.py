"""The command line. It reads flags, asks, reports and sets the exit status; the work is elsewhere.

Exit status: 0 done, 1 the work failed, 2 wrong use or a refusal.
"""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from typer.core import TyperCommand

from mien import __version__
from mien.errors import MienError, UsageError

if TYPE_CHECKING:
    from mien import api
    from mien.config import Settings
    from mien.pipeline import Swapper
    from mien.types import Consent, Which

app = typer.Typer(
    name="mien",
    help="Put a consenting person's face on the face in a photo or a video. Results are marked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BASES: Final = {
    "self": "it is your own face",
    "written": "the person agreed in writing",
    "artwork": "a painting, or a person long dead",
    "synthetic": "no real person",
    "licensed": "licensed footage",
}
"""Consent bases in the words of the question."""

_WRONG_USE: Final = typer.BadParameter.__mro__[1]
"""What the parser raises for wrong flags; typer does not export it under its own name."""


def main() -> None:
    """Run the command line and leave with its exit status."""
    # OpenCV's own warnings would stand between mien's messages.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        status = app(standalone_mode=False)
        if status == 130:  # the parser's own answer to Ctrl-C, before a command runs
            raise typer.Abort
    except (typer.Abort, KeyboardInterrupt):
        _say("stopped; nothing was written")
        status = 1
    except Exception as error:
        if not isinstance(error, _WRONG_USE):
            raise
        status = _wrong_use(error)
    sys.exit(status or 0)


def _wrong_use(error: Any) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help
        print(message or error.ctx.get_help(), file=sys.stderr)
        return 2
    command = error.ctx.command_path if error.ctx is not None else "mien"
    _say(f"{message.rstrip('.')}; see '{command} --help'")
    return 2


def _say(text: str) -> None:
    print(f"mien: {' '.join(text.split())}", file=sys.stderr)


class Terminal:
    """How a command speaks: warnings, errors, progress and the summary.

    Attributes:
        quiet: Errors only.
        verbose: 1 adds notes, 2 debug messages and tracebacks.
        as_json: The summary is one JSON object on standard output, errors included.
        warnings: What was warned of so far.
    """

    def __init__(self, quiet: bool, verbose: int, as_json: bool = False) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.warnings: list[str] = []
        self.asks = sys.stdin.isatty() and sys.stderr.isatty()
        logger = logging.getLogger("mien")
        logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))
        logger.propagate = False
        logger.handlers = [_Handler(self)]

    def run(self, command: Callable[[], int]) -> int:
        """Run a command and turn whatever ends it into a message and an exit status."""
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            return command()
        except MienError as error:
            return self._failed(str(error), error.exit_status)
        except KeyboardInterrupt:
            return self._failed("stopped; nothing was written", 1)
        except (typer.Abort, typer.Exit):
            raise
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            text = f"unexpected {type(error).__name__}: {error}"
            return self._failed(f"{text} (run again with -vv for details)", 1)

    def _failed(self, message: str, status: int) -> int:
        if self.verbose >= 2:
            traceback.print_exc()
        _say(message)
        if self.as_json:
            self.print_json({"error": message, "exit_status": status, "warnings": self.warnings})
        return status

    def print_json(self, value: dict[str, Any]) -> None:
        """One object on standard output."""
        print(json.dumps(value, indent=2, default=str))

    def say(self, text: str) -> None:
        """A line of the summary for people."""
        if not self.quiet and not self.as_json:
            print(text)

    @contextmanager
    def progress(self) -> Iterator[Callable[[Path, int, int | None], None] | None]:
        """A bar with frames a second and the time left, on a terminal only."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Fps(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:.1f} fps")

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Fps(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        tasks: dict[Path, Any] = {}

        def update(file: Path, done: int, total: int | None) -> None:
            if file not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, visible=False)
                tasks[file] = bar.add_task(escape(file.name), total=total)
            bar.update(tasks[file], completed=done, total=total)

        with bar:
            yield update

    def one_of_many(self, result: api.Result) -> None:
        """What became of one file of a folder."""
        if result.error is not None:
            _say(str(result.error))
        elif result.output is not None:
            self.say(_line(result))

    def summary(self, results: list[api.Result], swapper: Swapper, *, many: bool) -> int:
        """The end of a job: counts for people or as JSON, and the exit status."""
        interrupted = any(r.report.interrupted for r in results)
        failed = sum(r.error is not None for r in results)
        if interrupted:
            last = results[-1]
            kept = f"{last.output} holds the {last.report.frames_out} frames done so far"
            _say(f"stopped; {kept if last.output else 'nothing was written'}")
        elif not many:
            self.say(_line(results[0]))
        if many:
            self.say(f"{len(results) - failed} of {len(results)} files done")
            if failed:
                _say(f"{failed} of {len(results)} files failed")
        if self.as_json:
            self.print_json(_as_json(results, swapper, self.warnings, many=many))
        return 1 if failed or interrupted else 0

    def people(self, listings: list[api.Listing], *, many: bool) -> int:
        """Who was found, as a table or as JSON, and the exit status."""
        failed = sum(entry.error is not None for entry in listings)
        if self.as_json:
            files = [_people_as_json(entry) for entry in listings]
            shared = {"warnings": self.warnings, "mien": __version__}
            self.print_json((({"files": files, "failed": failed}) if many else files[0]) | shared)
        elif not self.quiet:
            _show_people([entry for entry in listings if entry.people])
        if many and failed:
            _say(f"{failed} of {len(listings)} files failed")
        return 1 if failed else 0

    def consent(self, basis: str | None, note: str) -> Consent:
        """The consent that was given, or asked for once.

        Raises:
            UsageError: None was given, and nobody can be asked.
        """
        from mien import api
        from mien.types import ConsentBasis

        known = get_args(ConsentBasis)
        if basis is None:
            if not self.asks:
                raise UsageError(
                    "on what does the use of the portrait rest? say it with --consent "
                    f"{'|'.join(known)}"
                )
            basis = self._ask("On what does the use of the portrait rest?", known)
        return api.consent_of(basis, note)

    def target_consent(self, basis: str | None) -> Consent | None:
        """The same for the person who is replaced; may stay unsaid."""
        from mien import api
        from mien.types import TargetBasis

        if basis is None and self.asks and not self.quiet and not self.as_json:
            question = "And the use of the target, for the person who is replaced? (Enter: unsaid)"
            basis = self._ask(question, get_args(TargetBasis), optional=True)
        return api.target_consent_of(basis) if basis else None

    def _ask(self, question: str, known: tuple[str, ...], *, optional: bool = False) -> str:
        print(question, file=sys.stderr)
        for basis in known:
            print(f"  {basis:<10} {BASES[basis]}", file=sys.stderr)
        while True:
            print("> ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            answer = line.strip()
            if answer in known or (optional and not answer):
                return answer
            if not line:
                raise UsageError("no answer; say it with --consent")
            print(f"one of {', '.join(known)}, please", file=sys.stderr)


class _Handler(logging.Handler):
    """Shows log messages in mien's form; many of one kind are cut short."""

    MANY = 5

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal
        self._seen: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._terminal.warnings.append(text)
            if self._terminal.quiet:
                return
            text = f"warning: {text}"
        count = self._seen[record.msg] = self._seen.get(record.msg, 0) + 1
        if count > self.MANY and not self._terminal.verbose:
            return
        _say(text)
        if count == self.MANY and not self._terminal.verbose:
            _say("warning: more of this kind is not shown; -v shows it")


def _line(result: api.Result) -> str:
    report = result.report
    if result.copied:
        return f"{result.output}: copied, nothing swapped"
    if report.frames_in == 1:
        return f"{result.output}: {report.faces} {'face' if report.faces == 1 else 'faces'} swapped"
    parts = [f"{report.frames_out} frames", f"{report.swapped} swapped"]
    if report.faceless:
        parts.append(f"{report.faceless} without a face")
    if report.damaged:
        parts.append(f"{report.damaged} damaged and passed over")
    parts.append(f"{report.fps:.1f} fps")
    return f"{result.output}: {', '.join(parts)}"


def _as_json(
    results: list[api.Result], swapper: Swapper, warnings: list[str], *, many: bool
) -> dict[str, Any]:
    def one(result: api.Result) -> dict[str, Any]:
        report = result.report
        return {
            "target": str(result.target),
            "output": None if result.output is None else str(result.output),
            "error": None if result.error is None else str(result.error),
            "copied": result.copied,
            "interrupted": report.interrupted,
            "frames_in": report.frames_in,
            "frames_out": report.frames_out,
            "swapped": report.swapped,
            "faces": report.faces,
            "faceless": report.faceless,
            "damaged": report.damaged,
            "seconds": round(report.seconds, 3),
            "fps": round(report.fps, 2),
            "stages": report.stages,
        }

    models = {
        stage: {"model": name, "provider": provider}
        for stage, (name, provider) in swapper.models.items()
    }
    shared = {"models": models, "warnings": warnings, "mien": __version__}
    if not many:
        return one(results[0]) | shared
    files = [one(r) for r in results]
    counts = ("frames_in", "frames_out", "swapped", "faces", "faceless", "damaged", "seconds")
    totals = {key: round(sum(f[key] for f in files), 3) for key in counts}
    totals["fps"] = round(totals["frames_out"] / totals["seconds"], 2) if totals["seconds"] else 0.0
    failed = sum(r.error is not None for r in results)
    return {"files": files, "done": len(files) - failed, "failed": failed} | totals | shared


def _show_people(listings: list[api.Listing]) -> None:
    from rich.console import Console
    from rich.table import Table

    for entry in listings:
        table = Table(title=str(entry.target), title_justify="left")
        for heading in ("number", "first seen", "seconds", "frames", "size", "score"):
            table.add_column(heading, justify="right")
        for p in entry.people:
            first = f"{int(p.first // 60)}:{p.first % 60:04.1f}"
            table.add_row(
                *(str(p.number), first, f"{p.seconds:.1f}", str(p.frames), f"{p.size:.0f} px"),
                f"{p.score:.2f}",
            )
        Console().print(table)
        for picture, sheet in entry.pictures.values():
            print(f"{picture}  {sheet}")


def _people_as_json(entry: api.Listing) -> dict[str, Any]:
    people = [
        {
            "number": p.number,
            "first_seen": round(p.first, 3),
            "seconds": round(p.seconds, 3),
            "frames": p.frames,
            "size": round(p.size, 1),
            "score": round(p.score, 3),
            "picture": str(entry.pictures[p.number][0]),
            "sheet": str(entry.pictures[p.number][1]),
        }
        for p in entry.people
    ]
    error = None if entry.error is None else str(entry.error)
    return {"target": str(entry.target), "people": people, "error": error}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Provider = Annotated[str | None, typer.Option(help="Where models run: cpu, cuda …")]
Threads = Annotated[int | None, typer.Option(help="Threads of each model.")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        print(f"mien {__version__}")
        raise typer.Exit


@app.command()
def swap(  # noqa: PLR0917
    target: Annotated[
        Path, typer.Option("--target", "-t", metavar="FILE|FOLDER", help="Photo, video or folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|FOLDER", help="What is made.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option("--source", "-s", metavar="PHOTO", help="Portrait; more -s: same person."),
    ] = None,
    consent: Annotated[
        str | None,
        typer.Option(help="Portrait: self, written, artwork or synthetic.", metavar="BASIS"),
    ] = None,
    consent_note: Annotated[str, typer.Option(help="For instance where it is kept.")] = "",
    target_consent: Annotated[
        str | None,
        typer.Option(help="The same for who is replaced; also: licensed.", metavar="BASIS"),
    ] = None,
    faces: Annotated[
        str | None,
        typer.Option(help="all, largest, left, right, or a number as 'mien faces' shows it."),
    ] = None,
    match: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Swap only the person in this photo.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="ME=REF:BASIS", help="Portrait=reference:consent; repeatable."
        ),
    ] = None,
    similarity: Annotated[
        float | None, typer.Option(help="How alike a face and the reference must be, -1 to 1.")
    ] = None,
    source_face: Annotated[
        str | None,
        typer.Option(help="Which face of a portrait: largest, left, right, number from left."),
    ] = None,
    start: Start = None,
    end: End = None,
    blend: Annotated[str | None, typer.Option(help="soft or poisson.")] = None,
    color: Annotated[str | None, typer.Option(help="none, lab or histogram.")] = None,
    white_balance: Annotated[
        bool | None,
        typer.Option("--white-balance/--no-white-balance", help="Undo colour casts of portraits."),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="What makes the face: relight, mesh, warp.")
    ] = None,
    provider: Provider = None,
    threads: Threads = None,
    workers: Annotated[int | None, typer.Option(help="Frames painted at a time.")] = None,
    encoder: Annotated[str | None, typer.Option(help="libx264, libx265, libvpx-vp9 …")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed.")] = None,
    quality: Annotated[int | None, typer.Option(help="Video: CRF. JPEG, WebP: 1 to 100.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="For instance yuv420p.")] = None,
    overwrite: Overwrite = False,
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

        settings = _settings(
            config,
            similarity=similarity,
            blend=blend,
            color=color,
            white_balance=white_balance,
            generator=generator,
            provider=provider,
            threads=threads,
            workers=workers,
            encoder=encoder,
            preset=preset,
            quality=quality,
            pixel_format=pixel_format,
        )
        begin, finish = _range(start, end)
        if not source and not mapping:
            raise UsageError("a portrait is needed: -s PHOTO, or --map ME=REF:BASIS")
        which = _which(faces, "--faces")
        if match is not None and faces is not None:
            raise UsageError("--match and --faces both choose who is swapped; give one of them")
        maps = [parse_map(text) for text in mapping or ()]
        given_files = [*(source or ()), *([match] if match else []), target]
        missing = [p for p in given_files if not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        if not target.is_dir():
            photos = [*(source or ()), *(p for me, ref, _ in maps for p in (me, ref))]
            photos += [match] if match else []
            api.check_output([target, *photos], output, overwrite=overwrite)
        needed = bool(source) or any(basis is None for _, _, basis in maps)
        given = terminal.consent(consent, consent_note) if needed else None
        about_target = terminal.target_consent(target_consent)

        swapper = api.load(settings.generator, provider=settings.provider, threads=settings.threads)
        place = _which(source_face, "--source-face")
        rules = [
            Rule(
                api.enrol(
                    me,
                    given if basis is None and given else api.consent_of(basis or "", consent_note),
                    which=place,
                    white_balance=settings.white_balance,
                    swapper=swapper,
                ),
                reference=api.reference(ref, swapper=swapper),
            )
            for me, ref, basis in maps
        ]
        if source and given:
            me = api.enrol(
                source,
                given,
                which=place,
                white_balance=settings.white_balance,
                swapper=swapper,
            )
            person = None if match is None else api.reference(match, swapper=swapper)
            rules.append(Rule(me, which or "all", person))
        plan = SwapPlan(
            tuple(rules),
            blend=settings.blend,
            color=settings.color,
            similarity=settings.similarity,
        )
        common: dict[str, Any] = {
            "target_consent": about_target,
            "options": SinkOptions(
                settings.encoder, settings.preset, settings.quality, settings.pixel_format
            ),
            "start": begin,
            "end": finish,
            "workers": settings.workers,
            "overwrite": overwrite,
            "swapper": swapper,
        }
        results = []
        with terminal.progress() as progress:
            if target.is_dir():
                for result in api.swap_folder(target, plan, output, progress=progress, **common):
                    terminal.one_of_many(result)
                    results.append(result)
            else:
                shown = None if progress is None else partial(progress, target)
                results.append(api.swap(target, plan, output, progress=shown, **common))
        return terminal.summary(results, swapper, many=target.is_dir())

    return terminal.run(work)


@app.command("faces")
def list_faces(  # noqa: PLR0917
    target: Annotated[Path, typer.Argument(help="Photo, video or folder.", metavar="TARGET")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Default: NAME-faces, right here."),
    ] = None,
    start: Start = None,
    end: End = None,
    provider: Provider = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List who is in a photo, a video or a folder, and write a picture of each.

    The numbers are those that 'mien swap --faces' takes; person-N.jpg serves for --match.
    """
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien import api

        settings = _settings(config, provider=provider, threads=threads)
        begin, finish = _range(start, end)
        if not target.exists():
            raise UsageError(f"{target}: no such file")
        listings = []
        with terminal.progress() as progress:
            for listing in api.list_people(
                target,
                output,
                start=begin,
                end=finish,
                overwrite=overwrite,
                progress=progress,
                swapper=api.load(provider=settings.provider, threads=settings.threads),
            ):
                if listing.error is not None:
                    _say(str(listing.error))
                listings.append(listing)
        return terminal.people(listings, many=target.is_dir())

    return terminal.run(work)


class _Lists(TyperCommand):
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


@app.command(cls=_Lists)
def evaluate(  # noqa: PLR0917
    identities: Annotated[
        list[Path], typer.Option(metavar="PHOTO…", help="Portraits, each of another person.")
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
    consent_note: Annotated[str, typer.Option(help="For instance where it is kept.")] = "",
    target_consent: Annotated[
        str | None,
        typer.Option(help="The same for who is replaced; also: licensed.", metavar="BASIS"),
    ] = None,
    provider: Provider = None,
    threads: Threads = None,
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
        from mien import evaluate as evaluating

        settings = _settings(config, provider=provider, threads=threads)
        missing = [p for p in (*identities, *targets) if not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file")
        given = terminal.consent(consent, consent_note)
        about_target = terminal.target_consent(target_consent)
        with terminal.progress() as progress:
            result = evaluating.evaluate(
                identities,
                targets,
                output,
                consent=given,
                target_consent=about_target,
                generators=generator or [settings.generator],
                frames=frames,
                against=against,
                pictures=pictures,
                overwrite=overwrite,
                provider=settings.provider,
                threads=settings.threads,
                progress=progress,
            )
        for line in (*evaluating.table(result.report), *result.changes):
            terminal.say(line)
        terminal.say(str(output / "report.html"))
        if as_json:
            terminal.print_json(result.report | {"changes": result.changes})
        return 0

    return terminal.run(work)


def _settings(config: Path | None, **flags: Any) -> Settings:
    from mien import config as settings

    return settings.load(config, flags=flags)


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


def _range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    begin = None if start is None else parse_time(start)
    finish = None if end is None else parse_time(end)
    if finish is not None and finish <= (begin or 0):
        raise UsageError(f"--end {end} is not after --start {start or 0}")
    return begin, finish


def _which(text: str | None, flag: str) -> Which | int | None:
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
    r"""Portrait, reference and consent basis of ``portrait=reference:basis``.

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
    there = [p for p in pairs if p[0].is_file() and p[1].is_file()]
    if len(there) == 1:
        return (*there[0], basis)
    if there:
        raise UsageError(f"--map {text!r}: it is not clear at which '=' it is to be cut")
    missing = next(p for p in pairs[0] if not p.is_file())
    raise UsageError(f"--map {text!r}: {missing}: no such file")
