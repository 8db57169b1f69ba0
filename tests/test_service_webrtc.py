"""WebRTC of the service's live sessions: aiortc is the browser, over loopback."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from multiprocessing import active_children
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")
pytest.importorskip("aiortc")

from aioice import stun
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPsfbPacket

import serviceparts
import test_service_live
from mien import api
from mien.errors import UsageError
from mien.serve.rtc import listen_at
from mien.service.live import Live
from serviceparts import settings

WAIT = 30.0


picture, server, _one_home = (
    *(test_service_live.picture, test_service_live.server, test_service_live._one_home),
)


class Camera(MediaStreamTrack):
    """One picture, again and again."""

    kind = "video"

    def __init__(self, image, fps=10):
        super().__init__()
        self.image, self.fps, self.number = image, fps, 0

    async def recv(self):
        await asyncio.sleep(1 / self.fps)
        frame = av.VideoFrame.from_ndarray(self.image, "rgb24")
        frame.pts, frame.time_base = 90_000 // self.fps * self.number, Fraction(1, 90_000)
        self.number += 1
        return frame


@contextmanager
def opened(server):
    """A session with an open socket that wants no JPEGs: the session, its camera, ``welcome``."""
    session = server.create(server.identity())
    with server.camera(session) as camera:
        yield session, camera, camera.next("welcome")
    server.ask("DELETE", f"/v1/live/{session['id']}")


@asynccontextmanager
async def connected(server, session, ticket, image, codec):
    """A peer that sends a picture and gets it back: the connection, and the track of it."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    came = asyncio.Queue()
    connection.on("track", came.put_nowait)
    transceiver = connection.addTransceiver(Camera(image), direction="sendrecv")
    known = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
    try:
        offer = await connection.createOffer()
        listen_at(transceiver.receiver.transport.transport, "127.0.0.1")
        await connection.setLocalDescription(offer)
        said = {"ticket": ticket, "sdp": connection.localDescription.sdp}
        answer = await asyncio.to_thread(post, server, session, said)
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "answer"
        sdp = answer.json()["sdp"]
        assert {*re.findall(r"candidate:\S+ \d udp \d+ (\S+)", sdp)} == {"127.0.0.1"}
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        yield connection, await asyncio.wait_for(came.get(), WAIT)
    finally:
        await connection.close()


def post(server, session, said, key=None):
    return server.ask("POST", f"/v1/live/{session['id']}/webrtc", key, json=said)


async def frame_of(track):
    frame = await asyncio.wait_for(track.recv(), WAIT)
    return frame.to_ndarray(format="rgb24")


def hub_of(server):
    """Who is connected, as the server's process sees it."""
    live = next(e.__self__ for e in server.parts.service.ended
                if isinstance(getattr(e, "__self__", None), Live))  # fmt: skip
    return live._engine.hub


def held(server):
    """What server and engine hold for connections now: all that closing has to free."""
    hub = hub_of(server)
    (engine,) = [child for child in active_children() if child.name == "mien-live"]
    threads = re.search(r"Threads:\s+(\d+)", Path(f"/proc/{engine.pid}/status").read_text())
    return {
        "peers": hub.peers,
        "cameras": len(hub.clients),
        "places": len(hub._sessions),
        "sockets": sum(_is_socket(fd) for fd in Path("/proc/self/fd").iterdir()),
        "engine's threads": int(threads[1]),
    }


def _is_socket(path):
    try:
        return path.readlink().name.startswith("socket:")
    except OSError:
        return False


def until(there, seconds=WAIT):
    end = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_a_camera_s_picture_comes_back_swapped(server, picture, codec):
    image = picture[0]

    async def swap(session, camera, ticket):
        async with connected(server, session, ticket, image, codec) as (_, track):
            for _ in range(5):
                swapped = await frame_of(track)
            words = await asyncio.to_thread(camera.next, "swapped")
            assert hub_of(server).peers == 1
            return swapped, words

    with opened(server) as (session, camera, welcome):
        swapped, words = asyncio.run(swap(session, camera, welcome["webrtc"]["ticket"]))
        assert words["on"] is True
        assert swapped.shape == image.shape
        faces = np.abs(swapped.astype(int) - image).mean(2)
        still = np.median(faces)  # the codec's own, nearly everywhere
        assert np.percentile(faces, 99) > 20 + still
        until(lambda: server.show(session)["figures"]["swapped"] > 0)


def test_a_key_frame_comes_when_it_is_asked_for(server, picture):
    async def ask(session, ticket):
        async with connected(server, session, ticket, picture[0], "H264") as (connection, track):
            await frame_of(track)
            receiver = connection.getReceivers()[0]
            queue, keys = receiver._RTCRtpReceiver__decoder_queue, []
            put = queue.put

            def noted(task, *rest):
                if task is not None:
                    nals = re.findall(rb"\x00\x00\x01(.)", task[1].data, re.DOTALL)
                    keys.append(any(nal[0] & 31 == 5 for nal in nals))
                put(task, *rest)

            queue.put = noted
            for _ in range(8):
                await frame_of(track)
            before = sum(keys)
            (ssrc,) = receiver._RTCRtpReceiver__remote_streams
            lost = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=ssrc)
            await receiver._send_rtcp(lost)
            for _ in range(8):
                await frame_of(track)
            return before, sum(keys)

    with opened(server) as (session, _, welcome):
        before, after = asyncio.run(ask(session, welcome["webrtc"]["ticket"]))
    assert before == 0
    assert after == 1


