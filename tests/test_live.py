"""The live engine: newest frame first, in order, with a delay that is bounded, on made scenes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import synthetic
from mien import live, pipeline
from mien.errors import MediaError, UsageError
from mien.live.counting import Ages, Rate
from mien.live.following import SELDOM, CatchUp
from mien.live.ladder import CALM, PATIENCE, Ladder, eased, steps_of
from mien.live.slot import Slot
from mien.media import PushCamera, Shot
from mien.provenance import Marker
from mien.types import Face, Faces, Frame, Identity, Patch, Rule, SwapPlan
from synthetic import HEIGHT, WIDTH, Place, Scene, stays

pytestmark = pytest.mark.usefixtures("without_watermark")

ADA, BOB = (synthetic.identity(64, name=name) for name in ("Ada", "Bob"))
COLOURS = {"Ada": (250, 0, 0), "Bob": (0, 250, 0)}
X, Y, TALL = 320, 180, 90


class Network:
    """A detection network that sees the scene, in upright pictures of any size."""

    def __init__(self, eyes: Eyes) -> None:
        self.eyes = eyes
        self.sides: list[int] = []

    def __call__(self, image: np.ndarray, side: int = 0) -> Faces:
        self.sides.append(side)
        if image.shape[1] < image.shape[0]:
            return []
        scale = image.shape[1] / WIDTH
        scene = self.eyes.scene
        return [
            Face(f.box * np.float32(scale), f.score, f.points * np.float32(scale))
            for f in scene.look(list(scene.seen()))
        ]


@dataclass
class Eyes:
    """Detector and mesh network of a scene; the frame's first pixel tells its time."""

    scene: Scene
    alone = False

    def __post_init__(self) -> None:
        self.fast = self.fine = Network(self)

    def quick(self, image: np.ndarray) -> Faces:
        self.scene.time = int(image[0, 0, 0])
        return self.fast(image)

    thorough = quick

    def __call__(self, frame: Frame) -> Faces:
        return self.quick(frame.image)

    def fit(self, frame: Frame, faces: Faces) -> Faces:
        self.scene.time = int(frame.image[0, 0, 0])
        return self.scene.fit(frame, faces)

    def embed(self, frame: Frame, faces: Faces) -> Faces:
        """People are at right angles; who is asked of when they are gone looks like nobody."""
        names = [*self.scene.people, ""]
        directions = np.eye(512, dtype=np.float32)
        who = [self.scene.who(f) if self.scene.seen() else "" for f in faces]
        return [replace(f, embedding=directions[names.index(w)])
                for f, w in zip(faces, who, strict=True)]  # fmt: skip


@dataclass
class Paint:
    """A plate of the identity's colour over the whole face, after so many seconds."""

    takes: float = 0.0
    first: float = 0.0
    calls: int = 0

    def __call__(self, frame: Frame, faces: Faces, identities: list[Identity]) -> list[Patch]:
        time.sleep(self.takes + (self.first if not self.calls else 0))
        self.calls += 1
        patches = []
        for face, identity in zip(faces, identities, strict=True):
            more = 0.12 * (face.box[3] - face.box[1]) * np.array([-1, -1, 1, 1])
            x0, y0, x1, y1 = np.round(face.box + more).astype(int)
            image = np.full((y1 - y0, x1 - x0, 3), COLOURS[identity.name], np.uint8)
            shift = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0]])
            patches.append(Patch(image, np.full(image.shape[:2], 255, np.uint8), shift))
        return patches


def swapper(scene: Scene | None = None, make: Any = None) -> pipeline.Swapper:
    eyes = Eyes(scene or Scene({"Al": stays(X, Y, TALL)}))
    models = {"generate": ("paint", "cpu")}
    return pipeline.Swapper(eyes, eyes.fit, eyes.embed, make or Paint(), models)  # type: ignore[arg-type]


def picture(index: int, *, raw: bool = False) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    if raw:  # what must not be seen: fine stripes over the face
        image[Y - 40 : Y + 40, X - 30 : X + 30 : 4] = (255, 0, 255)
    image[0, 0] = index % 256
    return image


