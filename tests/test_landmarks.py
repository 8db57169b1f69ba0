"""The mesh stage: crops, the way back to the frame, and what is read off a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from mien import detect, geometry, landmarks, media, runtime
from mien.types import Face, Frame

EYE = 0.05 / 0.145
MOUTH = 0.05 / 0.29


def blank(width: int = 400, height: int = 300, value: int = 0) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def without_mesh(points: np.ndarray) -> Face:
    made = synthetic.face(points)
    made.mesh = None
    return made


# --- what is read off a mesh ------------------------------------------------------------------


@pytest.mark.parametrize("roll", [0, 0.4, -1.2, np.pi / 2])
@pytest.mark.parametrize("height", [20, 300])
def test_measures_do_not_depend_on_place_size_or_roll(roll: float, height: float):
    mesh = synthetic.mesh((150, 90), height, roll=roll)
    assert landmarks.roll(landmarks.five_points(mesh)) == pytest.approx(roll, abs=1e-3)
    assert landmarks.eye_opening(mesh) == pytest.approx((EYE, EYE), abs=1e-3)
    assert landmarks.mouth_opening(mesh) == pytest.approx(MOUTH, abs=1e-3)
    assert landmarks.yaw(mesh) == pytest.approx(0, abs=1e-3)


def test_yaw_is_the_angle_and_its_sign_the_side():
    for angle in (-0.7, -0.2, 0.5):
        assert abs(landmarks.yaw(synthetic.mesh((0, 0), 100, yaw=angle))) == pytest.approx(
            abs(angle), abs=1e-3
        )
    one, other = (landmarks.yaw(synthetic.mesh((0, 0), 100, yaw=a)) for a in (-0.4, 0.4))
    assert one == pytest.approx(-other, abs=1e-3)


def test_a_wink_and_a_shut_mouth():
    mesh = synthetic.mesh((0, 0), 100)
    mesh[159] = mesh[145]
    mesh[13] = mesh[14]
    left, right = landmarks.eye_opening(mesh)
    assert left == 0
    assert right == pytest.approx(EYE, abs=1e-3)
    assert landmarks.mouth_opening(mesh) == 0


def test_five_points_are_left_and_right_as_the_viewer_sees_them():
    five = landmarks.five_points(synthetic.mesh((0, 0), 2))
    wanted = [(-0.33, -0.28), (0.33, -0.28), (0, 0.13), (-0.29, 0.5), (0.29, 0.5)]
    np.testing.assert_allclose(five, wanted, atol=1e-3)


def test_rings_are_closed_and_apart():
    rings = (landmarks.OVAL, landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.INNER_LIPS)
    every = [v for ring in (*rings, landmarks.OUTER_LIPS) for v in ring]
    assert len(set(every)) == len(every)
    assert [len(r) for r in rings] == [36, 16, 16, 20]


# --- the stage --------------------------------------------------------------------------------


class Finder:
    """In place of the network: every vertex is at the brightest spot of the crop."""

    inputs: ClassVar = {"image": ("n", 192, 192, 3)}

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> list[np.ndarray]:
        self.batches.append(crops)
        meshes = np.zeros((len(crops), 478, 3), np.float32)
        for mesh, crop in zip(meshes, crops, strict=True):
            weight = crop[..., 0].astype(np.float64)
            ys, xs = np.mgrid[: crop.shape[0], : crop.shape[1]]
            mesh[:, 0] = (xs * weight).sum() / weight.sum()
            mesh[:, 1] = (ys * weight).sum() / weight.sum()
            mesh[:, 2] = 10
        return [meshes, np.full((len(crops), 1), 0.75, np.float32)]


@pytest.mark.parametrize("roll", [0, 0.7, np.pi / 2, np.pi])
@pytest.mark.parametrize("height", [24, 120, 300, 900])
def test_what_the_network_sees_in_the_crop_is_found_at_its_place_in_the_frame(roll, height):
    """Also where the face is so large that the crop is shrunk in two steps."""
    image = blank(1500, 1400)
    mesh = synthetic.mesh((700, 650), height, roll=roll)
    spot = np.array([703.0, 650.0]) + np.array([0.11, -0.07]) * height
    radius = max(2, height // 30)
    cv2.circle(image, tuple(np.round(spot).astype(int)), radius, (255, 0, 0), -1)
    finder = Finder()
    (found,) = landmarks.FaceMesh(finder)(Frame(image), [synthetic.face(mesh)])
    np.testing.assert_allclose(found.mesh[:, :2], np.round(spot)[None].repeat(478, 0), atol=0.6)
    # The crop is one and a half times the face's longer side, upright, on 192 pixels.
    assert found.mesh[0, 2] == pytest.approx(10 * 1.5 * height / 192, rel=0.02)
    assert found.mesh_score == 0.75
    crop = finder.batches[0]
    assert crop.shape == (1, 192, 192, 3)
    assert crop.dtype == np.float32
    assert 0.5 < crop.max() <= 1
    assert crop[..., 1:].max() == 0  # red, the first channel, alone


def test_the_crop_of_a_large_face_is_averaged_and_not_sampled():
    image = blank(1400, 1400)
    image[:, ::3] = 240
    finder = Finder()
    landmarks.FaceMesh(finder)(Frame(image), [synthetic.face(synthetic.mesh((700, 700), 800))])
    # Sampled alone the stripes would spread by 0.44.
    assert finder.batches[0][0, 20:170, 20:170, 0].std() < 0.12


def test_a_face_with_a_mesh_takes_one_pass_and_one_without_two():
    finder = Finder()
    stage = landmarks.FaceMesh(finder)
    image = blank(value=90)
    near, far = synthetic.mesh((100, 100), 90), synthetic.mesh((300, 100), 90)
    stage(Frame(image), [synthetic.face(near), synthetic.face(far)])
    assert [len(b) for b in finder.batches] == [2]
    finder.batches.clear()
    stage(Frame(image), [synthetic.face(near), without_mesh(far), without_mesh(near)])
    assert [len(b) for b in finder.batches] == [3, 2]
    finder.batches.clear()
    assert stage(Frame(image), []) == []
    assert finder.batches == []


class Follower:
    """In place of the network: a face as high as the crop lets it see, half a step at a time."""

    inputs: ClassVar = {"image": ("n", 192, 192, 3)}

    def __init__(self, height: float) -> None:
        self.height, self.passes = height, 0

    def __call__(self, crops: np.ndarray) -> list[np.ndarray]:
        self.passes += 1
        meshes = np.stack([synthetic.mesh((95.5, 95.5 + self.height), 128) for _ in crops])
        self.height /= 2  # moves down by less each time
        return [meshes, np.ones((len(crops), 1), np.float32)]


def test_a_new_face_is_fitted_until_it_settles_and_not_for_ever():
    face = without_mesh(synthetic.mesh((200, 200), 100))
    for first, passes in ((0.0, 2), (16.0, 4), (500.0, landmarks.PASSES)):
        finder = Follower(first)
        landmarks.FaceMesh(finder)(Frame(blank(value=90)), [face])
        assert finder.passes == passes


@pytest.mark.media
def test_a_wide_open_mouth_is_inside_the_mesh(footage: Path, swapper):
    """The detector's box ends above this chin; two passes left the lower lip outside."""
    frame = Frame(media.read_image(footage / "portraits" / "lp_d19.jpg"))
    (face,) = landmarks.load()(frame, swapper.detector(frame)[:1])
    low = face.mesh[152, 1] - face.mesh[10, 1]
    assert landmarks.mouth_opening(face.mesh) > 0.75
    assert (face.mesh[17, 1] - face.mesh[10, 1]) / low < 0.95
    assert face.mesh[152, 1] > 640


