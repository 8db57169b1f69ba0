"""The generator's own graph, made ready to be part of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mien.errors import ModelError, UsageError

OPSET: Final = 17
"""What older generators are brought to; ``GridSample`` came with 16."""

LARGE: Final = 1 << 16
"""Bytes from which an initialiser is taken for weights, not for what a node is to do."""


def package() -> Any:
    """The package onnx.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import onnx  # noqa: PLC0415
        import onnx.compose  # noqa: PLC0415
        import onnx.version_converter  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "--fused writes a graph with the package onnx, which is not installed; install "
            "mien[fused], or leave --fused out"
        ) from error
    return onnx


def load(onnx: Any, path: Path) -> Any:
    """The generator's model, at opset 16 or above and without defaults for its inputs."""
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's and onnx's own, unrelated
        raise ModelError(f"{path}: not an ONNX file ({error})") from error
    constants = {i.name for i in model.graph.initializer}
    # Until IR 4 every initialiser was an input, too.
    replace(model.graph.input, [i for i in model.graph.input if i.name not in constants])
    opset = opset_of(model)
    if opset >= 16:
        return model
    try:
        return _converted(onnx, model)
    except Exception as error:  # the converter is C++ and raises what it likes
        raise ModelError(
            f"{path}: one graph needs opset 16 or newer, and its opset {opset} cannot be brought "
            f"to {OPSET} ({str(error).strip().splitlines()[-1]}); export it anew, or leave "
            "--fused out"
        ) from error


def _converted(onnx: Any, model: Any) -> Any:
    """The model at :data:`OPSET`; weights stay aside, since the converter copies what it gets."""
    graph = model.graph
    weights = [i for i in graph.initializer if i.ByteSize() >= LARGE]
    names = {i.name for i in weights}
    replace(graph.initializer, [i for i in graph.initializer if i.name not in names])
    value = onnx.helper.make_tensor_value_info
    graph.input.extend(value(i.name, i.data_type, list(i.dims)) for i in weights)
    model.ir_version = max(model.ir_version, 4)
    out = onnx.version_converter.convert_version(model, OPSET)
    replace(out.graph.input, [i for i in out.graph.input if i.name not in names])
    out.graph.initializer.extend(weights)
    return out


def replace(field: Any, values: list[Any]) -> None:
    """Other values for a repeated field."""
    del field[:]
    field.extend(values)


def free(graph: Any) -> None:
    """Inputs and outputs with a free first dimension; what else is known of sizes is forgotten."""
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1:
            dims[0].dim_param = "parts"
    del graph.value_info[:]


def opset_of(model: Any) -> int:
    """Of ONNX's own operators."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(versions[0]) if versions else 1
