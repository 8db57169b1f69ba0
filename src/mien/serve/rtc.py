"""WebRTC in the server's process: a connection to one browser, by aiortc.

Video is encoded elsewhere (:mod:`mien.serve.encoding`); here packets are only cut up, encrypted
and sent. What comes from a browser's camera is decoded here, since aiortc does it in a thread
of its own and native code, and its pixels go to a mailbox.

aiortc has no public way to six things: where ICE listens, requests for key frames, the
receiver's estimate of the line, the origin of a track's time stamps, frames as soon as they are
there, and how large a picture may be. The end of this file reaches for them, which is why its
version is pinned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from types import MethodType
from typing import Any, Final

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
    rtcrtpreceiver,
)
from aiortc.codecs import get_decoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpSrPacket,
    unpack_remb_fci,
)
from aiortc.sdp import SessionDescription

from mien.errors import UsageError
from mien.serve.options import IceServer
from mien.serve.packets import KEY, NAMES, SOUND_TICKS, SWAPPED, TICKS, Packet
from mien.serve.protocol import MAX_PIXELS

log = logging.getLogger(__name__)

WAITING: Final = 12
"""Packets that may wait for one peer; with more it starts anew at a key frame."""

CONNECT_SECONDS: Final = 10.0
"""Within which a browser must have connected after its offer was answered."""

GATHER_SECONDS: Final = 8.0
"""For finding our own addresses; a STUN or TURN server may be asked on the way."""

SHARES: Final = (0.1, 1.0)
"""Of the usual rate that a line can be slowed to."""

NTP_EPOCH: Final = 2_208_988_800
"""Seconds between 1900, from which NTP counts, and 1970."""


class Outgoing(MediaStreamTrack):
    """A track of packets that were encoded elsewhere.

    Args:
        kind: ``video`` or ``audio``.
        lost: Called when a key frame is needed.
        done: Called when a packet was sent whole.
    """

    def __init__(self, kind: str, lost: Callable[[], None], done: Callable[[], None]) -> None:
        super().__init__()
        self.kind = kind
        self._lost, self._done = lost, done
        self._base = Fraction(1, TICKS if kind == "video" else SOUND_TICKS)
        self._packets: deque[Packet] = deque()
        self._came = asyncio.Event()
        self._whole = kind == "audio"
        self.last: int | None = None
        self.sent = 0

    def push(self, packet: Packet) -> None:
        """Send this next; where too many wait, all are left out up to the next key frame."""
        if self.kind == "video":
            if len(self._packets) >= WAITING:
                self._packets.clear()
                self._whole = False
                self._lost()
            if not self._whole and not packet.flags & KEY:
                return
            self._whole = True
        elif len(self._packets) >= WAITING:
            self._packets.popleft()
        self._packets.append(packet)
        self._came.set()

    async def recv(self) -> av.Packet[Any]:
        """The next packet; what aiortc's sender asks for when it sent the one before."""
        if self.last is not None:
            self._done()
        if self.readyState != "live":
            raise MediaStreamError
        while not self._packets:
            self._came.clear()
            await self._came.wait()
            if self.readyState != "live":
                raise MediaStreamError
        packet = self._packets.popleft()
        out = av.Packet(packet.data)
        out.pts, out.time_base = packet.stamp, self._base
        self.last = packet.stamp
        self.sent += len(packet.data)
        return out

    def stop(self) -> None:
        """End; who waits for a packet is told."""
        super().stop()
        self._packets.clear()
        self._came.set()


