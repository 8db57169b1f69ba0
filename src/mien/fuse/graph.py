"""The graph of the whole face path, written around a generator's own graph.

Everything between the region of the frame and the generator's nodes is ordinary ONNX that exists
since opset 16: casts, arithmetic and ``GridSample``. It computes what the OpenCV path computes
(:mod:`mien.generate.swapping`, :mod:`mien.blend`) and rounds to whole grey levels in the same
places, so that the two can be compared pixel by pixel.

Pixel centres are at whole numbers, as everywhere in mien. ``GridSample`` without ``align_corners``
puts -1 and 1 at the outer edges of an image, so pixel ``i`` of ``n`` is at ``(2·i + 1) / n - 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from mien.blend import BROAD
from mien.errors import ModelError, UsageError
from mien.zoo import ModelCard, Swap

OPSET: Final = 17
"""What older generators are brought to; ``GridSample`` came with 16."""

LARGE: Final = 1 << 16
"""Bytes from which an initialiser is taken for weights, not for what a node is to do."""

PREFIX: Final = "generator/"
"""In front of every name of the generator's graph."""

XYZ: Final = np.array(
    [
        [0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456],
        [0.212671, 0.715160, 0.072169],
        [0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754],
    ]
)
"""Linear sRGB → CIE XYZ by the white point D65 (ITU-R BT.709), as OpenCV has it."""

STAGES: Final = 3
"""How many times a region is averaged, which mostly is over squares of one pixel."""

FEW: Final = 64
"""Pixels under the mask below which colours are left as they are, as in :mod:`mien.blend`."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the generator's graph is fed and read.

    Attributes:
        card: With ``swap``.
        size: Side of the network's crops in pixels.
        target: Name of the input that takes crops.
        source: Name of the input that says whose face; empty where it has none.
        boost: Crops are this many times larger and go through as their polyphase parts, all at
            once; for graphs that are known to take several crops.
        share: How much of the result is the network's; the rest is the crop as it was.
    """

    card: ModelCard
    size: int
    target: str
    source: str = ""
    boost: int = 1
    share: float = 1.0

    @property
    def side(self) -> int:
        """Of the whole crop in pixels."""
        return self.size * self.boost

    @property
    def swap(self) -> Swap:
        """The card's."""
        assert self.card.swap is not None
        return self.card.swap


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


def compose(path: Path | str, form: Form) -> Any:
    """The whole face path as one ``onnx.ModelProto``.

    Inputs, for N faces (one, if the generator takes one crop a run):

    - ``region`` ``(N, H, W, 3)`` uint8 RGB of any size, and ``shrink`` ``(STAGES,)`` int64: it is
      averaged over squares of these sides, one after the other, before the crop is taken, as in
      :func:`mien.geometry.warp`;
    - ``cut`` ``(N, 2, 3)`` float32, crop → region;
    - ``mask`` ``(N, T, T)`` uint8 on the patch; where T is a fraction of the crop's side, the
      generator's result is averaged down to it;
    - ``onto`` ``(N, 2, 3)`` float32, region → patch, and ``back``, patch → region;
    - ``strength`` ``(1,)`` float32 of colour matching, 0 for none, and what only depends on the
      mask: ``area`` ``(G, T)`` averages the patch's rows onto a coarse grid, ``weight``
      ``(N, G, G)`` is the mask there, 0..1, and ``blur`` ``(N, G, G)`` blurs its rows;
    - ``source`` as the generator takes it, where it does.

    The output ``painted`` has the form of ``region``. The graph runs on zeros with all free sizes
    1, too, which is how a device is warmed up and tried out.

    Args:
        path: The generator's file.
        form: How it is fed and read.

    Raises:
        UsageError: The package onnx is not installed, or the generator has something that is not
            made in the graph.
        ModelError: The generator's graph cannot be made part of another.
    """
    onnx = package()
    model = _loaded(onnx, Path(path))
    inputs = _checked(model, Path(path).name, form)
    first = inputs[form.target].type.tensor_type.shape.dim[0]
    many: int | str = 1 if first.HasField("dim_value") or form.boost > 1 else "N"
    if form.boost > 1:
        _freed(model.graph)
    onnx.compose.add_prefix(model, PREFIX, inplace=True)

    before = Writer(onnx, "before", _opset(model))
    frame = Pixels(before)
    crop = _crop(before, frame, form)
    _feed(before, crop, inputs, form)
    after = Writer(onnx, "after", before.opset)
    made = _read(after, PREFIX + _picture(model, form, Path(path).name), crop, form)
    patch = _matched(after, frame, made)
    _pasted(after, frame, patch)

    tensor = onnx.TensorProto
    value = onnx.helper.make_tensor_value_info
    graph = model.graph
    given = [
        value("region", tensor.UINT8, [many, "H", "W", 3]),
        value("shrink", tensor.INT64, [STAGES]),
        value("cut", tensor.FLOAT, [many, 2, 3]),
        value("mask", tensor.UINT8, [many, "T", "T"]),
        value("onto", tensor.FLOAT, [many, 2, 3]),
        value("back", tensor.FLOAT, [many, 2, 3]),
        value("strength", tensor.FLOAT, [1]),
        value("area", tensor.FLOAT, ["G", "T"]),
        value("weight", tensor.FLOAT, [many, "G", "G"]),
        value("blur", tensor.FLOAT, [many, "G", "G"]),
    ]
    if form.source:
        shape = [d.dim_value or "?" for d in inputs[form.source].type.tensor_type.shape.dim][1:]
        given.append(value("source", tensor.FLOAT, [many, *shape]))
    _replace(graph.node, [*before.nodes, *graph.node, *after.nodes])
    _replace(graph.input, given)
    _replace(graph.output, [value("painted", tensor.UINT8, [many, "H", "W", 3])])
    graph.initializer.extend([*before.constants, *after.constants])
    graph.name = "face"
    model.ir_version = max(model.ir_version, 8)
    return model


