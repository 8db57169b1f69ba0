"""What an ONNX file holds, read from its bytes before ONNX Runtime sees them.

A minimal, bounded reader of the protobuf wire format (protobuf.dev/programming-guides/encoding)
for the messages of onnx.proto3. It maps the file and skips what is not asked for, so that weights
are never copied; every field is read once, and a file with more than ``FIELDS`` of them is refused.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien.errors import ModelError, ModelNotFound

FIELDS: Final = 2_000_000
"""Fields a file may have; published face models have up to about 100,000."""

DEPTH: Final = 24
"""Graphs within graphs (``If``, ``Loop``) and messages within messages."""

SMALL: Final = 64
"""Tensors of up to so many elements are read at once."""

BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""``TensorProto.DataType`` → bits of one element; strings (8) have no fixed size."""

KINDS: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"),
    5: np.dtype("<i2"), 6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"),
    10: np.dtype("<f2"), 11: np.dtype("<f8"), 12: np.dtype("<u4"), 13: np.dtype("<u8"),
}  # fmt: skip
"""``TensorProto.DataType`` → the type of an array."""

Buffer = Any
"""The mapped file or bytes: indexable, sliceable."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """Bytes that are no protobuf message, or not one of ONNX."""


@dataclass(slots=True)
class Tensor:
    """A ``TensorProto``; where its values lie, not the values.

    Attributes:
        name: Of the initialiser; empty for the value of an attribute.
        dims: Sizes as declared; may be hostile.
        kind: ``TensorProto.DataType``.
        raw: Start and end of ``raw_data`` in the file, if it is there.
        packed: Field number → spans ``(start, end)`` of typed values in the file.
        loose: Field number → typed values that stand one by one; of texts, zeros in their place.
        external: Keys of ``external_data``; empty if the values are in the file.
        small: The values, where they are at most ``SMALL`` integers or float32: sizes and scales.
    """

    name: str = ""
    dims: tuple[int, ...] = ()
    kind: int = 0
    raw: tuple[int, int] | None = None
    packed: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    loose: dict[int, list[float]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    small: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """Number of elements declared."""
        return math.prod(self.dims)


@dataclass(slots=True)
class Node:
    """A ``NodeProto``.

    Attributes:
        op: Type of the operator.
        domain: Of the operator; empty for ONNX's own.
        inputs: Names of values.
        outputs: Names of values.
        tensors: Attribute → tensors in it.
        numbers: Attribute → its integers.
        graphs: Subgraphs of attributes.
    """

    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    graphs: list[Graph] = field(default_factory=list)


@dataclass(slots=True)
class Graph:
    """A ``GraphProto``, or the body of a ``FunctionProto``.

    Attributes:
        nodes: In the order of the file, which is that of running.
        initialisers: In the order of the file.
        inputs: Name → sizes; -1 where a size is free.
        outputs: The same.
    """

    nodes: list[Node] = field(default_factory=list)
    initialisers: list[Tensor] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class OnnxFile:
    """A ``ModelProto``.

    Attributes:
        path: The file.
        size: In bytes.
        ir_version: Of the format; 0 if it is not said.
        opsets: Domain → version.
        graph: The main graph.
        functions: ``(domain, body)`` of functions that the file defines itself.
    """

    path: Path
    size: int
    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: list[tuple[str, Graph]] = field(default_factory=list)

    def graphs(self) -> Iterator[Graph]:
        """Every graph of the file, those in attributes included."""
        waiting = [g for g in (self.graph, *(body for _, body in self.functions)) if g is not None]
        while waiting:
            graph = waiting.pop()
            yield graph
            waiting.extend(g for node in graph.nodes for g in node.graphs)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the file: initialisers and values of attributes."""
        for graph in self.graphs():
            yield from graph.initialisers
            for node in graph.nodes:
                for tensors in node.tensors.values():
                    yield from tensors


def read(path: Path | str) -> OnnxFile:
    """Read what a file declares, without its weights.

    Raises:
        ModelNotFound: No such file.
        ModelError: The file cannot be read, or is no ONNX model.
    """
    path = Path(path)
    with _mapped(path) as data:
        return _parsed(path, data)


