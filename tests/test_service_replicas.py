"""The service as replicas on a real, local Ray: swapped pictures over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from types import SimpleNamespace

import cv2
import httpx
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")
pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from material import PHOTO, PORTRAIT
from mien import __version__, api, config, media
from mien.errors import UsageError
from mien.media.jpeg import decode_jpeg, encode_jpeg
from mien.provenance import label
from mien.serve import protocol
from mien.service import keys, people, replicas
from mien.service.database import Database
from mien.service.settings import ServiceSettings
from mien.types import Consent
from servers import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),  # Ray leaves sockets and processes to the collector
]

WAIT = 100.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, swapper):
    """Two replicas of the service."""
    folder = tmp_path_factory.mktemp("replicas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder / "home"))  # the replicas', too
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # machines may be busy
        settings = ServiceSettings(
            data=folder / "data",
            port=free_port(),
            ray="local",
            limits={"streams": 50},
            replicas={"least": 2, "most": 2, "cpus": 0.2, "drain_seconds": 2},
        )
        settings.prepare()
        rows = Database(settings.database_url)
        rows.upgrade()
        with replicas.running(settings, config.Settings()):
            made = Cluster(settings, rows, swapper)
            yield made
            made.client.close()
        rows.close()


class Cluster:
    """What the tests ask of it."""

    def __init__(self, settings, rows, swapper):
        self.settings, self.rows = settings, rows
        self.url = f"http://127.0.0.1:{settings.port}"
        self.ann, self.bob = (
            {"Authorization": f"Bearer {keys.make(rows, tenant)[1]}"} for tenant in ("ann", "bob")
        )
        self.client = httpx.Client(base_url=self.url, timeout=WAIT)
        self.me = api.enrol(PORTRAIT, "synthetic", swapper=swapper)

    def identity(self):
        held = people.People(self.rows, people.seal_key(self.settings))
        me = type(self.me)("Ada", self.me.embedding, self.me.portraits, Consent("synthetic"))
        return held.add("ann", me, embedder="test", most=100).id

    def ask(self, method, path, headers=None, **more):
        return self.client.request(method, path, headers=headers or self.ann, **more)

    def create(self, identity):
        answer = self.ask("POST", "/v1/live", json={"identities": [identity]})
        assert answer.status_code == 201, answer.text
        return answer.json()

    @contextmanager
    def stream(self, identity):
        session = self.create(identity)
        address = self.url.replace("http", "ws", 1) + session["socket"]
        more = {"compression": None, "max_size": None, "open_timeout": WAIT, "close_timeout": 2}
        with connect(address, **more) as socket:
            said = {"role": "camera", "accepted": True, "metadata": False}
            socket.send(json.dumps({"type": "hello", **said, "token": session["ticket"]}))
            yield Camera(socket, session)


class Camera:
    """A camera that keeps to the protocol."""

    def __init__(self, socket, session):
        self.socket, self.frame = socket, 0
        self.path, self.mark = f"/v1/live/{session['id']}", session["id"][:8]

    def fetch(self, jpeg):
        """Send a picture, and take what comes back."""
        self.frame += 1
        header = protocol.Header(self.frame, time.monotonic_ns() // 1000, 0, 640, 480)
        self.socket.send(protocol.pack(header, jpeg))
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            message = self.socket.recv(WAIT)
            if isinstance(message, bytes):
                header, _, back = protocol.unpack(message)
                self.socket.send(json.dumps({"type": "ack", "frame": header.frame}))
                assert header.frame == self.frame
                return header, decode_jpeg(bytes(back), max_pixels=10**6)
            assert json.loads(message)["type"] != "error", message
        raise TimeoutError

    def closed(self):
        """What is said before the end, and the code of it."""
        said = []
        try:
            while True:
                message = self.socket.recv(WAIT)
                if isinstance(message, str) and json.loads(message)["type"] == "error":
                    said.append(json.loads(message)["message"])
        except ConnectionClosed as error:
            return said, None if error.rcvd is None else error.rcvd.code


@pytest.fixture(scope="module")
def jpeg():
    image = cv2.resize(media.read_image(PHOTO), (640, 480), interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, 92)


def test_streams_and_swaps_are_those_of_the_service(cluster, jpeg):
    ada = cluster.identity()
    assert cluster.ask("GET", "/readyz").json() == {"status": "ok"}
    assert cluster.ask("GET", "/v1/live", {"X": "1"}).status_code == 401
    assert cluster.ask("POST", "/v1/jobs").status_code == 404
    answer = cluster.ask(
        "POST", "/v1/swaps", data={"identity": ada}, files={"target": ("a.jpg", jpeg)}
    )
    assert answer.status_code == 200, answer.text
    assert label.find(decode_jpeg(answer.content, max_pixels=10**6)) is not None
    with cluster.stream(ada) as one, cluster.stream(ada) as two:
        assert one.mark != two.mark
        for _ in range(3):
            for camera in (one, two):
                header, image = camera.fetch(jpeg)
                assert header.flags & protocol.SWAPPED
                assert label.find(image) is not None
        for camera in (one, two) * 2:  # its own replica alone knows it, and is asked
            shown = cluster.ask("GET", camera.path).json()
            assert shown["state"] == "running"
            assert cluster.ask("GET", camera.path, cluster.bob).status_code == 404
            assert cluster.ask("PATCH", camera.path, json={"strength": 0.5}).status_code == 200
        assert cluster.ask("DELETE", f"/v1/identities/{ada}").status_code == 204
        for camera in (one, two):  # also where the request did not come to
            said, code = camera.closed()
            assert code == 1008
            assert "withdrawn" in said[-1]


def test_a_machine_that_is_not_alike_serves_nothing(tmp_path, set_policy):
    settings = ServiceSettings(data=tmp_path / "data", replicas="1:1")
    settings.prepare()
    facts = replicas._facts(settings, config.Settings())
    with pytest.raises(UsageError, match=rf"has mien {__version__}, and who asked 0\.0\.1"):
        replicas.make("0" * 8, {**facts, "version": "0.0.1"})
    with pytest.raises(UsageError, match="another key of identities"):
        replicas.make("0" * 8, {**facts, "seal": ""})
    set_policy("live = false\n")
    with pytest.raises(UsageError, match="another policy"):
        replicas.make("0" * 8, facts)
    with pytest.raises(UsageError, match="SQLite is for one machine"):
        replicas._check_shared(settings)


def test_a_replica_that_is_to_go_begins_nothing(tmp_path):
    settings = replicas.as_replica(ServiceSettings(data=tmp_path / "data", replicas="1:1"))
    assert settings.limits.body_bytes == settings.limits.photo_bytes
    server, ended = replicas.Server("0" * 8, settings, config.Settings()), []
    server._inner.state.live = SimpleNamespace(end_all=lambda: ended.append(1))

    async def asked():
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = [(await client.post("/v1/live")).status_code]
            server.drain(0.2)
            server.drain(9.0)  # the first one counts
            answers = [await client.post(path) for path in ("/v1/live", "/v1/swaps")]
            answers.append(await client.get("/readyz"))
            found += [answer.status_code for answer in answers]
            assert all(answer.headers["Retry-After"] for answer in answers)
            assert answers[0].json()["type"] == "urn:mien:problem:draining"
            found.append((await client.get("/v1/live/" + "0" * 32)).status_code)
            assert not ended
            await asyncio.sleep(0.4)
            return found

    assert asyncio.run(asked()) == [401, 503, 503, 503, 401]
    assert ended == [1]
    server._parts.database.close()
