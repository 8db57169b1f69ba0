"""Fits, matrices and rasterising: pure functions on arrays.

Conventions: points are ``(x, y)`` with pixel centres at whole numbers; matrices are ``(2, 3)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.types import Floats, Image, Rect

Matrix = NDArray[np.float64]


def similarity(src: ArrayLike, dst: ArrayLike) -> Matrix:
    """Least-squares rotation, uniform scale and shift that take ``src`` to ``dst``.

    Closed form of Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns" (1991), in the complex plane, where no reflection can come out.

    Args:
        src: ``(N, 2)``, N ≥ 2, not all the same point.
        dst: ``(N, 2)``.

    Returns:
        ``(2, 3)`` float64, src → dst.
    """
    a = np.asarray(src, np.float64)
    b = np.asarray(dst, np.float64)
    za = (a[:, 0] + 1j * a[:, 1]).astype(np.complex128)
    zb = (b[:, 0] + 1j * b[:, 1]).astype(np.complex128)
    ma, mb = za.mean(), zb.mean()
    spread = float((np.abs(za - ma) ** 2).sum())
    if spread == 0.0:
        raise ValueError("similarity: expected at least two different points")
    k = complex((np.conj(za - ma) * (zb - mb)).sum() / spread)
    t = complex(mb - k * ma)
    return np.array([[k.real, -k.imag, t.real], [k.imag, k.real, t.imag]])


def affine(src: ArrayLike, dst: ArrayLike) -> Matrix:
    """Least-squares affine map of ``(N, 2)`` points, N ≥ 3; returns ``(2, 3)`` src → dst."""
    a = np.asarray(src, np.float64)
    b = np.asarray(dst, np.float64)
    solution = np.linalg.lstsq(np.c_[a, np.ones(len(a))], b, rcond=None)[0]
    return np.ascontiguousarray(solution.T)


def invert(matrix: ArrayLike) -> Matrix:
    """The inverse of a ``(2, 3)`` map; ``ValueError`` if it has none."""
    (a, b, x), (c, d, y) = np.asarray(matrix, np.float64).tolist()
    det = a * d - b * c
    if det == 0:
        raise ValueError("invert: expected a map that can be undone, came one that flattens")
    a, b, c, d = d / det, -b / det, -c / det, a / det  # a tenth of the time of linalg.inv
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def compose(second: Matrix, first: Matrix) -> Matrix:
    """The ``(2, 3)`` map that does ``first`` and then ``second``."""
    return np.column_stack(
        [second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]]
    )


def transform(matrix: ArrayLike, points: ArrayLike) -> Floats:
    """Apply a ``(2, 3)`` map to ``(..., 2)`` points; depth of ``(..., 3)`` points is scaled."""
    m = np.asarray(matrix, np.float64)
    p = np.asarray(points, np.float64)
    out = np.empty(p.shape, np.float32)
    out[..., :2] = p[..., :2] @ m[:, :2].T + m[:, 2]
    if p.shape[-1] == 3:
        out[..., 2] = p[..., 2] * np.sqrt(abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]))
    return out


def square_crop(centre: ArrayLike, side: float, angle: float, size: int) -> Matrix:
    """The map of a square of the frame, turned by ``angle`` radians, onto ``size`` pixels.

    Args:
        centre: ``(2,)`` in frame pixels.
        side: Length of the square's side in frame pixels.
        angle: Direction of the crop's x axis in the frame, clockwise as the viewer sees it.
        size: Side of the crop in pixels.
    """
    cx, cy = np.asarray(centre, np.float64)
    scale = size / side
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    half = (size - 1) / 2
    return np.array([[c, s, half - c * cx - s * cy], [-s, c, half + s * cx - c * cy]])


def warp(
    image: Image,
    matrix: ArrayLike,
    size: int,
    *,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_CONSTANT,
) -> Image:
    """A ``size × size`` crop of an image; what is shrunk much is averaged and not only sampled.

    ``warpAffine`` reads four pixels for each that it makes, so a large region is first shrunk by
    a power of two, for which averaging is cheap.

    Args:
        image: ``(H, W, 3)`` uint8.
        matrix: ``(2, 3)`` image → crop, a similarity.
        size: Of the crop in pixels.
        interpolation: OpenCV's, ``INTER_LINEAR`` or ``INTER_CUBIC``.
        border: OpenCV's border mode, for what lies outside the image.
    """
    m = np.asarray(matrix, np.float64)
    k, part = shrinking(m, size, image.shape[1], image.shape[0])
    if k > 1:
        image = image[part.slices()]
        while image.shape[0] > (part.y1 - part.y0) // k:  # five times as fast as averaging at once
            half = image.shape[1] // 2, image.shape[0] // 2
            image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
        # Pixel (i, j) of the shrunk region lies around (k·i + (k - 1) / 2 + x0, …).
        shift = np.array([part.x0, part.y0]) + (k - 1) / 2
        m = np.column_stack([m[:, :2] * k, m[:, :2] @ shift + m[:, 2]])
    crop = cv2.warpAffine(image, m, (size, size), flags=interpolation, borderMode=border)
    return np.asarray(crop, np.uint8)


def shrinking(matrix: Matrix, size: int, width: int, height: int) -> tuple[int, Rect]:
    """What :func:`warp` does first: by how much it shrinks an image, and which part of it.

    Args:
        matrix: ``(2, 3)`` image → crop, a similarity.
        size: Of the crop in pixels.
        width: Of the image.
        height: Of the image.

    Returns:
        A power of two, and the part, whose sides are multiples of it; 1 and the whole image where
        nothing is shrunk.
    """
    k = 2 ** int(max(0.0, -np.log2(max(float(np.hypot(*matrix[:, 0])), 1e-6))))
    if k > 1:
        corners = transform(invert(matrix), [[-1, -1], [size, -1], [-1, size], [size, size]])
        x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - k, 0, (width - 1, height - 1))
        x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + k, (x0 + 1, y0 + 1), (width, height))
        across, down = int(x1 - x0) // k * k, int(y1 - y0) // k * k
        if min(across, down) > 0:
            return k, Rect(int(x0), int(y0), int(x0) + across, int(y0) + down)
    return 1, Rect(0, 0, width, height)


BAND: Final = 48
"""Rows that are made at a time of what is as large as a face on screen."""


def bands(rows: int) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each band."""
    for first in range(0, rows, BAND):
        yield first, min(first + BAND, rows)