@dataclass
class Scripted:
    """A camera that gives frames at its own pace, and ends, or breaks."""

    count: int
    fps: float = 30.0
    begin: int = 0
    breaks: bool = False
    raw: bool = False
    name: str = "scripted"
    closed: bool = False

    def preview(self) -> Iterator[Frame]:
        return (Frame(picture(self.begin, raw=self.raw), n) for n in range(3))

    def __iter__(self) -> Iterator[Shot]:
        start = time.monotonic()
        for n in range(self.count):
            due = start + n / self.fps
            time.sleep(max(0.0, due - time.monotonic()))
            if self.closed:
                return
            yield Shot(Frame(picture(self.begin + n, raw=self.raw), n), due)
        if self.breaks:
            raise MediaError("scripted: unplugged")

    def close(self) -> None:
        self.closed = True


@dataclass
class Screen:
    """An output that keeps what it was shown, and is as slow as one likes."""

    takes: float = 0.0
    fails_at: int = -1
    name: str = "screen"
    images: list[np.ndarray] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    opened: tuple[int, int, float] | None = None
    closed: bool = False

    def open(self, width: int, height: int, fps: float) -> None:
        self.opened = (width, height, fps)

    def write(self, shown: live.Shown) -> None:
        if len(self.indices) == self.fails_at:
            raise MediaError("screen: the cable is cut")
        self.images.append(shown.marked.frame.image)
        self.indices.append(shown.marked.frame.index)
        self.ages.append(time.monotonic() - shown.taken)
        self.times.append(time.monotonic())
        self.swapped.append(shown.swapped)
        time.sleep(self.takes)

    def close(self) -> None:
        self.closed = True


def look(**how: Any) -> live.Look:
    return live.Look(SwapPlan((Rule(ADA),)), Marker(consent=synthetic.CONSENT), **how)


def run(
    camera: Any, screens: list[Screen], chain: pipeline.Swapper | None = None, **options: Any
) -> live.Statistics:
    seen = options.pop("look", None) or look()
    options = {"reopen": False} | options
    engine = live.Engine(lambda: camera, chain or swapper(), seen, screens, live.Options(**options))
    return engine.run()


def step(
    screens: list[Screen],
    pictures: list[np.ndarray],
    chain: pipeline.Swapper | None = None,
    *,
    between: Callable[[int, live.Engine], None] | None = None,
    **how: Any,
) -> live.Statistics:
    """Push pictures one by one, each when the last was shown: nothing is dropped."""
    camera, seen = PushCamera(), how.pop("look", None) or look()
    options = live.Options(reopen=False, max_latency=5.0, **how)
    engine = live.Engine(lambda: camera, chain or swapper(), seen, screens, options)
    engine._catch_up = lambda *_: False  # a machine that stalls is no reason here
    with engine:
        for number, image in enumerate(pictures):
            if between is not None:
                between(number, engine)
            camera.push(image)
            until = time.monotonic() + 5
            while len(screens[0].indices) == number and time.monotonic() < until:
                time.sleep(0.002)
        figures = engine.stop()
    assert (figures.frames_out, figures.dropped) == (len(pictures), 0)
    return figures


# --- order, drops, age --------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [0.05, 0.1, 0.2])
def test_a_slow_generator_costs_frames_and_not_time(takes):
    screen = Screen()
    options = live.Options(reopen=False, step_down=False)
    engine = live.Engine(
        lambda: Scripted(45), swapper(make=Paint(takes)), look(), [screen], options
    )
    figures = engine.run()
    assert figures.frames_in == 45
    assert figures.frames_in == figures.frames_out + figures.dropped
    assert figures.frames_out == len(screen.indices) == figures.outputs[0].written
    assert figures.dropped > 10
    # On a busy machine the work on a frame takes longer than the generator sleeps.
    slowest = max(takes, *engine._work.last(45))
    assert figures.age_p95 <= (2 * slowest + 0.05) * 1000
    # Each shows the newest frame of its time, and none comes twice or late.
    taken = [at - age for at, age in zip(screen.times, screen.ages, strict=True)]
    assert np.all(np.diff(taken) > 0)
    assert max(screen.ages[-3:]) < 2 * slowest + 0.05
    assert takes < 0.1 or figures.late > 0.8 * figures.frames_out


