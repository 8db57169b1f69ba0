"""Published detectors on tiny graphs that read their answer off the colour of a cell.

Each graph has the inputs, outputs and ranges of the real one. It averages every cell of a grid;
red becomes the score, green the box and blue the points, so that another normalisation, order of
channels, stride, order of anchors or decoding gives another face. What is expected is worked out
here from the colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mien import detect, runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Image

STRIDES = (8, 16, 32)
RGB = (230, 180, 140)
"""Of the cell in which the face is."""
BOX = np.array([1.5, 2.0, 2.5, 3.0])
MARKS = np.array([-0.9, -0.5, 0.8, -0.6, 0.1, 0.3, -0.7, 0.9, 0.6, 1.1])
"""What green is multiplied with for the box, and blue for the points."""


def constant(name: str, values: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


@dataclass
class Heads:
    """A graph under construction: cells, and what a convolution of one pixel makes of each."""

    width: int | str = 640
    height: int | str = 640
    channels_last: bool = False

    def __post_init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []
        self.outputs: list = []

    def node(self, kind: str, inputs: str, output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs.split(), [output], **attributes))
        return output

    def constant(self, name: str, values: object) -> str:
        self.constants.append(constant(name, values))
        return name

    def cells(self, stride: int) -> str:
        """``(1, 3, rows, columns)`` means of the input over each cell."""
        name = f"cells{stride}"
        if not any(name in n.output for n in self.nodes):
            side = [stride, stride]
            self.node("AveragePool", "image", name, kernel_shape=side, strides=side)
        return name

    def linear(self, stride: int, name: str, weights: object, bias: object) -> str:
        """``(1, K, rows, columns)``: what ``(K, 3)`` weights and a bias make of each cell."""
        kernel = np.asarray(weights, np.float32)[..., None, None]
        self.constant(f"{name}_w", kernel)
        self.constant(f"{name}_b", np.broadcast_to(np.float32(bias), len(kernel)).copy())
        return self.node("Conv", f"{self.cells(stride)} {name}_w {name}_b", f"{name}_conv")

    def clip(self, value: str) -> str:
        return self.node("Clip", f"{value} zero one", f"{value}_clip")

    def rows(self, value: str, output: str, shape: list[int]) -> None:
        """Channels last, then reshaped, as the exporters do it."""
        self.node("Transpose", value, f"{value}_t", perm=[0, 2, 3, 1])
        self.constant(f"{output}_shape", np.array(shape, np.int64))
        self.give(self.node("Reshape", f"{value}_t {output}_shape", output))

    def give(self, output: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))

    def load(self, path: Path) -> runtime.Model:
        self.constant("zero", np.float32(0))
        self.constant("one", np.float32(1))
        shape = [1, 3, self.height, self.width]
        name = "image"
        if self.channels_last:
            shape, name = [1, self.height, self.width, 3], "pixels"
            first = helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2])
            self.nodes.insert(0, first)
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            self.outputs,
            self.constants,
        )
        opset = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=9)
        path.write_bytes(made.SerializeToString())
        return runtime.load(path)


def only(index: int, count: int, weights: np.ndarray) -> np.ndarray:
    """Weights ``(K, 3)`` for one of several anchors, zeros for the others, ``(count * K, 3)``."""
    out = np.zeros((count, *weights.shape), np.float32)
    out[index] = weights
    return out.reshape(-1, 3)


def by_channel(red: object = 0, green: object = 0, blue: object = 0) -> np.ndarray:
    """``(K, 3)`` weights in the order R, G, B."""
    return np.stack(np.broadcast_arrays(*map(np.atleast_1d, (red, green, blue))), 1)


def picture(stride: int, row: int, col: int, colour: object = RGB, scale: int = 1) -> Image:
    """Black, with one cell of the grid in a colour."""
    image = np.zeros((640 * scale, 640 * scale, 3), np.uint8)
    side = stride * scale
    image[row * side : (row + 1) * side, col * side : (col + 1) * side] = colour
    return image


def check(found: list[Face], score: float, box: object, points: object, scale: int = 1) -> None:
    """One face; box and points were given in pixels of the input, measured from its corner."""
    (face,) = found
    assert face.score == pytest.approx(score, abs=2e-3)
    np.testing.assert_allclose(face.box, np.asarray(box) * scale - 0.5, atol=0.05 * scale)
    np.testing.assert_allclose(
        face.points, np.reshape(points, (5, 2)) * scale - 0.5, atol=0.05 * scale
    )


# --- SCRFD, and the RetinaFace that is read like it ---------------------------------------------


def scrfd(path: Path, level: int, anchor: int, **size: object) -> runtime.Model:
    """Nine outputs; only one anchor of one level answers."""
    made = Heads(**size)
    for name, weights, width in (
        ("score", by_channel(red=1.0), 1),
        ("box", by_channel(green=BOX), 4),
        ("points", by_channel(blue=MARKS), 10),
    ):
        for at, stride in enumerate(STRIDES):
            chosen = only(anchor, 2, weights * (at == level))
            value = made.linear(stride, f"{name}{stride}", chosen, 0)
            value = made.clip(value) if name == "score" else value
            made.rows(value, f"{name}_{stride}", [-1, width])
    return made.load(path)


@pytest.mark.parametrize("name", ["scrfd_2.5g", "scrfd_2.5g_bnkps", "retinaface_10g", "det_10g"])
@pytest.mark.parametrize(("level", "anchor"), [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_scrfd(tmp_path: Path, name: str, level: int, anchor: int):
    card, stride = zoo.find(name), STRIDES[level]
    model = scrfd(tmp_path / "scrfd.onnx", level, anchor)
    row, col = 9, 13
    found = detect.FAMILIES[card.family](card, model)(picture(stride, row, col))
    red, green, blue = (np.array(RGB) - 127.5) / 128
    x, y = col * stride, row * stride
    left, top, right, bottom = BOX * green * stride
    points = np.array([x, y]) + (MARKS * blue * stride).reshape(5, 2)
    check(found, red, [x - left, y - top, x + right, y + bottom], points)


def test_scrfd_of_a_larger_picture_and_of_one_that_is_wider_than_high(tmp_path: Path):
    network = detect.Scrfd(zoo.find("scrfd_2.5g"), scrfd(tmp_path / "scrfd.onnx", 1, 0))
    (small,) = network(picture(16, 9, 13))
    (large,) = network(picture(16, 9, 13, scale=3))
    np.testing.assert_allclose((large.points + 0.5) / 3, small.points + 0.5, atol=0.05)
    (wide,) = network(picture(16, 9, 13)[:360])
    np.testing.assert_allclose(wide.box, small.box, atol=0.05)  # black is added below
    (high,) = network(np.ascontiguousarray(picture(16, 9, 13)[:, :360]))
    np.testing.assert_allclose(high.box, small.box, atol=0.05)


def test_a_graph_of_free_size_gets_the_shape_of_the_picture(tmp_path: Path):
    model = scrfd(tmp_path / "free.onnx", 1, 0, width="w", height="h")
    network = detect.Scrfd(replace(zoo.find("scrfd_2.5g"), size=0), model)
    image = picture(16, 9, 13)[:352]
    (whole,) = network(image, 640)
    (half,) = network(np.repeat(np.repeat(image, 2, 0), 2, 1), 640)
    np.testing.assert_allclose((half.box + 0.5) / 2, whole.box + 0.5, atol=0.05)
    seen: list[tuple[int, ...]] = []
    network.feed = replace(network.feed, model=Spy(model, seen))
    network(image, 640)
    network(image, 300)
    network(np.zeros((100, 30, 3), np.uint8), 96)
    assert seen == [(1, 3, 352, 640), (1, 3, 192, 320), (1, 3, 96, 32)]


class Spy:
    """A model that notes the shapes it is given."""

    def __init__(self, model: runtime.Model, seen: list[tuple[int, ...]]) -> None:
        self.model, self.seen = model, seen
        self.name, self.outputs = model.name, model.outputs

    def __call__(self, values: np.ndarray) -> list[np.ndarray]:
        self.seen.append(values.shape)
        return self.model(values)


def test_a_fixed_input_holds_a_picture_at_the_size_asked_for(tmp_path: Path):
    """The whole picture then takes a part of the input, so that a face that fills it is found."""
    network = detect.Scrfd(zoo.find("scrfd_2.5g"), scrfd(tmp_path / "scrfd.onnx", 1, 0))
    image = picture(32, 3, 5)
    (face,) = network(image, 320)  # a block of 32 pixels becomes a cell of 16
    (same,) = network(picture(16, 3, 5))
    np.testing.assert_allclose((face.box + 0.5) / 2, same.box + 0.5, atol=0.05)
    np.testing.assert_allclose((face.points + 0.5) / 2, same.points + 0.5, atol=0.05)
    assert network(np.zeros((50, 50, 3), np.uint8)) == []


def test_the_better_of_two_that_overlap_stays(tmp_path: Path):
    network = detect.Scrfd(zoo.find("scrfd_2.5g"), scrfd(tmp_path / "scrfd.onnx", 1, 0))
    image = picture(16, 9, 13, (220, 255, 140))
    image[9 * 16 : 10 * 16, 14 * 16 : 15 * 16] = (250, 255, 140)  # next to it and brighter
    image[30 * 16 : 31 * 16, 30 * 16 : 31 * 16] = (200, 255, 140)
    best, far = network(image)
    assert best.score == pytest.approx((250 - 127.5) / 128, abs=2e-3)
    assert far.score == pytest.approx((200 - 127.5) / 128, abs=2e-3)
    assert best.box[0] < far.box[0]


# --- YuNet --------------------------------------------------------------------------------------


def yunet(path: Path, level: int) -> runtime.Model:
    made = Heads("width", "height")
    unit = 1 / 255
    heads = (
        ("cls", by_channel(red=unit), 0, 1),
        ("obj", by_channel(green=unit * 1.2), 0, 1),
        ("bbox", by_channel(green=np.array([0.4, 0.7, 1.5, 2.1]) * unit), 0, 4),
        ("kps", by_channel(blue=MARKS * unit), 0, 10),
    )
    for name, weights, bias, width in heads:
        for at, stride in enumerate(STRIDES):
            in_bgr = weights[:, ::-1] * (at == level)
            value = made.linear(stride, f"{name}{stride}", in_bgr, bias)
            value = made.clip(value) if width == 1 else value
            made.rows(value, f"{name}_{stride}", [1, -1, width])
    return made.load(path)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("name", ["yunet_n", "yunet_2023_mar"])
def test_yunet(tmp_path: Path, level: int, name: str):
    stride, row, col = STRIDES[level], 7, 12
    network = detect.YuNet(zoo.find(name), yunet(tmp_path / "yunet.onnx", level))
    found = network(picture(stride, row, col))
    red, green, blue = np.array(RGB) / 255
    centre = np.array([col + 0.4 * green, row + 0.7 * green]) * stride
    half = np.exp(np.array([1.5, 2.1]) * green) * stride / 2
    points = (np.array([col, row]) + (MARKS * blue).reshape(5, 2)) * stride
    check(found, np.sqrt(red * 1.2 * green), [*(centre - half), *(centre + half)], points)


# --- YOLO ---------------------------------------------------------------------------------------

SIGMOID_AT = 1 / (1 + np.exp(-1.25))


def grid(rows: int, cols: int, repeat: int = 1) -> np.ndarray:
    """``(repeat * rows * cols, 2)`` column and row, anchor by anchor."""
    one = np.array([(x, y) for y in range(rows) for x in range(cols)], np.float32)
    return np.tile(one, (repeat, 1))


def yolov8(path: Path, level: int) -> runtime.Model:
    """One output ``(1, 20, 8400)``, in pixels."""
    made = Heads()
    parts = []
    for at, stride in enumerate(STRIDES):
        on = float(at == level)
        side = 640 // stride
        marks = np.zeros(15)
        marks[0::3], marks[1::3] = MARKS[0::2], MARKS[1::2]
        weights = np.concatenate(
            [
                by_channel(green=np.array([0.2, -0.3, 5, 6]) * stride * on),
                by_channel(red=on),
                by_channel(blue=marks * stride * on),
            ]
        )
        value = made.linear(stride, f"head{stride}", weights, 0)
        made.constant(f"flat{stride}", np.array([1, 20, -1], np.int64))
        made.node("Reshape", f"{value} flat{stride}", f"rows{stride}")
        base = np.zeros((1, 20, side * side), np.float32)
        centres = (grid(side, side).T + 0.5) * stride
        base[0, :2] = centres
        base[0, 5::3], base[0, 6::3] = centres[0], centres[1]
        base[0, 7::3] = 3  # visibility
        made.constant(f"grid{stride}", base)
        parts.append(made.node("Add", f"rows{stride} grid{stride}", f"part{stride}"))
    made.give(made.node("Concat", " ".join(parts), "output0", axis=2))
    return made.load(path)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_yolov8_with_its_grid(tmp_path: Path, level: int):
    stride, row, col = STRIDES[level], 11, 6
    network = detect.Yolov8Face(zoo.find("yoloface_8n"), yolov8(tmp_path / "yolo.onnx", level))
    found = network(picture(stride, row, col))
    red, green, blue = np.array(RGB) / 255
    cell = (np.array([col, row]) + 0.5) * stride
    centre = cell + np.array([0.2, -0.3]) * green * stride
    half = np.array([5, 6]) * green * stride / 2
    points = cell + (MARKS * blue * stride).reshape(5, 2)
    check(found, red, [*(centre - half), *(centre + half)], points)


def yolov8_heads(path: Path, level: int) -> runtime.Model:
    """Three outputs ``(1, 80, rows, columns)``: distributions, a logit, and raw points."""
    made = Heads()
    bias = np.full(80, -40.0)
    weights = np.zeros((80, 3))
    for side, at in enumerate((1, 2, 3, 1)):  # two bins next to each other share the weight
        bias[16 * side + at], bias[16 * side + at + 1] = 0, 0
        weights[16 * side + at + 1, 1] = side + 1
    weights[64, 0], bias[64] = 10, -6
    bias[65:] = 0
    weights[65::3, 2], weights[66::3, 2] = MARKS[0::2], MARKS[1::2]
    for at, stride in enumerate(STRIDES):
        off = np.array(bias)
        off[64] -= 20 * (at != level)
        made.give(made.linear(stride, f"head{stride}", weights, off))
    return made.load(path)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_yolov8_without_its_grid(tmp_path: Path, level: int):
    stride, row, col = STRIDES[level], 11, 6
    model = yolov8_heads(tmp_path / "heads.onnx", level)
    network = detect.Yolov8Face(zoo.find("yoloface_8n"), model)
    found = network(picture(stride, row, col))
    red, green, blue = np.array(RGB) / 255
    share = 1 / (1 + np.exp(-green * np.array([1, 2, 3, 4])))  # softmax of two logits
    left, top, right, bottom = np.array([1, 2, 3, 1]) + share
    x, y = col + 0.5, row + 0.5
    box = np.array([x - left, y - top, x + right, y + bottom]) * stride
    points = (np.array([col, row]) + 2 * (MARKS * blue).reshape(5, 2)) * stride
    check(found, 1 / (1 + np.exp(6 - 10 * red)), box, points)


ANCHORS = {8: [(4, 5), (8, 10), (13, 16)], 16: [(23, 29), (43, 55), (73, 105)],
           32: [(146, 217), (231, 300), (335, 433)]}  # fmt: skip
"""Width and height of YOLOv5-face's anchors (yolov5s-face.yaml and its kin)."""


