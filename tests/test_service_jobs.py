"""Jobs: worked on in pieces by whoever is there, and what becomes of what goes wrong."""

from __future__ import annotations

import errno
import io
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

import material
from mien import api, media

pytest.importorskip("sqlalchemy")

from sqlalchemy import select, update  # noqa: E402

from mien.provenance.verifying import verify  # noqa: E402
from mien.service.database import Database, Event, File, Job, Part  # noqa: E402
from mien.service.executing import Executor, Models  # noqa: E402
from mien.service.files import Files  # noqa: E402
from mien.service.jobs import DEATHS, Jobs, Lost  # noqa: E402
from mien.service.people import People, Watch, revoke  # noqa: E402
from mien.service.settings import ServiceSettings  # noqa: E402


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
