"""Generators on drawn faces: what is painted where, in which light, and what stays the target's."""

from __future__ import annotations

import gc
from pathlib import Path

import cv2
import numpy as np
import pytest

import synthetic
from mien import blend, generate, identity, landmarks, motion
from mien.errors import ModelNotFound, UsageError
from mien.generate import mesh as mesh_
from mien.types import Frame, Identity, Patch, Portrait

LIGHT, DARK = (224, 184, 160), (104, 70, 52)


def person(image: np.ndarray, mesh: np.ndarray) -> Identity:
    """Somebody with this picture, as it is, for a portrait."""
    unit = np.zeros(512, np.float32)
    unit[0] = 1
    return Identity("somebody", unit, (Portrait(image, mesh),), synthetic.CONSENT)


def one(
    image: np.ndarray,
    mesh: np.ndarray,
    who: Identity,
    make: generate.MeshGenerator | None = None,
) -> Patch:
    (patch,) = (make or generate.MeshGenerator())(Frame(image), [synthetic.face(mesh)], [who])
    return patch


def pasted(image: np.ndarray, patch: Patch) -> np.ndarray:
    frame = Frame(image.copy())
    blend.soft(frame, patch)
    return frame.image


def on_patch(mesh: np.ndarray, patch: Patch) -> np.ndarray:
    """Vertices in pixels of the patch, rounded, ``(N, 2)``."""
    return np.round(mesh[:, :2] + patch.matrix[:, 2]).astype(int)


def difference(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b)[where].mean())


def full_mask(patch: Patch, image: np.ndarray) -> np.ndarray:
    out = np.zeros(image.shape[:2], np.uint8)
    x, y = (-patch.matrix[:, 2]).astype(int)
    h, w = patch.mask.shape
    out[y : y + h, x : x + w] = patch.mask
    return out


# --- geometry of the patch --------------------------------------------------------------------


@pytest.mark.parametrize("height", [40, 110, 260])
def test_patch_is_a_whole_pixel_shift_of_the_face_s_region(height: float):
    mesh = synthetic.mesh((151.3, 140.8), height)
    image = synthetic.picture(300, 300, mesh)
    patch = one(image, mesh, synthetic.identity())
    region = motion.region_of(mesh, 300, 300)
    np.testing.assert_array_equal(patch.matrix, [[1, 0, -region.x0], [0, 1, -region.y0]])
    assert patch.image.shape == (region.y1 - region.y0, region.x1 - region.x0, 3)
    assert patch.mask.shape == patch.image.shape[:2]
    assert patch.image.dtype == patch.mask.dtype == np.uint8


def test_the_frame_is_read_only_to_it():
    mesh = synthetic.mesh((100, 100), 120)
    image = synthetic.picture(200, 200, mesh)
    image.flags.writeable = False
    assert one(image, mesh, synthetic.identity()).mask.max() > 250


@pytest.mark.parametrize("centre", [(0, 100), (199, 100), (100, 0), (100, 199), (3, 197)])
def test_a_face_half_out_of_the_frame_is_painted_up_to_the_border(centre):
    mesh = synthetic.mesh(centre, 120)
    image = synthetic.picture(200, 200, mesh)
    patch = one(image, mesh, synthetic.identity(skin=DARK))
    mask = full_mask(patch, image)
    if centre[0] == 0:
        assert mask[60:100, 0].max() > 200
    if centre[0] == 199:
        assert mask[60:100, -1].max() > 200
    assert mask.max() > 200
    changed = np.abs(pasted(image, patch).astype(int) - image).max(-1) > 0
    assert not changed[mask == 0].any()


@pytest.mark.parametrize("centre", [(-400, 100), (100, 900), (-48, 100)])
def test_a_face_out_of_view_gives_nothing(centre):
    mesh = synthetic.mesh(centre, 120)
    faces = [synthetic.face(mesh)]
    image = np.zeros((200, 200, 3), np.uint8)
    assert generate.MeshGenerator()(Frame(image), faces, [synthetic.identity()]) == []


