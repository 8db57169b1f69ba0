"""Every card tells the truth about its file."""

from __future__ import annotations

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


def test_a_missing_file_is_named():
    with pytest.raises(ModelNotFound, match=r"gone\.onnx"):
        zoo.path(replace(zoo.SHIPPED[0], file="gone.onnx"))


def test_a_changed_file_is_refused():
    with pytest.raises(ModelError, match="SHA-256"):
        zoo.verify(replace(zoo.SHIPPED[0], sha256="0" * 64))


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
