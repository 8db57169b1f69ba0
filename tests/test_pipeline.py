"""Stages put together: who goes on whom, who is who, and every frame once and in order."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
from mien import blend, generate, media, pipeline, runtime, zoo
from mien.errors import MediaError, ModelNotFound, ProviderError
from mien.media import Marked
from mien.provenance import Marker, Marks
from mien.types import Face, Faces, Frame, Identity, Patch, Rule, SwapPlan
from synthetic import HEIGHT, WIDTH, Scene, stays

ADA, BOB, EVE = (synthetic.identity(64, name=name) for name in ("Ada", "Bob", "Eve"))
UNMARKED = Marker(Marks(label_on=False, watermark_on=False), consent=synthetic.CONSENT)
COLOURS = {"Ada": (250, 0, 0), "Bob": (0, 250, 0), "Eve": (0, 0, 250)}


@pytest.fixture(autouse=True)
def _unmarked_is_allowed(set_policy):
    """Frames are compared bit by bit here."""
    set_policy('[marks]\nlabel_off = ["*"]\nwatermark_off = ["*"]\n')


def direction(*parts: tuple[int, float]) -> np.ndarray:
    """A unit vector of 512 with these entries before it is made of unit length."""
    out = np.zeros(512, np.float32)
    for index, value in parts:
        out[index] = value
    return out / np.linalg.norm(out)


@dataclass
class Eyes:
    """Detector, mesh and embedder of a scripted scene; the frame's first pixel tells its time."""

    scene: Scene
    embedded: list[tuple[int, str]] = field(default_factory=list)

    def at(self, image: np.ndarray) -> Scene:
        self.scene.time = int(image[0, 0, 0])
        return self.scene

    def __call__(self, frame: Frame) -> Faces:
        return self.at(frame.image).thorough(frame.image)

    def quick(self, image: np.ndarray) -> Faces:
        return self.at(image).quick(image)

    def thorough(self, image: np.ndarray) -> Faces:
        return self.at(image).thorough(image)

    def fit(self, frame: Frame, faces: Faces) -> Faces:
        return self.at(frame.image).fit(frame, faces)

    def embed(self, frame: Frame, faces: Faces) -> Faces:
        """People are nearly at right angles; each look differs a little."""
        out = []
        for face in faces:
            name = self.at(frame.image).who(face)
            self.embedded.append((self.scene.time, name))
            vector = direction((ord(name[0]), 1), (300 + self.scene.time % 100, 0.3))
            out.append(replace(face, embedding=vector))
        return out


def paint(frame: Frame, faces: Faces, identities: list[Identity]) -> list[Patch]:
    """A square of the identity's colour on the nose, so that one sees who is on whom."""
    patches = []
    for face, identity in zip(faces, identities, strict=True):
        x, y = np.round(face.points[2]).astype(int) - 4
        image = np.full((8, 8, 3), COLOURS[identity.name], np.uint8)
        shift = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
        patches.append(Patch(image, np.full((8, 8), 255, np.uint8), shift))
    return patches


def swapper(scene: Scene, make: Callable[..., list[Patch]] = paint) -> pipeline.Swapper:
    eyes = Eyes(scene)
    return pipeline.Swapper(eyes, eyes.fit, eyes.embed, make, {})


def picture(index: int) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    image[0, 0] = index % 256
    return image


def frames(count: int | None) -> Iterator[Frame]:
    """That many frames, or frames without end."""
    for i in itertools.count() if count is None else range(count):
        yield Frame(picture(i), i, 1000 + 512 * i, Fraction(1, 12800))


def plan(*rules: Rule, **how: Any) -> SwapPlan:
    return SwapPlan(rules or (Rule(ADA),), **how)


# --- assign -----------------------------------------------------------------------------------


def faces_at(*places: tuple[float, float], tracks: tuple[int, ...] | None = None) -> Faces:
    """Faces at x and of a height, with numbers from 1 in the order given unless said."""
    meshes = [synthetic.mesh((x, 180), height) for x, height in places]
    numbers = tracks or range(1, len(meshes) + 1)
    return [synthetic.face(m, n) for m, n in zip(meshes, numbers, strict=True)]