class Writer:
    """Collects nodes and constants. A call writes one node and gives the name of its output."""

    def __init__(self, onnx: Any, name: str, opset: int) -> None:
        self.onnx = onnx
        self.name = name
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str | ArrayLike, to: str = "", **attributes: Any) -> str:
        """A node with one output, called ``to``; numbers among the inputs become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = to or f"{self.name}/{len(self.nodes)}/{op}"
        self.nodes.append(
            self.onnx.helper.make_node(op, names, [output], name=output, **attributes)
        )
        return output

    def constant(self, value: ArrayLike) -> str:
        """A constant: what is whole is int64, all else float32."""
        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind in "iu" else np.float32
        name = f"{self.name}/constant/{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array.astype(kind), name))
        return name

    def cast(self, values: str, kind: str | int = "FLOAT", *, to: str = "") -> str:
        """Values as another type, by name or ONNX's number."""
        number = kind if isinstance(kind, int) else int(getattr(self.onnx.TensorProto, kind))
        node = self.onnx.helper.make_node(
            "Cast", [values], [to or f"{self.name}/{len(self.nodes)}/Cast"], to=number
        )
        node.name = node.output[0]
        self.nodes.append(node)
        return str(node.output[0])

    def total(self, values: str) -> str:
        """Sum over rows and columns, ``(N, C, 1, 1)``."""
        return self("ReduceSum", values, [2, 3], keepdims=1)

    def ordered(self, values: str, count: str) -> tuple[str, str]:
        """``(N, count)`` from least to largest, and where each was."""
        name = f"{self.name}/{len(self.nodes)}/TopK"
        out = [f"{name}/values", f"{name}/indices"]
        make = self.onnx.helper.make_node
        self.nodes.append(make("TopK", [values, count], out, name=name, largest=0))
        return out[0], out[1]

    def levels(self, values: str) -> str:
        """Whole grey levels 0..255, halves rounded up."""
        return self("Floor", self("Clip", self("Add", values, 0.5), 0.0, 255.0))

    def averaged(self, image: str, square: str) -> str:
        """``(N, 3, H, W)`` over squares, as grey levels; what is left over at the end is cut off.

        Args:
            image: Grey levels.
            square: ``(1,)`` int64, the side of a square.
        """
        small = self("Div", self("Slice", self("Shape", image), [2], [4], [0]), square)
        part = self("Slice", image, [0, 0], self("Mul", small, square), [2, 3])
        height, width = self("Gather", small, [0], axis=0), self("Gather", small, [1], axis=0)
        shape = self("Concat", [0], [3], height, square, width, square, axis=0)
        total = self("ReduceSum", self("Reshape", part, shape), [3, 5], keepdims=0)
        side = self.cast(square)
        mean = self("Div", total, self("Mul", side, side))
        # OpenCV rounds halves up where it halves, else to the even number.
        up = self("Where", self("Less", side, 2.5), 0.125, 0.0)
        return self("Round", self("Add", mean, up))

    def grid(self, matrix: str, rows: str, columns: str, size: str) -> str:
        """Where an affine map puts pixels, in the units of ``GridSample``, ``(N, h, w, 2)``.

        By sums of products and not by ``MatMul``, which a GPU may round to ten bits (TF32): that
        is a pixel at the far end of a region.

        Args:
            matrix: ``(N, 2, 3)``, pixels of the result → pixels of the image.
            rows: ``(1,)`` int64, of the result.
            columns: ``(1,)`` int64.
            size: ``(2,)`` float32, width and height of the image.
        """
        half = self("Div", [2.0, 2.0], size)
        x, y, shift = (
            self("Mul", self("Reshape", self("Gather", matrix, n, axis=2), [-1, 1, 1, 2]), half)
            for n in range(3)
        )
        shift = self("Add", shift, self("Sub", self("Mul", half, 0.5), 1.0))
        along = self("Mul", x, self("Reshape", self.count(columns), [1, 1, -1, 1]))
        down = self("Mul", y, self("Reshape", self.count(rows), [1, -1, 1, 1]))
        return self("Add", self("Add", along, down), shift)

    def count(self, number: str) -> str:
        """0, 1, 2 … as float32."""
        return self.cast(self("Range", 0, self("Squeeze", number, [0]), 1))

    def sample(self, image: str, grid: str, beyond: str = "border") -> str:
        """The image there, linear, as grey levels; beyond it its rim goes on, or ``zeros``."""
        mode = "bilinear" if self.opset < 20 else "linear"
        values = self("GridSample", image, grid, mode=mode, padding_mode=beyond, align_corners=0)
        return self("Round", values)


