"""A user's own cards: TOML files that say which known model theirs is like, and what differs."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from mien.errors import ModelError
from mien.zoo.card import ModelCard, Swap, Template, Triple
from mien.zoo.templates import TEMPLATES, scaled

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

RESERVED: Final = ("mesh", "warp", "none")
"""Names that mean something else where a model's name is expected."""

FIELDS: Final = {
    key: kind for key, kind in get_type_hints(ModelCard).items() if key not in ("shipped", "swap")
}
SWAP_FIELDS: Final = get_type_hints(Swap)

LIMITS: Final = {
    "bytes": (0, 2**40), "size": (0, 8192), "multiple": (1, 1024), "scale": (1, 16),
    "source_size": (0, 8192), "threshold": (-1e3, 1e3), "offset": (-1e3, 1e3), "sharpen": (0, 10),
}  # fmt: skip


def cards_of(folder: Path, known: Sequence[ModelCard]) -> tuple[ModelCard, ...]:
    """All cards in ``folder/cards``, in the order of their names.

    Raises:
        ModelError: One of them is wrong; names the file and the key.
    """
    own: dict[str, ModelCard] = {}
    for file in sorted((folder / "cards").glob("*.toml")):
        card = read(file, known)
        if card.name in own:
            raise ModelError(f"{file}: name: {card.name} has a card already")
        own[card.name] = card
    return tuple(own.values())


def read(file: Path, known: Sequence[ModelCard]) -> ModelCard:
    """Read one card.

    Args:
        file: TOML; its name without ``.toml`` is the model's unless it says another.
        known: Cards that ``like`` may name, whose names it may not take.

    Raises:
        ModelError: Not TOML, an unknown key or a value of the wrong kind; names file and key.
    """
    try:
        given = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: is not valid TOML ({error})") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    try:
        return card_of({"name": file.stem} | given, known)
    except ValueError as error:
        raise ModelError(f"{file}: {error}") from error


def name_of(file: Path) -> str:
    """The name in a card, whatever else is in it."""
    try:
        return str(tomllib.loads(file.read_text("utf-8")).get("name", file.stem))
    except (OSError, ValueError):
        return file.stem


def card_of(given: dict[str, Any], known: Sequence[ModelCard]) -> ModelCard:
    """A card from the keys of a TOML file.

    Licence, origin, hash, length and sources are of a file and not of its kind, so they do not
    come from the model that it is like: without them, a licence is unknown and forbids commercial
    use.

    Raises:
        ValueError: ``key: what was expected, what came``.
    """
    given = dict(given)
    like = given.pop("like", None)
    pattern = next((card for card in known if card.name == like), None)
    if pattern is None:
        raise ValueError(f"like: expected the name of a model that mien knows, came {like!r}")
    swap = given.pop("swap", {})
    values = _values(given, FIELDS, "")
    name, file = values["name"], values.get("file", "")
    check_name(name, known)
    check_file(file)
    size = values.get("size", pattern.size)
    if isinstance(values.get("template"), str):
        values["template"] = scaled(values["template"], size)
    elif pattern.size and "template" not in values:
        factor = size / pattern.size
        values["template"] = tuple((x * factor, y * factor) for x, y in pattern.template)
    fresh: dict[str, Any] = {
        "licence": "unknown", "commercial": False, "origin": "your own", "sha256": "",
        "bytes": 0, "sources": (), "full": "", "shipped": False, "swap": _swap(pattern, swap, size),
    }  # fmt: skip
    card = replace(pattern, **(fresh | values))
    if not all(card.std) or (card.swap is not None and not all(card.swap.source_std)):
        raise ValueError("std: expected numbers other than 0")
    if not card.sha256 and any(s.startswith("http://") for s in card.sources):
        raise ValueError("sources: http:// needs a sha256, because nothing else protects the file")
    return card


