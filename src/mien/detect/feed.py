"""What detectors of many makers share: how a picture goes in, and how a grid of cells is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from mien import runtime, zoo
from mien.detect.pictures import Fit, letterbox
from mien.errors import ModelError
from mien.types import Faces, Floats, Image
from mien.zoo.pixels import to_input

NORMAL: Final = 640
"""Longer side of the input of a network that takes any, unless another is asked for."""

STRIDES: Final = (8, 16, 32)
"""Pixels of the input to a cell of each of a network's three grids."""


class Network(Protocol):
    """One detection network: it finds faces in a picture."""

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """Find faces in an RGB picture.

        Args:
            image: ``(H, W, 3)`` uint8.
            side: Pixels of the input to which the picture's longer side is brought, at most the
                input's size where that is fixed; larger finds smaller faces, and where the size
                is free at a cost that grows with its square. 0 is the network's normal size.

        Returns:
            Faces with boxes and points in pixels of the picture, best first.
        """
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """How pictures go into one network.

    Attributes:
        card: Says layout, channels, normalisation, and the size if that is fixed.
        model: The network.
        width: Of the input in pixels; 0 where it is free.
        height: The same.
    """

    card: zoo.ModelCard
    model: runtime.Model
    width: int
    height: int

    def __call__(self, image: Image, side: int = 0) -> tuple[list[Any], Fit, tuple[int, int]]:
        """Run the network on one picture, at the top left of its input.

        Returns:
            Its outputs; the way back to the picture; height and width of the input.
        """
        rows, cols = image.shape[:2]
        width, height = self.width, self.height
        if not width or not height:
            scale = (side or NORMAL) / max(rows, cols)
            step = self.card.multiple
            width, height = (
                max(step, math.ceil(n * scale / step - 1e-6) * step) for n in (cols, rows)
            )
            side = 0  # the picture fills what was made for it
        canvas, fit = letterbox(image, width, height, centre=False, side=side)
        return self.model(to_input(canvas[None], self.card)), fit, (height, width)


def feed(card: zoo.ModelCard, model: runtime.Model, *outputs: int) -> Feed:
    """The way into a network, after a check of what it takes and how many outputs it has.

    Args:
        card: Of the model.
        model: The network.
        outputs: Numbers of outputs that can be read.

    Raises:
        ModelError: It is another kind of network.
    """
    name, shape = next(iter(model.inputs.items()))
    axes = (1, 2, 3) if card.layout == "NCHW" else (3, 1, 2)
    channels, *sides = (shape[i] for i in axes) if len(shape) == 4 else (0, 0, 0)
    if isinstance(channels, int) and channels != 3:
        raise ModelError(
            f"{model.name}: expected pictures of 3 channels, {card.layout}, came {name} {shape}"
        )
    height, width = (side if isinstance(side, int) else 0 for side in sides)
    if len(model.outputs) not in outputs:
        wanted = " or ".join(map(str, outputs))
        raise ModelError(
            f"{model.name}: a network of family {card.family} has {wanted} outputs, this one has "
            f"{len(model.outputs)}: {', '.join(model.outputs)}"
        )
    return Feed(card, model, width or card.size, height or card.size)


def columns(values: Any, count: int, width: int, what: str) -> Floats:
    """An output as ``(count, width)``, one row for each place that a face may be at.

    Raises:
        ModelError: It has another number of values.
    """
    if np.size(values) != count * width:
        raise ModelError(
            f"{what}: expected {count} rows of {width} numbers, came {np.shape(values)}"
        )
    return np.asarray(values, np.float32).reshape(count, width)


def cells(rows: int, cols: int, repeat: int = 1) -> Floats:
    """``(rows * cols * repeat, 2)`` column and row of each cell, row by row."""
    x, y = np.meshgrid(np.arange(cols, dtype=np.float32), np.arange(rows, dtype=np.float32))
    return np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), repeat, axis=0)


def sigmoid(values: Floats) -> Floats:
    """``1 / (1 + exp(-x))`` without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), np.float32)
