"""The examples work: each is run against a real server."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from material import PHOTO, PORTRAIT, pan, write_clip
from mien import media
from mien.service import webhooks

FRAMES = 8

needs_node = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
]
needs_curl = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pan(frames=FRAMES))


@pytest.fixture
def examples(root):
    return root / "examples" / "service"


def command(kind, examples, service, clip, folder):
    """How an example is called."""
    files = [str(PORTRAIT), str(PHOTO), str(clip)]
    return {
        "python": [sys.executable, str(examples / "client.py"), service.url, *files,
                   "--consent", "synthetic", "--out", str(folder)],
        "node": ["node", str(examples / "client.mjs"), service.url, *files, str(folder)],
        "curl": ["sh", str(examples / "curl.sh"), *files],
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["python", pytest.param("node", marks=needs_node), pytest.param("curl", marks=needs_curl)],
)
def test_a_client_gets_a_photo_and_a_clip(kind, examples, service, clip, tmp_path):
    said = {"MIEN_KEY": service.keys["ann"], "MIEN_URL": service.url, "MIEN_CONSENT": "synthetic"}
    done = subprocess.run(
        command(kind, examples, service, clip, tmp_path),
        cwd=tmp_path,
        env=os.environ | said,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "done" in done.stdout
    photo, made = media.read_image(PHOTO), media.read_image(tmp_path / "swapped.jpg")
    assert made.shape == photo.shape
    assert abs(made.astype(int) - photo).mean() > 1
    with media.open_source(tmp_path / "swapped.mp4") as source:
        assert sum(1 for _ in source) == FRAMES
    with service.client("ann") as client:
        for name in ("swapped.jpg", "swapped.mp4"):
            file = {"file": (tmp_path / name).read_bytes()}
            found = client.post("/v1/verify", files=file).json()
            assert found["status"] == 0, found["verdict"]


@pytest.mark.parametrize("kind", ["python", pytest.param("node", marks=needs_node)])
def test_a_client_says_what_the_server_said(kind, examples, service, clip, tmp_path):
    done = subprocess.run(
        command(kind, examples, service, clip, tmp_path),
        env=os.environ | {"MIEN_KEY": "mien_wrong", "MIEN_CONSENT": "synthetic"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "there is no such key, or it was revoked" in done.stderr


def test_a_client_asks_again_as_late_as_it_is_told(examples, monkeypatch):
    monkeypatch.syspath_prepend(str(examples))
    import client as example

    waits, answers = [], [(429, {"Retry-After": "7"}), (503, {"Retry-After": "3"}), (200, {})]

    def answer(request):
        status, headers = answers.pop(0)
        return httpx.Response(status, headers=headers, json={"items": []})

    monkeypatch.setattr(example.time, "sleep", waits.append)
    mien = example.Mien("http://service")
    mien.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service/v1/")
    assert mien.ask("GET", "jobs").json() == {"items": []}
    assert waits == [7.0, 3.0]


def test_a_client_goes_on_with_events_where_it_was(examples, monkeypatch):
    monkeypatch.syspath_prepend(str(examples))
    import client as example

    asked = []
    texts = [
        'retry: 2000\n\nid: 4\nevent: running\ndata: {"state": "running"}\n\n: nothing yet\n\n',
        'event: progress\ndata: {"done": 3}\n\nid: 9\nevent: done\ndata: {"state": "done"}\n\n',
    ]

    def answer(request):
        asked.append(request.headers["Last-Event-ID"])
        return httpx.Response(200, text=texts[len(asked) - 1])

    monkeypatch.setattr(example.time, "sleep", lambda _: None)
    mien = example.Mien("http://service")
    mien.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service/v1/")
    assert [kind for kind, _ in mien.events("1")] == ["running", "progress", "done"]
    assert asked == ["0", "4"]


# --- webhooks ------------------------------------------------------------------------------------

SECRET = webhooks.new_secret()


@contextmanager
def receiver(program, examples):
    """An example that receives; its address, and what it prints."""
    process = subprocess.Popen(
        [program, examples / ("webhook.py" if program == sys.executable else "webhook.mjs"), "0"],
        env=os.environ | {"MIEN_WEBHOOK_SECRET": SECRET},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().strip(), process.stdout
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


RECEIVERS = [sys.executable, pytest.param("node", marks=needs_node)]


@pytest.mark.parametrize("program", RECEIVERS)
def test_a_receiver_is_told_that_a_job_is_done(program, examples, service):
    with receiver(program, examples) as (address, lines), service.client("ann") as client:
        person = client.post(
            "/v1/identities",
            files={"photos": PORTRAIT.read_bytes()},
            data={"consent": "synthetic"},
        ).json()["id"]
        job = client.post(
            "/v1/jobs",
            files={"target": PHOTO.read_bytes()},
            data={"identity": person, "webhook": address, "webhook_secret": SECRET},
        )
        assert job.status_code == 201, job.text
        assert lines.readline().split() == ["job.done", job.json()["id"]]


@pytest.mark.parametrize("program", RECEIVERS)
def test_a_receiver_believes_what_is_signed_alone(program, examples):
    body = json.dumps({"type": "job.done", "data": {"id": "1"}}).encode()
    now = int(time.time())
    good = {
        "webhook-id": "m1",
        "webhook-timestamp": str(now),
        "webhook-signature": webhooks.signature(SECRET, "m1", now, body),
    }
    other = webhooks.signature(webhooks.new_secret(), "m1", now, body)
    late = webhooks.signature(SECRET, "m1", now - 900, body)
    with receiver(program, examples) as (address, _), httpx.Client() as client:

        def status(headers, content=body):
            return client.post(address, content=content, headers=headers).status_code

        assert status(good) == 204
        assert status(good | {"webhook-signature": f"{other} {good['webhook-signature']}"}) == 204
        assert status(good, body + b" ") == 401
        assert status(good | {"webhook-id": "m2"}) == 401
        assert status(good | {"webhook-signature": other}) == 401
        assert status(good | {"webhook-signature": "v1," + base64.b64encode(b"x").decode()}) == 401
        old = {"webhook-timestamp": str(now - 900), "webhook-signature": late}
        assert status(good | old) == 401
        assert status({}) == 401
