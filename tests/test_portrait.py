"""Portraits made clean: noise, light, what lies on the face, what the photo does not show."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mien import identity, media, motion
from mien import portrait as restoring
from mien.generate import texture
from mien.landmarks import LEFT_EYE, OVAL
from mien.motion import mirror
from mien.portrait import grids, light, noise
from mien.portrait.photo import is_grey
from mien.types import Frame
from synthetic import SKIN, portrait


def black(image, mesh):
    """The occlusion network of these tests: what is black is in front."""
    hidden = (image.max(2) < 12).astype(np.uint8)
    return cv2.dilate(hidden, np.ones((3, 3), np.uint8)).astype(np.float32)


def painted(photo, points, radius, colour=(0, 0, 0)):
    """The photo with discs at vertices of its mesh."""
    image = photo.image.copy()
    for vertex in points:
        centre = tuple(np.round(photo.mesh[vertex, :2]).astype(int).tolist())
        cv2.circle(image, centre, radius, colour, -1)
    return replace(photo, image=image)


def colour_at(made, vertex, radius=3):
    x, y = np.round(made.mesh[vertex, :2]).astype(int)
    near = made.image[y - radius : y + radius + 1, x - radius : x + radius + 1]
    return near.reshape(-1, 3).mean(0)


def test_clean_picture_stays():
    photo = portrait()
    made = restoring.restore([photo])
    assert np.abs(made.image.astype(int) - photo.image).mean() < 1
    assert np.array_equal(made.mesh, photo.mesh[:468])
    assert not made.grey
    inside = made.own[made.mesh[[1, 50, 280, 151, 199], 1].astype(int),
                      made.mesh[[1, 50, 280, 151, 199], 0].astype(int)]  # fmt: skip
    assert inside.min() > 240
    assert made.own[0].max() == 0


def test_clean_photo_is_not_smoothed(examples, swapper):
    image = media.read_image(examples / "portrait-1.jpg")
    face = identity.the_face(
        identity.find_faces(Frame(image), swapper.detector, swapper.landmarks), "", None
    )
    photo = identity.cut_out(image, face)
    assert noise.denoise(photo.image, photo.mesh) is photo.image
    made = restoring.restore([photo])
    seen = (made.trust > 250) & (made.own > 250)
    change = np.abs(made.image.astype(int) - photo.image)[seen]
    assert seen.mean() > 0.1
    assert change.mean() < 8  # light from the side
    fine = [np.asarray(i, np.float32) - cv2.GaussianBlur(np.asarray(i, np.float32), (0, 0), 1.5)
            for i in (photo.image, made.image)]  # fmt: skip
    assert fine[1][seen].std() > 0.9 * fine[0][seen].std()


@pytest.mark.parametrize("sigma", [6.0, 12.0])
def test_noise_is_halved_and_edges_stay(sigma):
    photo = portrait(320)
    rng = np.random.default_rng(1)
    noisy = photo.image + rng.normal(0, sigma, (*photo.image.shape[:2], 1))
    noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    measured = noise.noise(np.ascontiguousarray(noisy[..., 0]), photo.mesh)
    assert measured.sure == pytest.approx(sigma, rel=0.25)
    made = noise.denoise(noisy, photo.mesh)
    x, y = np.round(photo.mesh[50, :2]).astype(int)
    cheek = np.s_[y - 8 : y + 8, x - 8 : x + 8]
    assert made[cheek].std((0, 1)).max() < 0.5 * noisy[cheek].std((0, 1)).max()
    # Across the outline of the cheek, skin to background within two pixels, as before.
    row = round(float(photo.mesh[234, 1]))
    edge = round(float(photo.mesh[234, 0]))
    step = [i[row - 3 : row + 4, edge + 2].mean() - i[row - 3 : row + 4, edge - 3].mean()
            for i in (photo.image.astype(float), made.astype(float))]  # fmt: skip
    assert step[1] == pytest.approx(step[0], rel=0.15)


def test_side_light_is_evened():
    photo = portrait()
    ramp = np.linspace(0.4, 1.3, photo.image.shape[1])[None, :, None]
    lit = replace(photo, image=np.clip(photo.image * ramp, 0, 255).astype(np.uint8))
    made = restoring.restore([lit])

    def uneven(picture):
        left, right = (colour_at(picture, v).mean() for v in (50, 280))
        return right / left

    assert uneven(lit) > 1.2
    assert uneven(made) == pytest.approx(1, abs=0.06)


def test_cast_shadow_is_lifted_within_its_edge():
    photo = portrait(320)
    shade = np.ones(photo.image.shape[:2], np.float32)
    ring = [50, 205, 187, 147, 123, 117]
    area = np.round(photo.mesh[ring, :2]).astype(np.int32)
    cv2.fillPoly(shade, [area], 0.55)
    shadowed = (photo.image * shade[..., None]).astype(np.uint8)
    made = restoring.restore([replace(photo, image=shadowed)])
    middle = tuple(np.round(photo.mesh[ring, :2].mean(0)).astype(int)[::-1])
    lit, was = made.image[middle].mean(), shadowed[middle].mean()
    whole = photo.image[middle].mean()
    assert was < 0.6 * whole
    assert lit == pytest.approx(whole, rel=0.1)
    # Nothing is made of it on the other side.
    other = tuple(np.round(photo.mesh[mirror()[ring], :2].mean(0)).astype(int)[::-1])
    assert made.image[other].mean() == pytest.approx(whole, rel=0.06)
    assert np.ptp(made.image[middle] / made.image[other]) < 0.08  # no tint


def test_a_bar_over_one_side_comes_from_the_other():
    photo = painted(portrait(), [280, 330], 9)
    made = restoring.restore([photo], black)
    assert colour_at(photo, 280).mean() < 5
    assert colour_at(made, 280) == pytest.approx(np.array(SKIN), abs=6)
    x, y = np.round(made.mesh[280, :2]).astype(int)
    assert 100 < made.trust[y, x] < 160
    assert made.own[y, x] > 240


def test_a_bar_over_both_sides_is_continued_from_the_skin():
    photo = portrait()
    image = photo.image.copy()
    top, bottom = (round(float(photo.mesh[v, 1])) for v in (10, 9))
    image[: (top + 2 * bottom) // 3] = 0
    made = restoring.restore([replace(photo, image=image)], black)
    assert colour_at(made, 151) == pytest.approx(np.array(SKIN), abs=8)
    x, y = np.round(made.mesh[151, :2]).astype(int)
    assert made.trust[y, x] < 90
    assert made.own[y, x] > 240


def test_further_photos_show_what_the_first_hides():
    first = painted(portrait(), [50, 280], 14)
    second = painted(portrait(skin=(190, 140, 115)), [50], 4, (120, 170, 120))
    made = restoring.restore([first, second], black)
    x, y = np.round(made.mesh[280, :2]).astype(int)
    assert made.trust[y, x] > 180
    assert colour_at(made, 280) == pytest.approx(np.array(SKIN), abs=8)
    # The mark of the second photo is on one side only, and there it is.
    red, green, _ = colour_at(made, 50, 1)
    assert green > red


def test_a_covered_eye_is_not_made_up():
    photo = painted(portrait(), [159, 145, 33, 133], 9)
    made = restoring.restore([photo], black)
    x, y = np.round(made.mesh[list(LEFT_EYE), :2].mean(0)).astype(int)
    assert made.own[y, x] < 100


def test_a_turned_face_gets_both_sides():
    photo = portrait(320, yaw=np.radians(32))
    made = restoring.restore([photo])
    assert abs(float(made.mesh[454, 2] - made.mesh[234, 2])) < 1
    across = made.mesh[mirror(), 0] + made.mesh[:, 0]
    assert np.ptp(across) < 0.5  # the canvas is symmetric
    for vertex in (50, 280, 123, 352):
        assert colour_at(made, vertex) == pytest.approx(np.array(SKIN), abs=10)
        x, y = np.round(made.mesh[vertex, :2]).astype(int)
        assert made.own[y, x] > 200
    outline = cv2.fillPoly(np.zeros(made.own.shape, np.uint8),
                           [np.round(made.mesh[list(OVAL), :2]).astype(np.int32)], 1)  # fmt: skip
    assert made.own[outline == 0].mean() < 12


def test_black_and_white_is_said():
    photo = portrait()
    grey = np.repeat(photo.image.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert is_grey(grey, photo.mesh)
    made = restoring.restore([replace(photo, image=grey)])
    assert made.grey
    assert np.ptp(made.image, axis=2).max() <= 3


def test_membrane_keeps_what_is_known_and_hangs_between():
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(48, 0)
    weight = np.ones((48, 64), np.float32)
    weight[10:38, 20:44] = 0
    out = grids.spread(ramp * weight[..., None], weight)
    assert out[weight > 0] == pytest.approx(ramp[weight > 0], abs=1e-5)
    assert out[weight == 0] == pytest.approx(ramp[weight == 0], abs=0.06)


def test_even_leaves_an_even_face():
    photo = portrait()
    bare = np.ones(mesh_grid(photo), np.float32)
    made, shade = light.even(photo.image, photo.mesh[:468], bare)
    assert np.abs(made.astype(int) - photo.image).mean() < 0.5
    assert shade.max() < 0.1


def mesh_grid(photo):
    side = photo.image.shape[0]
    region = motion.region_of(photo.mesh, side, side)
    extended = motion.extended(photo.mesh)
    return motion.field(photo.mesh, extended, region, grid=grids.CELLS).inside.shape


def shadowed(share):
    """A portrait with one side, from an edge beside the nose on, in a hard shadow."""
    photo = portrait(384)
    image = photo.image.astype(np.float32)
    edge = int(photo.mesh[[4, 280], 0].mean())
    image[:, edge:] *= share
    return replace(photo, image=image.astype(np.uint8)), edge


def test_no_streak_stays_along_the_edge_of_a_shadow():
    photo, edge = shadowed(0.6)
    made = restoring.restore([photo])
    row = int(photo.mesh[[50, 280], 1].mean())
    luma = made.image[row - 8 : row + 9, edge - 12 : edge + 12].mean((0, 2))
    before = photo.image[row - 8 : row + 9, edge - 12 : edge + 12].mean((0, 2))
    assert np.ptp(before) > 60
    # Light that is a pixel off leaves 59 grey levels here, bright beside dark.
    assert np.ptp(luma) < 35


@pytest.mark.parametrize(("share", "evened"), [(0.6, True), (0.05, False)])
def test_the_evened_portrait_is_painted_unless_too_much_is_guessed(share, evened):
    photo, _ = shadowed(share)
    clean = restoring.restore([photo])
    assert (clean.dark < texture.DARK[0]) == evened
    paint = texture.texture_of(photo, clean).levels[0]
    inside = clean.own > 250
    away = np.abs(paint.astype(int) - clean.image).max(2)[inside]
    assert (float(away.max()) == 0) == evened