class Peer:
    """One browser's connection. All methods are called in the loop's thread.

    Args:
        says: Takes words for the browser, a kind and values.
        asks: Takes words for the engine: ``key``, ``share``.
        frame: Takes decoded frames of the browser's camera, with their stamp in ticks.
        watches: Called when the peer starts or ends watching.

    Attributes:
        codec: In which it watches, ``h264`` or ``vp8``; empty until it is connected.
        share: Of the usual rate that its line bears.
    """

    def __init__(
        self,
        servers: tuple[IceServer, ...],
        *,
        says: Callable[..., None],
        asks: Callable[..., None],
        frame: Callable[[av.VideoFrame, int], None],
        watches: Callable[[], None],
    ) -> None:
        bound_decoders()
        ice = [RTCIceServer(s.url, s.username or None, s.credential or None) for s in servers]
        # Without a list aiortc asks a public STUN server.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=ice))
        self._servers = servers
        self._says, self._asks, self._frame, self._watches = says, asks, frame, watches
        self._negotiated = self.codec = ""
        self.sound = False
        self.share = 1.0
        self.closed = False
        self._video = Outgoing("video", self._lost, self._sent)
        self._audio: Outgoing | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._origin: int | None = None
        self._swapped: bool | None = None
        self._estimate: int | None = None
        self._measured, self._counted = 0, time.monotonic()

    async def answer(self, offer: str, host: str, *, camera: bool, sound: bool) -> str:
        """Take a browser's offer.

        Args:
            offer: SDP.
            host: Where the page is served; ICE listens there, too, unless servers are named.
            camera: Whether the browser sends a picture, too.
            sound: Whether there is sound to be sent.

        Returns:
            Our answer, with all our addresses.

        Raises:
            UsageError: It is no offer, or not of this kind.
        """
        try:
            parsed = SessionDescription.parse(without_candidates(offer, keep=bool(self._servers)))
            kinds = [media.kind for media in parsed.media]
        except Exception as error:  # the parser raises whatever Python raises
            raise UsageError("the offer is no SDP") from error
        if kinds not in (["video"], ["video", "audio"]):
            raise UsageError("expected an offer of one video and at most one sound")
        connection = self._connection
        connection.on("connectionstatechange", self._changed)
        if camera:
            connection.on("track", self._tracked)
        try:
            description = RTCSessionDescription(str(parsed), "offer")
            await connection.setRemoteDescription(description)
            connection.addTrack(self._video)
            if sound and "audio" in kinds:
                self._audio = Outgoing("audio", lambda: None, lambda: None)
                connection.addTrack(self._audio)
                self.sound = True
            answer = await connection.createAnswer()
            # Who names a STUN or TURN server wants to be reached from elsewhere.
            for transceiver in connection.getTransceivers() if not self._servers else ():
                listen_at(transceiver.receiver.transport.transport, host)
            async with asyncio.timeout(GATHER_SECONDS):
                await connection.setLocalDescription(answer)
        except (UsageError, TimeoutError):
            raise
        except Exception as error:  # of a parser fed by a stranger
            log.debug("an offer failed", exc_info=True)
            raise UsageError("the offer cannot be answered") from error
        local = connection.localDescription.sdp
        codecs = SessionDescription.parse(local).media[0].rtp.codecs
        name = codecs[0].name.lower() if codecs else ""
        if name not in NAMES:
            raise UsageError("expected an offer with H.264 or VP8")
        self._negotiated = name
        for transceiver in connection.getTransceivers():
            if transceiver.kind == "video":
                self._sender, self._receiver = transceiver.sender, transceiver.receiver
                overhear(self._sender, self._heard)
                overhear(self._receiver, self._told)
                be_prompt(self._receiver)
        self._start(self._limit())
        return str(local)

    def push(self, packet: Packet) -> None:
        """Send an encoded frame."""
        if packet.codec == NAMES["opus"]:
            if self._audio is not None:
                self._audio.push(packet)
        elif packet.codec == NAMES.get(self.codec):
            self._video.push(packet)
            if self._swapped != bool(packet.flags & SWAPPED):
                self._swapped = bool(packet.flags & SWAPPED)
                self._says("swapped", on=self._swapped)

    async def close(self) -> None:
        """Free everything; may be called twice."""
        if self.closed:
            return
        self.closed = True
        self.codec = ""
        self._video.stop()
        if self._audio is not None:
            self._audio.stop()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                await self._connection.close()
        self._watches()

    # --- the connection ------------------------------------------------------------------------

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _limit(self) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if not self.codec:
            await self._lose("the browser did not connect")

    async def _lose(self, why: str) -> None:
        if not self.closed:
            self._says("peer", state="failed", message=why)
            await self.close()

    async def _changed(self) -> None:
        match self._connection.connectionState:
            case "connected" if not self.closed:
                self.codec = self._negotiated
                self._watches()
                self._lost()
                self._says("peer", state="connected", codec=self.codec)
            case "failed" | "closed":
                await self._lose("the connection was lost")

    def _lost(self) -> None:
        if self.codec:
            self._asks("key", codec=NAMES[self.codec])

    def _tracked(self, track: MediaStreamTrack) -> None:
        if track.kind == "video":
            self._start(self._take(track))

    async def _take(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, av.VideoFrame) and frame.pts is not None:
                    self._frame(frame, frame.pts)

    # --- what is overheard ---------------------------------------------------------------------

    def _heard(self, packet: Any) -> None:
        """What a browser says of the picture that it gets."""
        lost = 0.0
        if isinstance(packet, RtcpPsfbPacket):
            if packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._lost()
            elif packet.fmt == RTCP_PSFB_APP:
                with contextlib.suppress(ValueError):
                    self._estimate = unpack_remb_fci(packet.fci)[0]
            return
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket) and packet.reports:
            lost = max(report.fraction_lost for report in packet.reports) / 256
        now = time.monotonic()
        if now - self._counted < 0.9:
            return
        sent = 8 * (self._video.sent - self._measured) / (now - self._counted)
        self._measured, self._counted = self._video.sent, now
        share = adapted(self.share, sent, self._estimate, lost)
        if share != self.share:
            self.share = share
            self._asks("share")

    def _told(self, packet: Any) -> None:
        """When the browser's camera took what it sends (RFC 3550, section 6.4.1)."""
        if isinstance(packet, RtcpSrPacket):
            origin = origin_in(self._receiver)
            info = packet.sender_info
            if origin is not None:
                wall = (info.ntp_timestamp / 2**32 - NTP_EPOCH) * 1000
                stamp = (info.rtp_timestamp - origin) % 2**32
                self._says("taken", stamp=stamp, wall=wall)

    def _sent(self) -> None:
        """Once a packet is sent it is known where the time stamps of the track begin."""
        if self._origin is None and self._video.last is not None:
            self._origin = origin_out(self._sender, self._video.last)
            self._says("stamps", origin=self._origin)


