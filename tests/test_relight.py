"""The default generator on drawn faces, with networks whose answer is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import synthetic
from mien import blend, geometry, motion, runtime
from mien.errors import UsageError
from mien.generate import look as looks
from mien.generate import relight
from mien.generate.light import KEEP, Fineness, fineness, low, match_fineness
from mien.generate.relight import Options, RelightGenerator
from mien.types import Frame, Identity, Portrait

LIGHT, DARK = (224, 184, 160), (104, 70, 52)
PLAIN = Options(shape=0, eyes="target")
SIDE = motion.CROP


def person(image: np.ndarray, mesh: np.ndarray) -> Identity:
    unit = np.zeros(512, np.float32)
    unit[0] = 1
    return Identity("somebody", unit, (Portrait(image, mesh),), synthetic.CONSENT)


def constant(folder: Path, gain: float, bias: float) -> runtime.Model:
    """A network that answers the same for every pixel."""
    numbers = {"first": [0], "third": [3], "axis": [1]}
    fixed = [helper.make_tensor(k, TensorProto.INT64, [1], v) for k, v in numbers.items()]
    values = {"nothing": 0.0, "g": gain, "b": bias}
    fixed += [helper.make_tensor(k, TensorProto.FLOAT, [], [v]) for k, v in values.items()]
    nodes = [
        helper.make_node("Slice", ["face", "first", "third", "axis"], ["lit"]),
        helper.make_node("Mul", ["lit", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "g"], ["gain"]),
        helper.make_node("Add", ["zero", "b"], ["bias"]),
    ]
    shape = ["faces", looks.CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes, "constant",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["faces", 3, SIDE, SIDE])
         for n in ("gain", "bias")],
        fixed,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "constant.onnx")
    return runtime.load(folder / "constant.onnx")


@pytest.fixture
def network(tmp_path):
    return constant(tmp_path, 1, 0)


def paint(make: RelightGenerator, image: np.ndarray, mesh: np.ndarray, who: Identity):
    """The patch of the face and the frame with all patches on it."""
    patches = make(Frame(image), [synthetic.face(mesh)], [who])
    frame = Frame(image.copy())
    for patch in patches:
        blend.soft(frame, patch)
    return patches[-1], frame.image


def mask_of(patch, image: np.ndarray) -> np.ndarray:
    out = np.zeros(image.shape[:2], np.uint8)
    x, y = (-patch.matrix[:, 2]).astype(int)
    h, w = patch.mask.shape
    out[y : y + h, x : x + w] = patch.mask
    return out


def striped(side: int) -> Portrait:
    """A drawn portrait with fine lines on the skin."""
    made = synthetic.portrait(side)
    lines = (np.arange(side) % 4 < 2)[None, :, None] * np.uint8(24)
    return Portrait(np.ascontiguousarray(made.image - lines), made.mesh)


# --- what the network sees --------------------------------------------------------------------


def seen(skin=LIGHT, *, shade=None, **options):
    """A look at a dark portrait on a target of this skin."""
    mesh = synthetic.mesh((64, 64), 96)
    crop = synthetic.picture(SIDE, SIDE, mesh, skin=skin)
    if shade is not None:
        crop = np.clip(crop * shade, 0, 255).astype(np.uint8)
    cover = motion.cover(mesh, relight.CROP)
    source = synthetic.portrait(160, DARK)
    texture = motion.extended(source.mesh)
    return looks.look(crop, cover, mesh, source.image, None, texture, **options), crop, mesh


def test_shapes_and_ranges_of_the_inputs():
    look, crop, _ = seen(strength=0.25, eyes=True)
    assert look.inputs.shape == (looks.CHANNELS, SIDE, SIDE)
    assert look.inputs.dtype == np.float32
    assert look.painted.shape == crop.shape
    assert look.gain.shape == look.bias.shape == crop.shape
    assert np.isfinite(look.inputs).all()
    for row in (*range(8), 9):
        assert look.inputs[row].min() >= -1e-3, row
        assert look.inputs[row].max() <= 1 + 1e-2, row
    assert np.abs(look.inputs[10]).max() <= 0.8
    assert (look.inputs[11] == 0.25).all()
    assert (look.inputs[12] == 1).all()
    assert look.alpha.min() >= 0
    assert look.alpha.max() <= 1
    assert 0.5 <= look.gamma <= 1
    np.testing.assert_allclose(look.inputs[8], look.flow.stretch)


def test_layout_of_the_inputs():
    look, crop, _ = seen()
    lit = np.clip(look.painted * look.gain + look.bias, 0, 255) / 255
    np.testing.assert_allclose(look.inputs[:3], lit.transpose(2, 0, 1), atol=1e-5)
    off = look.inputs[7] == 0
    np.testing.assert_allclose(look.inputs[3:6][:, off], crop[off].T / 255, atol=1e-5)


def test_the_target_s_face_is_not_seen_sharply():
    """Its features are not in the inputs but for what is kept."""
    look, crop, mesh = seen()
    x, y = np.round(mesh[105, :2]).astype(int)
    brow, there = crop[y, x].astype(float), look.inputs[3:6, y, x] * 255
    skin = crop[tuple(np.round(mesh[151, 1::-1]).astype(int))].astype(float)
    assert np.abs(there - skin).mean() < 0.5 * np.abs(brow - skin).mean()


@pytest.mark.parametrize("skin", [LIGHT, DARK])
def test_the_lit_portrait_has_the_target_s_broad_colour(skin):
    look, crop, _ = seen(skin)
    weight = (look.alpha > 0.9).astype(np.float32) + 1e-3
    ours = np.ascontiguousarray(np.round(look.inputs[:3].transpose(1, 2, 0) * 255).astype(np.uint8))
    a, b = low(ours, weight), low(crop, weight)
    solid = cv2.resize(weight, a.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.9
    assert np.abs(a - b)[solid].mean() < 8


def test_what_is_in_front_is_left_alone_and_not_read():
    hidden = np.zeros((SIDE, SIDE), np.float32)
    hidden[:, 70:] = 1
    look, crop, _ = seen(occluded=hidden)
    assert look.alpha[:, 70:].max() == 0
    assert look.alpha[:, :64].max() > 0.9
    assert look.inputs[6, :, 70:].min() == 1
    theirs = crop.transpose(2, 0, 1)[:, :, 70:] / 255
    np.testing.assert_allclose(look.inputs[3:6, :, 70:], theirs, atol=1e-4)
    whole = seen()[0]
    assert (whole.alpha[:, 70:] > 0.5).any()


def test_the_light_of_a_symmetric_face_is_on_both_sides():
    mesh = synthetic.mesh((63.5, 63.5), 96)
    image = synthetic.picture(SIDE, SIDE, mesh)
    cover, ones = motion.cover(mesh, relight.CROP), np.ones((SIDE, SIDE), np.float32)
    inside = cover.hit >= 0
    even = looks.one_sided(image, cover, ones)
    assert np.abs(even[inside]).mean() < 0.02
    for sign in (-1, 1):
        ramp = np.exp(sign * np.linspace(-0.4, 0.4, SIDE, dtype=np.float32))[None, :, None]
        side = looks.one_sided(np.clip(image * ramp, 0, 255).astype(np.uint8), cover, ones)
        left, right = side[40:90, 35:50].mean(), side[40:90, 78:93].mean()
        assert sign * right > 0.08
        assert sign * left < -0.08


# --- options ----------------------------------------------------------------------------------


def test_options_are_read():
    assert relight.parse("") == Options()
    chosen = relight.parse("strength=0.5,shape=1,eyes=target")
    assert chosen == Options(0.5, 1.0, "target")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("eyes=both", "relight: eyes must be portrait or target, got 'both'"),
        ("shape=2", "relight: shape must be a number from 0 to 1, got '2'"),
        ("shape=nan", "relight: shape must be a number from 0 to 1, got 'nan'"),
        ("strength=much", "relight: strength must be a number from 0 to 1, got 'much'"),
        ("strength", "relight: strength must be a number from 0 to 1, got ''"),
        ("nose=1", "relight: no option 'nose'; known are strength, shape, eyes, precision"),
    ],
)
def test_wrong_options_are_named(given: str, said: str):
    with pytest.raises(UsageError, match=said):
        relight.parse(given)


# --- what is painted --------------------------------------------------------------------------


def test_a_portrait_onto_its_own_photo_is_that_photo(network):
    source = synthetic.portrait(256)
    make = RelightGenerator(network, None, Options(shape=1, eyes="target"))
    patch, out = paint(make, source.image, source.mesh, person(source.image, source.mesh))
    mask = mask_of(patch, source.image)
    oval = cv2.contourArea(cv2.convexHull(np.ascontiguousarray(source.mesh[:468, :2])))
    assert (mask > 127).sum() > 0.5 * oval
    assert np.abs(out.astype(int) - source.image)[mask > 127].mean() < 4
    np.testing.assert_array_equal(out[mask == 0], source.image[mask == 0])


def test_no_network_is_a_network_that_changes_nothing(network):
    mesh, who = synthetic.mesh((120, 110), 150), synthetic.identity(skin=DARK)
    image = synthetic.picture(240, 220, mesh, skin=LIGHT)
    one, other = (paint(RelightGenerator(n, None, PLAIN), image, mesh, who)[1]
                  for n in (None, network))  # fmt: skip
    assert np.abs(one.astype(int) - other).max() <= 1


def test_gain_and_bias_of_the_network_brighten(tmp_path):
    mesh, who = synthetic.mesh((120, 110), 150), synthetic.identity(skin=DARK)
    image = synthetic.picture(240, 220, mesh, skin=DARK)
    patches = {
        key: paint(RelightGenerator(constant(tmp_path, *key), None, PLAIN), image, mesh, who)[0]
        for key in ((1, 0), (2, 0), (1, 0.1))
    }
    plain = patches[1, 0]
    solid = plain.mask > 200
    mean = plain.image[solid].astype(float).mean(0)
    # Broad brightness is settled by the scene at the end, so not all of it is left.
    assert (patches[2, 0].image[solid].mean(0) > 1.2 * mean).all()
    assert (patches[1, 0.1].image[solid].mean(0) > mean + 5).all()


class Hand:
    """Finds something in front of the right half of a crop, once it is there."""

    def __init__(self):
        self.there = False

    def __call__(self, crops, meshes):
        out = np.zeros((len(crops), SIDE, SIDE), np.float32)
        if self.there:
            out[:, :, SIDE // 2 :] = 1
        return out


@pytest.mark.parametrize("eyes", ["target", "portrait"])
def test_what_is_in_front_stays_in_front(network, eyes):
    mesh, who, hand = synthetic.mesh((120, 110), 150), synthetic.identity(), Hand()
    image = synthetic.picture(240, 220, mesh, skin=LIGHT)
    make = RelightGenerator(network, hand, Options(shape=0, eyes=eyes))
    make.prepare(who)
    free = paint(make, image, mesh, who)[1]
    hand.there = True
    patch, out = paint(make, image, mesh, who)
    back = geometry.invert(motion.aligned(mesh))
    first = int(np.ceil(geometry.transform(back, [[SIDE / 2 + 4, 0]])[0, 0]))
    np.testing.assert_array_equal(out[:, first:], image[:, first:])
    assert (free[:, first:] != image[:, first:]).any()
    assert mask_of(patch, image)[:, : first - 15].max() > 200


def test_a_larger_frame_is_sharper_in_the_same_light(network):
    source = striped(512)
    who, make = person(source.image, source.mesh), RelightGenerator(network, None, PLAIN)
    half = cv2.resize(source.image, (256, 256), interpolation=cv2.INTER_AREA)
    small_mesh = source.mesh / 2 - np.array([0.25, 0.25, 0])
    large, _ = paint(make, source.image, source.mesh, who)
    small, _ = paint(make, half, small_mesh.astype(np.float32), who)
    size = large.mask.shape[::-1]
    grown = cv2.resize(small.image, size, interpolation=cv2.INTER_CUBIC)
    solid = cv2.erode((large.mask > 200).astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(large.image[solid].mean(0) - grown[solid].mean(0)).max() < 4
    fine = [np.abs(cv2.Laplacian(i, cv2.CV_32F))[solid].mean() for i in (large.image, grown)]
    assert fine[0] > 1.5 * fine[1]


def test_eyes_of_the_portrait_or_of_the_target(network):
    mesh, source = synthetic.mesh((150, 140), 220), synthetic.portrait(384)
    image = synthetic.picture(300, 280, mesh, skin=LIGHT)
    who = person(source.image, source.mesh)
    outs = {
        eyes: paint(RelightGenerator(network, None, Options(shape=0, eyes=eyes)), image, mesh, who)
        for eyes in ("target", "portrait")
    }
    x, y = np.round(mesh[468, :2]).astype(int)
    assert mask_of(outs["target"][0], image)[y, x] < 10
    np.testing.assert_allclose(outs["target"][1][y, x], image[y, x], atol=5)
    if RelightGenerator(network, None).prepare(who).eyeballs is not None:
        assert mask_of(outs["portrait"][0], image)[y, x] > 127


@pytest.mark.parametrize(("gape", "kept"), [(0.05, True), (0.8, False)])
def test_lips_of_a_mouth_wide_open_are_left_away(network, gape, kept):
    made = synthetic.portrait(384)
    mesh = made.mesh.copy()
    eyes_apart = np.linalg.norm(mesh[[33, 133]].mean(0) - mesh[[362, 263]].mean(0))
    middle = mesh[[13, 14], 1].mean()
    mesh[13, 1], mesh[14, 1] = middle - gape / 2 * eyes_apart, middle + gape / 2 * eyes_apart
    make = RelightGenerator(network, None, PLAIN)
    paint = make.prepare(person(synthetic.picture(384, 384, mesh), mesh)).paint
    lips = np.round(mesh[[0, 17], :2].mean(0)).astype(int)  # between the lips' outer edges
    assert (paint.own[0][lips[1], lips[0]] > 127) == kept
    cheek = np.round(mesh[50, :2]).astype(int)
    assert paint.own[0][cheek[1], cheek[0]] > 127


def test_what_is_in_front_is_left_by_how_likely_it_is(network):
    mesh, who = synthetic.mesh((120, 110), 150), synthetic.identity()
    image = synthetic.picture(240, 220, mesh, skin=LIGHT)
    shown = []
    for likely in (0.0, 0.7, 0.9, 1.0):
        make = RelightGenerator(
            network, lambda crops, _, p=likely: np.full((len(crops), SIDE, SIDE), p, np.float32),
            PLAIN,
        )  # fmt: skip
        make._prepared[who] = RelightGenerator(network, None, PLAIN).prepare(who)
        patches = make(Frame(image), [synthetic.face(mesh)], [who])
        shown.append(int(patches[-1].mask.max()) if patches else 0)
    assert shown[0] == shown[1] == 255  # a doubt is no thing
    assert 90 < shown[2] < 200
    assert shown[3] == 0


def test_another_shape_moves_the_surroundings_first(network):
    mesh, source = synthetic.mesh((150, 140), 180), synthetic.portrait(256)
    thin = source.mesh.copy()
    thin[:, 0] = 128 + (thin[:, 0] - 128) * 0.85
    who = person(synthetic.picture(256, 256, thin), thin)
    image = synthetic.picture(300, 280, mesh)
    make = RelightGenerator(network, None, Options(shape=1, eyes="target"))
    patches = make(Frame(image), [synthetic.face(mesh)], [who])
    assert [p.surround for p in patches] == [True, False]
    plain = RelightGenerator(network, None, PLAIN)(Frame(image), [synthetic.face(mesh)], [who])
    assert [p.surround for p in plain] == [False]
    assert patches[1].mask.shape[1] < plain[0].mask.shape[1]


def test_a_face_is_painted_no_finer_than_the_scene(network, monkeypatch):
    mesh, source = synthetic.mesh((300, 280), 400), striped(512)
    who, image = person(source.image, source.mesh), synthetic.picture(600, 560, mesh)
    make, found = RelightGenerator(network, None, PLAIN), []
    for keep in (100.0, 1.0):
        monkeypatch.setattr(relight.light, "KEEP", keep)
        patch, _ = paint(make, image, mesh, who)
        solid = cv2.erode((patch.mask > 200).astype(np.uint8), np.ones((9, 9))) * 255
        found.append(fineness(patch.image, solid).now)
    assert found[1] < 0.85 * found[0]


def test_how_fine_a_face_is_hardly_changes_from_frame_to_frame():
    held = relight.Held()
    assert held.softer(0, 2.0) == 2.0
    assert held.softer(1, 2.2) == pytest.approx(2.0, rel=0.05)  # tremble
    assert held.softer(2, 8.0) == pytest.approx(8.0)  # the head moves, or is in focus no more
    assert held.softer(30, 1.0) == 1.0  # long not seen


@pytest.mark.parametrize("size", [90, 400])
def test_fineness_is_the_contrast_of_the_finest_detail(size):
    rng = np.random.default_rng(1)
    noise = np.clip(120 + rng.normal(0, 8, (size, size, 1)), 0, 255).astype(np.uint8)
    image = np.repeat(noise, 3, 2)
    where = np.full((size, size), 255, np.uint8)
    luma = image[..., 0].astype(np.float32)
    smooth = cv2.GaussianBlur(luma, (0, 0), 1.0)
    want = np.sqrt((((luma - smooth) / (smooth + 8)) ** 2).mean())
    found = fineness(image, where)
    assert found.now == pytest.approx(want, rel=0.05)
    assert found.softer < 0.3 * found.now
    assert np.isnan(fineness(image, where * 0).now)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_the_blur_is_the_one_that_makes_them_alike(sigma):
    rng = np.random.default_rng(2)
    # Detail of a photo: less the finer it is.
    values = sum(
        cv2.resize(
            rng.normal(0, 6, (400 // k, 400 // k)), (400, 400), interpolation=cv2.INTER_CUBIC
        )
        for k in (1, 2, 4, 8)
    )
    image = np.repeat(np.clip(120 + values, 0, 255).astype(np.uint8)[..., None], 3, 2)
    where = np.full((400, 400), 255, np.uint8)
    target = fineness(cv2.GaussianBlur(image, (0, 0), sigma), where).now
    ours = fineness(image, where)
    blur = match_fineness(ours, target / KEEP)
    after = fineness(cv2.GaussianBlur(image, (0, 0), blur), where).now
    assert after == pytest.approx(target, rel=0.25)
    assert match_fineness(ours, ours.now) == 0
    assert match_fineness(Fineness(float("nan"), 1.0), 0.1) == 0


# --- which faces ------------------------------------------------------------------------------


def test_each_of_two_faces_gets_its_own_identity(network):
    left, right = synthetic.mesh((90, 100), 120), synthetic.mesh((310, 100), 120)
    image = synthetic.picture(400, 200, left, right)
    image.flags.writeable = False
    make = RelightGenerator(network, None, PLAIN)
    faces = [synthetic.face(right), synthetic.face(left)]
    patches = make(Frame(image), faces, [synthetic.identity(), synthetic.identity(skin=DARK)])
    places = [-p.matrix[0, 2] for p in patches]
    regions = [motion.region_of(m, 400, 200) for m in (right, left)]
    assert all(0 <= x - r.x0 < 10 for x, r in zip(places, regions, strict=True))


@pytest.mark.parametrize("centre", [(-400, 100), (100, 900), (-48, 100)])
@pytest.mark.parametrize("shape", [0.0, 1.0])
def test_a_face_out_of_view_gives_nothing(network, centre, shape):
    image = np.zeros((200, 200, 3), np.uint8)
    make = RelightGenerator(network, None, Options(shape=shape))
    face = synthetic.face(synthetic.mesh(centre, 120))
    assert make(Frame(image), [face], [synthetic.identity()]) == []


def test_a_face_half_out_of_the_frame_is_painted_up_to_the_border(network):
    mesh = synthetic.mesh((0, 100), 120)
    image = synthetic.picture(200, 200, mesh)
    make = RelightGenerator(network, None, PLAIN)
    patch, out = paint(make, image, mesh, synthetic.identity())
    assert mask_of(patch, image)[60:120, 0].max() > 200
    assert np.isfinite(out).all()


@pytest.mark.parametrize(("height", "count"), [(3, 0), (6, 0), (16, 1), (24, 1)])
def test_a_tiny_face_is_left_alone_and_a_small_one_is_not(network, height, count):
    image = np.full((60, 60, 3), 150, np.uint8)
    face = synthetic.face(synthetic.mesh((30, 30), height))
    made = RelightGenerator(network, None, PLAIN)(Frame(image), [face], [synthetic.identity()])
    assert len(made) == count


def test_no_faces_a_profile_and_a_face_without_mesh(network):
    frame, make = Frame(np.zeros((200, 200, 3), np.uint8)), RelightGenerator(network, None)
    assert make(frame, [], []) == []
    profile = synthetic.face(synthetic.mesh((100, 100), 120, yaw=1.2))
    assert make(frame, [profile], [synthetic.identity()]) == []
    face = synthetic.face(synthetic.mesh((100, 100), 120))
    face.mesh = None
    with pytest.raises(ValueError, match="relight: expected faces with a mesh"):
        make(frame, [face], [synthetic.identity()])


def test_what_depends_on_the_identity_alone_is_done_once(network):
    make, who = RelightGenerator(network, None, PLAIN), synthetic.identity()
    assert make.prepare(who) is make.prepare(who)


def test_the_shipped_generator_paints():
    mesh, who = synthetic.mesh((120, 110), 150), synthetic.identity(skin=DARK)
    image = synthetic.picture(240, 220, mesh, skin=LIGHT)
    patch, out = paint(relight.load("shape=0"), image, mesh, who)
    assert patch.image.dtype == patch.mask.dtype == np.uint8
    assert (out != image).any()
