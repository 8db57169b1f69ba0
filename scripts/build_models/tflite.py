"""Converts BlazeFace's ``.tflite`` files (float16 weights, few kinds of operation) to ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import tflite

from build_models.graph import Array, Graph

_NAMES = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}


def convert(data: bytes, name: str, description: str) -> onnx.ModelProto:
    """Rewrite a detector: input ``image``, outputs ``regressors`` and ``scores``.

    Args:
        data: Bytes of the ``.tflite`` file.
        name: Name of the new graph.
        description: Stored in the new file.

    Raises:
        ValueError: The file uses an operation in a way that the two detectors do not.
    """
    source = tflite.Model.GetRootAsModel(data, 0)
    net = source.Subgraphs(0)
    graph = Graph()
    size = int(net.Tensors(net.InputsAsNumpy()[0]).ShapeAsNumpy()[1])
    value: dict[int, Any] = {net.InputsAsNumpy()[0]: graph.image("image", size)}
    for i in range(net.TensorsLength()):
        tensor = net.Tensors(i)
        buffer = source.Buffers(tensor.Buffer())
        if buffer.DataLength():
            shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else []
            value[i] = np.frombuffer(buffer.DataAsNumpy().tobytes(), _TYPES[tensor.Type()]).reshape(
                shape
            )
    for i in range(net.OperatorsLength()):
        operator = net.Operators(i)
        code = source.OperatorCodes(operator.OpcodeIndex())
        kind = _NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        arguments = [value[int(j)] for j in operator.InputsAsNumpy()]
        out = int(operator.OutputsAsNumpy()[0])
        value[out] = _node(graph, kind, arguments, operator, net.Tensors(out).ShapeAsNumpy())
    regressors, scores = (value[int(j)] for j in net.OutputsAsNumpy())
    graph.add("Identity", regressors, out="regressors")
    graph.add("Identity", scores, out="scores")
    anchors = int(net.Tensors(net.OutputsAsNumpy()[0]).ShapeAsNumpy()[1])
    return graph.model(
        name,
        {"image": ["n", size, size, 3]},
        {"regressors": ["n", anchors, 16], "scores": ["n", anchors, 1]},
        description,
    )


def _options(operator: tflite.Operator, kind: Any) -> Any:
    options = kind()
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _node(graph: Graph, kind: str, args: list[Any], operator: tflite.Operator, shape: Array) -> Any:
    if kind == "DEQUANTIZE":
        return args[0].astype(np.float32)
    if kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}:
        deep = kind == "DEPTHWISE_CONV_2D"
        options = _options(
            operator, tflite.DepthwiseConv2DOptions if deep else tflite.Conv2DOptions
        )
        if options.FusedActivationFunction() or options.StrideH() != options.StrideW():
            raise ValueError(f"{kind} with an activation or unequal strides")
        # (O, h, w, I), or (1, h, w, channels) for a depthwise one, to (O, I, h, w)
        return graph.conv(
            args[0],
            args[1].transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2)),
            args[2],
            stride=options.StrideH(),
            same=options.Padding() == tflite.Padding.SAME,
            group=args[1].shape[3] if deep else 1,
        )
    if kind == "RELU":
        return graph.same_shape("Relu", args[0])
    if kind == "ADD":
        return graph.same_shape("Add", *args)
    if kind == "MAX_POOL_2D":
        options = _options(operator, tflite.Pool2DOptions)
        return graph.max_pool(args[0], options.FilterHeight(), options.StrideH())
    if kind == "PAD" and args[1].sum() == args[1][3, 1]:
        return graph.pad_channels(args[0], int(args[1][3, 1]))
    if kind == "RESIZE_BILINEAR":
        options = _options(operator, tflite.ResizeBilinearOptions)
        _, height, width = graph.shape[args[0]]
        if options.AlignCorners() or list(args[1]) != [2 * height, 2 * width]:
            raise ValueError("RESIZE_BILINEAR other than by two")
        return graph.double(args[0], half_pixel=options.HalfPixelCenters())
    if kind == "RESHAPE":
        return graph.rows(args[0], int(shape[2]))
    if kind == "CONCATENATION":
        return graph.add("Concat", *args, axis=1)
    raise ValueError(f"no rule for {kind}")
