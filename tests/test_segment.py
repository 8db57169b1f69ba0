"""Mask networks: regions by name, what hides a face, and what becomes of patches."""

from __future__ import annotations

import numpy as np
import pytest

import synthetic
from mien import runtime, segment, zoo
from mien.errors import ModelError, UsageError
from mien.types import Face, FaceMask, Frame, Patch
from tinynets import BYTE, card, node, save, shelf

SIZE = 64
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
FFHQ_NOSE = (256.634, 314.019)

NUMBERS = {
    "background": [0], "skin": [1], "brows": [2, 3], "eyes": [4, 5], "glasses": [6],
    "ears": [7, 8], "earrings": [9], "nose": [10], "mouth": [11], "upper_lip": [12],
    "lower_lip": [13], "lips": [12, 13], "neck": [14], "necklace": [15], "clothes": [16],
    "hair": [17], "hat": [18],
}  # fmt: skip
"""CelebAMask-HQ's classes as BiSeNet was trained on them."""


def bisenet(path, weight, bias=None, *, batch=1, size=SIZE):
    """Scores of the 19 classes, each a weighing of the normalised red, green and blue."""
    return save(
        path,
        {"input": (batch, 3, size, size)},
        [node("Conv", "input weight bias", "output")],
        {"output": (batch, 19, size, size)},
        weight=np.asarray(weight, np.float32)[..., None, None],
        bias=np.zeros(19, np.float32) if bias is None else np.asarray(bias, np.float32),
    )


def painted(path, scores):
    """The same ``(19, S, S)`` scores whatever is seen."""
    size = scores.shape[-1]
    return save(
        path,
        {"input": (1, 3, size, size)},
        [
            node("ReduceMean", "input", "mean", keepdims=1),
            node("Mul", "mean zero", "nothing"),
            node("Add", "nothing scores", "output"),
        ],
        {"output": (1, 19, size, size)},
        zero=np.float32(0),
        scores=scores[None].astype(np.float32),
    )


def xseg(path, channel, *, batch=1, gain=1.0):
    """What is seen of the face is one channel of the picture."""
    weight = np.zeros((3, 1), np.float32)
    weight[channel] = gain
    return save(
        path,
        {"in_face:0": (batch, SIZE, SIZE, 3)},
        [node("MatMul", "in_face:0 weight", "out_mask:0")],
        {"out_mask:0": (batch, SIZE, SIZE, 1)},
        weight=weight,
    )


def parser_card(path, size=SIZE):
    return card(path, "segment", "bisenet", size, layout="NCHW", mean=MEAN, std=STD)


def xseg_card(path):
    return card(
        path, "segment", "xseg", SIZE, order="BGR", std=BYTE,
        template=zoo.scaled("dfl_whole_face", SIZE),
    )  # fmt: skip


def only(*classes):
    """Scores of a network that sees these classes everywhere."""
    scores = np.zeros((19, SIZE, SIZE))
    for n, number in enumerate(classes):
        scores[number, :, n :: len(classes)] = 1
    return scores


def plain(colour, height=240, width=320):
    return Frame(np.full((height, width, 3), colour, np.uint8))


def somebody(centre=(160, 120), height=120.0, roll=0.0):
    return synthetic.face(synthetic.mesh(centre, height, roll=roll))


COLOURS = np.zeros((19, 3))
COLOURS[1, 0] = COLOURS[10, 1] = COLOURS[17, 2] = 1  # red is skin, green nose, blue hair
NO_OTHER = np.full(19, -9.0)
NO_OTHER[[1, 10, 17]] = 0


@pytest.mark.parametrize(
    ("colour", "region"),
    [
        ((150, 124, 118), "skin"),  # with red and blue exchanged this is hair
        ((128, 124, 118), "hair"),  # without the mean this is skin
        ((125, 130, 106), "nose"),
        ((40, 60, 30), "nose"),  # -1.43, -0.99, -1.28
    ],
)
def test_known_answer_for_colours(tmp_path, colour, region):
    """Order, mean and deviation of ImageNet: the largest normalised channel is the class."""
    path = bisenet(tmp_path / "parse.onnx", COLOURS, NO_OTHER)
    for name in ("skin", "nose", "hair"):
        find = segment.load(f"parse:regions={name}", shelf(parser_card(path)))
        (mask,) = find(plain(colour), [somebody()])
        assert mask.image.shape == (SIZE, SIZE)
        assert (mask.image == (255 if name == region else 0)).all()


