"""Every published family that finds, fits and recognises faces, from the command line.

Each model is a tiny graph with the real one's inputs and outputs. It knows one picture: what the
published code would feed it of the bundled photo, worked out here by hand. Fed that, it gives
constant numbers that say where the face on the right is, in the family's own convention; fed
anything else, it finds nothing. So it answers only if size, place, range and order of colours of
its input are right, and the command line shows what mien made of the answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from mien import detect, landmarks, media
from mien.cli import app
from mien.types import Face, Frame

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "media" / "photo.jpg"
"""960 x 640, with two people."""
PORTRAIT = PHOTO.with_name("portrait-1.jpg")

BOX = np.array([533.0, 201, 751, 483])
POINTS = np.array([(596.0, 312), (686, 308), (631, 363), (605, 406), (675, 403)])
"""Of the face on the right, in pixels of the photo: eyes, nose, corners of the mouth."""
MIDDLE, HEIGHT = (659, 354), 227
"""Of the mesh of that face, from under the hair to the chin."""

STRIDES = (8, 16, 32)
SURE, LESS = 0.95, 0.85
"""Scores of the face at a coarse cell and, since a real network sees it twice, at a finer one."""

Pair = tuple[np.ndarray, np.ndarray]
"""An output where the network sees nothing, and where it sees what it knows."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run mien here, with a folder of models of its own; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MIEN_") and name != "MIEN_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MIEN_MODELS", str(tmp_path / "models"))

    def run(*words):
        status = app([str(word) for word in words], standalone_mode=False)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def add(run, tmp_path):
    """Add a graph as a model that is like a published one."""

    def add(file: Path, like: str, name: str = "mine"):
        status, out, err = run("models", "add", file, "--like", like, "--name", name)
        assert (status, err) == (0, "")
        assert f"{name}: added as {tmp_path / 'models' / 'cards' / name}.toml" in out

    return add


def swap(run, *flags):
    """Swap faces of the photo; gives the summary and the picture."""
    given = ("-s", PORTRAIT, "--consent", "synthetic", "--target-consent", "synthetic")
    where = ("-t", PHOTO, "-o", "out.png", "--threads", 1, "--generator", "mesh")
    status, out, err = run("swap", *given, *where, *flags, "--json")
    assert (status, err) == (0, "")
    return json.loads(out), media.read_image(Path("out.png"))


# --- graphs that know one picture ---------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """An input as the published code fills it."""

    name: str
    side: int
    mean: float
    std: float
    bgr: bool = False
    last: bool = False
    batch: int | str = 1
    free: bool = False
    """Any height and width that 32 divides, up to ``side``."""

    def shape(self) -> list[int | str]:
        sides = ["height", "width"] if self.free else [self.side] * 2
        return [self.batch, *sides, 3] if self.last else [self.batch, 3, *sides]


