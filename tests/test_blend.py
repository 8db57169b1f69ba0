"""Blending changes what is under the mask and nothing else; colour matching moves colours."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import blend
from mien.types import Frame, Patch, Rect

both = pytest.mark.parametrize("mix", blend.BLENDS.values(), ids=blend.BLENDS)


def scene(width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """Smooth colour with some grain, nowhere black or white."""
    rng = np.random.default_rng(seed)
    rough = rng.uniform(60, 190, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 2, smooth.shape), 20, 235).astype(np.uint8)


def disc(size: int, radius: float, *, blur: float = 0.0) -> np.ndarray:
    ys, xs = np.mgrid[:size, :size] - (size - 1) / 2
    mask = np.where(np.hypot(xs, ys) <= radius, 255, 0).astype(np.uint8)
    return cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])


def plain(size: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


def under(mask: np.ndarray, x: int, y: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Where the mask reaches in the frame, for a patch whose corner is at x, y."""
    canvas = np.zeros((height + 400, width + 400), bool)
    h, w = mask.shape
    canvas[200 + y : 200 + y + h, 200 + x : 200 + x + w] = mask > 0
    return canvas[200 : 200 + height, 200 : 200 + width]


def covered(frame: Frame) -> np.ndarray:
    out = np.zeros(frame.image.shape[:2], bool)
    for rect in frame.dirty:
        out[rect.slices()] = True
    return out


# --- what changes -----------------------------------------------------------------------------


def test_soft_mixes_by_the_mask():
    before = scene()
    frame = Frame(before.copy())
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10], mask[10:15] = 255, 102  # all, and two fifths
    image = np.full((20, 30, 3), (250, 10, 100), np.uint8)
    blend.soft(frame, Patch(image, mask, shift(41, 33)))
    wanted = before.astype(float)
    wanted[38:43, 41:71] = (250, 10, 100)
    part = wanted[43:48, 41:71]
    wanted[43:48, 41:71] = part * 0.6 + np.array((250, 10, 100)) * 0.4
    assert np.abs(frame.image - wanted).max() <= 1
    np.testing.assert_array_equal(frame.image[38:43, 41:71], image[5:10])


@both
@pytest.mark.parametrize(
    ("x", "y"), [(50, 40), (-20, 30), (130, 95), (60, -25), (-30, -30), (31, 17)]
)
def test_only_what_is_under_the_mask_changes_and_it_is_recorded(mix, x: int, y: int):
    before = scene(161, 121)
    frame = Frame(before.copy())
    mask = disc(64, 24, blur=2)
    mix(frame, Patch(plain(64, (240, 30, 60)), mask, shift(x, y)))
    changed = (frame.image != before).any(-1)
    assert changed.sum() > 100
    reach = under(mask, x, y, 161, 121)
    assert not changed[~reach].any()
    assert not changed[~covered(frame)].any()
    (rect,) = frame.dirty
    assert rect == rect.even(161, 121)
    ys, xs = np.nonzero(reach)
    assert rect == Rect(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1).even(161, 121)


@both
@pytest.mark.parametrize("where", ["outside", "empty"])
def test_nothing_to_do_touches_nothing(mix, where: str):
    before = scene()
    frame = Frame(before.copy())
    mask = disc(64, 24) if where == "outside" else np.zeros((64, 64), np.uint8)
    for corner in [(500, 10), (-90, 10), (10, 300), (-10, -64)]:
        at = corner if where == "outside" else (40, 40)
        mix(frame, Patch(plain(64, (255, 0, 0)), mask, shift(*at)))
    np.testing.assert_array_equal(frame.image, before)
    assert frame.dirty == []


@both
def test_a_second_face_leaves_the_first(mix):
    before = scene()
    frame = Frame(before.copy())
    mix(frame, Patch(plain(50, (200, 60, 60)), disc(50, 20), shift(10, 30)))
    first = frame.image[:, :70].copy()
    mix(frame, Patch(plain(50, (60, 60, 200)), disc(50, 20), shift(95, 30)))
    np.testing.assert_array_equal(frame.image[:, :70], first)
    assert len(frame.dirty) == 2


@both
@settings(max_examples=60, deadline=None)
@given(x=st.integers(-70, 165), y=st.integers(-70, 125), radius=st.integers(0, 34))
def test_no_place_and_no_size_is_too_odd(mix, x: int, y: int, radius: int):
    before = scene()
    frame = Frame(before.copy())
    mask = disc(64, radius, blur=1.5)
    mix(frame, Patch(plain(64, (200, 120, 90)), mask, shift(x, y)))
    changed = (frame.image != before).any(-1)
    assert not changed[~under(mask, x, y)].any()
    assert not changed[~covered(frame)].any()


