"""The store of identities: sealed, deleted for good, shared by processes, and asked for consent."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from material import PHOTO, PORTRAIT
from mien import cli, geometry, home, provenance
from mien.errors import MediaError, Refused, UsageError
from mien.identity import Store, Watch, database, keys, objection, permitting
from mien.types import Consent, Face, Frame, Identity, Portrait

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")


def person(name: str = "anna", seed: int = 1, **consent: object) -> Identity:
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=512).astype(np.float32)
    portraits = tuple(
        Portrait(
            rng.integers(0, 256, (192 + 8 * n, 192 + 8 * n, 3)).astype(np.uint8),
            rng.normal(90, 30, (468 + 10 * n, 3)).astype(np.float32),
        )
        for n in range(2)
    )
    given = Consent("written", "form 12 in the drawer", **consent)  # type: ignore[arg-type]
    return Identity(name, embedding / np.linalg.norm(embedding), portraits, given)


@pytest.fixture
def store() -> Store:
    return Store.open()


def bytes_of(folder: Path) -> bytes:
    """All that lies in a folder."""
    return b"\0".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def sealed_in(path: Path) -> list[bytes]:
    """The sealed parts, as they stand in the file."""
    db = sqlite3.connect(path)
    found = [data for (data,) in db.execute("SELECT data FROM sealed")]
    db.close()
    return found


def pieces(data: bytes, length: int = 24) -> list[bytes]:
    """Short runs of bytes from all over, since SQLite cuts long ones into pages."""
    return [data[i : i + length] for i in range(0, len(data) - length, max(1, len(data) // 50))]


# --- what is kept ------------------------------------------------------------------------------


def test_what_goes_in_comes_out_to_the_last_bit(store):
    anna = person(expires="2091-12-31", scope=("live", "photo"))
    entry = store.add(anna, embedder="faceres512", verified="liveness")
    again = Store.open().get("anna")
    assert np.array_equal(again.embedding, anna.embedding)
    assert len(again.portraits) == 2
    for kept, given in zip(again.portraits, anna.portraits, strict=True):
        assert np.array_equal(kept.image, given.image)
        assert np.array_equal(kept.mesh, given.mesh)
    assert again.consent == replace(anna.consent, record=entry.record, verified="liveness")
    assert store.get(entry.record).name == "anna"
    assert (entry.photos, entry.embedder, entry.verified) == (2, "faceres512", "liveness")
    assert entry.state == "valid"


def test_list_and_show(store):
    assert store.list() == ()
    assert not store.path.exists()
    store.add(person("bob", 2))
    store.add(person("anna", 1))
    once = store.note(Consent("self", "a note"))
    assert {e.name for e in store.list()} == {"anna", "bob"}
    assert {e.name for e in store.list(once=True)} == {"anna", "bob", ""}
    assert store.show("bob").basis == "written"
    shown = store.show(once.record)
    assert (shown.once, shown.note, shown.basis) == (True, "a note", "self")
    with pytest.raises(UsageError, match="record of one use"):
        store.get(once.record)
    with pytest.raises(UsageError, match="carl: there is no identity"):
        store.show("carl")


def test_a_name_is_there_once(store):
    store.add(person("zoë"))
    with pytest.raises(UsageError, match="is an identity already"):
        store.add(person("zoe\u0308"))  # the same letters in another form
    store.revoke("zoë")
    store.add(person("zoë", 3))
    assert store.show("zoë").state == "valid"


@pytest.mark.parametrize(
    "name", ["", "  ", "a/b", "a\\b", "-x", ".x", "7", "a\nb", "x" * 81, "a:b"]
)
def test_names_that_could_be_something_else_are_refused(store, name):
    with pytest.raises(UsageError, match="cannot be the name"):
        store.add(person(name))


def test_nothing_of_the_person_can_be_read_without_the_key(store, tmp_path):
    form = tmp_path / "form.pdf"
    form.write_bytes(b"%PDF signed by Anna Example " * 40)
    store.add(person("Anna Example"), form=form)
    held = store.path.read_bytes()
    for secret in (b"Anna", b"drawer", b"PDF", b"PNG", person().embedding.tobytes()[:64]):
        assert secret not in held
    (store.path.parent / keys.FILE).unlink()
    with pytest.raises(MediaError, match="the key that it was sealed with is not in"):
        Store.open().get("Anna Example")


def test_facts_cannot_be_changed_behind_its_back(store):
    store.add(person(expires="2020-01-01"))
    db = sqlite3.connect(store.path)
    db.execute("UPDATE people SET expires = '2099-01-01'")
    db.commit()
    db.close()
    with pytest.raises(MediaError, match="was changed or is damaged"):
        store.get("anna")


def test_a_part_of_one_person_is_not_taken_for_anothers(store):
    store.add(person("anna", 1))
    store.add(person("bob", 2))
    db = sqlite3.connect(store.path)
    (bobs,) = db.execute(
        "SELECT data FROM sealed WHERE part = 'person' AND record = ?", (store.show("bob").record,)
    ).fetchone()
    db.execute(
        "UPDATE sealed SET data = ? WHERE part = 'person' AND record = ?",
        (bobs, store.show("anna").record),
    )
    db.commit()
    db.close()
    with pytest.raises(MediaError, match="was changed or is damaged"):
        store.get("anna")


@POSIX
def test_files_are_their_owners_alone(store):
    store.add(person())
    assert stat.S_IMODE(home.folder().stat().st_mode) == 0o700
    for path in home.folder().iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@POSIX
def test_a_key_that_others_can_read_is_refused(store):
    store.add(person())
    key = store.path.parent / keys.FILE
    key.chmod(0o640)
    with pytest.raises(Refused, match=r"others may read the key \(mode 0640\).*chmod 600"):
        Store.open().get("anna")
    key.chmod(0o600)
    assert Store.open().get("anna").name == "anna"


def test_the_embedding_is_made_anew_for_another_network(store):
    anna = person()
    store.add(anna, embedder="one")
    seen: list[Face] = []

    def embed(frame: Frame, faces: list[Face]) -> list[Face]:
        seen.extend(faces)
        vector = np.zeros(512, np.float32)
        vector[len(seen)] = 1
        return [replace(faces[0], embedding=vector)]

    same = store.get("anna", embedder="one", embed=embed)
    assert not seen
    assert np.array_equal(same.embedding, anna.embedding)
    other = store.get("anna", embedder="two", embed=embed)
    assert len(seen) == 2
    assert np.allclose(other.embedding[[1, 2]], np.sqrt(0.5))
    assert np.allclose(seen[0].box, geometry.bounds(anna.portraits[0].mesh[:468]))
    assert seen[0].points.shape == (5, 2)


# --- withdrawing -------------------------------------------------------------------------------


def test_what_is_withdrawn_is_gone_from_every_file(store, tmp_path):
    form = tmp_path / "form.pdf"
    form.write_bytes(os.urandom(30_000))
    store.add(person("anna", 1), form=form)
    before = [p for data in sealed_in(store.path) for p in pieces(data)]
    store.add(person("bob", 2))
    assert all(p in bytes_of(home.folder()) for p in before)
    entry = store.revoke("anna")
    after = bytes_of(home.folder())
    assert not [p for p in before if p in after]
    assert not list(home.folder().glob("*-journal"))
    assert not list(home.folder().glob("*-wal"))
    assert (entry.state, entry.name, entry.note, entry.photos) == ("revoked", "", "", 0)
    assert entry.form_sha256
    assert store.is_revoked(entry.record)
    with pytest.raises(Refused, match=r"anna: the consent was withdrawn.*rule consent\.revoked"):
        store.get("anna")
    assert store.show("anna") == entry
    assert store.get("bob").name == "bob"
    with pytest.raises(UsageError, match="withdrawn already"):
        store.revoke("anna")


def test_a_damaged_record_can_be_withdrawn(store):
    entry = store.add(person())
    db = sqlite3.connect(store.path)
    db.execute("UPDATE sealed SET data = x'00'")
    db.commit()
    db.close()
    with pytest.raises(MediaError, match=f"revoke {entry.record}"):
        store.list()
    store.revoke(entry.record)
    assert store.list()[0].state == "revoked"


def test_a_new_key_opens_everything_and_the_old_one_nothing(store):
    store.add(person("anna", 1))
    gone = store.add(person("bob", 2))
    store.revoke("bob")
    old_key = (store.path.parent / keys.FILE).read_bytes()
    old = sealed_in(store.path)
    other = Store.open()
    assert other.get("anna").name == "anna"
    assert store.rekey() == 2
    assert np.array_equal(store.get("anna").embedding, person("anna", 1).embedding)
    assert np.array_equal(other.get("anna").embedding, person("anna", 1).embedding)
    assert Store.open().show("bob").record == gone.record
    assert (store.path.parent / keys.FILE).read_bytes() != old_key
    assert not [p for data in old for p in pieces(data) if p in store.path.read_bytes()]
    (store.path.parent / keys.FILE).write_bytes(old_key)
    with pytest.raises(MediaError, match="the key that it was sealed with"):
        Store.open().get("anna")


def test_a_change_of_keys_that_was_cut_short_is_finished(store, monkeypatch):
    store.add(person())
    write = keys.write

    def stop(folder, place, key, which=""):
        if not which:
            raise MediaError("power cut")
        write(folder, place, key, which)

    monkeypatch.setattr(keys, "write", stop)
    with pytest.raises(MediaError, match="power cut"):
        store.rekey()
    monkeypatch.undo()
    again = Store(store.path)
    assert again.get("anna").name == "anna"
    assert not (store.path.parent / "key.next").exists()


def test_the_keyring_is_used_where_it_works(store, monkeypatch):
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend

    class Ring(KeyringBackend):
        priority = 5
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service, username):
            return self.kept.get((service, username))

        def set_password(self, service, username, password):
            self.kept[service, username] = password

        def delete_password(self, service, username):
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        store.add(person())
        assert len(Ring.kept) == 1
        assert not (store.path.parent / keys.FILE).exists()
        assert Store.open().get("anna").name == "anna"
        Store.open().rekey()
        assert len(Ring.kept) == 1
        assert Store.open().get("anna").name == "anna"
    finally:
        keyring.set_keyring(before)
    with pytest.raises(MediaError, match="keyring, which does not answer"):
        Store.open().get("anna")


# --- export ------------------------------------------------------------------------------------


def test_export_holds_what_is_held(store, tmp_path):
    form = tmp_path / "signed.pdf"
    form.write_bytes(b"%PDF-1.7 signed")
    anna = person()
    store.add(anna, embedder="faceres512", form=form)
    target = tmp_path / "anna.zip"
    store.export("anna", target)
    with zipfile.ZipFile(target) as archive:
        assert archive.comment == b"personal data held by mien"
        assert "personal data" in archive.read("README.txt").decode()
        record = json.loads(archive.read("record.json"))
        assert (record["name"], record["basis"], record["state"]) == ("anna", "written", "valid")
        assert archive.read("form/signed.pdf") == form.read_bytes()
        held = json.loads(archive.read("biometrics.json"))
        assert np.allclose(held["embedding"], anna.embedding, atol=1e-6)
        assert np.allclose(held["meshes"][1], anna.portraits[1].mesh, atol=1e-3)
        assert {"portraits/1.png", "portraits/2.png"} <= set(archive.namelist())
    if os.name == "posix":
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="exists already"):
        store.export("anna", target)
    store.revoke("anna")
    store.export("anna", target, overwrite=True)
    with zipfile.ZipFile(target) as archive:
        assert set(archive.namelist()) == {"README.txt", "record.json"}


# --- the file ----------------------------------------------------------------------------------


def test_a_file_of_version_1_is_brought_up(store):
    store.add(person())
    db = sqlite3.connect(store.path)
    db.execute("ALTER TABLE people DROP COLUMN verified")
    db.execute("ALTER TABLE people DROP COLUMN form_sha256")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    entry = Store.open().show("anna")
    assert (entry.verified, entry.form_sha256) == ("", "")
    assert np.array_equal(Store.open().get("anna").embedding, person().embedding)
    db = sqlite3.connect(store.path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(database.STEPS),)
    db.close()


def test_a_file_of_a_newer_mien_is_left_alone(store):
    store.add(person())
    db = sqlite3.connect(store.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(MediaError, match=r"newer mien.*99"):
        Store.open().list()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but words " * 50, b"SQLite format 3\0" + b"\xff" * 4000]
)
def test_a_foreign_file_is_told(store, content):
    store.path.write_bytes(content)
    with pytest.raises(MediaError, match="is damaged or no store of identities"):
        store.list()
    assert store.path.read_bytes() == content


def test_another_programs_database_is_told(store):
    db = sqlite3.connect(store.path)
    db.execute("CREATE TABLE people (name)")
    db.commit()
    db.close()
    before = store.path.read_bytes()
    with pytest.raises(MediaError, match="of another program"):
        store.list()
    assert store.path.read_bytes() == before


def test_a_damaged_file_is_told(store):
    store.add(person())
    data = bytearray(store.path.read_bytes())
    data[4096 : len(data)] = b"\x5a" * (len(data) - 4096)
    store.path.write_bytes(data)
    with pytest.raises(MediaError, match=r"people\.db"):
        Store.open().get("anna")


def test_the_folder_that_is_a_file_is_told(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("x")
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "taken"))
    with pytest.raises(MediaError, match="is a file, and mien keeps its data in a folder"):
        home.folder()


@POSIX
def test_the_folder_is_made_its_owners_alone_unless_it_holds_other_things(tmp_path, monkeypatch):
    place = tmp_path / "wide"
    place.mkdir()
    place.chmod(0o755)
    monkeypatch.setenv("MIEN_HOME", str(place))
    assert stat.S_IMODE(home.folder().stat().st_mode) == 0o700
    (place / "letters.txt").write_text("of somebody")
    place.chmod(0o755)
    with pytest.raises(Refused, match="holds other things"):
        home.folder()
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    (place / "people.db").touch()
    assert stat.S_IMODE(home.folder().stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="the place is Linux's")
def test_without_a_name_it_is_the_users_data(tmp_path, monkeypatch):
    monkeypatch.delenv("MIEN_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home.place() == tmp_path / "mien"
    assert not home.place().exists()


ADD = """
import sys
sys.path.insert(0, {tests!r})
from test_identity_store import person
from mien.identity import Store
for n in range(4):
    Store.open().add(person(f"{{sys.argv[1]}}{{n}}", n))