def stream(**how: Any) -> pipeline.Stream:
    return pipeline.Stream(swapper(Scene({})), **how)


def given(s: pipeline.Stream, faces: Faces, p: SwapPlan) -> dict[int, str]:
    """Number of the face → name of the identity."""
    pairs = s.assign(faces, p)
    out = {f.track: i.name for f, i in pairs}
    assert len(out) == len(pairs), "one face was given away twice"
    return out


def test_one_rule_for_all():
    faces = faces_at((100, 90), (300, 90))
    assert given(stream(), faces, plan()) == {1: "Ada", 2: "Ada"}
    assert given(stream(), [], plan()) == {}


def test_the_first_rule_that_matches_wins_and_the_rest_goes_to_the_next():
    faces = faces_at((100, 90), (300, 140), (500, 90))
    rules = (Rule(ADA, "right"), Rule(BOB, "largest"), Rule(EVE))
    assert given(stream(), faces, plan(*rules)) == {3: "Ada", 2: "Bob", 1: "Eve"}
    assert given(stream(), faces, plan(Rule(ADA), Rule(BOB))) == dict.fromkeys((1, 2, 3), "Ada")
    # What a rule has taken is not there for the next.
    rules = (Rule(ADA, "left"), Rule(BOB, "left"), Rule(EVE, 1))
    assert given(stream(), faces, plan(*rules)) == {1: "Ada", 2: "Bob"}


@pytest.mark.parametrize(
    ("which", "number"), [("left", 1), ("right", 3), ("largest", 2), (1, 1), (2, 2), (3, 3)]
)
def test_which(which, number: int):
    faces = faces_at((100, 90), (300, 140), (500, 90))[::-1]
    assert given(stream(), faces, plan(Rule(ADA, which))) == {number: "Ada"}


def test_a_number_that_is_not_in_view_gets_nothing():
    assert given(stream(), faces_at((100, 90)), plan(Rule(ADA, 4))) == {}


@pytest.mark.parametrize("which", ["left", "largest", "right"])
def test_a_choice_by_place_or_size_stays_with_the_person(which):
    s, p = stream(), plan(Rule(ADA, which))
    first = {"left": 1, "right": 2, "largest": 2}[which]
    assert given(s, faces_at((100, 90), (400, 120)), p) == {first: "Ada"}
    swapped = faces_at((100, 120), (400, 90), tracks=(2, 1))
    assert given(s, swapped, p) == {first: "Ada"}
    # Out of view another is chosen, and then that one stays.
    other = 3 - first
    assert given(s, [f for f in swapped if f.track == other], p) == {other: "Ada"}
    assert given(s, swapped, p) == {other: "Ada"}


def test_another_choice_is_made_anew():
    s, faces = stream(), faces_at((100, 90), (400, 120))
    assert given(s, faces, plan(Rule(ADA, "left"))) == {1: "Ada"}
    assert given(s, faces, plan(Rule(ADA, "largest"))) == {2: "Ada"}
    assert given(s, faces, plan(Rule(ADA, "left"))) == {1: "Ada"}


def test_rules_choose_each_for_themselves():
    s, p = stream(), plan(Rule(ADA, "left"), Rule(BOB, "right"))
    assert given(s, faces_at((100, 90), (400, 90)), p) == {1: "Ada", 2: "Bob"}
    assert given(s, faces_at((100, 90), (400, 90), tracks=(2, 1)), p) == {1: "Ada", 2: "Bob"}


def test_stills_have_nothing_to_do_with_each_other():
    s, p = stream(still=True), plan(Rule(ADA, "largest"))
    assert given(s, faces_at((100, 90), (400, 120)), p) == {2: "Ada"}
    assert given(s, faces_at((100, 120), (400, 90)), p) == {1: "Ada"}


def known(faces: Faces, *embeddings: np.ndarray | None) -> Faces:
    return [replace(f, embedding=e) for f, e in zip(faces, embeddings, strict=True)]