def test_a_quick_generator_drops_nothing():
    screen = Screen()
    figures = step([screen], [picture(n) for n in range(12)])
    assert (figures.frames_out, figures.dropped, figures.swapped) == (12, 0, 12)
    assert screen.indices == list(range(12))
    assert screen.opened == (WIDTH, HEIGHT, 30.0)
    assert screen.closed
    assert figures.fps_out > 5
    assert figures.provider == "cpu"


def test_a_slow_viewer_slows_nobody_else():
    fast, slow = Screen(name="fast"), Screen(takes=0.3, name="slow")
    figures = step([fast, slow], [picture(n) for n in range(30)])
    lasted = fast.times[-1] - fast.times[0]
    assert lasted < 5  # at the pace of the slow one 9
    assert len(fast.indices) == 30
    assert len(slow.indices) <= 2 + lasted / 0.3
    assert slow.indices == sorted(set(slow.indices))
    assert figures.outputs[1].written + figures.outputs[1].skipped == 30
    assert slow.indices[-1] == 29  # what it is shown is the newest


def test_nothing_is_finished_that_the_only_output_would_not_take():
    screen = Screen(takes=0.1)
    figures = run(Scripted(30), [screen])
    assert figures.outputs[0].skipped == 0
    assert figures.frames_in == figures.frames_out + figures.dropped == 30
    assert figures.frames_out < 18


def test_a_frame_that_would_be_late_is_dropped_before_it_is_worked_on():
    camera, paint = PushCamera(fps=30), Paint()
    screen = Screen()
    engine = live.Engine(
        *(lambda: camera, swapper(make=paint), look(), [screen]),
        live.Options(reopen=False, max_latency=4.0),
    )
    with engine:
        for n in range(12):
            camera.push(picture(n), time.monotonic() - (9 if n % 3 == 2 else 0))
            until = time.monotonic() + 5
            while time.monotonic() < until:
                figures = engine.statistics()
                if figures.frames_out + figures.dropped == n + 1:
                    break
                time.sleep(0.002)
        figures = engine.stop()
    assert (figures.frames_in, figures.dropped) == (12, 4)
    assert paint.calls == len(screen.ages) == 8


def test_an_output_that_breaks_is_taken_away(caplog):
    good, bad = Screen(name="good"), Screen(fails_at=3, name="bad")
    figures = step([good, bad], [picture(n) for n in range(15)])
    assert len(good.indices) == 15
    assert len(bad.indices) == 3
    assert "the cable is cut" in caplog.text
    assert {o.name: o.error for o in figures.outputs}["bad"] == "screen: the cable is cut"


def test_without_any_output_left_the_engine_ends_with_its_error():
    with pytest.raises(MediaError, match="cable is cut"):
        run(Scripted(1000), [Screen(fails_at=2)])


def test_outputs_come_and_go_while_it_runs():
    camera = Scripted(1000, fps=60)
    first, second = Screen(name="first"), Screen(name="second")

    def seen(screen: Screen, count: int) -> bool:
        until = time.monotonic() + 5
        while len(screen.indices) < count and time.monotonic() < until:
            time.sleep(0.01)
        return len(screen.indices) >= count

    with live.Engine(lambda: camera, swapper(), look(), [first]) as engine:
        assert seen(first, 3)
        engine.add(second)
        assert seen(second, 3)
        engine.remove(first)
        last = len(first.indices)
        assert first.closed
        assert seen(second, len(second.indices) + 3)
        assert len(first.indices) == last
    assert second.opened == (WIDTH, HEIGHT, 60.0)


def test_what_ends_a_camera_ends_the_engine_or_not():
    with pytest.raises(MediaError, match="unplugged"):
        run(Scripted(5, breaks=True), [Screen()])
    figures = run(Scripted(1000), [Screen()], duration=0.3)
    assert 2 <= figures.frames_in <= 12
    assert figures.frames_in == figures.frames_out + figures.dropped


def test_a_camera_that_comes_back_is_used_again_within_two_seconds(caplog):
    cameras = [Scripted(10, breaks=True), None, None, Scripted(10, begin=50)]
    opened: list[float] = []

    def camera() -> Scripted:
        opened.append(time.monotonic())
        found = cameras.pop(0)
        if found is None:
            raise MediaError("scripted: not there")
        return found

    screen = Screen()
    engine = live.Engine(camera, swapper(), look(), [screen], live.Options(duration=3.0))
    with engine:
        while len(screen.indices) < 18 and time.monotonic() - opened[0] < 4:
            time.sleep(0.02)
        figures = engine.stop()
    gap = max(np.diff(screen.times))
    assert 0.5 < gap < 2.0
    assert figures.recovered == 1
    assert screen.indices == sorted(set(screen.indices))
    assert "is back" in caplog.text
    assert cameras == []


