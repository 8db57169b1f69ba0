"""Training of the relight network: samples, losses, one step and its checkpoint, and the export."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from conftest import ROOT
from mien import geometry, motion, runtime, zoo
from mien.generate.look import CHANNELS

torch = pytest.importorskip("torch", reason="training needs torch: pip install mien[train]")

from mien.train import data, export, losses, relight  # noqa: E402
from mien.train.networks import Discriminator, Relight  # noqa: E402

MOBILEFACE = ROOT.parent / "shared" / "weights" / "embed" / "mobileface.onnx"
RNG = np.random.default_rng(5)


def tiny_recogniser(path: Path) -> Path:
    """``(N, 112, 112, 3)`` → ``(N, 8)`` of every operator that the loss knows but two."""
    arrays = {
        "grey": np.full((1, 1, 1, 3), 127.5, np.float32),
        "scale": np.full((1, 1, 1, 3), 1 / 128, np.float32),
        "edges": np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        "w1": RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "b1": RNG.normal(0, 0.3, 4).astype(np.float32),
        "w2": RNG.normal(0, 0.3, (4, 1, 3, 3)).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "flat": np.array([-1, 4 * 14 * 14], np.int64),
        "w3": RNG.normal(0, 0.1, (4 * 14 * 14, 8)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Sub", ["image", "grey"], ["a"]),
        node("Mul", ["a", "scale"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 3, 1, 2]),
        node("Pad", ["c", "edges"], ["d"]),
        node("Conv", ["d", "w1", "b1"], ["e"], strides=[4, 4], pads=[0, 0, 0, 0]),
        node("Max", ["e", "low"], ["f"]),
        node("Min", ["f", "high"], ["g"]),
        node("Conv", ["g", "w2"], ["h"], strides=[2, 2], pads=[0, 0, 1, 1], group=4),
        node("Add", ["h", "low"], ["i"]),
        node("Reshape", ["i", "flat"], ["j"]),
        node("MatMul", ["j", "w3"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 112, 112, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def photos_of(folder: Path, people: int = 4, each: int = 2) -> data.Photos:
    """A prepared folder of drawn faces, each of another skin, without a tar."""
    images, meshes, hits, names = [], [], [], []
    for person in range(people):
        for photo in range(each):
            mesh = synthetic.mesh((78 + 3 * photo, 80), 96, yaw=0.15 * photo, roll=0.1 * person)
            skin = (110 + 30 * person, 80 + 25 * person, 60 + 25 * person)
            images.append(synthetic.picture(160, 160, mesh, skin=skin))
            meshes.append(mesh)
            hits.append(motion.cover(data.in_crop(mesh), data.CROP).hit.astype(np.int16))
            names.append(f"Person_{person}")
    face = RNG.normal(0, 1, (len(names), 8)).astype(np.float32)
    face /= np.linalg.norm(face, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    for key, rows in (("image", images), ("mesh", meshes), ("hit", hits), ("face", face)):
        np.save(folder / f"{key}.npy", np.stack(list(rows)))
    (folder / "names.json").write_text(json.dumps({"people": names, "digest": "d1"}))
    return data.prepare(folder / "none.tar", folder / "none.onnx", folder)


def pairs_of(folder: Path, seed: int = 3, cross: float = 0.5) -> data.Pairs:
    photos = photos_of(folder)
    groups = tuple((i, i + 1) for i in range(0, len(photos.names), 2))
    return data.Pairs(photos, groups, seed, cross, 0.5)


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(np.asarray(a[k]), np.asarray(b[k])) for k in a)


# --- the recogniser ---------------------------------------------------------------------------


def check_recogniser(path: Path) -> None:
    crops = RNG.uniform(0, 1, (3, 112, 112, 3)).astype(np.float32)
    (want,) = runtime.load(path)(crops * np.float32(255))
    want = want / np.linalg.norm(want, axis=1, keepdims=True)
    images = torch.from_numpy(crops.transpose(0, 3, 1, 2).copy()).requires_grad_(True)
    got = losses.Recogniser(path)(images)
    np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-4)
    got[:, 0].sum().backward()
    assert float(images.grad.abs().sum()) > 0


def test_the_recogniser_s_graph_is_that_of_onnx_runtime(tmp_path):
    check_recogniser(tiny_recogniser(tmp_path / "tiny.onnx"))


def test_the_recogniser_of_the_configuration_is_that_of_onnx_runtime():
    if not MOBILEFACE.is_file():
        pytest.skip(f"no recogniser in {MOBILEFACE.parent}; training needs one")
    check_recogniser(MOBILEFACE)


def test_an_operator_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="recogniser: operator Softmax is not known"):
        losses._apply("Softmax", [torch.zeros(1)], {})


# --- samples ----------------------------------------------------------------------------------


def test_a_sample_is_a_function_of_seed_and_number(tmp_path):
    pairs, other = pairs_of(tmp_path), pairs_of(tmp_path, seed=4)
    first = [pairs(n) for n in range(4)]
    assert all(same(pairs(n), first[n]) for n in (3, 1, 0, 2))
    assert not same(first[0], first[1])
    assert not same(first[0], other(0))
    assert first[0]["inputs"].shape == (CHANNELS, 128, 128)
    assert first[0]["crop"].shape == first[0]["lit"].shape == (3, 128, 128)
    assert first[0]["alpha"].shape == (1, 128, 128)


@pytest.mark.parametrize("cross", [0.0, 1.0])
def test_pairs_are_of_the_same_person_or_of_two(tmp_path, cross):
    pairs = pairs_of(tmp_path, cross=cross)
    for n in range(8):
        sample = pairs(n)
        target, portrait = (pairs.photos.names[i] for i in sample["index"])
        assert (target != portrait) == bool(cross) == bool(sample["cross"])


def test_people_are_in_one_part_of_the_split_alone(tmp_path):
    photos = photos_of(tmp_path, people=83, each=1)
    train, held = data.split(photos)
    assert len(held) == 3
    assert sorted(i for part in (train, held) for person in part for i in person) == list(range(83))


def test_mirrored_twice_is_what_it_was():
    image, mesh = synthetic.portrait(96).image, synthetic.portrait(96).mesh
    once = data.mirrored(image, mesh)
    assert once[1][33, 0] < once[1][263, 0]  # the left eye stays the left one
    again, points = data.mirrored(*once)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_allclose(points[:468], mesh[:468], atol=1e-4)


def test_a_disturbed_photo_is_a_photo():
    image = synthetic.portrait(96).image
    means = []
    for seed in range(30):
        out = data.disturb(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        means.append(out.mean() / image.mean())
    assert 0.2 < min(means) < 0.95
    assert 1.05 < max(means) < 3
    black = data.disturb(np.zeros_like(image), np.random.default_rng(0))
    assert black.mean() < 10


# --- losses -----------------------------------------------------------------------------------


def test_identical_images_have_no_loss():
    x = torch.rand(2, 3, 64, 64)
    alpha = torch.rand(2, 1, 64, 64)
    for loss in (losses.detail(x, x, alpha), losses.light(x, x, alpha),
                 losses.weighted(x - x, alpha)):  # fmt: skip
        assert loss.shape == (2,)
        assert float(loss.abs().max()) == 0


def test_losses_of_a_step_of_brightness_and_of_fine_lines():
    x, ones = torch.full((1, 3, 64, 64), 0.3), torch.ones(1, 1, 64, 64)
    brighter = x + 0.2
    assert float(losses.weighted(brighter - x, ones)) == pytest.approx(0.2, rel=1e-3)
    assert float(losses.light(brighter, x, ones)) == pytest.approx(0.2, rel=1e-2)
    assert float(losses.detail(brighter, x, ones)) == pytest.approx(0, abs=1e-6)
    lines = x + 0.1 * (torch.arange(64) % 2 * 2 - 1)
    assert float(losses.light(lines, x, ones)) == pytest.approx(0, abs=1e-5)
    assert float(losses.detail(lines, x, ones)) == pytest.approx(0.2, rel=1e-3)


def test_losses_look_where_the_weight_is():
    x, alpha = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    alpha[..., :32] = 1
    y = x.clone()
    y[..., 34:] += 0.5
    for loss in (losses.detail(x, y, alpha), losses.weighted(x - y, alpha)):
        assert float(loss) == 0


def test_faces_are_cut_as_opencv_cuts_them():
    image = cv2.GaussianBlur(RNG.uniform(0, 1, (128, 128, 3)).astype(np.float32), (0, 0), 2)
    mesh = synthetic.mesh((60, 66), 90, roll=0.2)
    align = geometry.similarity(synthetic.face(mesh).points, data.ARCFACE)
    want = cv2.warpAffine(image, align, (112, 112), borderMode=cv2.BORDER_REPLICATE)
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    got = losses.faces(batch, torch.from_numpy(align.astype(np.float32))[None])
    np.testing.assert_allclose(got[0].numpy().transpose(1, 2, 0), want, atol=0.02)


# --- networks and export ----------------------------------------------------------------------


def a_network() -> Relight:
    torch.manual_seed(0)
    net = Relight(CHANNELS)
    torch.nn.init.normal_(net.unet.head.weight, 0, 0.05)
    return net.eval()


def test_a_fresh_network_changes_nothing():
    with torch.no_grad():
        gain, bias = Relight(CHANNELS)(torch.rand(2, CHANNELS, 128, 128))
    assert gain.shape == bias.shape == (2, 3, 128, 128)
    assert float((gain - 1).abs().max()) == float(bias.abs().max()) == 0
    assert Discriminator()(torch.rand(2, 3, 128, 128)).shape == (2, 1, 16, 16)


def test_the_exported_graph_is_the_network(tmp_path):
    net, out = a_network(), tmp_path / "relight.onnx"
    export.export(net, out, {"step": "7"})
    model = runtime.load(out)
    assert list(model.inputs) == ["face"]
    assert model.outputs == ("gain", "bias")
    props = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert props == {"step": "7"}
    for count in (1, 3):
        x = RNG.uniform(0, 1, (count, CHANNELS, 128, 128)).astype(np.float32)
        with torch.no_grad():
            want = net(torch.from_numpy(x))
        for a, b in zip(model(x), want, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-4)


def test_the_shipped_network_keeps_its_contract():
    card = zoo.find("relight")
    graph = onnx.load(zoo.verify(card))
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", export.OPSET)]
    assert export.OPSET == 17
    props = {p.key: p.value for p in graph.metadata_props}
    assert set(props) == {"config", "data", "step", "hours"}
    assert {"data", "run", "loss"} <= set(json.loads(props["config"]))
    assert len(props["data"]) == 64
    assert int(props["step"]) > 0
    assert float(props["hours"]) > 0
    found = runtime.load(zoo.path(card))(np.zeros((2, CHANNELS, 128, 128), np.float32))
    assert [v.shape for v in found] == [(2, *shape) for shape in card.outputs.values()]
    assert card.bytes < 10_000_000


# --- the run ----------------------------------------------------------------------------------


def test_a_run_stops_saves_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT", 2)
    monkeypatch.setattr(relight, "validate", lambda *a: {})
    monkeypatch.setattr(relight, "_tensorboard", lambda folder: None)
    photos_of(tmp_path / "photos")
    config = {
        "data": {"photos": "none", "folder": str(tmp_path / "photos"), "cross": 0.5, "eyes": 0.5,
                 "recogniser": str(tiny_recogniser(tmp_path / "tiny.onnx"))},
        "run": {"folder": str(tmp_path / "run"), "seed": 3, "steps": 3, "batch": 2, "threads": 1,
                "rate": 1e-4, "ema": 0.9, "save": 1, "validate": 100},
        "loss": tomllib.loads((ROOT / "configs" / "relight.toml").read_text())["loss"],
    }  # fmt: skip
    seen: list[list[int]] = []
    left = 1

    def batches(pairs, first, steps, size):
        for step in range(first, min(steps, first + left)):
            rows = [pairs(step * size + i) for i in range(size)]
            seen.append([step, *np.concatenate([r["index"] for r in rows]).tolist()])
            yield torch.utils.data.default_collate(rows)

    monkeypatch.setattr(relight, "batches", batches)
    relight.train(config)  # stopped after one step
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert saved["step"] == 1
    assert saved["data"] == "d1"
    assert json.loads(saved["config"]) == config
    left = 5
    relight.train(config)
    assert [row[0] for row in seen] == [0, 1, 2]
    assert len({tuple(row[1:]) for row in seen}) > 1
    later = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert later["step"] == 3
    assert later["hours"] >= saved["hours"]
    assert any(not torch.equal(later["net"][k], saved["net"][k]) for k in later["net"])
    export_net = Relight(CHANNELS)
    export_net.load_state_dict(later["mean"])


def test_a_sequence_goes_on_where_the_last_stopped(tmp_path):
    pairs = pairs_of(tmp_path)
    whole, rest = relight.Sequence(pairs, 0, 6), relight.Sequence(pairs, 4, 2)
    assert len(rest) == 2
    assert same(whole[4], rest[0])
    assert same(whole[5], rest[1])
