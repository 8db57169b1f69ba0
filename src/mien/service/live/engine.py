"""The server's end of the process that swaps the pictures of live sessions."""

from __future__ import annotations

import asyncio
import errno
import logging
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mien.serve.hub import Hub
from mien.serve.options import Boxes, PageOptions, new_token
from mien.serve.packets import Packet, Packets
from mien.serve.shared import SLOTS, Board, Link
from mien.service.live.session import Session
from mien.service.problems import Problem

if TYPE_CHECKING:
    from mien.service.asking import Service

log = logging.getLogger(__name__)

PLACES: Final = 16
"""Sessions of one server at a time."""


SOCKETS: Final = 4 * PLACES
"""Sockets of one server at a time, with those that have not said their ticket yet."""


PREPARE_SECONDS: Final = 15.0


HANGS: Final = 30.0
"""Seconds without an answer after which the engine's process is ended."""


WAITING_PACKETS: Final = 32
"""Of video that may wait for the loop; then the pipe fills, and frames are left out."""


class Engine:
    """The server's end of one process that swaps, and of who is connected to it.

    Args:
        service: Whose settings it works by.
        work: What the process runs.
        heard: Takes what the process says, in the loop.
        gone: Called in the loop when the process has ended.

    Attributes:
        hub: Who is connected.
        ready: Done when the process can swap.
        process: It.
        answered: ``time.monotonic()`` at which it last did.
        places: Sockets that there is shared memory for.
    """

    def __init__(
        self,
        service: Service,
        work: Callable[..., None],
        heard: Callable[[Engine, dict[str, Any]], None],
        gone: Callable[[Engine], None],
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._service, self._work, self._heard, self._gone = service, work, heard, gone
        host = service.settings.host
        self.places = _places()
        self.answered = time.monotonic()
        self._options = PageOptions(
            host,
            0,
            new_token(),
            sessions=self.places,
            clients=SOCKETS,
            webrtc=find_spec("aiortc") is not None,
            peers=PLACES,
            ice=service.settings.ice,
        )
        self.ready: asyncio.Future[None] = loop.create_future()
        self.asked: dict[int, asyncio.Future[None]] = {}
        self.hub: Hub
        self.process: BaseProcess

    def start(self) -> None:
        """Start the process; called in a thread of its own.

        Raises:
            OSError: There is no memory to share, or no process to be had.
        """
        context = multiprocessing.get_context("spawn")
        if not self.places:
            raise OSError(errno.ENOSPC, "there is too little shared memory in /dev/shm")
        lock, sizes = context.Lock(), Boxes(self.places).sizes
        self._board = Board(sizes, lock)
        ours, theirs = context.Pipe()
        packets_in, packets_out = context.Pipe(duplex=False)
        self._link, self._packets = Link(ours), Packets(packets_in)
        service = self._service
        self.process = context.Process(
            target=self._work,
            args=(
                service.settings,
                service.chain,
                sizes,
                lock,
                self._board.name,
                (theirs, packets_out),
            ),
            name="mien-live",
            daemon=True,
        )
        self.process.start()
        theirs.close()  # so that its end is seen when it dies
        packets_out.close()
        self.hub = Hub(self._options, self._board, self._link)
        for run, name in ((self._hear, "link"), (self._carry, "packets")):
            threading.Thread(target=run, name=f"mien-live-{name}", daemon=True).start()

    def send(self, kind: str, **values: Any) -> None:
        """Tell the process something."""
        self._link.send(kind, **values)

    def look(self) -> None:
        """End the process if it does not answer any more; else ask it again."""
        if not self.ready.done() or self.ready.exception() is not None:
            self.answered = time.monotonic()
        elif time.monotonic() - self.answered > HANGS:
            log.error("the engine of live did not answer for %.0f s", HANGS)
            self.process.kill()
        else:
            self.send("ping")

    async def prepare(self, session: Session) -> None:
        """Let the process take up a session.

        Raises:
            MienError: It may not be.
            Problem: 503: the process does not answer.
        """
        ask = 1 + max(self.asked, default=0)
        answer = self.asked[ask] = self._loop.create_future()
        try:
            self.send("prepare", ask=ask, said=session.said())
            async with asyncio.timeout(PREPARE_SECONDS):
                await answer
        except TimeoutError:
            raise Problem(503, "live", "the engine does not answer", retry_after=5) from None
        finally:
            del self.asked[ask]

    def _hear(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            for message in self._link:
                self._loop.call_soon_threadsafe(self._heard, self, message)
            self._loop.call_soon_threadsafe(self._gone, self)

    def _carry(self) -> None:
        room = threading.Semaphore(WAITING_PACKETS)

        def deliver(packet: Packet) -> None:
            room.release()
            self.hub.packet(packet)

        with suppress(RuntimeError):
            for packet in self._packets:
                room.acquire()
                self._loop.call_soon_threadsafe(deliver, packet)

    async def close(self) -> None:
        """End the process, once nobody is connected any more, and free everything."""
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await self.hub.close()
                while self.hub.clients:
                    await asyncio.sleep(0.05)
        self.send("stop")
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._link.close()
        self._packets.close()
        self._board.close()


def _places() -> int:
    """For how many sockets there is shared memory; a container has little unless it is told.

    More than sessions, since a socket may take the place of one that is still being closed.
    Writing where there is none would end this process.
    """
    most, where = 2 * PLACES, Path("/dev/shm")
    if not where.is_dir():
        return most
    each = SLOTS * (sum(Boxes(1).sizes) - Boxes(0).sizes[0])
    return min(most, int(0.8 * shutil.disk_usage(where).free) // each)