class Pixels:
    """The region as planes of floats, and its size."""

    def __init__(self, write: Writer) -> None:
        self.image = write.cast(write("Transpose", "region", perm=[0, 3, 1, 2]))
        shape = write("Shape", self.image)
        self.height = write("Slice", shape, [2], [3], [0])
        self.width = write("Slice", shape, [3], [4], [0])
        self.size = write.cast(write("Concat", self.width, self.height, axis=0))


def _crop(write: Writer, frame: Pixels, form: Form) -> str:
    """The generator's crop, ``(N, 3, S, S)`` grey levels."""
    small = frame.image
    sides = write("Max", "shrink", 1)  # a run on zeros, to warm up, must not divide by them
    squares = [write("Slice", sides, [n], [n + 1], [0]) for n in range(STAGES)]
    for square in squares:
        small = write.averaged(small, square)
    shape = write("Shape", small)
    size = write.cast(write("Gather", shape, [3, 2], axis=0))
    # Pixel i of the averaged region lies around shrink·i + (shrink - 1) / 2.
    times = write.cast(reduce(lambda a, b: write("Mul", a, b), squares))
    shift = write("Mul", write("Div", write("Sub", times, 1.0), 2.0), [0.0, 0.0, 1.0])
    matrix = write("Div", write("Sub", "cut", shift), times)
    side = write.constant([form.side])
    return write.sample(small, write.grid(matrix, side, side, size))


