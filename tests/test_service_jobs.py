"""Jobs: worked on in pieces by whoever is there, and what becomes of what goes wrong."""

from __future__ import annotations

import errno
import io
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

import material
import serviceparts
from mien import api, media, tracks
from test_bad_input import bomb

pytest.importorskip("sqlalchemy")

from sqlalchemy import select, update

from mien.provenance.verifying import verify
from mien.service.database import Database, Event, File, Job, Part, Person
from mien.service.executing import Executor, Models
from mien.service.files import Files
from mien.service.jobs import DEATHS, Jobs, Lost
from mien.service.people import People, Watch, revoke, seal_key
from mien.service.routes.jobs.answers import jobs_of
from mien.service.settings import ServiceSettings


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """A service without its HTTP side."""

    def __init__(self, folder: Path, swapper: Any, **settings: Any) -> None:
        self.settings = ServiceSettings(data=folder, part_seconds=0.4, lease_seconds=5, **settings)
        self.settings.prepare()
        self.database = Database(self.settings.database_url)
        self.database.upgrade()
        self.files = Files(self.settings.files_url)
        self.clock = Clock()
        self.jobs = Jobs(self.database, self.files, self.settings.keep, 5.0, clock=self.clock)
        self.people = People(self.database, secrets.token_bytes(32))
        self.stop = threading.Event()
        models = Models(lambda _: swapper, swapper.limits, Watch(self.database))
        self.models = models
        self.executor = self.another("one")

    def another(self, name: str) -> Executor:
        return Executor(self.jobs, self.people, self.models, self.settings, name, self.stop)

    def enrol(self, me: Any, tenant: str = "a") -> str:
        return self.people.add(tenant, me, embedder="", most=9).id

    def add(self, who: str, *targets: Path, tenant: str = "a", **asked: Any) -> str:
        job = Job(tenant=tenant, key="k", kind="video", identities=who, asked={})
        job.id = secrets.token_hex(16)
        said = []
        for path in targets:
            file = self.jobs.announce(tenant, job.id, "upload", path.name, path.suffix)
            stored = self.files.put(file.path, path)
            said.append({"name": path.name, "file": file.id, "url": None})
            with self.database() as rows:
                self.jobs.count(rows, file, stored)
        job.asked = {
            "name": "",
            "targets": said,
            "rules": [{"identity": who, "faces": "all"}],
        } | asked
        with self.database() as rows:
            self.jobs.add(rows, job)
        return job.id

    def job(self, job: str) -> Job:
        with self.database(write=False) as rows:
            found = rows.get(Job, job)
        assert found is not None
        return found

    def parts(self, job: str) -> list[Part]:
        with self.database(write=False) as rows:
            query = select(Part).where(Part.job == job).order_by(Part.number)
            return list(rows.scalars(query))

    def events(self, job: str) -> list[str]:
        with self.database(write=False) as rows:
            query = select(Event.kind).where(Event.job == job).order_by(Event.id)
            return list(rows.scalars(query))

    def kept(self, job: str) -> list[str]:
        """Kinds of the job's files in the store."""
        folder = Path(self.settings.files_url) / "jobs" / job
        return sorted(p.parent.name for p in folder.rglob("*") if p.is_file())

    def result(self, job: str, to: Path) -> Path:
        with self.database(write=False) as rows:
            file = rows.scalars(select(File).where(File.job == job, File.kind == "result")).one()
        self.files.get(file.path, to)
        return to

    def work(self, executor: Executor | None = None, most: int = 50) -> None:
        """Until there is nothing to do."""
        for _ in range(most):
            if not (executor or self.executor).work_once():
                return
        raise AssertionError("there is no end of it")


@pytest.fixture
def shop(tmp_path, swapper) -> Shop:
    return Shop(tmp_path / "data", swapper)


@pytest.fixture(scope="module")
def me(swapper) -> Any:
    return api.enrol(material.PORTRAIT, "synthetic", swapper=swapper)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return material.write_clip(folder / "clip.mp4", material.pan(frames=24, width=320, height=240))


