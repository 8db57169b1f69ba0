"""Writes nodes: the few kinds that the fused graph is made of.

Pixel centres are at whole numbers, as everywhere in mien. ``GridSample`` without ``align_corners``
puts -1 and 1 at the outer edges of an image, so pixel ``i`` of ``n`` is at ``(2·i + 1) / n - 1``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class Writer:
    """Collects nodes and constants. A call writes one node and gives the name of its output."""

    def __init__(self, onnx: Any, name: str, opset: int) -> None:
        self.onnx = onnx
        self.name = name
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str | ArrayLike, to: str = "", **attributes: Any) -> str:
        """A node with one output, called ``to``; numbers among the inputs become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = to or f"{self.name}/{len(self.nodes)}/{op}"
        self.nodes.append(
            self.onnx.helper.make_node(op, names, [output], name=output, **attributes)
        )
        return output

    def constant(self, value: ArrayLike) -> str:
        """A constant: what is whole is int64, all else float32."""
        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind in "iu" else np.float32
        name = f"{self.name}/constant/{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array.astype(kind), name))
        return name

    def cast(self, values: str, kind: str | int = "FLOAT", *, to: str = "") -> str:
        """Values as another type, by name or ONNX's number."""
        number = kind if isinstance(kind, int) else int(getattr(self.onnx.TensorProto, kind))
        node = self.onnx.helper.make_node(
            "Cast", [values], [to or f"{self.name}/{len(self.nodes)}/Cast"], to=number
        )
        node.name = node.output[0]
        self.nodes.append(node)
        return str(node.output[0])

    def total(self, values: str) -> str:
        """Sum over rows and columns, ``(N, C, 1, 1)``."""
        return self("ReduceSum", values, [2, 3], keepdims=1)

    def ordered(self, values: str, count: str) -> tuple[str, str]:
        """``(N, count)`` from least to largest, and where each was."""
        name = f"{self.name}/{len(self.nodes)}/TopK"
        out = [f"{name}/values", f"{name}/indices"]
        make = self.onnx.helper.make_node
        self.nodes.append(make("TopK", [values, count], out, name=name, largest=0))
        return out[0], out[1]

    def levels(self, values: str) -> str:
        """Whole grey levels 0..255, halves rounded up."""
        return self("Floor", self("Clip", self("Add", values, 0.5), 0.0, 255.0))

    def averaged(self, image: str, square: str) -> str:
        """``(N, 3, H, W)`` over squares, as grey levels; what is left over at the end is cut off.

        Args:
            image: Grey levels.
            square: ``(1,)`` int64, the side of a square.
        """
        small = self("Div", self("Slice", self("Shape", image), [2], [4], [0]), square)
        part = self("Slice", image, [0, 0], self("Mul", small, square), [2, 3])
        height, width = self("Gather", small, [0], axis=0), self("Gather", small, [1], axis=0)
        shape = self("Concat", [0], [3], height, square, width, square, axis=0)
        total = self("ReduceSum", self("Reshape", part, shape), [3, 5], keepdims=0)
        side = self.cast(square)
        mean = self("Div", total, self("Mul", side, side))
        # OpenCV rounds halves up where it halves, else to the even number.
        up = self("Where", self("Less", side, 2.5), 0.125, 0.0)
        return self("Round", self("Add", mean, up))

    def grid(self, matrix: str, rows: str, columns: str, size: str) -> str:
        """Where an affine map puts pixels, in the units of ``GridSample``, ``(N, h, w, 2)``.

        By sums of products and not by ``MatMul``, which a GPU may round to ten bits (TF32): that
        is a pixel at the far end of a region.

        Args:
            matrix: ``(N, 2, 3)``, pixels of the result → pixels of the image.
            rows: ``(1,)`` int64, of the result.
            columns: ``(1,)`` int64.
            size: ``(2,)`` float32, width and height of the image.
        """
        half = self("Div", [2.0, 2.0], size)
        x, y, shift = (
            self("Mul", self("Reshape", self("Gather", matrix, n, axis=2), [-1, 1, 1, 2]), half)
            for n in range(3)
        )
        shift = self("Add", shift, self("Sub", self("Mul", half, 0.5), 1.0))
        along = self("Mul", x, self("Reshape", self.count(columns), [1, 1, -1, 1]))
        down = self("Mul", y, self("Reshape", self.count(rows), [1, -1, 1, 1]))
        return self("Add", self("Add", along, down), shift)

    def count(self, number: str) -> str:
        """0, 1, 2 … as float32."""
        return self.cast(self("Range", 0, self("Squeeze", number, [0]), 1))

    def sample(self, image: str, grid: str, beyond: str = "border") -> str:
        """The image there, linear, as grey levels; beyond it its rim goes on, or ``zeros``."""
        mode = "bilinear" if self.opset < 20 else "linear"
        values = self("GridSample", image, grid, mode=mode, padding_mode=beyond, align_corners=0)
        return self("Round", values)


class Pixels:
    """The region as planes of floats, and its size."""

    def __init__(self, write: Writer) -> None:
        self.image = write.cast(write("Transpose", "region", perm=[0, 3, 1, 2]))
        shape = write("Shape", self.image)
        self.height = write("Slice", shape, [2], [3], [0])
        self.width = write("Slice", shape, [3], [4], [0])
        self.size = write.cast(write("Concat", self.width, self.height, axis=0))