def test_a_reference_takes_the_nearest_person_alone():
    wanted = direction((0, 1))
    near, nearer = direction((0, 0.6), (1, 0.8)), direction((0, 0.8), (1, 0.6))
    far = direction((0, 0.2), (1, 0.98))
    faces = known(faces_at((100, 90), (300, 90), (500, 90)), near, nearer, far)
    reference = Rule(ADA, reference=wanted)
    assert given(stream(), faces, plan(reference)) == {2: "Ada"}
    assert given(stream(), faces, plan(reference, Rule(BOB))) == {2: "Ada", 1: "Bob", 3: "Bob"}
    assert given(stream(), faces[2:], plan(reference)) == {}
    assert given(stream(), faces[:1], plan(reference, similarity=0.7)) == {}
    unknown = known(faces[:2], None, near)
    assert given(stream(), unknown, plan(reference)) == {2: "Ada"}


def test_two_references_and_two_people():
    one, other = direction((0, 1)), direction((1, 1))
    faces = known(faces_at((100, 90), (300, 90)), other, one)
    rules = plan(Rule(ADA, reference=one), Rule(BOB, reference=other))
    assert given(stream(), faces, rules) == {2: "Ada", 1: "Bob"}
    assert given(stream(), faces[:1], rules) == {1: "Bob"}


# --- render -----------------------------------------------------------------------------------


def test_render_puts_each_identity_on_its_face_and_nothing_else():
    faces = faces_at((100, 90), (400, 90))
    frame = next(frames(1))
    before = frame.image.copy()
    s = stream()
    out = s.render(frame, [(faces[0], BOB), (faces[1], EVE)], plan())
    assert out is frame
    for face, name in zip(faces, ("Bob", "Eve"), strict=True):
        x, y = np.round(face.points[2]).astype(int)
        assert tuple(out.image[y, x]) == COLOURS[name]
    assert (out.image != before).any(-1).sum() == 2 * 64
    assert len(out.dirty) == 2


def test_render_without_pairs_touches_nothing():
    frame = next(frames(1))
    frame.image.flags.writeable = False
    assert stream().render(frame, [], plan()).dirty == []


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_who_comes_in_or_goes_is_painted_in_part_and_the_others_wholly(share: float):
    near, far = faces_at((100, 90), (400, 90))
    bare, full, part = (next(frames(1)) for _ in range(3))
    stream().render(full, [(near, BOB), (far, EVE)], plan())
    stream().render(part, [(replace(near, fade=share), BOB), (far, EVE)], plan())
    mixed = share * full.image[:, :250].astype(float) + (1 - share) * bare.image[:, :250]
    assert np.abs(part.image[:, :250] - mixed).max() <= 1
    assert np.abs(full.image[:, :250].astype(float) - bare.image[:, :250]).max() > 20
    np.testing.assert_array_equal(part.image[:, 250:], full.image[:, 250:])


@pytest.mark.parametrize("color", ["none", "lab", "histogram"])
@pytest.mark.parametrize("mix", ["soft", "poisson"])
def test_render_asks_for_the_blend_and_the_colours_of_the_plan(color, mix, monkeypatch):
    asked = []
    real = blend.match_color

    def matched(patch: Patch, frame: Frame, mode: Any) -> Patch:
        asked.append(mode)
        return real(patch, frame, mode)

    def mixed(name: str) -> Callable[[Frame, Patch], None]:
        return lambda frame, patch: asked.append(name)

    monkeypatch.setattr(blend, "match_color", matched)
    monkeypatch.setattr(blend, "BLENDS", {n: mixed(n) for n in blend.BLENDS})
    stream().render(next(frames(1)), [(faces_at((100, 90))[0], ADA)], plan(blend=mix, color=color))
    assert asked == [color, mix]


# --- observe ----------------------------------------------------------------------------------


def watch(s: pipeline.Stream, count: int) -> list[dict[str, Face]]:
    """Person → face in each frame."""
    scene = s.swapper.detector.scene
    out = []
    for frame in frames(count):
        faces = s.observe(frame)
        scene.time = frame.index
        out.append({scene.who(f): f for f in faces})
        assert len(out[-1]) == len(faces)
    return out