def times(path: Path) -> list[int]:
    with av.open(str(path)) as file:
        return [frame.pts for frame in file.decode(video=0)]


def sound(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as file:
        return [(p.pts, bytes(p)) for p in file.demux(file.streams.audio[0]) if p.size]


def test_a_video_is_followed_painted_and_joined(shop, me, clip, tmp_path):
    job = shop.add(shop.enrol(me), clip)
    other = shop.another("two")
    shop.executor.work_once()
    found = shop.job(job)
    assert found.problem is None
    assert (found.stage, found.state, found.done, found.total) == ("paint", "running", 24, 48)
    assert len(shop.parts(job)) == 3
    while other.work_once() or shop.executor.work_once():  # by turns
        pass
    found = shop.job(job)
    assert (found.state, found.done, found.problem) == ("done", 48, None)
    assert shop.events(job) == ["created", "running", "followed", "part", "part", "part", "done"]
    result = shop.result(job, tmp_path / "result.mp4")
    assert times(result) == times(clip)
    assert sound(result) == sound(clip)
    verdict = verify(result)
    assert verdict.status == 0
    assert media.read_metadata(result)["mien_output"] == found.output_id
    shop.jobs.sweep()
    assert shop.kept(job) == ["result", "tracks", "upload"]
    assert not (shop.settings.scratch / "jobs" / job).exists()


# --- leases ---------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path) -> Jobs:
    """Jobs without anybody who could paint."""
    settings = ServiceSettings(data=tmp_path / "data")
    settings.prepare()
    database = Database(settings.database_url)
    database.upgrade()
    return Jobs(database, Files(settings.files_url), settings.keep, 5.0, clock=Clock())


def added(jobs: Jobs, tenant: str = "a", **more: Any) -> str:
    asked = {"name": "", "targets": [], "rules": []} | more
    job = Job(tenant=tenant, key="k", kind="video", asked=asked, identities="x")
    with jobs.database() as rows:
        jobs.add(rows, job)
    return job.id


def row(jobs: Jobs, job: str) -> Job:
    with jobs.database(write=False) as rows:
        found = rows.get(Job, job)
    assert found is not None
    return found


def follow(jobs: Jobs, parts: int = 2) -> None:
    """As if the faces had been followed."""
    task = jobs.claim("w")
    assert task is not None
    spans = [(n, n + 1) for n in range(parts)]
    jobs.followed(task, {"kind": "video"}, spans, frames=parts, total=2 * parts)


def test_what_one_has_no_other_gets_until_the_lease_runs_out(rows):
    job = added(rows)
    first = rows.claim("one")
    assert rows.claim("two") is None
    rows._clock.now += 4
    assert rows.beat(first, 7)
    assert row(rows, job).done == 7
    rows._clock.now += 4
    assert rows.claim("two") is None  # it was renewed
    rows._clock.now += 2
    second = rows.claim("two")
    assert second is not None
    assert not rows.beat(first, 8)
    with pytest.raises(Lost):
        rows.followed(first, {"kind": "video"}, [(0, None)], frames=1, total=2)
    rows.followed(second, {"kind": "video"}, [(0, None)], frames=1, total=2)
    assert row(rows, job).stage == "paint"


def test_parts_are_painted_side_by_side_and_joined_by_one(rows):
    added(rows)
    follow(rows)
    one, two = rows.claim("one"), rows.claim("two")
    assert [one.part.number, two.part.number] == [0, 1]
    assert rows.claim("three") is None
    rows.painted(one, None, None, 1)
    assert rows.claim("three") is None  # the other is not done
    rows.painted(two, None, None, 1)
    with pytest.raises(Lost):
        rows.painted(two, None, None, 1)
    last = rows.claim("one")
    assert last.stage == "join"
    assert rows.claim("two") is None
    with pytest.raises(Lost):
        rows.again(one, {})


def test_the_result_counts_once(rows):
    job = added(rows)
    follow(rows, 1)
    rows.painted(rows.claim("one"), None, None, 1)
    slow = rows.claim("one")
    rows._clock.now += 6
    quick = rows.claim("two")
    for task, counts in ((quick, True), (slow, False)):
        file = rows.announce("a", job, "result", "x.mp4", ".mp4")
        stored = rows.files.put(file.path, io.BytesIO(b"made"))
        if counts:
            rows.joined(task, file, stored)
            rows.joined(task, file, stored)  # said again, as if the first word had been lost
        else:
            with pytest.raises(Lost):
                rows.joined(task, file, stored)
            rows.discard(file)
    rows.sweep()
    with rows.database(write=False) as session:
        assert len(session.scalars(select(File).where(File.job == job)).all()) == 1
        assert len(session.scalars(select(Event).where(Event.kind == "done")).all()) == 1
    assert len([p for p in Path(rows.files.url).rglob("*") if p.is_file()]) == 1


def test_a_job_that_kills_its_workers_fails_in_the_end(rows):
    job = added(rows)
    for _ in range(DEATHS + 1):
        assert rows.claim("w") is not None
        rows.abandoned("w")
    assert rows.claim("w") is None
    found = row(rows, job)
    assert (found.state, found.problem["type"]) == ("failed", "urn:mien:problem:crashes")


def test_deaths_count_from_the_last_part_that_was_done(rows):
    job = added(rows)
    follow(rows, 2)
    for number in range(2):
        for _ in range(DEATHS - 1):
            assert rows.claim("w").part.number == number
            rows.abandoned("w")
        rows.painted(rows.claim("w"), None, None, 1)
        assert row(rows, job).deaths == 0


def test_tenants_take_turns(rows):
    for tenant in "aaab":
        added(rows, tenant)
        rows._clock.now += 1
    order = [rows.claim("w").job.tenant for _ in range(4)]
    assert sorted(order[:2]) == ["a", "b"]


def test_who_fails_is_tried_again_later_and_not_for_ever(rows):
    job = added(rows)
    waited = []
    while (task := rows.claim("w")) is not None:
        rows.again(task, {"status": 500})
        assert rows.claim("w") is None
        due = row(rows, job).due
        if due is None:
            break
        waited.append(due - rows._clock.now)
        rows._clock.now = due
    assert waited == [1.0, 2.0, 4.0]
    assert row(rows, job).state == "failed"


def test_what_expires_goes_and_what_is_needed_stays(rows):
    job = added(rows)
    files = {}
    for kind in ("upload", "part", "result", "tracks"):
        files[kind] = rows.announce("a", job, kind, kind, "")
        stored = rows.files.put(files[kind].path, io.BytesIO(b"x"))
        with rows.database() as session:
            rows.count(session, files[kind], stored)
    lost = rows.announce("a", job, "part", "of somebody who died", "")
    rows.files.put(lost.path, io.BytesIO(b"x"))

    def there() -> set[str]:
        return {p.parent.name for p in Path(rows.files.url).rglob("*") if p.is_file()}

    follow(rows, 1)
    rows.painted(rows.claim("one"), None, None, 1)
    task = rows.claim("one")
    rows.joined(task, files["result"], stored)  # it is committed: nothing is done again
    rows._clock.now += 7 * 3600
    rows.sweep()
    assert there() == {"upload", "part", "result", "tracks"}
    with rows.database() as session:
        rows._end(session, session.get(Job, job), "done", None)
    rows.sweep()
    assert there() == {"upload", "result", "tracks"}
    rows._clock.now += rows.keep.uploads + 1
    rows.sweep()
    assert there() == {"result"}
    assert row(rows, job).state == "done"
    with rows.database() as session:
        session.execute(update(File).values(expires=0.0))
    rows._clock.now += rows.keep.jobs
    rows.sweep()
    with rows.database(write=False) as session:
        assert session.get(Job, job) is None


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_full_disk_pauses_a_job_which_goes_on(shop, me, clip, tmp_path, monkeypatch):
    job = shop.add(shop.enrol(me), clip)
    shop.executor.work_once()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(media.parts.np, "savez", full)
        shop.executor.work_once()
        found = shop.job(job)
        assert (found.state, found.problem["status"]) == ("paused", 507)
        assert found.problem["type"] == "urn:mien:problem:full"
        assert not shop.executor.work_once()  # not before it is due
        shop.clock.now += 6
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
        assert shop.executor.work_once()  # looks, and finds it as it was
        assert shop.events(job).count("paused") == 1
    shop.clock.now += 6
    shop.work()
    assert shop.job(job).state == "done"
    assert shop.events(job)[3:5] == ["paused", "running"]
    assert times(shop.result(job, tmp_path / "out.mp4")) == times(clip)


def test_a_store_that_is_away_pauses_a_job_which_goes_on(shop, me, clip, monkeypatch):
    job = shop.add(shop.enrol(me), clip)
    with monkeypatch.context() as patched:

        def gone(*_: Any) -> None:
            raise ConnectionError("connection refused")

        patched.setattr(shop.files, "_make_room", gone)
        shop.executor.work_once()
        assert shop.job(job).problem["type"] == "urn:mien:problem:store"
        shop.clock.now += 6
        shop.executor.work_once()
        assert shop.job(job).state == "paused"
    shop.clock.now += 6
    shop.work()
    assert shop.job(job).state == "done"


def test_cancel_stops_within_seconds_and_retry_goes_on(shop, me, tmp_path):
    clip = material.write_clip(
        tmp_path / "long.mp4", material.pan(frames=12, width=320, height=240) * 40
    )
    job = shop.add(shop.enrol(me), clip)
    worker = threading.Thread(target=shop.executor.work_once)
    worker.start()
    wait(lambda: shop.job(job).done > 0)
    assert shop.jobs.cancel("b", job) is None
    assert shop.jobs.cancel("a", job) is not None
    worker.join(5)
    assert not worker.is_alive()
    assert shop.job(job).state == "canceled"
    assert not shop.executor.work_once()
    shop.executor.sweep()
    assert list((shop.settings.scratch / "jobs").iterdir()) == []
    with shop.database() as rows:
        assert shop.jobs.retry(rows, rows.get(Job, job))
    assert shop.job(job).state == "queued"


def test_who_is_revoked_is_gone_from_all_jobs(shop, me, clip):
    who, other = shop.enrol(me), shop.enrol(me)
    done, kept, waiting = shop.add(who, clip), shop.add(other, clip), shop.add(who, clip)
    while shop.job(done).state != "done":
        shop.executor.work_once()
    revoke(shop.database, "a", who)
    assert shop.jobs.revoked("b", who) == 0
    assert shop.jobs.revoked("a", who) == 2
    assert shop.kept(done) == shop.kept(waiting) == []
    assert shop.kept(kept) != []
    assert shop.job(waiting).state == "canceled"
    assert "withdrawn" in shop.job(done).problem["detail"]
    with shop.database(write=False) as rows:
        assert not rows.scalars(select(File).where(File.job == done)).all()


def test_who_was_revoked_by_a_server_that_died_is_gone_from_all_jobs(rows):
    person = Person(tenant="a", basis="self", revoked=rows._clock.now)
    with rows.database() as session:
        session.add(person)
    for tenant, who in (("a", person.id), ("a", "0" * 32), ("b", person.id)):
        job = Job(tenant=tenant, key="k", kind="video", identities=f"{'1' * 32},{who}",
                  asked={"name": "", "targets": [], "rules": []})  # fmt: skip
        with rows.database() as session:
            rows.add(session, job)
        rows.files.put(rows.announce(tenant, job.id, "upload", "x", "").path, io.BytesIO(b"x"))
    rows.catch_up()
    with rows.database(write=False) as session:
        query = select(Job.state).order_by(Job.created)
        assert session.scalars(query).all() == ["canceled", "queued", "queued"]
        assert len(session.scalars(select(File)).all()) == 2
    rows.catch_up()
    with rows.database(write=False) as session:
        assert len(session.scalars(select(Event).where(Event.kind == "canceled")).all()) == 1


def test_consent_that_is_withdrawn_stops_a_piece_of_work(shop, me, clip):
    who = shop.enrol(me)
    job = shop.add(who, clip)
    shop.executor.work_once()
    revoke(shop.database, "a", who)  # and whoever should have told the jobs died
    shop.executor.work_once()
    found = shop.job(job)
    assert (found.state, found.problem["status"]) == ("failed", 403)


def test_pictures_of_which_one_has_no_face(shop, me, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "nobody.png"), material.noise()[0])
    job = shop.add(shop.enrol(me), material.PHOTO, tmp_path / "nobody.png", material.PHOTO)
    shop.work()
    found, parts = shop.job(job), shop.parts(job)
    assert (found.state, found.kind) == ("done", "images")
    assert [p.state for p in parts] == ["done", "failed", "done"]
    assert parts[1].problem["detail"] == "nobody.png: no face that could be swapped was found"
    archive = zipfile.ZipFile(shop.result(job, tmp_path / "out.zip"))
    assert archive.namelist() == ["photo.jpg", "photo-3.jpg"]
    archive.extractall(tmp_path / "out")
    for name in archive.namelist():
        assert verify(tmp_path / "out" / name).status == 0


