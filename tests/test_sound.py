"""Sound in step with the picture: rings, clocks that run off, microphones that go, whole files."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

import synthetic
from material import PORTRAIT, mien, noise, write_clip
from mien import media
from mien.cli.live import check_audio
from mien.errors import MediaError, UsageError
from mien.media import sound as sound_
from mien.media.sound import PATIENCE, RATE, Decoded, Feed, Microphone, Sound, place
from mien.provenance import Marker
from mien.types import Frame

MARKER = Marker(consent=synthetic.CONSENT)
FRAME = 0.04
"""Seconds: lips and voice must be nearer than that."""


def both(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.float32)[:, None], 2, axis=1)


def claps(times: np.ndarray, at: float = 0.5) -> np.ndarray:
    """A burst of 10 ms of 1 kHz in every second."""
    phase = np.mod(times - at, 1.0)
    return both(np.where(phase < 0.01, np.sin(2 * np.pi * 1000 * phase), 0.0))


def flash(index: int, fps: int = 25) -> np.ndarray:
    """A picture that is white for one frame in every second, at its middle."""
    lit = index % fps == round(fps / 2 - 0.01)
    return np.full((120, 160, 3), 255 if lit else 0, np.uint8)


FLASHES = (round(25 / 2 - 0.01)) / 25


def offsets(file: Any) -> list[float]:
    """Seconds by which each clap of a recording comes after its flash."""
    with av.open(file) as container:
        lit, blocks, decoded = [], [], Decoded()
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.AudioFrame):
                blocks += decoded(frame)
            elif frame.to_ndarray(format="gray")[:60].mean() > 128:
                lit.append(frame.time)
    begin = blocks[0][0]
    heard = np.abs(np.concatenate([samples for _, samples in blocks])[:, 0]) > 0.25
    where = np.flatnonzero(heard) / RATE + begin
    starts = where[np.diff(where, prepend=-1) > 0.5]
    shown = [t for n, t in enumerate(lit) if not n or t - lit[n - 1] > 0.5]
    inner = [t for t in shown if t > shown[0] - 1 and t + 0.2 < begin + len(heard) / RATE]
    assert len(inner) > 0
    return [float(starts[np.abs(starts - t).argmin()] - t) for t in inner]


def write_claps(file: Any, seconds: int = 3, *, kind: str | None = None, live: bool = False) -> Any:
    """A clip that claps and flashes once a second."""
    with av.open(file, "w", format=kind) as output:
        options = {"tune": "zerolatency"} if live else {}
        video: Any = output.add_stream("libx264", rate=25, options=options)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.codec_context.gop_size = 10
        audio: Any = output.add_stream("aac", rate=44_100, layout="mono")
        done = 0
        for n in range(25 * seconds):
            output.mux(video.encode(av.VideoFrame.from_ndarray(flash(n))))
            while done < (n + 1) * 44_100 // 25:
                wave = claps((done + np.arange(1024)) / 44_100, FLASHES)[:, :1].T
                block = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(wave), format="fltp", layout="mono"
                )
                block.sample_rate, block.pts = 44_100, done
                block.time_base = Fraction(1, 44_100)
                output.mux(audio.encode(block))
                done += 1024
        output.mux(video.encode(None))
        output.mux(audio.encode(None))
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Path(write_claps(str(tmp_path_factory.mktemp("sound") / "claps.mp4")))


# --- the ring -------------------------------------------------------------------------------------


def test_what_is_not_there_is_silence():
    heard = Sound()
    heard.put(1000, both(np.full(10, 0.5)))
    heard.put(1020, both(np.full(10, 0.25)))
    got = heard.read(990, 1050)[:, 0]
    assert got.tolist() == [0] * 10 + [0.5] * 10 + [0] * 10 + [0.25] * 10 + [0] * 20
    assert heard.newest == 1030
    heard.cut(1005)
    heard.put(1008, both(np.full(2, 1.0)))
    assert heard.read(1003, 1012)[:, 0].tolist() == [0.5, 0.5, 0, 0, 0, 1, 1, 0, 0]


def test_old_sound_is_forgotten_and_memory_stays():
    heard = Sound()
    size = len(heard._samples)
    for n in range(30):
        heard.put(n * RATE, both(np.full(RATE, n + 1.0)))
    assert heard.read(0, RATE).max() == 0
    assert (heard.read(27 * RATE, 30 * RATE)[:, 0] == np.repeat([28, 29, 30], RATE)).all()
    heard.put(10**12, both(np.ones(3 * size)))  # a jump, and more than there is room for
    assert heard.read(10**12 + 3 * size - 5, 10**12 + 3 * size + 5)[:, 0].sum() == 5
    assert len(heard._samples) == size


# --- clocks ---------------------------------------------------------------------------------------


def blocks_of(off: float, seconds: float, seed: int = 0) -> Iterator[tuple[np.ndarray, float]]:
    """Blocks of 10 ms of claps by a clock that is off, with the jitter of a busy machine."""
    rng = np.random.default_rng(seed)
    rate, begin, count = RATE * (1 + off), 1000.0, 480
    for k in range(0, int(seconds * rate), count):
        late = min(rng.exponential(0.002), 0.03)
        yield claps(begin + (k + np.arange(count)) / rate), begin + k / rate + late


@pytest.mark.parametrize("off", [0.005, -0.005, 0.0])
def test_a_clock_that_runs_off_is_followed(off):
    heard = Sound()
    feed = Feed(heard)
    errors = []
    for n, (samples, taken) in enumerate(blocks_of(off, 30)):
        feed(samples, taken)
        if n % 100 == 99 and n > 200:
            clap = np.floor(taken - 0.6) + 0.5
            near = np.abs(heard.read(place(clap - 0.1), place(clap + 0.1))[:, 0])
            errors.append(np.argmax(near > 0.25) / RATE - 0.1)
    assert np.abs(errors).max() < 0.012
    assert feed.resets == 0
    unfollowed = abs(off) * 30
    assert unfollowed == 0 or unfollowed > 3 * FRAME  # without it the bar would be missed


def test_a_tone_stays_whole_while_the_clock_is_followed():
    heard = Sound()
    feed, rate = Feed(heard), RATE * 1.005
    rng = np.random.default_rng(1)
    for k in range(0, 10 * RATE, 480):
        tone = both(0.5 * np.sin(2 * np.pi * 440 * (k + np.arange(480)) / rate))
        feed(tone, 50 + k / rate + rng.uniform(0, 0.004))
    got = heard.read(place(57), place(59))[:, 0]
    assert np.abs(np.diff(got)).max() < 0.5 * 2 * np.pi * 440 / RATE * 1.05  # no click
    crossings = np.count_nonzero((got[:-1] < 0) & (got[1:] >= 0)) / 2
    assert crossings == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(got**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_lost_blocks_leave_silence_and_what_follows_is_in_step():
    heard = Sound()
    feed = Feed(heard)
    for samples, taken in blocks_of(0, 4):
        if not 1001.2 < taken < 1002.2:
            feed(samples, taken)
    assert feed.resets == 1
    assert np.abs(heard.read(place(1001.25), place(1002.15))).max() == 0
    near = np.abs(heard.read(place(1002.4), place(1002.6))[:, 0])
    assert np.argmax(near > 0.25) / RATE - 0.1 == pytest.approx(0, abs=0.005)


# --- microphones ----------------------------------------------------------------------------------


class PortAudioError(Exception):
    pass


class Stream:
    def __init__(self, module: Backend, **how: Any) -> None:
        self.module, self.how, self.active = module, how, False

    def start(self) -> None:
        if not self.module.there:
            raise PortAudioError("Device unavailable")
        self.active = True
        self.module.streams.append(self)

    def close(self) -> None:
        self.active = False

    def hear(self, samples: np.ndarray, late: float = 0.02) -> None:
        times = SimpleNamespace(currentTime=5.0 + late, inputBufferAdcTime=5.0)
        self.how["callback"](samples, len(samples), times, None)


class Backend:
    """What stands in for the package sounddevice."""

    PortAudioError = PortAudioError

    def __init__(self, rate: float = 48_000, channels: int = 1) -> None:
        self.there, self.streams, self.rate, self.channels = True, [], rate, channels
        self.looked = 0

    def query_devices(self, device: Any = None, kind: str = "") -> Any:
        one = {"name": "made", "default_samplerate": self.rate, "max_input_channels": self.channels}
        if not kind:
            return [one, one | {"name": "loudspeaker", "max_input_channels": 0}]
        if not self.there or device not in (None, 0, "made"):
            raise ValueError(f"No input device matching {device!r}")
        return one

    def check_input_settings(self, **how: Any) -> None:
        if how["samplerate"] != self.rate:
            raise PortAudioError("Invalid sample rate")

    def InputStream(self, **how: Any) -> Stream:  # noqa: N802
        return Stream(self, **how)

    def _terminate(self) -> None: ...

    def _initialize(self) -> None:
        self.looked += 1


def test_a_microphone_is_heard_when_it_was_spoken_into():
    heard, backend = Sound(), Backend(rate=44_100)
    microphone = Microphone("made", heard, module=backend)
    (stream,) = backend.streams
    assert stream.how["samplerate"] == 44_100
    begin = time.monotonic()
    # A block of one second whose sound is at its middle; PortAudio says when it began.
    samples = np.zeros((44_100, 1), np.float32)
    samples[22_050:22_100] = 0.8
    samples[:1000] = np.nan
    stream.hear(samples, late=0.9)
    assert np.isfinite(heard.read(place(begin - 1), place(begin + 1))).all()
    loud = np.abs(heard.read(place(begin - 1), place(begin + 1))[:, 0]) > 0.4
    at = np.argmax(loud) / RATE - 1
    assert at == pytest.approx(-0.9 + 0.5, abs=0.01)
    microphone.close()
    assert not stream.active


def test_an_unplugged_microphone_is_silence_until_it_is_back(monkeypatch, caplog):
    monkeypatch.setattr(sound_, "GONE", 0.2)
    heard, backend = Sound(), Backend()
    microphone = Microphone("default", heard, module=backend)
    backend.there = backend.streams[0].active = False
    deadline = time.monotonic() + 5
    while not backend.looked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert microphone.lost == 1
    now = time.monotonic()
    assert heard.read(place(now - 1), place(now)).max() == 0
    backend.there = True
    while len(backend.streams) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    backend.streams[1].hear(np.full((960, 1), 0.5, np.float32))
    now = time.monotonic()
    assert heard.read(place(now - 0.5), place(now)).max() == pytest.approx(0.5, abs=0.05)
    microphone.close()
    assert "is gone; silence until it is back" in caplog.text
    assert "is back" in caplog.text


def test_microphones_that_are_not_there_are_named(monkeypatch):
    with pytest.raises(MediaError, match=r"microphone studio: cannot be opened .*--list-devices"):
        Microphone("studio", Sound(), module=Backend())
    assert media.microphones(Backend()) == [(0, "made")]
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MediaError, match=r"pip install mien\[audio\]"):
        Microphone("default", Sound())


# --- what is encoded ------------------------------------------------------------------------------


def record(target: str, heard: Sound, frames: int, hear: Any, fps: int = 25) -> None:
    """Frames of flashes, written as a live engine does, in no time."""
    sink = media.LiveSink(target, (160, 120), fps, metadata=MARKER.metadata(), sound=heard)
    for n in range(frames):
        taken = 1000 + n / fps
        hear(taken)
        sink.write(MARKER(Frame(flash(n, fps), n)), taken)
    sink.close()


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov"])
def test_a_clap_is_heard_when_its_flash_is_seen(tmp_path, name):
    heard, done = Sound(), [place(1000)]

    def hear(taken: float) -> None:
        at, done[0] = done[0], place(taken + 0.06)
        heard.put(at, claps(np.arange(at, done[0]) / RATE, FLASHES))

    record(str(tmp_path / name), heard, 75, hear)
    found = offsets(str(tmp_path / name))
    assert len(found) == 3
    assert np.abs(found).max() < 0.002
    with av.open(str(tmp_path / name)) as container:
        audio = container.streams.audio[0].codec_context
        assert (audio.name, audio.sample_rate, audio.layout.name) == ("aac", RATE, "stereo")
        assert next(container.decode(video=0)).pts == 0


@pytest.mark.parametrize("off", [0.005, -0.005])
def test_a_recording_stays_in_step_with_a_clock_that_runs_off(tmp_path, off):
    heard = Sound()
    feed, rest = Feed(heard), blocks_of(off, 32)
    ahead: list[Any] = [next(rest)]

    def hear(taken: float) -> None:
        while ahead[0][1] < taken - 0.02:  # a microphone's own delay
            feed(*ahead[0])
            ahead[0] = next(rest)

    record(str(tmp_path / "out.mkv"), heard, 30 * 25, hear)
    found = offsets(str(tmp_path / "out.mkv"))
    shift = 0.5 - FLASHES  # of the made sound against the made picture
    assert len(found) >= 28
    assert np.abs(np.array(found) - shift).max() < FRAME / 2


def test_a_dead_microphone_holds_nobody_up(tmp_path):
    heard = Sound()
    began = time.monotonic()
    record(str(tmp_path / "out.mp4"), heard, 50, lambda taken: None)
    assert time.monotonic() - began < 5
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 50
    with av.open(str(tmp_path / "out.mp4")) as container:
        blocks = [f.to_ndarray() for f in container.decode(audio=0)]
    assert np.abs(np.concatenate(blocks, axis=1)).max() < 1e-4
    assert sum(b.shape[1] for b in blocks) / RATE == pytest.approx(2 - PATIENCE, abs=0.1)


def test_sound_travels_over_the_network_with_the_picture():
    heard, done, data = Sound(), [place(1000)], []

    def hear(taken: float) -> None:
        at, done[0] = done[0], place(taken + 0.06)
        heard.put(at, claps(np.arange(at, done[0]) / RATE, FLASHES))
        time.sleep(0.004)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(1)

        def collect() -> None:
            try:
                while True:
                    data.append(listener.recv(4096))
            except TimeoutError:
                return

        thread = threading.Thread(target=collect)
        thread.start()
        record(f"udp://127.0.0.1:{listener.getsockname()[1]}", heard, 60, hear)
        thread.join(10)
    found = offsets(io.BytesIO(b"".join(data)))
    assert len(found) == 2
    assert np.abs(found).max() < FRAME / 2


# --- files and streams ----------------------------------------------------------------------------


def copy_live(camera: Any, target: Path, heard: Sound, seconds: float) -> None:
    """A camera into a file, without anything between but a delay."""
    sink = media.LiveSink(str(target), (160, 120), 25, metadata=MARKER.metadata(), sound=heard)
    end = time.monotonic() + seconds
    waiting: list[media.Shot] = []
    for shot in camera:
        waiting.append(shot)
        if len(waiting) > 2:
            frame, taken = waiting.pop(0)
            sink.write(MARKER(frame), taken)
        if time.monotonic() > end:
            break
    camera.close()
    sink.close()


def test_a_file_is_heard_in_step_through_its_loops(clip, tmp_path):
    heard = Sound()
    camera = media.open_camera(str(clip), loop=True, sound=heard)
    copy_live(camera, tmp_path / "out.mp4", heard, 3.9)
    found = offsets(str(tmp_path / "out.mp4"))
    assert len(found) > 3  # more than a pass has
    assert np.abs(found).max() < FRAME / 2


def test_a_file_without_sound_is_said_to_have_none(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", noise(), sound=False)
    with pytest.raises(MediaError, match="has no sound"):
        media.open_camera(str(silent), sound=Sound())


def test_the_sound_of_a_stream_is_in_step(tmp_path):
    stream = write_claps(io.BytesIO(), 8, kind="mpegts", live=True).getvalue()
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            began, sent = time.monotonic(), 0
            while sent < len(stream) and not over.is_set():  # at its own rate
                to = int(len(stream) * (time.monotonic() - began) / 8)
                if to > sent:
                    connection.sendall(stream[sent:to])
                    sent = to
                time.sleep(0.01)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    heard = Sound()
    with listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        camera = media.open_camera(address, sound=heard)
        copy_live(camera, tmp_path / "out.mkv", heard, 3)
        over.set()
    thread.join(5)
    assert np.abs(offsets(str(tmp_path / "out.mkv"))[1:]).max() < FRAME


def test_the_command_keeps_lips_and_voice_together(clip, tmp_path):
    done = mien(
        "live", "-s", PORTRAIT, "--consent", "synthetic", "--input", clip, "--loop", "--audio",
        "input", "-o", "out.mp4", "--duration", "4.2", "--max-latency", "500ms", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = offsets(str(tmp_path / "out.mp4"))
    assert len(found) >= 2
    assert np.abs(found).max() < FRAME


@pytest.mark.parametrize(
    ("how", "words"),
    [(("input", None, ["a.mp4"], None), "is the sound of --input"),
     (("default", None, ["window"], None), "goes into files and streams")],
)  # fmt: skip
def test_sound_that_goes_nowhere_is_refused(how, words):
    with pytest.raises(UsageError, match=words):
        check_audio(*how)
    check_audio("default", None, ["window"], "9000")
    check_audio("default", None, ["window", "a.mp4"], None)
    check_audio(None, None, ["window"], None)
