"""How commands speak: warnings, errors, progress, questions and the summary."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import typer

from mien import __version__
from mien.errors import MienError, UsageError

if TYPE_CHECKING:
    from mien import api
    from mien.pipeline import Swapper
    from mien.types import Consent

BASES: Final = {
    "self": "it is your own face",
    "written": "the person agreed in writing",
    "artwork": "a painting, or a person long dead",
    "synthetic": "no real person",
    "licensed": "licensed footage",
}
"""Consent bases in the words of the question."""


def say(text: str) -> None:
    """A message on standard error, on one line."""
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
        say(message)
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
            say(str(result.error))
        elif result.output is not None:
            self.say(_line(result))

    def summary(self, results: list[api.Result], swapper: Swapper, *, many: bool) -> int:
        """The end of a job: counts for people or as JSON, and the exit status."""
        interrupted = any(r.report.interrupted for r in results)
        failed = sum(r.error is not None for r in results)
        if interrupted:
            last = results[-1]
            kept = f"{last.output} holds the {last.report.frames_out} frames done so far"
            say(f"stopped; {kept if last.output else 'nothing was written'}")
        elif not many:
            self.say(_line(results[0]))
        if many:
            self.say(f"{len(results) - failed} of {len(results)} files done")
            if failed:
                say(f"{failed} of {len(results)} files failed")
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
            say(f"{failed} of {len(listings)} files failed")
        return 1 if failed else 0

    def tracks(self, path: Path) -> int:
        """What is in a file of tracks, as lines or as JSON, and the exit status."""
        from mien import tracks

        lines = tracks.lines_of(path)
        if self.as_json:
            found = [asdict(line) for line in lines]
            self.print_json({"file": str(path), "tracks": found, "warnings": self.warnings})
        for line in lines:
            self.say(
                f"face {line.number}: {line.frames} frames, {line.first:.2f} to {line.last:.2f} s, "
                f"{line.height:.0f} pixels high"
            )
        self.say(f"{path}: {len(lines)} faces")
        return 0

    def notice(self) -> None:
        """Show what everybody should have read, once, to people."""
        from mien import notice, policy

        if not self.quiet and not self.as_json and sys.stderr.isatty():
            notice.show_once(policy.load().contact)

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
        say(text)
        if count == self.MANY and not self._terminal.verbose:
            say("warning: more of this kind is not shown; -v shows it")


def _line(result: api.Result) -> str:
    report = result.report
    if result.copied:
        return f"{result.output}: copied, nothing swapped"
    if result.earlier:
        return f"{result.output}: is there already"
    without = [f"no {mark}: too small" for mark in result.missing]
    if report.frames_in == 1:
        swapped = f"{report.faces} {'face' if report.faces == 1 else 'faces'} swapped"
        return f"{result.output}: {', '.join([swapped, *without])}"
    parts = [f"{report.frames_out} frames", f"{report.swapped} swapped"]
    if report.faceless:
        parts.append(f"{report.faceless} without a face")
    if report.damaged:
        parts.append(f"{report.damaged} damaged and passed over")
    parts += [*without, f"{report.fps:.1f} fps"]
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
            "earlier": result.earlier,
            "marks_missing": list(result.missing),
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
