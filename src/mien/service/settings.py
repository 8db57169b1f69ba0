"""Settings of the service: defaults < table ``[serve]`` of mien.toml < environment < flags.

Environment variables are the keys in capitals behind ``MIEN_SERVE_``; an unknown key is an error.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mien import config, home
from mien.errors import UsageError
from mien.serve.options import IceServer

PREFIX: Final = "MIEN_SERVE_"

FOLDER: Final = "service"
"""Of the service in mien's folder."""


class Table(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsTable(Table):
    """What a request may ask for.

    Attributes:
        photo_bytes: Of the body of a request with pictures.
        body_bytes: Of the body of a request with a video.
        json_bytes: Of any other body.
        pixels: Of a picture.
        frame_pixels: Of a frame of a video.
        seconds: Of a video.
        frames: Of a video.
        photos: Of one person, or of one job.
        identities: Of a tenant.
        waiting: Calls that may wait for a worker.
        call_seconds: Of work on one call; a worker that takes longer is ended.
        idle_seconds: Without a byte of a body that was announced.
        streams: Live streams of a tenant at a time.
    """

    photo_bytes: int = Field(default=64 << 20, gt=0)
    body_bytes: int = Field(default=4 << 30, gt=0)
    json_bytes: int = Field(default=1 << 20, gt=0)
    pixels: int = Field(default=50_000_000, gt=0)
    frame_pixels: int = Field(default=33_554_432, gt=0)
    seconds: float = Field(default=7200.0, gt=0)
    frames: int = Field(default=1_000_000, gt=0)
    photos: int = Field(default=16, gt=0, le=64)
    identities: int = Field(default=1000, gt=0)
    waiting: int = Field(default=16, gt=0, le=1000)
    call_seconds: float = Field(default=60.0, gt=0)
    idle_seconds: float = Field(default=30.0, gt=0)
    streams: int = Field(default=4, gt=0)


class QuotasTable(Table):
    """What a key may use, unless it says otherwise itself.

    Attributes:
        calls: Requests a minute; 0 for any number.
        jobs: That wait or are worked on, at a time.
        bytes: Of the tenant's files that are kept.
    """

    calls: int = Field(default=600, ge=0)
    jobs: int = Field(default=20, ge=0)
    bytes: int = Field(default=50 << 30, ge=0)


class KeepTable(Table):
    """For how many seconds things are kept.

    Attributes:
        uploads: Videos and pictures that came for jobs.
        results: Of jobs.
        jobs: Rows and events of jobs, after their end.
        answers: To requests with an idempotency key.
    """

    uploads: float = Field(default=86_400.0, gt=0)
    results: float = Field(default=7 * 86_400.0, gt=0)
    jobs: float = Field(default=30 * 86_400.0, gt=0)
    answers: float = Field(default=86_400.0, gt=0)


class ReplicasTable(Table):
    """Replicas on a Ray cluster; ``MIN:MAX`` stands for the first two.

    Attributes:
        least: Also without any stream.
        most: At a time.
        streams: Live streams, and swaps at a time, that each is meant to carry.
        drain_seconds: Which streams of a replica that is to go may last.
        up_seconds: For which there have to be more streams until there are more replicas.
        down_seconds: The same for fewer.
        cpus: Cores that Ray sets aside for each.
        gpus: Likewise.
    """

    least: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1, le=1000)
    streams: float = Field(default=2.0, gt=0)
    drain_seconds: float = Field(default=300.0, ge=0)
    up_seconds: float = Field(default=10.0, ge=0)
    down_seconds: float = Field(default=600.0, ge=0)
    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if "=" in value:
            return _pairs(value)
        least, colon, most = value.partition(":")
        return {"least": least, "most": most if colon else least}

    @model_validator(mode="after")
    def _order(self) -> ReplicasTable:
        if self.most < self.least:
            raise ValueError(f"expected MIN:MAX, and {self.least} is more than {self.most}")
        return self


