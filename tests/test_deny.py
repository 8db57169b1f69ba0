"""People on the deny list are no source and no target, and lists are taken from known signers."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import synthetic
from mien import api, audit, deny, gate, media, pipeline, policy
from mien.cli import main
from mien.deny import DenyFile, DenyList, Entry
from mien.errors import MediaError, Refused, UsageError
from mien.types import Consent, Frame, Rule, SwapPlan
from synthetic import Scene, stays
from test_live import TALL, Paint, Y, picture
from test_pipeline import Eyes

ADA = synthetic.identity(64, name="Ada")
PORTRAIT, PHOTO = "portrait-1.jpg", "photo.jpg"
PLAN = SwapPlan((Rule(ADA),))


def person(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(512).astype(np.float32)
    return vector / np.linalg.norm(vector)


def at(cosine: float, base: np.ndarray) -> np.ndarray:
    """A unit vector with this cosine to another."""
    other = person(99) - (person(99) @ base) * base
    other /= np.linalg.norm(other)
    return (cosine * base + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def home() -> Path:
    return Path(os.environ["MIEN_HOME"])


def logged(*events: str) -> list[dict[str, Any]]:
    return [e for e in audit.AuditLog(home()).entries() if e["event"] in events]


# --- the list -------------------------------------------------------------------------------------


def test_a_face_matches_from_the_threshold_on_and_in_its_role_alone():
    one = person(1)
    listed = DenyList((Entry("a1", "source", one),), threshold=0.5)
    assert listed.match(at(0.501, one), "source") is listed.entries[0]
    assert listed.match(at(0.499, one), "source") is None
    assert listed.match(one, "target") is None
    assert listed.match(person(2), "source") is None
    with pytest.raises(Refused, match=r"deny list: me\.jpg matches entry a1, .* used as a source"):
        listed.check(one, "source", "me.jpg")


def test_the_nearest_of_many_entries_is_named():
    entries = tuple(Entry(f"e{n}", "both", person(n)) for n in range(50))
    listed = DenyList(entries)
    for n in (0, 17, 49):
        for role in ("source", "target"):
            assert listed.match(at(0.8, person(n)), role) is entries[n]
    assert listed.match(person(1000), "source") is None


def test_entries_are_kept_between_starts_for_their_owner_alone():
    added = DenyFile().add(person(3), "target", "asked by letter")
    (read,) = DenyFile().entries()
    assert (read.id, read.role, read.note) == (added.id, "target", "asked by letter")
    assert np.allclose(read.embedding, person(3), atol=1e-6)
    assert (home() / deny.FILE).stat().st_mode & 0o077 == 0
    DenyFile().remove(read.id)
    assert DenyFile().entries() == ()
    with pytest.raises(UsageError, match="no entry"):
        DenyFile().remove(read.id)


def test_a_damaged_list_stops_everything():
    """A list that cannot be read would let everybody through."""
    DenyFile().add(person(3), "both")
    path = home() / deny.FILE
    path.write_text(path.read_text()[:-40])
    with pytest.raises(MediaError, match=r"deny\.json: is no deny list"):
        pipeline.Stream(swapper())
    said = {"lists": {"": {"made": "", "entries": [{"id": "x", "role": "both", "note": "",
            "added": "", "embedding": "AAAA"}]}}}  # fmt: skip
    path.write_text(json.dumps(said))
    with pytest.raises(MediaError, match="is damaged"):
        pipeline.Stream(swapper())


def add_some(count: int) -> None:
    for n in range(count):
        DenyFile().add(person(n), "both")


def test_several_writers_lose_no_entry():
    threads = [threading.Thread(target=add_some, args=(8,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(DenyFile().entries()) == 24


# --- shared lists ---------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path, monkeypatch, set_policy):
    """A list that somebody else signed, and the policy of one who knows the key."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "theirs"))
    DenyFile().add(person(5), "both", "theirs")
    key = DenyFile().export(tmp_path / "shared.json")
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "ours"))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "policy.toml").write_text(f'[deny.keys]\npeers = "{key}"\n')
    return tmp_path / "shared.json"


def test_a_signed_list_of_a_known_key_is_taken(shared):
    DenyFile().add(person(6), "source")
    assert api.import_denied(shared) == ("peers", 1)
    entries = policy.load().denied.entries
    assert [(e.signer, e.role) for e in entries] == [("", "source"), ("peers", "both")]
    with pytest.raises(UsageError, match="of the shared list of 'peers'"):
        DenyFile().remove(entries[1].id)
    (note,) = logged("deny")
    assert (note["what"], note["signer"], note["entries"]) == ("import", "peers", 1)


