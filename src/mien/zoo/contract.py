"""Does a graph keep what its card says of inputs and outputs?"""

from __future__ import annotations

from mien.errors import ModelError
from mien.runtime import Model
from mien.zoo.card import ModelCard

Shape = tuple[int | str, ...]

EMBEDDING = 512
"""Length of the vectors that published generators and converters take."""

OWN = ("relight", "occlude")
"""Families whose stage builds an input of its own kind, of more than three channels."""


def check(card: ModelCard, model: Model) -> None:
    """Compare a loaded graph with its card, as far as the graph declares anything.

    Raises:
        ModelError: Says what was expected and what came.
    """
    shapes = list(model.inputs.values())
    expected, most = _inputs(card)
    if not len(expected) <= len(shapes) <= most:
        count = len(expected) if most == len(expected) else f"{len(expected)} to {most}"
        _refuse(card, model, f"{count} inputs ({', '.join(expected)})", f"{len(shapes)}")
    if card.family not in OWN:
        for kind, (name, shape) in _paired(card, model, expected):
            if kind == "a vector":
                _vector(card, model, name, shape)
            else:
                size = card.size
                if kind == "the source's picture" and card.swap is not None:
                    size = card.swap.source_size
                _picture(card, model, name, shape, size)
    if len(model.outputs) < len(card.outputs):
        names = ", ".join(card.outputs)
        _refuse(card, model, f"{len(card.outputs)} outputs ({names})", f"{len(model.outputs)}")


def _inputs(card: ModelCard) -> tuple[tuple[str, ...], int]:
    """What the inputs must be, and how many there may be at most."""
    if card.task == "convert":
        return ("a vector",), 1
    if card.task == "generate" and card.swap is not None:
        if card.swap.source == "image":
            return ("the source's picture", "a picture"), 2
        if card.swap.source == "embedding":
            return ("a picture", "a vector"), 2
        return ("a picture",), 2  # of those with one person in them, some take a degree of morphing
    return ("a picture",), 2 if card.task == "enhance" else 1  # CodeFormer takes a weight


def _paired(
    card: ModelCard, model: Model, expected: tuple[str, ...]
) -> list[tuple[str, tuple[str, Shape]]]:
    """Which input is which; by name where graphs use these names, by rank or order elsewhere."""
    inputs = list(model.inputs.items())
    if card.swap is not None and {"source", "target"} == set(model.inputs):
        source = "a vector" if card.swap.source == "embedding" else "the source's picture"
        kinds = {"source": source, "target": "a picture"}
        return [(kinds[name], (name, shape)) for name, shape in inputs]
    if "a vector" in expected:
        inputs.sort(key=lambda item: len(item[1]), reverse=expected[0] == "a picture")
    elif len(expected) == 1:
        inputs.sort(key=lambda item: len(item[1]), reverse=True)
    return list(zip(expected, inputs, strict=False))


def _picture(card: ModelCard, model: Model, name: str, shape: Shape, size: int) -> None:
    side = size or "any"
    wanted: Shape = (3, side, side) if card.layout == "NCHW" else (side, side, 3)
    fits = len(shape) == 4 and all(
        isinstance(want, str) or not isinstance(have, int) or have == want
        for have, want in zip(shape[1:], wanted, strict=True)
    )
    if not fits:
        _refuse(card, model, f"input {name} (N, {', '.join(map(str, wanted))})", _said(shape))


def _vector(card: ModelCard, model: Model, name: str, shape: Shape) -> None:
    if len(shape) != 2 or shape[1] not in (EMBEDDING, *filter(_free, shape)):
        _refuse(card, model, f"input {name} (N, {EMBEDDING})", _said(shape))


def _free(side: int | str) -> bool:
    return not isinstance(side, int)


def _said(shape: Shape) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _refuse(card: ModelCard, model: Model, expected: str, came: str) -> None:
    raise ModelError(
        f"{model.name}: not a network of the kind {card.family}: expected {expected}, came {came}"
    )
