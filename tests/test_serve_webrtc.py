"""WebRTC with a server in a process of its own; aiortc is the browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_PLI,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtpPacket,
    pack_remb_fci,
)

import pageserver
from mien.errors import UsageError
from mien.media import Sound
from mien.serve import IceServer, PageOptions, protocol
from mien.serve.encoding import Encoder, Encodings, Voice, usual_rate
from mien.serve.packets import H264, KEY, OPUS, VP8, Packet
from mien.serve.rtc import (
    Bounded,
    Outgoing,
    Peer,
    Prompt,
    adapted,
    listen_at,
    without_candidates,
)
from test_serve import Client, request, running

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@contextmanager
def joined(url, role="view", **hello):
    """A client that wants no JPEGs, and its ticket."""
    with Client(url, role, pictures=False, **hello) as client:
        yield client, client.words("welcome")["webrtc"]["ticket"]


def post(url, body, **headers):
    host, port = re.match(r"http://([^:/]+):(\d+)", url).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/webrtc", data, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def status(url):
    return json.loads(request(url, "/status")[1])


class Red(MediaStreamTrack):
    """A camera that shows red, 320x240."""

    kind = "video"

    def __init__(self, size=(320, 240)):
        super().__init__()
        self.size, self.number = size, 0

    async def recv(self):
        await asyncio.sleep(1 / 25)
        image = np.full((self.size[1], self.size[0], 3), pageserver.RED, np.uint8)
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts, frame.time_base = 3600 * self.number, Fraction(1, 90000)
        self.number += 1
        return frame


@asynccontextmanager
async def connected(url, ticket, *, codec="H264", track=None, sound=False, over=None):
    """A peer that gets the picture; gives the connection and the track of it.

    The offer is posted, or sent over the socket of a client.
    """
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    came = asyncio.Queue()
    connection.on("track", came.put_nowait)
    direction = "sendrecv" if track else "recvonly"
    transceiver = connection.addTransceiver(track or "video", direction=direction)
    known = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
    if sound:
        connection.addTransceiver("audio", direction="recvonly")
    try:
        offer = await connection.createOffer()
        listen_at(transceiver.receiver.transport.transport, "127.0.0.1")
        await connection.setLocalDescription(offer)
        body = {"ticket": ticket, "sdp": connection.localDescription.sdp}
        if over is not None:
            over.say(type="offer", sdp=body["sdp"])
            answer = (await asyncio.to_thread(over.words, "answer"))["sdp"]
        else:
            code, text = await asyncio.to_thread(post, url, body)
            assert code == 200, text
            answer = json.loads(text)["sdp"]
        await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        yield connection, await asyncio.wait_for(came.get(), 5), answer
    finally:
        await connection.close()


async def picture(track):
    """A frame as RGB."""
    frame = await asyncio.wait_for(track.recv(), 10)
    return frame.to_ndarray(format="rgb24")


def near(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() < 12


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_the_servers_camera(server, codec):
    url, _ = server

    async def watch(client, ticket):
        async with connected(url, ticket, codec=codec) as (connection, track, _):
            images = [await picture(track) for _ in range(5)]
            kinds = {status(url)["encoders"]}
            said = await asyncio.to_thread(client.words, "stamps")
            frame = await track.recv()
            now = time.monotonic()
            began = connection.getReceivers()[0]._RTCRtpReceiver__timestamp_mapper._origin
            age = (now * 90_000 - (began + frame.pts - said["origin"])) % 2**32 / 90_000
            return images, kinds, age

    with joined(url) as (client, ticket):
        images, encoders, age = asyncio.run(watch(client, ticket))
    assert all(image.shape == (240, 320, 3) for image in images)
    assert near(images[-1][100, 100], pageserver.BLUE)
    assert encoders == {1}
    assert 0 < age < 2  # by the clock of this machine, since the frame was captured


def test_two_viewers_share_one_encoder_and_the_second_gets_a_key_frame(server):
    url, _ = server

    async def watch(one, other):
        async with connected(url, one) as (_, first, _):
            await picture(first)
            async with connected(url, other) as (_, second, _):
                image = await asyncio.wait_for(picture(second), 3)
                return image, status(url)

    with joined(url) as (_, one), joined(url) as (_, other):
        image, said = asyncio.run(watch(one, other))
    assert near(image[100, 100], pageserver.BLUE)
    assert (said["viewers"], said["peers"], said["encoders"]) == (2, 2, 1)


def test_a_camera_of_a_browser(server):
    url, _ = server

    async def swap(ticket):
        async with connected(url, ticket, track=Red()) as (_, track, _):
            return [await picture(track) for _ in range(4)][-1]

    with joined(url, "camera") as (client, ticket):
        image = asyncio.run(swap(ticket))
        assert client.words("swapped")["on"] is True
    assert image.shape == (240, 320, 3)
    assert near(image[60, 60], pageserver.BLUE)


def test_an_offer_over_the_socket(server):
    url, _ = server

    async def look(client):
        async with connected(url, "", over=client) as (_, track, _):
            return await picture(track)

    with joined(url) as (client, _):
        client.say(type="offer", sdp="v=0")
        assert "offer" in client.words("error")["message"]
        assert near(asyncio.run(look(client))[100, 100], pageserver.BLUE)


def test_a_key_frame_comes_when_it_is_asked_for(server):
    url, _ = server

    async def ask(ticket):
        async with connected(url, ticket) as (connection, track, _):
            await picture(track)
            receiver = connection.getReceivers()[0]
            keys = []
            put = receiver._RTCRtpReceiver__decoder_queue.put

            def noted(task, *rest):
                if task is not None:
                    nals = re.findall(rb"\x00\x00\x01(.)", task[1].data, re.DOTALL)
                    keys.append(any(nal[0] & 31 == 5 for nal in nals))
                put(task, *rest)

            receiver._RTCRtpReceiver__decoder_queue.put = noted
            for _ in range(12):
                await picture(track)
            before = sum(keys)
            (ssrc,) = receiver._RTCRtpReceiver__remote_streams
            packet = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=ssrc)
            for _ in range(20):  # a peer that asks all the time gets a few
                await receiver._send_rtcp(packet)
            for _ in range(12):
                await picture(track)
            return before, sum(keys)

    with joined(url) as (_, ticket):
        before, after = asyncio.run(ask(ticket))
    assert before == 0
    assert 1 <= after <= 2


# --- who is let in --------------------------------------------------------------------------------


def test_only_a_ticket_of_an_open_socket_counts(server):
    url, _ = server
    with joined(url) as (_, ticket):
        pass
    deadline = time.monotonic() + 5
    while status(url)["viewers"]:
        assert time.monotonic() < deadline
    for wrong in ("x" * 32, ticket):
        code, text = post(url, {"ticket": wrong, "sdp": "v=0"})
        assert (code, json.loads(text)) == (
            400,
            {"error": "the ticket is not that of an open socket"},
        )
    with Client(url, accepted=False) as client:
        assert client.error()[1] == 1008  # and no ticket


@pytest.mark.parametrize(
    ("sdp", "says"),
    [
        ("", "expected an offer of one video and at most one sound"),
        ("v=0\r\nm=video", "the offer is no SDP"),
        ("v=0\r\n" + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 30, "expected an offer of one video"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "the offer cannot be answered"),
        ("\x00\xff" * 500, "expected an offer of one video and at most one sound"),
    ],
)
def test_what_is_no_offer_is_said(server, sdp, says):
    url, _ = server
    with joined(url) as (_, ticket):
        code, text = post(url, {"ticket": ticket, "sdp": sdp})
        assert code == 400
        assert json.loads(text)["error"].startswith(says), text
        assert status(url)["peers"] == 0


def test_garbage_and_too_large_an_offer(server):
    url, _ = server
    expected = {"error": "expected an offer as JSON, with ticket and sdp"}
    for body in (b"", b"{", b"[]", b'{"ticket": 1, "sdp": ""}', b"\xff" * 100):
        assert post(url, body)[0] == 400
        assert json.loads(post(url, body)[1]) == expected
    code, text = post(url, bytes(protocol.MAX_OFFER + 1))
    assert (code, json.loads(text)) == (400, {"error": "the limit of an offer is 32768 bytes"})
    assert post(url, b"{}", Origin="http://elsewhere.example")[0] == 403
    assert post(url, b"{}", Host="elsewhere.example")[0] == 403


def test_places_for_peers_are_limited_token_status_and_sound():
    environment = {"PAGE_TOKEN": TOKEN, "PAGE_PEERS": "1", "PAGE_SOUND": "1"}
    with running("0.0.0.0", **environment) as (everywhere, _):
        url = everywhere.replace("0.0.0.0", "127.0.0.1")
        assert request(url, "/status")[0].status == 403
        assert request(url, "/status", Authorization=f"Bearer {TOKEN}")[0].status == 200

        async def two(one, other):
            async with connected(url, one, sound=True) as (connection, track, _):
                await picture(track)
                (heard,) = (r.track for r in connection.getReceivers() if r.track.kind == "audio")
                frames = [await asyncio.wait_for(heard.recv(), 5) for _ in range(40)]
                body = {"ticket": other, "sdp": "v=0"}
                return await asyncio.to_thread(post, url, body), frames

        with joined(url, token=TOKEN) as (_, one), joined(url, token=TOKEN) as (_, other):
            (code, text), frames = asyncio.run(two(one, other))
    samples = np.concatenate([f.to_ndarray().reshape(-1, 2)[:, 0] for f in frames[15:]])
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() * 48_000 / len(samples) - 440) < 8
    assert (code, json.loads(text)) == (503, {"error": "all 1 places for WebRTC are taken"})


def test_a_page_for_this_machine_alone_listens_here_alone(server):
    url, _ = server

    async def candidates(ticket):
        async with connected(url, ticket) as (_, _, answer):
            return re.findall(r"a=candidate:\S+ \d udp \d+ (\S+)", answer)

    with joined(url) as (_, ticket):
        assert set(asyncio.run(candidates(ticket))) == {"127.0.0.1"}


def test_nobody_makes_us_send_to_an_address_of_his():
    offer = (
        "v=0\r\na=candidate:1 1 udp 1 192.0.2.9 99 typ host\r\n"
        "a=candidate:2 1 udp 1 abc.local 99 typ host\r\na=end-of-candidates\r\n"
    )
    assert without_candidates(offer, keep=False) == "v=0\r\n"
    kept = without_candidates(offer, keep=True)
    assert "192.0.2.9" in kept
    assert ".local" not in kept


# --- the end --------------------------------------------------------------------------------------


def held(pid):
    """Files, sockets and threads of a process."""
    return (
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_who_leaves_frees_all(server):
    url, pid = server

    async def all_at_once(tickets):
        async def one(ticket, track):
            async with connected(url, ticket, track=track) as (_, came, _):
                await picture(came)

        await asyncio.gather(*(one(t, Red() if n else None) for n, t in enumerate(tickets)))

    def session():
        with (
            joined(url) as (_, a),
            joined(url, "camera") as (_, b),
            joined(url, "camera") as (_, c),
        ):
            asyncio.run(all_at_once([a, b, c]))
        deadline = time.monotonic() + 10
        nothing = {"viewers": 0, "cameras": 0, "peers": 0, "encoders": 0, "streams": 0}
        while (now := status(url)) != nothing:
            assert time.monotonic() < deadline, now
            time.sleep(0.05)

    session()  # what stays for good is there after the first
    before = held(pid)
    session()
    deadline = time.monotonic() + 5
    while (after := held(pid)) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_a_peer_that_never_connects_is_let_go_and_said(server):
    url, _ = server

    async def offer(ticket):
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.addTransceiver("video", direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        body = {"ticket": ticket, "sdp": connection.localDescription.sdp}
        found = await asyncio.to_thread(post, url, body)
        await connection.close()
        return found

    with joined(url) as (client, ticket):
        assert asyncio.run(offer(ticket))[0] == 200
        assert status(url)["peers"] == 1
        client.say(type="pictures", on=True)  # and so the picture comes here
        assert client.picture()[0].width == 320
    deadline = time.monotonic() + 5
    while status(url)["peers"]:
        assert time.monotonic() < deadline


def test_garbage_on_the_way_of_the_picture_harms_nobody(server):
    url, _ = server

    async def watch(ticket):
        async with connected(url, ticket) as (_, track, answer):
            await picture(track)
            port = int(re.search(r"a=candidate:\S+ \d udp \d+ \S+ (\d+)", answer)[1])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for number in range(300):
                    data = bytes([number % 256]) + os.urandom(number)
                    stranger.sendto(data, ("127.0.0.1", port))
            return [await picture(track) for _ in range(5)][-1]

    with joined(url) as (_, ticket):
        image = asyncio.run(watch(ticket))
    assert near(image[100, 100], pageserver.BLUE)


def test_offers_one_after_another_leave_one_peer(server):
    url, _ = server
    with joined(url) as (_, ticket):

        async def often():
            for _ in range(4):
                async with connected(url, ticket) as (_, track, _):
                    await picture(track)
            return status(url)["peers"]

        # The last may still be there: nobody told the server that it went.
        assert asyncio.run(often()) <= 2


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_a_picture_of_any_size_is_not_decoded(codec):
    def one(width, height):
        context = av.CodecContext.create("libx264" if codec == "h264" else "libvpx", "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, 30)
        context.options = {"tune": "zerolatency"} if codec == "h264" else {"deadline": "realtime"}
        frame = av.VideoFrame.from_ndarray(
            np.full((height * 3 // 2, width), 99, np.uint8), "yuv420p"
        )
        frame.pts = 0
        packets = [*context.encode(frame), *context.encode(None)]
        return JitterFrame(b"".join(bytes(packet) for packet in packets), 0)

    for size in ((1280, 720), (720, 1280), (960, 960)):
        bounded = Bounded(codec)
        found = bounded.decode(one(*size)) or bounded.decode(one(*size))
        assert (found[0].width, found[0].height) == size
    for size in ((1440, 808), (4096, 4096)):
        with pytest.raises(av.FFmpegError):
            Bounded(codec).decode(one(*size))


def test_a_receiver_decodes_with_bounds(server):
    url, _ = server

    async def send(ticket):
        async with connected(url, ticket, track=Red((1920, 1088)), codec="VP8") as (c, track, _):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(track.recv(), 2)
            return c.connectionState

    with joined(url, "camera") as (client, ticket):
        assert asyncio.run(send(ticket)) == "connected"
        with pytest.raises(TimeoutError):
            client.words("error", timeout=0.5)


def test_larger_pictures_than_are_taken_are_said(server):
    url, _ = server

    async def send(ticket):
        async with connected(url, ticket, track=Red((1360, 768)), codec="VP8") as (c, _, _):
            for _ in range(100):
                await asyncio.sleep(0.1)
                if c.connectionState == "connected":
                    break
            await asyncio.sleep(1)

    with joined(url, "camera") as (client, ticket), joined(url):
        asyncio.run(send(ticket))
        assert "1360x768 came" in client.words("error")["message"]


# --- parts ----------------------------------------------------------------------------------------


def test_the_line_bears_what_it_bears():
    assert adapted(1.0, 2e6, None, 0.0) == 1.0
    assert adapted(1.0, 2e6, 1_000_000, 0.0) == 0.5  # never by more than half
    assert adapted(1.0, 1e6, 800_000, 0.0) == 0.72
    # A still picture sends little, and so its estimate is low: that says nothing.
    assert adapted(0.5, 1e5, 150_000, 0.0) == 0.55
    assert adapted(1.0, 1e6, 5_000_000, 0.2) == 0.7
    assert adapted(0.1, 2e6, 1, 0.0) == 0.1


def test_a_full_line_slows_the_encoder():
    async def run():
        asked = []
        peer = Peer(
            (),
            says=lambda *_, **__: None,
            asks=lambda kind, **_: asked.append(kind),
            frame=lambda *_: None,
            watches=lambda: None,
        )
        peer._video.sent = 500_000
        peer._counted -= 2  # 2 Mbit/s
        estimate = pack_remb_fci(1_500_000, [1])
        peer._heard(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=estimate))
        peer._heard(RtcpRrPacket(ssrc=1, reports=[]))
        await peer.close()
        return asked, peer.share

    asked, share = asyncio.run(run())
    assert asked == ["share"]
    assert 0.6 < share < 0.75


def test_a_frame_is_given_with_its_last_packet():
    buffer = Prompt(capacity=16, is_video=True)
    given = []
    for number, (stamp, marker) in enumerate([(1, 0), (1, 1), (2, 1), (3, 0), (4, 1), (5, 1)]):
        packet = RtpPacket(sequence_number=65_533 + number & 65_535, timestamp=stamp, marker=marker)
        packet._data = bytes([number])
        given.append(buffer.add(packet)[1])
    assert [f and (f.data, f.timestamp) for f in given] == [
        None, (b"\0\1", 1), (b"\2", 2), None, (b"\3", 3), (b"\4", 4),
    ]  # fmt: skip


def noise(seed, shape=(120, 160, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("codec", [H264, VP8])
def test_encoded_frames_are_the_pictures(codec):
    encode = Encodings()
    image = np.full((241, 321, 3), (30, 160, 90), np.uint8)
    assert list(encode(image, 0, 30)) == []  # nobody watches
    encode.watch({"h264": codec == H264, "vp8": codec == VP8})
    decoder = av.CodecContext.create("h264" if codec == H264 else "libvpx", "r")
    keys = []
    for number in range(1, 6):
        if number == 4:
            time.sleep(0.31)
            encode.key(codec)
        ((kind, key, data),) = encode(image, 3000 * number, 30)
        assert kind == codec
        keys.append(key)
        frames = decoder.decode(av.Packet(data))
        assert np.abs(frames[0].to_ndarray(format="rgb24").astype(int) - image[0, 0]).max() < 8
        assert (frames[0].width, frames[0].height) == (320, 240)
    assert keys == [True, False, False, True, False]
    assert list(encode(image, 3000, 30)) == []  # older than the one before
    encode.watch({})
    encode.free()
    assert encode.count == 0


def test_the_rate_is_kept_and_can_be_lowered():
    rate = usual_rate(320, 240, 30)
    encoder = Encoder(H264, 160, 120, 30, rate)
    sizes = []
    for number in range(90):
        if number == 45:
            assert encoder.at(rate // 2)
        frame = av.VideoFrame.from_ndarray(noise(number), "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 3000 * number, Fraction(1, 90000)
        sizes.append(len(encoder(frame, key=False)[0]))
    first, second = sum(sizes[15:45]) * 8, sum(sizes[60:90]) * 8
    assert second < 0.7 * first
    assert not encoder.at(rate * 2)  # for more it is opened anew


def test_who_does_not_keep_up_starts_anew_at_a_key_frame():
    async def run():
        lost = []
        track = Outgoing("video", lambda: lost.append(1), lambda: None)
        for number in range(14):
            track.push(Packet(0, H264, KEY if number == 0 else 0, number, b"x"))
        assert lost == [1]
        track.push(Packet(0, H264, 0, 14, b"x"))
        track.push(Packet(0, H264, KEY, 15, b"key"))
        packet = await track.recv()
        assert (bytes(packet), packet.pts) == (b"key", 15)
        track.stop()

    asyncio.run(run())


def test_sound_goes_as_far_as_the_picture():
    sound = Sound()
    taken = 1000.0
    tone = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000).astype(np.float32) * 0.5
    sound.put(48_000 * 1000 - 24_000, np.stack([tone, tone], 1))
    voice = Voice(sound)
    packets = [p for n in range(10) for p in voice(taken + n / 30)]
    stamps = [stamp for stamp, _ in packets]
    assert np.array_equal(np.diff(stamps), np.full(len(stamps) - 1, 960))
    assert stamps[-1] <= 48_000 * (taken + 9 / 30)
    decoder = av.CodecContext.create("libopus", "r")
    heard = np.concatenate(
        [
            f.to_ndarray().reshape(-1, 2)[:, 0]
            for _, d in packets
            for f in decoder.decode(av.Packet(d))
        ]
    ).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(heard[2000:10_000]))
    assert abs(spectrum.argmax() * 48_000 / 8000 - 440) < 8
    # A microphone that fell silent is not waited for longer than a while.
    late = [stamp for n in range(60) for stamp, _ in voice(taken + 1 + n / 30)]
    assert late[-1] > 48_000 * (taken + 1 + 59 / 30 - 0.4)
    assert OPUS


def test_ice_servers_are_read_and_passwords_not_repeated():
    assert IceServer.parse("stun:stun.example.org:3478") == IceServer("stun:stun.example.org:3478")
    turn = IceServer.parse("turn:me:se:cret@turn.example.org")
    assert (turn.url, turn.username, turn.credential) == ("turn:turn.example.org", "me", "se:cret")
    for wrong in ("turn:turn.example.org", "http://x", "stun:", "stun:a:secret@b"):
        with pytest.raises(UsageError, match="expected stun:HOST:PORT or turn:USER") as caught:
            IceServer.parse(wrong)
        assert "secret" not in str(caught.value)
    assert PageOptions().ice == ()
