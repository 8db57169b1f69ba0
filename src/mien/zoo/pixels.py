"""Pixels in the form that a card asks for, through the network, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
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
    mean, std = np.array(card.mean, np.float32), np.array(card.std, np.float32)
    if card.layout == "NCHW":  # bytes are quicker to put in order than floats
        ordered = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2))
        mean, std = mean[:, None, None], std[:, None, None]
    if len({*card.mean}) == len({*card.std}) == 1:  # numbers take a third of the time of arrays
        mean, std = mean.reshape(-1)[0], std.reshape(-1)[0]
    values = ordered.astype(np.float32)
    values -= mean
    values /= std
    return np.ascontiguousarray(values)


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


def to_image(values: Floats, card: ModelCard) -> Image:
    """One answer as :func:`to_pixels` reads it, rounded, in a tenth of the time.

    Args:
        values: ``(H, W, 3)`` or ``(3, H, W)``, all of them numbers.
        card: Names layout, order of channels, mean and standard deviation.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    planes = list(values) if card.layout == "NCHW" else cv2.split(values)
    made = [
        cv2.addWeighted(plane, std, plane, 0, mean, dtype=cv2.CV_8U)  # rounds and saturates
        for plane, std, mean in zip(planes, card.std, card.mean, strict=True)
    ]
    return np.asarray(cv2.merge(made[::-1] if card.order == "BGR" else made), np.uint8)


def run(model: Model, images: Floats, others: Mapping[str, Any] | None = None) -> Floats:
    """The first output for all pictures: one batch if the network takes any number, else singly.

    Args:
        model: One of its inputs takes pictures.
        images: ``(N, …)``, N ≥ 1; brought to the type that the graph declares.
        others: Name → what goes into each other input, in every run; their types likewise.

    Raises:
        ModelError: The network takes batches of another size only, or gave something else than
            one answer for each picture.
    """
    others = others or {}
    shape = next(shape for name, shape in model.inputs.items() if name not in others)
    if isinstance(shape[0], int):
        if shape[0] != 1:
            raise ModelError(f"{model.name}: expected a batch of 1 or any, came {shape[0]}")
        out = np.concatenate([_call(model, image[None], others) for image in images])
    else:
        out = _call(model, images, others)
    if np.ndim(out) == 0 or len(out) != len(images):
        raise ModelError(
            f"{model.name}: expected {len(images)} results for {len(images)} pictures, "
            f"came {out.shape}"
        )
    return np.asarray(out, np.float32)


def _call(model: Model, images: Floats, others: Mapping[str, Any]) -> Any:
    types = model.types()
    return model(*(np.asarray(others.get(name, images), types[name]) for name in model.inputs))[0]
