"""The web application: one page, its few files, and one socket.

It runs in the server's process and never looks at a pixel: pictures pass as they are between
sockets and the mailboxes of the engine's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from mien.errors import UsageError
from mien.serve import protocol
from mien.serve.options import Boxes, PageOptions, is_loopback
from mien.serve.shared import Board, Gone, Link

log = logging.getLogger(__name__)

FILES: Final = {
    "/": ("index.html", "text/html"),
    "/static/page.js": ("page.js", "text/javascript"),
    "/static/protocol.js": ("protocol.js", "text/javascript"),
    "/static/style.css": ("style.css", "text/css"),
}
"""All that is served, by path; nothing of a path is ever a file's name."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

REFUSED: Final = 1008
"""Code with which a socket is closed that broke a rule (RFC 6455, section 7.4.1)."""

BUSY: Final = 1013
"""There is no place (registry of close codes of RFC 6455)."""


class Client:
    """One socket: what is to be sent, and what was not acknowledged.

    One picture waits, and a newer one takes its place; at most ``WINDOW`` are on their way. So
    a client that is slow, or does not read at all, costs one picture of memory and no time.
    """

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.role = ""
        self.metadata = False
        self.session: int | None = None
        self._picture: bytes | None = None
        self._words: deque[str] = deque(maxlen=32)
        self._due = asyncio.Event()
        self._away: deque[tuple[int, float]] = deque()
        self._tokens, self._counted = 2.0 * protocol.RATE, time.monotonic()

    def picture(self, message: bytes) -> None:
        """Send this picture next, in place of one that waits."""
        self._picture = message if self.metadata else protocol.without_metadata(message)
        self._due.set()

    def say(self, kind: str, **values: Any) -> None:
        """Send words as soon as the socket takes them."""
        self._words.append(json.dumps({"type": kind, **values}))
        self._due.set()

    def acknowledged(self, frame: int) -> None:
        """All pictures up to this one have arrived."""
        if any(number == frame for number, _ in self._away):
            while self._away and self._away.popleft()[0] != frame:
                pass
            self._due.set()

    def allowed(self) -> bool:
        """Count a message; False where there were too many."""
        now = time.monotonic()
        earned = (now - self._counted) * protocol.RATE
        self._tokens, self._counted = min(self._tokens + earned, 2.0 * protocol.RATE), now
        self._tokens -= 1
        return self._tokens >= 0

    async def send_all(self) -> None:
        """Send until the client is gone or stalls.

        Raises:
            TimeoutError: It neither took a message nor acknowledged one for ``STALL_SECONDS``.
        """
        while True:
            left = None  # until the oldest picture without an acknowledgement counts as stalled
            if self._away:
                left = self._away[0][1] + protocol.STALL_SECONDS - time.monotonic()
            async with asyncio.timeout(left):
                await self._due.wait()
            self._due.clear()
            async with asyncio.timeout(protocol.STALL_SECONDS):
                while self._words:
                    await self.socket.send_text(self._words.popleft())
                if self._picture is not None and len(self._away) < protocol.WINDOW:
                    message, self._picture = self._picture, None
                    frame = int.from_bytes(message[8:12], "little")
                    self._away.append((frame, time.monotonic()))
                    await self.socket.send_bytes(message)


