"""What is kept between starts: optimised graphs, engines, and proofs of what ran where.

An entry is a folder that appears whole or not at all, under a key of everything it depends on. It
is trusted only in a folder that belongs to the user alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

ENTRY: Final = "entry.json"
DAYS: Final = 60
"""Entries that nobody used for so long are removed when another is written."""


def folder(setting: str) -> Path | None:
    """The cache folder, made if it is not there; None where nothing may be kept.

    That nothing is kept is no more than a note: all works without, and ``mien doctor`` says it.

    Args:
        setting: A folder; ``auto`` for the user's own cache folder; ``off``.
    """
    if setting == "off":
        return None
    place = usual() if setting == "auto" else Path(setting).expanduser()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            found = place.stat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                log.info(
                    "%s: others may write there, so nothing is cached; 'chmod 700 %s' mends it",
                    place,
                    place,
                )
                return None
    except OSError as error:
        log.info("%s: nothing is cached there (%s)", place, error.strerror)
        return None
    return place


def usual() -> Path:
    """The cache folder of the platform's rules (XDG base directories on Linux)."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mien"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mien"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "mien"


def key_of(path: Path, *parts: Any) -> str:
    """A name for what depends on a file, by where it is and when it changed, and on the parts."""
    return hashlib.sha256(repr((_source(path), parts)).encode()).hexdigest()[:32]


def _source(path: Path) -> list[str | int]:
    """Where a file is, and all that changes when it does."""
    found = path.stat()
    times = [found.st_mtime_ns, found.st_ctime_ns]
    return [str(path.resolve()), found.st_size, *times, found.st_ino]


@cache
def processor() -> str:
    """What of the processor decides how ONNX Runtime lays out a graph."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
            flags = next((li for li in lines if li.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"


def find(root: Path | None, kind: str, key: str) -> Path | None:
    """An entry that is whole; one that is not is removed."""
    if root is None:
        return None
    place = root / kind / key
    try:
        said = json.loads((place / ENTRY).read_text("utf-8"))
        whole = said["files"] == _inventory(place)
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if whole:
        os.utime(place / ENTRY)
        return place
    if place.exists():
        log.info("%s: damaged, made anew", place)
        drop(place)
    return None


def keep(
    root: Path | None, kind: str, key: str, source: Path, make: Callable[[Path], None]
) -> Path | None:
    """Make an entry in a folder of its own, which then takes its place in one step.

    Args:
        root: The cache folder; None keeps nothing and does not call ``make``.
        kind: Subfolder.
        key: Of :func:`key_of`.
        source: The file that the key is of; when it changes or goes, so does the entry.
        make: Writes files into the folder given; what it raises goes through.

    Returns:
        Where it is; None if it could not be kept.
    """
    if root is None:
        return None
    try:
        (root / kind).mkdir(mode=0o700, exist_ok=True)
        _prune(root / kind)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=root / kind))
    except OSError as error:
        log.info("%s: nothing is cached there (%s)", root, error.strerror)
        return None
    try:
        make(scratch)
        entry = {"files": _inventory(scratch), "source": _source(source)}
        (scratch / ENTRY).write_text(json.dumps(entry), "utf-8")
        scratch.rename(root / kind / key)
    except OSError as error:  # another process was first, or the disk is full
        log.info("%s: not kept (%s)", root / kind / key, error.strerror)
        return find(root, kind, key)
    finally:
        drop(scratch)
    return root / kind / key


def drop(place: Path) -> None:
    """Remove an entry, whatever is left of it."""
    shutil.rmtree(place, ignore_errors=True)


def free(root: Path) -> int:
    """Bytes that may still be written."""
    return shutil.disk_usage(root).free


def _inventory(place: Path) -> dict[str, list[int]]:
    """File → size and time of change, which any damage through the file system alters."""
    files = sorted(f for f in place.iterdir() if f.name != ENTRY)
    return {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in files}


def _prune(place: Path) -> None:
    """Remove what is of no more use: of files that changed or went, or long unused."""
    now = time.time()
    for entry in place.iterdir():
        mark = entry / ENTRY
        try:
            said = json.loads(mark.read_text("utf-8"))["source"]
            stale = said != _source(Path(said[0])) or mark.stat().st_mtime < now - DAYS * 86400
        except FileNotFoundError:
            # The source went; or the entry is in the making, unless its process died a day ago.
            stale = mark.exists() or (entry.exists() and entry.stat().st_mtime < now - 86400)
        except (OSError, ValueError, TypeError, LookupError):
            stale = True
        if stale:
            drop(entry)
