"""Graphs made ready for another precision: opened, simplified, and looked into.

Needs the ``onnx`` package, which the base installation does not have.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from mien.errors import ModelError, UsageError
from mien.types import Floats

Sample = tuple[Floats, ...]
"""What goes into a network in one run: arrays in the order of its inputs."""

OPSET: Final = 13
"""The oldest in which weights may be quantised by channel."""

DONE: Final = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Metadata by which ONNX Runtime's quantiser knows a simplified graph."""


def onnx() -> Any:
    """The package ``onnx``.

    Raises:
        UsageError: It is not installed; says how to install it.
    """
    try:
        return import_module("onnx")
    except ImportError as error:
        raise UsageError(
            "another precision is made with the package onnx, which is not installed; "
            "install it with: pip install 'mien[quantize]'"
        ) from error


def read(path: Path) -> Any:
    """A graph from a file.

    Raises:
        ModelError: It is no graph, or its weights are not fp32 to begin with.
    """
    try:
        model = onnx().load(str(path))
    except UsageError:
        raise
    except Exception as error:  # protobuf and onnx raise classes of their own
        raise ModelError(f"{path}: not a model that onnx can read ({error})") from error
    float16 = onnx().TensorProto.FLOAT16
    known = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in known]
    if any(i.type.tensor_type.elem_type == float16 for i in inputs):
        raise ModelError(f"{path}: takes fp16 inputs; another precision is made from an fp32 model")
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node):
        raise ModelError(f"{path}: is quantised already; int8 and fp16 are made from an fp32 model")
    return model


