"""Cameras of browsers: each has a state of its own, and they take turns."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mien.errors import MediaError, MienError
from mien.live.types import Shown
from mien.media.jpeg import decode_jpeg
from mien.serve import pictures, protocol
from mien.serve.options import Boxes
from mien.serve.shared import Board, Gone, Link
from mien.types import Frame

log = logging.getLogger(__name__)


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


class Visitors:
    """Swaps the pictures of all browser cameras in one thread, in turn.

    A camera is queued when it has a new picture, and at most once; so each gets one frame before
    any gets its second, and the newest is taken when its turn comes.

    Args:
        board: Mailboxes.
        link: To the server's process.
        boxes: Whose mailbox is which.
        perform: Makes what swaps for one camera; None turns them away.
        quality: Of JPEGs.
    """

    def __init__(
        self,
        board: Board,
        link: Link,
        boxes: Boxes,
        perform: Callable[[], Perform] | None,
        quality: int,
    ) -> None:
        self._board, self._link, self._boxes = board, link, boxes
        self._make, self._quality = perform, quality
        self._visits: dict[int, Perform] = {}
        self._turns: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mien-visitors", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """Browser cameras that are open."""
        return len(self._visits)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Queue what the server's process says of a browser camera."""
        self._turns.put(message)

    def close(self) -> None:
        """Stop; a frame being swapped is finished."""
        self._turns.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

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
                self._say(session, "error", message="the picture could not be swapped")

    def _turn(self, kind: str, session: Any, message: Mapping[str, Any]) -> None:
        match kind:
            case "open":
                if self._make is None:
                    raise MediaError("this server takes no cameras of browsers")
                visit = self._visits[session] = self._make()
                self._settings(session, visit)
            case "close":
                self._visits.pop(session, None)
                self._link.send("closed", session=session)
            case "set" if session in self._visits:
                try:
                    self._visits[session].change(message["values"])
                finally:
                    self._settings(session, self._visits[session])
            case "frame" if session in self._visits:
                self._swap(session, self._visits[session])

    def _swap(self, session: int, visit: Perform) -> None:
        inward, outward = self._boxes.of(session)
        taken = self._board.take(inward)
        if taken is None:
            return
        arrived = int.from_bytes(taken[1][:8], "little") / 1e6
        header, _, jpeg = protocol.unpack(taken[1][8:])
        image = decode_jpeg(jpeg, max_pixels=protocol.MAX_PIXELS)
        shown = visit(Frame(image, header.frame), arrived)
        message = pictures.message(
            shown,
            header.frame,
            header.captured,
            quality=self._quality,
            limit=protocol.MAX_MESSAGE,
        )
        if self._board.post(outward, message):
            self._link.send("frame", session=session)

    def _settings(self, session: int, visit: Perform) -> None:
        values, choices = visit.settings(), visit.choices()
        self._say(session, "settings", values=values, choices=choices)

    def _say(self, session: Any, kind: str, **values: Any) -> None:
        self._link.send("answer", session=session, words={"kind": kind, **values})
