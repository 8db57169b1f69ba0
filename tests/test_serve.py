"""The page's server: real sockets against a real server in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import pageserver
from mien.errors import MediaError, UsageError
from mien.media.jpeg import decode_jpeg, encode_jpeg
from mien.serve import BrowserOutput, PageOptions, protocol
from mien.serve.shared import Board

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples" / "clients"
TOKEN = "a-token-that-is-long-enough"
PATIENCE = 2.0


@contextmanager
def running(*arguments, **environment):
    """A server; gives its address and the number of the process that serves."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "pageserver.py"), "0", *arguments],
        env=os.environ | {"PYTHONPATH": str(HERE.parent / "src")} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url, pid = line.split()
        yield url, int(pid)
        errors = process.communicate(timeout=20)[1]
        assert process.returncode == 0
        assert "Traceback" not in errors, errors
        assert TOKEN not in errors
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server():
    with running(PAGE_PATIENCE=str(PATIENCE)) as (url, _):
        yield url


class Client:
    """A client that keeps to the protocol."""

    def __init__(self, url, role="view", **hello):
        address = url.partition("#")[0].replace("http", "ws", 1) + "socket"
        self._context = connect(address, compression=None, max_size=None, close_timeout=1)
        self.socket = self._context.__enter__()
        self.say(type="hello", role=role, **{"accepted": True, **hello})

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def words(self, kind, timeout=5):
        """The next message of this type; pictures are passed over."""
        while True:
            message = self.socket.recv(timeout)
            if isinstance(message, str) and (found := json.loads(message))["type"] == kind:
                return found

    def picture(self, timeout=5, ack=True):
        while True:
            message = self.socket.recv(timeout)
            if isinstance(message, bytes):
                header, metadata, jpeg = protocol.unpack(message)
                if ack:
                    self.say(type="ack", frame=header.frame)
                return header, metadata, jpeg

    def error(self):
        """What the server says before it closes, and the code with which it does."""
        text = self.words("error")["message"]
        return text, self.closed()

    def closed(self):
        """The code with which the server closes."""
        try:
            while True:
                self.socket.recv(5)
        except ConnectionClosed as error:
            return error.rcvd.code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._context.__exit__(None, None, None)


def request(url, path="/", **headers):
    host, port = re.match(r"http://([^:/]+):(\d+)", url).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


# --- the page -------------------------------------------------------------------------------------


def test_the_page_and_nothing_but_the_page(server):
    answer, body = request(server)
    assert answer.status == 200
    assert b"Before you start" in body
    for name in ("page.js", "protocol.js", "webrtc.js", "style.css"):
        assert request(server, f"/static/{name}")[0].status == 200
    for path in (
        "/static/../application.py",
        "/static/%2e%2e/application.py",
        "/static//etc/passwd",
        "/static/",
        "/docs",
        "/openapi.json",
    ):
        assert request(server, path)[0].status == 404, path


def test_no_other_site_may_use_it(server):
    answer, _ = request(server, Origin="http://elsewhere.example")
    assert answer.getheader("Access-Control-Allow-Origin") is None
    assert "default-src 'none'" in answer.getheader("Content-Security-Policy")
    assert request(server, Host="elsewhere.example")[0].status == 403
    address = server.replace("http", "ws", 1) + "socket"
    with pytest.raises(InvalidStatus), connect(address, origin="http://elsewhere.example"):
        pass


# --- pictures -------------------------------------------------------------------------------------