def test_a_tiny_face_is_left_alone_and_a_small_one_is_not():
    image = np.full((60, 60, 3), 150, np.uint8)
    make = generate.MeshGenerator()
    who = synthetic.identity()
    for height, count in ((3, 0), (6, 0), (16, 1)):
        faces = [synthetic.face(synthetic.mesh((30, 30), height))]
        assert len(make(Frame(image), faces, [who])) == count


def test_no_faces_and_faces_without_mesh():
    frame = Frame(np.zeros((60, 60, 3), np.uint8))
    make = generate.MeshGenerator()
    assert make(frame, [], []) == []
    face = synthetic.face(synthetic.mesh((30, 30), 40))
    with pytest.raises(ValueError, match=r"shorter|argument"):
        make(frame, [face], [])
    face.mesh = None
    with pytest.raises(ValueError, match="mesh"):
        make(frame, [face], [synthetic.identity()])


def test_each_face_gets_its_own_identity():
    left, right = synthetic.mesh((90, 100), 120), synthetic.mesh((310, 100), 120)
    image = synthetic.picture(400, 200, left, right)
    faces = [synthetic.face(right), synthetic.face(left)]
    people = [synthetic.identity(skin=LIGHT), synthetic.identity(skin=DARK)]
    first, second = generate.MeshGenerator(relight=False)(Frame(image), faces, people)
    for patch, mesh, skin in ((first, right, LIGHT), (second, left, DARK)):
        assert -patch.matrix[0, 2] == motion.region_of(mesh, 400, 200).x0
        x, y = on_patch(mesh, patch)[50]
        np.testing.assert_allclose(patch.image[y, x], skin, atol=6)


# --- what is painted --------------------------------------------------------------------------


@pytest.mark.parametrize("pose", [{}, {"roll": 0.5}, {"yaw": 0.35}])
@pytest.mark.parametrize("skin", [LIGHT, DARK], ids=["light", "dark"])
def test_a_portrait_onto_its_own_photo_changes_nothing_to_see(skin, pose):
    mesh = synthetic.mesh((128, 128), 150, **pose)
    image = synthetic.picture(256, 256, mesh, skin=skin)
    patch = one(image, mesh, person(image, mesh))
    mask = full_mask(patch, image)
    oval = cv2.contourArea(mesh[list(landmarks.OVAL), :2])
    assert (mask > 127).sum() > 0.55 * oval
    assert difference(pasted(image, patch), image, mask > 127) < 4


def test_pose_follows_the_target_and_features_the_portrait():
    """Brows drawn in the portrait appear where the turned target's mesh has its brows."""
    who = synthetic.identity(512, skin=LIGHT)
    mesh = synthetic.mesh((150, 150), 200, roll=0.6, yaw=0.3)
    bare = np.full((300, 300, 3), LIGHT, np.uint8)  # nothing but skin to copy from
    patch = one(bare, mesh, who, generate.MeshGenerator(relight=False))
    grey = patch.image.mean(-1)
    at = on_patch(mesh, patch)
    for brow, skin in ((105, 104), (334, 333), (66, 69), (296, 299)):
        assert grey[at[brow][1], at[brow][0]] < 0.6 * grey[at[skin][1], at[skin][0]]
    turned_wrong = synthetic.mesh((150, 150), 200, roll=-0.6, yaw=0.3)
    x, y = on_patch(turned_wrong, patch)[105]
    assert grey[y, x] > 0.8 * grey[at[104][1], at[104][0]]


