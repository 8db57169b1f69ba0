"""The file that the store of identities lies in: opening, migrating, and what can be wrong.

SQLite, with a rollback journal: beside a write-ahead log deleted pages would live on until a
checkpoint. ``secure_delete`` overwrites what is deleted with zeros in the same transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from mien.errors import MediaError

NAME: Final = "people.db"

APPLICATION: Final = 0x6D69656E
"""SQLite's application_id, ``mien`` in ASCII: a file with another one is somebody else's."""

PATIENCE: Final = 10.0
"""Seconds to wait while another process writes."""

STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE people (
        record TEXT PRIMARY KEY,
        name_key BLOB,
        basis TEXT NOT NULL,
        scope TEXT NOT NULL,
        expires TEXT NOT NULL,
        added TEXT NOT NULL,
        revoked TEXT NOT NULL DEFAULT ''
    );
    CREATE UNIQUE INDEX one_name ON people (name_key) WHERE revoked = '';
    CREATE TABLE sealed (
        record TEXT NOT NULL REFERENCES people (record),
        part TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (record, part)
    );
    """,
    """
    ALTER TABLE people ADD COLUMN verified TEXT NOT NULL DEFAULT '';
    ALTER TABLE people ADD COLUMN form_sha256 TEXT NOT NULL DEFAULT '';
    """,
)
"""Each step makes one version of the schema out of the one before, the first out of nothing."""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the store, in no transaction, of the present schema.

    Raises:
        MediaError: It cannot be opened, is damaged, no store, in use for too long, or made by a
            newer mien.
    """
    try:
        _make(path)
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA foreign_keys = ON")
            _check(db, path)
            yield db
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise MediaError(
                f"{path}: another process has been writing for {PATIENCE:.0f} s; try again"
            ) from error
        raise MediaError(f"{path}: cannot be read or written ({error})") from error
    except sqlite3.DatabaseError as error:
        raise MediaError(
            f"{path}: is damaged or no store of identities ({error}); put a copy back, or move it "
            f"away to begin anew"
        ) from error
    except OSError as error:
        if isinstance(error, MediaError | PermissionError) and not error.strerror:
            raise
        raise MediaError(f"{path}: cannot be opened ({error.strerror})") from error


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction: all that is written inside holds, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has undone it already
            db.execute("ROLLBACK")
        raise


def _make(path: Path) -> None:
    """Make an empty file that its owner alone may read, before SQLite would make a wider one."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _check(db: sqlite3.Connection, path: Path) -> None:
    version = _number(db, "user_version")
    if version == len(STEPS) and _number(db, "application_id") == APPLICATION:
        return
    with writing(db):  # two processes may both have come here
        version, tables = _number(db, "user_version"), _number(db, "schema_version")
        if (tables or version) and _number(db, "application_id") != APPLICATION:
            raise MediaError(
                f"{path}: is a database of another program; mien keeps its identities there, so "
                f"move it away"
            )
        if version > len(STEPS):
            raise MediaError(
                f"{path}: was written by a newer mien (schema {version}, this one knows "
                f"{len(STEPS)}); update mien"
            )
        for number, step in enumerate(STEPS[version:], version + 1):
            for statement in filter(str.strip, step.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute(f"PRAGMA application_id = {APPLICATION}")


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])
