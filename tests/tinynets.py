"""Tiny ONNX graphs with the inputs and outputs of published networks, and cards for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mien import zoo

HALF = (127.5, 127.5, 127.5)
BYTE = (255.0, 255.0, 255.0)


def save(path, inputs, nodes, outputs, **constants):
    """Write a graph; inputs and outputs are name → shape, or name → (type, shape)."""

    def values(given):
        for name, said in given.items():
            kind, shape = said if isinstance(said[0], np.dtype) else (np.dtype("float32"), said)
            yield helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(kind), list(shape)
            )

    graph = helper.make_graph(
        nodes,
        "tiny",
        list(values(inputs)),
        list(values(outputs)),
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    Path(path).write_bytes(model.SerializeToString())
    return Path(path)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def cast(value, output):
    return node("Cast", value, output, to=TensorProto.FLOAT)


def shelf(*cards: zoo.ModelCard) -> zoo.Zoo:
    """A zoo of these cards besides those that come with mien; what it notes lies beside them."""
    return zoo.Zoo(cards=(*zoo.SHIPPED, *cards), folder=Path(cards[0].file).parent)


def card(path, task, family, size, **more) -> zoo.ModelCard:
    """A card for a graph, with the means and templates of the family unless told otherwise."""
    usual = {
        "enhance": {
            "mean": HALF, "std": HALF, "layout": "NCHW",
            "template": zoo.scaled("ffhq_512", size),
        },
        "upscale": {"std": BYTE, "layout": "NCHW"},
        "segment": {"template": zoo.scaled("ffhq_512", size)},
    }[task]  # fmt: skip
    return zoo.ModelCard(
        name=path.stem,
        task=task,
        family=family,
        file=str(path),
        licence="MIT",
        commercial=True,
        size=size,
        **(usual | more),
    )
