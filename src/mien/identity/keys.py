"""The key that the store of identities is sealed with, and where it lies.

It lies in the system's keyring where a working one is installed (``pip install mien[keyring]``),
else in a file that its owner alone may read. Whoever has the folder without the key has nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from mien.errors import MediaError, Refused

Place = Literal["keyring", "file"]

FILE: Final = "key"
"""Name of the key file in mien's folder."""

NEXT: Final = "next"
"""Of the key that takes over, while it does."""

BYTES: Final = 32
"""Of a key: AES-256."""

_FORM: Final = "mien-key-1:"
"""What stands before the key's Base64, in the file and in the keyring."""

_SERVICE: Final = "mien"


def choose() -> Place:
    """Where a new key is to lie: in the keyring if it works."""
    return "file" if _keyring() is None else "keyring"


def read(folder: Path, place: Place, which: str = "") -> bytes | None:
    """The key, None if there is none.

    Args:
        folder: Of the store.
        place: Where the key lies.
        which: Empty for the key in use, or :data:`NEXT`.

    Raises:
        Refused: Others may read the key file.
        MediaError: It cannot be read, or what is there is no key.
    """
    if place == "keyring":
        ring = _keyring()
        if ring is None:
            raise MediaError(
                f"{folder}: the key is in the system's keyring, which does not answer; unlock it, "
                f"or install what reads it: pip install mien[keyring]"
            )
        try:
            text = ring.get_password(_SERVICE, _entry(folder, which))
        except Exception as error:  # each keyring has errors of its own
            raise MediaError(f"the system's keyring does not give mien's key ({error})") from error
        return None if text is None else _decoded(text, "the key in the system's keyring")
    path = _path(folder, which)
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode)
            return _decoded(file.read(200).decode("ascii", "replace"), str(path))
    except FileNotFoundError:
        return None
    except Refused:
        raise
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: the key cannot be read ({error.strerror})") from error


def write(folder: Path, place: Place, key: bytes, which: str = "") -> None:
    """Keep a key; an earlier one in the same place is replaced.

    Raises:
        MediaError: It cannot be written.
    """
    text = _FORM + base64.b64encode(key).decode("ascii")
    if place == "keyring":
        ring = _keyring()
        try:
            if ring is None:
                raise OSError("it does not answer")
            ring.set_password(_SERVICE, _entry(folder, which), text)
        except Exception as error:
            raise MediaError(f"the system's keyring does not take mien's key ({error})") from error
        return
    path = _path(folder, which)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        _overwrite(path)
        hidden.replace(path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise MediaError(f"{path}: the key cannot be written ({error.strerror})") from error


def drop(folder: Path, place: Place, which: str) -> None:
    """Forget a key, if it is there."""
    if place == "keyring":
        with suppress(Exception):  # it is not there
            ring = _keyring()
            if ring is not None:
                ring.delete_password(_SERVICE, _entry(folder, which))
        return
    path = _path(folder, which)
    with suppress(OSError):
        _overwrite(path)
        path.unlink(missing_ok=True)


def _path(folder: Path, which: str) -> Path:
    return folder / (f"{FILE}.{which}" if which else FILE)


def _entry(folder: Path, which: str) -> str:
    """Name of the entry in the keyring: folders have keys of their own."""
    return f"{folder.resolve()}#{which}" if which else str(folder.resolve())


def _decoded(text: str, where: str) -> bytes:
    text = text.strip()
    try:
        if not text.startswith(_FORM):
            raise ValueError
        key = base64.b64decode(text.removeprefix(_FORM), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != BYTES:
        raise MediaError(f"{where}: expected a key of mien, which begins with {_FORM!r}")
    return key


def _check_mode(path: Path, mode: int) -> None:
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise Refused(
            f"{path}: others may read the key (mode {stat.S_IMODE(mode):04o}), by the rule that "
            f"keys are their owner's alone; mend it with: chmod 600 {path}"
        )


def _overwrite(path: Path) -> None:
    """Write zeros over a key that is to go, as far as the file system does that in place."""
    with suppress(FileNotFoundError), path.open("rb+") as file:
        file.write(b"0" * path.stat().st_size)
        file.flush()
        os.fsync(file.fileno())


def _keyring() -> Any | None:
    """The system's keyring; None if there is none, or one that keeps words openly."""
    try:
        import keyring  # noqa: PLC0415 - only where it is needed, and only if it is installed
        from keyring.backends.fail import Keyring as NoKeyring  # noqa: PLC0415

        ring = keyring.get_keyring()
    except Exception:  # not installed, or its configuration names what is not there
        return None
    if isinstance(ring, NoKeyring) or getattr(ring, "priority", 0) < 1:
        return None
    return ring
