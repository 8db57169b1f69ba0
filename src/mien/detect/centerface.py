"""CenterFace."""

from __future__ import annotations

import numpy as np

from mien import runtime, zoo
from mien.detect.boxes import best_of
from mien.detect.feed import feed
from mien.types import Face, Faces, Image


class CenterFace:
    """CenterFace (Xu et al. 2019, arXiv:1911.03599): any input size, small faces, five points.

    Args:
        card: Of the model.
        model: Outputs at a quarter of the input's resolution: heat ``(1, 1, h, w)``, log size in
            cells ``(1, 2, h, w)`` as height and width, offset in cells (y, x), and five points
            (y, x) in parts of the box.

    Raises:
        ModelError: It is another kind of network.
    """

    STRIDE = 4

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 4)
        self.threshold = card.threshold

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`."""
        (heat, size, offset, marks), fit, _ = self.feed(image, side)
        y, x = np.nonzero(heat[0, 0] > self.threshold)
        if not y.size:
            return []
        cell = np.stack([x, y], axis=1).astype(np.float32)
        centre = (cell + offset[0, ::-1, y, x] + 0.5) * self.STRIDE
        extent = np.exp(size[0, ::-1, y, x]) * self.STRIDE
        low = centre - extent / 2
        points = marks[0, :, y, x].reshape(-1, 5, 2)[..., ::-1] * extent[:, None] + low[:, None]
        corners = np.concatenate([low[:, None], (low + extent)[:, None], points], axis=1)
        return best_of(
            [
                Face(found[:2].reshape(4), float(score), found[2:])
                for found, score in zip(fit.back(corners), heat[0, 0, y, x], strict=True)
            ]
        )
