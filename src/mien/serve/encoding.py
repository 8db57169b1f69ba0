"""Video and sound for WebRTC: a stream's encoders, one for each format that somebody watches in.

They run in the engine's process, so that what crosses to the server's is a few kilobytes a frame
and is made once for all who watch; libx264 and libvpx let other threads run meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

import av
import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.sound import PATIENCE, RATE, Sound, place
from mien.serve.packets import H264, TICKS, VP8
from mien.types import Image

BITS_PER_PIXEL: Final = 0.15
"""Of a frame, from which the usual rate follows: 4.1 Mbit/s for 720p at 30 frames a second."""

RATES: Final = (250_000, 8_000_000)
"""Bits a second, the least and the most."""

KEY_SECONDS: Final = 0.3
"""Between two key frames that were asked for: one who loses packets must not cost all others."""

NAMES: Final = {H264: "libx264", VP8: "libvpx"}


def usual_rate(width: int, height: int, fps: float) -> int:
    """Bits a second at which such a stream looks well."""
    low, high = RATES
    return int(min(max(width * height * fps * BITS_PER_PIXEL, low), high))


class Encoder:
    """One open encoder.

    Args:
        codec: ``H264`` or ``VP8``.
        width: Pixels, even.
        height: Pixels, even.
        fps: Frames a second, about.
        rate: Bits a second.

    Raises:
        MediaError: PyAV comes without it.
    """

    def __init__(self, codec: int, width: int, height: int, fps: float, rate: int) -> None:
        self.codec, self.size, self.rate, self._most = codec, (width, height), rate, rate
        name = NAMES[codec]
        try:
            context: Any = av.CodecContext.create(name, "w")
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"{name} is not built into PyAV") from error
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, TICKS)
        context.framerate = Fraction(round(fps * 1000), 1000)
        context.bit_rate = rate
        context.gop_size = 1 << 15  # key frames come when they are asked for
        context.color_range, context.colorspace = 1, 6  # limited, BT.601: what cv2 makes
        context.thread_count = 1  # more cost the swap more than they bring
        limits = {"maxrate": str(rate), "bufsize": str(rate // 2)}
        if codec == H264:
            context.options = limits | {
                "preset": "ultrafast",  # see docs/decisions/0020-webrtc.md
                "tune": "zerolatency",
                "profile": "baseline",
                "forced-idr": "1",
            }
        else:
            context.options = limits | {
                "minrate": str(rate),
                "deadline": "realtime",
                "cpu-used": "-8",
                "lag-in-frames": "0",
                "static-thresh": "1",
            }
        self._context = context

    def __call__(self, frame: av.VideoFrame, *, key: bool) -> tuple[bytes, bool]:
        """Encode a frame; the data, and whether it is a key frame."""
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        packets = self._context.encode(frame)
        return b"".join(map(bytes, packets)), any(p.is_keyframe for p in packets)

    def at(self, rate: int) -> bool:
        """Go on at another rate; False where it has to be opened anew for that."""
        if abs(rate - self.rate) < 0.15 * self.rate:
            return True
        if self.codec != H264 or rate > self._most:
            return False
        self._context.bit_rate = rate  # libx264 looks at it before each frame
        self.rate = rate
        return True


class Encodings:
    """The encoders of one stream. Any thread may ask; one encodes.

    Attributes:
        share: Of the usual rate, 0.1 to 1; lower while somebody's line is full.
    """

    def __init__(self) -> None:
        self.share = 1.0
        self._wanted: frozenset[int] = frozenset()
        self._keys: set[int] = set()
        self._keyed: dict[int, float] = {}
        self._encoders: dict[int, Encoder] = {}
        self._last = -1

    @property
    def wanted(self) -> bool:
        """Whether anybody watches."""
        return bool(self._wanted)

    @property
    def count(self) -> int:
        """Encoders that are open."""
        return len(self._encoders)

    def watch(self, counts: Mapping[str, int]) -> None:
        """Learn how many watch in each format; who is new needs a key frame."""
        names = {"h264": H264, "vp8": VP8}
        self._wanted = frozenset(c for name, c in names.items() if counts.get(name, 0) > 0)

    def key(self, codec: int) -> None:
        """Make the next frame one that can be understood alone, unless one was made just now."""
        self._keys.add(codec)

    def __call__(self, image: Image, stamp: int, fps: float) -> Iterator[tuple[int, bool, bytes]]:
        """Encode a frame in all formats that are wanted.

        Args:
            image: ``(H, W, 3)`` uint8 RGB; an odd row or column is left away.
            stamp: Of the frame, in ticks of 1/90000 s; frames that are not newer are left out.
            fps: Frames a second, about.

        Yields:
            Format, whether it is a key frame, data.

        Raises:
            MediaError: PyAV comes without the encoder.
        """
        wanted = self._wanted
        for codec in set(self._encoders) - wanted:
            del self._encoders[codec]
        if stamp <= self._last:
            return
        self._last = stamp
        height, width = image.shape[0] & ~1, image.shape[1] & ~1
        planes = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2YUV_I420)
        frame = av.VideoFrame.from_ndarray(np.asarray(planes, np.uint8), "yuv420p")
        frame.pts, frame.time_base = stamp, Fraction(1, TICKS)
        frame.color_range, frame.colorspace = 1, 6
        usual = usual_rate(width, height, fps)
        rate = int(max(usual * self.share, RATES[0] / 2))
        for codec in wanted:
            encoder = self._encoders.get(codec)
            if encoder is None or encoder.size != (width, height) or not encoder.at(rate):
                most = usual if codec == H264 else rate
                encoder = self._encoders[codec] = Encoder(codec, width, height, fps, most)
                encoder.at(rate)
                self._keyed[codec] = 0.0
            data, key = encoder(frame, key=self._is_due(codec))
            if data:
                yield codec, key, data

    def free(self) -> None:
        """Free the encoders; called by who encodes."""
        self._encoders.clear()

    def _is_due(self, codec: int) -> bool:
        now = time.monotonic()
        if codec not in self._keys or now - self._keyed.get(codec, 0.0) < KEY_SECONDS:
            return False
        self._keys.discard(codec)
        self._keyed[codec] = now
        return True


BLOCK: Final = RATE // 50
"""Samples in a packet of sound, 20 ms."""


class Voice:
    """Sound beside the server's camera, as Opus (RFC 6716), as far as the picture is.

    Args:
        sound: What is heard.
    """

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self._next = 0
        self._context: Any = None

    def __call__(self, taken: float) -> Iterator[tuple[int, bytes]]:
        """Encode what was heard up to the time of a frame.

        Args:
            taken: ``time.monotonic()`` of the frame.

        Yields:
            Number of the first sample, and 20 ms of sound.

        Raises:
            MediaError: PyAV comes without the encoder.
        """
        if self._context is None:
            self._context = self._opened()
        until, late = place(taken), round(PATIENCE * RATE)
        if not until - 2 * late < self._next <= until:
            self._next = until - BLOCK
        # What comes late is waited for, for a while; then silence takes its place.
        until = max(min(until, self._sound.newest), until - late)
        while self._next + BLOCK <= until:
            samples = self._sound.read(self._next, self._next + BLOCK)
            data = np.ascontiguousarray((samples * 32767).astype(np.int16).reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(data, "s16", "stereo")
            frame.sample_rate, frame.pts = RATE, self._next
            frame.time_base = Fraction(1, RATE)
            for packet in self._context.encode(frame):
                yield self._next, bytes(packet)
            self._next += BLOCK

    def free(self) -> None:
        """Free the encoder."""
        self._context = None

    @staticmethod
    def _opened() -> Any:
        try:
            context: Any = av.CodecContext.create("libopus", "w")
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError("libopus is not built into PyAV") from error
        context.sample_rate, context.layout, context.format = RATE, "stereo", "s16"
        context.bit_rate = 96_000
        context.options = {"application": "audio", "frame_duration": "20"}
        return context
