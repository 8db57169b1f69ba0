"""YOLOv5-face and YOLOv8-face."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mien import runtime, zoo
from mien.detect.boxes import distinct
from mien.detect.feed import STRIDES, cells, columns, feed, sigmoid
from mien.errors import ModelError
from mien.types import Faces, Floats, Image

ANCHORS: Final = (
    ((4, 5), (8, 10), (13, 16)),
    ((23, 29), (43, 55), (73, 105)),
    ((146, 217), (231, 300), (335, 433)),
)
"""Width and height in pixels of YOLOv5-face's three anchors at each stride."""

BINS: Final = 16
"""Distances 0..15, in strides, over which YOLOv8 gives a distribution for each side of a box."""


class Yolov5Face:
    """YOLOv5-face (Qi et al. 2021, arXiv:2105.12931), exported with its grid or without.

    Args:
        card: Of the model.
        model: One output ``(1, N, 16)`` in pixels of the input: centre, width and height of the
            box, probability of an object, five points, probability of a face. Or three
            ``(1, 3, rows, columns, 16)`` of the same before sigmoid, grid and anchors.

    Raises:
        ModelError: It is another kind of network.
    """

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 1, 3)
        self.threshold = card.threshold

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`."""
        out, fit, (height, width) = self.feed(image, side)
        if len(out) == 3:
            out = [_from_anchors(out, height, width, self.feed.model.name)]
        count = sum(3 * (height // s) * (width // s) for s in STRIDES)
        rows = columns(out[0], count, 16, self.feed.model.name)
        score = rows[:, 4] * rows[:, 15]
        chosen = score > self.threshold
        centre, half = rows[chosen, None, :2], rows[chosen, None, 2:4] / 2
        points = rows[chosen, 5:15].reshape(-1, 5, 2)
        found = fit.back(np.concatenate([centre - half, centre + half, points], axis=1))
        return distinct(found[:, :2].reshape(-1, 4), score[chosen], found[:, 2:])


def _from_anchors(out: list[Any], height: int, width: int, name: str) -> Floats:
    """The three raw heads of YOLOv5-face in pixels, as its own ``Detect`` layer does it."""
    decoded = []
    for values, stride, sizes in zip(out, STRIDES, ANCHORS, strict=True):
        rows, cols = height // stride, width // stride
        raw = columns(values, 3 * rows * cols, 16, name)
        grid = np.tile(cells(rows, cols), (3, 1))
        anchor = np.repeat(np.array(sizes, np.float32), rows * cols, axis=0)
        every = sigmoid(raw)
        points = raw[:, 5:15].reshape(-1, 5, 2) * anchor[:, None] + grid[:, None] * stride
        decoded.append(
            np.concatenate(
                [
                    (every[:, :2] * 2 - 0.5 + grid) * stride,
                    (every[:, 2:4] * 2) ** 2 * anchor,
                    every[:, 4:5],
                    points.reshape(-1, 10),
                    every[:, 15:],
                ],
                axis=1,
            )
        )
    return np.concatenate(decoded)


class Yolov8Face:
    """YOLOv8-face, exported with its decoding or without.

    Args:
        card: Of the model.
        model: One output ``(1, 20, N)`` in pixels of the input: centre, width and height of the
            box, score 0..1, and five points with x, y and visibility. Or three
            ``(1, 80, rows, columns)``: for each side of the box (left, top, right, bottom) 16
            logits of its distance in strides from the cell's centre, whose mean counts (Li et
            al. 2020, "Generalized focal loss", arXiv:2006.04388); the score's logit; and five
            points, half as far from the cell's corner as they are, with visibility.

    Raises:
        ModelError: It is another kind of network.
    """

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 1, 3)
        self.threshold = card.threshold

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`."""
        out, fit, (height, width) = self.feed(image, side)
        read = self._decoded if len(out) == 1 else self._heads
        score, corners = read(out, height, width)
        found = fit.back(corners)
        return distinct(found[:, :2].reshape(-1, 4), score, found[:, 2:])

    def _decoded(self, out: list[Any], height: int, width: int) -> tuple[Floats, Floats]:
        count = sum((height // s) * (width // s) for s in STRIDES)
        if np.shape(out[0])[1:] != (20, count):
            raise ModelError(
                f"{self.feed.model.name}: expected (1, 20, {count}), came {np.shape(out[0])}"
            )
        rows = np.asarray(out[0][0], np.float32).T
        rows = rows[rows[:, 4] > self.threshold]
        centre, half = rows[:, None, :2], rows[:, None, 2:4] / 2
        points = rows[:, 5:].reshape(-1, 5, 3)[..., :2]
        return rows[:, 4], np.concatenate([centre - half, centre + half, points], axis=1)

    def _heads(self, out: list[Any], height: int, width: int) -> tuple[Floats, Floats]:
        scores, corners = [], []
        for values, stride in zip(out, STRIDES, strict=True):
            rows, cols = height // stride, width // stride
            name = self.feed.model.name
            raw = columns(values, 4 * BINS + 16, rows * cols, name).T
            score = sigmoid(raw[:, 4 * BINS])
            chosen = np.flatnonzero(score > self.threshold)
            cell = cells(rows, cols)[chosen, None]
            logits = raw[chosen, : 4 * BINS].reshape(-1, 4, BINS)
            weight = np.exp(logits - logits.max(axis=2, keepdims=True))
            distance = weight @ np.arange(BINS, dtype=np.float32) / weight.sum(axis=2)
            span = distance.reshape(-1, 2, 2) * np.array([[-1], [1]], np.float32)
            points = raw[chosen, 4 * BINS + 1 :].reshape(-1, 5, 3)[..., :2] * 2
            corners.append(np.concatenate([cell + 0.5 + span, cell + points], axis=1) * stride)
            scores.append(score[chosen])
        return np.concatenate(scores), np.concatenate(corners)
