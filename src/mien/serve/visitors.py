"""Cameras of browsers: each has a state of its own, and they take turns."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Protocol

import cv2
import numpy as np

from mien.errors import MediaError, MienError
from mien.live.counting import Ages, Rate
from mien.live.types import Shown
from mien.media.jpeg import decode_jpeg
from mien.pipeline import brisk
from mien.serve import pictures, protocol
from mien.serve.encoding import Encodings
from mien.serve.options import Boxes
from mien.serve.packets import KEY, SWAPPED, TICKS, Packet, Packets
from mien.serve.shared import Board, Gone, Link
from mien.types import Frame, Image

log = logging.getLogger(__name__)

TELL_SECONDS: Final = 0.5
"""Between two reports of how a camera fares."""


class Perform(Protocol):
    """Swaps the pictures of one browser camera; it holds all that lasts from frame to frame."""

    def __call__(self, frame: Frame, taken: float) -> Shown:
        """Swap and mark a frame.

        Args:
            frame: Given away.
            taken: ``time.monotonic()`` at which it arrived.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Setting → its value."""
        ...

    def choices(self) -> dict[str, list[Any]]:
        """Setting → the values it may take; ``[low, high]`` for a number."""
        ...

    def change(self, values: Mapping[str, Any]) -> None:
        """Change some settings of this camera alone; errors as those of ``Controls``."""
        ...


@dataclass(slots=True)
class _Visit:
    """One browser camera.

    Attributes:
        perform: Swaps its pictures.
        serial: Of the camera.
        encodings: Of what it gets by WebRTC.
        made: What was swapped and is not sent yet, with the header that it came under.
        ages: Of what was sent, from its arrival.
        sent: How often something was.
        swapped: Pictures in which a face was replaced.
        told: Seconds, when figures were last told.
        last: Seconds, when the last frame came.
        interval: Seconds between two frames, about.
    """

    perform: Perform
    serial: int
    encodings: Encodings = field(default_factory=Encodings)
    made: tuple[Shown, protocol.Header, bool] | None = None
    last: float = 0.0
    interval: float = 1 / 30
    ages: Ages = field(default_factory=Ages)
    sent: Rate = field(default_factory=Rate)
    swapped: int = 0
    told: float = 0.0


class Visitors:
    """Swaps the pictures of all browser cameras in one thread, in turn; another encodes them.

    A camera is queued when it has a new picture, and at most once; so each gets one frame before
    any gets its second, and the newest is taken when its turn comes.

    Args:
        board: Mailboxes.
        link: To the server's process.
        packets: To the server's process, for video.
        boxes: Whose mailbox is which.
        perform: Makes what swaps for one camera, from what the server's process says about it;
            None turns them away.
        quality: Of JPEGs.
    """

    def __init__(
        self,
        board: Board,
        link: Link,
        packets: Packets,
        boxes: Boxes,
        *,
        perform: Callable[[Mapping[str, Any]], Perform] | None,
        quality: int,
    ) -> None:
        self._board, self._link, self._packets, self._boxes = board, link, packets, boxes
        self._make, self._quality = perform, quality
        self._visits: dict[int, _Visit] = {}
        self._turns: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._made: queue.Queue[int | None] = queue.Queue()
        # Held while something is sent, so that nothing is sent once a camera is closed.
        self._sending = threading.Lock()
        self._threads = [
            threading.Thread(target=work, name=f"mien-{name}", daemon=True)
            for work, name in ((self._work, "visitors"), (self._send_all, "encoding"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """Browser cameras that are open."""
        return len(self._visits)

    @property
    def encoders(self) -> int:
        """Encoders that are open."""
        return sum(visit.encodings.count for visit in list(self._visits.values()))

    def hear(self, message: Mapping[str, Any]) -> None:
        """Queue what the server's process says of a browser camera."""
        self._turns.put(message)

    def close(self) -> None:
        """Stop; a frame being swapped is finished."""
        self._turns.put(None)
        self._made.put(None)
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join(10)
        self._visits.clear()  # whose end is written down when they are gone

    @brisk()
    def _work(self) -> None:
        while (message := self._turns.get()) is not None:
            session = message.get("session")
            try:
                self._turn(str(message["kind"]), session, message)
            except MienError as error:
                if isinstance(error, Gone):
                    return
                self._say(session, "error", message=str(error))
            except Exception:
                log.exception("a browser camera failed")
                self._visits.pop(session if isinstance(session, int) else -1, None)
                self._link.send(
                    "failed", session=session, message="the picture could not be swapped"
                )

    def _turn(self, kind: str, session: Any, message: Mapping[str, Any]) -> None:
        visit = self._visits.get(session)
        match kind:
            case "open":
                if self._make is None:
                    raise MediaError("this server takes no cameras of browsers")
                try:
                    made = self._make(message["about"])
                except MienError as error:
                    self._link.send("failed", session=session, message=str(error))
                    return
                visit = self._visits[session] = _Visit(made, message["serial"])
                self._settings(session, visit.perform)
            case "ping":  # answered in turn, so that work that hangs is noticed
                self._link.send("pong")
            case "close":
                with self._sending:
                    self._visits.pop(session, None)
                self._link.send("closed", session=session)
            case "set" if visit is not None:
                self._change(session, visit.perform, message)
            case "watch" if visit is not None:
                visit.encodings.watch(message["counts"])
            case "key" if visit is not None:
                visit.encodings.key(message["codec"])
            case "share" if visit is not None:
                visit.encodings.share = message["share"]
            case "frame" if visit is not None:
                self._swap(session, visit)

    def _change(self, session: int, perform: Perform, message: Mapping[str, Any]) -> None:
        error = ""
        try:
            perform.change(message["values"])
        except MienError as refused:
            if "ask" not in message:
                raise
            error = str(refused)
        finally:
            self._settings(session, perform)
        if "ask" in message:
            self._link.send("changed", ask=message["ask"], error=error)

    def _swap(self, session: int, visit: _Visit) -> None:
        taken = self._board.take(self._boxes.of(session)[0])
        if taken is None:
            return
        arrived = int.from_bytes(taken[1][:8], "little") / 1e6
        message = memoryview(taken[1])[8:]
        decoded = message[5] == protocol.DECODED
        if decoded:
            header, _, data = protocol.unpack(message, protocol.DECODED)
            image = from_planes(data, header.width, header.height)
        else:
            header, _, data = protocol.unpack(message)
            image = decode_jpeg(bytes(data), max_pixels=protocol.MAX_PIXELS)
        ticks = round(arrived * TICKS)
        shown = visit.perform(Frame(image, header.frame, ticks, Fraction(1, TICKS)), arrived)
        visit.made = (shown, header, decoded)  # in place of one that waits
        self._made.put(session)

    def _send_all(self) -> None:
        while (session := self._made.get()) is not None:
            with self._sending:
                try:
                    self._send(session)
                except MienError as error:
                    if isinstance(error, Gone):
                        return
                    self._say(session, "error", message=str(error))
                except Exception:
                    log.exception("a picture could not be encoded")
                    self._say(session, "error", message="the picture could not be encoded")

    def _send(self, session: int) -> None:
        # In a function of its own, so that nothing is held of a camera that is gone.
        visit = self._visits.get(session)
        if visit is None or visit.made is None:
            return
        (shown, header, decoded), visit.made = visit.made, None
        if decoded:
            self._send_video(visit, shown, header.captured)
        else:
            self._send_picture(session, shown, header)
        self._tell(session, visit, shown)

    def _tell(self, session: int, visit: _Visit, shown: Shown) -> None:
        """Count what was sent; twice a second the server's process is told."""
        now = time.monotonic()
        visit.ages.add(now - shown.taken)
        visit.sent.add()
        visit.swapped += shown.swapped > 0
        if now - visit.told < TELL_SECONDS:
            return
        visit.told = now
        p50, p95 = visit.ages.recent(50, 95)
        self._link.send(
            "fares",
            session=session,
            fps=visit.sent.recent(),
            age_p50=p50,
            age_p95=p95,
            frames=visit.sent.count,
            swapped=visit.swapped,
            faces=len(shown.faces),
        )

    def _send_picture(self, session: int, shown: Shown, header: protocol.Header) -> None:
        message = pictures.message(
            shown,
            header.frame,
            header.captured,
            quality=self._quality,
            limit=protocol.MAX_MESSAGE,
        )
        if self._board.post(self._boxes.of(session)[1], message):
            self._link.send("frame", session=session)

    def _send_video(self, visit: _Visit, shown: Shown, stamp: int) -> None:
        passed, visit.last = shown.taken - visit.last, shown.taken
        if passed < 1:
            visit.interval += 0.1 * (passed - visit.interval)
        image = shown.marked.frame.image
        for codec, key, data in visit.encodings(image, stamp, 1 / max(visit.interval, 0.016)):
            flags = (KEY if key else 0) | (SWAPPED if shown.swapped else 0)
            self._packets.send(Packet(visit.serial, codec, flags, stamp, data))

    def _settings(self, session: int, visit: Perform) -> None:
        values, choices = visit.settings(), visit.choices()
        self._say(session, "settings", values=values, choices=choices)

    def _say(self, session: Any, kind: str, **values: Any) -> None:
        self._link.send("answer", session=session, words={"kind": kind, **values})


def from_planes(data: bytes | memoryview, width: int, height: int) -> Image:
    """``(height, width, 3)`` uint8 RGB of Y, U and V planes in 4:2:0: BT.601, limited range.

    Raises:
        MediaError: It is not that many bytes, or a side is odd.
    """
    if width % 2 or height % 2 or len(data) != width * height * 3 // 2 or not len(data):
        raise MediaError(f"{len(data)} bytes are no decoded picture of {width}x{height}")
    planes = np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420), np.uint8)
