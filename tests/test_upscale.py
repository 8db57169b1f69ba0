"""Upscalers: tiles leave no seams, sizes are right, and memory stays in bounds."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import cv2
import numpy as np
import pytest

from mien import runtime, upscale
from mien.errors import ModelError, UsageError
from mien.types import Frame, Rect
from tinynets import card, node, save, shelf

MIX = np.array([[0.5, 0.2, 0.1], [0.0, 0.7, 0.2], [0.3, 0.1, 0.6]], np.float32)


def resizing(path, mode, scale=2, *, tile=None, batch=1, mix=None):
    """ONNX's own resize, the centres of pixels where OpenCV has them; perhaps mixing channels."""
    side = [tile, tile] if tile else ["rows", "columns"]
    larger = [tile * scale, tile * scale] if tile else ["tall", "wide"]
    how = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        how = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
        how["nearest_mode"] = "floor"
    nodes = [
        node("Conv", "input mix", "mixed"),
    ]
    nodes.append(node("Resize", "mixed", "output", **how))
    nodes[1].input.extend(["", "scales"])
    return save(
        path,
        {"input": (batch, 3, *side)},
        nodes,
        {"output": (batch, 3, *larger)},
        mix=(np.eye(3, dtype=np.float32) if mix is None else mix)[..., None, None],
        scales=np.array([1, 1, scale, scale], np.float32),
    )


def averaging(path, tile, scale=2):
    """Each tile in its own mean colour: the worst that tiles can differ."""
    return save(
        path,
        {"input": (1, 3, tile, tile)},
        [
            node("ReduceMean", "input", "mean", axes=[2, 3], keepdims=1),
            node("Expand", "mean shape", "output"),
        ],
        {"output": (1, 3, tile * scale, tile * scale)},
        shape=np.array([1, 3, tile * scale, tile * scale]),
    )


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def loaded(path, name=None, *, scale=2, size=0, **more):
    return upscale.load(
        name or path.stem, shelf(card(path, "upscale", "esrgan", size, scale=scale, **more))
    )


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (65, 130), (200, 333), (40, 20), (1, 1), (64, 121)]
)
@pytest.mark.parametrize("scale", [2, 3])
def test_pixels_repeated_in_tiles_are_pixels_repeated(tmp_path, height, width, scale):
    path = resizing(tmp_path / "nearest.onnx", "nearest", scale, tile=64)
    image = picture(height, width)
    frame = loaded(path, scale=scale)(Frame(image, 7, 1001, Fraction(1, 90000), origin="decoded"))
    assert (frame.image == image.repeat(scale, 0).repeat(scale, 1)).all()
    assert (frame.index, frame.pts, frame.origin) == (7, 1001, "decoded")
    assert frame.dirty == [Rect(0, 0, width * scale, height * scale)]
    assert frame.image.flags.c_contiguous


@pytest.mark.parametrize("tile", [32, 48, 96])
def test_tiles_equal_the_whole(tmp_path, tile):
    """Interpolation sees beyond its pixel: the strips at the rims of tiles must not be used."""
    path = resizing(tmp_path / "linear.onnx", "linear")
    image = picture(180, 250, 1)
    found = loaded(path, f"linear:tile={tile}")(Frame(image)).image
    wanted = cv2.resize(image, (500, 360), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found.astype(int), wanted, atol=1)


def test_known_answer_for_colours(tmp_path):
    """Order of channels and range: every output channel is another mix of the inputs."""
    path = resizing(tmp_path / "mix.onnx", "nearest", tile=32, mix=MIX)
    image = picture(50, 70, 2)
    found = loaded(path)(Frame(image)).image
    wanted = (image @ MIX.T).clip(0, 255).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(found, wanted, atol=0.51)