def test_a_video_without_a_face_fails_and_says_so(shop, me, tmp_path):
    clip = material.write_clip(tmp_path / "empty.mp4", material.noise())
    job = shop.add(shop.enrol(me), clip)
    shop.work()
    problem = shop.job(job).problem
    assert problem["type"] == "urn:mien:problem:no-face"
    assert problem["detail"] == "empty.mp4: no face that could be swapped was found"


def test_other_models_begin_anew(shop, me, clip, tmp_path):
    job = shop.add(shop.enrol(me), clip)
    shop.executor.work_once()
    with shop.database() as rows:
        found = rows.get(Job, job)
        found.plan = found.plan | {"asked": found.plan["asked"] | {"models": "others"}}
    shop.work()
    assert "anew" in shop.events(job)
    assert shop.job(job).state == "done"
    assert times(shop.result(job, tmp_path / "out.mp4")) == times(clip)


# --- over HTTP ------------------------------------------------------------------------------------


class Site:
    """The application on loopback, and one who works on its jobs when a test says so."""

    def __init__(self, parts: serviceparts.Parts, swapper: Any, me: Any) -> None:
        self.service, self.http = parts.service, parts.client
        settings = self.service.settings
        people = People(self.service.database, seal_key(settings))
        self.who = people.add("local", me, embedder="", most=9).id
        self.jobs = jobs_of(self.service)
        models = Models(lambda _: swapper, swapper.limits, Watch(self.service.database))
        self.executor = Executor(self.jobs, people, models, settings, "w", threading.Event())

    def begin(self, *targets: tuple[str, bytes], headers: Any = None, **said: Any) -> Any:
        return self.http.post(
            "/v1/jobs",
            data={"identity": self.who} | said,
            files=[("target", one) for one in targets] or [("x", ("", b""))],
            headers=headers,
        )

    def work(self) -> None:
        while self.executor.work_once():
            pass

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(f"/v1/jobs/{path}", headers=headers)