def adapted(share: float, sent: float, estimate: int | None, lost: float) -> float:
    """The share of the usual rate that a line bears.

    A browser's estimate grows only with what it gets, so a picture in which nothing moves has a
    low one; it counts only where it is below what was sent.

    Args:
        share: Until now.
        sent: Bits a second, over the last second.
        estimate: Of the receiver, bits a second; None if it said nothing.
        lost: Share of packets, 0 to 1.
    """
    low, high = SHARES
    if lost > 0.1:
        share *= 0.7
    elif estimate is not None and estimate < 0.9 * sent:
        share *= max(0.5, 0.9 * estimate / sent)
    else:
        share *= 1.1
    return round(min(max(share, low), high), 3)


def without_candidates(offer: str, *, keep: bool) -> str:
    """An offer without addresses.

    The browser finds us by ours, and is answered where it came from; so nobody can make this
    process send to an address that he writes into an offer, and no name ending in ``.local``
    has to be looked for.

    Args:
        offer: SDP.
        keep: All but names, since a TURN server has to be told of the other side.
    """
    lines = []
    for line in offer.splitlines():
        if line.startswith("a=candidate:") and not (keep and ".local" not in line):
            continue
        if line.startswith("a=end-of-candidates") and not keep:
            continue
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"


# --- what aiortc 1.16 does not offer --------------------------------------------------------------


def listen_at(transport: Any, host: str) -> None:
    """Let ICE listen at one address alone; at all of them where the page does."""
    if host in ("0.0.0.0", "::"):
        return
    address = "127.0.0.1" if host == "localhost" else host
    connection = transport.iceGatherer._connection
    gather = type(connection).get_component_candidates

    async def get(self: Any, component: int, addresses: list[str], timeout: int = 5) -> Any:
        del addresses
        return await gather(self, component, [address], timeout)

    connection.get_component_candidates = MethodType(get, connection)


def overhear(recipient: Any, heard: Callable[[Any], None]) -> None:
    """Hear what a sender or a receiver is told by RTCP."""
    handle = type(recipient)._handle_rtcp_packet

    async def both(self: Any, packet: Any) -> None:
        heard(packet)
        await handle(self, packet)

    recipient._handle_rtcp_packet = MethodType(both, recipient)


class Prompt(JitterBuffer):
    """Gives a frame when its last packet is there, and not when the next frame begins.

    The last packet of a frame is marked (RFC 6184, section 5.1; RFC 7741, section 4.1).
    """

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        del sequence_number
        packets: list[Any] = []
        for count in range(self._capacity):
            packet = self._packets[((self._origin or 0) + count) % self._capacity]
            if packet is None:
                return None
            ended = bool(packets) and packet.timestamp != packets[0].timestamp
            if not ended:
                packets.append(packet)
            if ended or packet.marker:
                self.remove(count if ended else count + 1)
                return JitterFrame(b"".join(p._data for p in packets), packets[0].timestamp)
        return None


def be_prompt(receiver: Any) -> None:
    """Let a receiver decode frames as soon as they are whole; aiortc waits for the next one."""
    receiver._RTCRtpReceiver__jitter_buffer = Prompt(capacity=512, is_video=True)


class Bounded:
    """Decodes no picture that is much larger than may come; aiortc's own take any size.

    A stranger's few bytes may say that they are a picture of 16,000 pixels square. Decoders make
    room for whole blocks, so a quarter more is let through, which is looked at afterwards.

    Args:
        name: Of the codec: ``h264`` or ``vp8``, libavcodec's own, which look at the size first.
    """

    def __init__(self, name: str) -> None:
        self._codec: Any = av.CodecContext.create(name, "r")
        self._codec.options = {"max_pixels": str(MAX_PIXELS * 5 // 4)}

    def decode(self, frame: JitterFrame) -> list[Any]:
        """The pictures of a frame.

        Raises:
            av.FFmpegError: It is none, or too large.
        """
        packet = av.Packet(frame.data)
        packet.pts, packet.time_base = frame.timestamp, Fraction(1, TICKS)
        return list(self._codec.decode(packet))


def bound_decoders() -> None:
    """Let receivers of this process decode with :class:`Bounded`."""
    receivers: Any = rtcrtpreceiver
    receivers.get_decoder = _decoder


def _decoder(codec: Any) -> Any:
    name = codec.mimeType.lower().removeprefix("video/")
    return Bounded(name) if name in ("h264", "vp8") else get_decoder(codec)


def origin_out(sender: Any, last: int) -> int:
    """What is added to the stamps of packets that are sent.

    Args:
        sender: After it sent a packet whole, and before it sends another.
        last: Stamp of that packet.
    """
    return int(sender._RTCRtpSender__rtp_timestamp - last) % 2**32


def origin_in(receiver: Any) -> int | None:
    """What is taken from the stamps of packets that come; None before the first."""
    origin: int | None = receiver._RTCRtpReceiver__timestamp_mapper._origin
    return origin
