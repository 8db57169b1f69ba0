"""A finished model takes its place: file, report and card, all or none."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien import zoo
from mien.errors import MediaError, UsageError


def name_for(card: zoo.ModelCard, precision: str, models: zoo.Zoo) -> str:
    """``NAME_int8``, or ``NAME_int8_own`` where mien brings one of that name itself."""
    name = f"{card.name}_{precision}"
    return f"{name}_own" if any(known.name == name for known in zoo.CARDS) else name


def check_place(file: Path, models: zoo.Zoo, name: str, *, overwrite: bool) -> None:
    """See, before any work, that a model can be put there.

    Raises:
        UsageError: Something is there already, or the folder is not.
    """
    if file.parent != models.folder and not file.parent.is_dir():
        raise UsageError(f"{file}: the folder {file.parent} does not exist")
    there = [p for p in (file, _card_file(models, name)) if p.exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]}: is there already; add --overwrite to replace it")


def keep(
    made: Mapping[Path, Path], file: Path, card: zoo.ModelCard, models: zoo.Zoo
) -> zoo.ModelCard:
    """Move files to their places and write the card.

    Args:
        made: Place → file that goes there.
        file: Where the model goes.
        card: Of the model.
        models: Whose folder holds the card.

    Returns:
        The card, as it will be read again.

    Raises:
        MediaError: The folder cannot be written; nothing is left behind.
    """
    placed: list[Path] = []
    try:
        place = _card_file(models, card.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        for target, source in made.items():
            os.replace(source, target)
            placed.append(target)
        text = _toml(_values(card, models))
        placed.append(place)
        place.write_text(text, "utf-8")
    except OSError as error:
        for target in placed:
            target.unlink(missing_ok=True)
        raise MediaError(f"{file}: cannot be written ({error.strerror})") from error
    return zoo.own.read(place, zoo.CARDS)


def _card_file(models: zoo.Zoo, name: str) -> Path:
    return models.folder / "cards" / f"{name}.toml"


def _values(card: zoo.ModelCard, models: zoo.Zoo) -> dict[str, Any]:
    """What the card says besides what the model that it is like says."""
    mother = _card_file(models, card.full)
    values: dict[str, Any] = {"like": card.full}
    if mother.is_file():  # a user's own, which is like one that mien knows
        values = tomllib.loads(mother.read_text("utf-8"))
    return values | {
        "name": card.name, "file": card.file, "licence": card.licence,
        "commercial": card.commercial, "origin": card.origin, "sha256": card.sha256,
        "bytes": card.bytes, "sources": [], "precision": card.precision, "full": card.full,
    }  # fmt: skip


def _toml(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    """In TOML, which writes texts, numbers and lists as JSON does."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