def numbers(seen: list[dict[str, Face]]) -> list[dict[str, int]]:
    return [{name: f.track for name, f in frame.items()} for frame in seen]


def test_a_still_is_looked_at_thoroughly_and_numbered_from_the_left():
    scene = Scene({"c": stays(500), "a": stays(100), "b": stays(300)})
    s = pipeline.Stream(swapper(scene), still=True)
    seen = watch(s, 3)
    assert numbers(seen) == [{"a": 1, "b": 2, "c": 3}] * 3
    assert scene.thorough_at == [0, 1, 2]
    assert scene.quick_at == []
    assert all(f.embedding is None for f in seen[0].values())
    known_ = watch(pipeline.Stream(swapper(scene), still=True, identify=True), 1)
    assert all(f.embedding is not None for f in known_[0].values())


def leaving(t: int) -> synthetic.Place:
    """There, away for two seconds, and back at the other end of the picture."""
    return (150, 180, 90) if t < 30 else (500, 180, 90) if t >= 90 else None


def test_who_leaves_and_comes_back_gets_the_same_number_when_people_are_told_apart():
    plain = numbers(watch(pipeline.Stream(swapper(Scene({"a": leaving, "b": stays(320)}))), 120))
    assert plain[0] == {"a": 1, "b": 2}
    assert plain[-1] == {"a": 3, "b": 2}
    s = pipeline.Stream(swapper(Scene({"a": leaving, "b": stays(320)})), identify=True)
    told = numbers(watch(s, 120))
    assert told[0] == told[-1] == {"a": 1, "b": 2}
    assert told[60] == {"b": 2}


def test_a_stranger_gets_a_number_of_their_own():
    scene = Scene({"a": leaving, "x": lambda t: (500, 180, 90) if 40 <= t < 85 else None})
    told = numbers(watch(pipeline.Stream(swapper(scene), identify=True), 120))
    assert told[80] == {"x": 2}
    assert told[0] == told[-1] == {"a": 1}  # though the place is where the stranger just was


def test_one_who_takes_another_s_place_at_once_is_still_somebody_else():
    scene = Scene({"a": lambda t: (300, 180, 90) if t < 20 else None,
                   "x": lambda t: (300, 180, 90) if t >= 23 else None})  # fmt: skip
    told = numbers(watch(pipeline.Stream(swapper(scene), identify=True), 40))
    assert told[0] == {"a": 1}
    assert told[-1] == {"x": 2}


def test_a_look_at_a_hidden_face_does_not_make_it_another_s():
    """Half covered, a face is less like itself, but it is still who it was before."""
    scene = Scene({"a": lambda t: (300, 180, 90) if not 20 <= t < 23 else None})
    s = pipeline.Stream(swapper(scene), identify=True)
    plain = s.swapper.embed

    def doubtful(frame: Frame, faces: Faces) -> Faces:
        if frame.index < 20:
            return plain(frame, faces)
        vague = direction((ord("a"), 0.25), (7, 0.97))
        return [replace(f, embedding=vague) for f in faces]

    s.swapper = replace(s.swapper, embed=doubtful)
    assert numbers(watch(s, 40))[-1] == {"a": 1}


def test_faces_are_embedded_now_and_then_and_all_carry_the_mean():
    s = pipeline.Stream(swapper(Scene({"b": stays(400), "a": stays(100)})), identify=True)
    seen = watch(s, 60)
    looks = [t for t, name in s.swapper.detector.embedded if name == "a"]
    assert looks == [0, 5, 15, 40]
    assert numbers(seen)[0] == {"a": 1, "b": 2}
    for faces in seen:
        for name, face in faces.items():
            assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
            assert face.embedding[ord(name)] > 0.9
    wanted = sum(direction((ord("a"), 1), (300 + t, 0.3)) for t in looks)
    last = seen[-1]["a"].embedding
    assert float(last @ wanted) / np.linalg.norm(wanted) > 0.999