@pytest.mark.parametrize("region", segment.REGIONS)
def test_regions_are_the_classes_that_they_are_called(tmp_path, region):
    assert set(segment.REGIONS) == set(NUMBERS)
    for number in range(19):
        path = painted(tmp_path / f"class{number}.onnx", only(number))
        models = shelf(parser_card(path))
        (mask,) = segment.load(f"{path.stem}:regions={region}", models)(plain(9), [somebody()])
        assert (mask.image == (255 if number in NUMBERS[region] else 0)).all()


def test_unless_told_otherwise_a_face_without_what_it_wears(tmp_path):
    kept = {1, 2, 3, 4, 5, 10, 11, 12, 13}
    for number in range(19):
        path = painted(tmp_path / f"class{number}.onnx", only(number))
        (mask,) = segment.load(path.stem, shelf(parser_card(path)))(plain(9), [somebody()])
        assert (mask.image > 0).all() == (number in kept)


@pytest.mark.parametrize("colour", [(0, 0, 204), (255, 255, 204), (30, 90, 204)])
def test_known_answer_of_an_xseg(tmp_path, colour):
    """Blue comes first and as a share of 255: 204 is 0.8, and (0.8 - 0.5) · 2 of 255 is 153."""
    path = xseg(tmp_path / "x.onnx", 0)
    (mask,) = segment.load("x", shelf(xseg_card(path)))(plain(colour), [somebody()])
    np.testing.assert_allclose(mask.image.astype(int), 153, atol=1)


def test_below_one_half_and_beyond_one(tmp_path):
    for blue, gain, wanted in [(120, 1.0, 0), (250, 3.0, 255), (250, -1.0, 0)]:
        path = xseg(tmp_path / f"x{blue}{gain}.onnx", 0, gain=gain)
        (mask,) = segment.load(path.stem, shelf(xseg_card(path)))(plain((0, 0, blue)), [somebody()])
        assert (mask.image == wanted).all()


def test_edges_are_soft_and_lie_inside(tmp_path):
    """A border in the middle: nothing before it, half of all at 0.67 deviations behind it."""
    size = 256
    scores = np.zeros((19, size, size))
    scores[1, :, size // 2 :] = 1
    path = painted(tmp_path / "half.onnx", scores)
    (mask,) = segment.load("half", shelf(parser_card(path, size)))(plain(9), [somebody()])
    row = mask.image[100].astype(int)
    assert (row[:128] <= 11).all()  # half a pixel of the blur
    assert row[131] == pytest.approx(255 * 0.51, abs=8)  # erf(3.5 / 5 / √2) = 0.516
    assert (np.diff(row) >= 0).all()
    assert (row[145:] == 255).all()


@pytest.mark.parametrize("roll", [0.0, 0.7, -1.5])
def test_what_is_masked_lies_where_the_face_has_it(tmp_path, roll):
    """A network that sees skin around the template's nose only."""
    size = 128
    y, x = np.mgrid[0:size, 0:size]
    scores = np.zeros((19, size, size))
    px, py = np.array(FFHQ_NOSE) * size / 512
    scores[1] = np.where(np.hypot(x - px, y - py) < 14, 1.0, -1.0)
    path = painted(tmp_path / "nose.onnx", scores)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    ffhq = np.array(zoo.scaled("ffhq_512", 512))
    points = ((ffhq - 256) * 0.4 @ turn.T + (170.2, 130.7)).astype(np.float32)
    face = Face(np.r_[points.min(0), points.max(0)], 1.0, points)
    masks = segment.load("nose", shelf(parser_card(path, size)))(plain(9), [face])
    for scale, shift in [(1.0, (-60.0, -40.0)), (0.5, (-20.0, -9.5)), (2.0, (-200.0, -120.0))]:
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        sides = (round(200 * scale), round(220 * scale))
        patch = Patch(np.zeros((*sides, 3), np.uint8), np.full(sides, 200, np.uint8), matrix)
        alpha = segment.apply(patch, masks).mask.astype(float)
        rows, columns = np.mgrid[0 : sides[0], 0 : sides[1]]
        found = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
        np.testing.assert_allclose(found, points[2] * scale + shift, atol=0.5 * scale + 0.1)
        assert alpha.max() == 200
        area = np.pi * (14 * 0.4 * 512 / size * scale) ** 2
        assert 0.65 * area < (alpha > 100).sum() < area  # moved inwards by 0.67 deviations


def test_masks_are_multiplied():
    eye = np.array([[1.0, 0, 0], [0, 1, 0]])
    patch = Patch(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 200, np.uint8), eye)
    half, most = np.full((8, 8), 128, np.uint8), np.full((8, 8), 230, np.uint8)
    found = segment.apply(patch, [FaceMask(half, eye), FaceMask(most, eye)])
    wanted = 200 * 128 / 255 * 230 / 255
    np.testing.assert_allclose(found.mask, wanted, atol=1)
    assert (patch.mask == 200).all()
    assert (segment.apply(patch, []).mask == 200).all()


