"""Who is whose where people meet, leave, turn away and are cut to: made clips, with the truth."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crowd
import synthetic
from mien import geometry, media, pipeline, track
from mien.types import Face, Faces, Frame
from synthetic import HEIGHT, WIDTH, Scene, stays

# --- assignment -------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_assignment_is_the_cheapest_of_all(n: int, m: int, random):
    cost = np.array([[random.choice([0, 1, 2, 5, 0.5, -3]) for _ in range(m)] for _ in range(n)])
    pairs = track.assign(cost)
    assert len(pairs) == min(n, m) == len({r for r, _ in pairs}) == len({c for _, c in pairs})
    wide = cost if n <= m else cost.T
    ways = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    best = min(sum(wide[r, c] for r, c in enumerate(way)) for way in ways)
    assert sum(cost[r, c] for r, c in pairs) == pytest.approx(best)


def test_nobody_is_assigned_to_nobody():
    assert track.assign(np.zeros((0, 3))) == track.assign(np.zeros((2, 0))) == []


def test_the_nearest_is_left_to_who_has_no_other():
    assert track.assign([[0.1, 0.2], [0.15, 0.9]]) == [(0, 1), (1, 0)]


# --- the path ---------------------------------------------------------------------------------


def box(x: float, y: float, side: float = 90) -> np.ndarray:
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)


def test_an_even_walk_is_foreseen_within_a_pixel():
    path, rng = track.Path.start(box(100, 100)), np.random.default_rng(0)
    for t in range(1, 20):
        path.predict()
        if t > 8:
            off = np.abs(path.box - box(100 + 7 * t, 100 - 2 * t, 90 + t))
            assert off.max() < 1.5
        path.update(box(100 + 7 * t, 100 - 2 * t, 90 + t) + rng.normal(0, 0.3, 4))


def test_a_jump_surprises_and_a_step_does_not():
    path = track.Path.start(box(100, 100))
    for t in range(1, 15):
        path.predict()
        path.update(box(100 + 5 * t, 100))
    path.predict()
    assert path.surprise(box(176, 100)) < 9.5
    assert path.surprise(box(130, 100)) > 23.5
    assert path.surprise(box(175, 100, 130)) > 23.5


def test_doubt_grows_while_nothing_is_seen_and_the_face_comes_to_rest():
    path = track.Path.start(box(100, 100))
    for t in range(1, 15):
        path.predict()
        path.update(box(100 + 5 * t, 100, 90 + t))
    known, speed = path.spread[0].copy(), path.speed[0]
    for _ in range(120):
        path.predict(seen=False)
    assert (path.spread[0] > known).all()
    assert 0 <= path.speed[0] < 0.15 * speed
    assert np.ptp(path.box[::2]) < 130  # it does not grow for ever


# --- made clips -------------------------------------------------------------------------------

KINDS = ("crossing", "passing", "leaving", "turning", "alike", "cutting")


@pytest.fixture(scope="module")
def heads(examples, swapper) -> tuple[crowd.Cutout, crowd.Cutout]:
    return crowd.cutout(examples / "photo.jpg", swapper, 1), crowd.cutout(
        examples / "portrait-2.jpg", swapper
    )


def told(clip: crowd.Clip, swapper, options=track.LIVE) -> tuple[crowd.Told, int]:
    stream = pipeline.Stream(swapper, identify=True, options=options)
    looks = []
    embed = swapper.embed

    def counting(frame: Frame, faces: Faces) -> Faces:
        looks.extend(faces)
        return embed(frame, faces)

    stream.swapper = replace(swapper, embed=counting)
    return crowd.tell(clip, stream), len(looks)


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_keeps_their_number(kind: str, heads, swapper):
    one, other = heads
    clip = crowd.made([(one, other)], [(one, crowd.alike(one))])[kind][0]
    seen, looks = told(clip, swapper)
    assert seen.changes == []
    assert looks <= 20  # of faces that are in view 60 times and more each
    least = {"crossing": 0.65, "passing": 0.45, "turning": 0.8, "leaving": 0.7, "alike": 0.65}
    assert min(seen.seen.values()) >= least.get(kind, 0.95)


@pytest.mark.parametrize("kind", ["passing", "leaving"])
def test_so_do_real_people_with_the_settings_for_files(kind: str, footage, swapper):
    one, other = (
        crowd.cutout(footage / "portraits" / name, swapper) for name in ("lp_d9.jpg", "lp_s42.jpg")
    )
    clip = crowd.made([(one, other)], [])[kind][0]
    seen, _ = told(clip, swapper, track.TrackOptions())
    assert seen.changes == []


# --- fading and bridging ----------------------------------------------------------------------


def shown(scene: Scene, frames: int, **options: float) -> list[list[Face]]:
    how = track.TrackOptions(steady="off", **options)
    tracker = track.Tracker(scene.quick, scene.thorough, scene.fit, how)
    out = []
    for scene.time in range(frames):
        out.append(tracker(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), scene.time)))
    return out


def walks(gone: range) -> synthetic.Walk:
    return lambda t: None if t in gone else (100 + 6 * t, 180, 90)


@pytest.mark.parametrize("steady", ["flow", "one-euro", "off"])
def test_a_missed_frame_is_bridged_where_the_face_would_be(steady: str):
    scene = Scene({"a": walks(range(14, 16))})
    how = track.TrackOptions(bridge=2, steady=steady)
    tracker = track.Tracker(scene.quick, scene.thorough, scene.fit, how)
    for scene.time in range(20):
        (face,) = tracker(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), scene.time))
        assert face.track == 1
        assert face.fade == 1
        assert face.missed == (scene.time - 13 if scene.time in (14, 15) else 0)
        true = synthetic.mesh((100 + 6 * scene.time, 180), 90)
        if scene.time > 10 and steady == "off":
            assert np.abs(face.mesh - true)[:468, :2].max() < 1.5


def test_by_default_a_missed_face_is_not_shown_and_a_found_one_is_at_once():
    faces = shown(Scene({"a": walks(range(14, 16))}), 18)
    assert [len(f) for f in faces[12:17]] == [1, 1, 0, 0, 0]
    assert all(f.fade == 1 and f.missed == 0 for fs in faces for f in fs)


def test_a_lost_face_fades_and_one_that_comes_in_does_too():
    late = Scene({"b": stays(500), "a": lambda t: (200, 180, 90) if 15 <= t < 40 else None})
    faces = shown(late, 50, fade=3, bridge=1, quick=5)
    by = [{f.track: (f.missed, f.fade) for f in fs} for fs in faces]
    assert all(b[1] == (0, 1.0) for b in by)  # there from the first frame: nothing to fade
    fades = [b[2][1] for b in by if 2 in b]
    assert fades[:4] == [0.25, 0.5, 0.75, 1.0]
    assert [b.get(2) for b in by[40:45]] == [
        (1, 1.0), (2, 0.75), (3, 0.5), (4, 0.25), None,
    ]  # fmt: skip


def test_who_comes_back_while_fading_goes_on_from_there():
    scene = Scene({"a": walks(range(14, 17))})
    fades = [f[0].fade for f in shown(scene, 22, fade=4)]
    assert fades[13:19] == pytest.approx([1, 0.8, 0.6, 0.4, 0.6, 0.8])


def test_nobody_is_foreseen_on_somebody_else_or_across_a_cut():
    scene = Scene({"front": lambda t: (100 + 14 * t, 180, 100), "behind": stays(400, 180, 90)})
    for faces in shown(scene, 40, fade=5, bridge=3):
        for one, other in itertools.combinations(faces, 2):
            assert float(geometry.overlap(one.box, other.box)[0, 0]) < 0.3
    cut = Scene({"a": lambda t: (200, 180, 90) if t < 9 else None},
                backdrop=lambda t: 60 if t < 9 else 200)  # fmt: skip
    tracker = track.Tracker(cut.quick, cut.thorough, cut.fit, track.TrackOptions(fade=5, bridge=5))
    for cut.time in range(12):
        picture = np.full((HEIGHT, WIDTH, 3), cut.backdrop(cut.time), np.uint8)
        assert len(tracker(Frame(picture, cut.time))) == (cut.time < 9)


# --- the One-Euro filter ----------------------------------------------------------------------


def test_one_euro_follows_its_paper_at_rest_and_in_motion():
    """At rest a low-pass of its cutoff; at an even speed its lag is one of the raised cutoff."""
    rest = track.OneEuro(cutoff=2.0, beta=0.0)
    rest(np.zeros((4, 3), np.float32), 100, 1 / 30)
    tau = 1 / (2 * np.pi * 2.0)
    first = rest(np.ones((4, 3), np.float32), 100, 1 / 30)
    assert first[0, 0] == pytest.approx(1 / (1 + 30 * tau), rel=1e-5)
    fast = track.OneEuro(cutoff=1.0, beta=10.0)
    for t in range(200):  # 3 widths a second
        out = fast(np.full((4, 3), [10.0 * t, 0, 0], np.float32), 100, 1 / 30)
    assert 10.0 * 199 - out[0, 0] == pytest.approx(300 / (2 * np.pi * 31), rel=0.02)


def test_one_euro_is_alike_at_any_size_and_rate():
    ends = []
    for width, seconds in ((100, 1 / 30), (400, 1 / 30), (100, 1 / 120)):
        filter_ = track.OneEuro(1.0, 20.0)
        for t in np.arange(0, 1, seconds):
            out = filter_(np.full((1, 3), [width * t, 0, 0], np.float32), width, seconds)
        ends.append((width * t - out[0, 0]) / width)
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)
    assert ends[2] == pytest.approx(ends[0], rel=0.05)


def test_a_still_face_trembles_a_third_as_much_and_a_fast_turn_lags_less_than_a_frame():
    rng = np.random.default_rng(3)
    options = track.LIVE
    noise = rng.normal(0, 0.07, (200, 468, 3)).astype(np.float32)
    at_rest = track.OneEuro(options.cutoff, options.beta)
    out = np.stack([at_rest(200 + n, 100, 1 / 30) for n in noise])
    assert out[10:].std(0).mean() < noise[10:].std(0).mean() / 3
    turning = track.OneEuro(options.cutoff, options.beta)
    place, before = 0.0, None
    for t in range(40):  # a turn of the head: half a width in half a second
        before, place = place, 50 * float(np.clip((t - 15) / 15, 0, 1))
        out = turning((place + rng.normal(0, 0.07, (468, 3))).astype(np.float32), 100, 1 / 30)
        if t > 18:
            assert abs(place - out[:, 0].mean()) < max(place - before, 1.0)


# --- files ------------------------------------------------------------------------------------


def test_one_face_alone_is_steadied_by_flow_and_nothing_else(examples, swapper):
    """With the settings for files no path, gate or fade has a say in a face that is alone."""
    how = track.TrackOptions(steady="off")
    parts = swapper.detector.quick, swapper.detector.thorough, swapper.landmarks
    plain, whole = track.Tracker(*parts, how), track.Tracker(*parts)
    steady, flow = track.Steady(0.005), track.Flow()
    with media.open_source(examples / "clip.mp4", end=1.0) as source:
        for frame in source:
            (fit,), (face,) = plain(frame), whole(frame)
            last = fit.mesh if steady.value is None else steady.value
            width = float((fit.box[2:] - fit.box[:2]).max())
            by_hand = steady(fit.mesh, width, flow(frame.image, fit.mesh, last))
            np.testing.assert_array_equal(face.mesh, by_hand)
            assert (face.track, face.missed, face.fade) == (1, 0, 1.0)