def template(mesh: np.ndarray) -> np.ndarray:
    """The mesh as it lies in its own crop: upright, centred, ``192 / 1.5`` pixels high."""
    upright = synthetic.mesh((95.5, 95.5), 192 / 1.5)
    assert mesh.shape == upright.shape
    return upright


@pytest.fixture
def still_mesh(tmp_path: Path) -> runtime.Model:
    """A graph that gives the drawn mesh, shifted right by the crop's mean red in pixels."""
    mesh = template(synthetic.unit_mesh())[None]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Reshape", ["mean", "rows"], ["shift"]),
        helper.make_node("Mul", ["shift", "right"], ["aside"]),
        helper.make_node("Add", ["mesh0", "aside"], ["mesh"]),
        helper.make_node("ReduceMean", ["shift"], ["score"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["score", "column"], ["presence"]),
    ]
    values = {
        "mesh0": mesh,
        "rows": np.array([-1, 1, 3], np.int64),
        "right": np.array([1, 0, 0], np.float32),
        "column": np.array([-1, 1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "still",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 192, 192, 3])],
        [
            helper.make_tensor_value_info("mesh", TensorProto.FLOAT, ["n", 478, 3]),
            helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["n", 1]),
        ],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    path = tmp_path / "still.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return runtime.load(path)


