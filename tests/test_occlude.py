"""What is in front of a face: the contract, the mesh as the network sees it, and real footage."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import synthetic
from mien import geometry, occlude, runtime
from mien.landmarks import LEFT_EYE, OVAL, RIGHT_EYE
from mien.motion import CROP

LABELS = Path(__file__).parent / "data" / "occlusion" / "labels.json"

MEASURED = 0.75
"""IoU that was asked for; the shipped weights have 0.80."""


def face() -> np.ndarray:
    """A mesh whose contour is a circle around the middle of the crop; the rest is inside it."""
    mesh = np.zeros((468, 3), np.float32)
    mesh[:, :2] = 64
    t = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    mesh[list(OVAL), 0], mesh[list(OVAL), 1] = 64 + 40 * np.sin(t), 64 - 40 * np.cos(t)
    u = np.linspace(0, 2 * np.pi, len(LEFT_EYE), endpoint=False)
    mesh[list(LEFT_EYE), 0] = 48 + 6 * np.cos(u)
    mesh[list(LEFT_EYE), 1] = 54 + 3 * np.sin(u)
    return mesh


def reddish(tmp_path: Path) -> occlude.Occlude:
    """A graph with the network's contract that answers with the red channel."""
    nodes = [helper.make_node("Gather", ["crop", "zero"], ["occlusion"], axis=3)]
    shape = ["n", CROP, CROP]
    graph = helper.make_graph(
        nodes, "red",
        [helper.make_tensor_value_info("crop", TensorProto.FLOAT, [*shape, 5])],
        [helper.make_tensor_value_info("occlusion", TensorProto.FLOAT, shape)],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "red.onnx"))
    return occlude.Occlude(runtime.load(tmp_path / "red.onnx"))


def test_answers_for_every_face(tmp_path):
    crops = np.zeros((3, CROP, CROP, 3), np.uint8)
    crops[1, :, 64:, 0] = 255
    out = reddish(tmp_path)(crops, [face()] * 3)
    assert out.shape == (3, CROP, CROP)
    assert out.dtype == np.float32
    assert out[0].max() == out[2].max() == 0
    assert out[1, :, 64:].min() == 1
    assert out[1, :, :64].max() == 0


def test_no_faces_are_no_work(tmp_path):
    out = reddish(tmp_path)(np.zeros((0, CROP, CROP, 3), np.uint8), [])
    assert out.shape == (0, CROP, CROP)


@pytest.mark.parametrize(("side", "meshes"), [(96, 1), (CROP, 2)])
def test_wrong_shapes_are_named(tmp_path, side, meshes):
    with pytest.raises(ValueError, match="occlude: expected"):
        reddish(tmp_path)(np.zeros((1, side, side, 3), np.uint8), [face()] * meshes)


def test_guide_shows_contour_and_eyes():
    guide = occlude.guide(face())
    assert guide.shape == (CROP, CROP, 2)
    assert guide[64, 64, 0] == 255
    assert guide[4, 4].max() == 0
    assert guide[54, 48, 1] == 255  # in the left eye
    area = float((guide[..., 0] > 0).sum())
    assert area == pytest.approx(np.pi * (40 * occlude.GROWN) ** 2, rel=0.05)


def test_labels_are_polygons_of_known_footage():
    data = json.loads(LABELS.read_text())
    assert len(data["frames"]) >= 25
    for row in data["frames"]:
        assert set(row) == {"file", "frame", "face", "what", "polygons", "ignore"}
        assert all(len(p) >= 3 and all(len(q) == 2 for q in p) for p in row["polygons"])
    assert sum(not row["polygons"] for row in data["frames"]) >= 4  # faces with nothing in front


@pytest.mark.media
def test_finds_what_was_labelled_by_hand(footage, root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    sys.modules.pop("measure_occlusion", None)
    import measure_occlusion as measure

    net = occlude.Occlude(runtime.load(root / "src/mien/models/occlude.onnx"))
    rows = []
    for _, crop, mesh, label, inside in measure.labelled(footage):
        found = net(crop[None], mesh[None])[0] > 0.5
        rows.append((found, label, inside))
    assert measure.overlap(rows) >= MEASURED


def test_a_plain_face_of_the_examples_is_not_hidden(root, swapper):
    from mien.types import Frame

    net = occlude.Occlude(runtime.load(root / "src/mien/models/occlude.onnx"))
    image = cv2.imread(str(root / "examples/media/photo.jpg"))[..., ::-1]
    frame = Frame(np.ascontiguousarray(image))
    mesh = swapper.landmarks(frame, swapper.detector(frame))[0].mesh
    matrix = occlude_matrix(mesh)
    crop = geometry.warp(frame.image, matrix, CROP)
    inside = geometry.transform(matrix, mesh)
    found = net(crop[None], [inside])[0][occlude.contour(inside) > 127]
    assert (found > 0.5).mean() < 0.1


def occlude_matrix(mesh):
    from mien.motion import aligned

    return aligned(mesh, CROP)


def ring_around(eye, mesh, share: float = 1.0) -> np.ndarray:
    """A spectacle rim around one eye, as found: ``(128, 128)`` float32."""
    points = mesh[list(eye), :2]
    wide = float(np.ptp(points[:, 0]))
    centre = tuple(np.round(points.mean(0)).astype(int).tolist())
    out = np.zeros((128, 128), np.float32)
    cv2.ellipse(out, centre, (round(0.75 * wide), round(0.6 * wide)), 0, 0, 360 * share, 1.0, 2)
    return out


def test_spectacles_found_on_one_side_are_on_both():
    mesh = synthetic.mesh((64, 64), 98)
    found = occlude.spectacles(ring_around(LEFT_EYE, mesh), mesh)
    other = ring_around(RIGHT_EYE, mesh) > 0
    assert found[other].mean() > 0.9
    assert (found >= ring_around(LEFT_EYE, mesh)).all()


def test_a_hand_or_a_few_hairs_are_no_spectacles():
    mesh = synthetic.mesh((64, 64), 98)
    hand = np.zeros((128, 128), np.float32)
    hand[90:, :60] = 1
    assert (occlude.spectacles(hand, mesh) == hand).all()
    hair = np.zeros((128, 128), np.float32)
    hair[:, 45] = 1
    np.testing.assert_array_equal(occlude.spectacles(hair, mesh), hair)


def test_a_brow_that_is_mostly_seen_is_kept_and_one_that_is_not_is_given_up():
    mesh = synthetic.mesh((64, 64), 98)
    brows = [np.round(mesh[list(ring), :2]).astype(int) for ring in occlude.BROWS]
    found = np.zeros((CROP, CROP), np.float32)
    found[:, : brows[0][:, 0].min() + 3] = 1  # hair over the outer end of one
    (x0, y0), (x1, y1) = brows[1].min(0), brows[1].max(0)
    found[y0 - 3 : y1 + 4, x0 - 3 : x1 + 4] = 1  # a fringe over all of the other
    out = occlude.spared(found, mesh)
    inside = np.zeros((CROP, CROP), np.uint8)
    cv2.fillPoly(inside, [brows[0]], 1)
    assert out[inside > 0].max() < 0.2
    assert out[:, 0].min() == 1
    np.testing.assert_array_equal(out[:, x0 - 3 :], found[:, x0 - 3 :])
