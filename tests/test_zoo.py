"""Every card tells the truth about its file."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mien import runtime, zoo
from mien.errors import ModelError, ModelNotFound

MEGABYTE = 10**6
INPUTS = {"occlude": "crop", "generate": "face"}
"""Task → input of its networks; of all others it is an image."""

cards = pytest.mark.parametrize("card", zoo.SHIPPED, ids=lambda card: card.name)


def noise(card: zoo.ModelCard, model: runtime.Model, count: int) -> np.ndarray:
    """Noise in the shape that the graph declares; free sides are as long as the card says."""
    ((batch, *shape),) = model.inputs.values()
    assert isinstance(batch, str)  # any number of images
    sides = [card.size or 2 * card.multiple if isinstance(n, str) else n for n in shape]
    pixels = np.random.default_rng(count).uniform(0, 255, (count, *sides))
    if sides[-1] == 3:
        return ((pixels - card.mean) / card.std).astype(np.float32)
    return (pixels / 255).astype(np.float32)


@cards
def test_file_is_the_one_described(card: zoo.ModelCard):
    assert zoo.verify(card) == zoo.path(card)
    assert zoo.path(card).stat().st_size == card.bytes


@cards
def test_graph_keeps_the_contract(card: zoo.ModelCard):
    """Feed noise of the declared size; names, shapes and finite numbers must come out."""
    model = runtime.load(zoo.path(card))
    assert list(model.inputs) == [INPUTS.get(card.task, "image")]
    assert model.outputs == tuple(card.outputs)
    found = model(noise(card, model, 2))
    for (name, shape), value in zip(card.outputs.items(), found, strict=True):
        assert value.shape[0] == 2, name
        assert value.dtype == np.float32, name
        assert np.isfinite(value).all(), name
        for wanted, got in zip(shape, value.shape[1:], strict=True):
            assert isinstance(wanted, str) or wanted == got, name


@cards
def test_a_batch_gives_what_its_images_give_alone(card: zoo.ModelCard):
    model = runtime.load(zoo.path(card))
    image = noise(card, model, 3)
    together = model(image)
    for i in range(3):
        for one, all_of_them in zip(model(image[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[i], rtol=1e-3, atol=1e-3)


def test_all_together_stay_under_the_limit():
    folder = zoo.path(zoo.SHIPPED[0]).parent
    assert sum(f.stat().st_size for f in folder.iterdir()) < 25 * MEGABYTE
    assert {f.name for f in folder.glob("*.onnx")} == {card.file for card in zoo.SHIPPED}


def test_every_model_may_be_used_commercially():
    assert all(card.commercial for card in zoo.SHIPPED)


@cards
def test_every_model_is_written_up(card: zoo.ModelCard):
    text = zoo.path(card).with_name("MODELS.md").read_text()
    assert card.file in text
    assert card.sha256 in text


def test_names_are_unique():
    names = [card.name for card in zoo.CARDS]
    assert len(set(names)) == len(names)
    assert [zoo.find(name).name for name in names] == names


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelNotFound, match=r"'nonesuch'.*blazeface_full.*facemesh"):
        zoo.find("nonesuch")
    with pytest.raises(ModelNotFound, match=r"did you mean inswapper_128 or "):
        zoo.find("inswaper_128")


def test_a_missing_file_is_named():
    with pytest.raises(ModelNotFound, match=r"gone\.onnx"):
        zoo.path(replace(zoo.SHIPPED[0], file="gone.onnx"))


def test_a_changed_file_is_refused():
    card = replace(zoo.SHIPPED[0], sha256="0" * 64)
    for check in (zoo.verify, zoo.path, zoo.Zoo().open):
        with pytest.raises(ModelError, match="SHA-256"):
            check(card)


ZERO_ONE, SIGNED = (0.0, 1.0), (-1.0, 1.0)
FACTS = {
    # name: (task, family, size, red 0 and 255 as fed, first point, order)
    "scrfd_2.5g": ("detect", "scrfd", 640, (-0.99609, 0.99609), None, "RGB"),
    "det_10g": ("detect", "retinaface", 640, (-0.99609, 0.99609), None, "RGB"),
    "retinaface_10g": ("detect", "retinaface", 640, (-0.99609, 0.99609), None, "RGB"),
    "yolov5n_face": ("detect", "yolov5face", 640, ZERO_ONE, None, "RGB"),
    "yoloface_8n": ("detect", "yolov8face", 640, ZERO_ONE, None, "RGB"),
    "yunet_2023_mar": ("detect", "yunet", 640, (0, 255), None, "BGR"),
    "yunet_n": ("detect", "yunet", 0, (0, 255), None, "BGR"),
    "blazeface_short": ("detect", "blazeface", 128, SIGNED, None, "RGB"),
    "blazeface_back": ("detect", "blazeface", 256, SIGNED, None, "RGB"),
    "2dfan4": ("landmarks", "2dfan4", 256, ZERO_ONE, None, "RGB"),
    "2d106det": ("landmarks", "2d106det", 192, (0, 255), None, "RGB"),
    "arcface_w600k_r50": ("embed", "arcface", 112, SIGNED, (38.2946, 51.6963), "RGB"),
    "w600k_r50": ("embed", "arcface", 112, SIGNED, (38.2946, 51.6963), "RGB"),
    "inswapper_128": ("generate", "inswapper", 128, ZERO_ONE, (46.2946, 51.6963), "RGB"),
    "inswapper_128_fp16": ("generate", "inswapper", 128, ZERO_ONE, (46.2946, 51.6963), "RGB"),
    "reswapper_128": ("generate", "inswapper", 128, ZERO_ONE, (46.2946, 51.6963), "RGB"),
    "reswapper_256": ("generate", "inswapper", 256, ZERO_ONE, (92.5892, 103.3926), "RGB"),
    "hyperswap_1a_256": ("generate", "hyperswap", 256, SIGNED, (92.5892, 103.3926), "RGB"),
    "hyperswap_1b_256": ("generate", "hyperswap", 256, SIGNED, (92.5892, 103.3926), "RGB"),
    "hyperswap_1c_256": ("generate", "hyperswap", 256, SIGNED, (92.5892, 103.3926), "RGB"),
    "simswap_256": (
        "generate", "simswap", 256, (-2.11790, 2.24891), (90.8114, 116.8869), "RGB",
    ),
    "simswap_unofficial_512": (
        "generate", "simswap", 512, ZERO_ONE, (181.6229, 233.7737), "RGB",
    ),
    "ghost_1_256": ("generate", "ghost", 256, SIGNED, (90.8114, 116.8869), "RGB"),
    "ghost_2_256": ("generate", "ghost", 256, SIGNED, (90.8114, 116.8869), "RGB"),
    "ghost_3_256": ("generate", "ghost", 256, SIGNED, (90.8114, 116.8869), "RGB"),
    "hififace_unofficial_256": ("generate", "hififace", 256, SIGNED, (93.6009, 119.6385), "RGB"),
    "blendswap_256": ("generate", "blendswap", 256, ZERO_ONE, (96.4905, 119.9735), "RGB"),
    "uniface_256": ("generate", "uniface", 256, SIGNED, (96.4905, 119.9735), "RGB"),
    "dfm": ("generate", "dfm", 224, ZERO_ONE, (79.1667, 88.0000), "BGR"),
    "gfpgan_1.4": ("enhance", "gfpgan", 512, SIGNED, (192.981, 239.947), "RGB"),
    "codeformer": ("enhance", "codeformer", 512, SIGNED, (192.981, 239.947), "RGB"),
    "gpen_bfr_256": ("enhance", "gpen", 256, SIGNED, (92.5892, 103.3926), "RGB"),
    "gpen_bfr_512": ("enhance", "gpen", 512, SIGNED, (192.981, 239.947), "RGB"),
    "gpen_bfr_1024": ("enhance", "gpen", 1024, SIGNED, (385.962, 479.894), "RGB"),
    "gpen_bfr_2048": ("enhance", "gpen", 2048, SIGNED, (771.924, 959.788), "RGB"),
    "restoreformer_plus_plus": (
        "enhance", "restoreformer", 512, SIGNED, (192.981, 239.947), "RGB",
    ),
    "real_esrgan_x4": ("upscale", "esrgan", 0, ZERO_ONE, None, "RGB"),
    "bisenet_resnet_34": ("segment", "bisenet", 512, (-2.11790, 2.24891), None, "RGB"),
    "xseg_1": ("segment", "xseg", 256, ZERO_ONE, None, "BGR"),
}  # fmt: skip
"""Written by hand from the publishers' code, in other units than the cards."""


