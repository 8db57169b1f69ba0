"""BlazeFace."""

from __future__ import annotations

import math

import numpy as np

from mien import runtime, zoo
from mien.detect.boxes import weighted_nms
from mien.detect.feed import feed
from mien.detect.pictures import letterbox
from mien.errors import ModelError
from mien.types import Face, Faces, Floats, Image
from mien.zoo.pixels import to_input


def anchors(side: int) -> Floats:
    """Centres of BlazeFace's anchors in input pixels, in the order of the network's outputs.

    The full-range network (192) has one anchor a cell at stride 4, the "back" (256) and
    short-range (128) networks two at a sixteenth and six at an eighth of the resolution
    (MediaPipe, ``ssd_anchors_calculator.cc`` with the options of ``face_detection_*.pbtxt``).

    Args:
        side: Of the network's square input: 128, 192 or 256.

    Returns:
        ``(2304, 2)`` or ``(896, 2)`` x and y.

    Raises:
        ModelError: No BlazeFace has such an input.
    """
    layout = {192: [(4, 1)], 256: [(16, 2), (32, 6)], 128: [(8, 2), (16, 6)]}
    if side not in layout:
        raise ModelError(f"BlazeFace takes 128, 192 or 256 pixels a side, not {side}")
    grids = []
    for stride, repeats in layout[side]:
        cells = (np.arange(side // stride) + 0.5) * stride
        x, y = np.meshgrid(cells, cells)
        grids.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), repeats, axis=0))
    return np.concatenate(grids).astype(np.float32)


class BlazeFace:
    """MediaPipe's BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047): fast, larger faces.

    Args:
        card: Of the model: full range (192 pixels), back (256) or short range (128).
        model: Outputs ``(1, N, 16)``, box and six points in pixels relative to the anchor, and
            ``(1, N, 1)`` logits.

    Raises:
        ModelError: It is another kind of network.
    """

    def __init__(self, card: zoo.ModelCard, model: runtime.Model) -> None:
        self.feed = feed(card, model, 2)
        self.threshold = card.threshold
        self.side = self.feed.width
        self.anchors = anchors(self.side)

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """See :class:`mien.detect.feed.Network`."""
        canvas, fit = letterbox(image, self.side, self.side, centre=True, side=side)
        raw, logits = self.feed.model(to_input(canvas[None], self.feed.card))
        chosen = logits[0, :, 0] > math.log(self.threshold / (1 - self.threshold))
        if not chosen.any():
            return []
        values = raw[0, chosen].reshape(-1, 8, 2)
        scores = 1.0 / (1.0 + np.exp(-logits[0, chosen, 0]))
        centre = values[:, 0] + self.anchors[chosen]
        half = values[:, 1] / 2
        points = values[:, 2:] + self.anchors[chosen, None]
        corners = np.concatenate(
            [(centre - half)[:, None], (centre + half)[:, None], points], axis=1
        )
        corners, scores = weighted_nms(corners, scores)
        return [
            Face(hairline_box(found[:2], found[2:]), float(score), five_points(found[2:]))
            for found, score in zip(fit.back(corners), scores, strict=True)
        ]


def five_points(six: Floats) -> Floats:
    """BlazeFace's six points (eyes, nose, mouth's centre, ears) as the five of ``Face``.

    The corners of the mouth are *guessed*: they lie 0.39 eye distances to each side of its
    centre, along the eye line, which is where they lie on average in a neutral frontal face. The
    mesh replaces them as soon as landmarks ran.

    Args:
        six: ``(6, 2)`` left eye, right eye, nose, mouth, left ear, right ear.
    """
    half = 0.39 * (six[1] - six[0])
    return np.stack([six[0], six[1], six[2], six[3] - half, six[3] + half]).astype(np.float32)


def hairline_box(corners: Floats, six: Floats) -> Floats:
    """BlazeFace's square box (brows to mouth or chin) stretched to hairline and chin.

    Args:
        corners: ``(2, 2)`` top left and bottom right.
        six: ``(6, 2)`` points, for the direction in which the forehead lies.
    """
    up = (six[0] + six[1]) / 2 - six[3]
    up = up / max(float(np.hypot(*up)), 1e-6)
    size = float((corners[1] - corners[0]).mean())
    ends = size * np.stack([FOREHEAD * up, -CHIN * up, np.zeros(2)])
    narrow = SIDES * size * np.abs(up[::-1])
    low = corners[0] + ends.min(axis=0) + narrow
    high = corners[1] + ends.max(axis=0) - narrow
    return np.concatenate([low, high]).astype(np.float32)


FOREHEAD = 0.15
CHIN = 0.07
SIDES = 0.03
"""How far BlazeFace's box is stretched upward and downward and narrowed on each side, in parts of
its side: the medians over 121 hand-drawn boxes."""
