"""Enhancers change what the network changes, where the face is, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import synthetic
from mien import enhance, runtime
from mien.errors import ModelError, ModelNotFound, UsageError
from mien.types import Face, Frame
from tinynets import card, node, save, shelf

SIZE = 64
FFHQ = np.array(
    [[192.981, 239.947], [318.903, 240.194], [256.634, 314.019], [201.261, 371.410],
     [313.089, 371.151]]
)  # fmt: skip
"""The published template, in pixels of 512."""

MIX = np.array([[0.5, 0.2, -0.1], [0.0, 0.7, 0.1], [-0.2, 0.1, 0.6]], np.float32)
"""Weighs red, green and blue of the input for each channel of the output; no two alike."""

BIAS = np.array([0.1, -0.2, 0.05], np.float32)


def identity(path, *, batch=1, size=SIZE):
    shape = (batch, 3, size, size)
    return save(path, {"input": shape}, [node("Identity", "input", "output")], {"output": shape})


def adding(path, pattern, *, batch=1):
    """The input plus a fixed ``(3, S, S)`` pattern, in units of -1..1."""
    shape = (batch, 3, *pattern.shape[-2:])
    return save(
        path,
        {"input": shape},
        [node("Add", "input pattern", "output")],
        {"output": shape},
        pattern=pattern[None].astype(np.float32),
    )


def codeformer(path, *, shape=(), kind="float64"):
    """``MIX · x + BIAS + 0.4 · weight``: depends on every channel and on the weight."""
    image = (1, 3, SIZE, SIZE)
    return save(
        path,
        {"input": image, "weight": (np.dtype(kind), shape)},
        [
            node("Conv", "input mix bias", "mixed"),
            node("Cast", "weight", "w", to=1),
            node("Mul", "w strength", "more"),
            node("Add", "mixed more", "output"),
        ],
        {"output": image},
        mix=MIX[..., None, None],
        bias=BIAS,
        strength=np.float32(0.4),
    )


def face_at(centre, height, roll=0.0):
    return synthetic.face(synthetic.mesh(centre, height, roll=roll))


def from_template(scale, angle=0.0, shift=(0.0, 0.0)):
    """A face without a mesh whose five points are the template's, turned and scaled."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((FFHQ - 256) * scale) @ turn.T + shift
    box = np.r_[points.min(0), points.max(0)].astype(np.float32)
    return Face(box, 1.0, points.astype(np.float32))


def noise(height=240, width=320, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("height", [30, 90, 200, 900], ids=lambda h: f"{h}px")
def test_a_network_that_changes_nothing_changes_nothing(tmp_path, height):
    """Whatever the size of the face against the crop's 64 pixels: it never becomes blurrier."""
    path = identity(tmp_path / "same.onnx")
    restore = enhance.load("same:amount=1,light=network", shelf(card(path, "enhance", "gpen", 64)))
    image = noise(1000, 1100)
    frame = Frame(image.copy())
    restore(frame, [face_at((550, 500), height, 0.3)])
    assert frame.dirty
    np.testing.assert_allclose(frame.image.astype(int), image, atol=1)


@pytest.mark.parametrize(
    ("angle", "scale"), [(0, 0.3), (0, 0.9), (0.6, 0.5), (-1.2, 0.2), (3.0, 0.4), (0.2, 0.06)]
)
def test_what_is_drawn_on_the_template_appears_on_the_face(tmp_path, angle, scale):
    """Dots at the published template's places come out at the eyes, the nose and the mouth."""
    size, pattern = 128, np.zeros((3, 128, 128))
    y, x = np.mgrid[0:size, 0:size]
    for px, py in FFHQ * size / 512:
        pattern += 1.5 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 3.0**2))
    path = adding(tmp_path / "dots.onnx", pattern)
    models = shelf(card(path, "enhance", "gfpgan", size))
    face = from_template(scale, angle, (310.3, 255.8))
    frame = Frame(np.full((520, 620, 3), 60, np.uint8))
    enhance.load("dots:amount=1,light=network", models)(frame, [face])
    grey = frame.image.mean(2) - 60
    rows, columns = np.mgrid[0:520, 0:620]
    for px, py in face.points:
        near = np.hypot(columns - px, rows - py) < max(3, 9 * 4 * scale)
        found = [(grey * near * axis).sum() / (grey * near).sum() for axis in (columns, rows)]
        np.testing.assert_allclose(found, (px, py), atol=0.15 + 0.3 * scale)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "vector"])
