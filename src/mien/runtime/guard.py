"""Files that are refused before ONNX Runtime reads them.

A model is a program from a stranger. Refused are files that reach out of their folder, that name
operators from elsewhere, or that ask for far more memory than a face model needs. Only what a file
declares is judged: sizes that depend on the input are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mien.errors import ModelError
from mien.runtime.onnxfile import BITS, Graph, Node, OnnxFile, Tensor

Shape = tuple[int, ...]

ELEMENTS: Final = 1 << 29
"""Elements a tensor may have that the file declares without giving them: 2 GiB of float32."""

STRETCH: Final = 1024
"""Largest factor by which a node may enlarge an image: 32 each way."""

MOST: Final = {
    "pads": 4096, "output_padding": 4096, "output_shape": 1 << 14, "strides": 256,
}  # fmt: skip
"""Attribute that decides over the size of an output → largest value."""

DOMAINS: Final = {
    "", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc",
}  # fmt: skip
"""Operators that ONNX Runtime itself brings."""

FORBIDDEN: Final = {"EPContext": "loads a compiled program from another file"}
"""Operators that run what is in another file."""

_SAME: Final = frozenset({
    "Identity", "Cast", "Relu", "Sigmoid", "Tanh", "Sqrt", "Exp", "Log", "Neg", "Abs", "Not",
    "Floor", "Ceil", "Erf", "Clip", "Reciprocal",
})  # fmt: skip
_BROADCAST: Final = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod", "And", "Or", "Xor",
    "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Where", "PRelu",
})  # fmt: skip


def inspect(file: OnnxFile) -> None:
    """Refuse a file that is not safe to load.

    Raises:
        ModelError: Names the file, what it asks for and what is allowed.
    """
    own = {domain for domain, _ in file.functions}
    total: dict[Path, list[int]] = {}
    for graph in file.graphs():
        for node in graph.nodes:
            if node.domain not in DOMAINS | own:
                raise ModelError(
                    f"{file.path}: operator {node.op} comes from {node.domain!r}, which ONNX "
                    "Runtime does not have by itself"
                )
            if node.op in FORBIDDEN:
                raise ModelError(
                    f"{file.path}: operator {node.op} {FORBIDDEN[node.op]}; give the model itself"
                )
        for name, dims in (*graph.inputs.items(), *graph.outputs.items()):
            _bounded(file, f"{name!r}", tuple(max(d, 1) for d in dims))
        _expansions(file, graph)
    for tensor in file.tensors():
        _tensor(file, tensor)
        if tensor.external:
            place, length = _external(file, tensor)
            total.setdefault(place, []).append(length)
    for place, lengths in total.items():
        if sum(lengths) > place.stat().st_size:
            raise ModelError(
                f"{file.path}: tensors take {sum(lengths)} bytes of {place.name}, which has "
                f"{place.stat().st_size}"
            )


def _said(tensor: Tensor) -> str:
    return f"tensor {tensor.name!r}" if tensor.name else "a constant"


def _tensor(file: OnnxFile, tensor: Tensor) -> None:
    """The values must be there in full: what is declared alone would be allocated."""
    said = f"{file.path}: {_said(tensor)}"
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"{said} has the shape {tensor.dims}, with a negative size")
    if tensor.kind == -1:  # the dense shape of a sparse tensor
        _bounded(file, _said(tensor), tensor.dims)
        return
    if tensor.kind not in BITS and tensor.kind != 8:
        raise ModelError(f"{said} has elements of the unknown type {tensor.kind}")
    if tensor.external:
        return
    need = (tensor.count * BITS.get(tensor.kind, 8) + 7) // 8
    if tensor.kind != 8 and tensor.raw is not None:
        have = tensor.raw[1] - tensor.raw[0]
        if have != need:
            raise ModelError(
                f"{said} has the shape {tensor.dims}, which takes {need} bytes, but has {have}"
            )
        return
    sizes = {4: 4, 10: 8}
    have = sum(len(v) for v in tensor.loose.values())
    have += sum((b - a) // sizes.get(n, 1) for n, v in tensor.packed.items() for a, b in v)
    packs = 8 // BITS.get(tensor.kind, 8) or 1  # int4 and int2: several in one value
    if tensor.count > have * packs:
        raise ModelError(
            f"{said} has the shape {tensor.dims}, of {tensor.count} values, but {have} are there"
        )


def _external(file: OnnxFile, tensor: Tensor) -> tuple[Path, int]:
    """File and length of values that lie outside; only within the model's own folder."""
    said = f"{file.path}: {_said(tensor)}"
    location = tensor.external.get("location", "")
    folder = file.path.parent.resolve()  # where ONNX Runtime looks, wherever a link may lead
    place = (folder / location).resolve() if "\0" not in location else folder
    inside = place != folder and place.is_relative_to(folder)
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or not inside:
        raise ModelError(f"{said} has its values in {location!r}, outside the model's folder")
    if not place.is_file():
        raise ModelError(f"{said} has its values in {place}, which is not there")
    size = place.stat().st_size
    need = (tensor.count * BITS.get(tensor.kind, 8) + 7) // 8
    try:
        offset = int(tensor.external.get("offset", "0"))
        length = int(tensor.external.get("length", str(need)))
    except ValueError:
        raise ModelError(f"{said} has no number as its place in {place.name}") from None
    if offset < 0 or length != need or offset + length > size:
        raise ModelError(
            f"{said} takes {need} bytes, but is declared as {length} at byte {offset} of "
            f"{place.name}, which has {size}"
        )
    return place, length