@pytest.mark.parametrize("roll", [0, 0.5, np.pi / 2, np.pi])
def test_the_mesh_comes_back_into_the_frame(still_mesh: runtime.Model, roll: float):
    mesh = synthetic.mesh((210, 140), 120, roll=roll)
    stage = landmarks.FaceMesh(still_mesh)
    (found,) = stage(Frame(blank()), [synthetic.face(mesh)])
    # The box around a turned face is centred a little elsewhere than the face itself.
    np.testing.assert_allclose(found.mesh, mesh, atol=0.2)
    np.testing.assert_allclose(found.box, geometry.bounds(found.mesh[:468]))
    np.testing.assert_allclose(found.points, landmarks.five_points(found.mesh))


def test_each_face_gets_its_own_crop_s_answer_in_the_order_given(still_mesh: runtime.Model):
    image = blank(600, 300)
    image[:, 300:] = (255, 0, 0)
    dark, light = synthetic.mesh((150, 150), 90), synthetic.mesh((450, 150), 90)
    stage = landmarks.FaceMesh(still_mesh)
    there = stage(Frame(image), [synthetic.face(light, track=7), synthetic.face(dark, track=3)])
    assert [f.track for f in there] == [7, 3]
    pixel = 90 * 1.5 / 192  # one pixel of the crop, in the frame; the mean of R, G and B is 1/3
    shifts = [f.mesh[:, 0] - m[:, 0] for f, m in zip(there, (light, dark), strict=True)]
    wanted = np.array([pixel, 0.0])
    np.testing.assert_allclose([s.mean() for s in shifts], wanted, atol=0.05)
    assert there[0].mesh_score == pytest.approx(1 / 3, abs=0.01)
    assert there[1].mesh_score == pytest.approx(0, abs=0.01)


def test_the_face_given_is_not_changed(still_mesh: runtime.Model):
    given = without_mesh(synthetic.mesh((150, 150), 90))
    box = given.box.copy()
    landmarks.FaceMesh(still_mesh)(Frame(blank()), [given])
    assert given.mesh is None
    np.testing.assert_array_equal(given.box, box)


# --- the default network ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> landmarks.FaceMesh:
    return landmarks.load()


def test_the_default_network_says_that_a_wall_is_no_face(network: landmarks.FaceMesh):
    mesh = synthetic.mesh((200, 150), 120)
    (found,) = network(Frame(blank(value=120)), [synthetic.face(mesh)])
    assert found.mesh.shape == (478, 3)
    assert found.mesh_score < 0.3


@pytest.mark.media
@pytest.mark.parametrize("name", ["portraits/lp_d9.jpg", "portraits/lp_s1.jpg"])
def test_a_turned_photo_gives_the_turned_mesh(
    network: landmarks.FaceMesh, footage: Path, name: str
):
    image = media.read_image(footage / name)
    (face, *_) = detect.load().thorough(image)
    (upright,) = network(Frame(image), [face])
    assert upright.mesh_score > 0.9
    height, width = image.shape[:2]
    size = float((upright.box[2:] - upright.box[:2]).max())
    for turns in (1, 2, 3):
        turned = detect.turn(image, turns)
        x, y = width - 1 - upright.mesh[:, 0], height - 1 - upright.mesh[:, 1]
        wanted = {1: (upright.mesh[:, 1], x), 2: (x, y), 3: (y, upright.mesh[:, 0])}[turns]
        moved = np.c_[np.stack(wanted, 1), upright.mesh[:, 2]].astype(np.float32)
        given = synthetic.face(moved)
        given.mesh = None
        (found,) = network(Frame(turned), [given])
        off = np.linalg.norm(found.mesh[:468, :2] - moved[:468, :2], axis=1).mean()
        assert off < 0.02 * size