def test_mouth_and_eyes_stay_the_target_s():
    mesh = synthetic.mesh((150, 150), 220)
    image = synthetic.picture(300, 300, mesh, skin=DARK)
    who = synthetic.identity(512, skin=LIGHT)
    patch = one(image, mesh, who)
    out = pasted(image, patch)
    spots = [mesh[list(r), :2].mean(0) for r in (landmarks.INNER_LIPS, landmarks.LEFT_EYE)]
    for x, y in np.round([*spots, mesh[473, :2]]).astype(int):
        around = np.s_[y - 1 : y + 2, x - 3 : x + 4]
        np.testing.assert_allclose(out[around], image[around], atol=2)
    x, y = on_patch(mesh, patch)[468]
    assert patch.mask[y, x] < 8
    own_eyes = one(image, mesh, who, generate.MeshGenerator(eyes=False))
    assert own_eyes.mask[y, x] > 250
    mouth = np.round(spots[0] + patch.matrix[:, 2]).astype(int)
    assert own_eyes.mask[mouth[1], mouth[0]] < 8


def test_a_fringe_of_the_target_stays_and_so_does_what_hides_its_face():
    mesh = synthetic.mesh((150, 150), 220)
    image = synthetic.picture(300, 300, mesh, skin=LIGHT)
    plain = one(image, mesh, synthetic.identity(512, skin=LIGHT))
    top, brow = mesh[10, 1], mesh[9, 1]
    rows = slice(round(top * 0.55 + brow * 0.45), round(top * 0.35 + brow * 0.65))
    columns = slice(120, 180)
    image[40 : rows.stop + 3] = (30, 22, 20)
    patch = one(image, mesh, synthetic.identity(512, skin=LIGHT))
    assert full_mask(plain, image)[rows, columns].min() > 150
    assert full_mask(patch, image)[rows, columns].max() < 25


def test_hair_in_the_portrait_is_not_painted():
    mesh = synthetic.mesh((150, 150), 220)
    image = synthetic.picture(300, 300, mesh, skin=LIGHT)
    source = synthetic.portrait(512, skin=LIGHT)
    top, brow = source.mesh[10, 1], source.mesh[9, 1]
    source.image[: round(top * 0.4 + brow * 0.6)] = (30, 22, 20)
    patch = one(image, mesh, person(source.image, source.mesh))
    low, high = mesh[10, 1], mesh[9, 1]
    rows = slice(round(low * 0.7 + high * 0.3), round(low * 0.5 + high * 0.5))
    assert full_mask(patch, image)[rows, 120:180].max() < 25
    assert full_mask(patch, image)[round(float(mesh[50, 1])), round(float(mesh[50, 0]))] > 200


def test_what_the_portrait_never_showed_is_not_painted():
    mesh = synthetic.mesh((150, 150), 220)
    image = synthetic.picture(300, 300, mesh)
    patch = one(image, mesh, synthetic.identity(512, yaw=1.1))
    at = on_patch(mesh, patch)
    far, near = (patch.mask[at[v][1], at[v][0]] for v in (352, 123))
    far, near = min(far, near), max(far, near)
    assert far < 60
    assert near > 200


# --- resolution -------------------------------------------------------------------------------


def striped(side: int) -> Portrait:
    """A portrait whose skin is striped as finely as its pixels allow, about the drawn tone."""
    made = synthetic.portrait(side)
    stripes = np.where(np.arange(side) % 2, 40, -40)[None, :, None]
    return Portrait(np.clip(made.image + stripes, 0, 255).astype(np.uint8), made.mesh)


def test_a_large_portrait_on_a_small_face_does_not_alias():
    source = striped(1024)
    mesh = synthetic.mesh((80.3, 80.7), 90)
    image = synthetic.picture(160, 160, mesh)
    plain = generate.MeshGenerator(relight=False)
    patch = one(image, mesh, person(source.image, source.mesh), plain)
    x, y = on_patch(mesh, patch)[280]
    cheek = patch.image[y - 5 : y + 6, x - 5 : x + 6].astype(float)
    assert cheek.std((0, 1)).max() < 3
    np.testing.assert_allclose(cheek.mean((0, 1)), synthetic.SKIN, atol=6)