"""


def test_two_processes_at_once():
    program = ADD.format(tests=str(Path(__file__).parent))
    running = [subprocess.Popen([sys.executable, "-c", program, who]) for who in ("a", "b")]
    assert [process.wait(60) for process in running] == [0, 0]
    store = Store.open()
    assert {e.name for e in store.list()} == {f"{who}{n}" for who in "ab" for n in range(4)}
    assert all(len(store.get(e.name).portraits) == 2 for e in store.list())


def test_many_threads_at_once(store):
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store.add(person(f"p{number}", number))
            store.get(f"p{number}")
            store.revoke(f"p{number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {e.state for e in store.list()} == {"revoked"}


# --- whether it may be used --------------------------------------------------------------------


def test_scope_and_last_day():
    limited = Consent("self", scope=("photo", "video"), expires="2030-06-30")
    assert objection(limited, "photo", today=date(2030, 6, 30)) == ""
    assert "rule consent.expires" in objection(limited, "photo", today=date(2030, 7, 1))
    assert "rule consent.scope" in objection(limited, "live", today=date(2030, 1, 1))
    assert objection(Consent("self"), "live") == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"basis": ""}, "consent '' is unknown"),
        ({"basis": "because"}, "consent 'because' is unknown"),
        ({"scope": ("tv",)}, "scope 'tv' is unknown"),
        ({"expires": "tomorrow"}, "expected a day"),
        ({"expires": "2030-02-30"}, "expected a day"),
        ({"expires": "20300101"}, "expected a day"),
    ],
)
def test_a_consent_that_says_nothing_cannot_be_made(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(Consent("self"), **changes)


def test_a_watch_sees_what_another_store_withdraws(store):
    entry = store.add(person())
    watch = Watch(every=0)
    who = store.get("anna")
    watch.permit([who], "live")
    assert watch() == frozenset()
    Store.open().revoke("anna")
    assert watch() == {entry.record}
    with pytest.raises(Refused, match=r"anna: the consent was withdrawn \(rule consent\.revoked\)"):
        watch.permit([who], "live")


def test_a_watch_does_not_know_a_record_that_is_not_there(store):
    stray = replace(person(), consent=Consent("self", record="0123"))
    with pytest.raises(Refused, match=r"rule consent\.record"):
        Watch().permit([stray], "photo")
    entry = store.add(person())
    watch = Watch(every=0)
    watch.permit([store.get("anna")], "photo")
    store.path.unlink()
    with pytest.raises(Refused, match=entry.record):
        watch.permit([replace(person(), consent=Consent("self", record=entry.record))], "photo")


def test_a_watch_asks_nothing_of_the_disk_for_a_one_off():
    Watch().permit([person()], "video")
    assert not list(home.folder().iterdir())


def test_a_watch_outlives_a_moment_in_which_the_store_cannot_be_read(store, monkeypatch):
    store.add(person())
    clock = [1000.0]
    monkeypatch.setattr(permitting, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = Watch(every=0)
    who = store.get("anna")
    watch.permit([who], "live")
    store.path.write_bytes(b"damaged")
    clock[0] += 15
    watch.permit([who], "live")
    clock[0] += 30
    with pytest.raises(MediaError):
        watch.permit([who], "live")


# --- the command line --------------------------------------------------------------------------


def test_from_adding_to_withdrawing_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def mien(*words: object) -> tuple[int, str, str]:
        status = cli.app([str(word) for word in words], standalone_mode=False)
        return (status, *capsys.readouterr())

    status, _, errors = mien("identity", "add", "anna", PORTRAIT)
    assert (status, "say it with --consent" in errors) == (2, True)
    assert not Store.open().path.exists()

    flags = ("--consent", "synthetic", "--note", "drawn", "--scope", "photo", "--json")
    status, out, errors = mien("identity", "add", "anna", PORTRAIT, *flags)
    assert status == 0, errors
    entry = json.loads(out)
    assert (entry["name"], entry["state"], entry["photos"]) == ("anna", "valid", 1)
    listed = json.loads(mien("identity", "list", "--json")[1])["identities"]
    assert [e["record"] for e in listed] == [entry["record"]]
    assert "drawn" in mien("identity", "show", "anna")[1]

    swap = ("swap", "-s", "anna", "-t", PHOTO, "-o", "out.png", "--generator", "mesh")
    status, _, errors = mien(*swap, "--consent", "self")
    assert (status, "has its own consent" in errors) == (2, True)
    status, _, errors = mien(*swap)
    assert status == 0, errors
    words = provenance.read(tmp_path / "out.png")
    assert (words["mien_consent"], words["mien_consent_note"]) == ("synthetic", "drawn")
    assert entry["record"] in (home.folder() / "audit.jsonl").read_text("utf-8")

    status, _, errors = mien("identity", "revoke", "anna")
    assert status == 0, errors
    (tmp_path / "out.png").unlink()
    status, _, errors = mien(*swap)
    assert (status, "rule consent.revoked" in errors) == (2, True)
    assert not (tmp_path / "out.png").exists()
    shown = mien("identity", "list")[1]
    assert "revoked" in shown
    assert entry["record"] in shown
    assert "anna" not in shown
