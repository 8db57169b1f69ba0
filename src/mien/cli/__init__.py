"""The command line. It reads flags, asks, reports and sets the exit status; the work is elsewhere.

Exit status: 0 done, 1 the work failed, 2 wrong use or a refusal. Each command is a module.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Final

import typer

from mien import __version__
from mien.cli import (
    audit,
    bench,
    deny,
    doctor,
    evaluate,
    faces,
    identity,
    keys,
    live,
    models,
    policy,
    serve,
    swap,
    verify,
)
from mien.cli.options import parse_map, parse_time
from mien.cli.terminal import say

__all__ = ["app", "main", "parse_map", "parse_time"]

app = typer.Typer(
    name="mien",
    help="Put a consenting person's face on the face in a photo or a video. Results are marked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(swap.swap)
app.command()(live.live)
app.command()(serve.serve)
app.add_typer(keys.app)
app.command()(verify.verify)
app.command("faces")(faces.list_faces)
app.command(cls=evaluate.Lists)(evaluate.evaluate)
app.add_typer(identity.app)
app.add_typer(policy.app)
app.add_typer(deny.app)
app.add_typer(audit.app)
app.command()(policy.notice)
app.add_typer(models.app)
app.command()(bench.bench)
app.command()(doctor.doctor)

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
        say("stopped; nothing was written")
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
    say(f"{message.rstrip('.')}; see '{command} --help'")
    return 2


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        print(f"mien {__version__}")
        raise typer.Exit