# --- start, misses, private ---------------------------------------------------------------------


def test_the_first_frame_shown_is_a_swapped_one_and_not_late():
    screen, paint = Screen(), Paint(first=1.0)
    run(Scripted(5), [screen], swapper(make=paint))
    assert paint.calls > len(screen.indices)  # warmed up before
    assert screen.swapped[0] == 1
    assert tuple(screen.images[0][Y, X]) == COLOURS["Ada"]
    assert screen.ages[0] < 0.5


def goes(first: int, last: int) -> Callable[[int], Place]:
    return lambda t: None if first <= t <= last else (X, Y, TALL)


ON_MISS = ["pass", "hold", "blur", "card"]


@pytest.mark.parametrize("on_miss", ON_MISS)
def test_what_is_shown_when_the_face_is_missed(on_miss):
    scene = Scene({"Al": goes(8, 29)})
    screen = Screen()
    pictures = [picture(n, raw=True) for n in range(30)]
    figures = step([screen], pictures, swapper(scene), look=look(on_miss=on_miss))
    assert 15 < figures.missed <= 22
    last = screen.images[-1]
    stripes = float(np.abs(np.diff(last[Y, X - 28 : X + 28, 1].astype(int))).max())
    if on_miss == "pass":
        assert stripes > 90
    elif on_miss == "hold":
        assert tuple(last[Y, X]) == COLOURS["Ada"]
    elif on_miss == "blur":
        assert 0 <= stripes < 20
        assert abs(float(last.mean()) - 100) < 10
    else:
        assert float(last.mean()) < 60


@pytest.mark.parametrize("on_miss", ON_MISS)
def test_in_private_no_raw_face_is_ever_shown(on_miss):
    """Nor at the start, nor while quality steps down, nor when the face is missed."""
    screen, slow = Screen(), on_miss == "pass"
    first = 36 if slow else 10
    scene = Scene({"Al": goes(first, first + 6)})
    pictures = [picture(n, raw=True) for n in range(first + 14)]
    figures = step(
        [screen], pictures, swapper(scene, Paint(0.05 if slow else 0)),
        look=look(on_miss=on_miss, strength=0.3), private=True,
    )  # fmt: skip
    assert figures.missed >= 7
    assert figures.swapped >= 10
    assert figures.steps_down == slow
    for image in screen.images:
        red, green, blue = np.moveaxis(image.astype(int), 2, 0)
        assert not ((red - green > 100) & (blue - green > 100)).any()


def test_in_private_those_who_are_not_meant_are_blurred():
    scene = Scene({"Al": stays(150, Y, TALL), "Bo": stays(480, Y, 80)})
    screen = Screen()
    only = live.Look(SwapPlan((Rule(ADA, "left"),)), Marker(consent=synthetic.CONSENT))

    class Striped(Scripted):
        def __iter__(self) -> Iterator[Shot]:
            for shot in super().__iter__():
                shot.frame.image[Y - 30 : Y + 30, 460:500:4] = (255, 0, 255)
                yield shot

    run(Striped(8), [screen], swapper(scene), look=only, private=True)
    for image in screen.images:
        assert tuple(image[Y, 150]) == COLOURS["Ada"]
        assert np.abs(np.diff(image[Y, 462:498, 1].astype(int))).max() < 30


def test_in_private_a_face_for_which_no_patch_is_made_is_blurred():
    screen = Screen()
    nothing = swapper(make=lambda frame, faces, identities: [])
    run(Scripted(5, raw=True), [screen], nothing, private=True)
    for image in screen.images:
        assert np.abs(np.diff(image[Y, X - 25 : X + 25, 1].astype(int))).max() < 30


# --- changes while it runs ----------------------------------------------------------------------


