"""Fits, matrices and rasterising: pure functions on arrays.

Conventions: points are ``(x, y)`` with pixel centres at whole numbers; matrices are ``(2, 3)``.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.types import Floats, Image

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
    scale = max(float(np.hypot(m[0, 0], m[1, 0])), 1e-6)
    k = 2 ** int(max(0.0, -np.log2(scale)))
    if k > 1:
        corners = transform(invert(m), [[-1, -1], [size, -1], [-1, size], [size, size]])
        h, w = image.shape[:2]
        x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - k, 0, (w - 1, h - 1))
        x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + k, (x0 + 1, y0 + 1), (w, h))
        small = int(x1 - x0) // k, int(y1 - y0) // k
        if min(small) > 0:
            region = image[y0 : y0 + k * small[1], x0 : x0 + k * small[0]]
            image = np.asarray(cv2.resize(region, small, interpolation=cv2.INTER_AREA), np.uint8)
            # Pixel (i, j) of the shrunk region lies around (k·i + (k - 1) / 2 + x0, …).
            shift = np.array([x0, y0]) + (k - 1) / 2
            m = np.column_stack([m[:, :2] * k, m[:, :2] @ shift + m[:, 2]])
    crop = cv2.warpAffine(image, m, (size, size), flags=interpolation, borderMode=border)
    return np.asarray(crop, np.uint8)


def enlarged(values: NDArray[Any], matrix: Matrix, size: tuple[int, int]) -> NDArray[Any]:
    """A smooth map under an enlarging matrix: cubic to twice its size, then linear.

    The eye sees no kinks at that scale, and ``resize`` takes a quarter of the time of
    ``warpAffine``, which is therefore used at half the size only.

    Args:
        values: ``(h, w)`` or ``(h, w, C)``, float32 or uint8.
        matrix: ``(2, 3)`` map → result.
        size: Width and height of the result.

    Returns:
        ``(size[1], size[0])`` or the same with C channels; beyond the map its rim goes on.
    """
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
    if zoom <= 2:
        return np.asarray(cv2.warpAffine(values, matrix, size, flags=flags, borderMode=border))
    h, w = values.shape[:2]
    double = cv2.resize(values, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC)
    middle = max(1, round(size[0] * 2 / zoom)), max(1, round(size[1] * 2 / zoom))
    scale = np.array(middle) / size
    # Pixel x of the result lies at (x + 0.5)·scale - 0.5 half way, cell x at 2x + 0.5 of the
    # doubled map.
    half = matrix * scale[:, None]
    half[:, 2] += (scale - 1) / 2
    half[:, :2] /= 2
    half[:, 2] -= half[:, :2].sum(1) / 2
    part = cv2.warpAffine(double, half, middle, flags=flags, borderMode=border)
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR))


def enlarged_places(lookup: Floats, matrix: Matrix, size: tuple[int, int]) -> Floats:
    """:func:`enlarged` for a map of places: what is affine in it is kept exactly.

    OpenCV samples at 32nds of a cell, which for places would be steps of several pixels' 32nds.

    Args:
        lookup: ``(h, w, 2)`` float32 x and y.
        matrix: ``(2, 3)`` map → result.
        size: Width and height of the result.
    """
    h, w = lookup.shape[:2]
    ys, xs = np.mgrid[0:h:8, 0:w:8]
    fit = affine(np.stack([xs.ravel(), ys.ravel()], 1), lookup[::8, ::8].reshape(-1, 2))
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    back = invert(matrix)
    whole = np.column_stack([fit[:, :2] @ back[:, :2], fit[:, :2] @ back[:, 2] + fit[:, 2]])
    rest = np.empty_like(lookup)
    for c in (0, 1):
        rest[..., c] = lookup[..., c] - (
            np.float32(fit[c, 0]) * x + (np.float32(fit[c, 1]) * y + np.float32(fit[c, 2]))
        )
    out = enlarged(rest, matrix, size)
    x, y = np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)[:, None]
    for c in (0, 1):
        out[..., c] += np.float32(whole[c, 0]) * x + (
            np.float32(whole[c, 1]) * y + np.float32(whole[c, 2])
        )
    return np.asarray(out, np.float32)


def bounds(points: ArrayLike) -> Floats:
    """``(4,)`` float32 ``x0, y0, x1, y1`` around ``(N, 2+)`` points."""
    p = np.asarray(points, np.float32)[..., :2]
    return np.concatenate([p.min(0), p.max(0)])


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
    p = points[triangles, :2]
    d1, d2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    area: Floats = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    return area


def rasterise(
    points: Floats, triangles: NDArray[np.integer], depth: Floats, width: int, height: int
) -> NDArray[np.int32]:
    """Which triangle is nearest at each pixel; -1 where none is.

    All candidates, every pixel of every triangle's bounding box, are tested in one vectorised
    pass; triangles are taken far first, so that the last write to a pixel is the nearest. A
    loop of fill calls takes several times as long and stalls beside a busy Python thread.

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
    p = points[triangles[order], :2].astype(np.float32)
    x, y = p[..., 0], p[..., 1]
    x0 = np.clip(np.ceil(x.min(1)), 0, width).astype(np.int32)
    x1 = np.clip(np.floor(x.max(1)) + 1, 0, width).astype(np.int32)
    y0 = np.clip(np.ceil(y.min(1)), 0, height).astype(np.int32)
    y1 = np.clip(np.floor(y.max(1)) + 1, 0, height).astype(np.int32)
    wide = np.maximum(x1 - x0, 0)
    count = wide * np.maximum(y1 - y0, 0)
    # Barycentric coordinates of vertices 1 and 2 as linear functions of the pixel, relative to
    # vertex 0 so that float32 suffices.
    ax, ay = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    bx, by = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0]
    det = ax * by - bx * ay
    keep = np.flatnonzero((count > 0) & (np.abs(det) > 1e-6))
    out = np.full(height * width, -1, np.int32)
    if len(keep) == 0:
        return out.reshape(height, width)
    count, wide = count[keep], wide[keep]
    inv = 1.0 / det[keep]
    coef = np.stack(
        [by[keep] * inv, -bx[keep] * inv, -ay[keep] * inv, ax[keep] * inv, x[keep, 0], y[keep, 0]],
        axis=1,
    )
    ids = np.repeat(np.arange(len(keep), dtype=np.int32), count)
    offset = np.arange(len(ids), dtype=np.int32) - np.repeat(
        (np.cumsum(count) - count).astype(np.int32), count
    )
    per = wide[ids]
    row = offset // per
    px = offset - row * per + x0[keep][ids]
    py = row + y0[keep][ids]
    c = coef[ids]
    dx, dy = px - c[:, 4], py - c[:, 5]
    u = c[:, 0] * dx + c[:, 1] * dy
    v = c[:, 2] * dx + c[:, 3] * dy
    eps = np.float32(-1e-4)
    hit = np.flatnonzero((u >= eps) & (v >= eps) & (u + v <= 1 - eps))
    # NumPy assigns repeated indices in order: the last, nearest triangle stays.
    out[py[hit] * width + px[hit]] = order[keep][ids[hit]]
    return out.reshape(height, width)


