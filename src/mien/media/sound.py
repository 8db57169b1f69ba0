"""Sound beside a live picture: what was heard lately, on the clock that frames are taken by.

Whatever hears (a microphone, a file, a stream) leaves its samples in a :class:`Sound`; whatever
encodes reads from there as far as its newest frame was taken. So the delay of the picture is in
the timestamps alone, and nobody waits for a microphone: what is not there is silence.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaError

log = logging.getLogger(__name__)

Samples = NDArray[np.float32]
"""``(n, 2)`` float32, -1..1, 48,000 a second."""

RATE: Final = 48_000
"""Samples a second."""

KEPT: Final = 5.0
"""Seconds of sound that are kept."""

PATIENCE: Final = 0.3
"""Seconds by which sound may come later than the picture before silence takes its place."""

BANDWIDTH: Final = 0.1
"""Hertz, of the loop that follows another clock."""

SLEW: Final = 0.02
"""By how much sound is played faster or slower at most, to keep to the clock."""

LOST: Final = 0.1
"""Seconds by which a block may be off its expected time before the clock is set anew."""

GONE: Final = 1.0
"""Seconds without a sample after which a microphone is opened again."""


def place(seconds: float) -> int:
    """The sample at a time of ``time.monotonic()``."""
    return round(seconds * RATE)


class Sound:
    """The last seconds of sound. Any thread may put and read.

    Samples have a number, their time on the monotonic clock times :data:`RATE`.

    Attributes:
        newest: Number after that of the last sample that was put.
    """

    def __init__(self) -> None:
        self._samples = np.zeros((round(KEPT * RATE), 2), np.float32)
        self._lock = threading.Lock()
        self.newest = 0

    def put(self, at: int, samples: Samples) -> None:
        """Leave samples; between the newest so far and these is silence.

        Args:
            at: Number of the first one. What was there is replaced.
            samples: ``(n, 2)``.
        """
        size = len(self._samples)
        with self._lock:
            if at > self.newest:
                self._samples[np.arange(max(self.newest, at - size), at) % size] = 0
            end = at + len(samples)
            samples = samples[-size:]
            at = end - len(samples)
            self._samples[np.arange(at, end) % size] = samples
            self.newest = max(self.newest, end)

    def cut(self, at: int) -> None:
        """Forget what was put from there on."""
        with self._lock:
            self.newest = min(self.newest, at)

    def read(self, begin: int, end: int) -> Samples:
        """Samples ``begin`` to ``end``, silence where there are none."""
        size = len(self._samples)
        out = np.zeros((end - begin, 2), np.float32)
        with self._lock:
            first, last = max(begin, self.newest - size), min(end, self.newest)
            if first < last:
                out[first - begin : last - begin] = self._samples[np.arange(first, last) % size]
        return out


class Feed:
    """Brings blocks that were counted by another clock onto ours.

    A delay-locked loop of second order smooths the times of arrival and learns the other clock's
    true rate (F. Adriaensen, "Using a DLL to filter time", Linux Audio Conference 2005); samples
    between are interpolated by Catmull and Rom's cubic. So a microphone that runs half a per cent
    fast stays in step, without a click. The rate is held within :data:`SLEW`.

    Attributes:
        rate: Samples a second, as its own clock says.
        resets: How often the clock was set anew: blocks were lost, or the source began anew.
    """

    def __init__(self, sound: Sound, rate: float = RATE) -> None:
        self._sound, self.rate = sound, rate
        self._step = self._usual = 1 / rate
        self._next: float | None = None
        self._at = 0
        self._tail = np.zeros((3, 2), np.float32)
        self.resets = 0

    def __call__(self, samples: Samples, taken: float) -> None:
        """Take the next block.

        Args:
            samples: ``(n, 2)``, at the feed's rate.
            taken: ``time.monotonic()`` of the first one, as well as it is known.
        """
        count = len(samples)
        if not count:
            return
        error = 0.0 if self._next is None else taken - self._next
        if self._next is None or abs(error) > LOST:
            self.resets += self._next is not None
            self._next, error = taken, 0.0
            self._at = math.ceil(taken * RATE)
            self._sound.cut(self._at)
            self._tail[:] = 0
        omega = 2 * math.pi * BANDWIDTH * count * self._usual
        begin = self._next
        step = self._step + math.sqrt(2) * omega * error / count
        low, high = self._usual * (1 - SLEW), self._usual * (1 + SLEW)
        step = min(max(step, low), high)
        self._step = min(max(self._step + omega * omega * error / count, low), high)
        self._next = begin + count * step
        # The cubic needs two samples on either side, so it runs two samples behind.
        data = np.concatenate([self._tail, samples])
        self._tail = data[-3:].copy()
        end = math.ceil((begin + (count - 2) * step) * RATE)
        where = (np.arange(self._at, end) / RATE - begin) / step + 3
        if len(where):
            self._sound.put(self._at, _cubic(data, where))
            self._at = end


def _cubic(data: Samples, where: NDArray[np.float64]) -> Samples:
    """Values between samples, by Catmull and Rom.

    Args:
        data: ``(n, 2)``.
        where: Places, 1..n-2; those beside it are brought there.
    """
    left = np.clip(np.floor(where).astype(np.int64), 1, len(data) - 3)
    x = np.clip(where - left, 0, 1).astype(np.float32)[:, None]
    a, b, c, d = (data[left + k] for k in (-1, 0, 1, 2))
    return np.asarray(
        b + 0.5 * x * (c - a + x * (2 * a - 5 * b + 4 * c - d + x * (3 * (b - c) + d - a))),
        np.float32,
    )


class Decoded:
    """Turns decoded audio frames of any kind into samples.

    The times of frames are taken from the first one, and again where they jump.
    """

    def __init__(self) -> None:
        self._resampler = av.AudioResampler(format="flt", layout="stereo", rate=RATE)
        self._next: float | None = None

    def __call__(self, frame: av.AudioFrame) -> Iterator[tuple[float, Samples]]:
        """Blocks with the time of their first sample, in seconds of the stream."""
        begin = frame.time
        if begin is not None and (self._next is None or abs(begin - self._next) > LOST):
            self._next = begin
        frame.pts = None  # times are counted here; a jump is nothing to the resampler
        for made in self._resampler.resample(frame):
            samples = np.asarray(made.to_ndarray(), np.float32).reshape(-1, 2)
            if self._next is not None and len(samples):
                yield self._next, samples
                self._next += len(samples) / RATE


def audio_stream(container: Any) -> Any:
    """The first audio stream that can be decoded, None if there is none."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


