"""A consent that is withdrawn stops what runs: streams, jobs and choices; nothing of it is left."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import synthetic
from mien import api, live, media, pipeline
from mien.errors import Refused, UsageError
from mien.identity import Store, Watch
from mien.live.control import Commands
from mien.provenance import Marker
from mien.serve.control import EngineControls, People, Performance
from mien.types import Consent, Frame, Identity, Rule, Scope, SwapPlan
from synthetic import Scene, stays
from test_live import COLOURS, TALL, Paint, Screen, Scripted, X, Y, picture, swapper

SOON = 30.0
"""Seconds; a minute is asked for, a quiet machine takes about one."""

WAIT = 40.0
"""Seconds after which a stream that goes on is taken for one that was not stopped."""


def kept(name: str, *scope: Scope, expires: str = "") -> Identity:
    """A person in the store, as it comes out of it."""
    given = Consent("written", scope=scope, expires=expires)
    Store.open().add(replace(synthetic.identity(64, name=name), consent=given))
    return Store.open().get(name)


def revoke_elsewhere(name: str) -> subprocess.Popen[bytes]:
    """Withdraw in another process."""
    program = "import sys; from mien.identity import Store; Store.open().revoke(sys.argv[1])"
    return subprocess.Popen([sys.executable, "-c", program, name])


def look(*people: Identity, **how: Any) -> live.Look:
    which: list[Any] = ["left", "right"]
    rules = tuple(Rule(p, w) for p, w in zip(people, which, strict=False))
    if len(people) == 1:
        rules = (Rule(people[0]),)
    return live.Look(SwapPlan(rules), Marker(consent=synthetic.CONSENT), **how)


TWO = {"Al": stays(150, Y, TALL), "Bo": stays(480, Y, 80)}


def engine_of(seen: live.Look, screen: Screen, scene: Scene | None = None, **how: Any):
    options = live.Options(reopen=False, **how)
    camera = Scripted(round(WAIT * 30))
    return live.Engine(lambda: camera, swapper(scene), seen, [screen], options)


def shows(image: Any, x: int, name: str) -> bool:
    """Whether somebody's colour is there; the watermark changes it by little."""
    return all(abs(int(a) - b) < 20 for a, b in zip(image[Y, x], COLOURS[name], strict=True))


def wait_for(what: Any, seconds: float = SOON) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.02)
    return time.monotonic() - began


def test_the_engine_ends_soon_after_another_process_withdrew_the_only_person():
    screen = Screen()
    with engine_of(look(kept("Ada")), screen) as engine:
        wait_for(lambda: len(screen.images) > 3, WAIT)
        elsewhere = revoke_elsewhere("Ada")
        assert elsewhere.wait(WAIT) == 0
        began = time.monotonic()
        with pytest.raises(Refused, match=r"Ada: the consent was withdrawn \(rule consent\.rev"):
            engine.wait(SOON)
        assert time.monotonic() - began < SOON
    assert screen.closed
    assert all(shows(image, X, "Ada") for image in screen.images)


@pytest.mark.parametrize("private", [False, True])
def test_of_two_people_the_other_goes_on(private, caplog):
    ada, bob = kept("Ada"), kept("Bob")
    screen = Screen()
    with engine_of(look(ada, bob), screen, Scene(TWO), private=private) as engine:
        wait_for(lambda: len(screen.images) > 3, WAIT)
        assert shows(screen.images[-1], 480, "Bob")
        Store.open().revoke("Bob")
        wait_for(lambda: len(engine.look.plan.rules) == 1)
        shown = len(screen.images)
        # In private everything is blurred until it is sure that nobody is there unseen.
        wait_for(lambda: len(screen.images) > shown + (65 if private else 3))
        last = screen.images[-1]
        assert not any(shows(i, 480, "Bob") for i in screen.images[shown + 2 :])
    assert shows(last, 150, "Ada")
    assert not shows(last, 480, "Bob")
    assert "Bob: the consent was withdrawn" in caplog.text
    assert "not shown any more" in caplog.text