# --- placing ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("x", "y"), [(50, 40), (-20, 30), (130, 95)])
def test_a_whole_pixel_shift_is_pasted_as_the_general_way_does(mix, x: int, y: int):
    image, mask = scene(64, 64, seed=4), disc(64, 24, blur=2)
    quick, general = Frame(scene()), Frame(scene())
    mix(quick, Patch(image, mask, shift(x, y)))
    almost = shift(x, y)
    almost[0, 2] += 1e-7  # no whole number any more
    mix(general, Patch(image, mask, almost))
    assert (quick.image != scene()).any()
    # The region differs by a pixel around the patch, and with it what Poisson's equation sees.
    assert np.abs(quick.image.astype(int) - general.image).max() <= (1 if mix is blend.soft else 3)


def test_a_scaled_and_turned_patch_lands_where_its_matrix_says():
    frame = Frame(plain(200, (0, 0, 0)))
    # Frame → patch: the patch is half the frame's scale and turned by a quarter.
    matrix = np.array([[0.0, 0.5, -20.0], [-0.5, 0.0, 60.0]])
    image = plain(64, (10, 20, 30))
    image[8:16, 40:56] = (250, 200, 150)
    mask = np.zeros((64, 64), np.uint8)
    mask[4:60, 4:60] = 255
    blend.soft(frame, Patch(image, mask, matrix))
    # patch (x, y) = (0.5 v - 20, 60 - 0.5 u): column 40..55, row 8..15 ↔ v 120..150, u 90..104
    np.testing.assert_array_equal(frame.image[135, 97], (250, 200, 150))
    np.testing.assert_array_equal(frame.image[124, 92], (250, 200, 150))
    np.testing.assert_array_equal(frame.image[100, 97], (10, 20, 30))
    np.testing.assert_array_equal(frame.image[20, 97], (0, 0, 0))
    changed = frame.image.any(-1)
    assert changed.sum() == pytest.approx(112 * 112, rel=0.04)
    assert not changed[~covered(frame)].any()


# --- Poisson ----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(40, 40, 40), (-30, -30, -30), (25, -20, 10)])
def test_poisson_takes_a_constant_colour_offset_away(offset):
    before = scene(200, 160)
    frame = Frame(before.copy())
    cut = before[30:130, 50:150]
    image = np.clip(cut.astype(int) + offset, 0, 255).astype(np.uint8)
    patch = Patch(image, disc(100, 40), shift(50, 30))
    blend.poisson(frame, patch)
    inside = under(disc(100, 34), 50, 30, 200, 160)
    left = np.abs(frame.image.astype(float) - before)[inside].mean()
    assert left < 0.12 * np.abs(offset).mean()
    soft = Frame(before.copy())
    blend.soft(soft, patch)
    assert np.abs(soft.image.astype(float) - before)[inside].mean() > 0.9 * np.abs(offset).mean()


def test_poisson_keeps_the_detail_of_the_patch():
    frame = Frame(plain(200, (120, 120, 120)))
    image = plain(100, (60, 60, 60))
    image[:, ::4] = 100
    blend.poisson(frame, Patch(image, disc(100, 40), shift(50, 50)))
    middle = frame.image[90:110, 90:110].astype(float)
    assert middle.std() > 0.7 * image[40:60, 40:60].std()
    assert middle.mean() == pytest.approx(120, abs=12)


def test_poisson_leaves_what_the_mask_keeps_inside_the_face():
    """Eyes and mouth stay the frame's, but for the light that is evened over the whole face."""
    before = scene(200, 160)
    frame = Frame(before.copy())
    mask = disc(100, 40)
    mask[40:60, 30:70] = 0
    blend.poisson(frame, Patch(before[30:130, 50:150].copy(), mask, shift(50, 30)))
    assert np.abs(frame.image.astype(int) - before).max() <= 4


def test_poisson_does_not_let_a_dark_mouth_pull_at_the_skin_around_it():
    frame = Frame(plain(200, (120, 120, 120)))
    frame.image[90:110, 90:110] = 10
    mask = disc(100, 40)
    mask[40:60, 40:60] = 0
    blend.poisson(frame, Patch(plain(100, (170, 170, 170)), mask, shift(50, 50)))
    np.testing.assert_array_equal(frame.image[92:108, 92:108], 10)
    assert np.abs(frame.image[84:88, 90:110].astype(int) - 120).max() < 8


# --- colour -----------------------------------------------------------------------------------


def cast(image: np.ndarray) -> np.ndarray:
    return np.clip(image * (1.15, 0.85, 0.75) + (10, -5, 12), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["lab", "histogram"])