def triangle_maps(src: Floats, dst: Floats, triangles: NDArray[np.integer]) -> Floats:
    """The affine map of each triangle from ``src`` to ``dst`` points.

    Args:
        src: ``(N, 2+)``.
        dst: ``(N, 2+)``.
        triangles: ``(T, 3)``.

    Returns:
        ``(T, 2, 3)`` float32; a triangle without area in ``src`` maps to its first corner.
    """
    s, d = src[triangles, :2], dst[triangles, :2]
    s0, d0 = s[:, 0], d[:, 0]
    (ax, ay), (bx, by) = (s[:, 1] - s0).T, (s[:, 2] - s0).T
    det = ax * by - ay * bx
    flat = np.abs(det) < 1e-6
    inv = np.where(flat, 0, 1 / np.where(flat, 1, det))
    da, db = (d[:, 1] - d0) * inv[:, None], (d[:, 2] - d0) * inv[:, None]
    out = np.empty((len(triangles), 2, 3), np.float32)
    out[:, :, 0] = da * by[:, None] - db * ay[:, None]
    out[:, :, 1] = db * ax[:, None] - da * bx[:, None]
    out[:, :, 2] = d0 - out[:, :, 0] * s0[:, :1] - out[:, :, 1] * s0[:, 1:]
    return out