def test_nothing_holds_on_to_who_withdrew():
    """Caches of generators hang on the identity, and nobody keeps that."""
    ada, bob = kept("Ada"), kept("Bob")
    gone = weakref.ref(bob)
    screen = Screen()
    with engine_of(look(ada, bob, on_miss="hold"), screen, Scene(TWO)) as engine:
        del bob
        wait_for(lambda: len(screen.images) > 3, WAIT)
        Store.open().revoke("Bob")
        wait_for(lambda: len(engine.look.plan.rules) == 1)
        shown = len(screen.images)
        wait_for(lambda: len(screen.images) > shown + 3)
        wait_for(lambda: gc.collect() >= 0 and gone() is None)


def test_a_last_day_that_passes_ends_it_too(monkeypatch):
    from mien.identity import permitting

    screen = Screen()
    with engine_of(look(kept("Ada", expires="2091-06-30")), screen) as engine:
        wait_for(lambda: len(screen.images) > 3, WAIT)

        class Later(permitting.date):
            @classmethod
            def today(cls):
                return cls(2091, 7, 1)

        monkeypatch.setattr(permitting, "date", Later)
        with pytest.raises(Refused, match=r"ended with 2091-06-30 \(rule consent\.expires\)"):
            engine.wait(SOON)


def test_live_is_refused_where_the_consent_is_for_photos():
    with pytest.raises(Refused, match="photo"):
        engine_of(look(kept("Ada", "photo")), Screen()).start()


def test_a_person_who_withdrew_cannot_be_taken_while_it_runs():
    ada, bob = kept("Ada"), kept("Bob")
    screen = Screen()
    with engine_of(look(ada), screen) as engine:
        wait_for(lambda: len(screen.images) > 3, WAIT)
        Store.open().revoke("Bob")
        time.sleep(1.1)
        with pytest.raises(Refused, match="Bob: the consent was withdrawn"):
            engine.change(identity=bob)
        assert engine.look.plan.rules[0].identity is ada


def test_the_control_socket_takes_a_name():
    kept("Bob")

    class NoEngine:
        taken: Identity | None = None

        def change(self, identity: Identity) -> None:
            self.taken = identity

    engine = NoEngine()
    commands = Commands(engine, swapper())  # type: ignore[arg-type]
    commands.swapper.models["embed"] = ("drawn", "cpu")
    assert commands('{"set": {"identity": "Bob"}}') == {"ok": True}
    assert engine.taken is not None
    assert (engine.taken.name, engine.taken.consent.basis) == ("Bob", "written")
    wrong = commands('{"set": {"identity": "Bob", "consent": "self"}}')
    assert "has its own consent" in wrong["error"]
    Store.open().revoke("Bob")
    assert "rule consent.revoked" in commands('{"set": {"identity": "Bob"}}')["error"]


# --- the page ----------------------------------------------------------------------------------


def test_a_browsers_camera_is_refused_once_nobody_is_left():
    ada = kept("Ada")
    visit = Performance(swapper(), look(ada), {"Ada": ada})
    shown = visit(Frame(picture(0), 0), 0.0)
    assert shows(shown.marked.frame.image, X, "Ada")
    Store.open().revoke("Ada")
    time.sleep(1.1)
    with pytest.raises(Refused, match="Ada: the consent was withdrawn"):
        visit(Frame(picture(1), 1), 0.1)


def test_who_withdrew_cannot_be_chosen_on_the_page_any_more(caplog):
    ada, bob = kept("Ada"), kept("Bob")
    gone = weakref.ref(bob)
    people = People([ada, bob])
    del bob
    screen = Screen()
    with engine_of(look(ada), screen) as engine:
        controls = EngineControls(engine, people)
        assert controls.choices()["identity"] == ["Ada", "Bob"]
        Store.open().revoke("Bob")
        wait_for(lambda: controls.choices()["identity"] == ["Ada"])
        with pytest.raises(UsageError, match="there is no identity 'Bob'"):
            controls.change({"identity": "Bob"})
    assert "Bob: the consent was withdrawn" in caplog.text
    wait_for(lambda: gc.collect() >= 0 and gone() is None)


# --- files -------------------------------------------------------------------------------------