class ServiceSettings(Table):
    """Everything that an operator decides.

    Attributes:
        host: Address on which to listen.
        port: Likewise; 0 takes a free one.
        data: Folder of rows, files and scratch; None takes ``service`` in mien's folder.
        database: URL as SQLAlchemy takes it; empty for SQLite in the data folder.
        files: URL of the store as fsspec takes it; empty for a folder in the data folder.
        files_options: Of the store, for instance ``endpoint_url``.
        seal: File with the key that identities are sealed with, the same on all machines; None
            takes ``key`` in the data folder, which is made.
        workers: Worker processes of this server; 0 for none, where others do the work.
        executor: Who works on jobs: these workers, a Ray cluster, or none of this server.
        ray: Its address, as for ``mien swap --ray``; empty begins one on this machine.
        ray_actors: Parts of videos that each worker of this server has painted there at a time,
            each by an actor of one core.
        replicas: Replicas on that cluster instead of one server here, a table; None for a server.
        keys: Whether requests need an API key; false on loopback alone.
        tls_cert: PEM file with the certificate and its chain.
        tls_key: PEM file with its key.
        cors: Origins whose pages may call, for instance ``https://app.example.com``.
        url_prefixes: Addresses that targets of jobs may be fetched from; none by default.
        webhook_prefixes: Addresses that webhooks may go to; None for any outside.
        inner_addresses: Whether those may lead to private addresses.
        generators: That a request may choose besides the one of the settings.
        metrics: Whether ``/metrics`` is there.
        live: Whether streams may be opened.
        ice_servers: STUN and TURN servers for their WebRTC, ``stun:HOST:PORT`` or
            ``turn:USER:PASSWORD@HOST:PORT``; whoever opens a socket is told them.
        part_seconds: Least length of a part of a video.
        lease_seconds: After which another takes over the work of one who does not answer.
        limits: What a request may ask for, a table. In the environment
            ``MIEN_SERVE_LIMITS="pixels=9000000 waiting=4"``.
        quotas: What a key may use, a table.
        keep: How long things are kept, a table.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    data: Path | None = None
    database: str = ""
    files: str = ""
    files_options: dict[str, Any] = {}
    seal: Path | None = None
    workers: int = Field(default=1, ge=0, le=64)
    executor: Literal["local", "ray", "none"] = "local"
    ray: str = ""
    ray_actors: int = Field(2, ge=1, le=256)
    replicas: ReplicasTable | None = None
    keys: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors: tuple[str, ...] = ()
    url_prefixes: tuple[str, ...] = ()
    webhook_prefixes: tuple[str, ...] | None = None
    inner_addresses: bool = False
    generators: tuple[str, ...] = ()
    metrics: bool = True
    live: bool = True
    ice_servers: tuple[str, ...] = ()
    part_seconds: float = Field(default=8.0, gt=0)
    lease_seconds: float = Field(default=30.0, gt=0)
    limits: LimitsTable = LimitsTable()
    quotas: QuotasTable = QuotasTable()
    keep: KeepTable = KeepTable()

    @field_validator("limits", "quotas", "keep", "files_options", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """``key=value`` with spaces between, as an environment variable gives them."""
        if not isinstance(value, str):
            return value
        return _pairs(value)

    @field_validator(
        *("cors", "url_prefixes", "webhook_prefixes", "generators", "ice_servers"), mode="before"
    )
    @classmethod
    def _words(cls, value: Any) -> Any:
        """Several words with spaces between, as an environment variable gives them."""
        return tuple(value.split()) if isinstance(value, str) else value

    @property
    def folder(self) -> Path:
        """The data folder; made by :func:`prepare`."""
        return (self.data or home.place() / FOLDER).expanduser().absolute()

    @property
    def scratch(self) -> Path:
        """Folder for what is being worked on; its contents may vanish at any start."""
        return self.folder / "scratch"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.folder / 'service.db'}"

    @property
    def files_url(self) -> str:
        return self.files or str(self.folder / "files")

    @property
    def ice(self) -> tuple[IceServer, ...]:
        """STUN and TURN servers.

        Raises:
            UsageError: One has another form.
        """
        try:
            return tuple(IceServer.parse(text) for text in self.ice_servers)
        except UsageError as error:
            raise UsageError(f"ice_servers: {error}") from error

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    def prepare(self) -> None:
        """Make the folders, which their owner alone may read, and see that settings fit together.

        Raises:
            UsageError: They do not.
            MediaError: A folder cannot be made.
        """
        if not self.keys and not self.local:
            raise UsageError(
                f"--no-keys: on {self.host} others reach the service, so it needs keys; "
                f"listen on 127.0.0.1, or make a key with: mien keys add"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("tls_cert and tls_key: give both, or none")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise UsageError(f"{path}: no such file")
        for origin in self.cors:
            if origin == "*" or "://" not in origin or origin.endswith("/"):
                raise UsageError(
                    f"cors {origin!r}: expected an origin like https://app.example.com"
                )
        _ = self.ice  # each can be read
        if find_spec("ray") is None:
            if self.executor == "ray":
                raise UsageError("executor = ray: Ray is not installed; pip install 'mien[scale]'")
            if self.replicas is not None:
                raise UsageError("replicas: Ray is not installed; pip install 'mien[scale]'")
        if self.data is None:
            home.folder()
        try:
            for folder in (self.folder, self.scratch):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be made ({error.strerror}); name a folder with --data"
            ) from error


def load(
    file: Path | str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    folder: Path | str = ".",
) -> tuple[ServiceSettings, config.Settings]:
    """Settings of the service, and those of the chain that its workers run.

    Args:
        file: As for :func:`mien.config.load`.
        environment: Instead of ``os.environ``.
        flags: Of the service; None means not given.
        folder: The working folder.

    Raises:
        UsageError: An unknown key or a wrong value; names where it stands.
    """
    environment = os.environ if environment is None else environment
    chain = config.load(file, environment=environment, folder=folder)
    given = {key: (f"[serve] {key}", value) for key, value in chain.serve.items()}
    given |= {
        name.removeprefix(PREFIX).lower(): (f"environment variable {name}", value)
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    given |= {
        key: (f"--{key.replace('_', '-')}", value)
        for key, value in (flags or {}).items()
        if value is not None
    }
    try:
        return ServiceSettings(**{key: value for key, (_, value) in given.items()}), chain
    except ValidationError as error:
        first = error.errors()[0]
        where, _ = given[str(first["loc"][0])]
        inner = ".".join(str(part) for part in first["loc"][1:])
        where = f"{where}.{inner}" if inner else where
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: unknown key") from error
        said = first["msg"].removeprefix("Value error, ")
        said = said[0].lower() + said[1:]
        # Not the value itself, which may hold a password.
        raise UsageError(f"{where}: {said}") from error


def _pairs(said: str) -> dict[str, str]:
    return {key: number for key, _, number in (pair.partition("=") for pair in said.split())}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
