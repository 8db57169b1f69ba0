"""Disks that are full and stores that are away: jobs wait, callers are told, nothing is left."""

from __future__ import annotations

import errno
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crashing
import material
import outages

pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

import serviceparts
from mien.errors import MediaError, NoFace
from mien.service import files as files_
from mien.service.database import Answer, File, Job
from mien.service.executing.outages import came_of_full
from mien.service.files import UNFINISHED, Files, patient
from mien.service.outages import RESERVE, SPARE, give_reserve, is_full, keep_reserve


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return material.write_clip(folder / "clip.mp4", material.pan(frames=20, width=320, height=240))


def crowded(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """As if a disk had so many bytes."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free))


# --- how it looks ---------------------------------------------------------------------------------


def test_errors_of_a_full_disk_are_known_through_what_came_of_them(tmp_path):
    error = MediaError("clip.mp4: cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full(error)
    rows = sqlite3.connect(tmp_path / "rows", isolation_level=None)
    rows.execute("CREATE TABLE t (x)")
    rows.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        rows.execute("INSERT INTO t VALUES (zeroblob(9000))")
    rows.close()
    assert is_full(full.value)
    assert not is_full(OSError(errno.EACCES, "Permission denied"))


def test_a_crowded_disk_is_taken_for_the_cause_of_what_it_may_have_caused(tmp_path, monkeypatch):
    damaged, nobody = MediaError("x: is damaged"), NoFace("x: nobody")
    assert not came_of_full(damaged, tmp_path)
    crowded(monkeypatch, SPARE - 1)
    assert came_of_full(damaged, tmp_path)
    assert not came_of_full(nobody, tmp_path)


def test_some_space_is_kept_for_the_rows_where_there_is_enough(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        crowded(patched, SPARE)
        keep_reserve(tmp_path)
    assert not (tmp_path / RESERVE).exists()
    keep_reserve(tmp_path)
    assert (tmp_path / RESERVE).stat().st_size == 4 << 20
    give_reserve(tmp_path)
    give_reserve(tmp_path)
    assert not (tmp_path / RESERVE).exists()


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_does_not_fit_leaves_nothing_and_spares_the_rest(tmp_path, monkeypatch):
    files, source = Files(str(tmp_path / "files")), tmp_path / "source"
    source.write_bytes(bytes(1000))
    crowded(monkeypatch, SPARE + 999)
    with pytest.raises(MediaError) as full:
        files.put("a/b", source)
    assert is_full(full.value)
    crowded(monkeypatch, SPARE + 1000)
    files.put("a/b", source)
    with pytest.raises(MediaError), (tmp_path / "gone").open("wb") as closed:
        files.put("a/c", closed)  # cannot be read: it is only for writing
    assert [p.name for p in (tmp_path / "files").rglob("*") if p.is_file()] == ["b"]


def test_what_a_killed_writer_left_is_removed_with_the_file(tmp_path):
    files = Files(str(tmp_path / "files"))
    (tmp_path / "files" / "a").mkdir(parents=True)
    (tmp_path / "files" / "a" / f"b{UNFINISHED}").write_bytes(b"half")
    files.remove("a/b")
    assert not list((tmp_path / "files" / "a").iterdir())


def test_a_store_is_waited_for_for_seconds_not_minutes():
    said = patient("s3://bucket", {"key": "k", "config_kwargs": {"read_timeout": 60}})
    assert said["key"] == "k"
    times = said["config_kwargs"]
    assert (times["read_timeout"], times["connect_timeout"]) == (60, 5)
    assert times["retries"]["total_max_attempts"] == 2
    assert patient("/a/folder", {"auto_mkdir": True}) == {"auto_mkdir": True}


def test_a_store_that_takes_all_and_never_answers_is_given_up(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setattr(files_, "SECONDS", 0.5)
    source = tmp_path / "source"
    source.write_bytes(bytes(1000))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        files = Files("s3://bucket/files", key="k", secret="s", endpoint_url=address,
                      skip_instance_cache=True)  # fmt: skip
        begun = time.monotonic()
        with pytest.raises(MediaError, match=r"a/b: cannot be stored \(TimeoutError"):
            files.put("a/b", source)
        with pytest.raises(MediaError, match="a/b: cannot be read"):
            files.get("a/b", tmp_path / "target")
        assert time.monotonic() - begun < 10
    assert not (tmp_path / "target").exists()


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path) -> Iterator[serviceparts.Parts]:
    with serviceparts.serving(serviceparts.settings(tmp_path, keys=False)) as parts:
        yield parts


def begin(site: serviceparts.Parts, clip: Path, headers: Any = None) -> Any:
    files = {"target": ("c.mp4", clip.read_bytes())}
    return site.client.post("/v1/jobs", data={"identity": "0" * 32}, files=files, headers=headers)


def test_an_upload_to_a_full_disk_is_507_and_nothing_of_it_is_kept(site, clip, monkeypatch):
    from mien.service.people import People

    monkeypatch.setattr(People, "get", lambda *_: None)
    with monkeypatch.context() as patched:
        crowded(patched, SPARE)
        answer = begin(site, clip)
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:mien:problem:full")
    assert int(answer.headers["Retry-After"]) > 0
    settings = site.service.settings
    assert not list(settings.scratch.iterdir())
    assert not [p for p in Path(settings.files_url).rglob("*") if p.is_file()]
    with site.service.database(write=False) as rows:
        assert not rows.scalars(select(Job)).all()
        assert not rows.scalars(select(File).where(File.expires.is_(None))).all()


def test_a_full_database_is_507_for_who_writes_and_serves_who_reads(site, clip):
    database = site.service.database

    @event.listens_for(database.engine, "connect")
    def no_more(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are

    database.engine.dispose()

    def fill() -> None:  # pages that are there take some rows
        for number in range(1000):
            with database() as rows:
                rows.add(Answer(tenant="t", key=f"{number:0255}", request="x" * 64))

    with pytest.raises(OperationalError, match="full"):
        fill()
    answer = begin(site, clip, {"Idempotency-Key": "x" * 255})
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:mien:problem:full")
    assert int(answer.headers["Retry-After"]) > 0
    assert site.client.get("/v1/jobs").status_code == 200


# --- for real -------------------------------------------------------------------------------------


def caught(*what, to):
    """A run in which something went away under the job; on a busy machine it may be over before."""
    for _ in range(3):
        found = outages.run(*what, to=to)
        if found.problem or found.wrong:
            break
    return found


@pytest.mark.system
@pytest.mark.skipif(not outages.may_mount(), reason="root alone may make a small disk")
def test_a_job_waits_for_a_real_disk(clip, tmp_path):
    with outages.disk(tmp_path / "disk", 96 << 20) as disk:
        (disk.folder / "tmp").mkdir()
        environment = {"TMPDIR": str(disk.folder / "tmp")}
        with crashing.server(tmp_path / "server", environment, data=disk.folder / "data") as one:
            who = one.enrol()
            earlier = one.begin(who, clip)
            one.done(earlier)
            found = caught(one, who, clip, earlier, "paint", disk.fill, disk.free,
                           to=tmp_path / "out.mp4")  # fmt: skip
    assert (found.problem, found.wrong) == ("full", [])
    assert found.answers["new job", 507]


@pytest.mark.system
def test_a_job_waits_for_a_real_store(clip, tmp_path):
    pytest.importorskip("moto")
    with (
        outages.object_store(tmp_path) as wire,
        crashing.server(tmp_path / "server", **outages.store_settings(wire)) as one,
    ):
        who = one.enrol()
        earlier = one.begin(who, clip)
        one.done(earlier)
        for away in (wire.refuse, wire.hang):
            found = caught(one, who, clip, earlier, "paint", away, wire.open,
                           to=tmp_path / "out.mp4")  # fmt: skip
            assert (found.problem, found.wrong) == ("store", [])
            assert found.answers["new job", 503]
            assert found.slowest < 35
