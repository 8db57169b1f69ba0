"""Where policy.toml lies, and how it is read."""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from mien import home
from mien.errors import UsageError
from mien.policy.rules import Policy
from mien.policy.use import Use
from mien.types import Identity

FILE: Final = "policy.toml"
VARIABLE: Final = "MIEN_POLICY"

SYSTEM: Final = (
    Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "mien" / FILE
    if sys.platform == "win32"
    else Path("/etc/mien") / FILE
)
"""The file of the whole machine, which its administrator alone may write."""

LARGEST: Final = 1 << 20
"""Bytes of a policy file."""


def load(path: Path | str | None = None, *, system: Path = SYSTEM) -> Policy:
    """Read the policy in force.

    Args:
        path: A file instead of that.
        system: Where the machine's own would be.

    Raises:
        UsageError: The file is missing or no TOML, or has an unknown key or a wrong value; names
            file and key.
    """
    found = find(system) if path is None else Path(path)
    if found is None:
        return Policy()
    try:
        if found.stat().st_size > LARGEST:
            raise UsageError(f"{found}: is larger than a policy may be ({LARGEST} bytes)")
        content = found.read_bytes()
        values = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{found}: is not valid TOML ({error})") from error
    except OSError as error:
        raise UsageError(f"{found}: cannot be read ({error.strerror})") from error
    for own in ("where", "sha256"):
        if own in values:
            raise UsageError(f"{found}: unknown key {own!r}")
    try:
        read = Policy(**values, where=str(found), sha256=hashlib.sha256(content).hexdigest())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{found}: unknown key {key!r}") from error
        said = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError(f"{found}: {key}: {said}, not {first['input']!r}") from error
    return _from_its_folder(read, found.absolute().parent)


def find(system: Path = SYSTEM) -> Path | None:
    """The file in force; None where there is none.

    Raises:
        UsageError: ``MIEN_POLICY`` names a file that is not there.
    """
    if system.is_file():
        return system
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise UsageError(f"environment variable {VARIABLE}: {named}: no such file")
        return Path(named)
    own = home.place() / FILE
    return own if own.is_file() else None


def permit(identities: Iterable[Identity], use: Use, policy: Policy | None = None) -> Policy:
    """Let a use pass by the policy in force, or refuse it; see :meth:`Policy.permit`."""
    policy = load() if policy is None else policy
    policy.permit(identities, use)
    return policy


def _from_its_folder(policy: Policy, folder: Path) -> Policy:
    """Relative paths of a policy lie beside it."""
    tables = {
        "audit": policy.audit.model_copy(
            update={"key": policy.audit.key and folder / policy.audit.key}
        ),
        "deny": policy.deny.model_copy(
            update={"lists": tuple(folder / p for p in policy.deny.lists)}
        ),
        "classifier": tuple(
            c.model_copy(update={"model": folder / c.model}) for c in policy.classifier
        ),
    }
    return policy.model_copy(update=tables)