@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize(("options", "weight"), [("", 0.5), (",weight=0.2", 0.2), (",weight=1", 1)])
def test_known_answer_of_a_codeformer(tmp_path, shape, kind, options, weight):
    """Normalisation, order of channels, weight and range of the output, worked out by hand."""
    path = codeformer(tmp_path / "code.onnx", shape=shape, kind=kind)
    models = shelf(card(path, "enhance", "codeformer", SIZE))
    colour = np.array([200, 120, 40])
    frame = Frame(np.full((240, 320, 3), colour, np.uint8))
    enhance.load(f"code:amount=1,light=network{options}", models)(frame, [face_at((160, 120), 150)])
    fed = (colour / 255 - 0.5) / 0.5
    wanted = ((MIX @ fed + BIAS + 0.4 * weight + 1) / 2 * 255).clip(0, 255)
    np.testing.assert_allclose(frame.image[120, 160], wanted, atol=1)
    assert (frame.image[0, 0] == colour).all()


def test_the_templates_of_the_published_cards():
    """GPEN 256 was trained on another crop than the rest."""
    arcface = [[46.2946, 51.6963], [81.5318, 51.5014], [64.0252, 71.7366], [49.5493, 92.3655],
               [78.7299, 92.2041]]  # fmt: skip
    for name, size in [("gfpgan_1.4", 512), ("codeformer", 512), ("gpen_bfr_1024", 1024)]:
        found = enhance.zoo.find(name)
        np.testing.assert_allclose(found.template, FFHQ * size / 512, atol=0.01)
        assert (found.layout, found.order, found.size) == ("NCHW", "RGB", size)
    np.testing.assert_allclose(
        enhance.zoo.find("gpen_bfr_256").template, 2 * np.array(arcface), atol=0.01
    )


def test_light_at_large_stays_the_frame_s_and_amount_is_a_share(tmp_path):
    """A network that only brightens changes nothing, unless its light is wanted."""
    path = adding(tmp_path / "brighter.onnx", np.full((3, SIZE, SIZE), 0.4))
    models = shelf(card(path, "enhance", "gfpgan", SIZE))
    for options, wanted in [("", 0), (":amount=1", 0), (":light=network", 0.8 * 0.4 * 127.5),
                            (":light=network,amount=0.25", 0.25 * 0.4 * 127.5)]:  # fmt: skip
        frame = Frame(np.full((240, 320, 3), 90, np.uint8))
        enhance.load("brighter" + options, models)(frame, [face_at((160, 120), 150)])
        assert abs(float(frame.image[120, 160].mean()) - 90 - wanted) <= 0.5, options


def test_detail_comes_through_where_the_light_stays(tmp_path):
    stripes = np.broadcast_to(0.3 * np.sin(np.arange(SIZE) * np.pi / 2), (3, SIZE, SIZE))
    path = adding(tmp_path / "stripes.onnx", stripes)
    face = from_template(64 / 512, 0, (160, 120))  # a pixel of the crop is one of the frame
    frame = Frame(np.full((240, 320, 3), 90, np.uint8))
    models = shelf(card(path, "enhance", "gfpgan", SIZE))
    enhance.load("stripes:amount=1", models)(frame, [face])
    spread = frame.image[110:130, 144:176, 0].astype(float).std()
    assert spread == pytest.approx(0.3 * 127.5 / np.sqrt(2), rel=0.06)


def test_a_small_face_gets_averages_and_no_moire(tmp_path):
    """A crop eight times as fine as the frame: its finest stripes must vanish."""
    checks = np.indices((SIZE, SIZE)).sum(0) % 2 * 1.6 - 0.8
    path = adding(tmp_path / "checks.onnx", np.stack([checks] * 3))
    face = from_template(8 / 512, 0, (160.3, 120.4))
    frame = Frame(np.full((240, 320, 3), 128, np.uint8))
    models = shelf(card(path, "enhance", "gfpgan", SIZE))
    enhance.load("checks:amount=1,light=network", models)(frame, [face])
    assert np.abs(frame.image.astype(int) - 128).max() <= 2


def test_only_the_face_and_its_seam_change(tmp_path):
    path = adding(tmp_path / "loud.onnx", np.full((3, SIZE, SIZE), 0.5))
    models = shelf(card(path, "enhance", "gfpgan", SIZE))
    mesh = synthetic.mesh((160, 120), 120)
    frame = Frame(np.full((240, 320, 3), 90, np.uint8))
    enhance.load("loud:light=network", models)(frame, [synthetic.face(mesh)])
    changed = (frame.image != 90).any(2)
    rows, columns = np.nonzero(changed)
    lo, hi = mesh[:468, :2].min(0), mesh[:468, :2].max(0)
    reach = 0.25 * (hi - lo)
    assert columns.min() > lo[0] - reach[0]
    assert columns.max() < hi[0] + reach[0]
    assert rows.min() > lo[1] - reach[1]
    assert rows.max() < hi[1] + reach[1]
    covered = np.zeros_like(changed)
    for rect in frame.dirty:
        covered[rect.slices()] = True
    assert not (changed & ~covered).any()


