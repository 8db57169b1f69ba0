"""Networks of 68 and 106 points on tiny graphs with the inputs and outputs of the real ones.

The graphs look for the brightest spot of the crop in red and for that in blue, so that another
normalisation, order of channels, crop or way back gives another place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from mien import detect, landmarks, pipeline, runtime, zoo
from mien.errors import ModelError
from mien.track import Tracker
from mien.types import Face, Frame, Image

EYES_68 = (*range(36, 42), *range(42, 48))
"""Of 300-W's 68 points (Sagonas et al. 2013), from 0: six around each eye."""
CELL = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5), -1).reshape(-1, 2)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, **constants: object) -> Path:
    def values(given: dict) -> list:
        return [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in given.items()
        ]

    graph = helper.make_graph(
        [helper.make_node(kind, i.split(), o.split(), **more) for kind, i, o, more in nodes],
        path.stem,
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def fan(path: Path, *, places: bool, gain: float = 1.0) -> runtime.Model:
    """A 2DFAN: every heat map is the crop's red, except that of the nose, which is its blue.

    ``gain`` is what the peaks are multiplied with. Where the graph gives places itself, they are
    the mean of the cells weighted with the heat.
    """
    weights = np.zeros((68, 3, 1, 1), np.float32)
    weights[:, 0], weights[30] = gain, 0
    weights[30, 2] = gain
    nodes = [
        ("AveragePool", "input", "small", {"kernel_shape": [4, 4], "strides": [4, 4]}),
        ("Conv", "small weights", "heatmaps", {}),
    ]
    outputs = {"heatmaps": ("n", 68, 64, 64)}
    if places:
        nodes += [
            ("Reshape", "heatmaps flat", "rows", {}),
            ("ReduceSum", "rows last", "total", {"keepdims": 1}),
            ("Div", "rows total", "share", {}),
            ("MatMul", "share cells", "landmarks_xyscore", {}),
        ]
        outputs = {"landmarks_xyscore": ("n", 68, 3), **outputs}
    path = save(
        path,
        nodes,
        {"input": (1, 3, 256, 256)},
        outputs,
        weights=weights,
        flat=np.array([0, 68, -1], np.int64),
        last=np.array([2], np.int64),
        cells=np.concatenate([CELL, np.ones((4096, 1))], 1).astype(np.float32),
    )
    return runtime.load(path)


def spots(red: tuple[float, float], blue: tuple[float, float], radius: int) -> Image:
    image = np.zeros((700, 900, 3), np.uint8)
    for place, colour in ((red, (255, 0, 0)), (blue, (0, 0, 255))):
        centre = tuple(np.round(np.array(place) * 16).astype(int))
        cv2.circle(image, centre, radius * 16, colour, -1, cv2.LINE_AA, 4)
    return image


@pytest.mark.parametrize("places", [True, False])
@pytest.mark.parametrize("roll", [0, 0.5, np.pi / 2])
def test_fan_finds_spots_of_its_crop_in_the_frame(tmp_path: Path, places: bool, roll: float):
    mesh = synthetic.mesh((450, 350), 195, roll=roll)  # as large as in the network's input
    red, blue = (420.0, 330.0), (470.0, 385.0)
    network = landmarks.Fan68(zoo.find("2dfan4"), fan(tmp_path / "fan.onnx", places=places))
    (found,) = network(Frame(spots(red, blue, 9 if places else 3)), [synthetic.face(mesh)])
    # Without places a cell of four pixels and its quarters are all that is known.
    near = 0.1 if places else 2.0
    np.testing.assert_allclose(found.points[[0, 1, 3, 4]], [red] * 4, atol=near)
    np.testing.assert_allclose(found.points[2], blue, atol=near)
    np.testing.assert_array_equal(found.mesh, mesh)


def test_fan_s_five_points_are_eyes_nose_and_mouth_of_its_68():
    class Numbered:
        """Point k lies at ``(k, 2k)`` cells / 4."""

        name, inputs, outputs = "numbered", {"input": (1, 3, 256, 256)}, ("a", "b")

        def __call__(self, crop: np.ndarray) -> list[np.ndarray]:
            k = np.arange(68, dtype=np.float32)
            heat = np.full((1, 68, 64, 64), 0.9, np.float32)
            return [np.stack([k / 4, k / 8, k * 0], 1)[None], heat]

    face = synthetic.face(synthetic.mesh((127.5, 127.5), 195))
    network = landmarks.Fan68(zoo.find("2dfan4"), Numbered())
    (found,) = network(Frame(np.zeros((256, 256, 3), np.uint8)), [face])
    left, right = np.mean(EYES_68[:6]), np.mean(EYES_68[6:])
    wanted = np.array([left, right, 30, 48, 54])
    np.testing.assert_allclose(found.points[:, 0] + 0.5, wanted, atol=0.05)
    np.testing.assert_allclose(found.points[:, 1] + 0.5, wanted / 2, atol=0.05)


@pytest.mark.parametrize(("peak", "kept"), [(0.40, True), (0.50, False)])
def test_fan_that_is_not_sure_leaves_the_points(tmp_path: Path, peak: float, kept: bool):
    """Peaks of .9 count as certain, and half of that is needed."""
    mesh = synthetic.mesh((450, 350), 195)
    image = spots((440, 340), (470, 380), 40)
    model = fan(tmp_path / "fan.onnx", places=False, gain=peak)
    given = synthetic.face(mesh)
    (found,) = landmarks.Fan68(zoo.find("2dfan4"), model)(Frame(image), [given])
    assert np.array_equal(found.points, given.points) == kept


def test_fan_s_crop_is_195_of_256_pixels(tmp_path: Path):
    seen = []

    class Look:
        name, inputs, outputs = "look", {"input": (1, 3, 256, 256)}, ("heat",)

        def __call__(self, crop: np.ndarray) -> list[np.ndarray]:
            seen.append(crop)
            return [np.zeros((1, 68, 64, 64), np.float32)]

    image = np.zeros((800, 800, 3), np.uint8)
    face = synthetic.face(synthetic.mesh((400, 400), 390))
    x0, y0, x1, y1 = (round(float(v)) for v in face.box)
    image[y0:y1, x0:x1] = (255, 128, 0)
    landmarks.Fan68(zoo.find("2dfan4"), Look())(Frame(image), [face])
    (crop,) = seen
    assert crop.shape == (1, 3, 256, 256)
    assert crop.dtype == np.float32
    inside = crop[0, 0] > 0.5
    assert inside.any(1).sum() == pytest.approx(195, abs=2)
    np.testing.assert_allclose(crop[0, :, 128, 128], [1, 128 / 255, 0], atol=1e-3)


def test_what_gives_no_heat_is_no_fan(tmp_path: Path):
    path = save(
        tmp_path / "none.onnx",
        [("Shape", "input", "s", {}), ("Cast", "s", "out", {"to": TensorProto.FLOAT})],
        {"input": (1, 3, 256, 256)},
        {"out": (4,)},
    )
    network = landmarks.Fan68(zoo.find("2dfan4"), runtime.load(path))
    face = synthetic.face(synthetic.mesh((100, 100), 90))
    with pytest.raises(ModelError, match=r"none: expected heat maps \(1, 68, 64, 64\), came \(4,"):
        network(Frame(np.zeros((200, 200, 3), np.uint8)), [face])


def test_peaks_lie_a_quarter_toward_the_higher_neighbour():
    heat = np.zeros((4, 5, 6), np.float32)
    heat[0, 2, 3] = 1
    heat[1, 2, 3], heat[1, 2, 4], heat[1, 1, 3] = 1, 0.5, 0.2
    heat[2, 0, 0] = 1
    heat[3, 4, 5], heat[3, 4, 4] = 1, 0.3
    wanted = [(3.5, 2.5), (3.75, 2.25), (0.5, 0.5), (5.5, 4.5)]
    np.testing.assert_allclose(landmarks.peaks(heat), wanted)


# --- 106 ----------------------------------------------------------------------------------------


def regressor(path: Path) -> runtime.Model:
    """A 2d106det: 38 and 88 at the centre of red, 86 of green, 52 and 61 of blue; else (1, 1).

    It normalises by itself, as the published file does: what counts is the weight of 0..255.
    """
    pixels = np.stack(np.meshgrid(np.arange(192), np.arange(192)), -1).reshape(-1, 2)
    select = np.zeros((106, 3), np.float32)
    for channel, points in enumerate(((38, 88), (86,), (52, 61))):
        select[list(points), channel] = 1
    other = (select.sum(1, keepdims=True) == 0).astype(np.float32)
    path = save(
        path,
        [
            ("Reshape", "data flat", "rows", {}),
            ("Clip", "rows low high", "held", {}),  # 0..255 passes, a normalised crop would not
            ("ReduceSum", "held last", "total", {"keepdims": 1}),
            ("Div", "held total", "share", {}),
            ("MatMul", "share places", "centres", {}),
            ("MatMul", "select centres", "chosen", {}),
            ("Add", "chosen other", "all", {}),
            ("Reshape", "all out", "fc1", {}),
        ],
        {"data": ("None", 3, 192, 192)},
        {"fc1": ("None", 212)},
        flat=np.array([-1, 3, 192 * 192], np.int64),
        low=np.float32(100),
        high=np.float32(255),
        last=np.array([2], np.int64),
        places=(pixels / 96 - 1).astype(np.float32),
        select=select[None],
        other=np.repeat(other, 2, 1)[None],
        out=np.array([-1, 212], np.int64),
    )
    return runtime.load(path)


@pytest.mark.parametrize("roll", [0, -0.8])
def test_106_points_come_back_into_the_frame(tmp_path: Path, roll: float):
    """All is at least 100, and the means over the crop lie near its middle, so shares are small."""
    network = landmarks.Points106(zoo.find("2d106det"), regressor(tmp_path / "d.onnx"))
    mesh = synthetic.mesh((450, 350), 192 / 1.5, roll=roll)  # a pixel is a pixel of the crop
    image = np.full((700, 900, 3), 100, np.uint8)
    places = [(425, 330), (455, 352), (470, 375)]
    for channel, (x, y) in enumerate(places):
        image[y - 10 : y + 11, x - 10 : x + 11, channel] = 255
    (found,) = network(Frame(image), [synthetic.face(mesh)])
    centre = np.array([450, 350])
    weight = 441 * 155 / (192 * 192 * 100 + 441 * 155)  # of the square, among all of the crop
    wanted = [centre + weight * (np.array(p) - centre) for p in places]
    expected = [wanted[0], wanted[0], wanted[1], wanted[2], wanted[2]]
    np.testing.assert_allclose(found.points, expected, atol=0.06)
    assert np.abs(found.points[0] - found.points[4]).max() > 0.6


def test_a_regressor_of_another_length_is_refused(tmp_path: Path):
    path = save(
        tmp_path / "short.onnx",
        [("ReduceMean", "data", "fc1", {"axes": [2, 3], "keepdims": 0})],
        {"data": (1, 3, 192, 192)},
        {"fc1": (1, 3)},
    )
    network = landmarks.Points106(zoo.find("2d106det"), runtime.load(path))
    face = synthetic.face(synthetic.mesh((100, 100), 90))
    with pytest.raises(ModelError, match=r"short: expected \(1, 212\), came \(1, 3\)"):
        network(Frame(np.zeros((200, 200, 3), np.uint8)), [face])


# --- in a chain ---------------------------------------------------------------------------------


def fitted(frame: Frame, faces: list[Face]) -> list[Face]:
    return [replace(f, mesh_score=0.9) for f in faces]


def moved(frame: Frame, faces: list[Face]) -> list[Face]:
    return [replace(f, points=f.points + np.float32([3, -2])) for f in faces]


def test_refined_keeps_the_mesh_and_moves_the_points_of_faces_alone():
    def doubtful(frame: Frame, faces: list[Face]) -> list[Face]:
        return [replace(f, mesh_score=s) for f, s in zip(faces, (0.9, 0.3), strict=True)]

    faces = [synthetic.face(synthetic.mesh((x, 100), 90)) for x in (100, 300)]
    one, other = landmarks.Refined(doubtful, moved)(Frame(np.zeros((9, 9, 3), np.uint8)), faces)
    np.testing.assert_allclose(one.points, faces[0].points + np.float32([3, -2]))
    np.testing.assert_array_equal(other.points, faces[1].points)
    np.testing.assert_array_equal(one.mesh, faces[0].mesh)


def test_tracking_keeps_the_points_of_the_second_network():
    """They stay beside the mesh's, and what trembles in them is damped."""
    face = synthetic.face(synthetic.mesh((160, 120), 90))
    face.mesh_score = 0.9
    rng = np.random.default_rng(0)
    noise: list[float] = []

    def refined(frame: Frame, faces: list[Face]) -> list[Face]:
        noise.append(float(rng.normal()))
        five = [landmarks.five_points(f.mesh) + np.float32([3 + noise[-1], -2]) for f in faces]
        return [replace(f, points=p, mesh_score=0.9) for f, p in zip(faces, five, strict=True)]

    def look(image: Image) -> list[Face]:
        return [face]

    def mesh(frame: Frame, faces: list[Face]) -> list[Face]:
        return [replace(f, mesh=face.mesh) for f in faces]

    tracker = Tracker(look, look, landmarks.Refined(mesh_sure(mesh), refined))
    image = np.full((240, 320, 3), 90, np.uint8)
    aside = []
    for index in range(60):
        (seen,) = tracker(Frame(image, index, index))
        aside.append(seen.points[0] - landmarks.five_points(seen.mesh)[0])
    late = np.array(aside[20:])
    np.testing.assert_allclose(late.mean(0), [3, -2], atol=0.4)
    assert late[:, 0].std() < 0.5 * np.std(noise)


def mesh_sure(mesh):
    return lambda frame, faces: fitted(frame, mesh(frame, faces))


def zoo_with(tmp_path: Path, **files: runtime.Model) -> zoo.Zoo:
    """The known cards, those named with files of this folder."""
    cards = [
        replace(c, file=f"{tmp_path}/{files[c.name]}", sources=(), sha256="", bytes=0)
        if c.name in files
        else c
        for c in zoo.CARDS
    ]
    return zoo.Zoo(cards=tuple(cards), folder=tmp_path)


def test_a_chain_of_other_networks_loads_and_says_so(tmp_path: Path):
    fan(tmp_path / "fan.onnx", places=True)
    models = zoo_with(tmp_path, **{"2dfan4": "fan.onnx"})
    loaded = pipeline.load("mesh", landmarker="2dfan4", detector="centerface", models=models)
    assert isinstance(loaded.landmarks, landmarks.Refined)
    assert isinstance(loaded.detector.fast, detect.CenterFace)
    assert loaded.models["landmarks"][0] == "facemesh+2dfan4"
    assert loaded.models["detect"][0] == "centerface"


def test_what_fits_no_landmarks_is_refused():
    with pytest.raises(ModelError, match=r"'centerface': expected landmarks.*came task detect"):
        landmarks.load(name="centerface")


# --- other meshes -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [468, 478])
def test_a_mesh_in_mediapipe_s_own_form(tmp_path: Path, count: int):
    """256 pixels, channels first, vertices in one row, and the logit of a face."""
    size = 256
    upright = synthetic.mesh(((size - 1) / 2, (size - 1) / 2), size / 1.5)[:count]
    path = save(
        tmp_path / "mesh.onnx",
        [
            ("ReduceMean", "input", "mean", {"axes": [2, 3], "keepdims": 1}),
            ("Reshape", "mean three", "colour", {}),
            ("MatMul", "colour spread", "moved", {}),
            ("Add", "moved vertices", "Identity", {}),
            ("MatMul", "colour logit", "score", {}),
            ("Reshape", "score four", "Identity_1", {}),
        ],
        {"input": ("n", 3, size, size)},
        {"Identity": ("n", 1, 1, count * 3), "Identity_1": ("n", 1, 1, 1)},
        three=np.array([-1, 1, 1, 3], np.int64),
        spread=np.stack([np.tile([r, 0, 0], count) for r in (10, 0, 0)]).astype(np.float32),
        vertices=upright.reshape(1, 1, 1, -1),
        logit=np.array([[4], [0], [-8]], np.float32),
        four=np.array([-1, 1, 1, 1], np.int64),
    )
    card = zoo.find("face_landmarker_478")
    stage = landmarks.FaceMesh(runtime.load(path), card)
    image = np.full((300, 400, 3), (204, 0, 51), np.uint8)  # 0.8, 0 and 0.2
    mesh = synthetic.mesh((200, 150), 90)
    (found,) = stage(Frame(image), [synthetic.face(mesh)])
    pixel = 90 * 1.5 / size
    assert found.mesh.shape == (count, 3)
    np.testing.assert_allclose(found.mesh - mesh[:count], [(8 * pixel, 0, 0)] * count, atol=0.1)
    assert found.mesh_score == pytest.approx(1 / (1 + np.exp(-(0.8 * 4 - 0.2 * 8))), abs=1e-3)