@pytest.fixture(scope="module")
def site(tmp_path_factory, swapper, me) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    settings = serviceparts.settings(
        folder,
        keys=False,
        part_seconds=0.4,
        url_prefixes=("https://cdn.example.com/clips/", "s3://bucket/clips"),
    )
    with serviceparts.serving(settings) as parts:
        yield Site(parts, swapper, me)


@pytest.fixture(scope="module")
def ended(site, clip) -> str:
    """A job that is done."""
    answer = site.begin(("../a/Ünï clip.mp4", clip.read_bytes()), name="take 3")
    assert answer.status_code == 201, answer.text
    site.work()
    return str(answer.json()["id"])


def test_a_job_is_shown_from_its_beginning_to_its_end(site, clip):
    answer = site.begin(("clip.mp4", clip.read_bytes()), headers={"Idempotency-Key": "abc"})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["progress"]["total"], job["result"]) == ("queued", None, None)
    again = site.begin(("clip.mp4", clip.read_bytes()), headers={"Idempotency-Key": "abc"})
    assert (again.json()["id"], again.headers["Idempotency-Replayed"]) == (job["id"], "true")
    assert site.get(f"{job['id']}/result").status_code == 409
    site.executor.work_once()
    seen = site.get(job["id"]).json()
    assert (seen["state"], seen["progress"]["fraction"]) == ("running", 0.5)
    assert seen["progress"]["seconds_left"] > 0
    assert seen["tracks"]
    site.work()
    seen = site.get(job["id"]).json()
    assert (seen["state"], seen["progress"]["fraction"], seen["found"]["frames"]) == ("done", 1, 24)
    listed = site.http.get("/v1/jobs", params={"state": "done"}).json()["items"]
    assert job["id"] in [one["id"] for one in listed]
    assert site.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409
    assert site.http.post(f"/v1/jobs/{job['id']}/retry").status_code == 409
    assert site.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert site.get(job["id"]).status_code == 404
    assert not (Path(site.service.settings.files_url) / "jobs" / job["id"] / "result").exists() or (
        not any((Path(site.service.settings.files_url) / "jobs" / job["id"] / "result").iterdir())
    )