def test_faces_cut_by_the_border_and_faces_outside(tmp_path):
    path = adding(tmp_path / "loud.onnx", np.full((3, SIZE, SIZE), 0.5))
    restore = enhance.load("loud:light=network", shelf(card(path, "enhance", "gfpgan", SIZE)))
    frame = Frame(np.full((100, 120, 3), 90, np.uint8))
    restore(frame, [face_at((0, 0), 90), face_at((119, 99), 90), face_at((-500, 40), 60)])
    assert frame.image[2, 2, 0] > 120
    assert frame.image[97, 117, 0] > 120
    restore(frame, [])


def counted(monkeypatch):
    runs = []
    call = runtime.Model.__call__

    def count(self, *arrays):
        runs.append(len(arrays[0]))
        return call(self, *arrays)

    monkeypatch.setattr(runtime.Model, "__call__", count)
    return runs


def test_all_faces_are_one_batch_where_the_graph_allows_it(tmp_path, monkeypatch):
    pattern = np.random.default_rng(3).uniform(-0.3, 0.3, (3, SIZE, SIZE))
    faces = [face_at((80, 100), 90), face_at((230, 120), 120, 0.4)]
    runs, images = counted(monkeypatch), []
    for name, batch in (("single", 1), ("free", "batch")):
        path = adding(tmp_path / f"{name}.onnx", pattern, batch=batch)
        frame = Frame(noise())
        enhance.load(name, shelf(card(path, "enhance", "gpen", SIZE)))(frame, faces)
        images.append(frame.image)
    assert runs == [1, 1, 2]
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("same:amont=1", "no option 'amont'; known are amount, weight, faces, light"),
        ("same:amount=2", "amount must be from 0 to 1, came '2'"),
        ("same:amount=nan", "amount must be from 0 to 1"),
        ("same:amount", "expected amount=VALUE"),
        ("same:faces=some", "faces knows no 'some'; known are swapped, all"),
        ("same:weight=0.3", "same: has no weight to choose"),
        ("relight", "relight: is no enhancer but for generate"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, name, said):
    models = shelf(card(identity(tmp_path / "same.onnx"), "enhance", "gpen", SIZE))
    with pytest.raises(UsageError, match=said):
        enhance.load(name, models)


def test_unknown_and_unsuitable_networks(tmp_path):
    with pytest.raises(ModelNotFound, match="nobody"):
        enhance.load("nobody")
    good = card(identity(tmp_path / "small.onnx", size=32), "enhance", "gpen", SIZE)
    with pytest.raises(ModelError, match=r"small: .*expected .*\(N, 3, 64, 64\), came .*32, 32\)"):
        enhance.load("small", shelf(good))
    path = codeformer(tmp_path / "odd.onnx", shape=(SIZE,))
    with pytest.raises(
        ModelError, match=r"expected weight to be a single number, came the shape \(64,\)"
    ):
        enhance.load("odd", shelf(card(path, "enhance", "codeformer", SIZE)))
    plain = card(identity(tmp_path / "bare.onnx"), "enhance", "gpen", SIZE, template=())
    with pytest.raises(ModelError, match="must say size and template"):
        enhance.load("bare", shelf(plain))


def test_answers_that_are_no_pictures_are_refused(tmp_path):
    shape = (1, 3, SIZE, SIZE)
    nan = np.full((3, SIZE, SIZE), np.nan)
    paths = [
        adding(tmp_path / "nan.onnx", nan),
        save(
            tmp_path / "half.onnx",
            {"input": shape},
            [node("AveragePool", "input", "output", kernel_shape=[2, 2], strides=[2, 2])],
            {"output": (1, 3, SIZE // 2, SIZE // 2)},
        ),
    ]
    for path, said in zip(paths, ["no numbers", "expected an answer as large"], strict=True):
        restore = enhance.load(path.stem, shelf(card(path, "enhance", "gpen", SIZE)))
        frame = Frame(noise())
        with pytest.raises(ModelError, match=said):
            restore(frame, [face_at((160, 120), 90)])
        assert (frame.image == noise()).all()


def test_an_amount_of_nothing_does_not_even_run(tmp_path, monkeypatch):
    runs = counted(monkeypatch)
    restore = enhance.load(
        "same:amount=0", shelf(card(identity(tmp_path / "same.onnx"), "enhance", "gpen", SIZE))
    )
    restore(Frame(noise()), [face_at((160, 120), 90)])
    assert runs == []
    assert replace(restore, amount=1.0).everybody is False
