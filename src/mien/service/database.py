"""Rows of the service: keys, identities, jobs and their parts, files, events, deliveries.

SQLite by default, PostgreSQL by a URL. Times are seconds since 1970, so that they compare alike in
both. Every row of a tenant names the tenant, and every query asks for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from mien.errors import MediaError

ID: Final = 32
"""Letters of an id: 128 random bits, which nobody guesses."""


LOCK: Final = 0x6D69656E
"""Of PostgreSQL's advisory locks the one for migrations."""


def new_id() -> str:
    """A new id."""
    return secrets.token_hex(ID // 2)


class Row(DeclarativeBase):
    """What all tables share."""


class Key(Row):
    """An API key. The secret is random, so a plain SHA-256 of it is as good as a slow one."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200), default="")
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[str] = mapped_column(String(200))
    """Names with commas between: identities, swaps, jobs, live, verify."""
    quotas: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """``jobs`` at a time, ``calls`` a minute, ``bytes`` kept; what is missing is the server's."""
    created: Mapped[float] = mapped_column(Float, default=time.time)
    revoked: Mapped[float | None] = mapped_column(Float)
    used: Mapped[float | None] = mapped_column(Float)


class Person(Row):
    """An identity of a tenant; ``sealed`` is gone when it is revoked, the fact stays."""

    __tablename__ = "identities"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200), default="")
    basis: Mapped[str] = mapped_column(String(32))
    note: Mapped[str] = mapped_column(Text, default="")
    scope: Mapped[str] = mapped_column(String(64), default="")
    expires: Mapped[str] = mapped_column(String(32), default="")
    verified: Mapped[str] = mapped_column(String(32), default="")
    embedder: Mapped[str] = mapped_column(String(200), default="")
    added: Mapped[float] = mapped_column(Float, default=time.time)
    revoked: Mapped[float | None] = mapped_column(Float)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)


class File(Row):
    """A file in the store: an upload, a result, tracks, or a part of a video."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str | None] = mapped_column(String(ID), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255), default="")
    path: Mapped[str] = mapped_column(String(255), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), default="")
    media_type: Mapped[str] = mapped_column(String(100), default="application/octet-stream")
    created: Mapped[float] = mapped_column(Float, default=time.time)
    expires: Mapped[float | None] = mapped_column(Float, index=True)


STATES: Final = ("queued", "running", "paused", "done", "failed", "canceled")
"""Of a job. ``paused`` waits for a disk or a store to come back, and goes on by itself."""


class Job(Row):
    """One video, or some pictures, to be swapped."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    key: Mapped[str] = mapped_column(String(ID))
    kind: Mapped[str] = mapped_column(String(16))
    """``video`` or ``images``."""
    state: Mapped[str] = mapped_column(String(16), default="queued")
    asked: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As the request said it: identities, faces, options, webhook."""
    plan: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """What the first worker found: cuts, time base, frames, counts."""
    output_id: Mapped[str] = mapped_column(String(32), default="")
    created: Mapped[float] = mapped_column(Float, default=time.time, index=True)
    started: Mapped[float | None] = mapped_column(Float)
    ended: Mapped[float | None] = mapped_column(Float)
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int | None] = mapped_column(Integer)
    stage: Mapped[str] = mapped_column(String(16), default="follow")
    """What is to be done next: ``follow``, ``paint`` or ``join``."""
    identities: Mapped[str] = mapped_column(Text, default="")
    """Ids with commas between."""
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """Errors since something was done."""
    deaths: Mapped[int] = mapped_column(Integer, default=0)
    """Workers that went away with it since something was done."""
    due: Mapped[float | None] = mapped_column(Float)
    """Not to be worked on before."""
    owner: Mapped[str | None] = mapped_column(String(64))
    """Worker that follows or joins it at the moment."""
    lease: Mapped[float | None] = mapped_column(Float)
    """Until when the owner has it, unless it says so again."""
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """RFC 9457, why it failed or is paused."""
    __table_args__ = (Index("jobs_state_created", "state", "created"),)


class Part(Row):
    """One part of a video, or one picture; ``done`` once its file is in the store and named here.

    ``first`` and ``end`` are times in ticks; of a picture ``first`` is its place in the list.
    """

    __tablename__ = "parts"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    first: Mapped[int] = mapped_column(BigInteger)
    end: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="queued")
    frames: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(64))
    lease: Mapped[float | None] = mapped_column(Float)
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Of a picture that failed; the others go on."""
    file: Mapped[str | None] = mapped_column(ForeignKey("files.id"))


class Event(Row):
    """What happened to a job, in order; for server-sent events."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(String(ID), index=True)
    at: Mapped[float] = mapped_column(Float, default=time.time)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class Delivery(Row):
    """A webhook to be called, and again until it answers or is given up."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64))
    job: Mapped[str] = mapped_column(String(ID), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    due: Mapped[float | None] = mapped_column(Float, index=True)
    """When to try next; None once it is delivered or given up."""
    status: Mapped[int | None] = mapped_column(Integer)


class Answer(Row):
    """What was answered to a request with an idempotency key."""

    __tablename__ = "answers"
    id: Mapped[str] = mapped_column(String(ID), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(255))
    request: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body."""
    status: Mapped[int | None] = mapped_column(Integer)
    """None while the first request is being worked on."""
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created: Mapped[float] = mapped_column(Float, default=time.time, index=True)
    __table_args__ = (UniqueConstraint("tenant", "key"),)


class Database:
    """Connections to the rows.

    Attributes:
        url: As SQLAlchemy takes it.
        engine: Of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = connect(url)
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(
            self.engine.execution_options(mien_reads=True), expire_on_commit=False
        )

    @contextmanager
    def __call__(self, *, write: bool = True) -> Iterator[Session]:
        """A session in one transaction: committed at the end, rolled back on an error.

        Args:
            write: False where rows are only read, which waits for nobody.
        """
        with (self._write if write else self._read).begin() as session:
            yield session

    def upgrade(self) -> None:
        """Bring the tables into the present shape; one process at a time does it.

        Raises:
            MediaError: The database cannot be reached, or is of a later mien.
        """
        from alembic import command  # noqa: PLC0415 - slow
        from alembic.util import CommandError  # noqa: PLC0415

        config = alembic_config()
        try:
            with self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise MediaError(
                f"{self.shown}: its tables are of a later version of mien ({error})"
            ) from error
        except SQLAlchemyError as error:
            raise MediaError(
                f"{self.shown}: the database cannot be used ({_said(error)})"
            ) from error

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return make_url(self.url).render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def alembic_config() -> Any:
    """Where the migrations are."""
    from alembic.config import Config  # noqa: PLC0415 - slow

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config


def _said(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def connect(url: str) -> Engine:
    """An engine; SQLite's waits for other writers, and keeps what was committed."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    if make_url(url).database in (None, "", ":memory:"):  # one connection is one database
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.isolation_level = None  # sqlite3's own begins too late, see below

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # At once for writing: one that reads first and then wants to write could not wait.
        reads = connection.get_execution_options().get("mien_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
