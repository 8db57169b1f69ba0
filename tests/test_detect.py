"""Detection: tiny graphs with known answers, geometry as properties, and the bars on footage."""

from __future__ import annotations

import importlib
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mien import detect, landmarks, media, runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Frame


def constant_model(path, shape, outputs):
    """A network that answers every input with the same arrays."""
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            for name, array in outputs.items()
        ],
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in outputs.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return runtime.load(path)


def blaze(tmp_path, side, hits):
    """A BlazeFace of ``side`` pixels whose anchors answer as ``hits`` says: index → 16 values."""
    count = {192: 2304, 256: 896, 128: 896}[side]
    values = np.zeros((1, count, 16), np.float32)
    logits = np.full((1, count, 1), -20, np.float32)
    for index, (numbers, logit) in hits.items():
        values[0, index] = numbers
        logits[0, index] = logit
    outputs = {"regressors": values, "scores": logits}
    card = zoo.find({192: "blazeface_full", 256: "blazeface_back", 128: "blazeface_short"}[side])
    model = constant_model(tmp_path / "blaze.onnx", [1, side, side, 3], outputs)
    return detect.BlazeFace(card, model)


# Box centre and size, then eyes, nose, mouth, ears, all relative to the anchor.
UPRIGHT = [0, 0, 20, 20, -5, -4, 5, -4, 0, 0, 0, 6, -9, -3, 9, -3]


@pytest.mark.parametrize(
    ("side", "index", "centre"),
    [
        (192, 0, (2, 2)),
        (192, 48 + 2, (10, 6)),
        (192, 2303, (190, 190)),
        (256, 0, (8, 8)),
        (256, 1, (8, 8)),
        (256, 2 * 16 + 2, (24, 24)),
        (256, 511, (248, 248)),
        (256, 512, (16, 16)),
        (256, 512 + 6, (48, 16)),
        (256, 895, (240, 240)),
        (128, 2 * 17, (12, 12)),
        (128, 895, (120, 120)),
    ],
)
def test_anchor_centres(side, index, centre):
    assert tuple(detect.anchors(side)[index]) == centre


def test_anchor_counts():
    assert {side: len(detect.anchors(side)) for side in (128, 192, 256)} == {
        128: 896,
        192: 2304,
        256: 896,
    }


def test_unknown_input_size_is_an_error():
    with pytest.raises(ModelError, match="not 200"):
        detect.anchors(200)


@pytest.mark.parametrize(("side", "index"), [(192, 48 * 24 + 24), (256, 2 * (16 * 8 + 8))])
def test_blazeface_decodes_box_points_and_score(tmp_path, side, index):
    model = blaze(tmp_path, side, {index: (UPRIGHT, 2.0)})
    (face,) = model(np.zeros((side, side, 3), np.uint8))
    x, y = detect.anchors(side)[index] - 0.5
    assert face.score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)
    expected = [[x - 5, y - 4], [x + 5, y - 4], [x, y], [x - 3.9, y + 6], [x + 3.9, y + 6]]
    np.testing.assert_allclose(face.points, expected, atol=1e-3)
    size = 20
    box = [
        x - 10 + detect.SIDES * size,
        y - 10 - detect.FOREHEAD * size,
        x + 10 - detect.SIDES * size,
        y + 10 + detect.CHIN * size,
    ]
    np.testing.assert_allclose(face.box, box, atol=1e-3)


def test_blazeface_maps_back_through_the_letterbox(tmp_path):
    index = 48 * 24 + 24  # anchor at (98, 98) of 192
    model = blaze(tmp_path, 192, {index: (UPRIGHT, 2.0)})
    (face,) = model(np.zeros((108 * 10, 192 * 10, 3), np.uint8))
    nose = ((98 - 0) * 10 - 0.5, (98 - 42) * 10 - 0.5)
    np.testing.assert_allclose(face.points[2], nose, atol=1e-2)


def test_blazeface_melts_neighbours_into_one(tmp_path):
    left, right = 48 * 24 + 24, 48 * 24 + 25
    model = blaze(tmp_path, 192, {left: (UPRIGHT, 2.0), right: (UPRIGHT, 2.0)})
    (face,) = model(np.zeros((192, 192, 3), np.uint8))
    assert face.points[2, 0] == pytest.approx(99.5, abs=1e-3)


def test_blazeface_finds_nothing(tmp_path):
    assert blaze(tmp_path, 192, {})(np.zeros((50, 80, 3), np.uint8)) == []


def test_blazeface_stays_silent_at_extreme_logits(tmp_path):
    model = blaze(tmp_path, 192, {5: (UPRIGHT, 300.0), 1000: (UPRIGHT, -300.0)})
    (face,) = model(np.zeros((192, 192, 3), np.uint8))
    assert face.score == 1.0