def test_the_servers_camera(server):
    with Client(server, metadata=True) as client:
        welcome = client.words("welcome")
        assert welcome["values"]["identity"] in ("one", "two")
        numbers = []
        for _ in range(5):
            header, metadata, jpeg = client.picture()
            numbers.append(header.frame)
        assert numbers == sorted(set(numbers))
        assert (header.width, header.height, header.flags) == (320, 240, protocol.SWAPPED)
        assert 0 < header.age < 2_000_000
        assert metadata["faces"] == [
            {
                "box": [10, 20, 50, 60],
                "points": [[20, 30], [40, 30], [30, 40], [22, 50], [38, 50]],
                "score": 0.9,
                "track": 7,
            }
        ]
        image = decode_jpeg(jpeg, max_pixels=10**6)
        assert np.abs(image[100, 100].astype(int) - (30, 30, 200)).max() < 6
        label = image[image.shape[0] * 9 // 10 :, image.shape[1] // 2 :]
        assert label[:, :, 1].max() > 150  # letters
    with Client(server) as client:
        assert client.picture()[1] is None  # it was not asked for


def test_the_clock_tells_the_age(server):
    with Client(server) as client:
        sent = time.monotonic() * 1e6
        client.say(type="ping", sent=sent)
        pong = client.words("pong")
        assert pong["sent"] == sent
        assert sent <= pong["clock"] <= time.monotonic() * 1e6


def test_a_browsers_camera(server):
    with Client(server, "camera") as client:
        assert client.words("settings")["values"] == {"identity": "one", "strength": 1.0}
        jpeg = encode_jpeg(np.full((120, 160, 3), pageserver.RED, np.uint8))
        for number in range(3):
            client.socket.send(protocol.pack(protocol.Header(number, 1000 + number), jpeg))
            header, _, back = client.picture()
            assert (header.frame, header.captured) == (number, 1000 + number)
            image = decode_jpeg(back, max_pixels=10**6)
            assert np.abs(image[20, 20].astype(int) - pageserver.BLUE).max() < 6
        client.say(type="set", values={"identity": "two"})
        assert client.words("settings")["values"]["identity"] == "two"
    with Client(server, "camera") as other:  # settings are each camera's own
        assert other.words("settings")["values"]["identity"] == "one"


def test_settings_reach_all_who_watch(server):
    with Client(server) as one, Client(server) as other:
        one.words("welcome"), other.words("welcome")
        one.say(type="set", values={"strength": 0.5})
        for client in (one, other):
            assert client.words("settings")["values"]["strength"] == 0.5
        one.say(type="set", values={"identity": "nobody"})
        assert one.words("error")["message"] == "there is no identity 'nobody'"
        assert one.words("statistics")["values"] == {"fps_out": 25.0}


def test_places_for_cameras_are_limited_and_freed(server):
    cameras = [Client(server, "camera") for _ in range(10)]
    for camera in cameras:
        camera.words("welcome")
    with Client(server, "camera") as late:
        says = "all 10 places for browser cameras are taken; try later"
        assert late.error() == (says, 1013)
    for camera in cameras:
        camera.__exit__()
    deadline = time.monotonic() + 5
    while True:
        with Client(server, "camera") as again:
            message = json.loads(again.socket.recv(5))
        if message["type"] == "welcome":
            break
        assert time.monotonic() < deadline, "places were not freed"


# --- who breaks the rules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        ({"accepted": False}, "the notice on consent has to be accepted before the start"),
        ({"role": "owner"}, "message 'hello': role: input should be 'view' or 'camera'"),
        ({"more": 1}, "message 'hello': more: extra inputs are not permitted"),
    ],
)
def test_who_is_not_let_in(server, hello, says):
    with Client(server, **{"role": "view", **hello}) as client:
        assert client.error() == (says, 1008)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("{", "a message is no JSON"),
        ("[" * 4000, "a message is no JSON"),
        (
            '{"type": "dance"}',
            "expected a message of type hello, ack, ping, set, pictures, offer, not 'dance'",
        ),
        ("x" * 5000, "a message has 5000 characters, the limit is 4096"),
        (b"GIF89a", "expected a picture that begins with MIEN, and something else came"),
        (
            protocol.HEADER.pack(b"MIEN", 9, 1, 0, 0, 0, 0, 0, 0, 0),
            "expected version 1, kind 1, not 9 and 1",
        ),
        (
            protocol.HEADER.pack(b"MIEN", 1, 1, 0, 0, 10**6, 0, 0, 0, 0),
            "the message ends within 1000000 bytes of metadata",
        ),
    ],
)
def test_garbage_ends_the_connection_with_a_sentence(server, message, says):
    with Client(server, "camera") as client:
        client.words("welcome")
        client.socket.send(message)
        assert client.error() == (says, 1008)