class Microphone:
    """Hears through PortAudio, by the package sounddevice, in a thread of its own.

    When it is unplugged silence takes its place, and it is tried again once a second.

    Attributes:
        name: As messages call it.
        lost: How often it was gone.
    """

    def __init__(self, what: str, sound: Sound, *, module: Any = None) -> None:
        """Open it and begin to hear.

        Args:
            what: ``default``, a number, or a part of its name.
            sound: Where samples go.
            module: Instead of the package ``sounddevice``.

        Raises:
            MediaError: The package is missing, or there is no such microphone.
        """
        self.name = f"microphone {what}"
        self._what: int | str | None = what
        if what == "default":
            self._what = None
        elif what.isdecimal():
            self._what = int(what)
        self._sound, self._module = sound, module or backend()
        self._heard = time.monotonic()
        self._feed: Feed | None = None
        self._wrong = False
        self.lost = 0
        self._stream: Any = self._opened()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mien-microphone", daemon=True)
        self._thread.start()

    def _opened(self) -> Any:
        """An open stream, heard from.

        Raises:
            MediaError: It cannot be opened.
        """
        module = self._module
        try:
            known = module.query_devices(self._what, "input")
            # Some devices have one rate only; it is theirs then, and the feed resamples.
            rate = float(RATE)
            try:
                module.check_input_settings(device=self._what, channels=1, samplerate=rate)
            except (module.PortAudioError, ValueError):
                rate = float(known["default_samplerate"])
            self._feed = Feed(self._sound, rate)
            stream = module.InputStream(
                device=self._what,
                samplerate=rate,
                channels=min(2, int(known["max_input_channels"])),
                dtype="float32",
                latency="low",
                callback=self._hear,
            )
            try:
                self._heard = time.monotonic()
                stream.start()
            except BaseException:
                stream.close()
                raise
        except (module.PortAudioError, ValueError, OSError) as error:
            raise MediaError(
                f"{self.name}: cannot be opened ({error}); 'mien live --list-devices' lists them"
            ) from error
        self._wrong = False
        return stream

    def _hear(self, data: NDArray[np.float32], count: int, times: Any, status: Any) -> None:
        """Called by PortAudio, in a thread of its own.

        Args:
            data: ``(count, channels)``.
            count: Samples.
            times: When the first one was taken, on PortAudio's clock, and what that says now.
            status: Not looked at: what is lost shows in the times.
        """
        del status
        feed = self._feed
        if feed is None:
            return
        now = self._heard = time.monotonic()
        late = times.currentTime - times.inputBufferAdcTime
        if not 0 < late < 1:  # some systems do not say
            late = count / feed.rate
        samples = np.repeat(data, 2, axis=1) if data.shape[1] == 1 else data[:, :2]
        # Drivers have been seen to give what is no number.
        feed(np.clip(np.nan_to_num(samples, posinf=0, neginf=0), -1, 1), now - late)

    def _watch(self) -> None:
        """Open it again when it is gone."""
        while not self._stop.wait(GONE / 4):
            silent = time.monotonic() - self._heard
            if self._stream is not None and self._stream.active and silent < GONE:
                continue
            if self._stream is not None:
                self.lost += 1
                log.warning("%s: is gone; silence until it is back", self.name)
                self._shut()
            if self._stop.wait(GONE / 2):
                return
            try:
                refresh(self._module)
                self._stream = self._opened()
            except MediaError as error:
                log.debug("%s", error)
            else:
                log.warning("%s: is back", self.name)

    def _shut(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except self._module.PortAudioError as error:  # it is gone all the same
                log.debug("%s: %s", self.name, error)

    def close(self) -> None:
        """Stop hearing."""
        self._stop.set()
        self._thread.join(3)
        self._shut()


def backend() -> Any:
    """The package ``sounddevice``, imported when it is needed.

    Raises:
        MediaError: It is not installed, or finds no PortAudio; says what to do.
    """
    try:
        import sounddevice  # noqa: PLC0415
    except ImportError as error:
        raise MediaError(
            "microphones need the package sounddevice; install it with: pip install mien[audio]"
        ) from error
    except OSError as error:
        raise MediaError(
            f"microphones need the library PortAudio ({error}); "
            "on Debian and Ubuntu: sudo apt install libportaudio2"
        ) from error
    return sounddevice


def refresh(module: Any) -> None:
    """Let PortAudio look for devices anew: it knows those alone that it met when it began."""
    again: Callable[[], None] | None = getattr(module, "_initialize", None)
    end: Callable[[], None] | None = getattr(module, "_terminate", None)
    if again is not None and end is not None:
        end()
        again()


def microphones(module: Any = None) -> list[tuple[int, str]]:
    """Number and name of the microphones of this machine.

    Raises:
        MediaError: See :func:`backend`.
    """
    module = module or backend()
    try:
        return [
            (number, str(device["name"]))
            for number, device in enumerate(module.query_devices())
            if device["max_input_channels"] > 0
        ]
    except module.PortAudioError as error:
        raise MediaError(f"microphones cannot be listed ({error})") from error