def yolov5_raw(made: Heads, level: int, anchor: int) -> list[str]:
    """``(1, 3, rows, columns, 16)`` for each stride: raw numbers; one anchor of one is sure."""
    out = []
    for at, stride in enumerate(STRIDES):
        one = np.zeros((16, 3))
        one[:4, 1] = 0.5, -0.4, 0.6, -0.2
        one[4, 0] = 8
        one[5:15, 2] = MARKS
        one[15, 0] = 5
        bias = np.zeros(48)
        bias[4::16] = -20
        bias[16 * anchor + 4] = -4 if at == level else -20
        value = made.linear(stride, f"raw{stride}", np.tile(one, (3, 1)), bias)
        made.constant(f"split{stride}", np.array([1, 3, 16, 640 // stride, 640 // stride]))
        made.node("Reshape", f"{value} split{stride}", f"split_{stride}")
        made.node("Transpose", f"split_{stride}", f"stride_{stride}", perm=[0, 1, 3, 4, 2])
        out.append(f"stride_{stride}")
    return out


def yolov5(path: Path, level: int, anchor: int, *, decoded: bool) -> runtime.Model:
    """Three raw heads; or one output ``(1, 25200, 16)``, decoded inside as the exporter does."""
    made = Heads()
    heads = yolov5_raw(made, level, anchor)
    if not decoded:
        for head in heads:
            made.give(head)
        return made.load(path)
    parts = []
    for stride, head in zip(STRIDES, heads, strict=True):
        side = 640 // stride
        sizes = np.repeat(np.array(ANCHORS[stride], np.float32), side * side, axis=0)
        cell = grid(side, side, 3)
        made.constant(f"rows{stride}", np.array([1, -1, 16], np.int64))
        made.node("Reshape", f"{head} rows{stride}", f"flat{stride}")
        for name, first, last in (("xy", 0, 2), ("wh", 2, 4), ("obj", 4, 5), ("m", 5, 15),
                                  ("cls", 15, 16)):  # fmt: skip
            tag = f"{name}{stride}"
            for what, number in (("from", first), ("to", last), ("axis", 2)):
                made.constant(f"{tag}_{what}", np.array([number], np.int64))
            made.node("Slice", f"flat{stride} {tag}_from {tag}_to {tag}_axis", f"{tag}_raw")
            if name != "m":
                made.node("Sigmoid", f"{tag}_raw", f"{tag}_s")
        two, add = f"two{stride}", f"add{stride}"
        made.constant(two, np.float32(2 * stride))
        made.constant(add, ((cell - 0.5) * stride)[None])
        made.node("Mul", f"xy{stride}_s {two}", f"xy{stride}_m")
        made.node("Add", f"xy{stride}_m {add}", f"xy{stride}_d")
        made.node("Mul", f"wh{stride}_s wh{stride}_s", f"wh{stride}_q")
        made.constant(f"size{stride}", (4 * sizes)[None])
        made.node("Mul", f"wh{stride}_q size{stride}", f"wh{stride}_d")
        made.constant(f"by{stride}", np.tile(sizes, (1, 5))[None])
        made.constant(f"at{stride}", np.tile(cell * stride, (1, 5))[None])
        made.node("Mul", f"m{stride}_raw by{stride}", f"m{stride}_m")
        made.node("Add", f"m{stride}_m at{stride}", f"m{stride}_d")
        every = f"xy{stride}_d wh{stride}_d obj{stride}_s m{stride}_d cls{stride}_s"
        parts.append(made.node("Concat", every, f"part{stride}", axis=2))
    made.give(made.node("Concat", " ".join(parts), "output", axis=1))
    return made.load(path)


@pytest.mark.parametrize("decoded", [True, False])
@pytest.mark.parametrize(("level", "anchor"), [(0, 2), (1, 0), (1, 1), (2, 0)])
def test_yolov5(tmp_path: Path, level: int, anchor: int, decoded: bool):
    stride, row, col = STRIDES[level], 8, 10
    model = yolov5(tmp_path / "yolo.onnx", level, anchor, decoded=decoded)
    found = detect.Yolov5Face(zoo.find("yolov5n_face"), model)(picture(stride, row, col))
    red, green, blue = np.array(RGB) / 255
    size = np.array(ANCHORS[stride][anchor])
    x, y, w, h = 1 / (1 + np.exp(-green * np.array([0.5, -0.4, 0.6, -0.2])))
    centre = (np.array([2 * x, 2 * y]) - 0.5 + (col, row)) * stride
    half = (2 * np.array([w, h])) ** 2 * size / 2
    points = (MARKS * blue).reshape(5, 2) * size + np.array([col, row]) * stride
    score = 1 / ((1 + np.exp(4 - 8 * red)) * (1 + np.exp(-5 * red)))
    check(found, score, [*(centre - half), *(centre + half)], points)


# --- BlazeFace ----------------------------------------------------------------------------------

LAYOUT = {128: (8, 2, 16, 6), 256: (16, 2, 32, 6)}


@pytest.mark.parametrize(("name", "side"), [("blazeface_short", 128), ("blazeface_back", 256)])
@pytest.mark.parametrize("coarse", [False, True])
def test_blazeface_short_and_back(tmp_path: Path, name: str, side: int, coarse: bool):
    """Anchors two and six a cell, at their middle; the sixth (or second) of a cell answers."""
    fine, two, wide, six = LAYOUT[side]
    made = Heads(side, side, channels_last=True)
    six_points = np.array([-5, -4, 5, -4, 0, 0, 0, 6, -9, -3, 9, -3])
    values = np.concatenate([[1, -2, 20, 20], six_points])
    tables: dict[str, list[str]] = {"regressors": [], "classificators": []}
    for stride, repeat, active in ((fine, two, not coarse), (wide, six, coarse)):
        weights = only(repeat - 1, repeat, by_channel(green=values))
        logit = only(repeat - 1, repeat, by_channel(red=12.0 * active))
        for table, w, bias, n in (
            ("regressors", weights, 0, 16), ("classificators", logit, -9, 1)
        ):  # fmt: skip
            value = made.linear(stride, f"{table}{stride}", w, bias)
            made.node("Transpose", value, f"{value}_t", perm=[0, 2, 3, 1])
            made.constant(f"{value}_s", np.array([1, -1, n], np.int64))
            tables[table].append(made.node("Reshape", f"{value}_t {value}_s", f"{value}_r"))
    for table, parts in tables.items():
        made.give(made.node("Concat", " ".join(parts), table, axis=1))
    model = made.load(tmp_path / "blaze.onnx")
    stride = wide if coarse else fine
    row, col = 3, 4
    image = picture(stride, row, col)[:side, :side]
    (face,) = detect.BlazeFace(zoo.find(name), model)(image)
    red, green, _ = np.array(RGB) / 127.5 - 1
    assert face.score == pytest.approx(1 / (1 + np.exp(9 - 12 * red)), abs=2e-3)
    cell = (np.array([col, row]) + 0.5) * stride - 0.5
    places = (six_points * green).reshape(6, 2) + cell
    np.testing.assert_allclose(face.points[:3], places[:3], atol=0.02)
    np.testing.assert_allclose(face.points[3:].mean(0), places[3], atol=0.02)
    middle = cell + np.array([1, -2]) * green
    assert face.box[0] + face.box[2] == pytest.approx(2 * middle[0], abs=0.02)


# --- CenterFace ---------------------------------------------------------------------------------


def test_centerface(tmp_path: Path):
    """Cells of four pixels; height before width and y before x."""
    made = Heads("w", "h", channels_last=True)
    unit = 1 / 255
    marks = np.array([0.3, 0.2, 0.35, 0.8, 0.6, 0.5, 0.8, 0.25, 0.85, 0.75])
    for name, weights in (
        ("heat", by_channel(red=unit)),
        ("size", by_channel(green=np.array([2.4, 1.8]) * unit)),
        ("offset", by_channel(blue=np.array([0.4, -0.3]) * unit)),
        ("marks", by_channel(blue=marks * unit)),
    ):
        made.give(made.linear(4, name, weights, 0))
    row, col = 30, 21
    network = detect.CenterFace(zoo.find("centerface"), made.load(tmp_path / "center.onnx"))
    found = network(picture(4, row, col))
    red, green, blue = np.array(RGB) / 255
    height, width = np.exp(np.array([2.4, 1.8]) * green) * 4
    x, y = (col + 0.5 - 0.3 * blue) * 4, (row + 0.5 + 0.4 * blue) * 4
    left, top = x - width / 2, y - height / 2
    ys, xs = (marks * blue).reshape(5, 2).T
    points = np.stack([left + xs * width, top + ys * height], 1)
    check(found, red, [left, top, left + width, top + height], points)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [("yunet_n", 12), ("yoloface_8n", 1), ("yolov5n_face", 1), ("blazeface_back", 2)],
)
def test_another_network_is_refused_by_its_number_of_outputs(tmp_path: Path, name, count):
    card = replace(zoo.find(name), layout="NCHW")
    model = scrfd(tmp_path / "scrfd.onnx", 0, 0)
    with pytest.raises(ModelError, match=f"family {card.family} has {count}.*this one has 9"):
        detect.FAMILIES[card.family](card, model)


def test_an_input_of_another_kind_is_refused(tmp_path: Path):
    model = scrfd(tmp_path / "scrfd.onnx", 0, 0)
    with pytest.raises(ModelError, match="expected pictures of 3 channels, NHWC, came image"):
        detect.Scrfd(replace(zoo.find("scrfd_2.5g"), layout="NHWC"), model)


def test_outputs_of_another_size_are_an_error_and_not_a_guess(tmp_path: Path):
    made = Heads()
    for index in range(9):
        made.rows(made.linear(8, f"x{index}", np.zeros((3, 3)), 0), f"out{index}", [-1, 3])
    network = detect.Scrfd(zoo.find("scrfd_2.5g"), made.load(tmp_path / "odd.onnx"))
    with pytest.raises(ModelError, match=r"odd: output out0: expected 12800 rows of 1 numbers"):
        network(picture(8, 1, 1))


# --- choosing one -------------------------------------------------------------------------------


@dataclass
class Bright:
    """A toy family: one face around whatever is brighter than grey."""

    card: zoo.ModelCard
    model: runtime.Model

    def __call__(self, image: Image, side: int = 0) -> list[Face]:
        y, x = np.nonzero(image[..., 0] > 128)
        if not y.size:
            return []
        box = np.array([x.min(), y.min(), x.max(), y.max()], np.float32)
        return [Face(box, 0.9, np.full((5, 2), (box[:2] + box[2:]) / 2, np.float32))]


def toy_card(path: Path) -> zoo.ModelCard:
    return zoo.ModelCard(
        name="toy", task="detect", family="bright", file=str(path), licence="MIT",
        commercial=True, size=640, layout="NCHW",
    )  # fmt: skip


def test_one_more_detector_is_a_class_a_card_and_this_row(tmp_path: Path):
    scrfd(tmp_path / "toy.onnx", 0, 0)
    models = zoo.Zoo(cards=(*zoo.CARDS, toy_card(tmp_path / "toy.onnx")), folder=tmp_path)
    detector = detect.load(models, "toy", {**detect.FAMILIES, "bright": Bright})
    (face,) = detector.thorough(picture(16, 9, 13))
    np.testing.assert_allclose(face.box, [208, 144, 223, 159], atol=1.5)
    assert detector.quick(picture(16, 9, 13))[0].score == 0.9
    assert "bright" not in detect.FAMILIES


def test_what_is_no_detector_is_refused_by_name(tmp_path: Path):
    models = zoo.Zoo(cards=(*zoo.CARDS, toy_card(tmp_path / "toy.onnx")), folder=tmp_path)
    with pytest.raises(ModelError, match=r"'toy': expected a detector of a family among blazef"):
        detect.load(models, "toy")
    with pytest.raises(ModelError, match=r"'facemesh': expected a detector.*came task landmarks"):
        detect.load(models, "facemesh")


def test_every_card_of_a_detector_has_a_class():
    cards = [card for card in zoo.CARDS if card.task == "detect"]
    assert {card.family for card in cards} == set(detect.FAMILIES)


def test_one_network_serves_both_looks_and_sees_turned_pictures(tmp_path: Path):
    """Upright only: the network's picture is turned for it, and the face turned back."""

    class Upright(Bright):
        def __call__(self, image: Image, side: int = 0) -> list[Face]:
            sides.append((image.shape[:2], side))
            if image.shape[0] > image.shape[1]:
                return super().__call__(image, side)
            return []

    sides: list[tuple[tuple[int, ...], int]] = []
    network = Upright(toy_card(tmp_path), None)
    detector = detect.Detector(network, network)
    image = np.zeros((720, 1280, 3), np.uint8)
    image[100:200, 300:340] = 255
    assert detector.quick(image) == []
    assert sides == [((720, 1280), 0)]
    (face,) = detector.thorough(image, still=True)
    np.testing.assert_allclose(face.box, [300, 100, 339, 199], atol=2.5)
    sides.clear()
    detector.thorough(image)
    assert [side for _, side in sides] == [256, 711, 0, 0, 0]  # coarse, normal, three turns
