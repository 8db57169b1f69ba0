"""Cameras, outputs, control and the command around the live engine."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import screen
import synthetic
from material import MIEN, PORTRAIT, environment, mien, noise, write_clip
from mien import live, media
from mien.cli.live import parse_latency, parse_size
from mien.errors import MediaError, UsageError
from mien.live.window import press, with_line
from mien.media.virtual import SET_FORMAT, YUV420, format_request
from mien.provenance import Marker
from mien.types import Frame, Rule, SwapPlan

ADA = synthetic.identity(64, name="Ada")
MARKER = Marker(consent=synthetic.CONSENT)


def shown(index: int, taken: float, colour: tuple[int, int, int] = (200, 60, 60)) -> live.Shown:
    image = np.full((120, 160, 3), colour, np.uint8)
    return live.Shown(MARKER(Frame(image, index)), taken, [], 1)


class NoEngine:
    """What controls are tried on."""

    def __init__(self) -> None:
        self.look = live.Look(SwapPlan((Rule(ADA),)), MARKER)
        self.changes: list[dict[str, Any]] = []
        self.ended = False

    def change(self, **what: Any) -> None:
        from mien.live.engine import changed

        for key, value in what.items():
            self.look = changed(self.look, key, value)
        self.changes.append(what)

    def end(self) -> None:
        self.ended = True

    def statistics(self) -> live.Statistics:
        return live.Statistics(
            30.0, 29.5, 21.0, 34.0, 3, 27, "cpu", 30, 27, 0, 0, 1, 0, "full quality", 0, 0, None, 9
        )


# --- cameras --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Six frames with uneven times; the grey of each says which it is."""
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=20, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for n, at in enumerate((0, 50, 100, 250, 300, 350)):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 30 * n + 20, np.uint8))
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(frame: Frame) -> int:
    return round((float(frame.image.mean()) - 20) / 30)


def test_a_file_is_played_at_its_own_rate(clip):
    camera = media.open_camera(str(clip))
    assert [grey(frame) for frame in camera.preview()] == [0, 1, 2]
    began = time.monotonic()
    shots = []
    for shot in camera:
        assert time.monotonic() >= shot.time  # never before it is due
        shots.append(shot)
    assert [grey(s.frame) for s in shots] == list(range(6))  # the preview took none away
    due = np.array([s.time for s in shots]) - shots[0].time
    assert due == pytest.approx([0, 0.05, 0.1, 0.25, 0.3, 0.35], abs=1e-6)
    assert time.monotonic() - began >= 0.35


def test_a_file_can_be_thinned_looped_and_brought_to_a_size(clip):
    camera = media.open_camera(str(clip), size=(320, 200), fps=10, loop=True)
    shots = []
    for shot in camera:
        shots.append(shot)
        if len(shots) == 6:
            camera.close()
            break
    assert [grey(s.frame) for s in shots[:4]] == [0, 2, 3, 5]
    assert [grey(s.frame) for s in shots[4:]] == [0, 2]
    assert shots[0].frame.image.shape == (200, 266, 3)
    assert np.all(np.diff([s.time for s in shots]) > 0.04)


def test_closing_a_camera_ends_its_wait(clip):
    import threading

    camera = media.open_camera(str(clip), loop=True)
    threading.Timer(0.1, camera.close).start()
    began = time.monotonic()
    assert 1 <= len(list(camera)) < 20
    assert time.monotonic() - began < 3


def test_cameras_that_are_not_there_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"no\.mp4: no such file"):
        media.open_camera(str(tmp_path / "no.mp4"))
    with pytest.raises(MediaError, match="rtsp://127"):
        media.open_camera("rtsp://127.0.0.1:9/none")
    if sys.platform.startswith("linux"):
        with pytest.raises(MediaError, match="camera 987: there is no /dev/video987"):
            media.open_camera("987")


def test_the_newest_pushed_frame_wins():
    camera = media.PushCamera()
    for n in range(3):
        camera.push(np.full((2, 2, 3), n, np.uint8), float(n))
    shot = next(iter(camera))
    assert (shot.time, int(shot.frame.image[0, 0, 0]), camera.replaced) == (2.0, 2, 2)
    camera.close()
    assert list(camera) == []


# --- outputs --------------------------------------------------------------------------------------


