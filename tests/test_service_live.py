"""Live sessions of the service: a real server, a real engine process, real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")

import serviceparts
from material import PHOTO, PORTRAIT
from mien import api, media
from mien.audit import AuditLog
from mien.media.jpeg import decode_jpeg, encode_jpeg
from mien.provenance import label, watermark
from mien.serve import protocol
from mien.service import keys, people
from mien.service.live import engine as engine_
from mien.service.live import sessions as live_
from mien.types import Consent

WAIT = 60.0
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory, swapper):
    """A server with an engine process, identities of Ann's, and keys of hers and Bob's."""
    folder = tmp_path_factory.mktemp("live")
    before = os.environ.get("MIEN_HOME")
    os.environ["MIEN_HOME"] = str(folder / "home")
    usual, live_.START_SECONDS = live_.START_SECONDS, 120.0  # on a busy machine
    try:
        with serviceparts.serving(serviceparts.settings(folder)) as parts:
            yield Server(parts, swapper)
    finally:
        live_.START_SECONDS = usual
        if before is None:
            del os.environ["MIEN_HOME"]
        else:
            os.environ["MIEN_HOME"] = before


@pytest.fixture(autouse=True)
def _one_home(_own_home, server, monkeypatch):
    """The folder of the server is that of all tests here."""
    monkeypatch.setenv("MIEN_HOME", server.home)


class Server:
    """What the tests ask of it."""

    def __init__(self, parts, swapper):
        self.parts, self.swapper = parts, swapper
        self.rows = parts.service.database
        self.ann, self.bob = parts.key("ann"), parts.key("bob")
        self.home = os.environ["MIEN_HOME"]
        self.me = api.enrol(PORTRAIT, "synthetic", swapper=swapper)

    def identity(self, tenant="ann", **consent):
        held = people.People(self.rows, people.seal_key(self.parts.service.settings))
        me = type(self.me)(
            "Ada", self.me.embedding, self.me.portraits, Consent("synthetic", **consent)
        )
        return held.add(tenant, me, embedder="test", most=100).id

    def ask(self, method, path, headers=None, **more):
        return self.parts.client.request(
            method, path, headers=headers or self.ann, timeout=120, **more
        )

    def create(self, *identities, **wish):
        answer = self.ask("POST", "/v1/live", json={"identities": list(identities), **wish})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def show(self, session):
        return self.ask("GET", f"/v1/live/{session['id']}").json()

    def address(self, path):
        return str(self.parts.client.base_url).replace("http", "ws", 1).rstrip("/") + path

    @contextmanager
    def camera(self, session, ticket=None, **more):
        with connect(self.address(session["socket"]), compression=None, max_size=None,
                     close_timeout=1, **more) as socket:  # fmt: skip
            said = {"role": "camera", "accepted": True, "metadata": True}
            token = session["ticket"] if ticket is None else ticket
            socket.send(json.dumps({"type": "hello", **said, "token": token}))
            yield Camera(socket)

    def audit(self):
        return list(AuditLog().entries())


class Camera:
    """A browser camera that keeps to the protocol."""

    def __init__(self, socket):
        self.socket, self.frame = socket, 0

    def send(self, jpeg, size):
        self.frame += 1
        header = protocol.Header(self.frame, time.monotonic_ns() // 1000, 0, *size)
        self.socket.send(protocol.pack(header, jpeg))

    def next(self, kind=None):
        """The next picture, or words of a kind."""
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            message = self.socket.recv(WAIT)
            if isinstance(message, bytes) and kind is None:
                header, words, jpeg = protocol.unpack(message)
                self.socket.send(json.dumps({"type": "ack", "frame": header.frame}))
                return header, words, decode_jpeg(bytes(jpeg), max_pixels=10**6)
            if isinstance(message, str):
                words = json.loads(message)
                if words["type"] == kind:
                    return words
                assert words["type"] != "error", words
        raise TimeoutError(kind)

    def closed(self):
        """What is said before the end, and the code of it."""
        said = []
        try:
            while True:
                message = self.socket.recv(WAIT)
                if isinstance(message, str) and json.loads(message)["type"] == "error":
                    said.append(json.loads(message)["message"])
        except ConnectionClosed as error:
            return said, error.rcvd.code


@pytest.fixture(scope="module")
def picture():
    image = cv2.resize(media.read_image(PHOTO), (640, 480), interpolation=cv2.INTER_AREA)
    return image, encode_jpeg(image, 92)


def fetch(camera, picture, count=1):
    """Send a picture some times, and take what comes back."""
    image, jpeg = picture
    found = []
    for _ in range(count):
        camera.send(jpeg, image.shape[1::-1])
        found.append(camera.next())
    return found


def test_pictures_come_back_swapped_and_marked_until_the_consent_ends(server, picture):
    ada = server.identity()
    session = server.create(ada, mark="test")
    assert session["state"] == "waiting"
    assert session["identities"] == [ada]
    with server.camera(session) as camera:
        assert camera.next("settings")["values"]["identity"] == ada
        *_, (header, words, image) = fetch(camera, picture, 5)
        assert header.flags & protocol.SWAPPED
        assert (header.width, header.height) == (640, 480)
        x0, y0, x1, y1 = np.int32(words["faces"][0]["box"])
        change = np.abs(image.astype(int) - picture[0])[y0:y1, x0:x1].mean()
        assert change > 8  # a JPEG alone changes it by less than 3
        assert label.find(image) is not None
        mark = watermark.read(image, search=False)
        assert mark is not None

        time.sleep(0.6)
        fetch(camera, picture)
        until = time.monotonic() + 5
        while (shown := server.show(session))["figures"]["frames"] < 6:
            assert time.monotonic() < until
            time.sleep(0.05)
            fetch(camera, picture)
        assert shown["state"] == "running"
        assert shown["figures"]["fps"] > 0
        assert 0 < shown["figures"]["age_p50"] <= shown["figures"]["age_p95"] < 5000
        assert shown["figures"]["swapped"] >= 5

        changed = server.ask("PATCH", f"/v1/live/{session['id']}", json={"strength": 0.25})
        assert changed.status_code == 200
        assert changed.json()["settings"]["strength"] == 0.25

        began = time.monotonic()
        assert server.ask("DELETE", f"/v1/identities/{ada}").status_code == 204
        said, code = camera.closed()
        assert time.monotonic() - began < 3
        assert code == 1008
        assert "withdrawn" in said[-1]
    shown = server.show(session)
    assert shown["state"] == "ended"
    assert shown["problem"]["type"] == "urn:mien:problem:refused"
    assert server.ask("POST", f"/v1/live/{session['id']}/ticket").status_code == 409
    with pytest.raises(InvalidStatus):
        connect(server.address(session["socket"])).close()

    until = time.monotonic() + 5
    while not any(e["event"] == "ended" and e.get("live") == session["id"] for e in server.audit()):
        assert time.monotonic() < until
        time.sleep(0.05)
    log = server.audit()
    opened = next(e for e in log if e["event"] == "opened" and e["live"] == session["id"])
    assert opened["tenant"] == "ann"
    assert int(opened["output_id"], 16) == mark.output_id
    begun = next(e for e in log if e["event"] == "begin" and e["run"] == opened["run"])
    assert begun["identities"] == [{"record": ada, "consent": "synthetic"}]


def test_a_consent_that_ends_elsewhere_ends_the_stream(server, picture):
    ada, eve = server.identity(), server.identity()
    session = server.create(ada, eve)
    with server.camera(session) as camera:
        fetch(camera, picture)
        people.revoke(server.rows, "ann", eve)  # as another server would
        until = time.monotonic() + 4
        while server.show(session)["identities"] != [ada]:
            assert time.monotonic() < until
            time.sleep(0.1)
        answer = server.ask("PATCH", f"/v1/live/{session['id']}", json={"identity": eve})
        assert answer.status_code == 422
        fetch(camera, picture)
        people.revoke(server.rows, "ann", ada)
        said, code = camera.closed()
        assert code == 1008
        assert "withdrawn" in said[-1]


def test_no_tenant_sees_another_s_sessions(server):
    mine = server.create(server.identity())
    path = f"/v1/live/{mine['id']}"
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"paused": True}),
        ("DELETE", path, None),
        ("POST", f"{path}/ticket", None),
        ("POST", f"{path}/webrtc", {"ticket": mine["ticket"], "sdp": "v=0"}),
    ):
        answer = server.ask(method, where, server.bob, json=body)
        assert answer.status_code == 404, (method, where)
        assert server.ask(method, where, {"X": "1"}, json=body).status_code == 401
    assert server.ask("GET", "/v1/live", server.bob).json() == {"items": []}
    theirs = server.ask("POST", "/v1/live", server.bob, json={"identities": mine["identities"]})
    assert theirs.status_code == 404
    other = server.parts.key("ann", scopes=("swaps",))
    assert server.ask("GET", "/v1/live", other).status_code == 403
    assert server.show(mine)["state"] == "waiting"
    assert server.ask("DELETE", path).status_code == 204
    assert server.ask("GET", path).status_code == 404


def test_a_ticket_opens_one_socket(server, picture):
    session = server.create(server.identity())
    with server.camera(session, ticket="x" * 32) as camera:
        said, code = camera.closed()
        assert code == 1008
        assert "token" in said[0]
    with pytest.raises(InvalidStatus):
        server.camera(session, origin="https://elsewhere.example").__enter__()
    with server.camera(session) as camera:
        fetch(camera, picture)
        with server.camera(session) as again:
            assert again.closed()[1] == 1008
        ticket = server.ask("POST", f"/v1/live/{session['id']}/ticket").json()["ticket"]
        with server.camera(session, ticket=ticket) as other:
            assert other.next("welcome")
            said, code = camera.closed()
            assert "another socket" in said[-1]
            fetch(other, picture)
    server.ask("DELETE", f"/v1/live/{session['id']}")


def test_what_is_refused(server):
    ada, photo_only = server.identity(), server.identity(scope=("photo",))

    def refused(status, **wish):
        answer = server.ask("POST", "/v1/live", json=wish)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]

    refused(422, identities=[])
    refused(422, identities=[ada], strength=2)
    refused(404, identities=["0" * 32])
    assert "live" in refused(403, identities=[photo_only])
    forbids = Path(server.home, "policy.toml")
    forbids.write_text("live = false\n")
    try:
        assert "live = false" in refused(403, identities=[ada])
    finally:
        forbids.unlink()
    session = server.create(ada, private=True)
    answer = server.ask("PATCH", f"/v1/live/{session['id']}", json={"strength": 0.1})
    assert answer.status_code == 422
    more = [server.create(ada) for _ in range(3)]
    answer = server.ask("POST", "/v1/live", json={"identities": [ada]})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    for one in (session, *more):
        server.ask("DELETE", f"/v1/live/{one['id']}")


def test_limits_of_frames_and_of_idle_sessions(server, picture, monkeypatch):
    session = server.create(server.identity())
    with server.camera(session) as camera:
        fetch(camera, picture)
        camera.socket.send(b"MIEN" + bytes(protocol.MAX_MESSAGE))
        assert camera.closed()[1] in (1008, 1009)
    assert server.show(session)["state"] == "waiting"
    monkeypatch.setattr(live_, "IDLE", 1.0)
    until = time.monotonic() + 5
    while (shown := server.show(session))["state"] != "ended":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert shown["problem"]["type"] == "urn:mien:problem:idle"


def test_who_does_not_read_gets_the_newest_and_stalls_nobody(server, picture):
    ada = server.identity()
    slow, quick = server.create(ada), server.create(ada)
    image, jpeg = picture
    with server.camera(slow) as stalled, server.camera(quick) as other:
        for _ in range(6):
            stalled.send(jpeg, image.shape[1::-1])
            fetch(other, picture)
        stalled.send(jpeg, image.shape[1::-1])
        fetch(other, picture, 2)  # cameras take turns: so the last was swapped, too
        numbers = []
        while not numbers or numbers[-1] < stalled.frame:
            numbers.append(stalled.next()[0].frame)
        assert numbers == sorted(set(numbers))
        # Those that may be without an acknowledgement, and the newest.
        assert len(numbers) <= protocol.WINDOW + 1
    for one in (slow, quick):
        server.ask("DELETE", f"/v1/live/{one['id']}")


def test_a_revoked_key_ends_its_sessions(server):
    row, secret = keys.make(server.rows, "ann")
    headers = {"Authorization": f"Bearer {secret}"}
    wish = {"identities": [server.identity()]}
    session = server.ask("POST", "/v1/live", headers, json=wish).json()
    keys.revoke(server.rows, row.id)
    until = time.monotonic() + 4
    while server.show(session)["state"] != "ended":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_example_s_client_speaks_to_a_session(server, picture, tmp_path):
    session = server.create(server.identity())
    photo, saved = tmp_path / "photo.jpg", tmp_path / "last.jpg"
    photo.write_bytes(picture[1])
    base = str(server.parts.client.base_url).rstrip("/")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "clients" / "client.py"),
         f"{base}/v1/live/{session['id']}#token={session['ticket']}", "--send", str(photo),
         "--frames", "3", "--save", str(saved)],
        capture_output=True, text=True, timeout=WAIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 pictures of 640x480" in done.stdout
    assert label.find(decode_jpeg(saved.read_bytes(), max_pixels=10**6)) is not None
    server.ask("DELETE", f"/v1/live/{session['id']}")


def test_an_engine_that_does_not_answer_is_ended(server, monkeypatch):
    monkeypatch.setattr(engine_, "HANGS", 4.0)
    server.create(server.identity())
    (engine,) = [child for child in active_children() if child.name == "mien-live"]
    os.kill(engine.pid, signal.SIGSTOP)
    until = time.monotonic() + 15
    while engine.is_alive():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_an_engine_that_dies_ends_its_sessions_and_another_comes(server, picture):
    ada = server.identity()
    session = server.create(ada)
    (engine,) = [child for child in active_children() if child.name == "mien-live"]
    with server.camera(session) as camera:
        fetch(camera, picture)
        engine.kill()
        said, code = camera.closed()
        assert code == 1011
        assert "engine" in said[-1]
    assert server.show(session)["problem"]["type"] == "urn:mien:problem:engine"
    again = server.create(ada)
    with server.camera(again) as camera:
        (header, _, _) = fetch(camera, picture, 3)[-1]
        assert header.flags & protocol.SWAPPED
    server.ask("DELETE", f"/v1/live/{again['id']}")
    metrics = server.ask("GET", "/metrics").text
    assert "mien_live_restarts_total 2.0" in metrics  # and one that hung
