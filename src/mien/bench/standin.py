"""A network of a published size with random weights, to time what cannot be had.

The graph is the one of inswapper_128 (InsightFace, 2023) as ReSwapper describes it: four
convolutions down, six residual blocks whose two convolutions are normalised and then scaled and
shifted by a projection of the identity (AdaIN: Huang and Belongie, 2017), and four up. 174.6 GMAC
and 138.3 M parameters a face. What it paints is noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mien import zoo
from mien.errors import UsageError
from mien.zoo import ModelCard

NAME: Final = "inswapper-sized"

LABEL: Final = "random weights"
"""Goes with the name wherever a figure is shown."""

SIDE: Final = 128
IDENTITY: Final = 512
BLOCKS: Final = 6

Precision = Literal["fp32", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


class Size(NamedTuple):
    """How large a graph is.

    Attributes:
        macs: Multiplications with additions for one face.
        parameters: Learned numbers.
    """

    macs: int
    parameters: int


class _Graph:
    """A chain of nodes with their weights; ``onnx`` is imported by whoever makes one.

    Args:
        weights: Draw the weights; without them the graph has shapes alone and cannot run.
        precision: Of weights and of what flows.
    """

    def __init__(self, *, weights: bool, precision: Precision) -> None:
        import onnx  # noqa: PLC0415

        self.onnx, self.weights = onnx, weights
        self.type = np.dtype(np.float16 if precision == "fp16" else np.float32)
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self._random = np.random.default_rng(0)

    def add(self, kind: str, inputs: Sequence[str], outputs: int = 1, **more: Any) -> str:
        """A node; returns the name of its output, of which several are numbered."""
        name = f"{kind.lower()}{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, **more))
        return name

    def random(self, *shape: int, fan: int) -> str:
        """Weights that keep the spread of what flows: normal, variance ``2 / fan``."""
        name = f"w{len(self.stored)}"
        if self.weights:
            values = self._random.standard_normal(shape, np.float32) * np.float32((2 / fan) ** 0.5)
            return self.store(name, values.astype(self.type))
        tensor = self.onnx.TensorProto(name=name, dims=shape)
        tensor.data_type = self.onnx.helper.np_dtype_to_tensor_dtype(self.type)
        self.stored.append(tensor)
        return name

    def store(self, name: str, values: NDArray[Any]) -> str:
        """A constant."""
        self.stored.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, before: int, after: int, kernel: int = 3, stride: int = 1) -> str:
        """Convolution with bias; the large ones at both ends mirror the border, as trained."""
        pad = kernel // 2
        if kernel > 3:
            pads = self.store(f"pads{len(self.stored)}", np.array([0, 0, pad, pad] * 2, np.int64))
            x, pad = self.add("Pad", [x, pads], mode="reflect"), 0
        weight = self.random(after, before, kernel, kernel, fan=before * kernel**2)
        bias = self.random(after, fan=10_000)
        return self.add("Conv", [x, weight, bias], kernel_shape=[kernel, kernel], pads=[pad] * 4,
                        strides=[stride, stride])  # fmt: skip

    def leaky(self, x: str) -> str:
        return self.add("LeakyRelu", [x], alpha=0.2)

    def styled(self, x: str, identity: str, width: int) -> str:
        """Convolution, normalisation, and the identity's scale and shift for each channel."""
        x = self.conv(x, width, width)
        ones = self.store(f"ones{len(self.stored)}", np.ones(width, self.type))
        zeros = self.store(f"zeros{len(self.stored)}", np.zeros(width, self.type))
        x = self.add("InstanceNormalization", [x, ones, zeros], epsilon=1e-6)
        weight = self.random(2 * width, IDENTITY, fan=IDENTITY)
        style = self.add("Gemm", [identity, weight, self.random(2 * width, fan=2)], transB=1)
        shape = self.store(f"shape{len(self.stored)}", np.array([-1, 2 * width, 1, 1], np.int64))
        halves = self.add("Split", [self.add("Reshape", [style, shape])], 2, axis=1)
        return self.add("Add", [self.add("Mul", [x, f"{halves}.0"]), f"{halves}.1"])

    def doubled(self, x: str) -> str:
        scales = self.store(f"scales{len(self.stored)}", np.array([1, 1, 2, 2], np.float32))
        return self.add("Resize", [x, "", scales], mode="linear",
                        coordinate_transformation_mode="half_pixel")  # fmt: skip

    def cast(self, x: str, to: np.dtype[Any]) -> str:
        """The same in another precision; inputs and outputs are float32 in any case."""
        if self.type == np.float32:
            return x
        return self.add("Cast", [x], to=self.onnx.helper.np_dtype_to_tensor_dtype(to))