def test_changes_hold_from_the_next_frame_on_and_drop_none():
    screen = Screen()

    def change(number: int, engine: live.Engine) -> None:
        if number == 3:
            engine.change(identity=BOB)
        elif number == 6:
            engine.change(strength=0.5, mark="on air")
        elif number == 9:
            engine.change(paused=True)
            with pytest.raises(UsageError, match="strength: expected a number from 0 to 1"):
                engine.change(paused=False, strength=2)
            assert engine.look.paused  # all or nothing
            with pytest.raises(UsageError, match="no 'colour' to change"):
                engine.change(colour="red")
        elif number == 11:
            assert engine.look.marker.label == "AI-generated: on air"

    step([screen], [picture(n) for n in range(12)], between=change)
    colours = [tuple(int(v) for v in image[Y, X]) for image in screen.images]
    order = list(dict.fromkeys(colours))
    assert [colours.count(c) for c in order] == [3, 3, 3, 3]
    assert order[:2] == [COLOURS["Ada"], COLOURS["Bob"]]
    half = np.array(order[2]) - (np.array(COLOURS["Bob"]) + 100) / 2
    assert np.abs(half).max() <= 1
    assert order[3] == (100, 100, 100)
    label = screen.images[0][HEIGHT - 30 :, WIDTH - 200 :]
    assert float(np.abs(label.astype(int) - 100).max()) > 50


