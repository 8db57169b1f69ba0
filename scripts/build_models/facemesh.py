"""Converts the attention face mesh, with one merged output of 478 points.

The base network finds 468 points. Three crops are then cut from an early feature map, turned and
scaled to the lips and to each eye, and five small networks refine lips, eyes and irises there
(Grishchenko et al., "Attention Mesh: High-fidelity Face Mesh Prediction in Real-time", 2020).
The source spells the cutting out in some 250 operations for one image; here it is written anew
with fewer, for any number of images. Its constants and index lists are the source's.
"""

from __future__ import annotations

import numpy as np
import onnx

from build_models.graph import Array, Graph
from build_models.tfjs import Source, constant

SIZE = 192
FEATURES = "p_re_lu_3/Alpha_dequantize_prelu/Relu"
"""The map, 48 × 48, from which crops are cut."""

REGIONS = (
    # name of the index list, the two points that give the direction, where the crop enters, heads
    ("GatherV2/indices", (61, 291), "ArithmeticOptimizer/AddOpsRewrite_Add_10", ("conv_lips",)),
    (
        "GatherV2_1/indices",
        (33, 133),
        "ArithmeticOptimizer/AddOpsRewrite_Add_15",
        ("conv_left_eye", "conv_left_iris"),
    ),
    (
        "GatherV2_2/indices",
        (362, 263),
        "ArithmeticOptimizer/AddOpsRewrite_Add_20",
        ("conv_right_eye", "conv_right_iris"),
    ),
)
CONTOUR = 16
"""So many indices at the head of an eye's list are the contour of its opening."""


def convert(topology: bytes, weights: bytes, description: str) -> onnx.ModelProto:
    """Rewrite the network: input ``image``, outputs ``mesh`` (px of the input) and ``score``.

    Args:
        topology: The ``.json`` file.
        weights: The ``.bin`` file.
        description: Stored in the new file.
    """
    source, graph = Source(topology, weights), Graph()
    source.value["input_1"] = graph.image("image", SIZE)
    logit = graph.rows(source.emit("conv_faceflag", graph), 1)
    graph.add("Sigmoid", graph.add("Squeeze", logit, graph.const([1], np.int64)), out="score")
    base = graph.rows(source.emit("output_mesh", graph), 3)
    features = source.emit(FEATURES, graph)
    lists = [constant(source, name).astype(np.int64) for name, *_ in REGIONS]
    basis, origin = _regions(graph, base, lists)
    source.value[tuple(entry for _, _, entry, _ in REGIONS)] = _crops(
        graph, features, basis, origin
    )
    branches = [head for *_, heads in REGIONS for head in heads]
    _heads(source, graph, branches)

    refined = []
    for i, (_, _, _, heads) in enumerate(REGIONS):
        local = [graph.rows(source.value[head], 2) for head in heads]
        points = local[0] if len(local) == 1 else graph.add("Concat", *local, axis=1)
        this = graph.const(i, np.int64)
        turned = graph.add("MatMul", points, graph.add("Gather", basis, this, axis=1))
        start = graph.add("Gather", origin, this, axis=1)
        refined.append(graph.add("Add", turned, graph.add("Mul", start, graph.const(4.0))))
    _merge(graph, base, refined, lists)
    return graph.model(
        "facemesh",
        {"image": ["n", SIZE, SIZE, 3]},
        {"mesh": ["n", 478, 3], "score": ["n", 1]},
        description,
    )


def _regions(graph: Graph, base: str, lists: list[Array]) -> tuple[str, str]:
    """Rotated boxes, half as large again as the points in them, on the feature map.

    Returns:
        ``(N, 3, 2, 2)``: the steps of a 16 × 16 grid along and across; and ``(N, 3, 1, 2)``: where
        the grid starts. Both in pixels of the map.
    """
    flat = graph.add("Slice", base, *(graph.const([i], np.int64) for i in (0, 2, 2)))
    flat = graph.add("Mul", flat, graph.const(0.25))
    longest = max(map(len, lists))  # repeating a point does not change the box
    points = np.stack([np.pad(x, (0, longest - len(x)), mode="edge") for x in lists])
    ends = np.array([ends for _, ends, *_ in REGIONS])
    first, last = (
        graph.add("Gather", flat, graph.const(ends[:, i : i + 1], np.int64), axis=1) for i in (0, 1)
    )
    along = graph.add("Sub", last, first)  # (N, 3, 1, 2)
    along = graph.add("Div", along, graph.add("ReduceL2", along, axes=[3]))
    across = graph.add("MatMul", along, graph.const([[0, 1], [-1, 0]]))
    axes = graph.add("Concat", along, across, axis=2)  # (N, 3, 2, 2)
    inverse = graph.add("Transpose", axes, perm=[0, 1, 3, 2])
    inside = graph.add("Gather", flat, graph.const(points, np.int64), axis=1)
    inside = graph.add("MatMul", inside, inverse)  # (N, 3, longest, 2)
    low, high = (graph.add(op, inside, axes=[2]) for op in ("ReduceMin", "ReduceMax"))
    middle = graph.add("Mul", graph.add("Add", low, high), graph.const(0.5))
    step = graph.add("Mul", graph.add("Sub", high, low), graph.const(1.5 / 16))
    column = graph.add("Transpose", step, perm=[0, 1, 3, 2])
    basis = graph.add("Mul", axes, column)
    corner = graph.add("Sub", middle, graph.add("Mul", step, graph.const(8.0)))
    return basis, graph.add("MatMul", corner, axes)