@pytest.mark.parametrize("name", FACTS)
def test_published_cards_hold_the_facts(name):
    card = zoo.find(name)
    task, family, size, fed, point, order = FACTS[name]
    assert (card.task, card.family, card.size, card.order) == (task, family, size, order)
    red = [(value - card.mean[0]) / card.std[0] for value in (0, 255)]
    np.testing.assert_allclose(red, fed, atol=1e-4)
    assert card.layout == ("NHWC" if family in ("blazeface", "dfm", "xseg") else "NCHW")
    if point is not None:
        assert len(card.template) == 5
        np.testing.assert_allclose(card.template[0], point, atol=2e-4 * max(1, size / 128))


def test_simswap_is_fed_with_imagenet_s_colours():
    card = zoo.find("simswap_256")
    grey = [(0.449 * 255 - m) / s for m, s in zip(card.mean, card.std, strict=True)]
    np.testing.assert_allclose(grey, [-0.15721, -0.03125, 0.19111], atol=1e-4)


GIVES = {
    # name: (converter, unit length, pixel for output 0 and 1, offset)
    "inswapper_128": ("emap", True, (0, 255), 0),
    "inswapper_128_fp16_visomaster": ("emap", True, (0, 255), 0),
    "reswapper_128": ("emap", True, (0, 255), 0),
    "reswapper_256": ("emap", True, (0, 255), 0.5),
    "hyperswap_1c_256": ("", True, (127.5, 255), 0),
    "simswap_256": ("crossface_simswap", True, (0, 255), 0),
    "simswap_unofficial_512": ("crossface_simswap", True, (0, 255), 0),
    "ghost_2_256": ("crossface_ghost", False, (127.5, 255), 0),
    "hififace_unofficial_256": ("crossface_hififace", True, (127.5, 255), 0),
}