def blocks(where: NDArray[Any], matrix: Matrix, size: tuple[int, int]) -> Iterator[Rect]:
    """What a mask reaches under a matrix, in bands that are as wide as they need to be.

    Args:
        where: ``(h, w)`` bool.
        matrix: ``(2, 3)`` mask → result.
        size: Width and height of the result.
    """
    step = BAND // 6
    small = -(-size[0] // step), -(-size[1] // step)
    onto = matrix / step
    onto[:, 2] += 0.5 / step - 0.5
    # A cell more on each side makes good for what is between the pixels that are looked at.
    grown = cv2.dilate(where.astype(np.uint8), np.ones((3, 3), np.uint8))
    seen = cv2.warpAffine(grown, onto, small, flags=cv2.INTER_LINEAR)
    seen = np.asarray(cv2.dilate(seen, np.ones((3, 3), np.uint8)))
    for first, last in bands(size[1]):
        columns = np.flatnonzero(seen[first // step : -(-last // step)].any(0))
        if len(columns):
            right = min(size[0], int(columns[-1] + 1) * step)
            yield Rect(int(columns[0]) * step, first, right, last)


class Enlarged:
    """A smooth map under an enlarging matrix: cubic to twice its size, then linear.

    The eye sees no kinks at that scale. ``resize`` by a whole number takes a quarter of the time of
    ``warpAffine``, which is therefore used on the way to a fraction of the size only. The result
    is made a band of rows at a time, which stays in the processor's cache from step to step.

    A map that is fine for what it holds, as light and motion of a face on 128 cells are, is linear
    all the way, which is a quarter of the work and on a face a grey level or two beside it.

    Args:
        values: ``(h, w)`` or ``(h, w, C)``, float32 or uint8; beyond its rim the rim goes on.
        matrix: ``(2, 3)`` map → result.
        size: Width and height of the result.
        plus: ``(2, 3)`` affine map of the result's pixels that is added to two channels.
        fine: The map is fine for what it holds.
    """

    def __init__(
        self,
        values: NDArray[Any],
        matrix: Matrix,
        size: tuple[int, int],
        plus: Matrix | None = None,
        *,
        fine: bool = False,
    ) -> None:
        zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        self.times = times = max(1, int(zoom if fine else zoom / 1.5))
        # A pixel more all around, since the rim of what is resized is not interpolated. Pixel x
        # of the result lies at (x + 0.5) / times + 0.5 of the part that is kept.
        part = -(-size[0] // times) + 2, -(-size[1] // times) + 2
        onto = matrix / times
        onto[:, 2] += 0.5 / times + 0.5
        if zoom > 2 and not fine:
            h, w = values.shape[:2]
            values = cv2.resize(values, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC)
            # Cell x lies at 2x + 0.5 of the doubled map.
            onto[:, :2] /= 2
            onto[:, 2] -= onto[:, :2].sum(1) / 2
        flags, border = cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
        self._part = np.asarray(cv2.warpAffine(values, onto, part, flags=flags, borderMode=border))
        if plus is not None:
            less = -times / 2 - 0.5
            back = np.array([[times, 0, less], [0, times, less]])
            self._part = np.asarray(cv2.add(self._part, places(compose(plus, back), *part)))

    def block(self, rect: Rect) -> NDArray[Any]:
        """A part of the result; ``rect`` lies inside it."""
        k = self.times
        if k == 1:
            return self._part[rect.y0 + 1 : rect.y1 + 1, rect.x0 + 1 : rect.x1 + 1]
        x, y = rect.x0 // k, rect.y0 // k
        part = self._part[y : -(-rect.y1 // k) + 2, x : -(-rect.x1 // k) + 2]
        size = (part.shape[1] * k, part.shape[0] * k)
        whole = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
        left, top = rect.x0 - (x - 1) * k, rect.y0 - (y - 1) * k
        height, width = rect.y1 - rect.y0, rect.x1 - rect.x0
        return np.asarray(whole[top : top + height, left : left + width])


def enlarged_places(lookup: Floats, matrix: Matrix, size: tuple[int, int]) -> Enlarged:
    """:class:`Enlarged` for a map of places: what is affine in it is kept exactly.

    OpenCV samples at 32nds of a cell, which for places would be steps of several pixels' 32nds.

    Args:
        lookup: ``(h, w, 2)`` float32 x and y.
        matrix: ``(2, 3)`` map → result.
        size: Width and height of the result.
    """
    h, w = lookup.shape[:2]
    ys, xs = np.mgrid[0:h:8, 0:w:8]
    fit = affine(np.stack([xs.ravel(), ys.ravel()], 1), lookup[::8, ::8].reshape(-1, 2))
    rest = cv2.subtract(lookup, places(fit, w, h))
    return Enlarged(np.asarray(rest), matrix, size, compose(fit, invert(matrix)), fine=True)


def places(matrix: Matrix, width: int, height: int) -> Floats:
    """Where an affine map takes the pixels of a picture, ``(height, width, 2)`` float32."""
    m = matrix.astype(np.float32)
    # x and y in turn along one axis, since NumPy is slow along a last axis of two.
    x = m[:, 0] * np.arange(width, dtype=np.float32)[:, None] + m[:, 2]
    out = np.arange(height, dtype=np.float32)[:, None] * np.tile(m[:, 1], width)
    out += x.reshape(-1)
    return np.asarray(out.reshape(height, width, 2), np.float32)


def sample(image: Image, places: Floats, out: Image | None = None) -> Image:
    """The image at places, bilinear; beyond it its rim goes on.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        places: ``(h, w, 2)`` float32 x and y.
        out: Where to write it.
    """
    # Fixed-point maps halve the time.
    whole, part = cv2.convertMaps(places, np.empty(0, np.float32), cv2.CV_16SC2)
    found = cv2.remap(
        image, whole, part, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(found, np.uint8)


def soften(image: Image, sigma: float) -> Image:
    """A Gaussian blur of ``(h, w, 3)`` uint8, cut off where a hundredth of it is left.

    OpenCV goes on to three sigma, which for small ones is twice the work.
    """
    side = 2 * max(1, math.ceil(2.5 * sigma - 0.5)) + 1
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma), np.uint8)


def bounds(points: ArrayLike) -> Floats:
    """``(4,)`` float32 ``x0, y0, x1, y1`` around ``(N, 2+)`` points."""
    # Along each axis by itself, since NumPy is slow along rows of two.
    x, y = np.asarray(points, np.float32)[..., :2].T
    return np.array([x.min(), y.min(), x.max(), y.max()], np.float32)


def overlap(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union of every box in ``(N, 4)`` with every box in ``(M, 4)``."""
    p = np.asarray(a, np.float32).reshape(-1, 4)[:, None]
    q = np.asarray(b, np.float32).reshape(-1, 4)[None]
    side = np.clip(np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2]), 0, None)
    inter = side[..., 0] * side[..., 1]
    area_p = (p[..., 2] - p[..., 0]) * (p[..., 3] - p[..., 1])
    area_q = (q[..., 2] - q[..., 0]) * (q[..., 3] - q[..., 1])
    union = area_p + area_q - inter
    return np.where(union > 0, inter / np.maximum(union, 1e-9), 0).astype(np.float32)


def signed_areas(points: Floats, triangles: NDArray[np.integer]) -> Floats:
    """Twice the signed area of each triangle, ``(T,)``; the sign is the winding's."""
    a, b, c = _corners(points, triangles)
    p, q = b - a, c - a
    return np.asarray(p.real * q.imag - p.imag * q.real, np.float32)


def _corners(points: Floats, triangles: NDArray[np.integer]) -> NDArray[np.complex64]:
    """``(3, T)`` the corners of each triangle, x and y as one complex number."""
    flat = np.ascontiguousarray(points[:, :2], np.float32).view(np.complex64)[:, 0]
    return flat.take(triangles.T)


def rasterise(
    points: Floats, triangles: NDArray[np.integer], depth: Floats, width: int, height: int
) -> NDArray[np.int32]:
    """Which triangle is nearest at each pixel; -1 where none is.

    The span of each row of each triangle is found in one vectorised pass (Pineda, "A parallel
    algorithm for polygon rasterization", 1988); triangles are taken far first, so that the last
    write to a pixel is the nearest. A loop of fill calls takes several times as long and stalls
    beside a busy Python thread.

    Args:
        points: ``(N, 2+)`` in pixels of the grid.
        triangles: ``(T, 3)`` indices.
        depth: ``(T,)``, larger is farther.
        width: Of the grid.
        height: Of the grid.

    Returns:
        ``(height, width)`` int32, index into ``triangles``.
    """
    order = np.argsort(-depth, kind="stable").astype(np.int32)
    corners = _corners(points, triangles[order])
    x, y = corners.real.T, corners.imag.T
    low, high = np.minimum(y[:, 0], y[:, 1]), np.maximum(y[:, 0], y[:, 1])
    low, high = np.minimum(low, y[:, 2]), np.maximum(high, y[:, 2])
    y0 = np.clip(np.ceil(low), 0, height).astype(np.int32)
    y1 = np.clip(np.floor(high) + 1, 0, height).astype(np.int32)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    out = np.full(height * width, -1, np.int32)
    keep = np.flatnonzero((y1 > y0) & (np.abs(area) > 1e-6))
    if len(keep) == 0:
        return out.reshape(height, width)
    # One entry for each row that a triangle crosses.
    which, row = _runs(y0[keep], (y1 - y0)[keep])
    at = row.astype(np.float32)
    low = np.full(len(row), -np.inf, np.float32)
    high = np.full(len(row), np.inf, np.float32)
    x, y, turn = x[keep], y[keep], area[keep] > 0
    for a, b in ((0, 1), (1, 2), (2, 0)):
        # An edge that leads down bounds the rows it crosses on the right, one that leads up on the
        # left, or the other way around; a level one bounds no row that the triangle crosses.
        down = y[:, b] - y[:, a]
        slope = (x[:, b] - x[:, a]) / np.where(down == 0, np.float32(1), down)
        start = x[:, a] - slope * y[:, a]
        for bound, tighter, far, here in (
            (high, np.minimum, np.inf, ((down > 0) == turn) & (down != 0)),
            (low, np.maximum, -np.inf, ((down > 0) != turn) & (down != 0)),
        ):
            border = np.where(here, slope, 0).astype(np.float32).take(which)
            border *= at
            border += np.where(here, start, far).astype(np.float32).take(which)
            tighter(bound, border, out=bound)
    first = np.ceil(np.clip(low - SLACK, 0, width)).astype(np.int32)
    after = np.floor(np.clip(high + SLACK, -1, width - 1)).astype(np.int32) + 1
    count = np.maximum(after - first, 0)
    # NumPy assigns repeated indices in order: the last, nearest triangle stays.
    _, cell = _runs(first + row * width, count)
    out[cell] = np.repeat(order[keep].take(which), count)
    return out.reshape(height, width)


SLACK: Final = 1e-3
"""Pixels that a triangle reaches beyond its edges, so that no pixel falls between two."""


def _runs(first: NDArray[np.int32], count: NDArray[np.int32]) -> tuple[Any, Any]:
    """For runs of whole numbers: which run each number is of, and the numbers, end to end."""
    which = np.repeat(np.arange(len(count), dtype=np.int32), count)
    start = (first - np.cumsum(count) + count).astype(np.int32)
    return which, np.arange(len(which), dtype=np.int32) + start[which]


def triangle_maps(src: Floats, dst: Floats, triangles: NDArray[np.integer]) -> Floats:
    """The affine map of each triangle from ``src`` to ``dst`` points.

    Args:
        src: ``(N, 2+)``.
        dst: ``(N, 2+)``.
        triangles: ``(T, 3)``.

    Returns:
        ``(T, 2, 3)`` float32; a triangle without area in ``src`` maps to its first corner.
    """
    s0, s1, s2 = _corners(src, triangles)
    d0, d1, d2 = _corners(dst, triangles)
    a, b = s1 - s0, s2 - s0
    det = a.real * b.imag - b.real * a.imag
    flat = np.abs(det) < 1e-6
    inv = np.where(flat, np.float32(0), 1 / np.where(flat, np.float32(1), det))
    da, db = (d1 - d0) * inv, (d2 - d0) * inv
    along, down = da * b.imag - db * a.imag, db * a.real - da * b.real
    start = d0 - along * s0.real - down * s0.imag
    out = np.empty((len(triangles), 2, 3), np.float32)
    for k, column in enumerate((along, down, start)):
        out[:, 0, k], out[:, 1, k] = column.real, column.imag
    return out
