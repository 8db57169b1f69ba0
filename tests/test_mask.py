"""Masks on drawn faces: contour, openings, forehead and the face's own skin."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import synthetic
from mien import landmarks, mask, motion
from mien.types import Rect

WHOLE = Rect(0, 0, 128, 128)
TONES = {
    "very light": (245, 222, 208),
    "light": (224, 184, 160),
    "middle": (178, 128, 96),
    "dark": (104, 70, 52),
    "very dark": (58, 40, 32),
}


def field_of(mesh: np.ndarray, region: Rect = WHOLE) -> motion.MotionField:
    return motion.field(mesh, motion.extended(mesh), region)


def at(values: np.ndarray, field: motion.MotionField, point: np.ndarray) -> float:
    x, y = np.round(field.to_grid(np.asarray(point, np.float32))[:2]).astype(int)
    return float(values[y, x])


def between(mesh: np.ndarray, a: int, b: int, part: float) -> np.ndarray:
    return mesh[a, :2] * (1 - part) + mesh[b, :2] * part


# --- contour ----------------------------------------------------------------------------------


@pytest.mark.parametrize("roll", [0, 0.9, np.pi / 2, np.pi])
def test_contour_is_nothing_outside_and_all_in_the_middle(roll: float):
    mesh = synthetic.mesh((63, 63), 100, roll=roll)
    field = field_of(mesh)
    contour = mask.contour(field, mesh)
    assert contour.dtype == np.float32
    assert contour.shape == field.inside.shape
    assert contour[field.inside == 0].max() == 0
    assert contour.max() <= 1
    for vertex in (1, 13, 14, 50, 280, 168, 159, 386):
        assert at(contour, field, mesh[vertex]) == 1


@pytest.mark.parametrize("roll", [0, np.pi / 2, np.pi])
def test_contour_rises_inward_and_fades_wider_at_the_hairline_than_at_the_chin(roll: float):
    mesh = synthetic.mesh((63, 63), 110, roll=roll)
    field = field_of(mesh)
    contour = mask.contour(field, mesh)
    depth = {}
    for name, vertex in (("hairline", 10), ("chin", 152), ("jaw", 172)):
        line = [at(contour, field, between(mesh, vertex, 1, t)) for t in np.linspace(0, 0.9, 60)]
        assert (np.diff(line) > -0.03).all()
        depth[name] = next(i for i, v in enumerate(line) if v > 0.5)
        assert line[-1] == 1
    assert depth["hairline"] > 1.4 * depth["chin"]
    assert depth["hairline"] > 1.2 * depth["jaw"]


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_contour_does_not_fade_where_the_frame_cuts_the_face(side: str):
    """What is in view has the very mask that it has when the whole face is in view."""
    mesh = synthetic.mesh((63, 63), 100)
    whole = field_of(mesh)
    cut = {
        "left": Rect(63, 0, 128, 128),
        "right": Rect(0, 0, 64, 128),
        "top": Rect(0, 60, 128, 128),
        "bottom": Rect(0, 0, 128, 64),
    }[side]
    part = field_of(mesh, cut)
    assert part.inside.shape == (cut.y1 - cut.y0, cut.x1 - cut.x0)
    got = mask.contour(part, mesh)
    np.testing.assert_allclose(got, mask.contour(whole, mesh)[cut.slices()], atol=0.02)
    border = {"left": got[:, 0], "right": got[:, -1], "top": got[0], "bottom": got[-1]}[side]
    assert border.max() == 1


# --- openings ---------------------------------------------------------------------------------


def area(mesh: np.ndarray, ring: tuple[int, ...]) -> float:
    return float(cv2.contourArea(mesh[list(ring), :2]))


@pytest.mark.parametrize("height", [100, 400])
@pytest.mark.parametrize("roll", [0, 1.2])
def test_openings_are_mouth_and_eyes(height: float, roll: float):
    mesh = synthetic.mesh((63 * height / 100, 63 * height / 100), height, roll=roll)
    side = round(128 * height / 100)
    field = field_of(mesh, Rect(0, 0, side, side))
    assert field.inside.shape == (128, 128)
    kept = mask.openings(field, mesh)
    rings = (landmarks.INNER_LIPS, landmarks.LEFT_EYE, landmarks.RIGHT_EYE)
    for ring in rings:
        assert at(kept, field, mesh[list(ring), :2].mean(0)) > 0.8
    for vertex in (50, 280, 1, 10, 152, 168):
        assert at(kept, field, mesh[vertex]) == 0
    cell = side / 128
    total = sum(area(mesh, r) for r in rings) / cell**2
    assert float(kept.sum()) == pytest.approx(total, rel=0.15)
    alone = mask.openings(field, mesh, eyes=False)
    assert at(alone, field, mesh[list(landmarks.LEFT_EYE), :2].mean(0)) == 0
    assert float(alone.sum()) == pytest.approx(area(mesh, rings[0]) / cell**2, rel=0.15)


def test_a_shut_mouth_keeps_next_to_nothing():
    mesh = synthetic.mesh((63, 63), 100)
    field = field_of(mesh)
    shut = mesh.copy()
    ring = list(landmarks.INNER_LIPS)
    shut[ring, 1] = shut[ring, 1].mean()
    kept = mask.openings(field, shut, eyes=False)
    assert kept.sum() < 0.35 * mask.openings(field, mesh, eyes=False).sum()


# --- forehead ---------------------------------------------------------------------------------


@pytest.mark.parametrize("roll", [0, -0.7, np.pi / 2, np.pi])
def test_forehead_is_above_the_brows_however_the_head_is_turned(roll: float):
    mesh = synthetic.mesh((63, 63), 90, roll=roll)
    field = field_of(mesh)
    forehead = mask.forehead(field, mesh)
    assert at(forehead, field, between(mesh, 9, 10, 0.5)) > 0.95
    assert at(forehead, field, between(mesh, 105, 103, 0.6)) > 0.95
    assert at(forehead, field, between(mesh, 9, 10, 0.95)) > 0.95
    for vertex in (159, 386, 1, 50, 280, 13, 152, 234):
        assert at(forehead, field, mesh[vertex]) == 0


# --- skin -------------------------------------------------------------------------------------


def skin_of(image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    field = field_of(mesh)
    return mask.skin(image, field.to_grid(mesh[list(mask.SKIN), :2]))


@pytest.mark.parametrize("tone", TONES.values(), ids=TONES)
def test_the_face_s_own_tone_is_skin_whatever_it_is(tone):
    mesh = synthetic.mesh((63, 63), 100)
    skin = skin_of(synthetic.picture(128, 128, mesh, skin=tone, background=(20, 60, 160)), mesh)
    bare = (50, 280, 101, 330, 151, 199)
    assert min(float(skin[tuple(np.round(mesh[v, 1::-1]).astype(int))]) for v in bare) > 0.95
    assert skin[2:8, 2:8].max() == 0  # background


@pytest.mark.parametrize("tone", TONES.values(), ids=TONES)
def test_noise_and_soft_light_are_still_skin(tone):
    mesh = synthetic.mesh((63, 63), 100)
    image = synthetic.picture(128, 128, mesh, skin=tone, background=tone)
    light = np.linspace(0.8, 1.15, 128)[None, :, None]
    noise = np.random.default_rng(1).normal(0, 3, image.shape)
    lit = np.clip(image * light + noise, 0, 255).astype(np.uint8)
    skin = skin_of(lit, mesh)
    assert np.median(skin) == 1
    assert skin[40:100, 20:30].mean() > 0.9
    assert skin[40:100, 98:108].mean() > 0.9


@pytest.mark.parametrize(
    "occluder", [(25, 35, 120), (30, 110, 40), (200, 30, 30)], ids=["blue", "green", "red"]
)
@pytest.mark.parametrize("tone", TONES.values(), ids=TONES)
def test_a_band_before_the_forehead_is_no_skin(tone, occluder):
    mesh = synthetic.mesh((63, 63), 100)
    image = synthetic.picture(128, 128, mesh, skin=tone)
    image[20:34] = occluder
    skin = skin_of(image, mesh)
    assert skin[23:31].max() < 0.1
    assert skin[round(float(mesh[50, 1])), round(float(mesh[50, 0]))] > 0.95


@pytest.mark.parametrize("name", ["very light", "light", "middle"])
def test_black_hair_is_no_skin(name: str):
    mesh = synthetic.mesh((63, 63), 100)
    image = synthetic.picture(128, 128, mesh, skin=TONES[name])
    image[20:34] = (22, 18, 16)
    assert skin_of(image, mesh)[23:31].max() < 0.1


def test_highlights_are_still_skin_and_shadows_of_the_same_size_less_so():
    image = np.full((64, 64, 3), (170, 120, 95), np.uint8)
    image[:20, :20] = (232, 180, 153)
    image[-20:, -20:] = (108, 60, 37)
    spots = np.stack(np.meshgrid(np.arange(24, 40, 2), np.arange(24, 40, 2)), -1).reshape(-1, 2)
    skin = mask.skin(image, spots.astype(np.float32))
    assert skin[5:15, 5:15].min() > 0.9
    assert skin[-15:-5, -15:-5].max() < skin[5:15, 5:15].min()


def test_without_enough_skin_in_view_all_counts():
    image = np.zeros((20, 20, 3), np.uint8)
    outside = np.full((30, 2), -5, np.float32)
    assert (mask.skin(image, outside) == 1).all()
    assert (mask.skin(image, np.full((7, 2), 5, np.float32)) == 1).all()


def test_skin_vertices_are_on_both_sides_and_on_none_of_the_features():
    features = {
        v
        for ring in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.OUTER_LIPS, landmarks.OVAL)
        for v in ring
    }
    assert not features & set(mask.SKIN)
    mirror = motion.mirror()
    assert {int(mirror[v]) for v in mask.SKIN} == set(mask.SKIN)


def test_a_profile_is_not_painted_and_half_a_turn_is():
    def turned(degrees: float) -> np.ndarray:
        mesh = synthetic.mesh((200, 200), 200).copy()
        a = np.radians(degrees)
        across = mesh[454] - mesh[234]
        width = float(np.hypot(across[0], across[1]))
        mesh[454] = mesh[234] + np.array([np.cos(a), 0, np.sin(a)]) * width
        return mesh

    assert [mask.facing(turned(d)) for d in (0, 30, -43)] == [1, 1, 1]
    assert mask.facing(turned(55)) == mask.facing(turned(-55)) == 0
    assert 1 > mask.facing(turned(46)) > mask.facing(turned(50)) > 0


def lids_at(mesh, left: float, right: float):
    """The mesh with its eyes open by shares of how far they are open."""
    out = mesh.copy()
    eyes = ((list(landmarks.LEFT_EYE), left), (list(landmarks.RIGHT_EYE), right))
    for ring, share in eyes:
        middle = out[ring, 1].mean()
        out[ring, 1] = middle + (out[ring, 1] - middle) * share
    return out


@pytest.mark.parametrize(
    ("left", "right", "shut"),
    [(1, 1, (0, 0)), (0.5, 0.5, (1, 1)), (0.4, 1.0, (1, 0)), (0.4, 0.75, (1, 1))],
    ids=["open", "shut", "a wink", "a blink of which the mesh sees one eye half"],
)
def test_lids_are_shut_by_how_open_these_eyes_usually_are(left, right, shut):
    mesh = synthetic.mesh((64, 64), 100)
    usual = landmarks.eye_opening(mesh)
    found = mask.shut_eyes(lids_at(mesh, left, right), 128, usual)
    for ring, wanted in zip((landmarks.LEFT_EYE, landmarks.RIGHT_EYE), shut, strict=True):
        x, y = mesh[list(ring), :2].mean(0).round().astype(int)
        assert found[y, x] == pytest.approx(wanted, abs=0.03)


def test_narrow_eyes_are_not_shut():
    narrow = lids_at(synthetic.mesh((64, 64), 100), 0.6, 0.6)
    assert mask.shut_eyes(narrow, 128, landmarks.eye_opening(narrow)).max() == 0
