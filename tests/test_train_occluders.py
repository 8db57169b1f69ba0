"""The drawn occluders."""

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


def test_chances_are_of_known_kinds_and_whole():
    for chances in (occluders.MEASURED, occluders.TRAINED):
        assert set(chances) <= set(occluders.KINDS)
        assert sum(chances.values()) == pytest.approx(1)


def test_wire_frames_are_thinner():
    photo, mesh, textures = scene()

    def area(kind):
        return np.mean([
            (occluders.sample(photo, mesh, textures, np.random.default_rng(n), kinds=[kind])[0]
             .label > 127).mean() for n in range(12)
        ])  # fmt: skip

    assert area("wire") < 0.95 * area("glasses")