# --- run --------------------------------------------------------------------------------------


@dataclass
class Reel:
    """A source of frames; counts those it gave, and may fail."""

    count: int | None
    fail_at: int = -1
    damaged: int = 2
    given: int = 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in frames(self.count):
            if frame.index == self.fail_at:
                raise MediaError("reel.mp4: torn")
            self.given += 1
            yield frame


@dataclass
class Film:
    """A sink that keeps what it takes; may be slow, and may fail."""

    fail_at: int = -1
    pause: float = 0.0
    before: Callable[[], None] = lambda: None
    taken: list[tuple[int, int | None]] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)

    def write(self, marked: Marked) -> None:
        assert isinstance(marked, Marked)
        self.before()
        if len(self.taken) == self.fail_at:
            raise MediaError("film.mp4: no space left")
        time.sleep(self.pause)
        self.taken.append((marked.frame.index, marked.frame.pts))
        self.images.append(marked.frame.image)


def scene() -> Scene:
    """One who stays, and one who is there for a while."""
    return Scene({"a": stays(200), "b": lambda t: (450, 180, 90) if 10 <= t < 25 else None})


def run(reel: Reel, film: Film, s: pipeline.Stream, **how: Any) -> pipeline.Report:
    """``pipeline.run``, which must end; in a thread, so that one that hangs fails the test."""
    how = {"plan": plan(), "mark": UNMARKED, **how}
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(pipeline.run(reel, film, s, how.pop("plan"), how.pop("mark"), **how))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the run hangs"
    own = ("mien_", "mien-paint")  # others last as long as the process
    left = [t.name for t in threading.enumerate() if t.name.startswith(own)]
    assert not left, f"threads still alive: {left}"
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_frame_once_and_in_order(workers: int):
    film, told = Film(), []
    s = pipeline.Stream(swapper(scene()))
    report = run(Reel(60), film, s, workers=workers, progress=told.append)
    assert film.taken == [(i, 1000 + 512 * i) for i in range(60)]
    assert told == list(range(1, 61))
    assert (report.frames_in, report.frames_out, report.damaged) == (60, 60, 2)
    assert (report.swapped, report.faceless, report.interrupted) == (60, 0, False)
    assert 60 < report.faces <= 60 + 20
    stages = {"decode", "track", "detect", "landmarks", "generate", "blend", "mark", "encode"}
    assert set(report.stages) == stages
    assert report.seconds > 0
    assert report.fps == pytest.approx(60 / report.seconds)


def test_several_workers_make_the_same_frames_even_if_they_finish_out_of_order():
    rng = np.random.default_rng(0)
    lock, finished = threading.Lock(), []

    def slow(frame: Frame, faces: Faces, identities: list[Identity]) -> list[Patch]:
        with lock:
            pause = rng.uniform(0, 0.02)
        time.sleep(pause)
        finished.append(frame.index)
        return paint(frame, faces, identities)

    one, three = Film(), Film()
    run(Reel(40), one, pipeline.Stream(swapper(scene())), workers=1)
    run(Reel(40), three, pipeline.Stream(swapper(scene(), slow)), workers=3)
    assert finished != sorted(finished)
    assert three.taken == one.taken
    for a, b in zip(one.images, three.images, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.images[20] != picture(20)).any()


def test_frames_without_a_face_go_through_untouched():
    film = Film()
    report = run(Reel(12), film, pipeline.Stream(swapper(Scene({}))))
    assert (report.frames_out, report.faceless, report.swapped, report.faces) == (12, 12, 0, 0)
    for i, image in enumerate(film.images):
        np.testing.assert_array_equal(image, picture(i))


