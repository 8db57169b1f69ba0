"""The page in a real headless Chromium, with a camera that is a file.

Chromium is looked for on the path, or where ``MIEN_TEST_CHROMIUM`` says; it is driven by
Playwright (``pip install playwright``).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from material import MEDIA, environment
from mien import media
from test_serve import Client, request, running

pytestmark = pytest.mark.browser

HERE = Path(__file__).resolve().parent
PIXELS = """() => {
  const video = document.getElementById("video");
  let c = document.getElementById("picture");
  if (!video.hidden) {
    c = document.createElement("canvas");
    [c.width, c.height] = [video.videoWidth, video.videoHeight];
    c.getContext("2d").drawImage(video, 0, 0);
  }
  const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  let text = "";  // Playwright takes seconds for an array of as many numbers
  for (let at = 0; at < data.length; at += 32768)
    text += String.fromCharCode(...data.subarray(at, at + 32768));
  return btoa(text);
}"""


def write_y4m(path, width=320, height=240, frames=30):
    """A red picture, as Chromium's fake camera reads it: BT.601, limited range."""
    y, u, v = (np.full(n, value, np.uint8).tobytes() for n, value in (
        (width * height, 81), (width * height // 4, 90), (width * height // 4, 240)))  # fmt: skip
    head = f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(head + (b"FRAME\n" + y + u + v) * frames)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser whose camera shows red."""
    named = os.environ.get("MIEN_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    clip = tmp_path_factory.mktemp("camera") / "red.y4m"
    write_y4m(clip)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={clip}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server():
    with running() as (url, _):
        yield url


@pytest.fixture(scope="module")
def slow():
    """Servers whose swap takes so many seconds, each started once."""
    with ExitStack() as stack:
        yield cache(lambda seconds: stack.enter_context(running(PAGE_COST=str(seconds)))[0])


def open_page(context, url):
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    return page


def start(page):
    page.check("#accepted")
    page.click("#go")


def status(url):
    return json.loads(request(url, "/status")[1])


def shown(page):
    return int(page.evaluate("document.body.dataset.shown ?? 0"))


def until(page, expression, seconds=40):
    """Wait in Python: the page's own policy forbids what Playwright waits with."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, (expression, page.inner_text("#message"), page.errors)
        time.sleep(0.05)


def wait_for(page, count):
    until(page, f"Number(document.body.dataset.shown ?? 0) >= {count}")


def pixels(page):
    size = page.evaluate(
        "video.hidden ? [picture.height, picture.width] : [video.videoHeight, video.videoWidth]"
    )
    data = np.frombuffer(base64.b64decode(page.evaluate(PIXELS)), np.uint8)
    return data.reshape(*size, 4)[:, :, :3]


WAYS = pytest.mark.parametrize("way", ["webrtc", "socket"])


@WAYS
def test_the_servers_camera_with_the_keyboard_alone(chromium, server, way):
    page = open_page(chromium, f"{server}#way={way}")
    page.keyboard.press("s")  # nothing starts before the notice is accepted
    assert page.evaluate("document.activeElement.id") == "accepted"
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    wait_for(page, 10)
    assert page.evaluate("document.body.dataset.way") == way
    assert np.abs(pixels(page)[100, 100].astype(int) - (30, 30, 200)).max() < 12
    until(page, "document.getElementById('figures').textContent.includes('fps')")
    # At first the page does not know the server's clock well.
    until(page, "0 < document.body.dataset.p50 && document.body.dataset.p50 < 2000")
    page.select_option("select[name=identity]", "two")
    with Client(server) as other:
        deadline = time.monotonic() + 5
        while True:
            other.say(type="set", values={})  # the answer to it says what holds
            if other.words("settings")["values"]["identity"] == "two":
                break
            assert time.monotonic() < deadline
    page.click("#stop")
    page.wait_for_selector("#start", state="visible")
    assert page.errors == []
    page.close()


@WAYS
def test_the_browsers_camera(chromium, server, way):
    page = open_page(chromium, f"{server}#role=camera&size=320x240&way={way}")
    start(page)
    wait_for(page, 10)
    assert page.evaluate("document.body.dataset.way") == way
    assert pixels(page).shape == (240, 320, 3)
    red, green, blue = pixels(page)[60, 60].astype(int)
    assert blue > red + 120, (red, green, blue)
    assert page.errors == []
    page.close()


@WAYS
def test_ages_are_those_of_the_whole_way(chromium, slow, way):
    page = open_page(chromium, f"{slow(0.25)}#role=camera&size=320x240&way={way}")
    start(page)
    until(page, "Number(document.body.dataset.p50) > 250")
    wait_for(page, 12)
    assert 250 < float(page.evaluate("document.body.dataset.p50")) < 900
    page.close()


def test_where_webrtc_fails_the_socket_takes_its_place_and_the_page_says_so(chromium, server):
    for way, says in (
        ("auto", "WebRTC does not work here (no way), so the picture comes by WebSocket."),
        ("webrtc", "WebRTC does not work here: no way."),
    ):
        context = chromium.new_context()
        context.add_init_script(
            "RTCPeerConnection.prototype.setRemoteDescription ="
            " () => Promise.reject(Error('no way'))"
        )
        page = open_page(context, f"{server}#role=camera&size=320x240&way={way}")
        start(page)
        until(page, "document.getElementById('message').textContent !== ''")
        assert page.inner_text("#message") == says
        if way == "auto":
            wait_for(page, 5)
            assert page.evaluate("document.body.dataset.way") == "socket"
        else:
            page.wait_for_selector("#start", state="visible")
        assert page.errors == []
        context.close()


def test_closing_the_tab_frees_all(chromium, server):
    pages = [open_page(chromium, f"{server}#role={role}&way=webrtc") for role in ("view", "camera")]
    for page in pages:
        start(page)
        wait_for(page, 3)
    assert status(server) == {"viewers": 1, "cameras": 1, "peers": 2, "encoders": 2, "streams": 1}
    for page in pages:
        page.close()
    deadline = time.monotonic() + 10
    while any(status(server).values()):
        assert time.monotonic() < deadline, status(server)
        time.sleep(0.1)


@WAYS
def test_ten_tabs_get_fair_shares_and_closing_them_frees_all(chromium, slow, way):
    # 100 ms for a swap: it is the engine that all wait for, and not Chromium with its ten pages.
    url = slow(0.1)
    context = chromium.new_context()
    address = f"{url}#role=camera&size=320x240&way={way}"
    pages = [open_page(context, address) for _ in range(10)]
    for page in pages:
        start(page)
    for page in pages:
        wait_for(page, 2)
    before = [shown(page) for page in pages]
    counts = [0] * 10
    deadline = time.monotonic() + 60
    while sum(counts) < 100:  # enough that a frame more or less does not matter
        assert time.monotonic() < deadline, counts
        time.sleep(0.2)
        counts = [shown(page) - n for page, n in zip(pages, before, strict=True)]
    print("frames in each of ten tabs:", counts)
    ways = {page.evaluate("document.body.dataset.way") for page in pages}
    context.close()
    assert ways == {way}
    assert min(counts) >= max(counts) / 2, counts
    deadline = time.monotonic() + 10
    clients = []
    try:
        while len(clients) < 10:
            client = Client(url, "camera")
            message = json.loads(client.socket.recv(5))
            if message["type"] == "welcome":
                clients.append(client)
            else:
                client.__exit__()
            assert time.monotonic() < deadline, f"{len(clients)} places are free"
    finally:
        for client in clients:
            client.__exit__()


@contextmanager
def mien_live(*arguments):
    """The command; gives the address of its page."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from mien.cli import main; main()", "live",
         "-s", str(MEDIA / "portrait-1.jpg"), "--consent", "synthetic",
         "-o", "browser", "--port", "0", *arguments],
        env=environment(PYTHONPATH=str(HERE.parent / "src")),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                break
        else:
            pytest.fail("no address was printed")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def performing(chromium):
    """Pages of one ``mien live`` with a server's camera."""
    with mien_live("--input", str(MEDIA / "clip.mp4"), "--loop", "--no-step-down") as url:
        page = open_page(chromium, url)
        until(page, "fetch('/about').then(r => r.json()).then(k => k.server_camera)")
        page.close()
        yield url


@WAYS
def test_mien_live_shows_swapped_frames(chromium, performing, way):
    with media.open_source(MEDIA / "clip.mp4") as source:
        raw = [frame.image for frame in source]
    page = open_page(chromium, f"{performing}#way={way}")
    start(page)
    until(page, "document.body.dataset.swapped === 'true'")
    assert page.evaluate("document.body.dataset.way") == way
    image = pixels(page).astype(np.float32)
    page.close()
    assert image.shape == raw[0].shape
    height, width = image.shape[:2]
    away = [np.abs(image - frame) for frame in raw]
    corner = [float(a[: height // 4, : width // 5].mean()) for a in away]
    middle = slice(height * 5 // 16, height * 3 // 4), slice(width * 3 // 8, width * 9 // 16)
    assert min(corner) < (5 if way == "socket" else 8)  # the background is the clip's
    assert min(float(a[middle].mean()) for a in away) > 8  # the face is not, in any of its frames