def simplify(source: Path, out: Path) -> None:
    """Write a graph that computes the same with fewer nodes.

    ONNX Runtime's own basic optimisations fold what is constant and melt neighbours (fp16 weights
    become fp32, a batch normalisation goes into its convolution); they write standard operators
    that run everywhere. Then a rewriting of ours, see :func:`fold_unshuffle`.

    Args:
        source: The ``.onnx`` file.
        out: The ``.onnx`` file to write.

    Raises:
        ModelError: It is no graph, or not an fp32 one.
        UsageError: The package ``onnx`` is missing.
    """
    model = read(source)
    library = onnx()
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    with tempfile.TemporaryDirectory(prefix="mien-simplify-") as folder:
        start = source
        if version < OPSET:
            start = Path(folder) / "newer.onnx"
            try:
                library.save(library.version_converter.convert_version(model, OPSET), str(start))
            except Exception as error:
                raise ModelError(
                    f"{source}: is of opset {version} and cannot be brought to {OPSET} ({error})"
                ) from error
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(out)
        try:
            ort.InferenceSession(str(start), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise ModelError(
                f"{source}: not a model that ONNX Runtime can load ({error})"
            ) from error
    model = library.load(str(out))
    fold_unshuffle(model)
    if any(i.data_type == library.TensorProto.FLOAT16 for i in model.graph.initializer):
        raise ModelError(
            f"{source}: computes in fp16; another precision is made from an fp32 model"
        )
    used = {i for node in model.graph.node for i in node.input}
    kept = [i for i in model.graph.initializer if i.name in used or _in_subgraph(model)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    record = model.metadata_props.add()
    record.key, record.value = DONE
    inferred = library.shape_inference.infer_shapes(model)
    library.save(inferred, str(out))


def _in_subgraph(model: Any) -> bool:
    """Whether there are graphs in attributes, which may use anything."""
    return any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute)


def fold_unshuffle(model: Any) -> None:
    """Turn a pixel unshuffle before a convolution into the convolution's stride; exact.

    Space to depth by r followed by a k×k convolution with padding p is one rk×rk convolution of
    stride r with padding rp. The shuffle alone took a quarter of a small U-Net's time in int8.
    """
    library = onnx()
    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    for conv, chain, r in list(_unshuffled(graph, weights)):
        attributes = {a.name: library.helper.get_attribute_value(a) for a in conv.attribute}
        steps = [*attributes.get("strides", [1, 1]), *attributes.get("dilations", [1, 1])]
        plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and set(steps) == {1}
        shared = [n for n in (conv.input[1], *(n.output[0] for n in chain)) if uses[n] > 1]
        if shared or not plain or attributes.get("group", 1) != 1:
            continue
        weight = library.numpy_helper.to_array(weights[conv.input[1]])
        outputs, inputs, rows, columns = weight.shape
        large = weight.reshape(outputs, inputs // r**2, r, r, rows, columns)
        large = large.transpose(0, 1, 4, 2, 5, 3)
        large = large.reshape(outputs, inputs // r**2, rows * r, columns * r)
        weights[conv.input[1]].CopyFrom(
            library.numpy_helper.from_array(np.ascontiguousarray(large), conv.input[1])
        )
        pads = [int(p) * r for p in attributes.get("pads", [0, 0, 0, 0])]
        new = {"kernel_shape": list(large.shape[2:]), "strides": [r, r], "pads": pads}
        for attribute in [a for a in conv.attribute if a.name in new]:
            conv.attribute.remove(attribute)
        conv.attribute.extend(library.helper.make_attribute(k, v) for k, v in new.items())
        conv.input[0] = chain[0].input[0]
        for node in chain:
            graph.node.remove(node)


def _unshuffled(graph: Any, weights: dict[str, Any]) -> Iterator[tuple[Any, list[Any], int]]:
    """Each Conv that takes a pixel unshuffle by r: Reshape, Transpose, Reshape; these, and r."""
    to_array = onnx().numpy_helper.to_array
    made = {name: node for node in graph.node for name in node.output}
    for conv in graph.node:
        chain = [conv]
        while len(chain) < 4 and chain[0].input and chain[0].input[0] in made:
            chain.insert(0, made[chain[0].input[0]])
        if [node.op_type for node in chain] != ["Reshape", "Transpose", "Reshape", "Conv"]:
            continue
        first, middle, last, _ = chain
        order = [list(a.ints) for a in middle.attribute if a.name == "perm"]
        known = all(n in weights for n in (first.input[1], last.input[1], conv.input[1]))
        if order != [[0, 1, 3, 5, 2, 4]] or not known:
            continue
        apart, joined = (to_array(weights[n.input[1]]).tolist() for n in (first, last))
        if len(apart) == 6 and len(joined) == 4 and apart[3] == apart[5] > 1:
            _, depth, rows, r, columns, _ = apart
            if joined[1:] == [depth * r**2, rows, columns]:
                yield conv, chain[:3], r


def copy_nearest(model: Any) -> None:
    """Turn nearest enlargements by two of quantised tensors into copies; exact.

    ONNX Runtime's CPU provider keeps quantised tensors with channels last, where its Resize goes
    pixel by pixel: a twelfth of a small U-Net's time. There, doubling the width is putting a tensor
    beside itself along the channels, and doubling the height is the same with whole rows. The
    transpositions around it meet the provider's own and vanish.

    Args:
        model: In QDQ form.
    """
    library = onnx()
    graph = library.shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output)
    }
    values = {i.name: library.numpy_helper.to_array(i) for i in graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    for node in [n for n in model.graph.node if n.op_type == "Resize"]:
        before = made.get(node.input[0])
        after = [n for n in model.graph.node if node.output[0] in n.input]
        _, *inner = shapes.get(node.output[0], [0])
        if before is None or len(inner) != 3 or not all(inner) or not _doubles(node, values):
            continue
        pair = [before.op_type, *(n.op_type for n in after)]
        if pair != ["DequantizeLinear", "QuantizeLinear"] or any(
            not np.array_equal(values[a], values[b])
            for a, b in zip(before.input[1:], after[0].input[1:], strict=True)
        ):
            continue
        name, (channels, rows, columns) = node.name, inner
        for key, shape in (
            ("row", [-1, columns * channels]),
            ("all", [-1, rows, columns, channels]),
        ):
            model.graph.initializer.append(
                library.numpy_helper.from_array(np.array(shape, np.int64), f"{name}_{key}_shape")
            )
        at = list(model.graph.node).index(node)
        for kind, inputs, output, options in (
            ("Transpose", [before.input[0]], f"{name}_last", {"perm": [0, 2, 3, 1]}),
            ("Concat", [f"{name}_last"] * 2, f"{name}_wide", {"axis": 3}),
            ("Reshape", [f"{name}_wide", f"{name}_row_shape"], f"{name}_row", {}),
            ("Concat", [f"{name}_row"] * 2, f"{name}_high", {"axis": 1}),
            ("Reshape", [f"{name}_high", f"{name}_all_shape"], f"{name}_all", {}),
            ("Transpose", [f"{name}_all"], after[0].output[0], {"perm": [0, 3, 1, 2]}),
        ):
            new = library.helper.make_node(kind, inputs, [output], f"{output}_{kind}", **options)
            model.graph.node.insert(at, new)
            at += 1
        model.graph.node.remove(node)
        model.graph.node.remove(after[0])


def _doubles(node: Any, values: dict[str, Any]) -> bool:
    """Whether a Resize repeats each pixel twice along both sides."""
    library = onnx()
    options = {a.name: library.helper.get_attribute_value(a) for a in node.attribute}
    scales = values.get(node.input[2], np.zeros(0)) if len(node.input) > 2 else np.zeros(0)
    return (
        options.get("mode") == b"nearest"
        and options.get("coordinate_transformation_mode") == b"asymmetric"
        and options.get("nearest_mode") == b"floor"
        and scales.tolist() == [1, 1, 2, 2]
    )


def feeds(model: Any, samples: Sequence[Sample]) -> list[dict[str, Floats]]:
    """Samples by the names of a graph's inputs."""
    known = {i.name for i in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in known]
    return [dict(zip(names, sample, strict=True)) for sample in samples]
