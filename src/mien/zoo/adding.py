"""Adding a user's own model, and taking models away."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from mien import runtime
from mien.errors import ModelError, ModelNotFound, UsageError
from mien.zoo import contract, own, pins
from mien.zoo.card import ModelCard
from mien.zoo.folder import make, write
from mien.zoo.store import CARDS, Zoo


def add(
    models: Zoo,
    file: Path,
    *,
    like: str,
    name: str,
    licence: str = "",
    commercial: bool = False,
    size: int | None = None,
    copy: bool = False,
) -> ModelCard:
    """Give a model of one's own a card in the folder.

    Nothing is written before the file has been loaded and found to be of the kind that it is said
    to be.

    Args:
        models: Names the folder.
        file: An ONNX file.
        like: The model whose card is taken for all that is not said.
        name: What it is to be called.
        licence: Of the weights; unknown if not given.
        commercial: The licence allows commercial use.
        size: Side of its input, where it is not that of the model that it is like; patterns take
            it from the graph.
        copy: Copy the file into the folder; else it stays where it is.

    Returns:
        The card, as it will be read from now on.

    Raises:
        UsageError: The name, the model that it is like or the file is none.
        ModelError: The file is no graph, or one of another kind.
        MediaError: The folder cannot be written.
    """
    file = file.expanduser().absolute()
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    values: dict[str, Any] = {"like": like, "name": name, "file": str(file)}
    if copy:
        values["file"] = f"{name}{file.suffix}"
    values |= {"licence": licence or "unknown", "commercial": commercial}
    if size is not None:
        values["size"] = size
    card = _card(values)
    if any(known.name == name for known in models.cards):
        raise UsageError(f"name: {name!r} has a card already; 'mien models remove {name}' first")
    kept = models.locate(card)
    if copy and kept.exists():
        raise UsageError(f"{kept}: is there already; choose another name")
    loaded = runtime.load(file, models.device, name=name)
    pattern = next(known for known in CARDS if known.name == like)
    if not pattern.file and size is None:
        values["size"] = _side(loaded) or pattern.size
        card = _card(values)
    contract.check(card, loaded)
    del loaded
    values |= {"sha256": pins.digest(file), "bytes": file.stat().st_size}
    card = _card(values)
    make(models.folder)
    if copy:
        _copy(models, file, kept, card)
    write(models.folder / "cards" / f"{name}.toml", own.to_toml(values))
    pins.check(card, kept, models.folder)
    return card


def remove(models: Zoo, card: ModelCard) -> list[Path]:
    """Delete a model's file, its card if a user made it, and its pin.

    A user's file outside the folder stays, and so does one that another card names too.

    Returns:
        What was deleted.

    Raises:
        UsageError: The model ships with mien.
        ModelNotFound: There is nothing to delete.
    """
    if card.shipped:
        raise UsageError(f"model {card.name} is part of mien and cannot be removed")
    doomed = [pins.pin_of(card, models.folder)]
    if all(known.name != card.name for known in CARDS):
        doomed += [
            f for f in (models.folder / "cards").glob("*.toml") if own.name_of(f) == card.name
        ]
    shared = any(known.file == card.file for known in models.cards if known.name != card.name)
    if card.file and not Path(card.file).is_absolute() and not shared:
        doomed += [models.folder / card.file, models.folder / "partial" / card.file / "part"]
    gone = []
    for file in doomed:
        if file.is_file() or file.is_symlink():
            file.unlink()
            gone.append(file)
    if card.file:
        shutil.rmtree(models.folder / "partial" / Path(card.file).name, ignore_errors=True)
    if not gone:
        raise ModelNotFound(f"model {card.name} is not there, so there is nothing to remove")
    return gone


def _card(values: dict[str, Any]) -> ModelCard:
    try:
        return own.card_of(values, CARDS)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _side(model: runtime.Model) -> int:
    """The side of a square picture input, as far as the graph says; 0 if it does not."""
    shapes = [shape for shape in model.inputs.values() if len(shape) == 4]
    sides = {n for shape in shapes for n in shape[1:] if isinstance(n, int) and n > 3}
    return sides.pop() if len(sides) == 1 else 0


def _copy(models: Zoo, file: Path, kept: Path, card: ModelCard) -> None:
    """Copy a file so that it appears when it is whole and loads where it is to stay."""
    there = models.folder / "partial" / kept.name / "part.onnx"
    make(there.parent)
    try:
        shutil.copyfile(file, there)
        if pins.digest(there) != card.sha256:
            raise ModelError(f"{file}: changed while it was copied")
        try:
            runtime.load(there, models.device, name=card.name)
        except ModelError as error:
            raise ModelError(
                f"{file}: cannot be copied alone, because it keeps weights in further files; "
                f"add it without --copy ({error})"
            ) from error
        os.replace(there, kept)
    finally:
        shutil.rmtree(there.parent, ignore_errors=True)
        with suppress(OSError):  # another file is on its way
            there.parent.parent.rmdir()
