"""Training of the network that sees what is in front of a face."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from mien import geometry, occlude, runtime
from mien.motion import aligned
from test_train_occluders import scene

torch = pytest.importorskip("torch", reason="training needs torch: pip install .[train]")

from mien.train import occluders, occlusion  # noqa: E402


def test_exported_graph_answers_as_the_network(tmp_path):
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


def test_loss_counts_thin_things_and_the_whole_batch():
    label = torch.zeros(2, 16, 16)
    label[0, :, :8] = 1
    label[1, 8:10, :8] = 1
    weight = torch.ones(2, 16, 16)
    logits = (label * 2 - 1) * 8
    missed = logits.clone()
    missed[1] = -8  # the thin one alone
    assert occlusion.loss_of(missed, label, weight) > occlusion.loss_of(logits, label, weight) + 0.3


def test_what_a_photo_may_have_in_front_by_itself_is_doubted():
    photo, mesh, _ = scene()
    photo[:] = (200, 160, 140)
    assert not occlusion.suspected(photo, mesh).any()
    line = photo.copy()
    line[71:74, 50:110] = 30  # across the bridge of the nose
    eyes = occlusion.suspected(line, mesh)
    hair = photo.copy()
    hair[:60] = (40, 30, 20)
    above = occlusion.suspected(hair, mesh)
    for doubted in (eyes, above):
        assert 0.03 < doubted.mean() < 0.6
        assert not doubted[-20:].any()


def test_a_plane_of_the_crop_follows_its_picture():
    photo, mesh, textures = scene()
    _, matrix = occluders.sample(photo, mesh, textures, np.random.default_rng(1), kinds=[])
    points = geometry.transform(aligned(mesh), mesh)
    drawn = occlude.contour(points)
    there = occlusion.carried(drawn, mesh, matrix) > 127
    expected = occlude.contour(geometry.transform(matrix, mesh)) > 127
    assert (there ^ expected).mean() < 0.01


def test_who_is_kept_for_measuring_does_not_depend_on_who_else_is_found(monkeypatch):
    photo, mesh, _ = scene()
    kept = {occlusion._hash("b")}, {occlusion._hash("b_2")}
    monkeypatch.setattr(occlusion, "_held_out", lambda: kept)
    for names in (["b_1", "b_2", "c_1"], ["a_3", "b_2", "c_1", "d_1"]):
        several = (np.stack([thing] * len(names)) for thing in (photo, mesh))
        photos = occlusion.Photos(next(several), np.array(names), next(several))
        train, held = photos.split()
        assert set(photos.people[held]) == {"b"}
        assert "b" not in photos.people[train]
        assert photos.names[photos.clean()].tolist() == ["b_2"]


def test_unknown_key_in_the_configuration_is_named(root, tmp_path):
    good = (root / "configs/occlusion.toml").read_text()
    path = tmp_path / "c.toml"
    path.write_text(good)
    assert occlusion.read_config(path).channels == (32, 48, 80, 128)
    path.write_text(good + "\nspeed = 3\n")
    with pytest.raises(ValueError, match="speed"):
        occlusion.read_config(path)


def looked_at(tmp_path, photo, bias):
    """A pool of two pictures of one photo, and a network that says the same of every pixel."""
    _, mesh, textures = scene()
    photos = occlusion.Photos(photo[None], np.array(["a_1"]), mesh[None])
    pool = occlusion.Pool(tmp_path, 2)
    for n in range(2):
        _, pool.matrices[n] = occluders.sample(
            photo, mesh, textures, np.random.default_rng(n), kinds=[]
        )
    net = occlusion.Net((4, 4, 4, 4))
    torch.nn.init.zeros_(net.out.weight)
    torch.nn.init.constant_(net.out.bias, bias)
    return net, photos, pool


@pytest.mark.parametrize("sure", [False, True])
def test_what_the_network_takes_for_hidden_is_left_out_and_at_last_learned(tmp_path, sure):
    net, photos, pool = looked_at(tmp_path, scene()[0], 9.0)
    left, hidden = occlusion.relabel(net, photos, pool, sure)
    assert (hidden if sure else left) > 0.8
    assert (left if sure else hidden) < 0.1
    expected = occlusion.SURE if sure else occlusion.DOUBT
    assert (pool.pictures[:, 6] == expected).mean() > 0.8


def test_what_is_likely_but_not_sure_stays_in_doubt(tmp_path):
    net, photos, pool = looked_at(tmp_path, scene()[0], 1.0)  # .73
    left, hidden = occlusion.relabel(net, photos, pool, sure=True)
    assert left > 0.8
    assert hidden == 0


@pytest.mark.parametrize(("bias", "left"), [(-9.0, False), (0.2, True)])
def test_a_sign_of_hair_counts_only_where_the_network_sees_something(tmp_path, bias, left):
    photo, mesh, _ = scene()
    dark = photo.copy()
    dark[:60] = (40, 30, 20)
    assert occlusion.suspected(dark, mesh).any()
    net, photos, pool = looked_at(tmp_path, dark, bias)
    occlusion.relabel(net, photos, pool)
    assert bool(pool.pictures[0, 6].any()) is left


def test_a_thing_seen_on_one_side_is_looked_for_on_the_mirror_image_too(monkeypatch):
    photo, mesh, _ = scene()
    photos = occlusion.Photos(photo[None], np.array(["a_1"]), mesh[None])

    def left_half(_, planes):  # whatever it is shown: a mistake that a mirror reveals
        out = np.zeros((len(planes), 128, 128), np.float32)
        out[..., :64] = 0.95
        return out

    monkeypatch.setattr(occlusion, "_predict", left_half)
    (plane,) = occlusion.doubted(None, photos, [0], sure=True)
    assert (plane == occlusion.DOUBT).all()


def test_what_is_left_out_does_not_count_unless_something_was_drawn_there(tmp_path):
    pool = occlusion.Pool(tmp_path, 1)
    pool.pictures[0, 4] = 255
    pool.pictures[0, 6, :64] = occlusion.DOUBT
    pool.pictures[0, 6, 96:] = occlusion.SURE
    pool.pictures[0, 3, :32] = 255
    _, label, weight = occlusion.batch_of(pool, 2, np.random.default_rng(0))
    assert label[:, :32].all()
    assert not label[:, 32:96].any()
    assert label[:, 96:].all()
    assert weight[:, :32].all()
    assert not weight[:, 32:64].any()
    assert weight[:, 64:].all()


def test_half_covered_pixels_do_not_gain_by_being_called_hidden():
    weight = torch.ones(1, 8, 8)
    label = torch.full((1, 8, 8), 0.45)
    label[:, :4] = 1
    right, wide = torch.full((1, 8, 8), 9.0), torch.full((1, 8, 8), 9.0)
    right[:, 4:] = float(torch.logit(torch.tensor(0.45)))
    assert occlusion.loss_of(right, label, weight) < occlusion.loss_of(wide, label, weight) - 0.3


def test_the_rate_rises_and_falls(root):
    committed = occlusion.read_config(root / "configs/occlusion.toml")
    config = replace(committed, waves=(1000, 500), rate=1.0)
    rates = [occlusion.rate_of(config, step) for step in (0, 300, 999, 1000, 1250, 1499)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[1] > 0.7
    assert rates[2] < 0.03
    assert rates[3] == pytest.approx(0.25)
    assert rates[4] == pytest.approx(0.135)
    assert rates[5] < 0.03


def test_every_weight_is_moved_and_a_restored_optimiser_goes_on_alike():
    torch.manual_seed(0)
    x = torch.rand(2, 5, 32, 32)

    def step(net, optimiser):
        net.zero_grad()
        net(x).square().mean().backward()
        optimiser.step(1e-3)

    net = occlusion.Net((4, 4, 4, 4)).to(memory_format=torch.channels_last)
    optimiser, before = occlusion.Optimiser(net), deepcopy(net.state_dict())
    for _ in range(2):  # the second of a block's convolutions starts at nothing
        step(net, optimiser)
    assert not [name for name, value in net.state_dict().items() if value.equal(before[name])]
    other = deepcopy(net)
    restored = occlusion.Optimiser(other)
    restored.load_state_dict(deepcopy(optimiser.state_dict()))
    step(net, optimiser)
    step(other, restored)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_training_runs_stops_and_goes_on(root, tmp_path):
    photo, mesh, _ = scene()
    rng = np.random.default_rng(0)
    images = np.stack([photo + rng.integers(0, 60, photo.shape).astype(np.uint8) for _ in range(4)])
    cache = tmp_path / "photos.npz"
    np.savez(
        cache,
        images=images,
        names=np.array(["a_1", "b_1", "c_1", "d_1"]),
        mesh=np.stack([mesh] * 4),
    )
    config = replace(
        occlusion.read_config(root / "configs/occlusion.toml"),
        cache=str(cache), work=str(tmp_path / "work"), pool=6, batch=2, waves=(2,),
        relabel=(1,), every=2, channels=(4, 4, 4, 4),
    )  # fmt: skip
    occlusion.train(config)
    occlusion.train(replace(config, waves=(2, 1)))
    log = (tmp_path / "work" / "log.jsonl").read_text()
    assert '"step": 3' in log
    assert '"from": 2' in log
    assert (tmp_path / "work" / "occlude.onnx").exists()
