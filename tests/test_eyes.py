"""Eyes on a drawn face whose irises and gaze are known, and on footage."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mien import eyes
from mien.landmarks import LEFT_EYE, RIGHT_EYE, eye_opening
from mien.types import Floats, Image

BROWN = (90, 55, 30)
BLUE = (110, 140, 180)
WHITE = (215, 212, 208)
SKIN = (190, 150, 130)
RADIUS = 15.0
CENTRES = np.array([[70.0, 110.0], [220.0, 110.0]])  # 150 between the eyes


def drawn(
    iris: tuple[int, int, int] = BROWN,
    *,
    gaze: tuple[float, float] = (0.0, 0.0),
    opening: float = 0.36,
    size: tuple[int, int] = (290, 220),
) -> tuple[Image, Floats]:
    """A face of two eyes, 66 pixels wide, and its mesh; gaze in pixels."""
    width, height = size
    mesh = np.zeros((478, 3), np.float32)
    mesh[:, :2] = (145, 130)
    mesh[10, :2], mesh[152, :2] = (145, 0), (145, 220)
    image = np.full((height, width, 3), SKIN, np.uint8)
    for ring, first, centre in zip((LEFT_EYE, RIGHT_EYE), (468, 473), CENTRES, strict=True):
        turn = np.arange(16) * np.pi / 8
        sign = -1 if ring is LEFT_EYE else 1
        points = np.stack([sign * 33 * np.cos(turn), -33 * opening * np.sin(turn)], 1) + centre
        mesh[list(ring), :2] = points
        at = centre + gaze
        mesh[first, :2] = at
        mesh[first + 1 : first + 5, :2] = at + RADIUS * np.array([[1, 0], [0, -1], [-1, 0], [0, 1]])
        eye = np.full((height * 4, width * 4, 3), WHITE, np.uint8)
        where = tuple(np.round((at + 0.5) * 64 - 8).astype(int))
        cv2.circle(eye, where, round(RADIUS * 64), iris, -1, cv2.LINE_AA, 4)
        cv2.circle(eye, where, round(RADIUS * 22), (12, 10, 10), -1, cv2.LINE_AA, 4)
        inside = np.zeros((height * 4, width * 4), np.uint8)
        cv2.fillPoly(inside, [np.round((points + 0.5) * 64 - 8).astype(np.int32)], 255, 8, 4)
        big = cv2.resize(image, (width * 4, height * 4), interpolation=cv2.INTER_NEAREST)
        big[inside > 0] = eye[inside > 0]
        image = np.asarray(cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return image, mesh


def painted(target: tuple[Image, Floats], balls: eyes.Eyeballs) -> Image:
    out = target[0].copy()
    eyes.over(out, eyes.paint(*target, balls))
    return out


def ready(portrait: tuple[Image, Floats]) -> eyes.Eyeballs:
    balls = eyes.prepare(*portrait)
    assert balls is not None
    return balls


def at(image: Image, side: int, offset: tuple[float, float]) -> np.ndarray:
    x, y = np.round(CENTRES[side] + offset).astype(int)
    return image[y, x].astype(float)


def test_prepare_measures_radius_and_colour():
    balls = ready(drawn(BLUE, gaze=(4, 0)))
    assert balls.radius == pytest.approx(0.1, rel=0.06)
    for levels in balls.irises:
        texture = levels[0]
        c = texture.shape[0] // 2
        body = texture[c, c + round(0.6 * eyes.UNIT)]
        assert body[:3] == pytest.approx(np.array(BLUE) / WHITE, abs=0.07)
        assert body[3] == 1
        assert texture[c, c, :3].max() < 0.2  # the pupil
        assert texture[c, -1, 3] == 0


def test_prepare_corrects_an_iris_that_the_mesh_misses():
    image, mesh = drawn(BROWN)
    mesh[468:478, 0] += 3
    assert ready((image, mesh)).radius == pytest.approx(0.1, rel=0.1)
    texture = ready((image, mesh)).irises[0][0]
    c = texture.shape[0] // 2
    left, right = texture[c, c - 20, :3], texture[c, c + 20, :3]
    assert left == pytest.approx(right, abs=0.05)


def test_a_catch_light_is_not_taken_for_the_iris():
    image, mesh = drawn(BROWN)
    for centre in CENTRES:
        x, y = centre.astype(int)
        cv2.circle(image, (int(x) + 5, int(y) - 4), 3, (255, 255, 255), -1)
    texture = ready((image, mesh)).irises[0][0]
    assert texture[..., :3].max() < 0.55


@pytest.mark.parametrize("opening", [0.0, 0.05])
def test_shut_eyes_are_no_portrait(opening):
    assert eyes.prepare(*drawn(opening=opening)) is None


def test_nothing_but_skin_is_no_portrait():
    image, mesh = drawn()
    assert eyes.prepare(np.full_like(image, 128), mesh) is None


def test_one_bad_eye_takes_the_other():
    image, mesh = drawn(BLUE)
    image[:, :145] = SKIN
    balls = ready((image, mesh))
    c = balls.irises[0][0].shape[0] // 2
    mirrored = balls.irises[1][0][c, c - 20, :3]
    assert balls.irises[0][0][c, c + 20, :3] == pytest.approx(mirrored)
    assert mirrored == pytest.approx(np.array(BLUE) / WHITE, abs=0.07)


@pytest.mark.parametrize("gaze", [(0.0, 0.0), (9.0, 0.0), (-9.0, 1.5)])
def test_iris_is_painted_where_the_target_looks(gaze):
    out = painted(drawn(BROWN, gaze=gaze), ready(drawn(BLUE)))
    for side in (0, 1):
        centre = at(out, side, gaze)
        body = at(out, side, (gaze[0] + 8, gaze[1]))
        assert centre.max() < 80
        assert body == pytest.approx(np.array(BLUE), abs=28)
        assert body[2] > body[0] + 25  # blue
        away = -22 if gaze[0] >= 0 else 22
        assert at(out, side, (away, 1)) == pytest.approx(np.array(WHITE), abs=30)


def test_light_is_the_targets():
    image, mesh = drawn(BROWN)
    dim = (image * 0.5).astype(np.uint8)
    balls = ready(drawn(BLUE))
    lit = at(painted((image, mesh), balls), 0, (9, 0))
    assert at(painted((dim, mesh), balls), 0, (9, 0)) == pytest.approx(lit * 0.5, abs=8)


def test_nothing_outside_the_lids_changes():
    target = drawn(BROWN)
    out = painted(target, ready(drawn(BLUE)))
    changed = np.abs(out.astype(int) - target[0]).max(2) > 2
    ys, xs = np.nonzero(changed)
    assert len(ys)
    assert abs(ys - 110).max() < 33 * 0.36 + 4
    assert min(abs(xs - 70).max(), abs(xs - 220).max()) > 30  # both eyes


def test_an_eye_that_shuts_fades_out():
    balls = ready(drawn(BLUE))
    strengths = []
    for opening in (0.3, 0.14, 0.12, 0.1, 0.08, 0.03):
        layers = eyes.paint(*drawn(BROWN, opening=opening), balls)
        strengths.append(float(eyes.sight(drawn(opening=opening)[1]).shown[0]))
        assert bool(layers) == (strengths[-1] > 0)
    assert strengths[0] == 1
    assert strengths[-1] == 0
    steps = -np.diff(strengths[1:])
    assert steps.min() >= 0
    assert steps.max() < 0.5


def test_sight_steadies_what_only_one_eye_says():
    _, mesh = drawn(gaze=(3, 0))
    straight = eyes.sight(mesh)
    mesh[468:473, 1] += 2
    moved = eyes.sight(mesh).centres - straight.centres
    assert moved[:, 1] == pytest.approx([1.2, 0.8], abs=0.15)
    assert straight.centres == pytest.approx(CENTRES + np.array([3, 0]), abs=0.2)
    assert straight.radius == pytest.approx(RADIUS, rel=0.01)
    assert straight.distance == pytest.approx(150, rel=0.01)


def test_shut_removes_slivers_and_leaves_open_eyes_alone():
    image, mesh = drawn(opening=0.02)
    cv2.line(image, (55, 112), (85, 112), (255, 255, 255), 2)
    eyes.shut(image, mesh)
    assert image[112, 60:80].max() < 215
    image, mesh = drawn()
    before = image.copy()
    eyes.shut(image, mesh)
    assert np.array_equal(image, before)


def test_eyes_cut_by_the_frame_do_not_fail():
    image, mesh = drawn()
    balls = ready((image, mesh))
    for dx, dy in ((-70, 0), (100, 0), (0, -110), (0, 115), (500, 500)):
        moved = mesh + np.float32([dx, dy, 0])
        out = image.copy()
        eyes.over(out, eyes.paint(image, moved, balls))
        eyes.shut(out, moved)


def test_footage(footage: Path):
    from mien import detect, identity, landmarks, media
    from mien.types import Face, Frame

    finder, fitter = detect.load(), landmarks.load()

    def face(path: Path) -> tuple[Image, Floats]:
        image = media.read_image(path)
        found = identity.find_faces(Frame(image), finder, fitter)
        mesh = max(found, key=lambda f: float(f.box[2] - f.box[0])).mesh
        assert mesh is not None
        return image, mesh

    balls = ready(face(footage / "portraits" / "lp_d9.jpg"))
    assert 0.085 < balls.radius < 0.115
    assert eyes.prepare(*face(footage / "hard" / "if_reaction_close_eyes.jpeg")) is None
    image, mesh = face(footage / "portraits" / "tbbt_Raj.jpg")
    out = painted((image, mesh), balls)
    x, y = np.round(eyes.sight(mesh).centres[0]).astype(int)
    r = round(eyes.sight(mesh).radius)
    below = np.s_[y + r // 2 : y + r // 2 + 4, x - 3 : x + 4]
    assert out[below].mean() > image[below].mean() + 15  # light eyes in place of dark ones
    blank = Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32), mesh)
    again = fitter(Frame(out), [blank])[0].mesh
    before = fitter(Frame(image), [blank])[0].mesh
    assert again is not None
    assert before is not None
    assert eye_opening(again) == pytest.approx(eye_opening(before), abs=0.06)