@pytest.mark.parametrize("how", ["peer", "socket", "session"])
def test_closing_frees_everything(server, picture, how):
    """Whoever ends it: the browser's connection, its socket, or the owner of the session."""
    session = server.create(server.identity())
    before = held(server)

    async def go(camera, ticket):
        async with connected(server, session, ticket, picture[0], "VP8") as (connection, track):
            await frame_of(track)
            assert hub_of(server).peers == 1
            if how == "socket":
                await asyncio.to_thread(camera.socket.close)
            elif how == "session":
                server.ask("DELETE", f"/v1/live/{session['id']}")
            if how != "peer":
                while connection.connectionState == "connected":  # it is told, by DTLS
                    await asyncio.wait_for(track.recv(), WAIT)
                assert connection.connectionState == "closed"

    async def told(camera, ticket):
        try:
            await go(camera, ticket)
        except Exception as error:
            if type(error).__name__ != "MediaStreamError":  # the track ended with it
                raise

    with server.camera(session) as camera:
        ticket = camera.next("welcome")["webrtc"]["ticket"]
        asyncio.run(told(camera, ticket))
        until(lambda: hub_of(server).peers == 0)
        if how == "peer":  # the socket stays, and may connect again
            assert len(hub_of(server).clients) == 1
            asyncio.run(told(camera, ticket))
        else:
            answer = post(server, session, {"ticket": ticket, "sdp": "v=0"})
            assert answer.status_code in (403, 404)
    server.ask("DELETE", f"/v1/live/{session['id']}")
    until(lambda: all(n <= before[what] for what, n in held(server).items()))


def test_offers_that_are_none(server):
    with opened(server) as (session, _, welcome):
        ticket = welcome["webrtc"]["ticket"]
        for sdp in ("", "v=0", "é" * 100, "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"):
            answer = post(server, session, {"ticket": ticket, "sdp": sdp})
            assert answer.status_code == 422, (sdp, answer.text)
            assert "offer" in answer.json()["detail"]
        for wrong in ("x", ticket[:-1], session["ticket"], "é"):
            answer = post(server, session, {"ticket": wrong, "sdp": "v=0"})
            assert answer.status_code == 403, wrong
        assert (
            post(server, session, {"ticket": ticket, "sdp": "v=0"}, server.bob).status_code == 404
        )
        assert post(server, session, {"ticket": ticket, "sdp": "v" * 100_000}).status_code == 422
        assert hub_of(server).peers == 0


# --- STUN and TURN -------------------------------------------------------------------------------


def test_ice_servers_are_read(tmp_path):
    made = settings(tmp_path, ice_servers="stun:a.example:3478 turn:me:pass@b.example:3478")
    assert [server.url for server in made.ice] == ["stun:a.example:3478", "turn:b.example:3478"]
    assert (made.ice[1].username, made.ice[1].credential) == ("me", "pass")
    assert settings(tmp_path).ice == ()
    with pytest.raises(UsageError, match=r"ice_servers: .* expected stun:HOST:PORT") as caught:
        settings(tmp_path, ice_servers="turn:secret.example").prepare()
    assert "secret" not in str(caught.value)


@contextmanager
def stun_server(host):
    """Tells everybody that they are 203.0.113.5 (RFC 8489); how many asked."""
    asked = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((host, 0))
        door.settimeout(0.1)
        over = threading.Event()

        def serve():
            while not over.is_set():
                try:
                    data, who = door.recvfrom(2000)
                except TimeoutError:
                    continue
                said = stun.parse_message(data)
                asked.append(who)
                answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, said.transaction_id)
                answer.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.5", 40_000)
                door.sendto(bytes(answer), who)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"stun:{host}:{door.getsockname()[1]}", asked
        finally:
            over.set()
            thread.join()


def own_address():
    """An address of this machine that is not loopback; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        try:
            door.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        return door.getsockname()[0]


def test_a_stun_server_says_where_the_service_is(tmp_path, monkeypatch):
    host = own_address()
    if host is None:
        pytest.skip("this machine has no address but loopback")
    monkeypatch.setattr(test_service_live.live_, "START_SECONDS", 120.0)
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    with (
        stun_server(host) as (url, asked),
        serviceparts.serving(settings(tmp_path, ice_servers=url)) as parts,
    ):
        server = test_service_live.Server.__new__(test_service_live.Server)
        server.parts, server.rows, server.ann = parts, parts.service.database, parts.key("ann")
        server.me = api.enrol(test_service_live.PORTRAIT, "synthetic")

        async def offer():
            connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            try:
                connection.addTransceiver("video", direction="sendrecv")
                await connection.setLocalDescription(await connection.createOffer())
                return connection.localDescription.sdp
            finally:
                await connection.close()

        with opened(server) as (session, _, welcome):
            assert [one["urls"] for one in welcome["webrtc"]["ice"]] == [url]
            said = {"ticket": welcome["webrtc"]["ticket"], "sdp": asyncio.run(offer())}
            answer = post(server, session, said)
            assert answer.status_code == 200, answer.text
            assert asked
            assert "203.0.113.5 40000 typ srflx" in answer.json()["sdp"]
