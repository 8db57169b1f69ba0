"""Half precision: weights and most operators in fp16, what would suffer in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien.precision import graph
from mien.precision.graph import Sample
from mien.precision.int8 import ranges

LARGEST: Final = 65504.0
"""The largest finite number of half precision."""

MARGIN: Final = 4.0
"""A tensor that came within this factor of the largest number is kept in fp32."""

_SUMS: Final = "adds up thousands of values, or their squares"
_STEEP: Final = "overflows for small arguments"
_PLACES: Final = "computes places; half precision knows 2,048 of them"
_TYPES: Final = "has no half precision in the standard, or says itself what type it makes"

KEPT: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
         "ReduceLogSumExp", "ReduceProd", "LpNormalization", "LpPool", "InstanceNormalization",
         "LayerNormalization", "GroupNormalization", "MeanVarianceNormalization", "LRN",
         "Softmax", "LogSoftmax", "CumSum"), _SUMS),
    **dict.fromkeys(("Exp", "Pow", "Log", "Softplus", "Sinh", "Cosh"), _STEEP),
    **dict.fromkeys(
        ("GridSample", "RoiAlign", "AffineGrid", "Range", "TopK", "NonMaxSuppression", "ArgMax",
         "ArgMin"), _PLACES),
    **dict.fromkeys(
        ("Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "RandomNormal",
         "RandomUniform", "QuantizeLinear", "DequantizeLinear", "If", "Loop", "Scan"), _TYPES),
}  # fmt: skip
"""Operators that stay in fp32, and why."""

ALWAYS_FLOAT: Final = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator → inputs that are fp32 whatever the picture is."""


def too_large(
    source: Path, samples: Sequence[Sample], limit: float = LARGEST / MARGIN
) -> list[str]:
    """Nodes that make or take a tensor that came near the largest number of half precision.

    Args:
        source: fp32 graph, simplified.
        samples: Inputs as they come in use.
        limit: Absolute value that counts as near.

    Returns:
        Their names, in the graph's order.
    """
    onnx = graph.onnx()
    model = onnx.load(str(source))
    found = ranges(source, samples, operators=sorted({n.op_type for n in model.graph.node}))
    large = {name for name, (low, high) in found.items() if max(-low, high) > limit}
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            size = np.abs(onnx.numpy_helper.to_array(weights)).max(initial=0)
            large |= {weights.name} if size > limit else set()
    return [n.name for n in model.graph.node if large & {*n.input, *n.output}]


def to_fp16(
    source: Path, out: Path, *, operators: Sequence[str] = tuple(KEPT), nodes: Sequence[str] = ()
) -> None:
    """Write a half precision version of a network; its inputs and outputs stay fp32.

    Between two nodes that are kept nothing goes through half precision, so that what is too large
    for it passes unharmed.

    Args:
        source: fp32 graph, simplified.
        out: The ``.onnx`` file to write.
        operators: Kinds of nodes that stay in fp32.
        nodes: Names of further nodes that do.
    """
    onnx = graph.onnx()
    model = onnx.load(str(source))
    writer = _Halves(model)
    for node in model.graph.node:
        foreign = node.domain not in ("", "ai.onnx")
        writer.add(node, kept=foreign or node.op_type in operators or node.name in nodes)
    for output in model.graph.output:
        writer.full(output.name)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes)
    used = {name for node in writer.nodes for name in (*node.input, *_inside(node))}
    left = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*left, *writer.converted])
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(out))


class _Halves:
    """Nodes as they are rewritten: a tensor ``x`` in fp32, the same as ``x_fp16`` in half.

    Each comes from its node in one form; the other is cast where it is first asked for.

    Attributes:
        nodes: So far.
        converted: Weights in fp16.
    """

    def __init__(self, model: Any) -> None:
        self.onnx = graph.onnx()
        self.types = self.onnx.TensorProto
        self.nodes: list[Any] = []
        self.converted: list[Any] = []
        self._of = _float_tensors(model)
        self._weights = {
            i.name: i for i in model.graph.initializer if i.data_type == self.types.FLOAT
        }
        self._fulls = {*(i.name for i in model.graph.input), *self._weights} & self._of
        self._halves: set[str] = set()

    def add(self, node: Any, *, kept: bool) -> None:
        """Rewrite a node whose inputs have been made.

        Args:
            node: Changed in place.
            kept: It stays in fp32.
        """
        always = ALWAYS_FLOAT.get(node.op_type, ())
        for name in _inside(node):
            self.full(name)
        for place, name in enumerate(node.input):
            node.input[place] = self.full(name) if kept or place in always else self.half(name)
        for place, name in enumerate(node.output):
            if name in self._of:
                (self._fulls if kept else self._halves).add(name)
                node.output[place] = name if kept else f"{name}_fp16"
        self.nodes.append(node)

    def half(self, name: str) -> str:
        """The name of a tensor's fp16 form; of what is no float, its own."""
        if name not in self._of:
            return name
        made = f"{name}_fp16"
        if name not in self._halves:
            self._halves.add(name)
            if name in self._weights:
                array = self.onnx.numpy_helper.to_array(self._weights[name])
                array = np.clip(array, -LARGEST, LARGEST).astype(np.float16)
                self.converted.append(self.onnx.numpy_helper.from_array(array, made))
            else:
                self._cast(name, made, self.types.FLOAT16)
        return made

    def full(self, name: str) -> str:
        """The name of a tensor's fp32 form, which is the tensor's own."""
        if name in self._of and name not in self._fulls:
            self._fulls.add(name)
            self._cast(f"{name}_fp16", name, self.types.FLOAT)
        return name

    def _cast(self, source: str, made: str, to: int) -> None:
        self.nodes.append(
            self.onnx.helper.make_node("Cast", [source], [made], f"{made}_cast", to=to)
        )


def _float_tensors(model: Any) -> set[str]:
    """Names of all fp32 tensors of a graph."""
    onnx = graph.onnx()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = (*inferred.input, *inferred.output, *inferred.value_info)
    float32 = onnx.TensorProto.FLOAT
    of = {v.name for v in known if v.type.tensor_type.elem_type == float32}
    return of | {i.name for i in inferred.initializer if i.data_type == float32}


def _inside(node: Any) -> set[str]:
    """Names that the graphs in a node's attributes use, their own included."""
    names: set[str] = set()
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names |= {output.name for output in inner.output}
            for deeper in inner.node:
                names |= {*deeper.input, *_inside(deeper)}
    return names
