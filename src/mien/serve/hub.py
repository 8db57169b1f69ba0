"""Who is connected, and what passes between them and the engine's process."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastapi import WebSocket, WebSocketDisconnect

from mien.errors import UsageError
from mien.serve import protocol
from mien.serve.options import Boxes, PageOptions
from mien.serve.packets import NAMES, Packet
from mien.serve.shared import Board, Link

if TYPE_CHECKING:
    import av

    from mien.serve.rtc import Peer

log = logging.getLogger(__name__)

FAILED: Final = 1011
"""Code with which a socket is closed where something went wrong here (RFC 6455, 7.4.1)."""

CHANGE_SECONDS: Final = 5.0
"""Within which the engine's process must have changed a setting."""


class Client:
    """One socket: what is to be sent, and what was not acknowledged.

    One picture waits, and a newer one takes its place; at most ``WINDOW`` are on their way. So
    a client that is slow, or does not read at all, costs one picture of memory and no time.

    Args:
        socket: Accepted.
        admits: Says whether a token lets this client in; None compares it with the server's.
        about: For the engine's process, when a browser camera is opened.

    Attributes:
        values: Settings of its camera, as the engine's process said last.
        fares: Figures of its camera, the same.
        heard: ``time.monotonic()`` of the last picture that came.
        came: Pictures that came.
        dialing: Whether an offer of WebRTC is being answered.
    """

    def __init__(
        self,
        socket: WebSocket,
        *,
        admits: Callable[[str], bool] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.socket = socket
        self.admits, self.about = admits, dict(about or {})
        self.values: dict[str, Any] = {}
        self.fares: dict[str, Any] = {}
        self.heard = time.monotonic()
        self.came = 0
        self.dialing = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.role = ""
        self.metadata = False
        self.pictures = True
        self.session: int | None = None
        self.serial = 0
        self.ticket = ""
        self.peer: Peer | None = None
        self._picture: bytes | None = None
        self._words: deque[str] = deque(maxlen=32)
        self._due = asyncio.Event()
        self._away: deque[tuple[int, float]] = deque()
        self._tokens, self._counted = 2.0 * protocol.RATE, time.monotonic()

    def picture(self, message: bytes) -> None:
        """Send this picture next, in place of one that waits."""
        if not self.pictures:
            return
        self._picture = message if self.metadata else protocol.without_metadata(message)
        self._due.set()

    def say(self, kind: str, **values: Any) -> None:
        """Send words as soon as the socket takes them."""
        self._words.append(json.dumps({"type": kind, **values}))
        self._due.set()

    def end(self, error: EndedError) -> None:
        """Let the client go; it is told why."""
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # nobody may be there to ask for it

    @property
    def over(self) -> asyncio.Future[None]:
        """Fails when the client is to be let go."""
        return self._over

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
        self._counts: asyncio.Queue[dict[str, int]] = asyncio.Queue()
        self._serial = 0
        self._frames = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._sessions: dict[int, Client | None] = {}  # None: the engine is still closing it
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._questions = 0

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
            case "count":
                self._counts.put_nowait(message)
            case "refused":  # by number of the client, not of a session
                for client in self.clients:
                    if id(client) == message["client"]:
                        client.say("error", message=message["message"])
            case "statistics":
                self._tell("view", "statistics", **message, viewers=self._count("view"))
            case "changed":
                self._answered(message["ask"], message["error"])
            case _:
                owner = None if session is None else self._sessions.get(session)
                if owner is not None:
                    self._of_camera(owner, kind, message)

    @staticmethod
    def _of_camera(client: Client, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "answer":
                words = message["words"]
                if words["kind"] == "settings":
                    client.values = words["values"]
                client.say(words.pop("kind"), **words)
            case "fares":
                client.fares = message | {"at": time.monotonic()}
            case "failed":
                client.end(EndedError(message["message"], FAILED))

    def _answered(self, ask: int, error: str) -> None:
        asked = self._asked.get(ask)
        if asked is None or asked.done():
            return
        if error:
            asked.set_exception(UsageError(error))
        else:
            asked.set_result(None)

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

    async def change(self, client: Client, values: Mapping[str, Any]) -> None:
        """Change settings of a browser camera, and wait until they are.

        Raises:
            UsageError: They are not taken, or the camera is gone.
            TimeoutError: The engine does not answer.
        """
        if client.session is None or client not in self.clients:
            raise UsageError("the camera is gone")
        self._questions += 1
        ask = self._questions
        answer = self._asked[ask] = asyncio.get_running_loop().create_future()
        try:
            self.link.send("set", session=client.session, ask=ask, values=dict(values))
            async with asyncio.timeout(CHANGE_SECONDS):
                await answer
        finally:
            del self._asked[ask]

    async def count(self) -> dict[str, int]:
        """What is open here and in the engine's process.

        Raises:
            TimeoutError: The engine does not answer.
        """
        self.link.send("count")
        async with asyncio.timeout(2):
            theirs = await self._counts.get()
        viewers, cameras = self._count("view"), self._count("camera")
        return {"viewers": viewers, "cameras": cameras, "peers": self.peers, **theirs}

    def packet(self, packet: Packet) -> None:
        """Take an encoded frame of the engine's process."""
        for client in self.clients:
            peer = client.peer
            if peer is not None and client.serial == packet.serial:
                peer.push(packet)

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
        async with asyncio.timeout(self.options.patience):
            hello = protocol.parse(await _text(client))
        self._let_in(client, hello)
        self.clients.add(client)
        sending = asyncio.create_task(client.send_all())
        receiving = asyncio.create_task(self._listen(client))
        try:
            await asyncio.wait(
                (sending, receiving, client.over), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self.clients.discard(client)
            self._leave(client)
            for task in (sending, receiving):
                task.cancel()
            results = await asyncio.gather(sending, receiving, return_exceptions=True)
        if client.over.done():
            client.over.result()
        for error in results:
            if isinstance(error, Exception):
                raise error

    def _let_in(self, client: Client, hello: protocol.Message) -> None:
        if not isinstance(hello, protocol.Hello):
            raise UsageError("expected the message 'hello' first")
        if not (client.admits or self._knows)(hello.token):
            raise UsageError("the token is missing or wrong; open the address that mien printed")
        if not hello.accepted:
            raise UsageError("the notice on consent has to be accepted before the start")
        if hello.enrol:
            if hello.role != "camera" or not self.options.enrol:
                raise UsageError("people enrol on the machine that serves the page, by its camera")
            client.about["enrol"] = hello.enrol
        client.metadata, client.pictures = hello.metadata, hello.pictures
        if hello.role == "camera":
            self._open_session(client)
        elif not self.state["server_camera"]:
            raise UsageError("the server has no camera; use the one of the browser")
        client.role = hello.role
        client.ticket = secrets.token_urlsafe(24) if self.options.webrtc else ""
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
            **self._webrtc(client),
        )
        if hello.role == "view":
            self.clients.add(client)
            self._tell_viewers()

    def _knows(self, token: str) -> bool:
        own = self.options.token
        return not own or hmac.compare_digest(own.encode(), token.encode())

    def _webrtc(self, client: Client) -> dict[str, Any]:
        if not client.ticket:
            return {}
        ice = [
            {"urls": server.url, "username": server.username, "credential": server.credential}
            for server in self.options.ice
        ]
        sound = client.session is None and bool(self.state.get("sound"))
        return {"webrtc": {"ticket": client.ticket, "ice": ice, "sound": sound}}

    def _open_session(self, client: Client) -> None:
        free = set(range(self.options.sessions)) - set(self._sessions)
        if not free:
            raise BusyError(
                f"all {self.options.sessions} places for browser cameras are taken; try later"
            )
        self._serial += 1
        client.session, client.serial = min(free), self._serial
        self._sessions[client.session] = client
        about = client.about | {"session": client.session}
        self.link.send("open", session=client.session, serial=client.serial, about=about)

    def _leave(self, client: Client) -> None:
        client.ticket = ""
        self._close_peer(client)
        if client.session is not None:
            self._sessions[client.session] = None
            self.link.send("close", session=client.session)
        else:
            self._tell_viewers()

    # --- WebRTC --------------------------------------------------------------------------------

    async def connect(self, ticket: str, offer: str) -> str:
        """Answer an offer of a client whose ticket this is; in place of an earlier one of his.

        Raises:
            UsageError: There is no such client, or the offer is not to be answered.
            BusyError: There is no place.
        """
        from mien.serve.rtc import Peer  # noqa: PLC0415 - slow to import, and not always needed

        client = next(
            (c for c in self.clients if c.ticket and hmac.compare_digest(c.ticket, ticket)), None
        )
        if client is None:
            raise UsageError("the ticket is not that of an open socket")
        self._close_peer(client)
        if self.peers >= self.options.peers:
            raise BusyError(f"all {self.options.peers} places for WebRTC are taken")

        def asks(kind: str, **values: Any) -> None:
            if kind == "share":
                self._tell_share(client.session, client.serial)
            else:
                self.link.send(kind, session=client.session, **values)

        def frame(picture: av.VideoFrame, stamp: int) -> None:
            if client.peer is peer:
                self._from_track(client, picture, stamp)

        peer = client.peer = Peer(
            self.options.ice,
            says=client.say,
            asks=asks,
            frame=frame,
            watches=lambda: self._tell_watching(client),
        )
        try:
            camera = client.session is not None
            sound = not camera and bool(self.state.get("sound"))
            return await peer.answer(offer, self.options.host, camera=camera, sound=sound)
        except BaseException:
            if client.peer is peer:
                self._close_peer(client)
            raise

    def _dial(self, client: Client, sdp: str) -> None:
        """Answer an offer that came over the socket, over the socket."""
        if client.dialing or not client.ticket:
            client.say("error", message="an offer is being answered" if client.dialing
                       else "this server offers no WebRTC")  # fmt: skip
            return
        client.dialing = True

        async def answer() -> None:
            try:
                client.say("answer", sdp=await self.connect(client.ticket, sdp))
            except UsageError as error:
                client.say("error", message=str(error))
            except TimeoutError:
                client.say("error", message="no address was found in time")
            finally:
                client.dialing = False

        task = asyncio.ensure_future(answer())
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    @property
    def peers(self) -> int:
        """WebRTC connections that are open, or being closed."""
        held = [c.peer for c in self.clients if c.peer is not None and not c.peer.closed]
        return len(held) + len(self._closing)

    def _close_peer(self, client: Client) -> None:
        peer, client.peer = client.peer, None
        if peer is not None:
            task = asyncio.ensure_future(peer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all WebRTC connections."""
        for dial in self._dials:
            dial.cancel()
        for client in self.clients:
            self._close_peer(client)
        if self._closing:
            await asyncio.wait(self._closing, timeout=5)

    def _from_track(self, client: Client, picture: av.VideoFrame, stamp: int) -> None:
        if client.session is None:
            return
        width, height = picture.width & ~1, picture.height & ~1
        if not 0 < width * height <= protocol.MAX_PIXELS:
            client.say(
                "error",
                message=f"a picture of {picture.width}x{picture.height} came, "
                f"the limit is {protocol.MAX_PIXELS} pixels",
            )
            return
        if (width, height) != (picture.width, picture.height) or picture.format.name not in (
            "yuv420p",
            "yuvj420p",
        ):
            picture = picture.reformat(width, height, "yuv420p")
        received = self._count_in(client)
        self._frames += 1
        header = protocol.Header(self._frames, max(stamp, 0), 0, width, height)
        head = protocol.head(header, protocol.DECODED)
        planes = picture.to_ndarray().tobytes()
        if self.board.post(self.boxes.of(client.session)[0], received, head, planes):
            self.link.send("frame", session=client.session)

    def _tell_watching(self, client: Client) -> None:
        if client.session is None:
            self._tell_viewers()
        elif client in self.clients:
            counts = {} if client.peer is None else {client.peer.codec: 1}
            self.link.send("watch", session=client.session, counts=counts)

    def _tell_share(self, session: int | None, serial: int) -> None:
        """The share of the usual rate that the lines of all who watch a stream bear."""
        peers = [c.peer for c in self.clients if c.serial == serial]
        share = min((peer.share for peer in peers if peer is not None), default=1.0)
        self.link.send("share", session=session, share=share)

    def _tell_viewers(self) -> None:
        """How many watch the server's camera, and how."""
        watching = [c for c in self.clients if c.role == "view"]
        peers = [c.peer for c in watching if c.peer is not None]
        counts = {name: sum(peer.codec == name for peer in peers) for name in NAMES}
        counts["opus"] = sum(peer.sound and bool(peer.codec) for peer in peers)
        self.link.send("viewers", count=sum(c.pictures for c in watching), counts=counts)
        self._tell_share(None, 0)

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
        if len(data) > protocol.MAX_MESSAGE:
            raise UsageError(f"a picture has {len(data)} bytes, the limit is "
                             f"{protocol.MAX_MESSAGE}")  # fmt: skip
        protocol.unpack(data)
        received = self._count_in(client)
        if self.board.post(self.boxes.of(client.session)[0], received + data):
            self.link.send("frame", session=client.session)

    @staticmethod
    def _count_in(client: Client) -> bytes:
        """Note that a picture came; when, in microseconds, as it stands before the picture."""
        client.heard, client.came = time.monotonic(), client.came + 1
        return (time.monotonic_ns() // 1000).to_bytes(8, "little")

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
            case protocol.Pictures():
                client.pictures = message.on
                self._tell_viewers()
            case protocol.Dial():
                self._dial(client, message.sdp)
            case protocol.Hello():
                raise UsageError("the message 'hello' came twice")


class BusyError(UsageError):
    """There is no place for another client."""


class EndedError(UsageError):
    """A client is let go.

    Attributes:
        code: With which its socket is closed.
    """

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


async def _text(client: Client) -> str:
    event = await client.socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    text = event.get("text")
    if not isinstance(text, str):
        raise UsageError("expected the message 'hello' first")
    return text
