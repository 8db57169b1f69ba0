"""A small writer of ONNX graphs for networks that come from TensorFlow.

TensorFlow keeps images as NHWC, ONNX Runtime computes them as NCHW. Everything here is NCHW, so
that a converted network transposes once at its input, and weights are turned as they are added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
Array = NDArray[Any]


class Graph:
    """Nodes and weights of one network while it is written.

    Attributes:
        shape: For each feature map its ``(C, H, W)``; the batch dimension is free.
    """

    def __init__(self) -> None:
        self.shape: dict[str, tuple[int, int, int]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._producer: dict[str, onnx.NodeProto] = {}
        self._weights: dict[str, Array] = {}

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        out = out or f"{op}_{len(self._nodes)}"
        node = helper.make_node(op, list(inputs), [out], name=out, **attributes)
        self._nodes.append(node)
        self._producer[out] = node
        return out

    def const(self, value: Any, dtype: type = np.float32) -> str:
        """Add a constant and return its name; equal small ones are shared."""
        array = np.asarray(value, dtype)
        if array.size <= 64:
            for name, other in self._weights.items():
                if (
                    other.dtype == array.dtype
                    and other.shape == array.shape
                    and np.array_equal(other, array)
                ):
                    return name
        name = f"c{len(self._weights)}"
        self._weights[name] = array
        return name

    def image(self, name: str, size: int) -> str:
        """Turn the ``(N, size, size, 3)`` input into NCHW."""
        out = self.add("Transpose", name, perm=[0, 3, 1, 2])
        self.shape[out] = (3, size, size)
        return out

    def conv(
        self,
        x: str,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: int = 1,
        same: bool = True,
        group: int = 1,
    ) -> str:
        """Convolve with an ``(O, I, kh, kw)`` weight; ``same`` pads as TensorFlow does."""
        _, height, width = self.shape[x]
        kernel = weight.shape[2:]
        pads = _pads((height, width), kernel, stride) if same else [0, 0, 0, 0]
        inputs = [x, self.const(weight)] + ([] if bias is None else [self.const(bias)])
        out = self.add(
            "Conv",
            *inputs,
            kernel_shape=list(kernel),
            strides=[stride, stride],
            pads=pads,
            group=group,
        )
        self.shape[out] = (
            weight.shape[0],
            (height + pads[0] + pads[2] - kernel[0]) // stride + 1,
            (width + pads[1] + pads[3] - kernel[1]) // stride + 1,
        )
        return out

    def bias(self, x: str, value: Array) -> str:
        """Add a value for each channel: inside the convolution that made ``x``, if one did."""
        node = self._producer[x]
        if node.op_type == "Conv" and len(node.input) == 2:
            node.input.append(self.const(value))
            return x
        if node.op_type == "Add":
            for name in node.input:
                source = self._producer.get(name)
                if source is not None and source.op_type == "Conv" and len(source.input) == 2:
                    source.input.append(self.const(value))
                    return x
        raise ValueError(f"{x} ({node.op_type}): no convolution that can take the bias")

    def scale(self, x: str, value: Array) -> str:
        """Multiply each channel of a convolution without bias, inside its weight."""
        node = self._producer[x]
        if node.op_type != "Conv" or len(node.input) != 2:
            raise ValueError(f"{x} ({node.op_type}): not a convolution without bias")
        node.input[1] = self.const(self._weights[node.input[1]] * value.reshape(-1, 1, 1, 1))
        return x

    def same_shape(self, op: str, *inputs: str) -> str:
        """Add an element-wise node whose result has the shape of its first input."""
        out = self.add(op, *inputs)
        self.shape[out] = self.shape[inputs[0]]
        return out

    def prelu(self, x: str, slope: Array) -> str:
        """Leaky rectifier with one slope a for each channel, as a·x + (1 - a)·max(x, 0).

        ONNX Runtime's blocked layout knows no PRelu: it would leave the layout before each one
        and return behind it. Two 1 × 1 depthwise convolutions stay inside.
        """
        slope = slope.reshape(-1, 1, 1, 1)
        rectified = self.same_shape("Relu", x)
        parts = [
            self.conv(part, weight, group=len(slope), same=False)
            for part, weight in ((x, slope), (rectified, 1 - slope))
        ]
        return self.same_shape("Add", *parts)

    def relu6(self, x: str) -> str:
        """Clip to 0..6."""
        return self.same_shape("Clip", x, self.const(0.0), self.const(6.0))

    def max_pool(self, x: str, kernel: int, stride: int) -> str:
        """Maximum over windows that divide the map."""
        channels, height, width = self.shape[x]
        out = self.add("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2)
        self.shape[out] = (channels, height // stride, width // stride)
        return out

    def pad_channels(self, x: str, more: int, group: int = 1) -> str:
        """Append channels of zeros, by a 1 × 1 convolution: Pad knows no blocked layout."""
        channels = self.shape[x][0] // group
        weight = np.eye(channels + more // group, channels, dtype=np.float32)
        return self.conv(x, np.tile(weight, (group, 1))[:, :, None, None], same=False, group=group)

    def take_channels(self, x: str, channels: Array) -> str:
        """Pick channels by number."""
        out = self.add("Gather", x, self.const(channels, np.int64), axis=1)
        self.shape[out] = (len(channels), *self.shape[x][1:])
        return out

    def double(self, x: str, *, half_pixel: bool) -> str:
        """Enlarge by two, linearly."""
        channels, height, width = self.shape[x]
        out = self.add(
            "Resize",
            x,
            "",
            self.const([1, 1, 2, 2]),
            mode="linear",
            coordinate_transformation_mode="half_pixel" if half_pixel else "asymmetric",
        )
        self.shape[out] = (channels, height * 2, width * 2)
        return out

    def rows(self, x: str, columns: int, out: str = "") -> str:
        """Flatten a map, in NHWC order, to ``(N, anything, columns)``."""
        turned = self.add("Transpose", x, perm=[0, 2, 3, 1])
        return self.add("Reshape", turned, self.const([0, -1, columns], np.int64), out=out)

    def model(
        self,
        name: str,
        inputs: dict[str, list[int | str]],
        outputs: dict[str, list[int | str]],
        description: str,
    ) -> onnx.ModelProto:
        """Finish: drop what no output needs, store weights small, and check the result."""
        needed, kept = set(outputs), []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        weights = {k: v for k, v in self._weights.items() if k in needed}
        tensors, casts = compact(weights)
        graph = helper.make_graph(
            casts + kept[::-1],
            name,
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
            tensors,
        )
        return finish(graph, description)


def compact(weights: dict[str, Array]) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Store weights as float16 with a Cast behind each, where that loses nothing or saves much.

    ONNX Runtime folds these casts when it loads the file, so that only the file is smaller. Most
    sources hold float16 as well.
    """
    tensors, casts = [], []
    for name, value in weights.items():
        half = value.astype(np.float16) if value.dtype == np.float32 else value
        if half is not value and (
            value.size >= 4096 or (value.size >= 256 and np.array_equal(half, value))
        ):
            tensors.append(numpy_helper.from_array(half, name + "_half"))
            casts.append(
                helper.make_node("Cast", [name + "_half"], [name], name=name, to=TensorProto.FLOAT)
            )
        else:
            tensors.append(numpy_helper.from_array(value, name))
    return tensors, casts


def finish(graph: onnx.GraphProto, description: str) -> onnx.ModelProto:
    """Wrap a graph into a checked model that onnxruntime 1.20 reads."""
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="mien",
        doc_string=description,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _pads(size: tuple[int, int], kernel: tuple[int, ...], stride: int) -> list[int]:
    """TensorFlow's SAME padding as top, left, bottom, right: the odd pixel goes to the end."""
    total = [
        max(0, (math.ceil(s / stride) - 1) * stride + k - s)
        for s, k in zip(size, kernel, strict=True)
    ]
    return [t // 2 for t in total] + [t - t // 2 for t in total]