@pytest.mark.parametrize("field", ["made", "entries", "embedder", "key", "signature"])
def test_a_list_that_was_changed_is_refused(shared, field):
    said = json.loads(shared.read_text())
    if field == "entries":
        said["entries"][0]["role"] = "source"
    elif field == "key":
        said["key"] = said["key"].replace(said["key"][0], "B" if said["key"][0] != "B" else "C", 1)
    elif field == "signature":
        said["signature"] = "A" * 86 + "=="
    else:
        said[field] += "x"
    shared.write_text(json.dumps(said))
    with pytest.raises(Refused, match=r"the signature does not hold|does not name"):
        api.import_denied(shared)
    assert DenyFile().entries() == ()


def test_an_unsigned_list_or_one_of_a_stranger_is_refused(shared, tmp_path, monkeypatch):
    said = json.loads(shared.read_text())
    del said["signature"]
    (tmp_path / "bare.json").write_text(json.dumps(said))
    with pytest.raises(Refused, match="is not signed"):
        api.import_denied(tmp_path / "bare.json")
    (home() / "policy.toml").write_text("")
    with pytest.raises(Refused, match=r"does not name under \[deny\.keys\]"):
        api.import_denied(shared)


def test_an_older_list_does_not_replace_a_newer_one(shared, tmp_path, monkeypatch):
    """Else somebody could be taken off by sending the list of before again."""
    old = tmp_path / "old.json"
    old.write_bytes(shared.read_bytes())
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "theirs"))
    DenyFile().add(person(7), "both")
    DenyFile().export(shared, overwrite=True)
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "ours"))
    assert api.import_denied(shared) == ("peers", 2)
    with pytest.raises(Refused, match="older than the list of 'peers'"):
        api.import_denied(old)
    assert len(policy.load().denied.entries) == 2


def test_a_list_that_the_policy_names_is_read_at_each_start_or_nothing_runs(shared):
    path = home() / "policy.toml"
    path.write_text(f'[deny]\nlists = ["{shared}"]\n{path.read_text()}')
    assert [e.signer for e in policy.load().denied.entries] == ["peers"]
    shared.write_text(shared.read_text().replace('"both"', '"source"'))
    with pytest.raises(Refused, match="the signature does not hold"):
        pipeline.Stream(swapper())
    shared.unlink()
    with pytest.raises(MediaError, match="cannot be read"):
        pipeline.Stream(swapper())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"key": 1}', b"[" * 10_000])
def test_files_that_are_no_list(shared, content):
    shared.write_bytes(content)
    with pytest.raises((MediaError, Refused)):
        api.import_denied(shared)


# --- sources --------------------------------------------------------------------------------------


def test_a_portrait_of_who_is_listed_is_refused_at_enrolment(examples, swapper):
    entry = api.deny_person([examples / PORTRAIT], "source")
    with pytest.raises(Refused, match=rf"portrait-1\.jpg matches entry {entry.id}"):
        api.enrol(examples / PORTRAIT, "synthetic", swapper=swapper)
    api.enrol(examples / "portrait-2.jpg", "synthetic", swapper=swapper)
    (refusal,) = logged("refused")
    assert "portrait-1" not in refusal["why"]
    assert (home() / deny.FILE).stat().st_size < 6000  # an embedding, and no photo


def test_another_embedder_does_not_hide_who_is_listed(examples, swapper):
    """The list's own is loaded then."""
    api.deny_person([examples / PORTRAIT], "source")

    def scrambled(frame, faces):
        return [replace(f, embedding=person(n)) for n, f in enumerate(faces)]

    with pytest.raises(Refused, match="matches entry"):
        api.enrol(examples / PORTRAIT, "synthetic", swapper=replace(swapper, embed=scrambled))


def test_who_is_listed_later_cannot_be_used_any_more(examples, swapper):
    """An identity from before, as it may lie in a store or be built by hand."""
    me = api.enrol(examples / PORTRAIT, "synthetic", swapper=swapper)
    api.deny_person([examples / PORTRAIT], "source")
    with pytest.raises(Refused, match="the portrait matches entry"):
        api.swap_image(media.read_image(examples / PHOTO), me, swapper=swapper)


# --- targets --------------------------------------------------------------------------------------


class Known:
    """An embedder that is the deny list's own, by its card."""

    card = SimpleNamespace(name=deny.EMBEDDER)

    def __init__(self, eyes: Eyes) -> None:
        self.eyes = eyes

    def __call__(self, frame: Frame, faces: Any) -> Any:
        return self.eyes.embed(frame, faces)


TWO = {"Al": stays(150, Y, TALL), "Bo": stays(480, Y, TALL)}


def swapper(scene: Scene | None = None) -> pipeline.Swapper:
    eyes = Eyes(scene or Scene(TWO))
    return pipeline.Swapper(eyes, eyes.fit, Known(eyes), Paint(), {})  # type: ignore[arg-type]