def recogniser(
    path: Path, put: Input, known: np.ndarray, outputs: dict[str, Pair], flat: bool = False
) -> Path:
    """A graph that gives the second of each pair for what it knows, and the first for all else.

    Args:
        path: Of the file.
        put: Its input.
        known: ``(side, side, 3)`` RGB 0..255.
        outputs: By name. Those of a graph of free size are maps ``(1, C, rows, columns)`` for the
            largest input, and are cut to the size of the one that came.
        flat: Maps become ``(1, rows * columns, C)``.
    """
    count, cell = 8, put.side // 8
    pixels = (known[..., ::-1] if put.bgr else known).astype(np.float64)
    means = (pixels.reshape(count, cell, count, cell, 3).mean((1, 3)) - put.mean) / put.std
    nodes: list = []
    constants = {
        "known": means.transpose(2, 0, 1)[None].astype(np.float32),
        "near": np.float32(4 / put.std),  # four grey levels
    }

    def node(kind: str, inputs: str, output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs.split(), [output], **attributes))
        return output

    image = put.name
    if put.last:
        image = node("Transpose", image, "planes", perm=[0, 3, 1, 2])
    if put.free:
        constants |= {
            "from": np.array([2], np.int64), "to": np.array([4], np.int64),
            "side": np.array([put.side] * 2, np.int64), "none": np.zeros(6, np.int64),
            "start": np.zeros(2, np.int64), "axes": np.array([2, 3], np.int64),
        }  # fmt: skip
        node("Shape", image, "shape")
        node("Slice", "shape from to", "sides")
        node("Sub", "side sides", "below")
        node("Concat", "none below", "pads", axis=0)
        image = node("Pad", f"{image} pads", "whole")
    node("AveragePool", image, "cells", kernel_shape=[cell] * 2, strides=[cell] * 2)
    node("Sub", "cells known", "difference")
    node("Abs", "difference", "distance")
    node("ReduceMax", "distance", "farthest", axes=[1, 2, 3], keepdims=0)
    node("Less", "farthest near", "same")
    node("Cast", "same", "gate", to=TensorProto.FLOAT)
    for name, (off, on) in outputs.items():
        constants |= {
            f"{name}_off": off.astype(np.float32), f"{name}_on": (on - off).astype(np.float32),
            f"{name}_rank": np.array([-1] + [1] * (off.ndim - 1), np.int64),
        }  # fmt: skip
        node("Reshape", f"gate {name}_rank", f"{name}_gate")
        node("Mul", f"{name}_on {name}_gate", f"{name}_more")
        whole = node("Add", f"{name}_off {name}_more", f"{name}_whole" if put.free else name)
        if put.free:
            constants[f"{name}_stride"] = np.array([put.side // off.shape[2]] * 2, np.int64)
            node("Div", f"sides {name}_stride", f"{name}_end")
            node("Slice", f"{whole} start {name}_end axes", f"{name}_cut" if flat else name)
        if flat:
            constants[f"{name}_rows"] = np.array([1, -1, off.shape[1]], np.int64)
            node("Transpose", f"{name}_cut", f"{name}_last", perm=[0, 2, 3, 1])
            node("Reshape", f"{name}_last {name}_rows", name)
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(put.name, TensorProto.FLOAT, put.shape())],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


def fitted(put: Input, *, centre: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photo in a square input with black around, its scale and its corner."""
    image = photo()
    width, height = (round(n * put.side / max(image.shape[:2])) for n in image.shape[1::-1])
    scale = np.array([width, height]) / image.shape[1::-1]
    x, y = ((put.side - width) // 2, (put.side - height) // 2) if centre else (0, 0)
    canvas = np.zeros((put.side, put.side, 3), np.uint8)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    canvas[y : y + height, x : x + width] = small
    return canvas, scale, np.array([x, y])


def photo() -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(PHOTO))[..., ::-1])


# --- the face on the right, as each family of detectors says it ---------------------------------


def inverse_sigmoid(value: float | np.ndarray) -> float | np.ndarray:
    return np.log(value / (1 - value))


def corners(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of a box."""
    return (box[:2] + box[2:]) / 2, box[2:] - box[:2]


def seen_at(box: np.ndarray) -> list[tuple[int, int, int, float]]:
    """Stride, column, row and score of the cells that see the face: those of its centre."""
    (x, y), _ = corners(box)
    return [(s, int(x // s), int(y // s), score) for s, score in ((32, SURE), (16, LESS))]


def nothing(outputs: dict[str, np.ndarray], empty: dict[str, float]) -> dict[str, Pair]:
    """Pairs of an empty answer and a full one; what is not named in ``empty`` is 0 there."""
    pairs = {}
    for name, on in outputs.items():
        start = next((v for k, v in empty.items() if name.startswith(k)), 0.0)
        pairs[name] = (np.full_like(on, start), on)
    return pairs


def scrfd(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Two anchors at each cell's corner; distances in strides (InsightFace, ``scrfd.py``)."""
    widths = {"score": 1, "bbox": 4, "kps": 10}
    out = {
        f"{kind}_{s}": np.zeros((2 * (side // s) ** 2, n)) for kind, n in widths.items()
        for s in STRIDES
    }  # fmt: skip
    for stride, col, row, score in seen_at(box):
        at = 2 * (row * (side // stride) + col) + 1
        anchor = np.array([col, row]) * stride
        out[f"score_{stride}"][at] = score
        out[f"bbox_{stride}"][at] = np.concatenate([anchor - box[:2], box[2:] - anchor]) / stride
        out[f"kps_{stride}"][at] = ((points - anchor) / stride).ravel()
    return nothing(out, {})


def yolov5(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Rows of centre, size, object, points, face (deepcam-cn/yolov5-face, decoded)."""
    centre, size = corners(box)
    out, first = np.zeros((1, 25200, 16)), {8: 0, 16: 3 * 80**2, 32: 3 * (80**2 + 40**2)}
    for stride, col, row, score in seen_at(box):
        at = first[stride] + row * (side // stride) + col  # the first of three anchors
        out[0, at] = np.concatenate([centre, size, [0.98], points.ravel(), [score / 0.98]])
    return nothing({"output": out}, {})


def yolov5_raw(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """The same before ``Detect``: ``xy = (2 σ - .5 + cell) stride``, ``wh = (2 σ)² anchor``."""
    centre, size = corners(box)
    out = {f"stride_{s}": np.full((1, 3, side // s, side // s, 16), -20.0) for s in STRIDES}
    anchors = {32: (0, (146, 217)), 16: (2, (73, 105))}
    for stride, col, row, score in seen_at(box):
        which, anchor = anchors[stride]
        cell = np.array([col, row])
        out[f"stride_{stride}"][0, which, row, col] = np.concatenate([
            inverse_sigmoid((centre / stride - cell + 0.5) / 2),
            inverse_sigmoid(np.sqrt(size / anchor) / 2),
            [inverse_sigmoid(0.98)],
            ((points - cell * stride) / anchor).ravel(),
            [inverse_sigmoid(score / 0.98)],
        ])  # fmt: skip
    return nothing(out, {"stride": -20.0})


def with_visibility(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.full((5, 1), 2.0)], 1).ravel()


def yolov8(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Columns of centre, size, score, points with visibility (derronqi/yolov8-face)."""
    centre, size = corners(box)
    out, first = np.zeros((1, 20, 8400)), {8: 0, 16: 80**2, 32: 80**2 + 40**2}
    for stride, col, row, score in seen_at(box):
        at = first[stride] + row * (side // stride) + col
        out[0, :, at] = np.concatenate([centre, size, [score], with_visibility(points)])
    return nothing({"output0": out}, {})


def yolov8_heads(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Before decoding: 16 logits for each side of the box, whose mean is its distance."""
    out = {f"output{i}": np.full((1, 80, side // s, side // s), -40.0)
           for i, s in enumerate(STRIDES)}  # fmt: skip
    for stride, col, row, score in seen_at(box):
        values = out[f"output{STRIDES.index(stride)}"][0, :, row, col]
        middle = (np.array([col, row]) + 0.5) * stride
        for k, far in enumerate(np.concatenate([middle - box[:2], box[2:] - middle]) / stride):
            low = int(far)
            values[16 * k + low] = np.log(1 - (far - low))
            values[16 * k + low + 1] = np.log(far - low)
        values[64] = inverse_sigmoid(score)
        values[65:] = with_visibility((points / stride - (col, row)) / 2)
    return nothing(out, {"output": -40.0})


def yunet_maps(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Offset of the centre and logarithm of the size, in strides (OpenCV's ``face_detect.cpp``)."""
    centre, size = corners(box)
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    out = {
        f"{kind}_{s}": np.zeros((1, n, side // s, side // s)) for kind, n in widths.items()
        for s in STRIDES
    }  # fmt: skip
    for stride, col, row, score in seen_at(box):
        cell = np.array([col, row])
        out[f"cls_{stride}"][0, :, row, col] = score**2 / 0.97
        out[f"obj_{stride}"][0, :, row, col] = 0.97
        where = np.concatenate([centre / stride - cell, np.log(size / stride)])
        out[f"bbox_{stride}"][0, :, row, col] = where
        out[f"kps_{stride}"][0, :, row, col] = (points / stride - cell).ravel()
    return nothing(out, {})


def yunet(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """The published form, a row for each cell."""

    def rows(maps: np.ndarray) -> np.ndarray:
        return maps.reshape(1, maps.shape[1], -1).transpose(0, 2, 1)

    maps = yunet_maps(box, points, side)
    return {name: (rows(off), rows(on)) for name, (off, on) in maps.items()}


def centerface(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Cells of four pixels; height before width, y before x (Star-Clouds/CenterFace)."""
    (x, y), (width, height) = corners(box)
    widths = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}
    out = {name: np.zeros((1, n, side // 4, side // 4)) for name, n in widths.items()}
    for col, row, score in ((int(x // 4), int(y // 4), SURE), (int(x // 4) + 1, int(y // 4), LESS)):
        out["heatmap"][0, 0, row, col] = score
        out["scale"][0, :, row, col] = np.log([height / 4, width / 4])
        out["offset"][0, :, row, col] = y / 4 - row - 0.5, x / 4 - col - 0.5
        marks = (points - box[:2]) / (width, height)
        out["landmarks"][0, :, row, col] = marks[:, ::-1].ravel()
    return nothing(out, {})


def blazeface(box: np.ndarray, points: np.ndarray, side: int) -> dict[str, Pair]:
    """Six points in pixels from the anchor; a square box from the brows to the chin.

    It is stretched to the hairline by .15 of its side, by .07 at the chin, and is .03 narrower on
    each side (the means that mien measured), so that its height is 1.22 of its side.
    """
    square = (box[3] - box[1]) / 1.22
    top, x = box[1] + 0.15 * square, (box[0] + box[2]) / 2
    ears = np.array([(box[0], points[0, 1]), (box[2], points[1, 1])])
    six = np.concatenate([points[:3], points[3:].mean(0)[None], ears])
    fine, coarse = (16, 32) if side == 256 else (8, 16)
    values, logits = np.zeros((1, 896, 16)), np.full((1, 896, 1), -20.0)
    for stride, each, first, score in (
        (coarse, 6, 2 * (side // fine) ** 2, SURE), (fine, 2, 0, LESS),
    ):  # fmt: skip
        col, row = int(x // stride), int((top + square / 2) // stride)
        at = first + each * (row * (side // stride) + col) + 1
        anchor = (np.array([col, row]) + 0.5) * stride
        middle = np.array([x, top + square / 2]) - anchor
        values[0, at] = np.concatenate([middle, [square, square], (six - anchor).ravel()])
        logits[0, at] = inverse_sigmoid(score)
    return nothing({"regressors": values, "classificators": logits}, {"classificators": -20.0})


INSIGHTFACE = Input("input.1", 640, 127.5, 128)
YOLO = Input("images", 640, 0, 255)
YUNET = Input("input", 640, 0, 1, bgr=True)
ANY = Input("input", 960, 0, 1, bgr=True, free=True)
CENTER = Input("image", 960, 0, 1, last=True, free=True)
SHORT, BACK = (Input("input", side, 127.5, 127.5, last=True) for side in (128, 256))

DETECTORS: dict[str, tuple[str, Input, Callable[..., dict[str, Pair]]]] = {
    "scrfd_2.5g": ("scrfd_2.5g", INSIGHTFACE, scrfd),
    "scrfd_2.5g_bnkps": ("scrfd_2.5g_bnkps", INSIGHTFACE, scrfd),
    "retinaface_10g": ("retinaface_10g", INSIGHTFACE, scrfd),
    "det_10g": ("det_10g", INSIGHTFACE, scrfd),
    "yolov5n_face": ("yolov5n_face", YOLO, yolov5),
    "yolov5n_face, raw": ("yolov5n_face", YOLO, yolov5_raw),
    "yoloface_8n": ("yoloface_8n", YOLO, yolov8),
    "yoloface_8n, raw": ("yoloface_8n", YOLO, yolov8_heads),
    "yunet_2023_mar": ("yunet_2023_mar", YUNET, yunet),
    "yunet_n": ("yunet_n", ANY, yunet_maps),
    "centerface": ("centerface", CENTER, centerface),
    "blazeface_short": ("blazeface_short", SHORT, blazeface),
    "blazeface_back": ("blazeface_back", BACK, blazeface),
}
"""What is tried → the card, the input, and how the face is said."""


def detector(path: Path, what: str) -> str:
    """Write the graph; gives the name of the model that it is like."""
    like, put, say = DETECTORS[what]
    known, scale, corner = fitted(put, centre="blazeface" in what)
    box = BOX * np.tile(scale, 2) + np.tile(corner, 2)
    points = POINTS * scale + corner
    recogniser(path, put, known, say(box, points, put.side), flat=what == "yunet_n")
    return like


@pytest.fixture
def looks(monkeypatch):
    """What detectors found, before a mesh was fitted."""
    seen: list[list[Face]] = []
    thorough = detect.Detector.thorough

    def listening(self, image, **how):
        seen.append(thorough(self, image, **how))
        return seen[-1]

    monkeypatch.setattr(detect.Detector, "thorough", listening)
    return seen


def listed(run, target: Path, *flags):
    status, out, err = run("faces", target, "-o", "found", *flags, "--threads", 1, "--json")
    assert status == 0
    return json.loads(out), err


def place_in_photo(picture: str) -> np.ndarray:
    """Where the middle of a picture that ``mien faces`` wrote lies in the photo."""
    part = cv2.imread(picture)
    found = cv2.matchTemplate(cv2.imread(str(PHOTO)), part, cv2.TM_SQDIFF)
    return np.array(cv2.minMaxLoc(found)[2]) + np.array(part.shape[1::-1]) / 2


@pytest.mark.parametrize("what", DETECTORS)
def test_detector(run, add, looks, tmp_path: Path, what: str):
    """One face of two, where the network says; then the mesh settles on it."""
    add(tmp_path / "tiny.onnx", detector(tmp_path / "tiny.onnx", what))
    found, err = listed(run, PHOTO, "--detector", "mine")
    assert err == ""
    ((face,),) = looks
    blaze = "blazeface" in what  # its box is upright and stretched along the tilted face
    assert face.score == pytest.approx(SURE, abs=0.01)
    np.testing.assert_allclose(face.box, BOX, atol=4 if blaze else 1)
    np.testing.assert_allclose(face.points[:3], POINTS[:3], atol=1)
    np.testing.assert_allclose(face.points[3:], POINTS[3:], atol=3 if blaze else 1)
    (person,) = found["people"]
    assert person["score"] > 0.9
    assert person["size"] == pytest.approx(HEIGHT, abs=6)
    np.testing.assert_allclose(place_in_photo(person["picture"]), MIDDLE, atol=5)


def test_a_detector_that_sees_another_picture_finds_nobody(run, add, tmp_path: Path):
    """Else the tests above would show nothing of what networks are fed."""
    add(tmp_path / "tiny.onnx", detector(tmp_path / "tiny.onnx", "scrfd_2.5g"))
    cv2.imwrite("mirrored.png", cv2.imread(str(PHOTO))[:, ::-1])
    found, err = listed(run, Path("mirrored.png"), "--detector", "mine")
    assert found["people"] == []
    assert "no face was found" in err


# --- landmarks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def right() -> Face:
    """The face on the right with the mesh of the default chain."""
    frame = Frame(photo())
    faces = landmarks.load()(frame, detect.load()(frame))
    return max(faces, key=lambda face: face.box[0])


def square_of(mesh: np.ndarray, share: float, size: int) -> np.ndarray:
    """``(2, 3)``: from the photo to the upright square around a mesh, ``share`` times its size."""
    eyes = mesh[[33, 133], :2].mean(0), mesh[[362, 263], :2].mean(0)
    tilt = np.arctan2(*(eyes[1] - eyes[0])[::-1])
    along = np.array([np.cos(tilt), np.sin(tilt)])
    axes = np.stack([along, [-along[1], along[0]]])
    upright = mesh[:468, :2] @ axes.T
    low, high = upright.min(0), upright.max(0)
    return to_square(axes.T @ ((low + high) / 2), (high - low).max() * share, along, size)


def to_square(centre: np.ndarray, side: float, along: np.ndarray, size: int) -> np.ndarray:
    turn = np.stack([along, [-along[1], along[0]]]) * size / side
    return np.concatenate([turn, ((size - 1) / 2 - turn @ centre)[:, None]], 1)


def crop(matrix: np.ndarray, size: int) -> np.ndarray:
    return cv2.warpAffine(photo(), matrix, (size, size), flags=cv2.INTER_LINEAR)


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def fan68(five: np.ndarray) -> dict[str, Pair]:
    """68 places in cells of four pixels, and heat maps that are high there."""
    places = np.ones((1, 68, 3))
    cells = (five + 0.5) / 4
    around = np.array([(np.cos(a), np.sin(a)) for a in np.arange(6) * np.pi / 3])
    places[0, 36:42, :2], places[0, 42:48, :2] = cells[0] + around, cells[1] + 2 * around
    places[0, [30, 48, 54], :2] = cells[2:]
    heat = np.zeros((1, 68, 64, 64))
    heat[:, :, 30, 30] = 0.9
    return nothing({"landmarks_xyscore": places, "heatmaps": heat}, {})


def fan68_heat(five: np.ndarray) -> dict[str, Pair]:
    """Heat maps alone: the highest cell, and its neighbours as high as the place is near them."""
    heat = np.zeros((1, 68, 64, 64))
    chosen = [*[(k, five[0]) for k in range(36, 42)], *[(k, five[1]) for k in range(42, 48)]]
    chosen += list(zip((30, 48, 54), five[2:], strict=True))
    heat[:, :, 1, 1] = 0.9
    for k, place in chosen:
        col, row = ((place + 0.5) // 4).astype(int)
        right, down = np.sign((place + 0.5) / 4 - (col + 0.5, row + 0.5)).astype(int)
        heat[0, k] = 0
        heat[0, k, row, col] = 0.9
        heat[0, k, row, col + right] = heat[0, k, row + down, col] = 0.5
    return nothing({"heatmaps": heat}, {})


def points106(five: np.ndarray) -> dict[str, Pair]:
    """From -1 to 1 over a crop of 192 pixels; pupils, tip of the nose, corners of the mouth.

    It cannot say that it sees nothing, and then gives the places of some face.
    """
    places = np.zeros((2, 106, 2))
    some = np.array([(66, 80), (126, 80), (96, 105), (72, 135), (120, 135)])
    places[:, [38, 88, 86, 52, 61]] = np.stack([some, five]) / 96 - 1
    off, on = places.reshape(2, 1, 212)
    return {"fc1": (off, on)}


@pytest.mark.parametrize(
    ("like", "put", "share", "say", "near"),
    [
        ("2dfan4", Input("input", 256, 0, 255), 256 / 195, fan68, 0.5),
        ("2dfan4", Input("input", 256, 0, 255), 256 / 195, fan68_heat, 3),
        ("2d106det", Input("data", 192, 0, 1, batch="None"), 1.5, points106, 1),
    ],
    ids=["2dfan4", "2dfan4, heat maps alone", "2d106det"],
)
def test_sparse_landmarks(run, add, monkeypatch, right, tmp_path, like, put, share, say, near):
    """The network says that eyes, nose and mouth lie where they do not: to be told from the mesh's.

    It knows the face on the right alone.
    """
    matrix = square_of(right.mesh, share, put.side)
    aside = np.array([(9, -7), (8, -7), (12, 6), (-7, 5), (6, 10)])
    wanted = landmarks.five_points(right.mesh) + aside
    recogniser(tmp_path / "tiny.onnx", put, crop(matrix, put.side), say(moved(matrix, wanted)))
    add(tmp_path / "tiny.onnx", like)
    given: list[Face] = []
    refine = landmarks.Refined.__call__

    def listening(self, frame, faces):
        out = refine(self, frame, faces)
        if frame.image.shape == (640, 960, 3):
            given.extend(out)
        return out

    monkeypatch.setattr(landmarks.Refined, "__call__", listening)
    summary, _ = swap(run, "--landmarks", "mine")
    assert summary["models"]["landmarks"]["model"] == "facemesh+mine"
    assert summary["faces"] == 2
    left, same = sorted(given, key=lambda face: face.box[0])
    np.testing.assert_allclose(same.mesh, right.mesh, atol=0.01)
    np.testing.assert_allclose(same.points, wanted, atol=near)
    assert np.abs(left.points - wanted).min(0)[0] > 100


@pytest.mark.parametrize("count", [468, 478])
def test_mesh(run, add, tmp_path: Path, count: int):
    """A mesh that fills two thirds of its crop stays on the face of the box that it was given."""
    add(tmp_path / "box.onnx", detector(tmp_path / "box.onnx", "det_10g"), name="boxes")
    size = 256
    centre, extent = corners(BOX)
    along = (POINTS[1] - POINTS[0]) / np.linalg.norm(POINTS[1] - POINTS[0])
    matrix = to_square(centre, 1.5 * extent.max(), along, size)
    mesh = synthetic.mesh(((size - 1) / 2,) * 2, size / 1.5)[:count]
    outputs = {"Identity": mesh.reshape(1, 1, 1, -1), "Identity_1": np.full((1, 1, 1, 1), 6.0)}
    pairs = nothing(outputs, {"Identity_1": -6.0})
    pairs["Identity"] = (outputs["Identity"], outputs["Identity"])
    put = Input("input_12", size, 0, 255, batch="batch")
    recogniser(tmp_path / "tiny.onnx", put, crop(matrix, size), pairs)
    add(tmp_path / "tiny.onnx", "face_landmarker_478")

    found, err = listed(run, PHOTO, "--detector", "boxes", "--landmarks", "mine")
    assert err == ""
    (person,) = found["people"]
    tilt = float(np.arctan2(along[1], along[0]))
    there = synthetic.mesh(tuple(centre), extent.max(), roll=tilt)[:468, :2]
    assert person["size"] == pytest.approx(np.ptp(there[:, 1]), abs=1)
    assert person["score"] == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-3)
    middle = (there.min(0) + there.max(0)) / 2
    np.testing.assert_allclose(place_in_photo(person["picture"]), middle, atol=1.5)


# --- embedders ----------------------------------------------------------------------------------

ARCFACE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
     (70.7299, 92.2041)]
)  # fmt: skip
"""InsightFace's five points in its crop of 112 pixels."""


def aligned(points: np.ndarray) -> np.ndarray:
    """``(2, 3)``: the similarity that brings five points nearest to ArcFace's."""
    x, y = points.T
    one, none = np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    (a, b, across, down), *_ = np.linalg.lstsq(rows, ARCFACE.T.ravel(), rcond=None)
    return np.array([[a, -b, across], [b, a, down]])


@pytest.mark.parametrize(
    ("like", "batch", "output"),
    [
        ("w600k_r50", "None", "683"),
        ("arcface_w600k_r50", 1, "683"),
        ("w600k_mbf", "None", "516"),
        ("auraface_v1", "None", "1333"),
    ],
)
def test_embedder(run, add, right, tmp_path: Path, like: str, batch: int | str, output: str):
    """It knows the face on the right, so who is matched with that is found there alone."""
    known = crop(aligned(right.points), 112)
    vectors = np.zeros((2, 1, 512))
    vectors[0, 0, 3], vectors[1, 0, 400] = 17, 23  # of other people, of this one
    put = Input("input.1", 112, 127.5, 127.5, batch=batch)
    recogniser(tmp_path / "tiny.onnx", put, known, {output: (vectors[0], vectors[1])})
    add(tmp_path / "tiny.onnx", like)
    cv2.imwrite("person.png", cv2.imread(str(PHOTO))[:, 480:])
    summary, made = swap(run, "--embedder", "mine", "--match", "person.png")
    assert summary["models"]["embed"]["model"] == "mine"
    assert (summary["faces"], summary["swapped"]) == (1, 1)
    change = np.abs(made.astype(int) - photo())
    assert change[260:450, 580:740].mean() > 3  # the face on the right
    assert change[180:480, 170:440].max() <= 5  # and not that on the left, but for the watermark


# --- wrong pairings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "like", "came"),
    [
        ("--detector", "w600k_r50", "embed"),
        ("--landmarks", "det_10g", "detect"),
        ("--embedder", "2d106det", "landmarks"),
    ],
)
def test_a_model_of_another_task_is_refused_in_one_sentence(run, add, tmp_path, flag, like, came):
    sides = {"w600k_r50": 112, "det_10g": 640, "2d106det": 192}
    names = ["fc1"] if came != "detect" else [f"out{k}" for k in range(9)]
    known = np.zeros((sides[like], sides[like], 3))
    pairs = {name: (np.zeros((1, 512)), np.zeros((1, 512))) for name in names}
    recogniser(tmp_path / "tiny.onnx", Input("data", sides[like], 0, 1), known, pairs)
    add(tmp_path / "tiny.onnx", like)
    status, out, err = run("faces", PHOTO, flag, "mine", "--json")
    assert status in (1, 2)
    (line,) = err.splitlines()
    assert line.startswith("mien: model 'mine': expected ")
    assert f"came task {came}" in line
    assert json.loads(out)["error"] == line.removeprefix("mien: ")
    assert not Path("photo-faces").exists()
