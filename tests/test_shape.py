"""Shape on a drawn mesh: what is taken over, what moves along, and what stays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import synthetic
from mien import blend, geometry, motion, shape
from mien.types import Frame, Patch

MESH = synthetic.mesh((200, 190), 200)


def narrow(mesh: np.ndarray, factor: float) -> np.ndarray:
    """The face, seen from the front, with another breadth."""
    out = mesh.copy()
    out[:, 0] = out[1, 0] + (out[:, 0] - out[1, 0]) * factor
    return out


def scene() -> np.ndarray:
    """``(400, 400, 3)`` smooth noise, in which every shift is seen."""
    rough = np.random.default_rng(3).uniform(0, 255, (50, 50, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (400, 400), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def bend_of(mesh: np.ndarray, portrait: np.ndarray, share: float) -> shape.Bend:
    return shape.bend(mesh, shape.frontal(mesh), shape.frontal(portrait), share)


BEND = bend_of(MESH, narrow(MESH, 0.85), 1.0)


def surroundings(frame: Frame, bend: shape.Bend) -> Patch:
    region = shape.reach(bend, 400, 400)
    assert region is not None
    return shape.surroundings(frame, bend, region)


def pasted(image: np.ndarray) -> np.ndarray:
    patch = surroundings(Frame(image), BEND)
    frame = Frame(image.copy())
    blend.soft(frame, patch)
    return frame.image


@pytest.mark.parametrize("pose", [{"roll": 0.7}, {"yaw": 0.5}, {"roll": -2.5, "yaw": -0.4}])
def test_the_frontal_mesh_does_not_depend_on_pose_place_and_size(pose):
    want = shape.frontal(MESH)
    np.testing.assert_allclose(shape.frontal(synthetic.mesh((10, 70), 55, **pose)), want, atol=2e-3)


def test_the_frontal_mesh_does_not_depend_on_pitch():
    c, s = np.cos(0.3), np.sin(0.3)
    turned = MESH @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32).T
    np.testing.assert_allclose(shape.frontal(turned), shape.frontal(MESH), atol=2e-3)


def test_the_frontal_mesh_is_symmetric_and_of_unit_size():
    lopsided = MESH + np.random.default_rng(0).normal(0, 2, MESH.shape).astype(np.float32)
    found = shape.frontal(lopsided)
    assert found.shape == (468, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[motion.mirror()] * (-1, 1), found, atol=1e-6)
    size = np.linalg.norm(found[list(shape.STATIC)], axis=1).mean()
    assert size == pytest.approx(1, rel=1e-5)


def test_no_share_and_the_same_shape_move_nothing():
    for portrait, share in ((narrow(MESH, 0.8), 0.0), (MESH, 1.0)):
        still = bend_of(MESH, portrait, share)
        assert np.abs(still.shift).max() < 1e-3
        assert shape.reach(still, 400, 400) is None
        np.testing.assert_allclose(still.moved(MESH), MESH, atol=1e-3)


def test_what_is_not_seen_of_a_bend_is_left_out_and_nothing_breaks(monkeypatch):
    length = np.linalg.norm(BEND.shift, axis=2)
    monkeypatch.setattr(shape, "UNSEEN", (1e-6, 0.0))
    whole = np.linalg.norm(bend_of(MESH, narrow(MESH, 0.85), 1.0).shift, axis=2)
    assert (length > 0).sum() < 0.9 * (whole > 0.05).sum()
    assert length.max() == pytest.approx(whole.max(), rel=1e-3)
    steps = [np.abs(np.diff(v, axis=a)).max() for v in (length, whole) for a in (0, 1)]
    assert max(steps[:2]) < 1.5 * max(steps[2:])


@pytest.mark.parametrize(("factor", "sign"), [(0.85, -1), (1.15, 1)])
def test_a_face_takes_on_the_breadth_of_the_portrait(factor: float, sign: int):
    widths = []
    for share in (0.0, 0.5, 1.0):
        moved = bend_of(MESH, narrow(MESH, factor), share).moved(MESH)
        widths.append(np.ptp(moved[:468, 0]))
    steps = sign * np.diff(widths)
    assert (steps > 1).all()  # pixels of a face 150 wide


def test_a_bend_turns_with_the_face():
    turned = synthetic.mesh((200, 190), 200, roll=np.pi / 2)
    bend = bend_of(turned, narrow(MESH, 0.85), 1.0)
    before, after = (MESH[234] - MESH[454])[:2], (BEND.moved(MESH)[[234, 454]])[:, :2]
    there = bend.moved(turned)[[234, 454], :2]
    assert np.linalg.norm(there[0] - there[1]) < np.linalg.norm(before) - 2
    apart = np.linalg.norm(there[0] - there[1]) - np.linalg.norm(after[0] - after[1])
    assert abs(apart) < 0.05 * np.linalg.norm(before)


def test_an_open_mouth_stays_as_open():
    moved = BEND.moved(MESH)
    before, after = (float(m[14, 1] - m[13, 1]) for m in (MESH, moved))
    assert after == pytest.approx(before, rel=0.05)


def test_the_field_fades_to_nothing_at_the_rim():
    rim = np.concatenate(
        [BEND.shift[[0, -1]].reshape(-1, 2), BEND.shift[:, [0, -1]].reshape(-1, 2)]
    )
    assert np.abs(rim).max() < 1e-3
    step = np.abs(np.diff(BEND.shift, axis=1)).max()
    pixels = 1 / np.hypot(*BEND.matrix[:, 0])  # of the frame to a cell
    assert step < 0.7 * pixels  # nothing folds over


def test_the_mesh_moves_as_the_surroundings_do():
    moved = BEND.moved(MESH)
    for vertex in (234, 454, 172, 397):
        image = np.zeros((400, 400, 3), np.uint8)
        x, y = np.round(MESH[vertex, :2]).astype(int)
        image[y, x] = 255
        image = np.clip(cv2.GaussianBlur(image, (0, 0), 2) * 20.0, 0, 255).astype(np.uint8)
        weight = pasted(image)[..., 0].astype(float)
        ys, xs = np.mgrid[:400, :400]
        found = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        wanted = moved[vertex, :2] + (x, y) - MESH[vertex, :2]
        np.testing.assert_allclose(found, wanted, atol=1.0)
        assert np.linalg.norm(moved[vertex] - MESH[vertex]) > 1.5


def test_the_patch_covers_what_moves_and_is_the_frame_elsewhere():
    image = scene()
    patch = surroundings(Frame(image), BEND)
    assert patch.surround
    assert (patch.mask == 255).all()
    np.testing.assert_array_equal(patch.matrix[:, :2], np.eye(2))
    x, y = (-patch.matrix[:, 2]).astype(int)
    h, w = patch.mask.shape
    assert 0 <= x < x + w <= 400
    assert w * h < 400 * 400
    ys, xs = np.mgrid[y : y + h, x : x + w]
    places = np.stack([xs, ys], -1).astype(np.float32)
    shift = np.stack([BEND.at(row) for row in places])
    still = np.abs(shift).max(2) < 0.05
    assert still.any()
    away = np.abs(patch.image.astype(int) - image[y : y + h, x : x + w])
    assert np.percentile(away[still], 99) <= 6  # cubic here, linear there
    assert away.max() > 20


def test_the_patch_stays_within_the_frame_and_is_none_beyond():
    bend = bend_of(MESH - (190, 100, 0), narrow(MESH, 0.85), 1.0)
    patch = surroundings(Frame(scene()), bend)
    assert (patch.matrix[:, 2] <= 0).all()
    far = bend_of(MESH + np.float32(3000), narrow(MESH, 0.85), 1.0)
    assert shape.reach(far, 400, 400) is None


def test_the_bent_crop_is_the_crop_of_the_bent_frame():
    image, aligned = scene(), motion.aligned(MESH)
    crop = geometry.warp(image, aligned, motion.CROP)
    want = geometry.warp(pasted(image), aligned, motion.CROP)
    got = shape.bent(crop, BEND, aligned)
    assert np.abs(got.astype(int) - want).mean() < 4
    assert np.abs(crop.astype(int) - want).mean() > 8


def test_a_smile_keeps_most_of_its_breadth(monkeypatch):
    middle = MESH[shape.LIPS, :2].mean(0)
    near = np.exp(-((np.linalg.norm(MESH[:, :2] - middle, axis=1) / 60) ** 2))
    smile = MESH.copy()
    smile[:, 0] += 0.3 * near * (MESH[:, 0] - middle[0])  # cheeks go along with lips

    def breadth(mesh):
        return float(mesh[291, 0] - mesh[61, 0])

    def kept():
        moved = bend_of(smile, MESH, 1.0).moved(smile)
        return (breadth(moved) - breadth(MESH)) / (breadth(smile) - breadth(MESH))

    assert 0.5 < kept() < 0.75
    monkeypatch.setattr(shape, "SPOKEN", 1.0)
    assert kept() < 0.3


def test_the_rest_of_the_face_is_taken_over_as_if_the_mouth_were_no_exception(monkeypatch):
    other = narrow(MESH, 0.9)
    other[:, 1] += 0.02 * (MESH[:, 0] - MESH[1, 0]) ** 2 / 60
    now = bend_of(MESH, other, 1.0).moved(MESH)
    monkeypatch.setattr(shape, "SPOKEN", 1.0)
    away = [10, 234, 454, 127, 356, 33, 263, 172, 397, 152]  # outline and eyes
    np.testing.assert_allclose(now[away], bend_of(MESH, other, 1.0).moved(MESH)[away], atol=0.3)