@pytest.mark.parametrize("name", GIVES)
def test_what_published_generators_are_told_and_give(name):
    swap = zoo.find(name).swap
    assert swap is not None
    converter, unit, pixels, offset = GIVES[name]
    assert swap.source == "embedding"
    assert (swap.converter, swap.normalise, swap.offset) == (converter, unit, offset)
    assert [swap.output_mean[0], swap.output_mean[0] + swap.output_std[0]] == list(pixels)
    assert zoo.find(swap.recogniser).task == "embed"
    assert not converter or converter == "emap" or zoo.find(converter).task == "convert"


def test_generators_that_see_a_picture():
    blend, uni = zoo.find("blendswap_256").swap, zoo.find("uniface_256").swap
    assert blend is not None
    assert uni is not None
    assert (blend.source, blend.source_size, blend.output_std[0]) == ("image", 112, 255)
    np.testing.assert_allclose(blend.source_template[0], (38.2946, 51.6963), atol=1e-3)
    assert (uni.source, uni.source_size, uni.output_mean[0]) == ("image", 256, 127.5)
    np.testing.assert_allclose(uni.source_template[0], (96.4905, 119.9735), atol=1e-3)
    assert uni.source_std[0] == blend.source_std[0] == 255  # the source is 0..1 in both


def test_published_cards_are_whole():
    published = [card for card in zoo.CARDS if not card.shipped]
    assert len({card.file for card in published}) == len(published)
    for card in published:
        assert re.fullmatch(r"[0-9a-f]{64}|", card.sha256), card.name
        assert all(source.startswith("https://") for source in card.sources), card.name
        assert not card.full or zoo.find(card.full).precision == "fp32", card.name
        assert card.licence, card.name
    hashes = [card.sha256 for card in published if card.sha256]
    assert len(set(hashes)) == len(hashes)


def test_no_generator_of_others_may_be_used_commercially():
    """Each needs InsightFace's recogniser or is itself for research, or says nothing."""
    for card in zoo.CARDS:
        if not card.shipped and card.task in ("generate", "convert", "enhance"):
            assert not card.commercial, card.name
        if re.search(r"non-commercial|research|unknown|GPL", card.licence):
            assert not card.commercial, card.name


def test_mesh_topology_is_closed_under_mirroring():
    folder = zoo.path(zoo.find("facemesh")).parent
    triangles, mirror = np.load(folder / "tessellation.npy"), np.load(folder / "mirror.npy")
    assert triangles.shape == (852, 3)
    assert triangles.dtype == np.uint16
    assert set(triangles.ravel()) == set(range(468))
    assert (mirror[mirror] == np.arange(468)).all()
    left, right = [33, 133, 61, 234, 159], [263, 362, 291, 454, 386]
    assert mirror[left].tolist() == right
    # each directed edge belongs to one triangle: all wind the same way
    edges = [tuple(e) for t in triangles.tolist() for e in zip(t, t[1:] + t[:1], strict=True)]
    assert len(set(edges)) == len(edges)
    # and what is mirrored is, but for a few quads cut along the other diagonal, a triangle again
    known = {frozenset(t) for t in triangles.tolist()}
    same = sum(frozenset(t) in known for t in mirror[triangles].tolist())
    assert same >= 0.95 * len(triangles)


def test_on_a_processor_that_is_quick_at_it_the_shipped_int8_model_is_taken(monkeypatch):
    for quick, name in ((True, "relight_int8"), (False, "relight")):
        monkeypatch.setattr(runtime, "int8_is_quick", lambda quick=quick: quick)
        assert zoo.Zoo().choose("relight").name == name
        assert zoo.Zoo(precision="fp32").choose("relight").name == "relight"
        assert zoo.Zoo(runtime.Device("cuda")).choose("relight").name == "relight"
    assert zoo.Zoo().choose("facemesh").name == "facemesh"
