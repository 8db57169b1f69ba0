"""What the picture itself shows of a face's motion: optical flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from mien import geometry
from mien.landmarks import OVAL, five_points, roll
from mien.types import Floats, Image

SIDE: Final = 160
"""Side in pixels of the grey crop of a face in which optical flow is measured."""

CELL: Final = 4
"""Pixels of that crop to a cell of the grid on which the flow is smoothed."""


BLUR: Final = 1.2
"""Of the flow, in cells."""


class Seen(NamedTuple):
    """Where points went, by optical flow.

    Attributes:
        points: ``(N, 2)`` float32 in pixels of the frame.
        trust: ``(N,)`` float32 0..1, how far the picture bears it out.
    """

    points: Floats
    trust: Floats


@dataclass(slots=True)
class Flow:
    """Where the points of one face went from the last frame to this one, seen in the picture.

    Dense inverse search (Kroeger et al., "Fast optical flow using dense inverse search", 2016)
    between grey crops of the two frames. The crop stays where it was while the face stays near,
    so that what is still is sampled alike and does not seem to move; else it follows the face,
    so that a quick motion is no motion to the crop.

    Attributes:
        matrix: ``(2, 3)`` frame → crop of the last frame; None before the first.
        grey: ``(SIDE, SIDE)`` uint8, that crop.
    """

    matrix: geometry.Matrix | None = None
    grey: Image | None = None
    _search: Any = field(  # its stubs know no calc without a first guess
        default_factory=lambda: cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    )

    def __call__(self, image: Image, mesh: Floats, points: Floats) -> Seen | None:
        """Look at the next frame.

        Args:
            image: ``(H, W, 3)`` uint8, the frame.
            mesh: ``(468+, 3)`` the fit in this frame, which says where to look.
            points: ``(N, 2+)`` places in the last frame.

        Returns:
            Where they are in this frame; None at the first.
        """
        before, old = self.grey, self.matrix
        self.matrix = matrix = self._place(mesh)
        self.grey = grey = _grey(image, matrix)
        if before is None or old is None:
            return None
        start = geometry.transform(old, points[:, :2])
        step, trust = self._measure(before, grey, start)
        return Seen(geometry.transform(geometry.invert(matrix), start + step), trust)

    def _place(self, mesh: Floats) -> geometry.Matrix:
        """The crop of this frame: the last one, if the face is still near its middle."""
        x0, y0, x1, y1 = geometry.bounds(mesh[:468])
        side = max(1.3 * float(max(x1 - x0, y1 - y0)), 4.0)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        fresh = geometry.square_crop(centre, side, roll(five_points(mesh)), SIDE)
        if self.matrix is None:
            return fresh
        corners = np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]])
        there = geometry.transform(self.matrix, geometry.transform(geometry.invert(fresh), corners))
        return self.matrix if float(np.abs(there - corners).max()) < 0.06 * SIDE else fresh

    def _measure(self, before: Image, now: Image, at: Floats) -> tuple[Floats, Floats]:
        """Flow and trust at points of the crop, smoothed over the face from where it is seen."""
        flow = np.asarray(self._search.calc(before, now, None), np.float32)
        # What follows is smooth: half the crop's resolution will do, then cells.
        m, n = SIDE // 2, SIDE // CELL
        flow = np.asarray(cv2.resize(flow, (m, m), interpolation=cv2.INTER_AREA), np.float32)
        first, second = (cv2.resize(g, (m, m), interpolation=cv2.INTER_AREA) for g in (before, now))
        x, y = np.moveaxis(_XY + flow * np.float32(0.5), 2, 0)
        arrived = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        wrong = cv2.absdiff(first, np.asarray(arrived, np.uint8))
        across, down = cv2.spatialGradient(first)
        rough = across.astype(np.float32) ** 2 + down.astype(np.float32) ** 2
        cells = np.dstack([flow, wrong.astype(np.float32), rough])
        cells = np.asarray(cv2.resize(cells, (n, n), interpolation=cv2.INTER_AREA), np.float32)
        flow, wrong, rough = cells[..., :2], cells[..., 2], cells[..., 3]

        at_cell = ((at + 0.5) / CELL - 0.5).astype(np.float32)
        face = np.zeros((n, n), np.uint8)
        outline = np.round(at_cell[list(OVAL)] * 16).astype(np.int32)
        cv2.fillPoly(face, [outline], 1, cv2.LINE_8, 4)
        # What looks different where it is said to have gone was hidden, or moved otherwise; by
        # how much all of it differs, through a change of light or noise, does not matter.
        usual = float(np.median(wrong[face > 0])) if face.any() else 0.0
        right = 1 / (1 + (wrong / (3 * usual + 2)) ** 2)
        # Only where there is something to see is motion seen.
        weight = face * right**2 * (rough + 16)
        total = float(weight.sum()) + 1e-6
        mean = (flow * weight[..., None]).sum((0, 1)) / total
        packed = np.dstack([(flow - mean) * weight[..., None], weight, right])
        packed = np.asarray(cv2.GaussianBlur(packed, (0, 0), BLUR), np.float32)
        x, y = at_cell.T[:, None]
        found = cv2.remap(packed, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found = np.asarray(found, np.float32)[0]
        step = mean + found[:, :2] / (found[:, 2:3] + 1e-3 * total / n**2)
        return step.astype(np.float32), found[:, 3]


_XY: Final = np.ascontiguousarray(
    np.moveaxis(np.indices((SIDE // 2, SIDE // 2), np.float32)[::-1], 0, 2)
)


def _grey(image: Image, matrix: geometry.Matrix) -> Image:
    """The crop, from the part of the frame that it shows alone."""
    corners = geometry.transform(
        geometry.invert(matrix), [[-1, -1], [SIDE, -1], [-1, SIDE], [SIDE, SIDE]]
    )
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 1, (x0 + 1, y0 + 1), (width, height))
    part = np.asarray(cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY), np.uint8)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (x0, y0)
    return geometry.warp(part, moved, SIDE, border=cv2.BORDER_REPLICATE)