def test_every_frame_is_marked():
    film = Film()
    run(Reel(5), film, pipeline.Stream(swapper(Scene({}))), mark=Marker(consent=synthetic.CONSENT))
    for i, image in enumerate(film.images):
        changed = (image != picture(i)).any(-1)
        assert changed[HEIGHT // 2 :, WIDTH // 2 :].any()


def test_an_empty_source():
    report = run(Reel(0), Film(), pipeline.Stream(swapper(scene())))
    assert (report.frames_in, report.frames_out, report.fps) == (0, 0, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_slow_sink_holds_the_source_back(workers: int):
    reel, alive = Reel(60), []
    film = Film(pause=0.004)
    film.before = lambda: alive.append(reel.given - len(film.taken))
    run(reel, film, pipeline.Stream(swapper(scene())), workers=workers)
    # Two queues, and one frame in the hands of each of reader, observer and writer.
    assert max(alive) <= pipeline.DEPTH + (pipeline.DEPTH + workers) + 3
    assert max(alive) > pipeline.DEPTH


def test_a_slow_source_is_waited_for():
    class Slow(Reel):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                time.sleep(0.15 if frame.index == 2 else 0)  # longer than a queue waits at a time
                yield frame

    film = Film()
    assert run(Slow(4), film, pipeline.Stream(swapper(scene()))).frames_out == 4


def test_a_source_that_fails():
    film = Film()
    with pytest.raises(MediaError, match=r"reel\.mp4: torn"):
        run(Reel(None, fail_at=9), film, pipeline.Stream(swapper(scene())))
    assert film.taken == [(i, 1000 + 512 * i) for i in range(len(film.taken))]


@pytest.mark.parametrize("pause", [0, 0.003])
def test_a_sink_that_fails(pause: float):
    film = Film(fail_at=6, pause=pause)
    with pytest.raises(MediaError, match=r"film\.mp4: no space"):
        run(Reel(None), film, pipeline.Stream(swapper(scene())))
    assert len(film.taken) == 6


@pytest.mark.parametrize("workers", [1, 3])
def test_painting_that_fails(workers: int):
    def broken(frame: Frame, faces: Faces, identities: list[Identity]) -> list[Patch]:
        if frame.index >= 5:
            raise ArithmeticError(f"no light in frame {frame.index}")
        return paint(frame, faces, identities)

    film = Film()
    with pytest.raises(ArithmeticError, match="no light in frame 5"):
        run(Reel(None), film, pipeline.Stream(swapper(scene(), broken)), workers=workers)
    assert [i for i, _ in film.taken] == list(range(5))


class Failing(pipeline.Stream):
    """Raises when it sees frame seven."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(swapper(scene()))
        self.error = error

    def observe(self, frame: Frame) -> Faces:
        if frame.index == 7:
            raise self.error
        return super().observe(frame)


def test_observing_that_fails():
    film = Film()
    with pytest.raises(ArithmeticError, match="blind"):
        run(Reel(None), film, Failing(ArithmeticError("blind")))
    assert film.taken == [(i, 1000 + 512 * i) for i in range(len(film.taken))]


def test_a_mark_or_a_progress_bar_that_fails():
    def broken(*_: object) -> Any:
        raise ArithmeticError("no ink")

    class Dry(Marker):
        __call__ = broken

    for how in ({"mark": Dry(consent=synthetic.CONSENT)}, {"progress": broken}):
        with pytest.raises(ArithmeticError, match="no ink"):
            run(Reel(None), Film(), pipeline.Stream(swapper(scene())), **how)


@pytest.mark.parametrize("pause", [0, 0.01])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupt_ends_the_run_with_what_was_painted_written(workers: int, pause: float):
    film = Film(pause=pause)
    report = run(Reel(None), film, Failing(KeyboardInterrupt()), workers=workers)
    assert report.interrupted
    assert film.taken == [(i, 1000 + 512 * i) for i in range(7)]
    assert report.frames_out == 7
    assert all((image != picture(i)).any() for i, image in enumerate(film.images))


def test_an_interrupt_while_the_sink_fails_tells_of_the_sink():
    with pytest.raises(MediaError, match="no space"):
        run(Reel(None), Film(fail_at=0, pause=0.01), Failing(KeyboardInterrupt()))


# --- times and loading ------------------------------------------------------------------------


def test_times_add_up_over_threads_and_count_what_fails():
    times = pipeline.Times()

    def nap() -> None:
        time.sleep(0.01)

    timed = times.wrap("nap", nap)
    threads = [threading.Thread(target=timed) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ZeroDivisionError), times("sum"):
        _ = 1 // 0
    measured = times.per_frame(5)
    assert set(measured) == {"nap", "sum"}
    assert 10 <= measured["nap"] < 100
    assert times.per_frame(0)["nap"] == pytest.approx(5 * measured["nap"], rel=0.01)


def test_loading_names_what_it_does_not_know():
    with pytest.raises(ModelNotFound, match="'gan' is unknown"):
        pipeline.load("gan")
    with pytest.raises(ProviderError, match="'abacus' is unknown"):
        pipeline.load(models=zoo.Zoo(runtime.Device("abacus")))


def test_the_default_stages_say_what_they_are(request: pytest.FixtureRequest):
    default = request.getfixturevalue("swapper")
    assert set(default.models) == {"detect", "landmarks", "embed", "generate"}
    name, provider = default.models["generate"]
    assert name in ("relight", "relight_int8+occlude_int8")  # by what the processor can do
    assert provider == "cpu"


# --- speed beside other work ------------------------------------------------------------------


def test_the_swap_of_a_frame_is_not_stalled_by_a_busy_thread():
    """Each native call gives the interpreter away and may wait a switch interval to get it back.

    A loop of thousands of small calls, milliseconds alone, takes seconds beside a thread that
    computes in Python. Three hundred intervals are allowed, short as a run makes them, and three
    times the time alone for what the other thread takes of the machine.
    """
    mesh = synthetic.mesh((640, 360), 300)
    image = synthetic.picture(1280, 720, mesh)
    make = generate.MeshGenerator()
    who = synthetic.identity(512)
    s = pipeline.Stream(pipeline.Swapper(Eyes(Scene({})), None, None, make, {}))

    def median(count: int = 9) -> float:
        spent = []
        for _ in range(count):
            frame = Frame(image.copy())
            start = time.perf_counter()
            s.render(frame, [(synthetic.face(mesh), who)], plan())
            spent.append(time.perf_counter() - start)
            assert frame.dirty
        return float(np.median(spent))

    median(2)  # what is made on first use is not counted
    alone = median()
    stop = threading.Event()

    def busy() -> None:
        n = 0
        while not stop.is_set():
            n += 1

    thread = threading.Thread(target=busy, daemon=True)
    thread.start()
    try:
        with pipeline.brisk():
            beside = median()
            bound = 3 * alone + 300 * sys.getswitchinterval()
    finally:
        stop.set()
        thread.join()
    assert beside < bound
    assert sys.getswitchinterval() > 0.001  # as it was before


# --- real footage -----------------------------------------------------------------------------


@pytest.mark.media
def test_a_real_clip_from_file_to_memory(footage: Path, request: pytest.FixtureRequest):
    """Two seconds of a talking head: every frame swapped, and only around the face."""
    from mien import identity

    default = request.getfixturevalue("swapper")
    who = identity.enrol(
        [footage / "portraits" / "lp_d9.jpg"],
        synthetic.CONSENT,
        detect=default.detector,
        landmarks=default.landmarks,
        embed=default.embed,
    )
    film = Film()
    with media.open_source(footage / "clips" / "lp_d0.mp4", end=1.2) as source:
        times = [f.pts for f in source]
    with media.open_source(footage / "clips" / "lp_d0.mp4", end=1.2) as source:
        originals = [f.image.copy() for f in source]
    s = pipeline.Stream(default)
    with media.open_source(footage / "clips" / "lp_d0.mp4", end=1.2) as source:
        report = run(source, film, s, plan=plan(Rule(who)))
    assert report.frames_out == report.swapped == len(times) == 30
    assert [pts for _, pts in film.taken] == times
    assert s._tracker.detections <= 4
    for image, original in zip(film.images, originals, strict=True):
        changed = (image != original).any(-1)
        # The head fills much of the picture, and what is around the face bends along.
        assert 0.01 < changed.mean() < 0.6
