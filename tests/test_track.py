"""Following faces through scripted scenes: numbers, cadence of detection, steadiness."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import geometry, landmarks, track
from mien.track import tracker
from mien.types import Face, Faces, Frame
from synthetic import HEIGHT, WIDTH, Scene, Walk, mesh, stays


def follow(scene: Scene, frames: int, **options: float) -> list[dict[str, int]]:
    """Person → number in each frame."""
    tracker = track.Tracker(scene.quick, scene.thorough, scene.fit, track.TrackOptions(**options))
    out = []
    for scene.time in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), scene.backdrop(scene.time), np.uint8)
        faces = tracker(Frame(image, scene.time))
        named = {scene.who(f): f.track for f in faces}
        assert len(named) == len(faces), f"frame {scene.time}: two numbers on one person"
        out.append(named)
    return out


# --- steadiness -------------------------------------------------------------------------------


def points(x: float) -> np.ndarray:
    return np.full((5, 3), x, np.float32)


def test_what_stands_still_stays_and_the_first_call_changes_nothing():
    steady = track.Steady(0.005)
    for _ in range(20):
        np.testing.assert_array_equal(steady(points(7), 100), points(7))


@pytest.mark.parametrize("width", [20, 100, 700])
def test_a_tremble_is_damped_alike_at_any_size(width: float):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001 * width, (300, 5, 3)).astype(np.float32)
    steady = track.Steady(0.005)
    out = np.array([steady(points(50) + n, width) for n in noise])
    jumps = [np.abs(np.diff(s, axis=0)).mean() for s in (noise, out)]
    assert jumps[1] < 0.25 * jumps[0]


@pytest.mark.parametrize("jump", [0.02, 0.2, -1.0])
def test_a_step_is_followed(jump: float):
    width = 200
    steady = track.Steady(0.005)
    steady(points(0), width)
    first = steady(points(jump * width), width)
    assert abs(first[0, 0] - jump * width) < 0.08 * abs(jump) * width
    for _ in range(30):
        last = steady(points(jump * width), width)
    assert abs(last[0, 0] - jump * width) < 0.001 * width


@settings(max_examples=50, deadline=None)
@given(moves=st.lists(st.floats(-30, 30), min_size=1, max_size=30), width=st.floats(10, 500))
def test_the_lag_is_bounded_by_half_the_tremble(moves: list[float], width: float):
    steady = track.Steady(0.005)
    place = 0.0
    steady(points(0), width)
    for move in moves:
        place += move
        out = steady(points(place), width)
        off = np.hypot(*(out[0, :2] - place))
        assert off <= 0.005 * width / 2 * 1.001 + 1e-3


def test_a_point_is_moved_as_a_whole_and_not_along_the_axes():
    steady = track.Steady(0.01)
    steady(np.zeros((2, 3), np.float32), 100)
    moved = steady(np.array([[0.8, 0.1, 0.4], [0, 0, 5]], np.float32), 100)
    np.testing.assert_allclose(moved[0] / (0.8, 0.1, 0.4), moved[0, 0] / 0.8, rtol=1e-5)
    assert moved[1].tolist() == [0, 0, 0]  # depth alone is no motion


# --- motion seen in the picture ---------------------------------------------------------------

HOME = mesh((320, 180), 200)


@cache
def surface() -> np.ndarray:
    """A picture rough enough to see it move."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (HEIGHT, WIDTH, 3))
    rough = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.5, 4, 12))
    return np.clip(128 + 45 * rough / rough.std(), 0, 255).astype(np.uint8)