def _feed(write: Writer, crop: str, inputs: dict[str, Any], form: Form) -> None:
    """Crop and source in the form that the generator takes, under the names of its inputs."""
    card = form.card
    if form.boost > 1:
        # (1, 3, S, boost, S, boost) → one crop for each place to begin at.
        n, size = form.boost, form.size
        split = write("Reshape", crop, [3, size, n, size, n])
        parts = write("Transpose", split, perm=[2, 4, 0, 1, 3])
        crop = write("Reshape", parts, [-1, 3, size, size])
    if form.swap.sharpen > 0:
        crop = _sharpened(write, crop, form.swap.sharpen)
    if card.order == "BGR":
        crop = write("Gather", crop, [2, 1, 0], axis=1)
    mean, std = (np.reshape(v, (1, 3, 1, 1)).astype(np.float32) for v in (card.mean, card.std))
    values = write("Div", write("Sub", crop, mean), std)
    if card.layout == "NHWC":
        values = write("Transpose", values, perm=[0, 2, 3, 1])
    write.cast(values, _type(inputs[form.target]), to=PREFIX + form.target)
    if not form.source:
        return
    source = "source"
    if form.boost > 1:
        rank = len(inputs[form.source].type.tensor_type.shape.dim)
        source = write("Expand", source, [form.boost**2] + [1] * (rank - 1))
    write.cast(source, _type(inputs[form.source]), to=PREFIX + form.source)


def _read(write: Writer, output: str, crop: str, form: Form) -> str:
    """The generator's answer as a patch, ``(N, 3, T, T)`` grey levels."""
    card = form.card
    values = write.cast(output)
    if card.layout == "NHWC":
        values = write("Transpose", values, perm=[0, 3, 1, 2])
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in (form.swap.output_mean, form.swap.output_std))
    values = write("Add", write("Mul", values, std.astype(np.float32)), mean.astype(np.float32))
    if card.order == "BGR":
        values = write("Gather", values, [2, 1, 0], axis=1)
    image = write.levels(values)
    if form.boost > 1:
        n, size = form.boost, form.size
        split = write("Reshape", image, [n, n, 3, size, size])
        joined = write("Transpose", split, perm=[2, 3, 0, 4, 1])
        image = write("Reshape", joined, [1, 3, form.side, form.side])
    if form.share < 1:
        mine, theirs = write("Mul", image, form.share), write("Mul", crop, 1 - form.share)
        image = write("Round", write("Add", mine, theirs))
    side = write("Slice", write("Shape", "mask"), [1], [2], [0])
    return write.averaged(image, write("Div", [form.side], side))


def _sharpened(write: Writer, crop: str, weight: float) -> str:
    """Unsharp mask with σ 2, as OpenCV's ``GaussianBlur`` and ``addWeighted`` do it on uint8."""
    at = np.arange(-6, 7)  # OpenCV takes 6σ + 1 taps for uint8
    kernel = np.exp(-(at**2) / 8.0)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    soft = write("Pad", crop, [0, 0, 6, 6, 0, 0, 6, 6], mode="reflect")
    for shape in ((3, 1, 13, 1), (3, 1, 1, 13)):
        taps = np.broadcast_to(kernel.reshape(1, *shape[1:]), shape)
        soft = write("Conv", soft, np.ascontiguousarray(taps), group=3)
    strong = write("Mul", crop, 1 + weight)
    sharp = write("Sub", strong, write("Mul", write("Round", soft), weight))
    return write("Clip", write("Round", sharp), 0.0, 255.0)


def _matched(write: Writer, frame: Pixels, image: str) -> str:
    """The patch in the colours of what it covers, :func:`mien.blend.match_color`'s ``lab``."""
    side = write("Slice", write("Shape", "mask"), [1], [2], [0])
    under = write.sample(frame.image, write.grid("back", side, side, frame.size))
    mask = write.cast(write("Unsqueeze", "mask", [1]))
    where = write.cast(write("Greater", mask, 127.0))
    count = write.total(where)
    least = write("Max", count, 1.0)

    def moments(lab: str) -> tuple[str, str]:
        mean = write("Div", write.total(write("Mul", lab, where)), least)
        off = write("Mul", write("Sub", lab, mean), where)
        return mean, write("Sqrt", write("Div", write.total(write("Mul", off, off)), least))

    ours, theirs = _lab(write, image), _lab(write, under)
    (mean, spread), (their_mean, their_spread) = moments(ours), moments(theirs)
    gain = write("Clip", write("Div", their_spread, write("Max", spread, 1e-3)), 0.5, 2.0)
    moved = write("Add", write("Mul", write("Sub", ours, mean), gain), their_mean)
    matched = write.levels(write("Mul", _rgb(write, moved), 255.0))
    matched = _evened(write, matched, under)
    enough = write.cast(write("Greater", count, FEW - 0.5))
    share = write("Mul", write("Reshape", "strength", [1, 1, 1, 1]), enough)
    change = write("Mul", write("Sub", matched, image), share)
    return write.levels(write("Add", image, change))