def _crops(graph: Graph, features: str, basis: str, origin: str) -> str:
    """Cut the three 16 × 16 crops out of the feature map, linearly; ``(N, 3 · C, 16, 16)``.

    A Gather of the four neighbours as rows of channels, and their weighted sum: GridSample takes
    three times as long on the CPU.
    """
    channels, height, width = graph.shape[features]
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).reshape(256, 2)
    where = graph.add("Add", graph.add("MatMul", graph.const(grid), basis), origin)
    where = graph.add("Reshape", where, graph.const([0, -1, 2], np.int64))
    where = graph.add("Transpose", where, perm=[0, 2, 1])  # (N, 2, 768): long rows run faster
    whole = graph.add("Floor", where)
    part = graph.add("Sub", where, whole)
    last = graph.const(min(height, width) - 1)
    near = [
        graph.add("Min", graph.add("Relu", at), last)
        for at in (whole, graph.add("Add", whole, graph.const(1.0)))
    ]
    # x, y of the first neighbour, x, y of the last one; each neighbour takes one x and one y
    at = graph.add("Mul", graph.add("Concat", *near, axis=1), graph.const([[1], [width]] * 2))
    share = graph.add("Concat", graph.add("Sub", graph.const(1.0), part), part, axis=1)
    xs, ys = (graph.const(i, np.int64) for i in ([0, 2, 0, 2], [1, 1, 3, 3]))
    row, weight = (
        graph.add(op, graph.add("Gather", of, xs, axis=1), graph.add("Gather", of, ys, axis=1))
        for op, of in (("Add", at), ("Mul", share))
    )  # (N, 4, 768)
    row = graph.add("Cast", row, to=onnx.TensorProto.INT64)
    row = graph.add("Reshape", row, graph.const([0, -1, 1], np.int64))
    texels = graph.add("GatherND", graph.rows(features, channels), row, batch_dims=1)
    texels = graph.add("Reshape", texels, graph.const([0, 4, -1, channels], np.int64))
    weight = graph.add("Unsqueeze", weight, graph.const([3], np.int64))
    weighted = graph.add("Mul", texels, weight)
    sampled = graph.add("ReduceSum", weighted, graph.const([1], np.int64), keepdims=0)
    sampled = graph.add("Reshape", sampled, graph.const([0, 3, 256, channels], np.int64))
    sampled = graph.add("Transpose", sampled, perm=[0, 1, 3, 2])
    sampled = graph.add("Reshape", sampled, graph.const([0, 3 * channels, 16, 16], np.int64))
    graph.shape[sampled] = (3 * channels, 16, 16)
    return sampled


def _heads(source: Source, graph: Graph, branches: list[str]) -> None:
    """Write the five refining networks side by side up to their last, unequal layers."""
    last = {name: source.inputs(name) for name in branches}  # the convolution, its bias
    before = tuple(source.inputs(convolution)[0] for convolution, _ in last.values())
    joint = source.emit_side_by_side(before, graph)
    each = graph.shape[joint][0] // len(branches)
    for i, (name, tensor) in enumerate(zip(branches, before, strict=True)):
        source.value[tensor] = graph.take_channels(joint, np.arange(i * each, (i + 1) * each))
        source.emit(name, graph)


def _merge(graph: Graph, base: str, refined: list[str], lists: list[Array]) -> None:
    """Put refined x and y over the base points, and the irises behind them.

    As MediaPipe does, z stays the base network's, and an iris lies at the mean depth of its eye's
    contour.
    """
    chosen = np.arange(478)
    start, irises = 468, []
    for indices in lists:
        chosen[indices] = np.arange(start, start + len(indices))
        start += len(indices)
        if indices is not lists[0]:
            irises.append(np.arange(start, start + 5))
            start += 5
    chosen[468:] = np.concatenate(irises)
    columns = [graph.const([i], np.int64) for i in (0, 2, 3)]
    last = graph.const([2], np.int64)
    flat = graph.add("Slice", base, columns[0], columns[1], last)
    flat = graph.add("Concat", flat, *refined, axis=1)
    flat = graph.add("Gather", flat, graph.const(chosen, np.int64), axis=1)
    depth = graph.add("Slice", base, columns[1], columns[2], last)
    contours = np.repeat([x[:CONTOUR] for x in lists[1:]], 5, axis=0)
    at = graph.add("Gather", depth, graph.const(contours, np.int64), axis=1)
    mean = graph.add("ReduceMean", at, axes=[2], keepdims=0)
    depth = graph.add("Concat", depth, mean, axis=1)
    graph.add("Concat", flat, depth, axis=2, out="mesh")
