"""``mien serve``."""

# Commands import what is slow to import themselves, so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.keys import service_settings
from mien.cli.options import Config, Quiet, Verbose
from mien.cli.terminal import Terminal
from mien.errors import MediaError, UsageError

if TYPE_CHECKING:
    from mien.config import Settings
    from mien.service.asking import Service
    from mien.service.settings import ServiceSettings


def serve(  # noqa: PLR0917
    host: Annotated[str | None, typer.Option(help="Where to listen; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that work; 0 where others do.")
    ] = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Ask for no API key; on this machine alone.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rows, files and scratch.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Default: SQLite in the data folder.")
    ] = None,
    files: Annotated[
        str | None, typer.Option(metavar="URL", help="Default: a folder in the data folder.")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="Who works on jobs: local, ray, or none of this server.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT."),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(metavar="MIN:MAX", help="So many servers on it, by load, without jobs."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate and its chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Serve the HTTP API."""
    terminal = Terminal(quiet, verbose, False)

    def work() -> int:
        load = service_settings()
        settings, chain = load(
            config,
            flags={
                "host": host,
                "port": port,
                "workers": workers,
                "keys": False if no_keys else None,
                "data": data,
                "database": database,
                "files": files,
                "executor": executor,
                "ray": ray,
                "replicas": replicas,
                "tls_cert": tls_cert,
                "tls_key": tls_key,
            },
        )
        from mien import policy
        from mien.service import application, supervisor

        policy.load()  # a mistake in it is said now, not to the first caller
        terminal.notice()
        if ray is not None and settings.replicas is None and settings.executor != "ray":
            raise UsageError("--ray: is for --replicas MIN:MAX or --executor ray; give one of them")
        if settings.replicas is not None:
            _replicate(settings, chain, terminal)
            return 0
        with ExitStack() as held:
            door = held.enter_context(_listening(settings))
            parts = application.service(settings, chain)
            held.callback(parts.database.close)
            _first_key(parts, terminal)
            workers_ = supervisor.Supervisor(parts)
            app = application.create_app(parts, start=workers_.start, stop=workers_.stop)
            with suppress(KeyboardInterrupt):  # it is over, and everything was ended
                asyncio.run(_served(app, door, parts, settings, terminal))
        return 0

    return terminal.run(work)


def _first_key(parts: Service, terminal: Terminal) -> None:
    """Where there is none yet."""
    from mien.service import keys

    if parts.settings.keys and not keys.there_are(parts.database):
        if parts.settings.local:
            _, secret = keys.make(parts.database, keys.LOCAL, name="first")
            terminal.say("the first key, shown this once; more with 'mien keys add':")
            print(secret, flush=True)
        else:  # what is printed here may end in a log that others read
            terminal.say("there is no key yet; make one with: mien keys add")


def _replicate(settings: ServiceSettings, chain: Settings, terminal: Terminal) -> None:
    """Serve on a Ray cluster until a signal."""
    import signal
    import threading

    from mien.service import application

    settings.prepare()
    try:
        from mien.service import replicas
    except ImportError as error:
        raise UsageError(
            "replicas: Ray Serve is not installed; pip install 'mien[scale]'"
        ) from error

    if not settings.port:
        with _listening(settings) as door:  # Ray's proxies are told which, and do not say it
            settings = settings.model_copy(update={"port": door.getsockname()[1]})
    else:
        _listening(settings).close()
    parts = application.service(settings, chain)
    _first_key(parts, terminal)
    parts.database.close()
    terminal.say("starts replicas on the cluster")
    with replicas.running(settings, chain):
        over = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: over.set())
        scheme = "https" if settings.tls_cert else "http"
        terminal.say(f"listens on {scheme}://{settings.host}:{settings.port}")
        terminal.say("ready")
        while not over.wait(0.5):  # a wait without end would not let signals through
            pass
        terminal.say("ends; streams may last a while")


async def _served(
    app: Any, door: socket.socket, parts: Service, settings: ServiceSettings, terminal: Terminal
) -> None:
    """Serve until a signal; says when requests are taken, and when they are answered."""
    import uvicorn

    from mien.serve import protocol

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=protocol.MAX_MESSAGE,
            ws_ping_interval=5,
            ws_ping_timeout=10,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=10,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
    )
    running = asyncio.ensure_future(server.serve(sockets=[door]))
    while not server.started and not running.done():
        await asyncio.sleep(0.05)
    if server.started:
        address = door.getsockname()
        scheme = "https" if settings.tls_cert else "http"
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        terminal.say(
            f"listens on {scheme}://{host}:{address[1]}, describes itself at /openapi.json"
        )
        while settings.workers and not parts.calls.ready and not running.done():
            await asyncio.sleep(0.1)
        if not running.done():
            terminal.say("ready")
    await running


def _listening(settings: ServiceSettings) -> socket.socket:
    """A socket at the address of the settings, before anything else is begun.

    Raises:
        MediaError: The address is taken, or not this machine's.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise MediaError(f"{where}: cannot listen there ({error.strerror or error})") from error
