"""``mien keys``."""

# Commands import what is slow to import themselves, so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.options import Config, Json, Quiet, Verbose
from mien.cli.terminal import Terminal
from mien.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mien.service.database import Database, Key

app = typer.Typer(name="keys", help="API keys of 'mien serve'.", no_args_is_help=True)

Data = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Of the service.")]
At = Annotated[str | None, typer.Option("--database", metavar="URL", help="Of the service.")]


@app.command()
def add(  # noqa: PLR0917
    tenant: Annotated[str, typer.Argument(help="Whose: its keys see the same things.")] = "local",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="identities, swaps, jobs, live or verify; repeatable; default: all."),
    ] = None,
    calls: Annotated[int | None, typer.Option(help="Requests a minute; 0 for any number.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Jobs at a time.")] = None,
    kept: Annotated[int | None, typer.Option("--bytes", help="Kept of the tenant.")] = None,
    data: Data = None,
    database: At = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Make a key and print it, this once: only its hash is kept."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.service import keys

        quotas = {
            quota: number
            for quota, number in {"calls": calls, "jobs": jobs, "bytes": kept}.items()
            if number is not None
        }
        with opened(config, data, database) as rows:
            scopes = tuple(scope) if scope else keys.SCOPES
            row, secret = keys.make(rows, tenant, name=name, scopes=scopes, quotas=quotas)
        if as_json:
            terminal.print_json(_facts(row) | {"key": secret})
        else:
            terminal.say(f"{row.id}: a key of {row.tenant} for {row.scopes}; it is shown this once")
            print(secret)
        return 0

    return terminal.run(work)


@app.command("list")
def list_keys(  # noqa: PLR0917
    data: Data = None,
    database: At = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """List the keys: whose, for what, and when they were used last."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.service import keys

        with opened(config, data, database) as rows:
            found = keys.listed(rows)
        if as_json:
            terminal.print_json({"keys": [_facts(row) for row in found]})
            return 0
        for row in found:
            state = f"revoked {_day(row.revoked)}" if row.revoked else f"used {_day(row.used)}"
            print(f"{row.id}  {row.tenant}  {row.scopes}  {state}  {row.name}".rstrip())
        if not found:
            terminal.say("there are no keys; make one with: mien keys add")
        return 0

    return terminal.run(work)


@app.command()
def revoke(  # noqa: PLR0917
    key: Annotated[str, typer.Argument(help="Its id, as 'mien keys list' shows it.")],
    data: Data = None,
    database: At = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Revoke a key; it holds for no request from now on."""
    terminal = Terminal(quiet, verbose, as_json)

    def work() -> int:
        from mien.service import keys

        with opened(config, data, database) as rows:
            row = keys.revoke(rows, key)
        if as_json:
            terminal.print_json(_facts(row))
        terminal.say(f"{row.id}: revoked")
        return 0

    return terminal.run(work)


@app.command()
def seal(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to put the file 'key'.")],
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Make the key that identities are sealed with, for several machines to share."""
    terminal = Terminal(quiet, verbose, False)

    def work() -> int:
        from mien.service import people

        people.seal_file(path / "key")
        terminal.say(f"{path / 'key'}: made; name it with [serve] seal, and keep a copy")
        return 0

    return terminal.run(work)


@contextmanager
def opened(config: Path | None, data: Path | None, database: str | None) -> Iterator[Database]:
    """The rows of the service that the settings name.

    Raises:
        UsageError: The extra ``serve`` is not installed.
        MediaError: The database cannot be used.
    """
    settings_of = service_settings()
    settings, _ = settings_of(config, flags={"data": data, "database": database})
    settings.prepare()
    from mien.service.database import Database

    rows = Database(settings.database_url)
    rows.upgrade()
    try:
        yield rows
    finally:
        rows.close()


def service_settings() -> Any:
    """:func:`mien.service.settings.load`.

    Raises:
        UsageError: The extra ``serve`` is not installed.
    """
    for package in ("fastapi", "uvicorn", "sqlalchemy", "alembic", "fsspec", "python_multipart"):
        if find_spec(package) is None:
            raise UsageError(
                f"the service needs packages of its own ({package} is missing): "
                f"pip install 'mien[serve]'"
            )
    from mien.service.settings import load

    return load


def _facts(row: Key) -> dict[str, Any]:
    return {
        "id": row.id,
        "tenant": row.tenant,
        "name": row.name,
        "scopes": row.scopes.split(","),
        "quotas": row.quotas,
        "created": row.created,
        "used": row.used,
        "revoked": row.revoked,
    }


def _day(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()
