"""SHA-256 of models: checked against the card, or against what it was when first used.

``pins/NAME.json`` in the models' folder holds the hash of a file together with its size and time
of change, so that a large file is hashed once and not at every start. Each model has a file of
its own: processes that pin at the same time cannot undo each other's work.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.errors import ModelError
from mien.zoo.card import ModelCard
from mien.zoo.folder import write

log = logging.getLogger(__name__)


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error


def pin_of(card: ModelCard, folder: Path) -> Path:
    """The file that holds a model's pin."""
    return folder / "pins" / f"{card.name}.json"


def pinned(card: ModelCard, folder: Path) -> str:
    """The hash that a model has been pinned to; empty if it has not.

    Raises:
        ModelError: The pin cannot be read.
    """
    return str(_read(pin_of(card, folder)).get("sha256", ""))


def check(
    card: ModelCard,
    file: Path,
    folder: Path,
    *,
    fresh: bool = False,
    names: Mapping[str, str] | None = None,
) -> str:
    """Check a file against its card, or else its pin; pin it if there is neither.

    Args:
        card: What the file is to be.
        file: Is there.
        folder: Of the models; holds the pins.
        fresh: Hash the file even if it looks unchanged.
        names: SHA-256 → name of other models, to say whose file it is.

    Returns:
        Its SHA-256.

    Raises:
        ModelError: The hash is another one, or the pin cannot be read.
    """
    pin = pin_of(card, folder)
    known = _read(pin)
    stat = file.stat()
    seen = {"file": str(file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    same = not fresh and all(known.get(key) == value for key, value in seen.items())
    found = str(known["sha256"]) if same else digest(file)
    if card.sha256 and found != card.sha256:
        other = (names or {}).get(found)
        whose = f", which is the file of {other}" if other else ""
        raise ModelError(f"{file}: expected SHA-256 {card.sha256}, came {found}{whose}")
    if not card.sha256 and known and found != known["sha256"]:
        raise ModelError(
            f"{file}: expected SHA-256 {known['sha256']} as when it was first used, came {found}; "
            f"if the change is yours, delete {pin}"
        )
    if not same:
        _remember(card, pin, {"sha256": found, **seen}, first=not known)
    return found


def _remember(card: ModelCard, pin: Path, seen: dict[str, Any], *, first: bool) -> None:
    try:
        write(pin, json.dumps(seen, indent=2) + "\n")
    except OSError as error:  # an air-gapped folder may be read-only
        level = logging.DEBUG if card.sha256 else logging.WARNING
        log.log(level, "%s: the hash cannot be kept (%s)", pin, error.strerror)
        return
    if first and not card.sha256:
        log.info("%s: no SHA-256 has been published; pinned to %s", card.name, seen["sha256"])


def _read(pin: Path) -> dict[str, Any]:
    try:
        known = json.loads(pin.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{pin}: not a pin that can be read; delete it ({error})") from error
    if not isinstance(known, dict) or not isinstance(known.get("sha256"), str):
        raise ModelError(f"{pin}: expected an object with a sha256; delete it")
    return known
