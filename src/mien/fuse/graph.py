"""The graph of the whole face path, written around a generator's own graph.

Everything between the region of the frame and the generator's nodes is ordinary ONNX that exists
since opset 16: casts, arithmetic and ``GridSample``. It computes what the OpenCV path computes
(:mod:`mien.generate.swapping`, :mod:`mien.blend`) and rounds to whole grey levels in the same
places, so that the two can be compared pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien.errors import UsageError
from mien.fuse.colour import matched
from mien.fuse.model import free, load, opset_of, package, replace
from mien.fuse.writer import Pixels, Writer
from mien.zoo import ModelCard, Swap

PREFIX: Final = "generator/"
"""In front of every name of the generator's graph."""

STAGES: Final = 3
"""How many times a region is averaged, which mostly is over squares of one pixel."""


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

    The output ``painted`` has the form of ``region``; ``total``, the sum of all that the generator
    gave, is no number where one of its values is none. The graph runs on zeros with all free sizes
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
    model = load(onnx, Path(path))
    inputs = _checked(model, Path(path).name, form)
    firsts = [inputs[n].type.tensor_type.shape.dim[0] for n in (form.target, form.source) if n]
    fixed = any(first.HasField("dim_value") for first in firsts)
    many: int | str = 1 if fixed or form.boost > 1 else "N"
    if form.boost > 1:
        free(model.graph)
    onnx.compose.add_prefix(model, PREFIX, inplace=True)

    before = Writer(onnx, "before", opset_of(model))
    frame = Pixels(before)
    crop = _crop(before, frame, form)
    _feed(before, crop, inputs, form)
    graph = model.graph
    after = Writer(onnx, "after", before.opset)
    made = _read(after, graph.output[0].name, crop, form)
    patch = matched(after, frame, made)
    _pasted(after, frame, patch)

    tensor = onnx.TensorProto
    value = onnx.helper.make_tensor_value_info
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
        dims = inputs[form.source].type.tensor_type.shape.dim[1:]
        shape = [d.dim_value or d.dim_param or None for d in dims]
        given.append(value("source", tensor.FLOAT, [many, *shape]))
    replace(graph.node, [*before.nodes, *graph.node, *after.nodes])
    replace(graph.input, given)
    painted = value("painted", tensor.UINT8, [many, "H", "W", 3])
    replace(graph.output, [painted, value("total", tensor.FLOAT, [])])
    graph.initializer.extend([*before.constants, *after.constants])
    graph.name = "face"
    model.ir_version = max(model.ir_version, 8)
    return model


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
    write("ReduceSum", values, keepdims=0, to="total")
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