def _evened(write: Writer, image: str, under: str) -> str:
    """The patch in the broad light of what it covers, as :mod:`mien.blend` evens it."""
    weight = write("Unsqueeze", "weight", [1])
    blur = write("Unsqueeze", "blur", [1])
    across = write("Transpose", blur, perm=[0, 1, 3, 2])
    onto = write("Transpose", "area", perm=[1, 0])

    def small(levels: str) -> str:
        return write("Round", write("MatMul", write("MatMul", "area", levels), onto))

    ours, theirs = (write("Add", small(v), 8.0) for v in (image, under))
    logs = write("Log", write("Div", theirs, ours))
    apart = write("Div", write("ReduceSum", logs, [1], keepdims=1), 3.0)
    off = write("Sub", apart, _median(write, apart, weight))
    spread = write("Mul", _median(write, write("Abs", off), weight), 1.4826)
    odd = write("Div", off, write("Mul", write("Max", spread, 0.05), 2.0))
    trust = write("Div", weight, write("Add", write("Mul", odd, odd), 1.0))
    least = write("Max", write.total(trust), 1e-9)

    def blurred(values: str) -> str:
        return write("MatMul", write("MatMul", blur, values), across)

    total = write("Add", blurred(trust), 0.02)

    def low(values: str) -> str:
        part = write("Mul", write("Sub", values, 8.0), trust)
        mean = write("Div", write.total(part), least)
        near = write("Add", blurred(part), write("Mul", mean, 0.02))
        return write("Add", write("Div", near, total), 8.0)

    gain = write("Clip", write("Div", low(theirs), low(ours)), 0.5, 2.0)
    size = write("Shape", image)
    large = write(
        "Resize", gain, "", "", size, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    evened = write("Clip", write("Round", write("Mul", image, large)), 0.0, 255.0)
    wide = write("Greater", write.total(weight), (1 / BROAD) ** 2)
    return write("Where", wide, evened, image)


def _median(write: Writer, values: str, weight: str) -> str:
    """The weighted median of ``(N, 1, G, G)``, ``(N, 1, 1, 1)``."""
    flat = write("Flatten", values)
    ordered, order = write.ordered(flat, write("Slice", write("Shape", flat), [1], [2], [0]))
    weights = write("GatherElements", write("Flatten", weight), order, axis=1)
    so_far = write("CumSum", weights, 1)
    half = write("Mul", write("ReduceSum", weights, [1], keepdims=1), 0.5)
    below = write.cast(write("Less", so_far, half))
    at = write.cast(write("ReduceSum", below, [1], keepdims=1), "INT64")
    return write("Reshape", write("GatherElements", ordered, at, axis=1), [-1, 1, 1, 1])


def _lab(write: Writer, levels: str) -> str:
    """Grey levels of sRGB → CIE L*a*b* (IEC 61966-2-1, ISO/CIE 11664-4), as OpenCV has it."""
    c = write("Div", levels, 255.0)
    curve = write("Pow", write("Div", write("Add", c, 0.055), 1.055), 2.4)
    linear = write("Where", write("Greater", c, 0.04045), curve, write("Div", c, 12.92))
    xyz = write("Conv", linear, XYZ.reshape(3, 3, 1, 1))
    dark = write("Add", write("Mul", xyz, 7.787), 16 / 116)
    root = write("Pow", write("Max", xyz, 0.0), 1 / 3)
    f = write("Where", write("Greater", xyz, 0.008856), root, dark)
    # L = 116·f(Y) - 16, which OpenCV computes as 903.3·Y where it is dark: the same to 0.0002.
    weights = np.array([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]])
    return write("Conv", f, weights.reshape(3, 3, 1, 1), [-16.0, 0.0, 0.0])