def initialiser(path: Path | str, index: int = -1) -> np.ndarray[Any, Any]:
    """One initialiser of the main graph, in the order of the file.

    Args:
        path: The ``.onnx`` file.
        index: As of a list; the last one of inswapper's graphs is the matrix that turns an
            embedding into the generator's own.

    Returns:
        A copy, of the tensor's own shape and type (float16, float32, float64 or integer).

    Raises:
        ModelNotFound: No such file.
        ModelError: The file is no ONNX model, has no such initialiser, or one whose values are
            not all there or of a type that is not read here.
    """
    path = Path(path)
    with _mapped(path) as data:
        found = _parsed(path, data).graph
        tensors = found.initialisers if found is not None else []
        try:
            tensor = tensors[index]
        except IndexError:
            raise ModelError(
                f"{path}: initialiser {index} was asked for, but the graph has {len(tensors)}"
            ) from None
        try:
            return _values(tensor, data)
        except Malformed as error:
            raise ModelError(f"{path}: initialiser {tensor.name!r} {error}") from error


def values(tensor: Tensor, path: Path) -> np.ndarray[Any, Any]:
    """The values of a tensor that :func:`read` found; a copy.

    Raises:
        Malformed: They are not all there, or of a type that is not read here.
    """
    with _mapped(path) as data:
        return _values(tensor, data)


