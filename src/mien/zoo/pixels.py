"""Pixels in the form that a card asks for, through the network, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from mien.errors import ModelError
from mien.runtime import Model
from mien.types import Floats, Image
from mien.zoo.card import ModelCard


def to_input(images: Image, card: ModelCard) -> Floats:
    """Pictures as a network is fed.

    Args:
        images: ``(N, H, W, 3)`` uint8 RGB.
        card: Names layout, order of channels, mean and standard deviation.

    Returns:
        ``(N, H, W, 3)`` or ``(N, 3, H, W)`` float32, C-contiguous.
    """
    ordered = images[..., ::-1] if card.order == "BGR" else images
    values = ordered.astype(np.float32)
    values -= np.array(card.mean, np.float32)
    values /= np.array(card.std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if card.layout == "NCHW" else values)


def to_pixels(values: Floats, card: ModelCard) -> Floats:
    """Undo :func:`to_input` for a network that answers as it was fed.

    Returns:
        ``(N, H, W, 3)`` float32 RGB 0..255, clipped but not rounded; what is no number stays so.
    """
    out = np.asarray(values, np.float32)
    out = out.transpose(0, 2, 3, 1) if card.layout == "NCHW" else out
    out = out * np.array(card.std, np.float32)
    out += np.array(card.mean, np.float32)
    np.clip(out, 0, 255, out=out)
    return np.ascontiguousarray(out[..., ::-1] if card.order == "BGR" else out)


def image_shape(model: Model, card: ModelCard) -> tuple[int | None, int | None]:
    """Height and width of a network's first input, None where they are free.

    Raises:
        ModelError: It takes no pictures of three channels in the card's layout, or of another
            size than the card's.
    """
    name, shape = next(iter(model.inputs.items()))
    size: int | str = card.size or "any"
    wanted = (1, 3, size, size) if card.layout == "NCHW" else (1, size, size, 3)
    fits = len(shape) == 4 and all(
        isinstance(want, str) or not isinstance(have, int) or have == want
        for have, want in zip(shape[1:], wanted[1:], strict=True)
    )
    if not fits:
        said = ", ".join(map(str, wanted[1:]))
        raise ModelError(f"{model.name}: expected an input (N, {said}), came {name} {shape}")
    sides = shape[2:] if card.layout == "NCHW" else shape[1:3]
    height, width = (side if isinstance(side, int) else None for side in sides)
    return height, width


def run(model: Model, images: Floats, *others: Any) -> Floats:
    """The first output for all pictures: one batch if the network takes any number, else singly.

    Args:
        model: Its first input takes pictures.
        images: ``(N, …)``, N ≥ 1.
        others: What goes into the other inputs, the same for every run.

    Raises:
        ModelError: The network gave something else than one answer for each picture.
    """
    first = next(iter(model.inputs.values()))[0]
    if isinstance(first, int):
        if first != 1:
            raise ModelError(f"{model.name}: expected a batch of 1 or of any size, came {first}")
        out = np.concatenate([model(image[None], *others)[0] for image in images])
    else:
        out = model(images, *others)[0]
    if len(out) != len(images):
        raise ModelError(
            f"{model.name}: expected {len(images)} results for {len(images)} pictures, "
            f"came {out.shape}"
        )
    return np.asarray(out, np.float32)