@pytest.mark.parametrize("jpeg", [b"", b"\xff\xd8\xff garbage", b"\x89PNG"])
def test_what_is_no_jpeg_is_said_and_the_next_is_swapped(server, jpeg):
    with Client(server, "camera") as client:
        client.socket.send(protocol.pack(protocol.Header(1, 1), jpeg))
        assert "JPEG" in client.words("error")["message"]
        good = encode_jpeg(np.full((120, 160, 3), pageserver.RED, np.uint8))
        client.socket.send(protocol.pack(protocol.Header(2, 2), good))
        assert client.picture()[0].frame == 2


def test_too_large_a_picture(server):
    with Client(server, "camera") as client:
        large = encode_jpeg(np.zeros((1000, 1000, 3), np.uint8))
        client.socket.send(protocol.pack(protocol.Header(1, 1), large))
        assert "1000x1000" in client.words("error")["message"]
        client.socket.send(bytes(protocol.MAX_MESSAGE + 1))
        assert client.closed() == 1009


# --- who is slow, or hostile, and the others ------------------------------------------------------


def frames_in(client, seconds):
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        client.picture()
        count += 1
    return count


def test_who_does_not_acknowledge_gets_two_pictures_and_stalls_nobody(server):
    with Client(server) as stalled, Client(server) as other:
        for _ in range(protocol.WINDOW):
            last = stalled.picture(ack=False)[0].frame
        assert frames_in(other, 1.0) >= 8
        with pytest.raises(TimeoutError):
            stalled.picture(timeout=0.3)
        stalled.say(type="ack", frame=last)
        # What comes then is the newest, not what lay in a queue.
        assert stalled.picture()[0].frame - last > 8


def test_the_others_are_served_beside_a_flood_and_half_open_sockets(server):
    host, port = re.match(r"http://([^:/]+):(\d+)", server).groups()
    half_open = [socket.create_connection((host, int(port))) for _ in range(40)]
    for number, one in enumerate(half_open):
        one.send(b"GET / HTTP/1.1\r\nHost:" if number % 2 else b"\x16\x03\x01")
    ended = []

    def flood():
        with Client(server) as client:
            try:
                for _ in range(10_000):
                    client.say(type="ping", sent=0)
            except ConnectionClosed:
                pass
            try:
                while True:
                    client.socket.recv(5)
            except ConnectionClosed as error:
                ended.append(error.rcvd)

    thread = threading.Thread(target=flood)
    with Client(server) as other:
        other.picture()
        thread.start()
        count = frames_in(other, 1.5)
        thread.join(20)
        count_after = frames_in(other, 1.0)
    for one in half_open:
        one.close()
    assert not thread.is_alive()
    assert len(ended) == 1
    assert ended[0] is None or ended[0].code == 1008
    assert count >= 9
    assert count_after >= 8