class Hub:
    """Who is connected, and the way between them and the engine's process.

    Args:
        options: Limits and the token.
        board: Mailboxes; this process reads pictures of the engine and writes those of clients.
        link: To the engine's process.
    """

    def __init__(self, options: PageOptions, board: Board, link: Link) -> None:
        self.options, self.board, self.link = options, board, link
        self.boxes = Boxes(options.sessions)
        self.clients: set[Client] = set()
        self.state: dict[str, Any] = {"server_camera": False, "settings": {}, "choices": {}}
        self._sessions: dict[int, Client | None] = {}  # None: the engine is still closing it

    def handle(self, message: dict[str, Any]) -> None:
        """Take a message of the engine's process."""
        kind, session = message.pop("kind"), message.pop("session", None)
        match kind:
            case "frame":
                self._picture(session)
            case "closed":
                for box in self.boxes.of(session):
                    self.board.clear(box)
                self._sessions.pop(session, None)
            case "state":
                self.state.update(message)
                self._tell("view", "settings", **self._settings())
            case "answer":
                client = self._sessions.get(session)
                if client is not None:
                    words = message["words"]
                    client.say(words.pop("kind"), **words)
            case "refused":  # by number of the client, not of a session
                for client in self.clients:
                    if id(client) == message["client"]:
                        client.say("error", message=message["message"])
            case "statistics":
                self._tell("view", "statistics", **message, viewers=self._count("view"))

    def _picture(self, session: int | None) -> None:
        box = self.boxes.view if session is None else self.boxes.of(session)[1]
        taken = self.board.take(box)
        if taken is None:
            return
        if session is None:
            for client in self.clients:
                if client.role == "view":
                    client.picture(taken[1])
        else:
            owner = self._sessions.get(session)
            if owner is not None:
                owner.picture(taken[1])

    def _tell(self, role: str, kind: str, **values: Any) -> None:
        for client in self.clients:
            if client.role == role:
                client.say(kind, **values)

    def _count(self, role: str) -> int:
        return sum(client.role == role for client in self.clients)

    def _settings(self) -> dict[str, Any]:
        return {"values": self.state["settings"], "choices": self.state["choices"]}

    async def talk(self, client: Client) -> None:
        """Serve a client from its first message to its end."""
        async with asyncio.timeout(protocol.HELLO_SECONDS):
            hello = protocol.parse(await _text(client))
        self._let_in(client, hello)
        self.clients.add(client)
        sending = asyncio.create_task(client.send_all())
        receiving = asyncio.create_task(self._listen(client))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.clients.discard(client)
            self._leave(client)
            for task in (sending, receiving):
                task.cancel()
            results = await asyncio.gather(sending, receiving, return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise error

    def _let_in(self, client: Client, hello: protocol.Message) -> None:
        if not isinstance(hello, protocol.Hello):
            raise UsageError("expected the message 'hello' first")
        token = self.options.token
        if token and not hmac.compare_digest(token.encode(), hello.token.encode()):
            raise UsageError("the token is missing or wrong; open the address that mien printed")
        if not hello.accepted:
            raise UsageError("the notice on consent has to be accepted before the start")
        client.metadata = hello.metadata
        if hello.role == "camera":
            self._open_session(client)
        elif not self.state["server_camera"]:
            raise UsageError("the server has no camera; use the one of the browser")
        client.role = hello.role
        client.say(
            "welcome",
            version=protocol.VERSION,
            role=hello.role,
            clock=time.monotonic_ns() // 1000,
            **(self._settings() if hello.role == "view" else {}),
            limits={
                "bytes": protocol.MAX_MESSAGE,
                "pixels": protocol.MAX_PIXELS,
                "window": protocol.WINDOW,
            },
        )
        if hello.role == "view":
            self.link.send("viewers", count=self._count("view") + 1)

    def _open_session(self, client: Client) -> None:
        free = set(range(self.options.sessions)) - set(self._sessions)
        if not free:
            raise BusyError(
                f"all {self.options.sessions} places for browser cameras are taken; try later"
            )
        client.session = min(free)
        self._sessions[client.session] = client
        self.link.send("open", session=client.session)

    def _leave(self, client: Client) -> None:
        if client.session is not None:
            self._sessions[client.session] = None
            self.link.send("close", session=client.session)
        else:
            self.link.send("viewers", count=self._count("view"))

    async def _listen(self, client: Client) -> None:
        while True:
            event = await client.socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            if not client.allowed():
                raise UsageError(f"too many messages came; the limit is {protocol.RATE} a second")
            data = event.get("bytes")
            if data is not None:
                self._from_camera(client, data)
            else:
                self._from_page(client, protocol.parse(event.get("text") or ""))

    def _from_camera(self, client: Client, data: bytes) -> None:
        if client.session is None:
            raise UsageError("only a client in the role 'camera' sends pictures")
        protocol.unpack(data)
        received = (time.monotonic_ns() // 1000).to_bytes(8, "little")
        if self.board.post(self.boxes.of(client.session)[0], received + data):
            self.link.send("frame", session=client.session)

    def _from_page(self, client: Client, message: protocol.Message) -> None:
        match message:
            case protocol.Ack():
                client.acknowledged(message.frame)
            case protocol.Ping():
                client.say("pong", sent=message.sent, clock=time.monotonic_ns() // 1000)
            case protocol.Change():
                self.link.send(
                    "set", session=client.session, client=id(client), values=message.values
                )
            case protocol.Hello():
                raise UsageError("the message 'hello' came twice")


class BusyError(UsageError):
    """There is no place for another client."""


async def _text(client: Client) -> str:
    event = await client.socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    text = event.get("text")
    if not isinstance(text, str):
        raise UsageError("expected the message 'hello' first")
    return text


def application(hub: Hub) -> FastAPI:
    """The application around a hub."""
    folder = resources.files("mien.serve") / "static"
    contents = {path: (folder / name).read_bytes() for path, (name, _) in FILES.items()}
    local = is_loopback(hub.options.host)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for client in list(hub.clients):
            with contextlib.suppress(Exception):
                await client.socket.close(1001)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.get("/about", include_in_schema=False)
    async def about(request: Request) -> Response:
        if local and not _is_local(request.headers.get("host", "")):
            return Response("this page is for this machine alone", 403, HEADERS)
        words = {
            "server_camera": hub.state["server_camera"],
            "browser_cameras": hub.options.sessions > 0,
            "token": bool(hub.options.token),
        }
        return Response(json.dumps(words), 200, HEADERS, media_type="application/json")

    async def file(request: Request) -> Response:
        if local and not _is_local(request.headers.get("host", "")):
            return Response("this page is for this machine alone", 403, HEADERS)
        path = request.url.path
        kind = FILES[path][1] + "; charset=utf-8"
        return Response(contents[path], 200, HEADERS, media_type=kind)

    for path in FILES:
        app.get(path, include_in_schema=False)(file)

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        host = socket.headers.get("host", "")
        origin = socket.headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or (local and not _is_local(host)):
            await socket.close(REFUSED)  # before the handshake: answered with 403
            return
        await socket.accept()
        if len(hub.clients) >= hub.options.clients:
            await _refuse(socket, "too many clients are connected; try later", BUSY)
            return
        client = Client(socket)
        try:
            await hub.talk(client)
        except BusyError as error:
            await _refuse(socket, str(error), BUSY)
        except UsageError as error:
            await _refuse(socket, str(error), REFUSED)
        except TimeoutError:
            await _refuse(socket, "nothing was heard for too long", REFUSED)
        except WebSocketDisconnect:
            pass
        except Gone:
            log.error("the engine is gone")

    return app


async def _refuse(socket: WebSocket, message: str, code: int) -> None:
    """Say why, and close; a client that does not read is not waited for."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1):
            await socket.send_text(json.dumps({"type": "error", "message": message}))
            await socket.close(code)


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine: others may point a name of theirs here."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