def test_beyond_its_crop_a_mask_says_what_its_rim_says():
    eye = np.array([[1.0, 0, 0], [0, 1, 0]])
    rim = np.zeros((8, 8), np.uint8)
    rim[:, 4:] = 255
    patch = Patch(np.zeros((8, 20, 3), np.uint8), np.full((8, 20), 200, np.uint8), eye)
    found = segment.apply(patch, [FaceMask(rim, np.array([[1.0, 0, -6], [0, 1, 0]]))]).mask
    assert (found[:, :10] == 0).all()  # the mask begins at 6
    assert (found[:, 10:] == 200).all()


def test_all_faces_are_one_batch_where_the_graph_allows_it(tmp_path, monkeypatch):
    runs = []
    call = runtime.Model.__call__

    def count(self, *arrays):
        runs.append(len(arrays[0]))
        return call(self, *arrays)

    monkeypatch.setattr(runtime.Model, "__call__", count)
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    faces, found = [somebody((80, 100), 90), somebody((230, 120), 120, 0.4)], []
    for batch in (1, "batch"):
        for path, own in (
            (bisenet(tmp_path / f"b{batch}.onnx", COLOURS, batch=batch), parser_card),
            (xseg(tmp_path / f"x{batch}.onnx", 1, batch=batch), xseg_card),
        ):
            find = segment.load(path.stem, shelf(own(path)))
            found.append([mask.image for mask in find(Frame(image), faces)])
            assert find(Frame(image), []) == []
    assert runs == [1, 1, 1, 1, 2, 2]
    assert all((a == b).all() for a, b in zip(found[0] + found[1], found[2] + found[3]))


def test_the_published_cards_say_what_these_classes_read():
    for name in ("bisenet_resnet_18", "bisenet_resnet_34"):
        found = zoo.find(name)
        assert (found.size, found.layout, found.order) == (512, "NCHW", "RGB")
        np.testing.assert_allclose(found.mean, MEAN)
        np.testing.assert_allclose(found.std, STD)
    for name in ("xseg_1", "xseg_2", "xseg_3"):
        found = zoo.find(name)
        assert (found.size, found.layout, found.order) == (256, "NHWC", "BGR")
        assert (found.mean, found.std) == ((0, 0, 0), BYTE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("parse:regions=skin+beard", "regions knows no 'beard'; known are background, brows, .*"),
        ("parse:regions=", "expected regions=VALUE"),
        ("parse:blur=3", "no option 'blur'; known are regions"),
        ("x:regions=skin", "x: no option 'regions'; known are none"),
        ("relight", "relight: is no mask network but for generate"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, name, said):
    models = shelf(
        parser_card(bisenet(tmp_path / "parse.onnx", COLOURS)),
        xseg_card(xseg(tmp_path / "x.onnx", 0)),
    )
    with pytest.raises(UsageError, match=said):
        segment.load(name, models)


def test_networks_of_another_kind_are_refused(tmp_path):
    shape = (1, 3, SIZE, SIZE)
    path = save(tmp_path / "few.onnx", {"i": shape}, [node("Identity", "i", "o")], {"o": shape})
    few = segment.load("few", shelf(parser_card(path)))
    with pytest.raises(ModelError, match=r"few: expected \(N, 19, height, width\), came"):
        few(plain(9), [somebody()])
    with pytest.raises(ModelError, match="few: "):
        segment.load("few", shelf(xseg_card(path)))