def build(*, weights: bool = True, precision: Precision = "fp32", width: int = 1024) -> Any:
    """The graph as an ``onnx.ModelProto``: ``target`` (1, 3, 128, 128), ``source`` (1, 512).

    Its last initialiser is a matrix ``emap`` (512, 512) that no node uses, as in inswapper_128.

    Args:
        weights: Draw them; without, the graph has shapes alone.
        precision: Inputs and outputs are float32 in either.
        width: Channels in the middle; less makes another network, for tests.

    Raises:
        UsageError: The package onnx is not installed.
    """
    try:
        import onnx  # noqa: PLC0415
        from onnx import helper  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"{NAME}: building it needs the package onnx: pip install onnx") from error
    g = _Graph(weights=weights, precision=precision)
    x, identity = g.cast("target", g.type), g.cast("source", g.type)
    eighth, quarter, half = width // 8, width // 4, width // 2
    x = g.leaky(g.conv(x, 3, eighth, kernel=7))
    x = g.leaky(g.conv(x, eighth, quarter))
    x = g.leaky(g.conv(x, quarter, half, stride=2))
    x = g.leaky(g.conv(x, half, width, stride=2))
    for _ in range(BLOCKS):
        inner = g.styled(g.add("Relu", [g.styled(x, identity, width)]), identity, width)
        x = g.add("Add", [inner, x])
    x = g.leaky(g.conv(g.doubled(x), width, half))
    x = g.leaky(g.conv(g.doubled(x), half, quarter))
    x = g.leaky(g.conv(x, quarter, eighth))
    x = g.add("Tanh", [g.conv(x, eighth, 3, kernel=7)])
    x = g.cast(x, np.dtype(np.float32))
    middle = g.store("middle", np.array(0.5, np.float32))
    x = g.add("Add", [g.add("Mul", [x, middle]), middle])
    g.nodes.append(helper.make_node("Identity", [x], ["output"]))
    g.store("emap", np.eye(IDENTITY, dtype=np.float32))
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "inswapper_sized_random_weights",
        [
            helper.make_tensor_value_info("target", number, (1, 3, SIDE, SIDE)),
            helper.make_tensor_value_info("source", number, (1, IDENTITY)),
        ],
        [helper.make_tensor_value_info("output", number, (1, 3, SIDE, SIDE))],
        g.stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def size_of(model: Any) -> Size:
    """Count multiplications and learned numbers of a graph of Conv and Gemm, by shapes alone."""
    from onnx import shape_inference  # noqa: PLC0415

    graph = shape_inference.infer_shapes(model).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    macs = parameters = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = shapes[node.input[1]]
        parameters += math.prod(weight) + math.prod(shapes[node.input[2]])
        # Every weight is used once for each place of the output.
        places = shapes[node.output[0]][2:] if node.op_type == "Conv" else ()
        macs += math.prod(weight) * math.prod(places)
    return Size(macs, parameters)


def name_in(precision: Precision) -> str:
    """The name of its card in a precision."""
    return NAME if precision == "fp32" else f"{NAME}_{precision}"


def card(folder: Path, precision: Precision = "fp32") -> ModelCard:
    """Write the graph with its weights into a folder, and describe it like inswapper_128.

    Args:
        folder: For the file, 554 MB in fp32 and half of that in fp16.
        precision: Of the weights.

    Raises:
        UsageError: The package onnx is not installed.
    """
    path = folder / f"{NAME}-{precision}.onnx"
    data = build(precision=precision).SerializeToString()
    path.write_bytes(data)
    like = zoo.find("inswapper_128")
    assert like.swap is not None
    return replace(
        like,
        name=name_in(precision),
        file=str(path.absolute()),
        sources=(),
        precision=precision,
        origin=f"made by mien bench: {LABEL}",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        licence="Apache-2.0",
        commercial=True,
        swap=replace(like.swap, recogniser="faceres512"),
    )
