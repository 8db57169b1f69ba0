"""Workers and servers killed with kill -9 while they work: real processes, on loopback."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import crashing
import material

pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")
if not sys.platform.startswith("linux"):
    pytest.skip("finds workers in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return material.write_clip(folder / "clip.mp4", material.pan(frames=40, width=320, height=240))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[crashing.Server]:
    with crashing.server(tmp_path_factory.mktemp("server"), inner_addresses="true") as one:
        yield one


@pytest.fixture(scope="module")
def who(server) -> str:
    return server.enrol()


def test_a_worker_is_killed_in_the_middle_and_between_parts(server, who, clip, tmp_path):
    job = server.begin(who, clip)
    server.until(lambda: server.job(job)["progress"]["done"] > 5, "nothing is done")
    server.kill_workers()
    server.until(lambda: server.job(job)["progress"]["done"] >= 50, "no part is done")
    server.kill_workers()
    server.done(job)
    assert crashing.faults(server, job, clip, tmp_path / "out.mp4") == []


def test_the_server_is_killed(server, who, clip, tmp_path):
    job = server.begin(who, clip)
    server.until(lambda: server.job(job)["progress"]["done"] >= 50, "no part is done")
    server.kill()
    server.start()
    server.done(job)
    assert crashing.faults(server, job, clip, tmp_path / "out.mp4") == []


def test_a_server_that_is_told_to_end_does_not_wait_for_who_does_not_answer(server, who, clip):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        port = silent.getsockname()[1]
        job = server.begin(who, clip, webhook=f"http://127.0.0.1:{port}/")
        assert server.client.post(f"/jobs/{job}/cancel").status_code == 200
        line, _ = silent.accept()  # the end of the job is told, to somebody who never answers
        begun = time.monotonic()
        server.stop()
        took = time.monotonic() - begun
        line.close()
    assert took < 8  # seconds; about three where nothing else is going on