@pytest.mark.parametrize("matrix", [shift(30, 20), [[0.5, 0, -10], [0, 0.5, -5]]])
def test_match_color_takes_off_most_of_a_cast(mode, matrix):
    frame = Frame(scene(260, 260))
    matrix = np.array(matrix, float)
    true = cv2.warpAffine(frame.image, matrix, (80, 80))
    mask = disc(80, 34)
    patch = Patch(cast(true), mask, matrix)
    matched = blend.match_color(patch, frame, mode)

    def off(image: np.ndarray) -> float:
        return float(np.abs(image[mask > 0].mean(0) - true[mask > 0].mean(0)).mean())

    assert off(patch.image) > 10
    assert off(matched.image) < 0.3 * off(patch.image)
    each = [np.abs(p.image.astype(float) - true)[mask > 0].mean() for p in (patch, matched)]
    assert each[1] < 0.7 * each[0]
    np.testing.assert_array_equal(matched.mask, mask)
    np.testing.assert_array_equal(matched.matrix, matrix)
    assert matched.image.dtype == np.uint8
    assert frame.dirty == []


@pytest.mark.parametrize("mode", ["lab", "histogram"])
def test_match_color_measures_under_the_mask_alone(mode):
    frame = Frame(plain(200, (90, 110, 130)))
    frame.image[:, 100:] = (250, 20, 20)
    image = plain(80, (150, 100, 80))
    image += np.random.default_rng(0).integers(0, 9, image.shape).astype(np.uint8)
    image[:, 40:] = 0
    mask = np.zeros((80, 80), np.uint8)
    mask[10:70, 5:35] = 255
    matched = blend.match_color(Patch(image, mask, shift(60, 50)), frame, mode)
    np.testing.assert_allclose(matched.image[mask > 0].mean(0), (90, 110, 130), atol=4)


def test_match_color_without_a_mode_or_without_a_mask_does_nothing():
    frame = Frame(scene())
    patch = Patch(plain(40, (200, 0, 0)), disc(40, 15), shift(5, 5))
    assert blend.match_color(patch, frame, "none") is patch
    thin = Patch(patch.image, disc(40, 3), patch.matrix)
    assert blend.match_color(thin, frame, "lab") is thin


def test_a_face_without_contrast_is_not_blown_up():
    """A flat patch over a rough place keeps a bounded spread."""
    rng = np.random.default_rng(0)
    frame = Frame(rng.integers(0, 255, (100, 100, 3)).astype(np.uint8))
    image = (plain(60, (120, 120, 120)) + rng.integers(0, 6, (60, 60, 3))).astype(np.uint8)
    matched = blend.match_color(Patch(image, disc(60, 28), shift(10, 10)), frame, "lab")
    assert matched.image.std((0, 1)).max() < 4 * image.std((0, 1)).max()


@pytest.mark.parametrize("gain", [(1.2, 1.0, 0.85), (0.8, 1.0, 1.15)])
def test_white_balance_neutralises_a_cast(gain):
    grey = np.random.default_rng(0).integers(40, 180, (12, 12, 1)).repeat(3, 2).astype(np.uint8)
    grey = cv2.resize(grey, (240, 200), interpolation=cv2.INTER_NEAREST)
    tinted = np.clip(grey * np.array(gain), 0, 255).astype(np.uint8)
    even = blend.white_balance(tinted)
    assert even.shape == tinted.shape
    assert even.dtype == np.uint8
    before, after = (float(np.ptp(i.reshape(-1, 3).mean(0))) for i in (tinted, even))
    assert before > 20
    assert after < 2
    assert even.mean() == pytest.approx(grey.mean(), rel=0.1)


def test_white_balance_leaves_neutral_pictures_and_bounds_its_gain():
    grey = np.random.default_rng(0).integers(20, 220, (90, 90, 1)).repeat(3, 2).astype(np.uint8)
    np.testing.assert_array_equal(blend.white_balance(grey), grey)
    # One before a red wall: no channel moves by more than 1.4 either way.
    wall = plain(90, (220, 30, 30))
    moved = blend.white_balance(wall)
    assert moved[0, 0].tolist() == [154, 42, 42]


# --- memory -----------------------------------------------------------------------------------


@both
def test_nothing_of_the_frame_s_size_is_allocated(mix):
    """A 4K frame in float32 is 100 MB; a face of 300 pixels needs a few."""
    frame = Frame(np.full((2160, 3840, 3), 120, np.uint8))
    patch = Patch(scene(300, 300), disc(300, 130, blur=3), shift(1700, 900))
    moved = Patch(patch.image, patch.mask, np.array([[0.9, 0.1, -1500], [-0.1, 0.9, -600.0]]))
    mix(frame, patch)  # what is made on first use is not counted
    tracemalloc.start()
    try:
        for each in (patch, moved):
            mix(frame, blend.match_color(each, frame, "lab"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6
