"""SCRFD, and the RetinaFace that is read the same way."""

from __future__ import annotations

from typing import Final

import numpy as np

from mien import runtime, zoo
from mien.detect.boxes import distinct
from mien.detect.feed import STRIDES, cells, columns, feed
from mien.types import Faces, Image

ANCHORS: Final = 2
"""Anchors in each cell, both at its corner, one for small and one for large faces."""


class Scrfd:
    """SCRFD (Guo et al. 2021, arXiv:2105.04714) as InsightFace exports it.

    InsightFace's ``retinaface_10g`` and ``det_10g`` have the same nine outputs, with distances
    from anchors; they are not the RetinaFace with priors and variances of the paper.

    Args:
        card: Of the model.
        model: Nine outputs: for strides 8, 16 and 32 the scores ``(N, 1)``, 0..1; then the
            distances of the box's left, top, right and bottom side from the anchor ``(N, 4)``;
            then five points relative to it ``(N, 10)``; both in strides. N is two for each cell.

    Raises:
        ModelError: It is another kind of network.
    """

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 9)
        self.threshold = card.threshold

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`."""
        out, fit, (height, width) = self.feed(image, side)
        scores, corners = [], []
        for level, stride in enumerate(STRIDES):
            anchors = cells(height // stride, width // stride, ANCHORS)
            score, sides, marks = (
                columns(out[level + 3 * k], len(anchors), n, self._name(level + 3 * k))
                for k, n in enumerate((1, 4, 10))
            )
            chosen = np.flatnonzero(score[:, 0] > self.threshold)
            anchor = anchors[chosen, None]
            span = sides[chosen].reshape(-1, 2, 2) * np.array([[-1], [1]], np.float32)
            points = marks[chosen].reshape(-1, 5, 2)
            corners.append((anchor + np.concatenate([span, points], axis=1)) * stride)
            scores.append(score[chosen, 0])
        found = fit.back(np.concatenate(corners))
        return distinct(found[:, :2].reshape(-1, 4), np.concatenate(scores), found[:, 2:])

    def _name(self, index: int) -> str:
        return f"{self.feed.model.name}: output {self.feed.model.outputs[index]}"
