"""Fetching: what is cut off goes on, what is wrong is refused, and nothing half-written is seen."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mien import zoo
from mien.errors import ModelError, ModelNotFound, Refused, UsageError
from mien.zoo import pulling
from mien.zoo.pulling import pull

DATA = np.random.default_rng(1).bytes(600_000)
SHA = hashlib.sha256(DATA).hexdigest()
CARD = replace(
    zoo.find("inswapper_128"), name="tiny", file="tiny.onnx", sha256=SHA, bytes=len(DATA)
)


class Server:
    """Answers with DATA, and as told.

    Attributes:
        asked: Path and Range header of every request.
        cuts: Bytes after which the next answers stop; consumed from the front.
        ranges: Whether Range headers are heeded.
        pause: Seconds between blocks of 50,000 bytes.
    """

    def __init__(self):
        self.asked, self.cuts, self.ranges, self.pause = [], [], True, 0.0
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                ours.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}/{path}"

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        request.close_connection = True
        if "gone" in request.path or "broken" in request.path:
            request.send_error(404 if "gone" in request.path else 503)
            return
        data = DATA[::-1] if "other" in request.path else DATA
        data = data[:-7] if "short" in request.path else data
        start = 0
        if wanted and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(data):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        rest = data[start:]
        rest = rest[: self.cuts.pop(0)] if self.cuts else rest
        for n in range(0, len(rest), 50_000):
            try:
                request.wfile.write(rest[n : n + 50_000])
            except OSError:  # whoever asked is gone
                return
            time.sleep(self.pause)


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()
    running.thread.join()


@pytest.fixture
def models(tmp_path):
    return zoo.Zoo(folder=tmp_path / "models")


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def part(models):
    folder = models.folder / "partial" / "tiny.onnx"
    folder.mkdir(parents=True)
    return folder / "part"


def test_a_file_comes_whole_with_progress(server, models):
    card = replace(CARD, sources=(server.url("a"),))
    told = []
    file = pull(models, card, lambda *now: told.append(now))
    assert file == models.folder / "tiny.onnx"
    assert file.read_bytes() == DATA
    assert names(models.folder) == ["pins/tiny.json", "tiny.onnx"]
    assert told[-1] == (file, len(DATA), len(DATA))
    done = [now[1] for now in told]
    assert done == sorted(done)
    assert len(set(done)) > 5
    pull(models, card)  # it is there
    assert len(server.asked) == 1


def test_a_cut_connection_goes_on_where_it_stopped(server, models):
    server.cuts = [200_000, 150_000]
    card = replace(CARD, sources=(server.url("a"),))
    assert pull(models, card, wait=0.01).read_bytes() == DATA
    first, second, third = (wanted for _, wanted in server.asked)
    assert first is None
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in (second, third)]
    assert 100_000 < starts[0] <= 200_000 < starts[1] <= 350_000


def test_a_later_pull_goes_on_too(server, models):
    server.cuts = [300_000] + [0] * 3
    card = replace(CARD, sources=(server.url("a"),))
    with pytest.raises(ModelNotFound, match=r"tiny was not fetched: http.*/a: "):
        pull(models, card, wait=0.001)
    assert names(models.folder) == ["partial/tiny.onnx/part"]
    server.asked.clear()
    assert pull(models, card).read_bytes() == DATA
    assert server.asked[0][1].startswith("bytes=2")
    assert names(models.folder) == ["pins/tiny.json", "tiny.onnx"]


def test_a_server_that_knows_no_ranges_begins_anew(server, models):
    server.cuts, server.ranges = [200_000], False
    card = replace(CARD, sources=(server.url("a"),))
    assert pull(models, card, wait=0.01).read_bytes() == DATA
    assert server.asked[1][1] is not None


def test_a_part_that_is_too_long_is_thrown_away(server, models):
    part(models).write_bytes(DATA + b"more")
    card = replace(CARD, sources=(server.url("a"),), bytes=0)
    assert pull(models, card, wait=0.01).read_bytes() == DATA


def test_a_part_of_another_file_is_found_out_and_the_next_source_asked(server, models):
    part(models).write_bytes(DATA[:1000][::-1])
    card = replace(CARD, sources=(server.url("a"), server.url("b")))
    assert pull(models, card).read_bytes() == DATA
    assert server.asked == [("/a", "bytes=1000-"), ("/b", None)]


def test_another_file_is_refused(server, models):
    card = replace(CARD, sources=(server.url("other"),))
    with pytest.raises(ModelError, match=f"other: the file is not the one with SHA-256 {SHA}"):
        pull(models, card)
    assert names(models.folder) == []


def test_another_length_is_refused_before_it_is_fetched(server, models):
    told = []
    card = replace(CARD, sources=(server.url("short"),))
    with pytest.raises(ModelError, match="expected 600000 bytes, came 599993"):
        pull(models, card, lambda *now: told.append(now))
    assert told == []


def test_a_stream_without_end_is_cut(server, models, monkeypatch):
    monkeypatch.setattr(pulling, "MOST", 100_000)
    card = replace(CARD, sources=(server.url("a"),), bytes=0)
    with pytest.raises(ModelError, match="expected 100000 bytes at most, came more"):
        pull(models, card)
    assert (models.folder / "partial" / "tiny.onnx" / "part").stat().st_size == 0


def test_the_next_source_is_asked(server, models):
    sources = tuple(server.url(path) for path in ("gone", "other", "a"))
    assert pull(models, replace(CARD, sources=sources)).read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/gone", "/other", "/a"]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, models):
    card = replace(CARD, sources=(server.url("broken"), server.url("gone")))
    with pytest.raises(ModelNotFound, match=r"broken: the server answered 503; .*answered 404"):
        pull(models, card, wait=0.001)
    assert [path for path, _ in server.asked] == ["/broken"] * 4 + ["/gone"]


def test_nobody_there(models):
    card = replace(CARD, sources=("http://127.0.0.1:9/a", "nonsense:/b"))
    with pytest.raises(ModelNotFound, match=r"127\.0\.0\.1:9/a: .*; nonsense:/b: "):
        pull(models, card, wait=0.001)


def test_without_a_published_hash_the_first_one_is_pinned(server, models, caplog):
    caplog.set_level(logging.INFO, "mien")
    card = replace(CARD, sources=(server.url("a"),), sha256="")
    server.cuts = [200_000]
    pull(models, card, wait=0.01)
    assert server.asked[1][1] is None  # two halves that no hash would join
    assert zoo.pinned(card, models.folder) == SHA
    assert f"tiny: no SHA-256 has been published; pinned to {SHA}" in caplog.text
    models.locate(card).write_bytes(DATA[::-1])
    with pytest.raises(ModelError, match="as when it was first used"):
        models.path(card)


def test_a_file_that_is_there_is_not_overwritten(server, models):
    models.folder.mkdir()
    models.locate(CARD).write_bytes(b"mine")
    with pytest.raises(ModelError, match=r"tiny\.onnx: expected SHA-256"):
        pull(models, replace(CARD, sources=(server.url("a"),)))
    assert models.locate(CARD).read_bytes() == b"mine"
    assert server.asked == []


def test_offline_and_licence(server, tmp_path):
    card = replace(CARD, sources=(server.url("a"),))
    with pytest.raises(Refused, match=r"mien is offline; put its file at .*tiny\.onnx"):
        pull(zoo.Zoo(folder=tmp_path, offline=True), card)
    with pytest.raises(Refused, match="may not be used commercially"):
        pull(zoo.Zoo(folder=tmp_path, commercial=True), card)
    with pytest.raises(UsageError, match="no source"):
        pull(zoo.Zoo(folder=tmp_path), replace(card, sources=()))
    assert server.asked == []


def test_no_room(models):
    with pytest.raises(ModelError, match="takes 1000000000000000 MB"):
        pull(models, replace(CARD, bytes=10**21))


KILLED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from mien import zoo
from mien.zoo.pulling import pull
url, folder, sha, size = json.loads(sys.argv[1])
card = replace(zoo.find("inswapper_128"), name="tiny", file="tiny.onnx", sources=(url,),
               sha256=sha, bytes=size)
pull(zoo.Zoo(folder=Path(folder)), card)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process is killed with SIGKILL")
def test_a_killed_pull_leaves_nothing_that_could_be_taken_for_the_file(server, models):
    server.pause = 0.05
    given = json.dumps([server.url("a"), str(models.folder), SHA, len(DATA)])
    there = part(models)
    with subprocess.Popen([sys.executable, "-c", KILLED, given]) as process:
        deadline = time.monotonic() + 30
        while not (there.is_file() and there.stat().st_size > 100_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ModelError, match="another process is fetching it"):
            pull(models, replace(CARD, sources=(server.url("a"),)))
        os.kill(process.pid, signal.SIGKILL)
    assert models.state(CARD) == "missing"
    assert {os.path.dirname(name) for name in names(models.folder)} == {"partial/tiny.onnx"}
    server.pause = 0
    assert pull(models, replace(CARD, sources=(server.url("a"),))).read_bytes() == DATA
    assert server.asked[-1][1] is not None
    assert names(models.folder) == ["pins/tiny.json", "tiny.onnx"]