def test_ten_cameras_get_equal_shares(server):
    jpeg = encode_jpeg(np.full((240, 320, 3), pageserver.RED, np.uint8))
    counts, stop = [0] * 10, time.monotonic() + 1.5

    def use(which):
        with Client(server, "camera") as client:
            number = 0
            while time.monotonic() < stop:
                client.socket.send(protocol.pack(protocol.Header(number, number), jpeg))
                assert client.picture()[0].frame == number
                number += 1
                counts[which] = number

    threads = [threading.Thread(target=use, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert min(counts) > 3
    assert min(counts) >= max(counts) / 2, counts


def test_one_lost_hello_frees_the_socket(server):
    address = server.replace("http", "ws", 1) + "socket"
    with connect(address) as client:
        began = time.monotonic()
        text = json.loads(client.recv(10))["message"]
        assert text == "nothing was heard for too long"
        assert time.monotonic() - began > PATIENCE - 0.5


# --- other machines, and the end ------------------------------------------------------------------


def test_other_machines_need_a_token_and_the_server_ends_with_the_engine():
    with pytest.raises(UsageError, match="a token is needed"):
        PageOptions("0.0.0.0")
    with pytest.raises(UsageError, match="16 are needed"):
        PageOptions("0.0.0.0", token="short")
    with running("0.0.0.0", PAGE_TOKEN=TOKEN) as (url, pid):
        assert url.endswith(f"#token={TOKEN}")
        here = url.replace("0.0.0.0", "127.0.0.1")
        for wrong in ("", TOKEN[:-1], TOKEN + "x"):
            with Client(here, token=wrong) as client:
                text, code = client.error()
                assert text.startswith("the token is missing or wrong")
                assert code == 1008
        with Client(here, token=TOKEN) as client:
            client.words("welcome")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the server's process is still there")


def test_a_taken_port_is_said_in_one_sentence(server):
    port = int(re.search(r":(\d+)", server[5:])[1])
    with pytest.raises(MediaError, match=rf"127\.0\.0\.1:{port}: .*in use"):
        BrowserOutput(PageOptions(port=port))


def test_closing_frees_process_memory_and_port():
    page = BrowserOutput(PageOptions(port=0), perform=pageserver.Inverted)
    process, name, port = page._server, page._board.name, page.port
    page.close()
    page.close()
    assert process.exitcode == 0
    with pytest.raises(FileNotFoundError):
        Board([16], get_context("spawn").Lock(), name)
    with socket.socket() as door, pytest.raises(ConnectionRefusedError):
        door.connect(("127.0.0.1", port))


# --- mailboxes ------------------------------------------------------------------------------------


def test_the_newest_is_taken_once_and_the_reader_called_once():
    board = Board([100, 100], get_context("spawn").Lock())
    try:
        assert board.take(0) is None
        assert board.post(0, b"one")
        assert not board.post(0, b"two")
        assert board.post(1, b"other")
        assert board.take(0) == (2, b"two")
        assert board.take(0) is None
        assert board.post(0, b"three")
        board.clear(0)
        assert b"three" not in bytes(board._buffer)
        assert board.take(0) is None
        assert board.take(1) == (1, b"other")
        with pytest.raises(ValueError, match="101 bytes for a mailbox of 100"):
            board.post(0, bytes(101))
    finally:
        board.close()


def _write(size, lock, name, count):
    board = Board([size], lock, name)
    for number in range(count):
        board.post(0, bytes([number % 251]) * (size - number % 7))
    board.close()


def test_no_message_is_torn_between_two_processes():
    size, count, context = 100_000, 2000, get_context("spawn")
    lock = context.Lock()
    board = Board([size], lock)
    writer = context.Process(target=_write, args=(size, lock, board.name, count))
    writer.start()
    before = taken = 0
    try:
        while writer.is_alive() or before < count:
            found = board.take(0)
            if found is None:
                assert writer.is_alive() or before == count
                time.sleep(0.0005)
                continue
            number, message = found
            assert number > before
            assert message == bytes([(number - 1) % 251]) * (size - (number - 1) % 7)
            before, taken = number, taken + 1
        assert taken > 5
    finally:
        writer.join(10)
        board.close()


# --- clients in examples --------------------------------------------------------------------------


def test_the_python_example(server, tmp_path):
    out = tmp_path / "last.jpg"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "client.py", server, "--frames", "5", "--save", out],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 pictures" in done.stdout
    assert decode_jpeg(out.read_bytes(), max_pixels=10**6).shape == (240, 320, 3)


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no node here, which the JavaScript example runs in")
def test_the_javascript_example(server):
    done = subprocess.run(
        [NODE, EXAMPLES / "client.mjs", server, "5"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 pictures" in done.stdout
