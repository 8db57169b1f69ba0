"""The measures, on cases whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import synthetic
from mien import landmarks, motion, quality
from mien.types import Patch

FACE = synthetic.mesh((200, 200), 220)


def turned(points, *, yaw=0.0, pitch=0.0, roll=0.0):
    """The mesh turned in space by angles in degrees, about its own middle."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    middle = points.mean(0)
    return ((points - middle) @ (about_z @ about_x @ about_y).T + middle).astype(np.float32)


def with_lids(points, share):
    """The mesh with its lids moved together; 1 leaves them, 0 shuts the eyes."""
    out = points.copy()
    for ring in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE):
        lids = points[list(ring)]
        out[list(ring), 1] = lids[:, 1].mean() + (lids[:, 1] - lids[:, 1].mean()) * share
    return out


def textured(seed=0, side=400, sigma=1.0, spread=20.0):
    """A picture of coloured noise around the colour of skin."""
    noise = np.random.default_rng(seed).normal(0, 1, (side, side, 3))
    noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    noise *= spread / noise.std()
    return np.clip(noise + np.array([190, 150, 130]), 0, 255).astype(np.uint8)


# --- Shape --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [{"yaw": 12}, {"pitch": -7}, {"roll": 30}, {"yaw": 0.05}])
def test_pose_error_is_the_angle_of_a_known_turn(turn):
    (degrees,) = turn.values()
    assert quality.pose_error(FACE, turned(FACE, **turn)) == pytest.approx(abs(degrees), abs=0.01)


def test_the_same_face_has_no_error_wherever_it_is_and_however_large():
    moved = turned(FACE, yaw=20, pitch=5) * np.float32(1.7) + np.float32(40)
    for other in (FACE, moved):
        assert quality.expression_error(FACE, other) == pytest.approx(0, abs=1e-3)
        assert quality.eye_error(FACE, other) == pytest.approx(0, abs=1e-3)
        assert quality.mouth_error(FACE, other) == pytest.approx(0, abs=1e-3)
    assert quality.pose_error(FACE, FACE) == pytest.approx(0, abs=1e-3)


def test_expression_is_no_pose():
    smile = FACE.copy()
    smile[list(landmarks.OUTER_LIPS + landmarks.INNER_LIPS), 0] *= 1.02
    shut = with_lids(smile, 0.1)
    assert quality.pose_error(FACE, shut) < 0.01 + quality.pose_error(FACE, FACE) + 0.3
    assert quality.expression_error(FACE, shut) > 1


def test_expression_error_of_known_size():
    raised = FACE.copy()
    features = list(quality.FEATURES)
    raised[features, 1] -= 3  # the corners of the eyes belong to both sets and do not move
    corners = [v for v in features if v in quality.RIGID]
    raised[corners] = FACE[corners]
    moved = (len(features) - len(corners)) / len(features)
    expected = 100 * 3 * moved / quality.eye_distance(FACE)
    assert quality.expression_error(FACE, raised) == pytest.approx(expected, rel=0.01)


def test_openings_in_parts_of_the_eye_distance():
    wide = FACE.copy()
    distance = quality.eye_distance(FACE)
    gap = FACE[14] - FACE[13]
    wide[14] += gap / np.linalg.norm(gap) * np.float32(0.1 * distance)
    assert quality.mouth_error(FACE, wide) == pytest.approx(10, rel=0.02)
    lids = quality.eye_openings(FACE)
    assert quality.eye_openings(with_lids(FACE, 0.5)) == pytest.approx(lids / 2, rel=0.05)
    assert quality.eye_error(FACE, with_lids(FACE, 0.5)) == pytest.approx(lids.mean() / 2, rel=0.05)


def test_blinks_are_short_and_between_open_eyes():
    openings = np.full(200, 10.0)
    openings[20:24] = (5, 2, 3, 5.5)  # a blink
    openings[50:90] = 2  # looks down
    openings[0:3] = 1  # begins with shut eyes
    openings[120:123] = 3
    openings[123] = np.nan  # lost while shut
    openings[150] = 5.9
    openings[170] = 6.1  # not shut
    found = quality.blinks(openings.tolist(), fps=25)
    assert found == [quality.Blink(20, 24, 21), quality.Blink(150, 151, 150)]
    assert quality.blinks([float("nan")] * 5, fps=25) == []