@pytest.mark.parametrize("turned", [False, True], ids=["across", "down"])
def test_tiles_that_differ_fade_into_each_other(tmp_path, turned):
    """Each tile in its mean colour over a ramp: steps between pixels stay those of the fade."""
    tile, scale = 64, 2
    path = averaging(tmp_path / "mean.onnx", tile, scale)
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3))
    image = np.ascontiguousarray(ramp.swapaxes(0, 1) if turned else ramp)
    network = loaded(path)
    found = network(Frame(image)).image.astype(int)
    # Two tiles lie 56 pixels apart, so 56 grey levels, over a fade of 4 pixels, 8 when enlarged.
    assert (network.overlap, network.tile) == (8, 64)
    assert np.abs(np.diff(found, axis=0)).max() <= (8 if turned else 0)
    assert np.abs(np.diff(found, axis=1)).max() <= (0 if turned else 8)
    assert found.max() - found.min() > 100


def test_no_seam_where_four_tiles_meet(tmp_path):
    path = averaging(tmp_path / "mean.onnx", 64)
    image = np.zeros((150, 150, 3), np.uint8)
    image[70:, 70:] = 250
    found = loaded(path)(Frame(image)).image.astype(int)
    assert np.abs(np.diff(found, axis=0)).max() <= 250 / 8 + 2
    assert np.abs(np.diff(found, axis=1)).max() <= 250 / 8 + 2


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ("", (400, 240)),
        (":size=2", (200, 120)),
        (":size=1.5", (150, 90)),
        (":size=1", (100, 60)),
        (":size=1.13", (112, 68)),
    ],
)
def test_the_output_is_as_large_as_was_asked(tmp_path, options, size):
    path = resizing(tmp_path / "linear.onnx", "linear", 4)
    network = loaded(path, "linear" + options, scale=4)
    image = cv2.GaussianBlur(picture(60, 100, 4), (0, 0), 4)
    frame = network(Frame(image))
    assert frame.image.shape == (size[1], size[0], 3)
    assert network.size(100, 60) == size
    small = cv2.resize(frame.image, (100, 60), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(small.astype(int), image, atol=3)


def test_tiles_run_in_batches_where_the_graph_allows_it(tmp_path, monkeypatch):
    runs = []
    call = runtime.Model.__call__

    def count(self, *arrays):
        runs.append(len(arrays[0]))
        return call(self, *arrays)

    monkeypatch.setattr(runtime.Model, "__call__", count)
    image, found = picture(32, 170, 5), []
    for batch in (1, "batch"):
        path = resizing(tmp_path / f"n{batch}.onnx", "linear", tile=32, batch=batch)
        found.append(loaded(path)(Frame(image)).image)
    assert (found[0] == found[1]).all()
    assert runs == [1] * 7 + [4, 3]


def test_memory_is_the_larger_frame_and_a_row_of_tiles(tmp_path):
    path = resizing(tmp_path / "nearest.onnx", "nearest", 4, tile=32)
    network, frame = loaded(path, scale=4), Frame(picture(1500, 100))
    tracemalloc.start()
    out = network(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * out.image.nbytes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("near:size=3", "near: size must be from 1 to 2, came '3'"),
        ("near:size=0.5", "size must be from 1 to 2"),
        ("near:tile=64", "near: its tiles are of 32 pixels and no other size"),
        ("near:faces=all", "no option 'faces'; known are size, tile"),
        ("relight", "relight: is no upscaler but for generate"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, name, said):
    path = resizing(tmp_path / "near.onnx", "nearest", tile=32)
    with pytest.raises(UsageError, match=said):
        loaded(path, name)


def test_a_card_with_the_wrong_scale_is_found_out(tmp_path):
    path = resizing(tmp_path / "near.onnx", "nearest", tile=32)
    with pytest.raises(ModelError, match="expected tiles of 128 pixels, 4 times 32"):
        loaded(path, scale=4)(Frame(picture(32, 32)))


def test_answers_that_are_no_numbers_are_refused(tmp_path):
    mix = np.full((3, 3), np.nan, np.float32)
    path = resizing(tmp_path / "nan.onnx", "nearest", tile=32, mix=mix)
    with pytest.raises(ModelError, match="no numbers"):
        loaded(path)(Frame(picture(32, 32)))
