"""YuNet."""

from __future__ import annotations

import numpy as np

from mien import runtime, zoo
from mien.detect.boxes import distinct
from mien.detect.feed import STRIDES, cells, columns, feed
from mien.types import Faces, Image


class YuNet:
    """YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y) with its twelve outputs.

    Args:
        card: Of the model.
        model: Outputs, each for strides 8, 16 and 32 and with a row for each cell: probability
            of a face ``(N, 1)``, of an object ``(N, 1)``; the box's centre relative to the cell
            and the logarithm of width and height ``(N, 4)``; five points relative to the cell
            ``(N, 10)``; all lengths in strides.

    Raises:
        ModelError: It is another kind of network.
    """

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 12)
        self.threshold = card.threshold

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`; the score is the mean of both probabilities.

        The mean is the geometric one, as in OpenCV's ``FaceDetectorYN``.
        """
        out, fit, (height, width) = self.feed(image, side)
        scores, corners = [], []
        for level, stride in enumerate(STRIDES):
            grid = cells(height // stride, width // stride)
            face, thing, box, marks = (
                columns(out[level + 3 * k], len(grid), n, self._name(level + 3 * k))
                for k, n in enumerate((1, 1, 4, 10))
            )
            score = np.sqrt((face * thing)[:, 0].clip(0, 1))
            chosen = np.flatnonzero(score > self.threshold)
            cell = grid[chosen, None]
            half = np.exp(box[chosen, 2:])[:, None] / 2
            centre = cell + box[chosen, None, :2]
            points = cell + marks[chosen].reshape(-1, 5, 2)
            corners.append(np.concatenate([centre - half, centre + half, points], axis=1) * stride)
            scores.append(score[chosen])
        found = fit.back(np.concatenate(corners))
        return distinct(found[:, :2].reshape(-1, 4), np.concatenate(scores), found[:, 2:])

    def _name(self, index: int) -> str:
        return f"{self.feed.model.name}: output {self.feed.model.outputs[index]}"