def _bounded(file: OnnxFile, said: str, dims: Shape) -> None:
    if any(d < 0 for d in dims) or math.prod(dims) > ELEMENTS:
        raise ModelError(
            f"{file.path}: {said} is declared with the shape {dims}; more than {ELEMENTS} elements "
            "or a negative size is not taken"
        )


def _expansions(file: OnnxFile, graph: Graph) -> None:
    """Small constants that grow: their shapes are followed through the graph."""
    known: dict[str, Tensor] = {t.name: t for t in graph.initialisers}
    shapes: dict[str, Shape] = {
        t.name: t.dims for t in graph.initialisers if all(d >= 0 for d in t.dims)
    }

    def numbers(node: Node, index: int) -> tuple[float, ...] | None:
        name = node.inputs[index] if len(node.inputs) > index else ""
        return known[name].small if name in known else None

    for node in graph.nodes:
        if node.op.startswith("Random"):
            _bounded(file, f"{node.op} {node.outputs[:1]}", tuple(node.numbers.get("shape", [])))
        for attribute, most in MOST.items():
            given = node.numbers.get(attribute, [])
            if any(abs(v) > most for v in given):
                raise ModelError(
                    f"{file.path}: {node.op} asks for {attribute} of {given}; {most} is the most"
                )
        if node.op == "Constant" and node.outputs:
            made = _constant(node)
            if made is not None:
                known[node.outputs[0]] = made
                shapes[node.outputs[0]] = made.dims
            continue
        shape = _grown(node, shapes, numbers, file)
        if shape is not None and node.outputs:
            _bounded(file, f"{node.op} {node.outputs[0]!r}", shape)
            shapes[node.outputs[0]] = shape


def _constant(node: Node) -> Tensor | None:
    tensors = node.tensors.get("value")
    if tensors:
        return tensors[0]
    for name in ("value_int", "value_ints"):
        if name in node.numbers:
            given = node.numbers[name]
            dims = () if name == "value_int" else (len(given),)
            return Tensor("", dims, 7, small=tuple(given))
    return None


def _grown(  # noqa: PLR0911 - a table of operators
    node: Node,
    shapes: dict[str, Shape],
    numbers: Callable[[Node, int], tuple[float, ...] | None],
    file: OnnxFile,
) -> Shape | None:
    """The shape a node gives to constants; None where it is not known here.

    Raises:
        ModelError: A factor or margin is beyond all reason, whatever it is applied to.
    """
    given = [shapes.get(name) for name in node.inputs]
    first = given[0] if given else None
    if node.op in _SAME:
        return first
    if node.op in _BROADCAST:
        return (
            None if None in given else _broadcast(file, node, [g for g in given if g is not None])
        )
    if node.op == "Concat":
        whole = [g for g in given if g is not None]
        axis = node.numbers.get("axis", [0])[0]
        if len(whole) != len(given) or not whole or not -len(whole[0]) <= axis < len(whole[0]):
            return None
        axis %= len(whole[0])
        total = sum(g[axis] for g in whole if len(g) > axis)
        return (*whole[0][:axis], total, *whole[0][axis + 1 :])
    if node.op == "ConstantOfShape":
        sizes = numbers(node, 0)
        return None if sizes is None else tuple(int(s) for s in sizes)
    if node.op == "Expand":
        sizes = numbers(node, 1)
        target = () if sizes is None else tuple(int(s) for s in sizes)
        return _broadcast(file, node, [first or (), target])
    if node.op == "Tile":
        sizes = numbers(node, 1)
        if sizes is None:
            return None
        repeats = tuple(int(s) for s in sizes)
        known = first if first is not None and len(first) == len(repeats) else (1,) * len(repeats)
        return tuple(a * b for a, b in zip(known, repeats, strict=True))
    if node.op == "OneHot":
        depth = numbers(node, 1)
        return None if not depth else (*(first or ()), int(depth[0]))
    if node.op == "Range":
        ends = [numbers(node, k) for k in range(3)]
        if not all(ends):
            return None
        start, stop, step = (e[0] for e in ends if e)
        return (max(0, math.ceil((stop - start) / step)),) if step else None
    _stretched(file, node, numbers)
    return None


def _broadcast(file: OnnxFile, node: Node, shapes: list[Shape]) -> Shape:
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    made = tuple(max(column) for column in zip(*padded, strict=True))
    _bounded(file, f"{node.op} {node.outputs[:1]}", made)
    return made


def _stretched(
    file: OnnxFile, node: Node, numbers: Callable[[Node, int], tuple[float, ...] | None]
) -> None:
    """Enlargements of the input: the factor is bounded."""
    if node.op == "Resize":
        scales, sizes = numbers(node, 2), numbers(node, 3)
        if sizes:
            _bounded(file, f"{node.op} {node.outputs[:1]}", tuple(int(s) for s in sizes))
    elif node.op == "Upsample":
        scales = numbers(node, 1)
    elif node.op == "Pad":
        scales = numbers(node, 1)
        if scales and max(scales) > MOST["pads"]:
            raise ModelError(f"{file.path}: {node.op} asks for margins of {scales}")
        return
    else:
        return
    if scales and not math.prod(scales) <= STRETCH:
        raise ModelError(f"{file.path}: {node.op} asks for an enlargement by {scales}")