def moved(x: float, y: float = 0, turn: float = 0, zoom: float = 1) -> tuple[np.ndarray, ...]:
    """The picture and the mesh after the face moved, in pixels and radians."""
    c, s = zoom * np.cos(turn), zoom * np.sin(turn)
    m = np.array([[c, -s, 320 - c * 320 + s * 180 + x], [s, c, 180 - s * 320 - c * 180 + y]])
    picture = cv2.warpAffine(surface(), m, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    return picture, geometry.transform(m, HOME)


def face_width(points: np.ndarray) -> float:
    return float(np.ptp(points[:468, :2], axis=0).max())


def steadied(steps, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True, fitted and steadied meshes of a motion; noise in parts of the face's width."""
    rng, flow, steady, out = np.random.default_rng(2), track.Flow(), track.Steady(0.005), []
    for picture, true in steps:
        width = face_width(true)
        fit = (true + rng.normal(0, noise * width, true.shape)).astype(np.float32)
        last = fit if steady.value is None else steady.value
        out.append((true, fit, steady(fit, width, flow(picture, fit, last))))
    return tuple(np.array(o) for o in zip(*out, strict=True))


def off(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of every point in every frame, in % of the face's width."""
    return 100 * np.linalg.norm((a - b)[..., :2], axis=-1) / face_width(HOME)


STOPS = [min(t, 8) * 6.0 if t < 14 else 48 - 9.0 * min(t - 14, 6) for t in range(26)]
WALKS = {
    "stands": [moved(0)] * 12,
    "starts and stops": [moved(x) for x in STOPS],
    "shakes": [moved(14 * np.sin(t), 5 * np.cos(1.7 * t)) for t in range(20)],
    "turns and nears": [moved(t, 0, 0.25 * np.sin(t / 4), 1 + t / 60) for t in range(20)],
}


@pytest.mark.parametrize("name", WALKS)
def test_flow_takes_the_tremble_out_and_lags_behind_no_motion(name: str):
    true, fit, out = steadied(WALKS[name], noise=0.003)
    # Common to all points is what one would see as lag.
    lag = 100 * np.abs((out - true)[..., :2].mean(1)).max() / face_width(HOME)
    assert lag < 0.25
    assert off(out, true)[6:].mean() < 0.75 * off(fit, true).mean()
    tremble = [off(np.diff(m, axis=0), np.diff(true, axis=0)).mean() for m in (fit, out)]
    assert tremble[1] < 0.3 * tremble[0]


def test_flow_without_noise_is_where_the_face_is():
    true, _, out = steadied(WALKS["starts and stops"])
    assert off(out, true).mean(1).max() < 0.25
    assert off(out, true).max() < 0.4


def test_a_blink_that_flow_does_not_see_is_kept():
    upper, lower, steps = landmarks.LEFT_EYE[4], landmarks.LEFT_EYE[12], []
    for t in range(12):
        picture, true = moved(2.0 * t)
        if t in (5, 6):
            true[upper, 1] = true[lower, 1]
        steps.append((picture, true))
    true, _, out = steadied(steps)
    between = np.linalg.norm((HOME[33] + HOME[133] - HOME[362] - HOME[263])[:2]) / 2
    gap = np.abs(out[:, upper, 1] - out[:, lower, 1]) / between
    assert gap[5:7].max() < 0.01
    assert np.abs(gap - np.abs(true[:, upper, 1] - true[:, lower, 1]) / between).max() < 0.02


def test_the_fit_pulls_back_what_flow_carries_away():
    """The picture stands still and the fit walks off: what stays behind is bounded."""
    still = moved(0)[0]
    true, _, out = steadied([(still, HOME + np.float32([t, 0, 0])) for t in range(20)])
    assert off(out, true).max() < 0.57 * 2.0 + 0.05
    _, fit, out = steadied([(still, HOME)] + [(still, HOME + np.float32([0.5, 0, 0]))] * 60)
    assert off(out, fit)[-1].max() < 0.01


def test_what_is_hidden_is_not_trusted_and_the_rest_goes_on():
    flow = track.Flow()
    flow(*moved(0), HOME)
    picture, true = moved(4)
    picture[210:280, 260:300] = surface()[20:90, 20:60]
    seen = flow(picture, true, HOME)
    hidden = (np.abs(true[:, :2] - (280, 245)) < (12, 27)).all(1)
    clear = (np.abs(true[:, :2] - (280, 245)) > (40, 55)).any(1)
    inside = np.linalg.norm((true[:, :2] - (324, 180)) / (76, 100), axis=1) < 0.9
    assert hidden.sum() > 5
    assert np.median(seen.trust[hidden]) < 0.6 * np.median(seen.trust[clear & inside])
    assert np.percentile(off(seen.points, true[:, :2])[clear & inside], 95) < 0.25


def test_a_flash_is_no_motion():
    flow = track.Flow()
    flow(*moved(0), HOME)
    bright = cv2.convertScaleAbs(moved(0)[0], alpha=1.0, beta=25)
    seen = flow(bright, HOME, HOME)
    assert off(seen.points, HOME[:, :2]).max() < 0.15


def test_the_crop_stays_while_the_face_is_near_and_follows_it_else():
    flow = track.Flow()
    assert flow(*moved(0), HOME) is None
    first = flow.matrix
    flow(*moved(4), HOME)
    assert flow.matrix is first
    picture, true = moved(60, 20, 0.3)
    seen = flow(picture, true, moved(4)[1])
    assert flow.matrix is not first
    assert flow.grey.shape == (track.SIDE, track.SIDE)
    assert off(seen.points, true[:, :2]).mean() < 0.25


@pytest.mark.parametrize("place", [(-60, 0), (300, 150), (0, -170)])
def test_flow_goes_over_the_edge_of_the_picture(place: tuple[int, int]):
    flow = track.Flow()
    for dx in (0, 3):
        picture, true = moved(place[0] * 4 + dx if place[0] < 0 else place[0] + dx, place[1])
        seen = flow(picture, true, moved(place[0] * 4 if place[0] < 0 else place[0], place[1])[1])
    assert np.isfinite(seen.points).all()


def test_faces_come_out_steadied_with_box_and_points_of_the_steadied_mesh():
    rng = np.random.default_rng(0)
    scene = Scene({"a": lambda t: (300 + rng.normal(0, 0.1), 180, 150)})
    tracker = track.Tracker(scene.quick, scene.thorough, scene.fit)
    noses = []
    for scene.time in range(60):
        (face,) = tracker(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
        noses.append(face.mesh[1, 0])
        np.testing.assert_array_equal(face.box, geometry.bounds(face.mesh[:468]))
        np.testing.assert_array_equal(face.points, landmarks.five_points(face.mesh))
    assert np.std(noses[5:]) < 0.07


def test_who_comes_back_is_not_drawn_toward_the_old_place():
    scene = Scene({"a": lambda t: (300 + 0.4 * (t >= 23), 180, 90) if not 20 <= t < 23 else None})
    tracker = track.Tracker(scene.quick, scene.thorough, scene.fit, track.TrackOptions(quick=1))
    for scene.time in range(24):
        faces = tracker(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
    np.testing.assert_array_equal(faces[0].mesh, scene.seen()["a"])
    assert faces[0].track == 1


# --- numbers ----------------------------------------------------------------------------------


def test_numbers_run_from_left_to_right_and_stay():
    scene = Scene({"right": stays(500), "left": stays(100), "middle": stays(300)})
    assert follow(scene, 45) == [{"left": 1, "middle": 2, "right": 3}] * 45


def test_a_walk_across_the_picture_keeps_its_number():
    scene = Scene({"a": lambda t: (60 + 6 * t, 180 + 20 * np.sin(t / 9), 90 + t / 3)})
    assert follow(scene, 85) == [{"a": 1}] * 85


def test_two_who_pass_each_other_keep_their_numbers():
    scene = Scene(
        {"down": lambda t: (120 + 5 * t, 260, 90), "up": lambda t: (520 - 5 * t, 150, 80)}
    )
    assert follow(scene, 80) == [{"down": 1, "up": 2}] * 80


def test_one_who_was_hidden_behind_another_gets_the_number_back():
    scene = Scene({"walker": lambda t: (100 + 14 * t, 180, 100), "sitter": stays(400, 180, 90)})
    numbers = follow(scene, 45)
    assert numbers[0] == {"walker": 1, "sitter": 2}
    hidden = [t for t, n in enumerate(numbers) if "sitter" not in n]
    assert 3 <= len(hidden) <= 16
    assert all(n["walker"] == 1 for n in numbers if "walker" in n)
    assert numbers[-1]["sitter"] == 2


def test_leaving_and_coming_back_soon_keeps_the_number_and_late_gives_a_new_one():
    def path(gone: range) -> Walk:
        return lambda t: None if t in gone else (300, 180, 90)

    soon = follow(Scene({"a": path(range(20, 28)), "b": stays(500)}), 60)
    assert "a" not in soon[20]
    assert "a" not in soon[27]
    assert soon[-1] == {"a": 1, "b": 2}
    late = follow(Scene({"a": path(range(20, 60)), "b": stays(500)}), 90)
    assert late[-1] == {"a": 3, "b": 2}


@pytest.mark.parametrize("keep", [5, 12])
def test_a_number_is_kept_for_as_many_frames_as_asked(keep: int):
    """Gone for ``keep`` frames is back under the old number, gone for longer is not."""
    for gone, number in ((keep, 1), (keep + 1, 2)):
        scene = Scene({"a": lambda t, gone=gone: None if 4 <= t < 4 + gone else (300, 180, 90)})
        assert follow(scene, 6 + gone, keep=keep, quick=1)[-1] == {"a": number}


def test_one_who_comes_in_elsewhere_is_somebody_else():
    scene = Scene({"a": lambda t: (150, 180, 90) if t < 15 else None,
                   "b": lambda t: (480, 180, 90) if t >= 15 else None})  # fmt: skip
    numbers = follow(scene, 40)
    assert numbers[0] == {"a": 1}
    assert numbers[-1] == {"b": 2}


def test_who_comes_in_is_found_at_the_next_look():
    scene = Scene({"a": stays(150), "b": lambda t: (480, 180, 90) if t >= 13 else None})
    numbers = follow(scene, 30)
    found = next(t for t, n in enumerate(numbers) if "b" in n)
    assert 13 <= found <= 20
    assert numbers[-1] == {"a": 1, "b": 2}


def test_two_tracks_that_slide_onto_one_face_become_one():
    """``b`` leaves while close to ``a``: its mesh then fits ``a``, whose number stays."""
    scene = Scene({"a": stays(250, 180, 110), "b": lambda t: (340, 180, 110) if t < 12 else None})

    def sliding(frame: Frame, faces: Faces) -> Faces:
        aside = np.array([60, 0, 60, 0], np.float32)
        gone = scene.time >= 12
        return scene.fit(
            frame, [replace(f, box=f.box - aside) if gone and f.box[0] > 260 else f for f in faces]
        )

    tracker = track.Tracker(scene.quick, scene.thorough, sliding)
    counts = []
    for scene.time in range(40):
        faces = tracker(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
        counts.append([f.track for f in faces])
    assert counts[11] == [1, 2]
    assert all(c == [1] for c in counts[12:])


def test_a_detector_that_sees_a_face_twice_makes_one_track_of_it():
    scene = Scene({"a": stays(300)})
    real = scene.thorough

    def twice(image: np.ndarray) -> Faces:
        (face,) = real(image)
        inner = np.concatenate([face.box[:2] + 15, face.box[2:] - 15]).astype(np.float32)
        return [face, replace(face, box=inner), replace(face, box=face.box + 12)]

    scene.thorough = twice
    assert follow(scene, 15) == [{"a": 1}] * 15


def test_what_is_no_face_to_the_mesh_is_none():
    scene = Scene({"a": stays(300)})
    real = scene.thorough
    scene.thorough = lambda image: [
        *real(image),
        Face(np.array([20, 20, 90, 110], np.float32), 0.9, np.zeros((5, 2), np.float32)),
    ]
    assert follow(scene, 10) == [{"a": 1}] * 10


@pytest.mark.parametrize(
    ("detector", "fit", "believed"),
    [(0.57, 0.93, False), (0.52, 0.99, True), (0.9, 0.8, True), (0.5, 0.6, False)],
)
def test_somebody_new_is_believed_if_one_network_is_sure(
    detector: float, fit: float, believed: bool
):
    scene = Scene({"a": stays(300)})
    look, mesh_of = scene.thorough, scene.fit
    scene.quick = scene.thorough = lambda image: [replace(f, score=detector) for f in look(image)]
    scene.fit = lambda frame, faces: [replace(f, mesh_score=fit) for f in mesh_of(frame, faces)]
    assert follow(scene, 10) == [{"a": 1} if believed else {}] * 10
    assert follow(scene, 2, sure=0.0) == [{"a": 1}] * 2  # as in private


def test_a_face_that_left_the_picture_is_let_go():
    scene = Scene({"a": lambda t: (320 + 12 * t, 180, 90)})
    numbers = follow(scene, 60)
    assert numbers[20] == {"a": 1}
    assert numbers[-1] == {}


# --- cuts and cadence -------------------------------------------------------------------------


def test_after_a_cut_all_are_new_and_a_thorough_look_is_taken():
    scene = Scene(
        {"a": lambda t: (200, 180, 90) if t < 17 else None,
         "b": lambda t: (205, 180, 95) if t >= 17 else None,
         "c": lambda t: (500, 180, 95) if t >= 17 else None},
        backdrop=lambda t: 60 if t < 17 else 200,
    )  # fmt: skip
    numbers = follow(scene, 25)
    assert numbers[16] == {"a": 1}
    assert numbers[17] == {"b": 2, "c": 3}
    assert scene.thorough_at == [0, 17]


def test_a_change_of_light_is_no_cut():
    scene = Scene({"a": stays(200)}, backdrop=lambda t: 60 + 3 * t)
    assert follow(scene, 24) == [{"a": 1}] * 24
    assert scene.thorough_at == [0]


def test_a_still_scene_pays_for_detection_now_and_then():
    scene = Scene({"a": stays(200), "b": stays(400)})
    follow(scene, 100)
    assert scene.thorough_at == [0, 24, 48, 72, 96]
    assert scene.quick_at == [10, 20, 34, 44, 58, 68, 82, 92]


def test_an_empty_scene_does_too():
    scene = Scene({})
    assert follow(scene, 50) == [{}] * 50
    assert scene.thorough_at == [0, 24, 48]
    assert scene.quick_at == [10, 20, 34, 44]


def test_the_cadence_is_an_option_and_looks_are_counted():
    scene = Scene({"a": stays(200)})
    tracker = track.Tracker(
        scene.quick, scene.thorough, scene.fit, track.TrackOptions(quick=3, thorough=7)
    )
    for scene.time in range(15):
        tracker(Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    assert scene.thorough_at == [0, 7, 14]
    assert scene.quick_at == [3, 6, 10, 13]
    assert tracker.detections == 7


def test_a_lost_face_is_looked_for_at_once():
    scene = Scene({"a": lambda t: (200, 180, 90) if t < 14 else (400, 180, 90)})
    numbers = follow(scene, 20)
    assert scene.quick_at == [10, 14]
    assert numbers[14] == {"a": 2}


def test_a_face_only_the_thorough_look_sees_is_followed_all_the_same():
    scene = Scene({"small": stays(200, 100, 24), "a": stays(400)},
                  quick_sees=lambda name: name != "small")  # fmt: skip
    assert follow(scene, 60) == [{"small": 1, "a": 2}] * 60


class Beside:
    """Follows a scene whose thorough look lasts until it is let go."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.go, self.begun = scene, threading.Event(), threading.Event()
        self.tracker = track.Tracker(
            scene.quick, self.look, scene.fit, track.TrackOptions(thorough=5, beside=True)
        )

    def look(self, image: np.ndarray) -> Faces:
        seen = self.scene.thorough(image)
        if self.scene.time:
            self.begun.set()
            assert self.go.wait(5)
        return seen

    def at(self, time: int) -> dict[str, int]:
        if self.go.is_set():  # the look that was let go is done before the next frame
            self.tracker._lookout._running.exception(5)
        self.scene.time = time
        image = np.full((HEIGHT, WIDTH, 3), self.scene.backdrop(time), np.uint8)
        found = {self.scene.who(f): f.track for f in self.tracker(Frame(image, time))}
        if self.tracker._lookout.busy:  # it looks at this time, however late its thread begins
            assert self.begun.wait(5)
        return found


def comes(time: int) -> Walk:
    return lambda t: (200.0, 100.0, 24.0) if t >= time else None


def test_no_frame_waits_for_a_look_beside_and_who_came_in_is_found_when_it_is_done():
    scene = Scene({"small": comes(3), "a": stays(400)}, quick_sees=lambda name: name != "small")
    beside = Beside(scene)
    assert [beside.at(t) for t in range(9)] == [{"a": 1}] * 9
    assert len(scene.thorough_at) == 2  # one at a time
    beside.go.set()
    assert beside.at(9) == {"a": 1, "small": 2}


def test_who_moves_while_a_look_lasts_is_not_found_again_where_they_were():
    def runs(t: int) -> tuple[float, float, float]:
        return 200.0 + 20 * max(t - 4, 0), 200.0, 60.0

    beside = Beside(Scene({"a": runs}))
    assert [beside.at(t) for t in range(9)] == [{"a": 1}] * 9
    beside.go.set()
    assert beside.at(9) == {"a": 1}
    assert len(beside.tracker.tracks) == 1


def test_a_look_of_before_a_cut_is_forgotten():
    scene = Scene({"a": stays(400), "b": lambda t: (150.0, 150.0, 60.0) if t < 8 else None},
                  lambda t: 100 if t < 8 else 200,
                  quick_sees=lambda name: name == "a")  # fmt: skip
    beside = Beside(scene)
    for t in range(8):
        beside.at(t)
    running = beside.tracker._lookout._running
    beside.go.set()
    running.exception(5)
    beside.scene.time = 8
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    assert [scene.who(f) for f in beside.tracker(Frame(image, 8))] == ["a"]
    assert not beside.tracker._lookout.busy


# --- real footage -----------------------------------------------------------------------------


@pytest.mark.media
def test_a_real_still_scene_is_detected_now_and_then(footage: Path):
    from mien import detect, media

    detector, fit = detect.load(), landmarks.load()
    image = media.read_image(footage / "groups" / "simswap_multi_people.jpg")
    looks: list[tuple[str, int]] = []

    def counted(name: str, look: track.Look) -> track.Look:
        def inner(picture: np.ndarray) -> Faces:
            looks.append((name, now))
            return look(picture)

        return inner

    tracker = track.Tracker(
        counted("quick", detector.quick), counted("thorough", detector.thorough), fit
    )
    seen = []
    for now in range(25):
        faces = tracker(Frame(image, now))
        seen.append({f.track: f.box for f in faces})
    assert looks == [("thorough", 0), ("quick", 10), ("quick", 20), ("thorough", 24)]
    assert all(list(boxes) == [1, 2, 3] for boxes in seen)
    lefts = [float(box[0]) for box in seen[0].values()]
    assert lefts == sorted(lefts)
    for number, box in seen[0].items():
        assert np.abs(seen[-1][number] - box).max() < 0.05 * np.ptp(box[1::2])


def test_the_usual_opening_of_eyes_is_learnt_and_a_blink_is_left_out():
    usual = np.array([0.24, 0.24], np.float32)
    for _ in range(200):
        usual = tracker._usual(usual, np.array([0.17, 0.34], np.float32))
    np.testing.assert_allclose(usual, [0.17, 0.34], atol=0.005)
    for _ in range(5):
        usual = tracker._usual(usual, np.array([0.05, 0.05], np.float32))
    np.testing.assert_allclose(usual, [0.17, 0.34], atol=0.01)