def test_a_result_comes_whole_and_in_ranges(site, ended):
    whole = site.get(f"{ended}/result")
    assert whole.status_code == 200
    assert whole.headers["Content-Disposition"] == (
        "attachment; filename*=UTF-8''%C3%9Cn%C3%AF%20clip.mp4"
    )
    data, tag = whole.content, whole.headers["ETag"]
    for said, start, end in (
        ("bytes=0-9", 0, 10), ("bytes=10-", 10, len(data)), ("bytes=-7", len(data) - 7, len(data)),
        ("bytes=5-99999999", 5, len(data)), ("bytes=-99999999", 0, len(data)),
    ):  # fmt: skip
        part = site.get(f"{ended}/result", Range=said)
        assert (part.status_code, part.content) == (206, data[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"
    for said in ("bytes=0-1,4-5", "bytes=9-3", "lines=1-2", "bytes=a-b", "bytes=-", "rubbish"):
        assert site.get(f"{ended}/result", Range=said).status_code == 200
    for said in (f"bytes={len(data)}-", "bytes=-0"):
        none = site.get(f"{ended}/result", Range=said)
        assert (none.status_code, none.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
        assert none.json()["status"] == 416
    same = site.get(f"{ended}/result", Range="bytes=0-3", **{"If-Range": tag})
    other = site.get(f"{ended}/result", Range="bytes=0-3", **{"If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert site.get(f"{ended}/result", **{"If-None-Match": tag}).status_code == 304
    head = site.http.head(f"/v1/jobs/{ended}/result")
    assert (head.headers["Content-Length"], head.content) == (str(len(data)), b"")


def test_tracks_can_be_had_and_used_again(site, ended, clip, tmp_path):
    found = site.get(f"{ended}/tracks")
    (tmp_path / "tracks.npz").write_bytes(found.content)
    assert [line.frames for line in tracks.lines_of(tmp_path / "tracks.npz")] == [24, 24]
    api.correct_tracks(tmp_path / "tracks.npz", tmp_path / "fixed.npz", {1: 5}, [2])
    files = {
        "target": ("c.mp4", clip.read_bytes()),
        "tracks": ("t.npz", (tmp_path / "fixed.npz").read_bytes()),
    }
    said = {"identity": site.who, "faces": "5"}
    job = site.http.post("/v1/jobs", data=said, files=files).json()["id"]
    site.work()
    assert site.get(job).json()["found"] == {
        "frames": 24, "swapped": 24, "faces": 24, "damaged": 0,
    }  # fmt: skip
    files["tracks"] = ("t.npz", b"rubbish")
    bad = site.http.post("/v1/jobs", data=said, files=files)
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "body.tracks")


def test_events_go_on_where_they_broke_off(site, ended):
    text = site.get(f"{ended}/events").text
    kinds = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    ids = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
    assert kinds == ["created", "running", "followed", "part", "part", "part", "done"]
    assert ids == sorted(ids)
    rest = site.get(f"{ended}/events", **{"Last-Event-ID": str(ids[-3])}).text
    assert [int(line[4:]) for line in rest.splitlines() if line.startswith("id: ")] == ids[-2:]
    assert site.get(f"{ended}/events", **{"Last-Event-ID": "rubbish"}).text == text


BAD = {
    "nothing": ([], {}, "body.target"),
    "empty": ([("a.mp4", b"")], {}, "a.mp4: is empty"),
    "text": ([("a.mp4", b"Dear diary, " * 50)], {}, "a.mp4: is not an image or a video"),
    "bomb": ([("a.png", bomb())], {}, "a.png"),
    "cut picture": ([("a.jpg", material.PHOTO.read_bytes()[:20000])], {}, "cut off"),
    "cut video": ([("a.mp4", "cut")], {}, "a.mp4"),
    "two videos": ([("a.mp4", "clip"), ("b.mp4", "clip")], {}, "one video, or pictures alone"),
    "a video as a picture": ([("a.mp4", "clip")], {"format": "png"}, "mp4, mov"),
    "a part that is not there": ([("a.mp4", "clip")], {"start": "60"}, "60"),
    "a part of a photo": ([("a.jpg", material.PHOTO.read_bytes())], {"start": "1"}, "is a photo"),
    "no such faces": ([("a.mp4", "clip")], {"faces": "middle"}, "faces"),
    "too many faces": ([("a.mp4", "clip")], {"faces": ["left", "right"]}, "body.faces"),
    "no such consent": ([("a.mp4", "clip")], {"target_consent": "maybe"}, "target_consent"),
    "no such generator": ([("a.mp4", "clip")], {"generator": "magic"}, "expected one of relight"),
    "a webhook inside": ([("a.mp4", "clip")], {"webhook": "http://127.0.0.1:1/x"}, "inside"),
    "an address inside": ([], {"url": "http://127.0.0.1/a.mp4"}, "service.urls"),
    "a file of the server": ([], {"url": "file:///etc/passwd"}, "s3://bucket"),
    "a path of the server": ([], {"url": "/etc/passwd"}, "http or https"),
    "a store that is not allowed": ([], {"url": "s3://bucket/other/a.mp4"}, "service.urls"),
    "a way out of a store": ([], {"url": "s3://bucket/clips/../other/a.mp4"}, "s3://bucket"),
    "not a number": ([("a.mp4", "clip")], {"start": "nan"}, "start"),
    "a secret of another form": (
        [("a.mp4", "clip")], {"webhook": "https://93.184.215.14/", "webhook_secret": "abc"},
        "whsec_"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_can_be_seen_to_be_wrong_is_answered_at_once(site, clip, what):
    files, said, words = BAD[what]
    data = {"clip": clip.read_bytes(), "cut": clip.read_bytes()[:-3000]}
    answer = site.begin(*[(name, data.get(of, of)) for name, of in files], **said)
    assert answer.status_code in (403, 422), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert words in answer.text
    assert str(site.service.settings.folder) not in answer.text
    assert "/tmp" not in answer.text
    site.jobs.sweep()
    with site.service.database(write=False) as rows:
        assert not rows.scalars(select(File).where(File.sha256 == "", File.expires > 0)).all()


def test_uploads_that_expired_cannot_be_retried(site, clip):
    job = site.begin(("c.mp4", clip.read_bytes())).json()["id"]
    assert site.http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "canceled"
    assert site.http.post(f"/v1/jobs/{job}/retry").json()["state"] == "queued"
    site.http.post(f"/v1/jobs/{job}/cancel")
    with site.service.database() as rows:
        rows.execute(update(File).where(File.job == job).values(expires=1.0))
    assert site.http.post(f"/v1/jobs/{job}/retry").status_code == 410


def wait(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
