"""Encoded video and sound on their way from the engine's process to the server's: a pipe.

Unlike pictures, packets may not be left out, so they have no mailbox. Where the server's process
does not keep up the pipe fills, the engine's output waits, and frames are left out before they
are encoded.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

H264, VP8, OPUS = 1, 2, 3
"""Formats."""

NAMES: Final = {"h264": H264, "vp8": VP8, "opus": OPUS}

TICKS: Final = 90_000
"""In a second of a video's time stamps (RFC 6184, section 5.1)."""

SOUND_TICKS: Final = 48_000
"""In a second of the sound's (RFC 7587, section 4.1)."""

KEY, SWAPPED = 1, 2
"""Flags: it can be understood alone; at least one face was replaced."""

_HEAD: Final = struct.Struct("<IBBxxq")


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded frame.

    Attributes:
        serial: Of a browser camera, from 1, never used again; 0 is the server's camera.
        codec: ``H264``, ``VP8`` or ``OPUS``.
        flags: ``KEY``, ``SWAPPED``.
        stamp: When it was captured, in ticks.
        data: H.264 as a stream of bytes with start codes (annex B).
    """

    serial: int
    codec: int
    flags: int
    stamp: int
    data: bytes


class Packets:
    """One end of the pipe; any thread may send.

    Args:
        connection: The end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, packet: Packet) -> None:
        """Send, and wait while the pipe is full; nothing happens where the other end is gone."""
        head = _HEAD.pack(packet.serial, packet.codec, packet.flags, packet.stamp)
        try:
            with self._sending:
                self._connection.send_bytes(head + packet.data)
        except OSError:
            return

    def __iter__(self) -> Iterator[Packet]:
        """Packets until the other end closes."""
        while True:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                return
            serial, codec, flags, stamp = _HEAD.unpack_from(message)
            yield Packet(serial, codec, flags, stamp, message[_HEAD.size :])

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