def _rgb(write: Writer, lab: str) -> str:
    """CIE L*a*b* → sRGB 0..1, clipped to the gamut."""
    weights = np.array([[1 / 116, 1 / 500, 0], [1 / 116, 0, 0], [1 / 116, 0, -1 / 200]])
    f = write("Conv", lab, weights.reshape(3, 3, 1, 1), [16 / 116] * 3)
    dark = write("Div", write("Sub", f, 16 / 116), 7.787)
    cube = write("Mul", f, write("Mul", f, f))
    limit = 7.787 * 0.008856 + 16 / 116
    xyz = write("Where", write("Greater", f, limit), cube, dark)
    linear = write("Conv", xyz, np.linalg.inv(XYZ).reshape(3, 3, 1, 1))
    linear = write("Clip", linear, 0.0, 1.0)
    curve = write("Sub", write("Mul", write("Pow", linear, 1 / 2.4), 1.055), 0.055)
    return write("Where", write("Greater", linear, 0.0031308), curve, write("Mul", linear, 12.92))


def _pasted(write: Writer, frame: Pixels, patch: str) -> None:
    """The patch in the region by the mask, :func:`mien.blend.soft`, as output ``painted``."""
    side = write.cast(write("Gather", write("Shape", "mask"), [1, 1], axis=0))
    grid = write.grid("onto", frame.height, frame.width, side)
    image = write.sample(patch, grid)
    mask = write.cast(write("Unsqueeze", "mask", [1]))
    weight = write("Div", write.sample(mask, grid, "zeros"), 255.0)
    change = write("Mul", write("Sub", image, frame.image), weight)
    whole = write("Clip", write("Round", write("Add", frame.image, change)), 0.0, 255.0)
    write("Transpose", write.cast(whole, "UINT8"), to="painted", perm=[0, 2, 3, 1])


# --- The generator's graph ------------------------------------------------------------------------


def _loaded(onnx: Any, path: Path) -> Any:
    """The generator's model, at opset 16 or above and without defaults for its inputs."""
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's and onnx's own, unrelated
        raise ModelError(f"{path}: not an ONNX file ({error})") from error
    constants = {i.name for i in model.graph.initializer}
    # Until IR 4 every initialiser was an input, too.
    _replace(model.graph.input, [i for i in model.graph.input if i.name not in constants])
    opset = _opset(model)
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
    _replace(graph.initializer, [i for i in graph.initializer if i.name not in names])
    value = onnx.helper.make_tensor_value_info
    graph.input.extend(value(i.name, i.data_type, list(i.dims)) for i in weights)
    model.ir_version = max(model.ir_version, 4)
    out = onnx.version_converter.convert_version(model, OPSET)
    _replace(out.graph.input, [i for i in out.graph.input if i.name not in names])
    out.graph.initializer.extend(weights)
    return out


def _replace(field: Any, values: list[Any]) -> None:
    """Other values for a repeated field."""
    del field[:]
    field.extend(values)


def _freed(graph: Any) -> None:
    """Inputs and outputs with a free first dimension; what else is known of sizes is forgotten."""
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1:
            dims[0].dim_param = "parts"
    del graph.value_info[:]


def _opset(model: Any) -> int:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(versions[0]) if versions else 1


def _type(port: Any) -> int:
    return int(port.type.tensor_type.elem_type)


def _checked(model: Any, name: str, form: Form) -> dict[str, Any]:
    """The generator's inputs by name, if they are those of the form."""
    inputs = {i.name: i for i in model.graph.input}
    wanted = {form.target, form.source} - {""}
    if set(inputs) != wanted:
        raise UsageError(
            f"{name}: one graph is made of generators that take {' and '.join(sorted(wanted))} "
            f"alone, and this one takes {', '.join(inputs)}; leave --fused out"
        )
    if len(model.graph.output) > 1:
        raise UsageError(
            f"{name}: one graph is made of generators that give a picture alone, and this one "
            f"gives {', '.join(o.name for o in model.graph.output)}; leave --fused out"
        )
    return inputs


def _picture(model: Any, form: Form, name: str) -> str:
    """Name of the output that is the picture, without the prefix."""
    return str(model.graph.output[0].name).removeprefix(PREFIX)