def test_a_blink_is_kept_if_the_swapped_eye_shuts_too():
    assert quality.blink_kept(6.9, usual=10)
    assert not quality.blink_kept(7.1, usual=10)


# --- Flicker ------------------------------------------------------------------------------------


def test_motion_alone_is_no_change():
    before = textured(sigma=4)
    after = np.roll(before, (2, -3), (0, 1))
    before, after = before[40:296, 40:296], after[40:296, 40:296]
    lookup = quality.optical_flow(before, after)
    middle = np.s_[60:200, 60:200]
    y, x = np.mgrid[0:256, 0:256]
    assert np.median(lookup[..., 0][middle] - x[middle]) == pytest.approx(3, abs=0.1)
    assert np.median(lookup[..., 1][middle] - y[middle]) == pytest.approx(-2, abs=0.1)
    inside = np.full((256, 256), 255, np.uint8)
    inside[:20] = inside[-20:] = inside[:, :20] = inside[:, -20:] = 0
    still = quality.change(before, before, quality.optical_flow(before, before), inside)
    assert still == pytest.approx(0, abs=0.05)
    assert quality.change(before, after, lookup, inside) < 1.0
    assert quality.change(before, after, quality.optical_flow(before, before), inside) > 4


@pytest.mark.parametrize("amplitude", [2, 5, 10])
def test_flicker_of_known_amplitude(amplitude):
    quiet = textured(sigma=4, spread=10)[:256, :256]
    louder = (quiet + amplitude).astype(np.uint8)
    lookup = quality.optical_flow(quiet, quiet)
    inside = quality.face_in_view(FACE)
    assert quality.change(quiet, louder, lookup, inside) == pytest.approx(amplitude, abs=0.01)


def test_no_change_is_known_where_nothing_is_in_view():
    image = textured()[:256, :256]
    lookup = quality.optical_flow(image, image)
    assert np.isnan(quality.change(image, image, lookup + np.float32(999), image[..., 0] | 255))


def test_solid_is_what_a_mask_covers_but_for_its_edge():
    alpha = np.zeros((64, 64), np.uint8)
    alpha[10:40, 10:50] = 255
    alpha[20:24, 30:34] = 200
    found = quality.solid(alpha) > 0
    assert found[25, 15]
    assert not found[:13].any()
    assert not found[18:26, 28:36].any()
    # Of what is seen there: the RMS.
    fine = np.where(found, np.float32(0.5), np.float32(9))
    assert quality.typical(fine, quality.solid(alpha)) == pytest.approx(0.5)
    assert np.isnan(quality.typical(fine, alpha * 0))


# --- Seam ---------------------------------------------------------------------------------------


def disc(radius=70, soft=1.5):
    canvas = np.zeros((256, 256), np.uint8)
    cv2.circle(canvas, (128, 128), radius, 255, -1)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), soft))


def pasted(image, alpha, step):
    weight = alpha[..., None] / 255
    return np.round(image + weight * step).astype(np.uint8)


def test_seam_is_the_step_across_the_edge():
    plain = np.full((256, 256, 3), 120, np.uint8)
    alpha = disc()
    original, swapped = quality.seams(plain, pasted(plain, alpha, 20), alpha)
    assert original == 0
    assert swapped == pytest.approx(20 * np.sqrt(3), rel=0.08)  # the blur takes a little


def test_seam_of_nothing_is_that_of_the_original():
    image = textured(sigma=6)[:256, :256]
    original, swapped = quality.seams(image, image, disc())
    assert original == swapped > 0


def test_a_softer_edge_is_less_of_a_seam():
    plain = np.full((256, 256, 3), 120, np.uint8)
    hard, soft = disc(soft=1), disc(soft=12)
    seen = [quality.seams(plain, pasted(plain, a, 20), a)[1] for a in (hard, soft)]
    assert seen[1] < 0.5 * seen[0]