def center(tmp_path, rows, cols, hits):
    """A CenterFace whose grid answers ``hits``: (row, column) → heat, height, width."""
    heat = np.zeros((1, 1, rows, cols), np.float32)
    size = np.zeros((1, 2, rows, cols), np.float32)
    offset = np.zeros((1, 2, rows, cols), np.float32)
    marks = np.zeros((1, 10, rows, cols), np.float32)
    for (y, x), (score, height, width) in hits.items():
        heat[0, 0, y, x] = score
        size[0, :, y, x] = np.log([height / 4, width / 4])
        offset[0, :, y, x] = 0.25, -0.25
        marks[0, :, y, x] = [0.4, 0.3, 0.4, 0.7, 0.6, 0.5, 0.8, 0.35, 0.8, 0.65]
    outputs = {"heat": heat, "size": size, "offset": offset, "marks": marks}
    shape = [1, rows * 4, cols * 4, 3]
    model = constant_model(tmp_path / "center.onnx", shape, outputs)
    return detect.CenterFace(zoo.find("centerface"), model)


def test_centerface_decodes_box_and_points(tmp_path):
    model = center(tmp_path, 16, 24, {(8, 10): (0.9, 24, 16)})
    (face,) = model(np.zeros((64, 96, 3), np.uint8), 96)
    x, y = (10 - 0.25 + 0.5) * 4 - 0.5, (8 + 0.25 + 0.5) * 4 - 0.5
    assert face.score == pytest.approx(0.9)
    np.testing.assert_allclose(face.box, [x - 8, y - 12, x + 8, y + 12], atol=1e-3)
    np.testing.assert_allclose(face.points[0], [x - 8 + 0.3 * 16, y - 12 + 0.4 * 24], atol=1e-3)
    np.testing.assert_allclose(face.points[4], [x - 8 + 0.65 * 16, y - 12 + 0.8 * 24], atol=1e-3)


def test_centerface_scales_back_and_suppresses(tmp_path):
    hits = {(8, 10): (0.9, 24, 16), (8, 11): (0.7, 24, 16), (3, 3): (0.4, 24, 16)}
    (face,) = center(tmp_path, 16, 24, hits)(np.zeros((128, 192, 3), np.uint8), 96)
    np.testing.assert_allclose((face.box[2:] - face.box[:2]), [32, 48], atol=1e-3)


sizes = st.integers(2, 300)


@settings(deadline=None)
@given(sizes, sizes, st.integers(8, 200), st.integers(8, 200), st.booleans())
def test_letterbox_keeps_the_picture_inside_and_maps_its_corners_back(w, h, width, height, centre):
    canvas, fit = detect.letterbox(np.full((h, w, 3), 255, np.uint8), width, height, centre=centre)
    assert canvas.shape == (height, width, 3)
    scale, shift = np.array(fit.scale), np.array(fit.shift)
    low, high = shift, shift + scale * (w, h)
    assert (low >= 0).all()
    assert (high <= np.array([width, height]) + 1e-6).all()
    back = fit.back(np.array([low, high], np.float32))
    np.testing.assert_allclose(back, [[-0.5, -0.5], [w - 0.5, h - 0.5]], atol=1e-2)
    x0, y0 = (round(float(v)) for v in low)
    x1, y1 = (round(float(v)) for v in high)
    assert (canvas[y0:y1, x0:x1] == 255).all()
    assert canvas.astype(int).sum() == 255 * 3 * (x1 - x0) * (y1 - y0)


@settings(deadline=None)
@given(st.data(), st.integers(2, 40), st.integers(2, 40), st.integers(0, 3))
def test_turning_back_finds_the_same_pixel(data, w, h, turns):
    x = data.draw(st.integers(0, w - 1))
    y = data.draw(st.integers(0, h - 1))
    image = np.zeros((h, w, 3), np.uint8)
    image[y, x] = 255
    row, col = (int(v[0]) for v in np.nonzero(detect.turn(image, turns)[..., 0]))
    points = np.full((5, 2), (col, row), np.float32)
    box = np.array([col - 1, row - 2, col + 3, row + 4], np.float32)
    (face,) = detect.turn_back([Face(box, 0.5, points)], turns, w, h)
    np.testing.assert_array_equal(face.points, np.full((5, 2), (x, y)))
    size = face.box[2:] - face.box[:2]
    assert tuple(size) == ((4, 6) if turns % 2 == 0 else (6, 4))
    assert face.box[0] <= x <= face.box[2]
    assert face.box[1] <= y <= face.box[3]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 200), st.integers(1, 200))
def test_shrink_gives_the_size_asked_for_and_keeps_a_flat_picture(w, h, width, height):
    result = detect.shrink(np.full((h, w, 3), 77, np.uint8), width, height)
    assert result.shape == (height, width, 3)
    assert (result == 77).all()


