"""A classifier that the operator names refuses a portrait or a target; none comes with mien.

The contract is small: an ONNX file with one input, ``(N, 3, S, S)`` or ``(N, S, S, 3)`` float32,
and an output ``(N, K)`` or ``(N,)`` float32 of which one column, from the threshold on, means
*refuse*. ``[[classifier]]`` in policy.toml says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from mien import runtime
from mien.errors import ModelError
from mien.types import Floats, Image

Sees = Literal["picture", "face"]
"""The whole picture, or each face with what is close around it."""

Role = Literal["portrait", "target"]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Says whether a picture is to be refused.

    Attributes:
        name: Of the rule, for messages.
        model: The network.
        size: Side of what it sees, in pixels.
        layout: ``NCHW`` or ``NHWC``.
        mean: Taken off each channel of 0 to 255, red first.
        std: Each is then divided by it.
        output: Column of the first output that means refuse.
        threshold: From which it does.
        sees: Whole pictures or faces.
        roles: What it is asked about.
    """

    name: str
    model: runtime.Model
    size: int
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    output: int = 0
    threshold: float = 0.5
    sees: Sees = "picture"
    roles: tuple[Role, ...] = ("portrait", "target")

    def __call__(self, image: Image) -> float:
        """The value of the column for one picture.

        Args:
            image: ``(H, W, 3)`` uint8 RGB of any size; it is scaled to a square.

        Raises:
            ModelError: The network does not keep the contract.
        """
        size = (self.size, self.size)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        batch = ((small - mean) / std)[None]
        if self.layout == "NCHW":
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        try:
            result = np.asarray(self.model(batch)[0])
        except Exception as error:  # ONNX Runtime's own classes
            raise ModelError(
                f"classifier {self.name}: cannot take {batch.shape} ({error})"
            ) from error
        row = result.reshape(1, -1)[0] if result.ndim <= 2 and result.size else None
        if row is None or self.output >= len(row) or not np.isfinite(row[self.output]):
            raise ModelError(
                f"classifier {self.name}: expected a number at output {self.output}, came shape "
                f"{result.shape}"
            )
        return float(row[self.output])

    def refuses(self, image: Image) -> bool:
        """Whether the picture is to be refused."""
        return self(image) >= self.threshold


def around(image: Image, box: Floats, grow: float = 0.3) -> Image:
    """A face with what is close around it, as far as it lies in the picture.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        box: ``(4,)`` of the face, in pixels.
        grow: By how many sides on each side.
    """
    height, width = image.shape[:2]
    side = np.tile(box[2:] - box[:2], 2) * grow
    x0, y0, x1, y1 = (box + np.array([-1, -1, 1, 1], np.float32) * side).tolist()
    left, top = max(0, int(x0)), max(0, int(y0))
    part = image[
        top : max(top + 1, min(height, int(y1))), left : max(left + 1, min(width, int(x1)))
    ]
    return part if part.size else image


def load(path: Path, name: str, size: int, **how: object) -> Classifier:
    """Load the network of a classifier and try it once.

    Raises:
        ModelNotFound: No such file.
        ModelError: It is no network, or does not keep the contract.
    """
    model = runtime.load(path, name=name)
    if len(model.inputs) != 1:
        raise ModelError(f"{path}: expected a network of one input, came {len(model.inputs)}")
    made = Classifier(name, model, size, **how)  # type: ignore[arg-type]
    made(np.zeros((size, size, 3), np.uint8))
    return made
