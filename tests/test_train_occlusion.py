"""The drawn occluders, and the training of the network that learns from them."""

import numpy as np
import pytest

from mien import motion
from mien.landmarks import OVAL
from mien.train import occluders


def scene():
    """A flat grey photo, 160 pixels wide, with a plausible frontal mesh, and a red texture."""
    rng = np.random.default_rng(0)
    mesh = rng.uniform(60, 100, (468, 3)).astype(np.float32)
    mesh[:, 2] = 0
    t = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    mesh[list(OVAL), 0], mesh[list(OVAL), 1] = 80 + 40 * np.sin(t), 85 - 50 * np.cos(t)
    for vertex, at in {
        33: (55, 70), 133: (70, 70), 362: (90, 70), 263: (105, 70), 1: (80, 90),
        168: (80, 68), 61: (65, 110), 291: (95, 110), 152: (80, 135),
    }.items():  # fmt: skip
        mesh[vertex, :2] = at
    photo = np.full((160, 160, 3), 128, np.uint8)
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    return photo, mesh, [red]


@pytest.mark.parametrize("kind", sorted(occluders.KINDS))
def test_every_kind_hides_something_somewhere(kind):
    photo, mesh, textures = scene()
    areas = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        s, _ = occluders.sample(photo, mesh, textures, rng, kinds=[kind])
        assert s.image.shape == (motion.CROP, motion.CROP, 3)
        assert s.image.dtype == s.label.dtype == np.uint8
        areas.append(float((s.label > 127).mean()))
    assert max(areas) > 0.002
    assert max(areas) < 0.9


def test_nothing_drawn_is_nothing_labelled():
    photo, mesh, textures = scene()
    for seed in range(8):  # among them shadows and highlights, which hide nothing
        s, _ = occluders.sample(photo, mesh, textures, np.random.default_rng(seed), kinds=[])
        assert s.label.max() == 0


def test_the_same_seed_gives_the_same_picture():
    photo, mesh, textures = scene()
    one, _ = occluders.sample(photo, mesh, textures, np.random.default_rng(5))
    two, _ = occluders.sample(photo, mesh, textures, np.random.default_rng(5))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.label, two.label)


def test_spectacles_lie_on_the_eyes():
    photo, mesh, textures = scene()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        s, _ = occluders.sample(photo, mesh, textures, rng, kinds=["glasses"])
        ys, xs = np.nonzero(s.label > 127)
        eyes = s.mesh[[33, 133, 362, 263], :2].mean(0)
        assert abs(np.median(ys) - eyes[1]) < 0.12 * motion.CROP
        assert abs((xs.min() + xs.max()) / 2 - eyes[0]) < 0.12 * motion.CROP


torch = pytest.importorskip("torch", reason="training needs torch: pip install .[train]")


def test_exported_graph_answers_as_the_network(tmp_path):
    from mien import runtime
    from mien.train import occlusion

    torch.manual_seed(0)
    net = occlusion.Net((8, 16, 16, 16))
    torch.nn.init.normal_(net.e1.b.weight, std=0.05)
    occlusion.export(net, tmp_path / "net.onnx")
    model = runtime.load(tmp_path / "net.onnx")
    x = np.random.default_rng(0).random((2, 128, 128, 5), np.float32)
    (out,) = model(x)
    with torch.no_grad():
        expected = occlusion.Exported(net)(torch.from_numpy(x)).numpy()
    assert out.shape == (2, 128, 128)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_loss_falls_when_right_and_ignores_what_does_not_count():
    from mien.train import occlusion

    label = torch.zeros(1, 8, 8)
    label[:, :4] = 1
    weight = torch.ones(1, 8, 8)
    right, wrong = (label * 2 - 1) * 8, (label * 2 - 1) * -8
    assert occlusion.loss_of(right, label, weight) < 0.05
    assert occlusion.loss_of(wrong, label, weight) > 2
    weight[:, :, 4:] = 0
    half = right.clone()
    half[:, :, 4:] *= -1
    assert occlusion.loss_of(half, label, weight) < 0.05


def test_unknown_key_in_the_configuration_is_named(root, tmp_path):
    from mien.train import occlusion

    good = (root / "configs/occlusion.toml").read_text()
    path = tmp_path / "c.toml"
    path.write_text(good)
    assert occlusion.read_config(path).channels == (16, 32, 64, 80)
    path.write_text(good + "\nspeed = 3\n")
    with pytest.raises(ValueError, match="speed"):
        occlusion.read_config(path)


def test_training_runs_stops_and_goes_on(root, tmp_path):
    from dataclasses import replace

    from mien.train import occlusion

    photo, mesh, _ = scene()
    rng = np.random.default_rng(0)
    images = np.stack([photo + rng.integers(0, 60, photo.shape).astype(np.uint8) for _ in range(4)])
    cache = tmp_path / "photos.npz"
    np.savez(cache, images=images, people=np.array(list("abcd")), mesh=np.stack([mesh] * 4))
    config = replace(
        occlusion.read_config(root / "configs/occlusion.toml"),
        cache=str(cache), work=str(tmp_path / "work"), pool=6, start=6, batch=2, steps=2,
        relabel=(1,), every=2, channels=(4, 4, 4, 4),
    )  # fmt: skip
    occlusion.train(config)
    occlusion.train(replace(config, steps=3))
    log = (tmp_path / "work" / "log.jsonl").read_text()
    assert '"step": 3' in log
    assert '"from": 2' in log
    assert (tmp_path / "work" / "occlude.onnx").exists()