def check_name(name: str, known: Sequence[ModelCard]) -> None:
    """See that a name may be given to a model of a user.

    Raises:
        ValueError: It is no plain word, or means something already.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"name: expected letters, digits, dots, hyphens and underscores, came {name!r}"
        )
    if name in RESERVED or any(card.name == name for card in known):
        raise ValueError(f"name: {name!r} is the name of a model that mien knows; choose another")


def check_file(file: str) -> None:
    """See that a file is a full path, or a name inside the folder of models.

    Raises:
        ValueError: It is neither.
    """
    plain = PurePosixPath(file).name == file and PureWindowsPath(file).name == file
    if not file or "\0" in file or file == ".." or not (plain or Path(file).is_absolute()):
        raise ValueError(
            f"file: expected a name in the folder of models, or a full path, came {file!r}"
        )


def _swap(pattern: ModelCard, given: Any, size: int) -> Swap | None:
    if not isinstance(given, dict):
        raise ValueError(f"swap: expected a table, came {given!r}")
    if pattern.swap is None:
        if given:
            raise ValueError(f"swap: {pattern.name} makes no faces, so there is nothing to set")
        return None
    values = _values(given, SWAP_FIELDS, "swap.")
    if isinstance(values.get("source_template"), str):
        side = values.get("source_size", pattern.swap.source_size or size)
        values["source_template"] = scaled(values["source_template"], side)
    return replace(pattern.swap, **values)


def _values(given: dict[str, Any], fields: dict[str, Any], prefix: str) -> dict[str, Any]:
    values = {}
    for key, value in given.items():
        if key not in fields:
            known = ", ".join(("like", *fields, "swap") if not prefix else fields)
            raise ValueError(f"{prefix}{key}: unknown key; known are {known}")
        try:
            values[key] = _value(fields[key], value)
            _bounded(key, values[key])
        except TypeError as error:
            raise ValueError(f"{prefix}{key}: expected {error}, came {value!r}") from error
    return values


def _bounded(key: str, value: Any) -> None:
    if key in LIMITS:
        low, high = LIMITS[key]
        if not low <= value <= high:
            raise TypeError(f"a number from {low:g} to {high:g}")
    if key == "sha256" and not re.fullmatch(r"[0-9a-f]{64}|", value):
        raise TypeError("64 hexadecimal digits in small letters")
    if key == "sources" and not all(v.startswith(("https://", "http://")) for v in value):
        raise TypeError("addresses that begin with https://")


def _value(kind: Any, value: Any) -> Any:  # noqa: PLR0911 - a table of kinds
    """A TOML value as a field of a card; TypeError says what was expected."""
    if kind in (str, bool):
        if type(value) is kind:
            return value
        raise TypeError("text" if kind is str else "true or false")
    if kind is int:
        if type(value) is int:
            return value
        raise TypeError("a whole number")
    if kind is float:
        return _number(value)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise TypeError(f"one of {', '.join(get_args(kind))}")
    if kind == Triple:
        three = [value] * 3 if not isinstance(value, list) else value
        if len(three) == 3:
            return tuple(_number(v) for v in three)
        raise TypeError("a number, or three of them")
    if kind == Template:
        return _template(value)
    if kind == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise TypeError("a list of texts")
    return _outputs(value)


def _number(value: Any) -> float:
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise TypeError("a number")


def _template(value: Any) -> Any:
    if isinstance(value, str) and value in TEMPLATES:
        return value
    if (
        isinstance(value, list)
        and len(value) in (0, 5)
        and all(isinstance(point, list) and len(point) == 2 for point in value)
    ):
        return tuple((_number(x), _number(y)) for x, y in value)
    raise TypeError(f"five points [x, y] in pixels, or one of {', '.join(TEMPLATES)}")


def _outputs(value: Any) -> dict[str, tuple[int | str, ...]]:
    if isinstance(value, dict) and all(
        isinstance(shape, list) and all(type(side) in (int, str) for side in shape)
        for shape in value.values()
    ):
        return {name: tuple(shape) for name, shape in value.items()}
    raise TypeError("a table of names and shapes")


def to_toml(values: dict[str, str | bool | int]) -> str:
    """The text of a card: strings, numbers and truth values only, which TOML writes as JSON."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "\n".join(lines).replace("\x7f", "\\u007f") + "\n"