def test_holes_of_a_mask_are_no_seam():
    plain = np.full((256, 256, 3), 120, np.uint8)
    alpha = disc()
    cv2.circle(alpha, (110, 110), 15, 0, -1)
    _, swapped = quality.seams(plain, pasted(plain, alpha, 20), alpha)
    assert swapped == pytest.approx(20 * np.sqrt(3), rel=0.08)  # the blur takes a little


def test_no_mask_no_seam():
    plain = np.full((256, 256, 3), 120, np.uint8)
    for level in (0, 255):
        assert np.isnan(quality.seams(plain, plain, np.full((256, 256), level, np.uint8))).all()


# --- Sharpness ----------------------------------------------------------------------------------


def test_sharpness_falls_with_blur_and_doubles_with_contrast():
    plain, double = textured(spread=8), textured(spread=16)
    size = quality.crop_size(FACE)
    sharp = quality.sharpness(plain, FACE, size)
    assert quality.sharpness(double, FACE, size) == pytest.approx(2 * sharp, rel=0.05)
    blurred = [cv2.GaussianBlur(plain, (0, 0), s) for s in (1, 2, 4)]
    values = [sharp, *(quality.sharpness(b, FACE, size) for b in blurred)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.2 * sharp


def test_sharpness_hardly_depends_on_brightness():
    image = textured(spread=8)
    dark = np.round(image * 0.5).astype(np.uint8)
    size = quality.crop_size(FACE)
    expected = quality.sharpness(image, FACE, size)
    assert quality.sharpness(dark, FACE, size) == pytest.approx(expected, rel=0.1)


def test_a_small_face_brought_to_a_large_size_is_soft():
    image = textured()
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    size = quality.crop_size(FACE)
    small = FACE * np.float32(0.5)
    assert quality.sharpness(half, small, size) < 0.8 * quality.sharpness(image, FACE, size)


def test_a_large_portrait_is_compared_at_the_small_face_s_size():
    image = textured(sigma=4)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small = FACE * np.float32(0.5)
    size = quality.crop_size(small)
    ratio = quality.sharpness(half, small, size) / quality.sharpness(image, FACE, size)
    assert ratio == pytest.approx(1, abs=0.12)


def test_eyes_and_mouth_do_not_count():
    image = textured(spread=1)
    size = quality.crop_size(FACE)
    before = quality.sharpness(image, FACE, size)
    rng = np.random.default_rng(1)
    for ring in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.INNER_LIPS):
        hole = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(hole, [FACE[list(ring), :2].round().astype(np.int32)], 1)
        image[hole > 0] = rng.integers(0, 255, (int(hole.sum()), 3), np.uint8)
    assert quality.sharpness(image, FACE, size) == pytest.approx(before, rel=0.15)


# --- Lighting and skin --------------------------------------------------------------------------


def test_lighting_error_of_a_known_difference_of_lightness():
    inside = quality.face_in_view(FACE)
    grey = np.full((256, 256, 3), 119, np.uint8)  # L* 50
    other = np.full((256, 256, 3), 145, np.uint8)  # L* 60
    assert quality.lighting_error(grey, grey, inside) == 0
    assert quality.lighting_error(grey, other, inside) == pytest.approx(10, abs=0.3)


def test_lighting_sees_low_frequencies_only():
    inside = quality.face_in_view(FACE)
    grey = np.full((256, 256, 3), 120, np.int16)
    x = np.broadcast_to(np.arange(256), (256, 256))
    stripes = grey + (12 * np.sign(np.sin(x * 2 * np.pi / 8)))[..., None]
    side_light = grey + (24 * (x / 255 - 0.5))[..., None]
    fine, broad = (
        quality.lighting_error(grey.astype(np.uint8), i.clip(0, 255).astype(np.uint8), inside)
        for i in (stripes, side_light)
    )
    assert fine < 0.3
    assert broad > 3 * fine