@pytest.mark.parametrize(
    ("key", "value"),
    [("faces", "middle"), ("faces", 0), ("faces", True), ("mask", "no"), ("on_miss", "freeze"),
     ("mark", "x" * 100), ("strength", "full"), ("identity", "me.jpg"), ("paused", 1)],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(key, value):
    engine = live.Engine(lambda: Scripted(1), swapper(), look())
    before = engine.look
    with pytest.raises(UsageError, match=f"{key}: expected"):
        engine.change(**{key: value})
    assert engine.look is before


def test_faces_can_be_chosen_anew():
    engine = live.Engine(lambda: Scripted(1), swapper(), look())
    engine.change(faces="left", mask=False, on_miss="card")
    assert engine.look.plan.rules[0].which == "left"
    assert (engine.look.masks, engine.look.on_miss) == (False, "card")


def test_people_are_told_apart_from_when_one_of_them_is_chosen():
    known: list[bool] = []

    @dataclass
    class Listening(Screen):
        def write(self, shown: live.Shown) -> None:
            known.append(all(face.embedding is not None for face in shown.faces))
            super().write(shown)

    def choose(number: int, engine: live.Engine) -> None:
        if number in (3, 6):
            engine.change(faces="left" if number == 3 else "all")

    step([Listening()], [picture(n) for n in range(9)], between=choose)
    assert known == [False] * 3 + [True] * 3 + [False] * 3


# --- the ladder ---------------------------------------------------------------------------------


def test_the_steps_are_in_a_fixed_order(swapper):
    names = [step.name for step in steps_of(swapper)]
    assert names == [
        "full quality", "looks for faces less often", "smaller detection input",
        "the target's own face shape", "light without a network", "smaller picture",
    ]  # fmt: skip
    private = [step.name for step in steps_of(swapper, private=True)]
    assert private == [names[0], names[-1]]
    shape = steps_of(swapper)[3].swapper.generate
    assert shape.options.shape == 0
    assert shape.network is swapper.generate.network  # nothing is loaded again


def test_a_smaller_detection_input_is_asked_of_the_network():
    chain, network = eased(swapper())
    stream = pipeline.Stream(chain)
    sides = network.network.sides
    stream.observe(Frame(picture(0), 0, 0))
    whole = max(sides)
    sides.clear()
    network.half = True
    pipeline.Stream(chain).observe(Frame(picture(0), 0, 0))
    assert max(sides) == whole // 2
    assert len(stream.observe(Frame(picture(1), 1, 1))) == 1


def test_after_a_stall_one_frame_is_left_out_and_the_rest_are_fresh():
    """Painting takes 27 of 33 ms, once 80; each frame waits for the one before it."""

    def waits(catch_up: CatchUp | None) -> list[float]:
        interval, free, out = 1 / 30, 0.0, []
        for number in range(300):
            taken = number * interval
            began = max(taken, free)
            if catch_up is not None and catch_up((began - taken) / interval, began):
                continue
            out.append(began - taken)
            free = began + (0.080 if number % 100 == 50 else 0.027)
        return out

    late = [sum(w > 0.5 / 30 for w in waits(c)) for c in (None, CatchUp())]
    assert late[0] >= 15
    assert late[1] == 0
    assert len(waits(CatchUp())) == 300 - 3


def test_frames_are_seldom_left_out_where_all_of_them_wait():
    catch_up = CatchUp()
    left = sum(catch_up(0.9, number / 30) for number in range(300))
    assert left == 300 / 30 / SELDOM


def test_the_ladder_goes_down_when_slow_and_up_when_easy():
    ladder, now = Ladder(3, 1 / 30), 0.0

    def work(seconds: float, lasts: float) -> list[int]:
        nonlocal now
        steps = []
        for _ in range(round(lasts * 20)):
            now += 0.05
            if ladder(seconds, now):
                steps.append(ladder.step)
        return steps

    assert work(0.05, 0.9) == []  # a hiccup is none
    assert work(0.05, 3 * PATIENCE) == [1, 2]
    assert work(0.05, 5) == []  # there is nothing below
    assert work(0.025, 30) == []  # neither slow nor easy
    assert work(0.01, CALM + 1) == [1]
    assert work(0.05, PATIENCE + 0.7) == [2]  # it did not last
    assert work(0.01, 2 * CALM - 0.5) == []  # so it waits twice as long
    assert work(0.01, 1) == [1]
    assert ladder.downs == 3


def test_the_engine_steps_down_and_says_so(caplog):
    screen = Screen()
    figures = run(Scripted(75), [screen], swapper(make=Paint(0.05)), max_latency=0.2)
    assert figures.step >= 1
    assert figures.steps_down == figures.step
    assert "looks for faces less often" in caplog.text
    assert {image.shape for image in screen.images} == {(HEIGHT, WIDTH, 3)}


def test_a_smaller_picture_is_painted_in_the_same_places():
    scene = Scene({"Al": stays(X, Y, TALL)})
    chain = swapper(scene)
    stream = pipeline.Stream(chain)
    painter = live.show.Painter(stream)
    frame = Frame(picture(0), 0, 0)
    faces = stream.observe(frame)
    pairs = stream.assign(faces, look().plan)
    done = painter(frame, faces, pairs, look(), taken=0.0, scale=2 / 3)
    assert done.frame.image.shape == (HEIGHT, WIDTH, 3)
    assert tuple(done.frame.image[Y, X]) == COLOURS["Ada"]
    red = done.frame.image[:, :, 0] > 175
    rows, columns = np.nonzero(red)
    plain = Frame(picture(0), 0, 0)
    painter(plain, faces, pairs, look(), taken=0.0)
    rows_, columns_ = np.nonzero(plain.image[:, :, 0] > 175)
    for a, b in ((rows, rows_), (columns, columns_)):
        assert abs(int(a.min()) - int(b.min())) <= 2
        assert abs(int(a.max()) - int(b.max())) <= 2


# --- parts --------------------------------------------------------------------------------------


def test_the_newest_wins_in_a_slot():
    slot: Slot[int] = Slot()
    for n in range(3):
        slot.put(n)
    assert (slot.take(), slot.take(0.01), slot.replaced) == (2, None, 2)
    slot.put(3)
    slot.close(keep=True)
    slot.put(4)
    assert (slot.take(), slot.take(), slot.replaced) == (3, None, 3)


def test_ages_and_rates():
    ages, rate = Ages(), Rate()
    assert ages.all(50, 95) == [0.0, 0.0]
    for n in range(1, 101):
        ages.add(n / 1000)
        rate.add()
    assert ages.all(50, 95) == pytest.approx([50, 95], abs=1)
    assert ages.recent(50) == pytest.approx([50], abs=1)
    ages.add(60)
    assert ages.all(100)[0] == pytest.approx(10_000, abs=1)
    assert rate.count == 100
    assert rate.all() > 1000


def test_the_head_up_line_says_how_it_goes():
    figures = run(Scripted(5), [Screen()])
    assert " fps  age " in figures.line()
    assert "dropped" in figures.line()


def test_an_upscaler_is_refused():
    with pytest.raises(UsageError, match="not enlarged"):
        live.Engine(lambda: Scripted(1), replace(swapper(), upscaler=lambda f: f), look())
