"""Gives CenterFace a free input size and the plain RGB input that all models here share."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from build_models.graph import Graph


def convert(data: bytes, description: str) -> onnx.ModelProto:
    """Rewrite ``centerface.onnx``, which declares a fixed 32 by 32 input.

    Batch normalisation behind the three transposed convolutions is folded into them.

    Args:
        data: Bytes of the source file.
        description: Stored in the new file.
    """
    source = onnx.load_from_string(data).graph
    weight = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in source.initializer}
    graph = Graph()
    value = {source.input[0].name: graph.add("Transpose", "image", perm=[0, 3, 1, 2])}
    names = dict(zip([o.name for o in source.output], OUTPUTS, strict=True))
    norms = {n.input[0]: n for n in source.node if n.op_type == "BatchNormalization"}
    for node in source.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        out = node.output[0]
        if node.op_type == "BatchNormalization":
            value[out] = value[node.input[0]]
            continue
        if out in norms:
            gain, offset, mean, variance = (weight[i] for i in norms[out].input[1:])
            epsilon = onnx.helper.get_attribute_value(
                next(a for a in norms[out].attribute if a.name == "epsilon")
            )
            gain = gain / np.sqrt(variance + epsilon)
            inputs = [
                value[node.input[0]],
                graph.const(weight[node.input[1]] * gain[None, :, None, None]),
                graph.const(offset - mean * gain),
            ]
        else:
            inputs = [value[i] if i in value else graph.const(weight[i]) for i in node.input]
        value[out] = graph.add(node.op_type, *inputs, out=names.get(out, ""), **attributes)
    return graph.model(
        "centerface",
        {"image": ["n", "height", "width", 3]},
        {name: ["n", channels, "rows", "columns"] for name, channels in OUTPUTS.items()},
        description,
    )


OUTPUTS = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}