def face(box, score):
    return Face(np.array(box, np.float32), score, np.zeros((5, 2), np.float32))


def test_best_of_keeps_the_better_and_the_distant():
    good, worse, far = (
        face([0, 0, 10, 10], 0.9),
        face([1, 1, 11, 11], 0.8),
        face([50, 0, 60, 9], 0.5),
    )
    assert detect.best_of([far, worse, good]) == [good, far]


def test_best_of_drops_what_lies_inside_when_asked():
    outer, inner = face([0, 0, 20, 20], 0.9), face([2, 2, 8, 8], 0.8)
    assert detect.best_of([outer, inner]) == [outer, inner]
    assert detect.best_of([outer, inner], inside=0.6) == [outer]


def test_best_of_keeps_weak_faces_at_a_greater_distance():
    near = face([6, 0, 16, 10], 0.6)  # IoU .25
    strong = face([6, 0, 16, 10], 0.8)
    best = face([0, 0, 10, 10], 0.9)
    assert detect.best_of([best, near], weak=0.65) == [best]
    assert detect.best_of([best, strong], weak=0.65) == [best, strong]


def test_best_of_goes_by_ranks_where_given():
    one, other = face([0, 0, 10, 10], 0.9), face([1, 1, 11, 11], 0.8)
    assert detect.best_of([one, other], ranks=[0.1, 0.5]) == [other]


def test_a_face_is_believed_where_it_was_seen_upright():
    """What fills the picture is found in turned pictures too, surer and with wrong points."""
    right = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
    askew = np.array([[30, 40], [62, 16], [50, 60], [80, 40], [90, 45]], np.float32)

    def network(image, side=0):
        upright = bool((image[0] == 200).all())
        box = np.array([20, 10, 80, 95], np.float32)
        return [Face(box, 0.8, right) if upright else Face(box, 0.97, askew)]

    image = np.full((100, 100, 3), 128, np.uint8)
    image[0] = 200
    (found,) = detect.Detector(network, lambda image, side=0: []).thorough(image, still=True)
    assert found.score == pytest.approx(0.8)
    np.testing.assert_allclose(found.points, right, atol=0.01)


def test_guessed_mouth_turns_with_the_eyes():
    upright = np.array(UPRIGHT[4:], np.float32).reshape(6, 2)
    sideways = np.stack([upright[:, 1], -upright[:, 0]], axis=1)
    points = detect.five_points(sideways)
    np.testing.assert_allclose(points[3:].mean(axis=0), sideways[3])
    eyes, mouth = points[1] - points[0], points[4] - points[3]
    assert eyes @ mouth == pytest.approx(np.hypot(*eyes) * np.hypot(*mouth))


def test_the_shipped_detector_passes_faceless_and_tiny_pictures():
    detector = detect.load()
    assert detector(Frame(np.full((90, 160, 3), 128, np.uint8))) == []
    assert detector.thorough(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector.quick(np.zeros((1, 2000, 3), np.uint8)) == []


@pytest.mark.media
@pytest.mark.parametrize("mode", ["thorough", "video"])
def test_bars_on_hand_drawn_boxes(mode, footage, root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    measure = importlib.import_module("measure_detect")
    outcomes = measure.measure(footage, measure.looks(detect.load())[mode])
    assert measure.recall(outcomes) >= 0.95
    assert measure.precision(outcomes) >= 0.98


@pytest.mark.media
@pytest.mark.parametrize("finder", ["centerface", "blazeface_full"])
def test_the_mesh_settles_in_one_place_whoever_found_the_face(finder, footage):
    pair, alone, mesh = detect.load(), detect.load(name=finder), landmarks.load()
    apart = []
    for name in ("groups/t1.jpg", "groups/simswap_multi_people.jpg", "portraits/lp_s1.jpg"):
        frame = Frame(media.read_image(footage / name))
        wanted = mesh(frame, pair.thorough(frame.image))
        for face in mesh(frame, alone.quick(frame.image)):
            shared = detect.iou(face.box, np.stack([w.box for w in wanted]))
            if shared.max() < 0.3:
                continue
            same = wanted[int(shared.argmax())]
            off = np.linalg.norm(face.mesh[:468, :2] - same.mesh[:468, :2], axis=1).mean()
            apart.append(off / (same.box[2:] - same.box[:2]).max())
    assert len(apart) >= 7
    assert max(apart) <= 0.02


def test_drawn_boxes_lie_inside_their_pictures(root):
    for name, truth in json.loads((root / "tests/data/boxes.json").read_text()).items():
        width, height = truth["size"]
        for entry in truth["faces"]:
            x0, y0, x1, y1 = entry["box"]
            assert 0 <= x0 < x1 <= width, name
            assert 0 <= y0 < y1 <= height, name
            assert entry["ignore"] == bool(entry["note"]), name