def test_lighting_ignores_what_is_outside_the_face():
    inside = quality.face_in_view(FACE)
    grey = np.full((256, 256, 3), 120, np.uint8)
    other = grey.copy()
    other[inside == 0] = 250
    # The crop is shrunk before it is weighted: only cells on the contour see a little of it.
    assert quality.lighting_error(grey, other, inside) < 1.5


def test_a_shadow_on_one_side_counts_half():
    inside = quality.face_in_view(FACE)
    grey = np.full((256, 256, 3), 145, np.uint8)
    shadow = grey.copy()
    shadow[:, :128] = 119
    assert quality.lighting_error(grey, shadow, inside) == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize(
    ("lab", "group"),
    [((75, 15), "very light"), ((66, 16), "light"), ((61, 16), "intermediate"),
     ((56, 18), "tan"), ((45, 18), "brown"), ((30, 14), "dark")],
)  # fmt: skip
def test_skin_tone_groups(lab, group):
    lightness, yellow = lab
    one = np.array([[[lightness, 10, yellow]]], np.float32)
    colour = np.round(cv2.cvtColor(one, cv2.COLOR_LAB2RGB)[0, 0] * 255).astype(np.uint8)
    image = np.broadcast_to(colour, (400, 400, 3)).copy()
    angle = quality.typology_angle(image, FACE)
    expected = np.degrees(np.arctan((lightness - 50) / yellow))
    assert angle == pytest.approx(expected, abs=2)
    assert quality.tone(angle) == group


# --- Crops and the list -------------------------------------------------------------------------


def test_the_view_is_the_aligned_crop():
    image = synthetic.picture(400, 400, FACE)
    crop = quality.view(image, FACE)
    inside = quality.face_in_view(FACE)
    assert crop.shape == (256, 256, 3)
    assert np.abs(crop[inside > 0].mean(0) - synthetic.SKIN).max() < 40
    assert 0.25 < (inside > 0).mean() < 0.6
    assert not (quality.bare_in_view(FACE, 256) & ~inside).any()


def test_a_patch_mask_in_the_view_lies_where_the_patch_lies():
    region = motion.region_of(FACE, 400, 400)
    shift = np.array([[1.0, 0, -region.x0], [0, 1.0, -region.y0]])
    size = (region.y1 - region.y0, region.x1 - region.x0)
    mask = np.zeros(size, np.uint8)
    ring = FACE[list(landmarks.OVAL), :2] - (region.x0, region.y0)
    cv2.fillPoly(mask, [ring.round().astype(np.int32)], 255)
    patch = Patch(np.zeros((*size, 3), np.uint8), mask, shift)
    seen, inside = quality.mask_in_view([patch], FACE), quality.face_in_view(FACE)
    both = ((seen > 127) & (inside > 127)).sum()
    assert both / ((seen > 127) | (inside > 127)).sum() > 0.97
    assert not quality.mask_in_view([], FACE).any()


def test_crop_size_follows_the_face():
    assert quality.crop_size(FACE) == pytest.approx(1.3 * 220, abs=3)
    assert quality.crop_size(FACE * np.float32(0.01)) == 64
    assert quality.crop_size(FACE * np.float32(100)) == 1024


@pytest.mark.parametrize(
    ("key", "now", "then", "sign"),
    [("margin", 0.2, 0.1, 1), ("flicker", 1.1, 1.5, 1), ("lost", 3, 1, -1),
     ("sharpness", 1.1, 0.5, 1), ("sharpness", 2.0, 1.2, -1), ("sharpness", 0.5, 2.0, 0)],
)  # fmt: skip
def test_gain_knows_the_direction(key, now, then, sign):
    assert np.sign(round(quality.MEASURES[key].gain(now, then), 9)) == sign


def test_what_is_beyond_the_frame_is_not_measured():
    whole = quality.face_in_view(FACE)
    half = quality.face_in_view(FACE, (int(FACE[:468, 1].mean()), 4000))
    assert 0.3 < (half > 0).sum() / (whole > 0).sum() < 0.7
    assert not (half & ~whole).any()
    assert (quality.face_in_view(FACE, (4000, 4000)) == whole).all()
