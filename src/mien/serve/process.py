"""The server's process, in which HTTP, sockets and WebRTC live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import Final

import uvicorn

from mien.serve import protocol
from mien.serve.application import application
from mien.serve.hub import Hub
from mien.serve.options import PageOptions
from mien.serve.packets import Packet, Packets
from mien.serve.shared import Board, Link

PACKETS: Final = 32
"""That may wait for the loop; then the pipe fills, and the engine's output waits."""


class _Server(uvicorn.Server):
    """Leaves signals to the engine's process, which says when it is over."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(options: PageOptions) -> socket.socket:
    """Open the port.

    Raises:
        OSError: It is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((options.host, options.port))
        door.listen(128)
    except OSError:
        door.close()
        raise
    return door


def serve(
    options: PageOptions,
    sizes: list[int],
    lock: Lock,
    memory: str,
    connections: tuple[Connection, Connection],
) -> None:
    """Serve until the engine's process says so or is gone; what a new process runs.

    Args:
        options: Where to listen, and limits.
        sizes: Of the mailboxes.
        lock: Theirs.
        memory: Name of theirs.
        connections: For words, and for packets.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="mien: %(message)s")
    for noisy in ("aiortc", "aioice"):  # a browser that leaves is no news
        logging.getLogger(noisy).setLevel(logging.ERROR)
    connection, packets = connections
    link = Link(connection)
    try:
        door = listen(options)
    except OSError as error:
        link.send("failed", message=f"{options.host}:{options.port}: {error.strerror}")
        return
    board = Board(sizes, lock, memory)
    try:
        asyncio.run(_run(Hub(options, board, link), door, Packets(packets)))
    finally:
        board.close()


async def _run(hub: Hub, door: socket.socket, packets: Packets) -> None:
    server = _Server(
        uvicorn.Config(
            application(hub),
            http="h11",
            ws="websockets-sansio",
            ws_max_size=protocol.MAX_MESSAGE,
            ws_ping_interval=5.0,
            ws_ping_timeout=10.0,
            ws_per_message_deflate=False,  # JPEGs do not get smaller
            access_log=False,
            log_config=None,
            log_level="error",  # a stranger's broken handshake is no news
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )
    loop = asyncio.get_running_loop()

    def hear() -> None:
        for message in hub.link:
            if message["kind"] == "stop":
                break
            loop.call_soon_threadsafe(hub.handle, message)
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)

    room = threading.Semaphore(PACKETS)

    def deliver(packet: Packet) -> None:
        room.release()
        hub.packet(packet)

    def carry() -> None:
        for packet in packets:
            room.acquire()
            loop.call_soon_threadsafe(deliver, packet)

    threading.Thread(target=hear, name="mien-link", daemon=True).start()
    threading.Thread(target=carry, name="mien-packets", daemon=True).start()
    hub.link.send("ready", port=door.getsockname()[1])
    await server.serve(sockets=[door])