def test_a_file_keeps_the_times_of_frames_and_says_what_it_is(tmp_path):
    path = tmp_path / "out.mp4"
    output = live.Encoded(str(path), MARKER.metadata())
    output.open(160, 120, 30)
    for n, at in enumerate((5.0, 5.1, 5.15, 5.4)):
        output.write(shown(n, at))
    assert not path.exists()  # whole, or not at all
    output.close()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.15, 0.4], abs=1e-4)
        assert container.metadata["mien_content"] == "AI-generated"
        colour = frames[0].to_ndarray(format="rgb24")[20, 20]
        assert np.abs(colour.astype(int) - (200, 60, 60)).max() <= 4
    with pytest.raises(MediaError, match="exists already"):
        live.Encoded(str(path), {}).open(160, 120, 30)


def test_a_sink_takes_marked_frames_only(tmp_path):
    sink = media.LiveSink(str(tmp_path / "a.mkv"), (160, 120), 30, metadata={})
    with pytest.raises(TypeError, match="provenance marked"):
        sink.write(Frame(np.zeros((120, 160, 3), np.uint8)), 0.0)  # type: ignore[arg-type]
    sink.close()
    assert list(tmp_path.iterdir()) == []  # nothing was shown, nothing is left


def test_every_frame_is_out_when_write_returns():
    """MPEG-TS over UDP: datagrams of whole packets, the first within the first call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        output = live.Encoded(f"udp://127.0.0.1:{listener.getsockname()[1]}", MARKER.metadata())
        output.open(160, 120, 30)
        try:
            for n in range(3):
                output.write(shown(n, n / 30))
                data = listener.recv(4096)
                assert data[0] == 0x47
                assert len(data) % 188 == 0
                listener.settimeout(0.2)
                try:
                    while True:
                        listener.recv(4096)
                except TimeoutError:
                    listener.settimeout(5)
        finally:
            output.close()


@pytest.mark.parametrize(
    ("target", "words"),
    [("out.webm", "expected window"), ("out", "expected window"), ("ftp://x/y", "ftp://"),
     ("rtmp://127.0.0.1:9/live", "cannot be written")],
)  # fmt: skip
def test_targets_that_cannot_be_are_named(tmp_path, target, words):
    where = target if "://" in target else str(tmp_path / target)
    with pytest.raises((UsageError, MediaError), match=words):
        media.LiveSink(where, (160, 120), 30, metadata={})


def test_a_virtual_camera_is_asked_for_its_format_and_gets_whole_frames(tmp_path):
    device = tmp_path / "video9"
    device.touch()
    asked: list[int] = []

    def ioctl(file: int, request: int, argument: bytearray) -> int:
        asked.append(request)
        assert struct.unpack_from("=I", argument)[0] == 2
        assert struct.unpack_from("=2I", argument, 8) == (160, 120)
        assert len(argument) == 208
        return 0

    camera = media.VirtualCamera(device, (160, 120), ioctl=ioctl)
    for n in range(2):
        camera.write(shown(n, 0.0).marked)
    camera.close()
    assert asked == [SET_FORMAT] == [0xC0D05605]
    data = np.fromfile(device, np.uint8)
    assert data.size == 2 * 160 * 120 * 3 // 2
    luma = data[: 160 * 80].astype(int)  # above the label; BT.709 of 200, 60, 60
    assert np.abs(luma - (16 + 219 / 255 * (0.2126 * 200 + 0.7874 * 60))).max() <= 2


def test_a_virtual_camera_that_keeps_another_size_is_refused(tmp_path):
    device = tmp_path / "video9"
    device.touch()

    def other(file: int, request: int, argument: bytearray) -> int:
        argument[:] = format_request(640, 480)
        return 0

    def busy(file: int, request: int, argument: bytearray) -> int:
        raise OSError(16, "Device or resource busy")

    with pytest.raises(MediaError, match="keeps to 640x480"):
        media.VirtualCamera(device, (160, 120), ioctl=other)
    with pytest.raises(MediaError, match="takes no frames"):
        media.VirtualCamera(device, (160, 120), ioctl=busy)
    with pytest.raises(MediaError, match="cannot be opened"):
        media.VirtualCamera(tmp_path / "none", (160, 120), ioctl=busy)
    assert YUV420 == 0x32315559


def test_a_loopback_device_is_found_or_said_to_be_missing(tmp_path):
    with pytest.raises(MediaError, match="modprobe v4l2loopback"):
        media.find_loopback(tmp_path)
    real = tmp_path / "devices" / "virtual" / "video4linux" / "video7"
    real.mkdir(parents=True)
    listed = tmp_path / "class"
    listed.mkdir()
    (listed / "video7").symlink_to(real)
    (listed / "video0").symlink_to(tmp_path / "devices")
    assert media.find_loopback(listed) == Path("/dev/video7")


# --- window ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a display")
def test_without_a_display_the_window_says_so(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(MediaError, match=r"window: .*(display|Tk).*choose another output"):
        live.Window().open(160, 120, 30)


def test_keys_change_what_is_seen():
    engine: Any = NoEngine()
    toggled: list[int] = []
    for key in "h-p-mq?":
        press(engine, key, toggle=lambda: toggled.append(1))
    assert toggled == [1]
    assert engine.look.strength == pytest.approx(0.8)
    assert (engine.look.paused, engine.look.on_miss, engine.ended) == (True, "hold", True)


def test_the_head_up_line_is_drawn_on_a_copy():
    image = np.full((360, 640, 3), 200, np.uint8)
    drawn = with_line(image, NoEngine().statistics().line())
    assert (image == 200).all()
    assert (drawn[40:] == 200).all()
    assert drawn[:12].mean() < 120


# --- control --------------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path, swapper):
    engine: Any = NoEngine()
    commands = live.Commands(engine, swapper)
    with live.ControlSocket("0", commands) as listening:
        yield engine, listening


class Output:
    """Stands for a file that is recorded to."""

    def __init__(self, name: str) -> None:
        self.name, self.writing = name, True


@pytest.mark.parametrize(
    "name", ["/tmp/x.mp4", "../x.mp4", "a/b.mp4", "..", "a\\b.mp4", "C:x.mp4", ".x.mp4", "x\0.mp4"]
)
@pytest.mark.parametrize("where", ["0", "socket"])
def test_recordings_have_plain_names_in_their_folder(tmp_path, name, where):
    if where != "0" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("Unix sockets")
    made: list[str] = []

    def make(file: str) -> Any:
        made.append(file)
        return Output(file)

    engine: Any = NoEngine()
    engine.add = lambda output: None
    recorder = live.Recorder(engine, make, tmp_path)
    commands = live.Commands(engine, None, recorder=recorder)  # type: ignore[arg-type]
    asked = json.dumps({"record": name})
    where = where if where == "0" else str(tmp_path / where)
    with live.ControlSocket(where, commands) as listening:
        wrong, right = talk(listening, asked, '{"record": "take 1.mp4"}')
    assert wrong["ok"] is False
    assert "plain name" in wrong["error"]
    assert right == {"ok": True, "recording": str(tmp_path / "take 1.mp4")}
    assert made == [str(tmp_path / "take 1.mp4")]


def connected(listening: live.ControlSocket) -> socket.socket:
    if listening.where == "0":
        return socket.create_connection(("127.0.0.1", listening.port), timeout=20)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(listening.where)
    return connection


def talk(listening: live.ControlSocket, *lines: str) -> list[dict[str, Any]]:
    with connected(listening) as connection:
        connection.sendall("".join(f"{line}\n" for line in lines).encode())
        with connection.makefile("r") as answers:
            return [json.loads(answers.readline()) for _ in lines]


def test_control_changes_and_tells(control):
    engine, listening = control
    answers = talk(
        listening, '{"set": {"strength": 0.5, "on_miss": "blur"}}', '{"get": "statistics"}',
        '{"set": {"mark": "live"}}',
    )  # fmt: skip
    assert [a["ok"] for a in answers] == [True, True, True]
    assert (engine.look.strength, engine.look.on_miss) == (0.5, "blur")
    assert engine.look.marker.label == "AI-generated: live"
    assert answers[1]["statistics"]["fps_out"] == 29.5
    assert answers[1]["statistics"]["age_p95"] == 34.0


@pytest.mark.parametrize(
    ("line", "words"),
    [("nonsense", "one JSON object"), ("[1]", "expected"), ('{"set": {}}', "expected"),
     ('{"set": {"strength": 7}}', "strength: expected"), ('{"set": {"size": 7}}', "no 'size'"),
     ('{"get": "everything"}', "expected"), ('{"set": {"identity": "me.jpg"}}', "no identity of"),
     (json.dumps({"set": {"identity": str(PORTRAIT)}}), "needs a consent"),
     ('{"set": {"identity": ["none.jpg"], "consent": "synthetic"}}', "none.jpg"),
     ('{"set": {"identity": "me.jpg", "consent": "because"}}', "consent 'because' is unknown"),
     ('{"set": {"consent": "self"}}', "goes with an identity"), ("\x00\xff" * 10, "JSON")],
)  # fmt: skip
def test_control_says_what_is_wrong_and_goes_on(control, line, words):
    engine, listening = control
    before = engine.look
    wrong, right = talk(listening, line, '{"get": "statistics"}')
    assert wrong["ok"] is False
    assert words in wrong["error"]
    assert right["ok"] is True
    assert engine.look is before


def test_control_enrols_another_face(control):
    engine, listening = control
    asked = {"set": {"identity": str(PORTRAIT), "consent": "synthetic"}}
    (answer,) = talk(listening, json.dumps(asked))
    assert answer == {"ok": True}
    assert engine.look.plan.rules[0].identity is not ADA


def test_a_control_socket_is_its_owners_and_goes_when_closed(tmp_path, swapper):
    path = tmp_path / "control"
    commands = live.Commands(NoEngine(), swapper)  # type: ignore[arg-type]
    with live.ControlSocket(str(path), commands):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(MediaError, match="cannot listen"):
            live.ControlSocket(str(path), commands)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b'{"get": "statistics"}\n' + b"x" * 70_000)
            assert connection.recv(10) == b'{"ok": tru'
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:  # what a killed run leaves
        dead.bind(str(path))
    with live.ControlSocket(str(path), commands):
        assert path.is_socket()


# --- the command ----------------------------------------------------------------------------------

KEYS = {"fps_in", "fps_out", "age_p50", "age_p95", "dropped", "swapped", "provider"}


def test_the_command_plays_a_file_into_a_file(tmp_path, examples):
    out = tmp_path / "out.mp4"
    done = mien(
        "live", "-s", PORTRAIT, "--consent", "synthetic", "--input", str(examples / "clip.mp4"),
        "-o", str(out), "--duration", "1.5", "--max-latency", "500ms", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) >= KEYS
    assert figures["frames_in"] == figures["frames_out"] + figures["dropped"]
    assert figures["swapped"] == figures["frames_out"] > 3
    assert figures["provider"] == "cpu"
    assert 20 < figures["fps_in"] < 30
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) == figures["frames_out"]
        assert container.metadata["mien_consent"] == "synthetic"


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--input", "none.mp4", "-o", "a.mp4"], "none.mp4: no such file"),
     (["--input", "CLIP", "-o", "a.avi"], "a.avi: expected window"),
     (["--input", "CLIP", "-o", "a.mp4", "--max-latency", "soon"], "--max-latency 'soon'"),
     (["--input", "CLIP", "-o", "a.mp4", "--size", "big"], "--size 'big'"),
     (["--input", "CLIP", "-o", "a.mp4", "--on-miss", "cry"], "--on-miss 'cry'"),
     (["--input", "CLIP", "--camera", "1", "-o", "a.mp4"], "--camera and --input"),
     (["--camera", "987", "-o", "a.mp4"], "camera 987")],
)  # fmt: skip
def test_wrong_use_is_said_before_anything_is_loaded(flags, words, tmp_path, examples, capsys):
    from mien import cli

    asked = [str(examples / "clip.mp4") if f == "CLIP" else f for f in flags]
    asked = [str(tmp_path / f) if f.startswith("a.") else f for f in asked]
    status = cli.app(
        ["live", "-s", PORTRAIT, "--consent", "synthetic", *asked], standalone_mode=False
    )
    assert status in (1, 2)
    assert words in capsys.readouterr().err


def test_words_of_flags():
    assert (parse_latency("100ms"), parse_latency("0.2s")) == (0.1, 0.2)
    assert (parse_size("1280x720"), parse_size(None)) == ((1280, 720), None)
    for text in ("100", "0ms", "99s", "-5ms"):
        with pytest.raises(UsageError, match="--max-latency"):
            parse_latency(text)


def test_help_of_live_loads_nothing_heavy():
    code = (
        "import sys\nfrom mien import cli\nsys.argv = ['mien', 'live', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'cv2', 'av', 'onnxruntime', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, env=os.environ
    )


class Capture:
    """OpenCV's capture of a camera that is unplugged after two frames; BGR."""

    def __init__(self, what: int | str) -> None:
        self.left, self.set_to, self.released = 2, {}, False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, key: int, value: float) -> None:
        self.set_to[key] = value

    def get(self, key: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.full((480, 640, 3), (10, 20, 200), np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_device_gives_upright_rgb_and_is_given_back_when_it_is_gone(monkeypatch, tmp_path):
    import cv2

    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    camera = media.DeviceCamera(str(device), size=(320, 240), fps=30)
    shots = iter(camera)
    shot = next(shots)
    assert shot.frame.image.shape == (240, 320, 3)
    assert tuple(shot.frame.image[0, 0]) == (200, 20, 10)
    assert abs(shot.time - time.monotonic()) < 5
    next(shots)
    with pytest.raises(MediaError, match="gives no more frames"):
        next(shots)
    assert camera._capture.released
    assert camera._capture.set_to[cv2.CAP_PROP_FRAME_WIDTH] == 320


# --- connections that break -----------------------------------------------------------------------


class Listener:
    """Takes connections one after the other, and drops them when told to."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.server.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        self.got: list[int] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            number = len(self.got)
            self.got.append(0)
            self.taken.append(connection)
            with suppress(OSError):
                while data := connection.recv(65536):
                    self.got[number] += len(data)
            connection.close()

    def drop(self) -> None:
        with suppress(OSError):
            self.taken[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.drop()
        self.thread.join(5)


@pytest.fixture
def listener():
    listening = Listener()
    yield listening
    listening.close()


def push(output: live.Encoded, until: Any, seconds: float = 8.0) -> int:
    """Write frames until something is so; how many."""
    began = time.monotonic()
    count = 0
    while not until() and time.monotonic() - began < seconds:
        output.write(shown(count, began + count / 60))
        count += 1
        time.sleep(1 / 60)
    assert until()
    return count


def test_a_broken_connection_is_made_again(listener, monkeypatch, caplog):
    monkeypatch.setattr("mien.live.outputs.PAUSES", (0.1, 0.2))
    output = live.Encoded(listener.address, MARKER.metadata())
    output.open(160, 120, 30)
    push(output, lambda: listener.got and listener.got[0] > 5000)
    listener.drop()
    count = push(output, lambda: len(listener.got) > 1 and listener.got[1] > 5000)
    assert output.reconnected == 1
    assert 1 <= output.lost < count
    assert output.writing
    output.close()
    assert "tried again in 0.1 s" in caplog.text
    assert "connected again" in caplog.text


def test_tries_to_connect_are_bounded(listener, monkeypatch):
    monkeypatch.setattr("mien.live.outputs.PAUSES", (0.05, 0.1))
    monkeypatch.setattr("mien.live.outputs.GIVE_UP", 0.5)
    output = live.Encoded(listener.address, MARKER.metadata())
    output.open(160, 120, 30)
    push(output, lambda: listener.got and listener.got[0] > 5000)
    listener.close()
    began = time.monotonic()
    with pytest.raises(MediaError, match="given up after"):
        push(output, lambda: False)
    assert 0.4 < time.monotonic() - began < 5
    assert output._tries < 12
    output.close()


def test_another_consent_begins_an_rtmp_stream_anew(monkeypatch):
    opened: list[dict[str, str]] = []

    class Sink:
        def __init__(self, target: str, size: Any, fps: float, **how: Any) -> None:
            opened.append(how["metadata"])

        def write(self, marked: Any, taken: float) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(media, "LiveSink", Sink)
    now = {"mien_consent": "self"}
    output = live.Encoded("rtmp://127.0.0.1/live", now, now=lambda: dict(now))
    output.open(160, 120, 30)
    output.write(shown(0, 0))
    now["mien_consent"] = "written"
    output.write(shown(1, 1))
    output.write(shown(2, 2))
    assert [words["mien_consent"] for words in opened] == ["self", "self; written"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_says_all_that_it_rests_on(tmp_path, suffix):
    path, now = tmp_path / f"out.{suffix}", dict(MARKER.metadata())
    output = live.Encoded(str(path), dict(now), now=lambda: dict(now))
    output.open(160, 120, 30)
    output.write(shown(0, 0))
    now["mien_consent"] = "written"
    for n in range(1, 4):
        output.write(shown(n, n / 30))
    output.close()
    said = media.read_metadata(path)
    assert said["mien_consent"] == "synthetic; written"
    assert said["mien_content"] == "AI-generated"
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 4
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
import numpy as np
import synthetic
from mien import live
from mien.errors import MediaError
from mien.provenance import Marker
from mien.types import Frame
def sign(hidden, target):
    raise MediaError("no room to sign")
marker, noise = Marker(consent=synthetic.CONSENT), np.random.default_rng(0)
finish = sign if "signed" in sys.argv[1] else None
output = live.Encoded(sys.argv[1], marker.metadata(), finish=finish)
output.open(160, 120, 30)
try:
    for n in range(900):
        image = noise.integers(0, 255, (120, 160, 3), dtype=np.uint8)
        output.write(live.Shown(marker(Frame(image, n)), n / 30, [], 1))
except OSError as error:
    print(error)
try:
    output.close()
except OSError as error:
    print(error)
"""
"""A disk that is full after 400 kB."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "signed.mp4"])
def test_on_a_full_disk_a_recording_is_kept_as_far_as_it_goes(tmp_path, name):
    path = tmp_path / name
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert "cannot be written (File too large)" in done.stdout
    (kept,) = tmp_path.iterdir()
    if name == "signed.mp4":  # it is hidden, and where it lies is said
        assert f"no room to sign; what was made lies in {kept}" in done.stderr
    else:
        assert kept == path
    frames = 0
    with av.open(str(kept)) as container, suppress(av.FFmpegError):  # the last one is cut
        for _ in container.decode(video=0):
            frames += 1
    assert frames >= 30


# --- a run that is controlled from outside --------------------------------------------------------


@contextmanager
def running(folder: Path, *arguments: Any) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """``mien live`` as a process, and what asks it over its control socket."""
    process = subprocess.Popen(
        [MIEN, "live", "-s", PORTRAIT, "--consent", "synthetic", *map(str, arguments),
         "--control", "control", "--max-latency", "1s"],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ask(**what: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(folder / "control"))
            connection.sendall(json.dumps(what).encode() + b"\n")
            with connection.makefile("r") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
                return answer

    try:
        await_(lambda: (folder / "control").exists() or process.poll() is not None, 60)
        yield process, ask
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def await_(true: Any, seconds: float) -> float:
    """Wait until something is so; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(list(container.decode(video=0)))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Unix sockets, signals")


@linux
def test_recordings_begin_and_end_while_it_runs(tmp_path):
    clip = write_clip(tmp_path / "claps.mp4", noise(25))
    arguments = ("--input", clip, "--loop", "--audio", "input", "-o", "main.mkv")
    with running(tmp_path, *arguments) as (process, ask):
        await_(lambda: ask(get="statistics")["statistics"]["frames_out"] > 2, 30)
        began = ask(record="take.mp4")
        assert began == {"ok": True, "recording": "take.mp4"}
        assert "is being recorded" in ask(record=True)["error"]
        time.sleep(0.7)
        assert not (tmp_path / "take.mp4").exists()
        assert ask(record=False) == began
        first = frames_of(tmp_path / "take.mp4")
        assert "nothing is being recorded" in ask(record=False)["error"]
        assert "exists already" in ask(record="take.mp4")["error"]
        assert "expected" in ask(record="take.avi")["error"]
        asked = {"identity": str(PORTRAIT), "consent": "artwork"}
        second = ask(record=True)["recording"]
        assert ask(set=asked) == {"ok": True}
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)  # while a recording runs
        assert process.wait(20) == 0
    assert first > 3
    assert re.fullmatch(r"mien-\d{8}-\d{6}\.mp4", second)
    assert frames_of(tmp_path / second) > 3
    assert frames_of(tmp_path / "main.mkv") > first
    assert media.read_metadata(tmp_path / second)["mien_consent"] == "synthetic; artwork"
    with av.open(str(tmp_path / "take.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


@linux
def test_a_stream_that_ends_and_returns_is_shown_again_within_two_seconds(tmp_path):
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size = 12
        for picture in noise(250, 320, 240):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    packets, there, over = data.getvalue(), threading.Event(), threading.Event()
    there.set()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            began, sent = time.monotonic(), 0
            with connection, suppress(OSError):
                while there.is_set() and not over.is_set():
                    to = int(len(packets) * (time.monotonic() - began) / 10)
                    connection.sendall(packets[sent:to])
                    sent = to
                    time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with running(tmp_path, "--input", address, "-o", "out.mkv") as (process, ask):

            def frames() -> int:
                return int(ask(get="statistics")["statistics"]["frames_out"])

            def recovered() -> int:
                return int(ask(get="statistics")["statistics"]["recovered"])

            await_(lambda: frames() > 10, 30)
            there.clear()  # unplugged
            time.sleep(1.0)
            before = frames()
            there.set()
            took = await_(lambda: frames() > before and recovered() > 0, 10)
            process.send_signal(signal.SIGINT)
            process.wait(20)
    finally:
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
    print(f"shown again after {took:.2f} s")
    assert took < 2.0
    assert frames_of(tmp_path / "out.mkv") > before


def test_cameras_are_listed_without_their_other_nodes(tmp_path):
    for number, (name, index) in enumerate([("Cam", "0"), ("Cam", "1"), ("mien", "0")]):
        node = tmp_path / f"video{number * 5}"
        node.mkdir()
        (node / "name").write_text(f"{name}\n")
        (node / "index").write_text(f"{index}\n")
    if sys.platform.startswith("linux"):
        assert media.cameras(tmp_path) == [("0", "Cam"), ("10", "mien")]
    assert media.cameras(tmp_path / "none") == []


def test_devices_are_listed_without_a_portrait(tmp_path):
    done = mien("live", "--list-devices", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "camera" in done.stdout
    assert "microphone" in done.stdout


def test_the_page_records_too(tmp_path, monkeypatch):
    """Through the settings that the page sees, with an engine that does nothing."""
    from mien.serve.control import EngineControls

    class Engine(NoEngine):
        options = live.Options()
        masks: tuple[str, ...] = ()

        def add(self, output: live.Encoded) -> None:
            output.open(160, 120, 30)

        def remove(self, output: live.Encoded) -> None:
            output.write(shown(0, 0))
            output.close()

    engine: Any = Engine()
    make = lambda name: live.Encoded(name, MARKER.metadata())  # noqa: E731
    controls = EngineControls(engine, {ADA.name: ADA}, live.Recorder(engine, make, tmp_path))
    assert controls.settings()["recording"] is False
    assert controls.choices()["recording"] == [False, True]
    controls.change({"recording": True, "strength": 0.5})
    assert controls.settings()["recording"] is True
    assert engine.look.strength == 0.5
    with pytest.raises(UsageError, match="is being recorded"):
        controls.change({"recording": True})
    controls.change({"recording": False})
    assert controls.settings()["recording"] is False
    (made,) = tmp_path.iterdir()
    assert frames_of(made) == 1
    assert "recording" not in EngineControls(engine, {ADA.name: ADA}).settings()


def test_a_window_and_a_recording_at_a_time(tmp_path, swapper):
    clip = write_clip(tmp_path / "clip.mp4", noise(25))
    heard, window = media.Sound(), live.Window(target=screen.screen)
    record = live.Encoded(str(tmp_path / "rec.mp4"), MARKER.metadata(), sound=heard)
    engine = live.Engine(
        lambda: media.open_camera(str(clip), loop=True, sound=heard),
        *(swapper, live.Look(SwapPlan((Rule(ADA),)), MARKER), [window, record]),
        live.Options(reopen=False, max_latency=1.0, duration=20),
    )
    window.engine = engine
    figures = engine.run()
    assert figures.seconds < 15  # q ended it
    shown_, recorded = figures.outputs
    assert (shown_.error, recorded.error) == ("", "")
    assert shown_.written >= 12
    assert frames_of(tmp_path / "rec.mp4") == recorded.written > 3
    with av.open(str(tmp_path / "rec.mp4")) as container:
        tone = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    assert 0.1 < np.abs(tone).max() < 0.25  # of 0.2; one channel becomes two of the same power