@pytest.fixture
def _watchful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Streams look at the store for every frame."""
    monkeypatch.setattr(pipeline.identity, "Watch", partial(Watch, every=0))
    return


@pytest.mark.usefixtures("_watchful")
def test_a_job_stops_and_leaves_nothing_half_written(examples, tmp_path):
    ada = kept("Ada")
    output = tmp_path / "out.mp4"

    def progress(done: int, total: int | None) -> None:
        if done == 3:
            Store.open().revoke("Ada")

    scene = Scene({"Al": stays(X, Y, TALL)})
    with pytest.raises(Refused, match=r"Ada: the consent was withdrawn \(rule consent\.revoked\)"):
        api.swap(
            examples / "clip.mp4", ada, output, progress=progress,
            swapper=swapper(scene, Paint(takes=0.02)),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_job_is_refused_before_anything_is_written(examples, tmp_path):
    ada = kept("Ada", "live", "photo")
    with pytest.raises(Refused, match="video"):
        api.swap(examples / "clip.mp4", ada, tmp_path / "out.mp4", swapper=swapper())
    assert not list(tmp_path.iterdir())


def test_a_stream_of_ones_own_is_watched_too():
    ada = kept("Ada")
    stream = pipeline.Stream(swapper(), still=True)
    frame = Frame(picture(0))
    plan = SwapPlan((Rule(ada),))
    faces = stream.observe(frame)
    pairs = stream.assign(faces, plan)
    Store.open().revoke("Ada")
    time.sleep(1.1)
    with pytest.raises(Refused, match=r"rule consent\.revoked"):
        stream.render(frame, pairs, plan, faces=faces)
    with pytest.raises(Refused, match=r"rule consent\.revoked"):
        stream.assign(faces, plan)


# --- -s NAME -----------------------------------------------------------------------------------


def test_a_file_goes_before_an_identity_of_that_name(tmp_path, monkeypatch):
    kept("Ada")
    monkeypatch.chdir(tmp_path)
    assert api.stored_name(["Ada"]) == "Ada"
    Path("Ada").write_bytes(b"a photo")
    assert api.stored_name(["Ada"]) == ""
    with pytest.raises(UsageError, match="Bob: no such file, and no identity of that name"):
        api.stored_name(["Bob"])
    kept("Bob")
    with pytest.raises(UsageError, match="give it alone"):
        api.stored_name(["Bob", "Ada"])


def test_a_photo_used_once_leaves_the_fact_alone(examples, swapper):
    me = api.whose([examples / "portrait-1.jpg"], Consent("synthetic", "made up"), swapper=swapper)
    (entry,) = Store.open().list(once=True)
    assert (entry.record, entry.basis, entry.photos) == (me.consent.record, "synthetic", 0)
    assert Store.open().path.stat().st_size < 60_000
    Store.open().revoke(entry.record)
    with pytest.raises(Refused, match=r"rule consent\.revoked"):
        Watch().permit([me], "photo")


def test_what_the_generator_prepared_goes_with_the_identity(examples, swapper):
    name = kept_portrait(examples, swapper)
    me = api.stored(name, swapper=swapper)
    stream = pipeline.Stream(swapper)
    plan = SwapPlan((Rule(me),))
    with media.open_source(examples / "clip.mp4") as source:
        frame = next(iter(source))
        faces = stream.observe(frame)
        pairs = stream.assign(faces, plan)
        assert pairs
        stream.render(frame, pairs, plan, faces=faces)
    prepared: Any = swapper.generate
    assert me in prepared._prepared
    stream.forget(me)
    gone, count = weakref.ref(me), len(prepared._prepared)
    del me, plan, pairs, faces
    gc.collect()
    assert gone() is None
    assert len(prepared._prepared) == count - 1


def kept_portrait(examples: Path, chain: pipeline.Swapper) -> str:
    """Somebody of the bundled portraits, in the store."""
    person = api.enrol(examples / "portrait-1.jpg", "synthetic", swapper=chain, name="drawn")
    assert api.keep(person, swapper=chain).embedder == chain.models["embed"][0]
    return "drawn"
