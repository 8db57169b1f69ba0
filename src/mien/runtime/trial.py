"""A provider tried out with a tiny graph; for a process of its own, since drivers may crash."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np

from mien.errors import MienError, ProviderError
from mien.runtime.device import Device
from mien.runtime.session import load


def attempt(provider: str) -> str:
    """Load a convolution onto a provider, run it, and compare with what must come out.

    Returns:
        What is wrong, in one line; empty if nothing is.
    """
    with tempfile.TemporaryDirectory(prefix="mien-trial-") as folder:
        path = Path(folder) / "trial.onnx"
        path.write_bytes(convolution())
        image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) / 64
        try:
            (found,) = load(path, Device(provider, cache="off"))(image)
            # The weights are all one half, so each pixel is half the sum of its 3 x 3 neighbours.
            padded = np.pad(image[0, 0], 1)
            want = sum(padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)) / 2
            if not np.allclose(found[0, 0], want, atol=0.05):
                raise ProviderError(f"{provider} computes wrong numbers")
        except MienError as error:
            said = str(error).replace(f"{path.name}: ", "").partition(" (--allow-fallback")[0]
            return " ".join(said.split())
    return ""


def convolution() -> bytes:
    """An ONNX file of one 3 x 3 convolution on ``(1, 1, 8, 8)``, written without onnx."""
    weights = struct.pack("<9f", *[0.5] * 9)
    tensor = _number(1, 1) + _number(1, 1) + _number(1, 3) + _number(1, 3)  # dims
    tensor += _number(2, 1) + _bytes(8, b"w") + _bytes(9, weights)
    pads = _bytes(1, b"pads") + b"".join(_number(8, 1) for _ in range(4)) + _number(20, 7)
    node = _bytes(1, b"x") + _bytes(1, b"w") + _bytes(2, b"y") + _bytes(4, b"Conv")
    node += _bytes(5, pads)
    dims = b"".join(_bytes(1, _number(1, size)) for size in (1, 1, 8, 8))
    kind = _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, dims)))
    graph = _bytes(1, node) + _bytes(2, b"trial") + _bytes(5, tensor)
    graph += _bytes(11, _bytes(1, b"x") + kind) + _bytes(12, _bytes(1, b"y") + kind)
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