class _mapped:  # noqa: N801 - used as a function
    """The bytes of a file, mapped; an empty file is empty bytes."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelNotFound(f"{path}: no such model file")
        try:
            with path.open("rb") as stream:
                empty = not path.stat().st_size
                self.data: Buffer = b"" if empty else mmap.mmap(
                    stream.fileno(), 0, access=mmap.ACCESS_READ
                )  # fmt: skip
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror})") from error

    def __enter__(self) -> Buffer:
        return self.data

    def __exit__(self, *_: object) -> None:
        if isinstance(self.data, mmap.mmap):
            self.data.close()


def _parsed(path: Path, data: Buffer) -> OnnxFile:
    try:
        model = parse(data)
    except Malformed as error:
        raise ModelError(f"{path}: not a model in the ONNX format ({error})") from error
    model.path = path
    return model


def parse(data: Buffer) -> OnnxFile:
    """Read a ``ModelProto`` from bytes.

    Raises:
        Malformed: They are none.
    """
    return _Reader(data).model()


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The unsigned number at a place, of at most ten bytes, and the place behind it."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift >= 70:
            raise Malformed(f"a number of more than ten bytes before byte {at}")
    raise Malformed(f"ends within a number at byte {at}")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


class _Reader:
    """Reads messages of one file and counts their fields."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.fields = 0

    def each(self, start: int, end: int, depth: int) -> Iterator[tuple[int, int, int, int]]:
        """Fields of a message: number, wire type, and value or start, and end of its bytes."""
        if depth > DEPTH:
            raise Malformed(f"messages more than {DEPTH} deep")
        at = start
        while at < end:
            self.fields += 1
            if self.fields > FIELDS:
                raise Malformed(f"more than {FIELDS} fields")
            tag, at = _varint(self.data, at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise Malformed(f"field number 0 before byte {at}")
            if wire == _VARINT:
                value, at = _varint(self.data, at, end)
                yield number, wire, value, at
                continue
            if wire == _BYTES:
                length, at = _varint(self.data, at, end)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise Malformed(f"wire type {wire} before byte {at}")
            if length > end - at:
                raise Malformed(f"{length} bytes declared at byte {at}, where {end - at} are left")
            yield number, wire, at, at + length
            at += length

    def text(self, start: int, end: int) -> str:
        if end - start > 65536:
            raise Malformed(f"a name of {end - start} bytes at byte {start}")
        return bytes(self.data[start:end]).decode("utf-8", "replace")

    def model(self) -> OnnxFile:
        found = OnnxFile(Path(), len(self.data))
        for number, wire, a, b in self.each(0, len(self.data), 0):
            if number == 1 and wire == _VARINT:
                found.ir_version = _signed(a)
            elif number == 7 and wire == _BYTES:
                if found.graph is not None:
                    raise Malformed("two graphs")
                found.graph = self.graph(a, b, 1)
            elif number == 8 and wire == _BYTES:
                domain, version = self.opset(a, b)
                found.opsets[domain] = version
            elif number == 25 and wire == _BYTES:
                found.functions.append(self.function(a, b))
        if found.graph is None:
            raise Malformed("no graph")
        return found

    def opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, a, b in self.each(start, end, 1):
            if number == 1 and wire == _BYTES:
                domain = self.text(a, b)
            elif number == 2 and wire == _VARINT:
                version = _signed(a)
        return domain, version

    def function(self, start: int, end: int) -> tuple[str, Graph]:
        domain, body = "", Graph()
        for number, wire, a, b in self.each(start, end, 1):
            if wire != _BYTES:
                continue
            if number == 10:
                domain = self.text(a, b)
            elif number == 7:
                body.nodes.append(self.node(a, b, 2))
        return domain, body

    def graph(self, start: int, end: int, depth: int) -> Graph:
        found = Graph()
        for number, wire, a, b in self.each(start, end, depth):
            if wire != _BYTES:
                continue
            if number == 1:
                found.nodes.append(self.node(a, b, depth + 1))
            elif number == 5:
                found.initialisers.append(self.tensor(a, b, depth + 1))
            elif number in (11, 12):
                name, shape = self.value_info(a, b, depth + 1)
                (found.inputs if number == 11 else found.outputs)[name] = shape
            elif number == 15:
                found.initialisers.extend(self.sparse(a, b, depth + 1))
        return found

    def value_info(self, start: int, end: int, depth: int) -> tuple[str, tuple[int, ...]]:
        """Name and sizes of a ``ValueInfoProto``: type.tensor_type.shape.dim.dim_value."""
        name, dims = "", []
        for number, wire, a, b in self.each(start, end, depth):
            if number == 1 and wire == _BYTES:
                name = self.text(a, b)
            elif number == 2 and wire == _BYTES:
                for tensor in self.within(a, b, 1, depth + 1):
                    for shape in self.within(*tensor, 2, depth + 2):
                        dims = [self.dim(*d, depth + 4) for d in self.within(*shape, 1, depth + 3)]
        return name, tuple(dims)

    def within(self, start: int, end: int, number: int, depth: int) -> list[tuple[int, int]]:
        found = self.each(start, end, depth)
        return [(a, b) for n, wire, a, b in found if n == number and wire == _BYTES]

    def dim(self, start: int, end: int, depth: int) -> int:
        size = -1
        for number, wire, a, _ in self.each(start, end, depth):
            if number == 1 and wire == _VARINT:
                size = _signed(a)
        return size

    def node(self, start: int, end: int, depth: int) -> Node:
        found = Node()
        for number, wire, a, b in self.each(start, end, depth):
            if wire != _BYTES:
                continue
            if number == 1:
                found.inputs.append(self.text(a, b))
            elif number == 2:
                found.outputs.append(self.text(a, b))
            elif number == 4:
                found.op = self.text(a, b)
            elif number == 5:
                self.attribute(a, b, depth + 1, found)
            elif number == 7:
                found.domain = self.text(a, b)
        return found

    def attribute(self, start: int, end: int, depth: int, node: Node) -> None:
        name, tensors, numbers = "", [], []
        for number, wire, a, b in self.each(start, end, depth):
            if wire == _VARINT and number in (3, 8):
                numbers.append(_signed(a))
            elif wire != _BYTES:
                continue
            elif number == 1:
                name = self.text(a, b)
            elif number in (5, 10):
                tensors.append(self.tensor(a, b, depth + 1))
            elif number in (6, 11):
                node.graphs.append(self.graph(a, b, depth + 1))
            elif number == 8:
                numbers.extend(self.packed(a, b))
            elif number in (22, 23):
                tensors.extend(self.sparse(a, b, depth + 1))
        if tensors:
            node.tensors[name] = tensors
        if numbers:
            node.numbers[name] = numbers

    def sparse(self, start: int, end: int, depth: int) -> list[Tensor]:
        """Values and indices of a ``SparseTensorProto``, and its dense shape as a third tensor."""
        found, dims = [], []
        for number, wire, a, b in self.each(start, end, depth):
            if number in (1, 2) and wire == _BYTES:
                found.append(self.tensor(a, b, depth + 1))
            elif number == 3:
                dims.extend([_signed(a)] if wire == _VARINT else self.packed(a, b))
        if dims:
            found.append(Tensor(found[0].name if found else "", tuple(dims), -1))
        return found

    def tensor(self, start: int, end: int, depth: int) -> Tensor:
        found = Tensor()
        dims: list[int] = []
        for number, wire, a, b in self.each(start, end, depth):
            if number == 1:
                dims.extend([_signed(a)] if wire == _VARINT else self.packed(a, b))
                if len(dims) > 64:
                    raise Malformed("a tensor of more than 64 dimensions")
            elif number == 2 and wire == _VARINT:
                found.kind = a
            elif number == 8 and wire == _BYTES:
                found.name = self.text(a, b)
            elif number == 9 and wire == _BYTES:
                found.raw = (a, b)
            elif number in (4, 5, 6, 7, 10, 11):
                if wire == _BYTES and number != 6:
                    found.packed.setdefault(number, []).append((a, b))
                else:
                    one = 0.0 if wire != _VARINT else _signed(a)
                    found.loose.setdefault(number, []).append(one)
            elif number == 13 and wire == _BYTES:
                key, value = self.entry(a, b, depth + 1)
                found.external[key] = value
            elif number == 14 and wire == _VARINT and a == 1:
                found.external.setdefault("location", "")
        found.dims = tuple(dims)
        if found.kind in (1, 6, 7) and all(d >= 0 for d in dims) and found.count <= SMALL:
            found.small = self.small(found)
        return found

    def small(self, tensor: Tensor) -> tuple[float, ...] | None:
        try:
            return tuple(_values(tensor, self.data).ravel().tolist())
        except Malformed:  # what is wrong with it is said by who needs it
            return None

    def entry(self, start: int, end: int, depth: int) -> tuple[str, str]:
        key = value = ""
        for number, wire, a, b in self.each(start, end, depth):
            if wire == _BYTES and number == 1:
                key = self.text(a, b)
            elif wire == _BYTES and number == 2:
                value = self.text(a, b)
        return key, value

    def packed(self, start: int, end: int) -> list[int]:
        found, at = [], start
        while at < end:
            self.fields += 1
            if self.fields > FIELDS:
                raise Malformed(f"more than {FIELDS} fields")
            value, at = _varint(self.data, at, end)
            found.append(_signed(value))
        return found


def _values(tensor: Tensor, data: Buffer) -> np.ndarray[Any, Any]:
    kind = KINDS.get(tensor.kind)
    if kind is None:
        raise Malformed(f"has elements of type {tensor.kind}, which is not read here")
    if tensor.external:
        raise Malformed("has its values in another file, which is not read here")
    if any(d < 0 for d in tensor.dims):
        raise Malformed(f"has the shape {tensor.dims}")
    if tensor.raw is not None:
        whole = (tensor.raw[1] - tensor.raw[0]) % kind.itemsize == 0
        flat = np.frombuffer(data[slice(*tensor.raw)] if whole else b"", kind)
    else:
        flat = _typed(tensor, data, kind)
    if flat.size != tensor.count:
        raise Malformed(f"has {flat.size} whole values, but the shape {tensor.dims}")
    made: np.ndarray[Any, Any] = flat.reshape(tensor.dims).copy()
    return made


def _typed(tensor: Tensor, data: Buffer, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Values in float_data, double_data or one of the integer fields."""
    number = {1: 4, 11: 10, 7: 7, 12: 11, 13: 11}.get(tensor.kind, 5)
    spans = tensor.packed.get(number, [])
    if number in (4, 10):
        if tensor.loose:
            raise Malformed("has its values one by one, which is not read here")
        joined = b"".join(bytes(data[a:b]) for a, b in spans)
        return np.frombuffer(joined[: len(joined) // kind.itemsize * kind.itemsize], kind)
    reader = _Reader(data)
    found = [v for a, b in spans for v in reader.packed(a, b)]
    found += [int(v) for v in tensor.loose.get(number, [])]
    if tensor.kind == 10:  # the bits of halves, each in an int32
        return np.array([v & 0xFFFF for v in found], np.uint16).view(np.float16)
    bits = np.array([v & 0xFFFFFFFFFFFFFFFF for v in found], np.uint64)
    return bits.astype(np.dtype(f"u{kind.itemsize}")).view(kind)