@pytest.mark.parametrize(("height", "level"), [(600, 0), (290, 1), (145, 2), (70, 3)])
def test_the_level_is_the_one_just_above_the_target_s_resolution(height: float, level: int):
    paint = generate.prepare(synthetic.portrait(1024))  # the face is 602 pixels high
    mesh = synthetic.mesh((400, 400), height)
    flow = motion.field(mesh, paint.mesh, motion.region_of(mesh, 800, 800))
    chosen, lookup = mesh_.level_of(paint, flow)
    assert chosen == level
    np.testing.assert_allclose(lookup * 2**level, flow.lookup)


def test_detail_of_the_portrait_is_kept_where_the_target_has_room_for_it():
    source = striped(256)  # the face is 150 pixels high
    mesh = synthetic.mesh((200, 200), 300)
    image = synthetic.picture(400, 400, mesh)
    plain = generate.MeshGenerator(relight=False)
    patch = one(image, mesh, person(source.image, source.mesh), plain)
    x, y = on_patch(mesh, patch)[280]
    assert patch.image[y - 8 : y + 9, x - 8 : x + 9].astype(float).std((0, 1)).min() > 15


# --- light ------------------------------------------------------------------------------------


def low(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean colour under the mask in each cell of a 4×4 grid, ``(cells, 3)``."""
    out = []
    ys, xs = np.nonzero(mask)
    for rows in np.array_split(np.arange(ys.min(), ys.max() + 1), 4):
        for columns in np.array_split(np.arange(xs.min(), xs.max() + 1), 4):
            where = mask[np.ix_(rows, columns)]
            if where.mean() > 0.5:
                out.append(image[np.ix_(rows, columns)][where].mean(0))
    return np.array(out)


@pytest.mark.parametrize("case", ["dark on light", "light on dark", "side light", "red light"])
def test_relighting_takes_the_light_of_the_target(case: str):
    mesh = synthetic.mesh((150, 150), 200)
    source, skin = {"dark on light": (DARK, LIGHT), "light on dark": (LIGHT, DARK)}.get(
        case, (LIGHT, LIGHT)
    )
    image = synthetic.picture(300, 300, mesh, skin=skin).astype(float)
    if case == "side light":
        image *= np.linspace(0.45, 1.1, 300)[None, :, None]
    if case == "red light":
        image *= (1.1, 0.7, 0.6)
    image = np.clip(image, 0, 255).astype(np.uint8)
    who = synthetic.identity(512, skin=source)
    lit, plain = one(image, mesh, who), one(image, mesh, who, generate.MeshGenerator(relight=False))
    solid = full_mask(plain, image) > 200
    solid &= full_mask(lit, image) > 200
    wanted = low(image, solid)

    def off(patch: Patch) -> float:
        opaque = Patch(patch.image, np.full_like(patch.mask, 255), patch.matrix)
        return float(np.abs(low(pasted(image, opaque), solid) - wanted).mean())

    assert off(plain) > 15
    assert off(lit) < 0.3 * off(plain)


def test_warp_does_not_relight():
    mesh = synthetic.mesh((150, 150), 200)
    image = synthetic.picture(300, 300, mesh, skin=DARK)
    who = synthetic.identity(512, skin=LIGHT)
    make = generate.load("warp")
    (patch,) = make(Frame(image), [synthetic.face(mesh)], [who])
    for vertex in (50, 280, 151, 199):
        x, y = on_patch(mesh, patch)[vertex]
        np.testing.assert_allclose(patch.image[y, x], LIGHT, atol=6)


def test_light_gives_the_source_the_target_s_colour():
    source = np.full((64, 64, 3), (100, 80, 60), np.uint8)
    target = np.full((64, 48, 3), (120, 70, 90), np.uint8)
    weight = np.ones((64, 64), np.float32)
    gain, bias = generate.light(source, weight, target[:, :48].repeat(2, 1)[:, :64], weight)
    wanted = (124 / 104, 74 / 84, 94 / 64)
    assert np.abs(gain - wanted).max() < 1e-4
    lit = gain * (100, 80, 60) + bias
    np.testing.assert_allclose(np.abs(lit - (120, 70, 90)).max(), 0, atol=0.01)


@pytest.mark.parametrize(("source", "target"), [(10, 240), (240, 10)])
def test_the_gain_is_bounded_and_the_bias_makes_up_for_it(source: int, target: int):
    ones = np.ones((40, 40), np.float32)
    gain, bias = generate.light(
        np.full((40, 40, 3), source, np.uint8), ones, np.full((40, 40, 3), target, np.uint8), ones
    )
    assert gain.min() >= 0.34
    assert gain.max() <= 2.21
    np.testing.assert_allclose(gain * source + bias, target, atol=0.01)


def test_what_has_next_to_no_weight_does_not_bleed_into_the_light():
    target = np.full((64, 64, 3), 120, np.uint8)
    weight = np.ones((64, 64), np.float32)
    target[:, 40:], weight[:, 40:] = 255, 1e-3  # as the generator does, never quite nothing
    source = np.full((64, 64, 3), 100, np.uint8)
    gain, bias = generate.light(source, np.ones((64, 64), np.float32), target, weight)
    lit = gain * 100 + bias
    np.testing.assert_allclose(lit[:, : lit.shape[1] // 2], 120, atol=1)


# --- contrast ---------------------------------------------------------------------------------


def grain(spread: float, size: int = 96) -> np.ndarray:
    """Grey with detail of a few pixels."""
    rng = np.random.default_rng(3)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), 1.0)
    grey = np.clip(128 + spread * noise / noise.std(), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2)


def test_contrast_is_the_spread_of_log_luminance():
    ones = np.ones((96, 96), np.float32)
    assert generate.detail(grain(0), ones).contrast == pytest.approx(0, abs=1e-3)
    measured = [generate.detail(grain(s), ones).contrast for s in (5, 10, 20, 40)]
    assert measured == sorted(measured)
    assert measured[2] == pytest.approx(2 * measured[1], rel=0.15)


def test_detail_is_read_where_the_weight_is():
    image = grain(0)
    image[:, 60:] = grain(50)[:, 60:]
    weight = np.zeros((96, 96), np.float32)
    weight[:, :40] = 1
    assert generate.detail(image, weight).contrast < 0.02
    assert generate.detail(image, 1 - weight).contrast > 0.1


def test_sharpness_falls_with_blur_and_not_with_contrast():
    ones = np.ones((96, 96), np.float32)
    sharp = generate.detail(grain(20), ones).sharpness
    assert generate.detail(grain(40), ones).sharpness == pytest.approx(sharp, rel=0.1)
    soft = [
        generate.detail(cv2.GaussianBlur(grain(40), (0, 0), s), ones).sharpness for s in (1, 2, 3)
    ]
    assert sharp > soft[0] > soft[1] > soft[2]


def test_a_blur_is_made_good_for_and_nothing_else():
    assert generate.match_sharpness(0.6, 0.6) == generate.match_sharpness(0.6, 5.0) == 0
    assert generate.match_sharpness(0.0, 0.3) == 0  # a portrait without detail stays as it is
    blurs = [generate.match_sharpness(0.6, 0.6 / (1 + 1.2 * s**1.6)) for s in (0.8, 1.0, 1.5)]
    np.testing.assert_allclose(blurs, [0.8, 1.0, 1.5], atol=0.35)
    assert blurs == sorted(blurs)
    assert generate.match_sharpness(0.6, 0.0) == 2.0


def test_contrast_only_falls_and_not_without_bound():
    assert generate.match_contrast(0.2, 0.2) == 1
    assert generate.match_contrast(0.05, 0.4) == 1  # smooth skin is not made rough
    assert generate.match_contrast(5.0, 0.0) == generate.match_contrast(9.0, 0.0) == 0.5
    falling = [generate.match_contrast(s, 0.1) for s in (0.1, 0.15, 0.2, 0.25)]
    assert falling == sorted(set(falling), reverse=True)
    assert 0.5 < falling[-1] < falling[0] == 1


# --- even light -------------------------------------------------------------------------------


def halves(image: np.ndarray, mesh: np.ndarray) -> float:
    """Mean difference in log luminance between mirrored spots of skin."""
    grey = cv2.GaussianBlur(image.astype(np.float32).mean(-1), (0, 0), 2)
    sides = []
    for vertex in (50, 101, 205, 117, 69, 187):
        pair = []
        for v in (vertex, int(motion.mirror()[vertex])):
            x, y = np.round(mesh[v, :2]).astype(int)
            pair.append(np.log(grey[y, x]))
        sides.append(abs(pair[0] - pair[1]))
    return float(np.mean(sides))


def half_shadowed(dark_side: int) -> Portrait:
    made = synthetic.portrait(384, skin=LIGHT)
    across = dark_side * (np.arange(384) - 191.5) / 384
    shadow = 1 - 0.5 / (1 + np.exp(-across * 40))
    return Portrait((made.image * shadow[None, :, None]).astype(np.uint8), made.mesh)


@pytest.mark.parametrize("dark_side", [-1, 1])
def test_even_light_takes_a_half_shadow_away(dark_side: int):
    made = half_shadowed(dark_side)
    even = generate.even_light(made.image, made.mesh, np.ones((128, 128), np.float32))
    assert even.shape == made.image.shape
    assert even.dtype == np.uint8
    before, after = halves(made.image, made.mesh), halves(even, made.mesh)
    assert before > 0.4
    assert after < 0.3 * before


def test_portraits_are_lit_evenly_before_use():
    made = half_shadowed(1)
    used = generate.prepare(made).levels[0]
    assert halves(used, made.mesh) < 0.5 * halves(made.image, made.mesh)


def test_even_light_leaves_an_evenly_lit_face_alone():
    made = synthetic.portrait(384, skin=LIGHT)
    even = generate.even_light(made.image, made.mesh, np.ones((128, 128), np.float32))
    oval = np.zeros((384, 384), np.uint8)
    ring = made.mesh[list(landmarks.OVAL), :2]
    cv2.fillPoly(oval, [np.round(ring).astype(np.int32)], 1)
    inner = cv2.erode(oval, np.ones((15, 15))) > 0
    assert difference(even, made.image, inner) < 4


def test_warp_leaves_the_light_of_the_portrait_and_a_profile_is_left_out():
    portrait = synthetic.portrait(256)
    dim = portrait.image.copy()
    dim[:, :128] //= 2
    shaded = Portrait(dim, portrait.mesh)
    np.testing.assert_array_equal(generate.prepare(shaded, even=False).levels[0], dim)
    assert (generate.prepare(shaded).levels[0] != dim).any()
    mesh = synthetic.mesh((100, 100), 120).copy()
    mesh[454, 2] += 200  # far beyond what a face in view can be turned
    face = synthetic.face(mesh)
    image = synthetic.picture(200, 200, mesh)
    assert generate.MeshGenerator()(Frame(image), [face], [synthetic.identity()]) == []


# --- once for each identity -------------------------------------------------------------------


def test_what_depends_on_the_identity_alone_is_done_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    real = mesh_.prepare

    def counted(portrait: Portrait, *, even: bool) -> generate.Paint:
        calls.append(portrait)
        return real(portrait, even=even)

    monkeypatch.setattr(mesh_, "prepare", counted)
    make = generate.MeshGenerator()
    one_, other = synthetic.identity(), synthetic.identity(skin=DARK)
    mesh = synthetic.mesh((100, 100), 120)
    image = synthetic.picture(200, 200, mesh)
    for _ in range(4):
        make(Frame(image), [synthetic.face(mesh)] * 2, [one_, other])
    assert [p is i.portraits[0] for p, i in zip(calls, (one_, other), strict=True)] == [True] * 2
    first = one(image, mesh, one_, make)
    np.testing.assert_array_equal(one(image, mesh, one_, make).image, first.image)


def test_what_was_prepared_goes_with_the_identity():
    make = generate.MeshGenerator()
    who = synthetic.identity()
    make.prepare(who)
    assert len(make._prepared) == 1
    del who
    gc.collect()
    assert len(make._prepared) == 0


def test_the_best_portrait_is_used():
    best, other = synthetic.portrait(256, LIGHT), synthetic.portrait(256, DARK)
    who = Identity("two", np.zeros(512, np.float32), (best, other), synthetic.CONSENT)
    paint = generate.MeshGenerator().prepare(who)
    x, y = np.round(best.mesh[50, :2]).astype(int)
    np.testing.assert_allclose(paint.levels[0][y, x], LIGHT, atol=6)
    sides = [level.shape[0] for level in paint.levels]
    assert sides == [256, 128, 64, 32]
    assert [o.shape[0] for o in paint.own] == sides


def test_generators_have_names():
    assert [generate.load(n).relight for n in ("mesh", "warp")] == [True, False]
    assert isinstance(generate.load("relight"), generate.relight.RelightGenerator)
    assert set(generate.GENERATORS) == {"relight", "mesh", "warp"}
    with pytest.raises(ModelNotFound, match=r"'gan' is unknown; known are relight, mesh, warp"):
        generate.load("gan")


@pytest.mark.parametrize("name", ["mesh:shape=0.5", "warp:eyes=target"])
def test_generators_without_a_network_take_no_options(name: str):
    with pytest.raises(UsageError, match=f"generator '{name}': (mesh|warp) takes no options"):
        generate.load(name)


# --- real photos ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(footage: Path) -> dict[str, tuple[np.ndarray, np.ndarray, Identity]]:
    """Image, mesh and identity (of the cut-out portrait) by name."""
    from mien import detect, media

    look, fit = detect.load(), landmarks.load()
    out = {}
    for name in ("lp_d9", "lp_s1", "lp_d38"):
        image = media.read_image(footage / "portraits" / f"{name}.jpg")
        faces = identity.find_faces(Frame(image), look, fit)
        cut = identity.cut_out(image, faces[0])
        out[name] = (image, faces[0].mesh, person(cut.image, cut.mesh))
    return out


@pytest.mark.media
@pytest.mark.parametrize("name", ["lp_d9", "lp_s1", "lp_d38"])
@pytest.mark.parametrize("evened", [False, True])
def test_a_real_portrait_onto_its_own_photo(photos, name: str, evened: bool, monkeypatch):
    """Nothing to see changes, but for the side light, which is taken out of portraits."""
    image, mesh, who = photos[name]
    if not evened:
        monkeypatch.setattr(mesh_, "even_light", lambda image, mesh, own: image)
    patch = one(image, mesh, who)
    mask = full_mask(patch, image)
    assert (mask > 127).sum() > 0.4 * cv2.contourArea(mesh[list(landmarks.OVAL), :2])
    assert difference(pasted(image, patch), image, mask > 127) < (12 if evened else 6)


@pytest.mark.media
def test_a_real_portrait_takes_the_light_of_another_photo(photos):
    image, mesh, _ = photos["lp_d9"]
    who = photos["lp_s1"][2]
    lit, plain = one(image, mesh, who), one(image, mesh, who, generate.MeshGenerator(relight=False))
    solid = (full_mask(lit, image) > 200) & (full_mask(plain, image) > 200)
    wanted = low(image, solid)
    off = [np.abs(low(pasted(image, p), solid) - wanted).mean() for p in (lit, plain)]
    assert off[0] < 0.4 * off[1]
