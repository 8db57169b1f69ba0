"""The match of colours in the graph, as :mod:`mien.blend` does it."""

from __future__ import annotations

from typing import Final

import numpy as np

from mien.blend import BROAD
from mien.fuse.writer import Pixels, Writer

XYZ: Final = np.array(
    [
        [0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456],
        [0.212671, 0.715160, 0.072169],
        [0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754],
    ]
)
"""Linear sRGB → CIE XYZ by the white point D65 (ITU-R BT.709), as OpenCV has it."""

FEW: Final = 64
"""Pixels under the mask below which colours are left as they are, as in :mod:`mien.blend`."""


def matched(write: Writer, frame: Pixels, image: str) -> str:
    """The patch in the colours of what it covers, :func:`mien.blend.match_color`'s ``lab``."""
    side = write("Slice", write("Shape", "mask"), [1], [2], [0])
    under = write.sample(frame.image, write.grid("back", side, side, frame.size))
    mask = write.cast(write("Unsqueeze", "mask", [1]))
    where = write.cast(write("Greater", mask, 127.0))
    count = write.total(where)
    least = write("Max", count, 1.0)

    def moments(lab: str) -> tuple[str, str]:
        mean = write("Div", write.total(write("Mul", lab, where)), least)
        off = write("Mul", write("Sub", lab, mean), where)
        return mean, write("Sqrt", write("Div", write.total(write("Mul", off, off)), least))

    ours, theirs = _lab(write, image), _lab(write, under)
    (mean, spread), (their_mean, their_spread) = moments(ours), moments(theirs)
    gain = write("Clip", write("Div", their_spread, write("Max", spread, 1e-3)), 0.5, 2.0)
    moved = write("Add", write("Mul", write("Sub", ours, mean), gain), their_mean)
    matched = write.levels(write("Mul", _rgb(write, moved), 255.0))
    matched = _evened(write, matched, under)
    enough = write.cast(write("Greater", count, FEW - 0.5))
    share = write("Mul", write("Reshape", "strength", [1, 1, 1, 1]), enough)
    change = write("Mul", write("Sub", matched, image), share)
    return write.levels(write("Add", image, change))


def _evened(write: Writer, image: str, under: str) -> str:
    """The patch in the broad light of what it covers, as :mod:`mien.blend` evens it."""
    weight = write("Unsqueeze", "weight", [1])
    blur = write("Unsqueeze", "blur", [1])
    across = write("Transpose", blur, perm=[0, 1, 3, 2])
    onto = write("Transpose", "area", perm=[1, 0])

    def small(levels: str) -> str:
        return write("Round", write("MatMul", write("MatMul", "area", levels), onto))

    ours, theirs = (write("Add", small(v), 8.0) for v in (image, under))
    logs = write("Log", write("Div", theirs, ours))
    apart = write("Div", write("ReduceSum", logs, [1], keepdims=1), 3.0)
    off = write("Sub", apart, _median(write, apart, weight))
    spread = write("Mul", _median(write, write("Abs", off), weight), 1.4826)
    odd = write("Div", off, write("Mul", write("Max", spread, 0.05), 2.0))
    trust = write("Div", weight, write("Add", write("Mul", odd, odd), 1.0))
    least = write("Max", write.total(trust), 1e-9)

    def blurred(values: str) -> str:
        return write("MatMul", write("MatMul", blur, values), across)

    total = write("Add", blurred(trust), 0.02)

    def low(values: str) -> str:
        part = write("Mul", write("Sub", values, 8.0), trust)
        mean = write("Div", write.total(part), least)
        near = write("Add", blurred(part), write("Mul", mean, 0.02))
        return write("Add", write("Div", near, total), 8.0)

    gain = write("Clip", write("Div", low(theirs), low(ours)), 0.5, 2.0)
    size = write("Shape", image)
    large = write(
        "Resize", gain, "", "", size, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    evened = write("Clip", write("Round", write("Mul", image, large)), 0.0, 255.0)
    wide = write("Greater", write.total(weight), (1 / BROAD) ** 2)
    return write("Where", wide, evened, image)


def _median(write: Writer, values: str, weight: str) -> str:
    """The weighted median of ``(N, 1, G, G)``, ``(N, 1, 1, 1)``."""
    flat = write("Flatten", values)
    ordered, order = write.ordered(flat, write("Slice", write("Shape", flat), [1], [2], [0]))
    weights = write("GatherElements", write("Flatten", weight), order, axis=1)
    so_far = write("CumSum", weights, 1)
    half = write("Mul", write("ReduceSum", weights, [1], keepdims=1), 0.5)
    below = write.cast(write("Less", so_far, half))
    at = write.cast(write("ReduceSum", below, [1], keepdims=1), "INT64")
    return write("Reshape", write("GatherElements", ordered, at, axis=1), [-1, 1, 1, 1])


def _lab(write: Writer, levels: str) -> str:
    """Grey levels of sRGB → CIE L*a*b* (IEC 61966-2-1, ISO/CIE 11664-4), as OpenCV has it."""
    c = write("Div", levels, 255.0)
    curve = write("Pow", write("Div", write("Add", c, 0.055), 1.055), 2.4)
    linear = write("Where", write("Greater", c, 0.04045), curve, write("Div", c, 12.92))
    xyz = write("Conv", linear, XYZ.reshape(3, 3, 1, 1))
    dark = write("Add", write("Mul", xyz, 7.787), 16 / 116)
    root = write("Pow", write("Max", xyz, 0.0), 1 / 3)
    f = write("Where", write("Greater", xyz, 0.008856), root, dark)
    # L = 116·f(Y) - 16, which OpenCV computes as 903.3·Y where it is dark: the same to 0.0002.
    weights = np.array([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]])
    return write("Conv", f, weights.reshape(3, 3, 1, 1), [-16.0, 0.0, 0.0])


def _rgb(write: Writer, lab: str) -> str:
    """CIE L*a*b* → sRGB 0..1, clipped to the gamut."""
    weights = np.array([[1 / 116, 1 / 500, 0], [1 / 116, 0, 0], [1 / 116, 0, -1 / 200]])
    f = write("Conv", lab, weights.reshape(3, 3, 1, 1), [16 / 116] * 3)
    dark = write("Div", write("Sub", f, 16 / 116), 7.787)
    cube = write("Mul", f, write("Mul", f, f))
    limit = 7.787 * 0.008856 + 16 / 116
    xyz = write("Where", write("Greater", f, limit), cube, dark)
    linear = write("Conv", xyz, np.linalg.inv(XYZ).reshape(3, 3, 1, 1))
    linear = write("Clip", linear, 0.0, 1.0)
    curve = write("Sub", write("Mul", write("Pow", linear, 1 / 2.4), 1.055), 0.055)
    return write("Where", write("Greater", linear, 0.0031308), curve, write("Mul", linear, 12.92))