def looks(stream: pipeline.Stream) -> int:
    return len(stream.swapper.embed.eyes.embedded)  # type: ignore[attr-defined]


def deny_al(role: deny.Roles = "target") -> Entry:
    eyes = Eyes(Scene({"Al": TWO["Al"]}))
    frame = Frame(picture(0))
    (face,) = eyes.embed(frame, eyes.fit(frame, eyes(frame)))
    assert face.embedding is not None
    return DenyFile().add(face.embedding, role)


def test_who_is_listed_is_never_replaced_and_the_others_are(caplog):
    entry = deny_al()
    stream = pipeline.Stream(swapper())
    for index in range(60):
        frame = Frame(picture(index), index)
        faces = stream.observe(frame)
        assert len(faces) == 2
        pairs = stream.assign(faces, PLAN)
        assert [round(float(f.box[0] + f.box[2]) / 2) for f, _ in pairs] == [480]
        before = frame.image.copy()
        stream.render(frame, [(face, ADA) for face in faces], PLAN)  # by hand, and still not
        assert (frame.image[Y - 20 : Y + 20, 130:170] == before[Y - 20 : Y + 20, 130:170]).all()
        assert (frame.image[Y, 480] != before[Y, 480]).any()
    assert f"a face matches entry {entry.id}" in caplog.text
    (note,) = logged("denied")
    assert (note["entry"], note["role"]) == (entry.id, "target")


def test_it_costs_few_looks_and_none_without_a_list():
    free = pipeline.Stream(swapper())
    for index in range(60):
        free.assign(free.observe(Frame(picture(index), index)), PLAN)
    assert looks(free) == 0
    deny_al()
    stream = pipeline.Stream(swapper())
    for index in range(60):
        stream.assign(stream.observe(Frame(picture(index), index)), PLAN)
    assert looks(stream) == 1 + len(gate.LOOKS)  # the one who is listed is known after one


def test_a_list_of_sources_alone_does_not_keep_anybody_from_being_replaced():
    deny_al("source")
    stream = pipeline.Stream(swapper())
    assert len(stream.assign(stream.observe(Frame(picture(0))), PLAN)) == 2


def test_a_face_made_by_hand_is_looked_at_too():
    deny_al()
    stream = pipeline.Stream(swapper())
    finder = pipeline.Stream(swapper(), still=True)
    frame = Frame(picture(0))
    faces = [replace(f, track=None) for f in finder.observe(frame)]
    before = frame.image.copy()
    stream.render(frame, [(f, ADA) for f in faces], PLAN)
    assert (frame.image[Y - 20 : Y + 20, 130:170] == before[Y - 20 : Y + 20, 130:170]).all()
    assert (frame.image[Y, 480] != before[Y, 480]).any()


def test_a_photo_in_which_everybody_is_listed_is_copied_through(examples, tmp_path, swapper):
    api.deny_person([examples / PHOTO], "target", which="largest")
    result = api.swap(
        examples / PHOTO, synthetic_me(examples, swapper), tmp_path / "out.jpg", swapper=swapper
    )
    stream = pipeline.Stream(swapper, still=True)
    people = len(stream.observe(Frame(media.read_image(examples / PHOTO))))
    assert result.copied == (people == 1)
    assert result.report.faces == people - 1


def synthetic_me(examples: Path, swapper: pipeline.Swapper) -> Any:
    return api.enrol(examples / PORTRAIT, Consent("synthetic"), swapper=swapper)


# --- the commands ---------------------------------------------------------------------------------


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["mien", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_add_list_remove_export_import(monkeypatch, capsys, examples, tmp_path):
    portrait = str(examples / PORTRAIT)
    assert command(monkeypatch, "deny", "add", portrait, "--role", "source", "--note", "A.") == 0
    name = capsys.readouterr().out.split(":")[0]
    assert command(monkeypatch, "deny", "list") == 0
    assert f"{name}  source" in capsys.readouterr().out
    listed = str(tmp_path / "list.json")
    assert command(monkeypatch, "deny", "import", listed) == 1  # not there
    assert command(monkeypatch, "deny", "export", listed) == 0
    assert "[deny.keys]" in capsys.readouterr().out
    assert command(monkeypatch, "deny", "export", listed) == 2  # there already
    assert command(monkeypatch, "deny", "import", listed) == 2  # of nobody known
    assert "policy.toml does not name" in capsys.readouterr().err
    assert command(monkeypatch, "deny", "remove", name) == 0
    assert command(monkeypatch, "deny", "remove", name) == 2
    assert command(monkeypatch, "deny", "add", portrait, "--role", "x") == 2
    assert [e["what"] for e in logged("deny")] == ["add", "export", "remove"]
