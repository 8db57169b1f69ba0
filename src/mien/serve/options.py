"""Where the page listens, who may come, and which mailbox is whose."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from typing import Final

from mien.errors import UsageError
from mien.serve import protocol

PORT: Final = 8765

TOKEN_LETTERS: Final = 16
"""The shortest token that is taken."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server, by which browsers behind a router are reached.

    Attributes:
        url: ``stun:HOST[:PORT]``, ``turn:…`` or ``turns:…`` (RFC 7064, RFC 7065).
        username: Of a TURN server.
        credential: The password.
    """

    url: str
    username: str = ""
    credential: str = ""

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """Read ``stun:host:port`` or ``turn:user:password@host:port``.

        Raises:
            UsageError: It is neither.
        """
        kind, _, rest = text.partition(":")
        names, at, host = rest.rpartition("@")
        username, _, credential = names.partition(":")
        if kind not in ("stun", "turn", "turns") or not host or bool(at) != (kind != "stun"):
            # Not the text itself, which may hold a password.
            raise UsageError(
                "an ICE server: expected stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT"
            )
        return cls(f"{kind}:{host}", username, credential)


@dataclass(frozen=True, slots=True)
class PageOptions:
    """Of the page's server.

    Attributes:
        host: Address to listen at.
        port: 0 takes a free one.
        token: Without it nobody gets in; empty where only this machine reaches the page.
        sessions: Browser cameras at a time.
        clients: Sockets at a time.
        patience: Seconds within which the first message of a socket must come.
        quality: Of JPEGs, 1 to 100.
        webrtc: Whether browsers may connect by WebRTC; needs aiortc.
        peers: WebRTC connections at a time.
        ice: STUN and TURN servers; none are asked unless they are named.
        enrol: Whether people may enrol on the page; only where no other machine reaches it.

    Raises:
        UsageError: Other machines could reach the page without a token, or a value is out of
            range.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str = ""
    sessions: int = 10
    clients: int = 64
    patience: float = protocol.HELLO_SECONDS
    quality: int = 80
    webrtc: bool = True
    peers: int = 16
    ice: tuple[IceServer, ...] = ()
    enrol: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise UsageError(f"{self.host}: other machines reach it, so a token is needed")
        if self.enrol and not is_loopback(self.host):
            raise UsageError(f"{self.host}: other machines reach it, so nobody can enrol there")
        if self.token and len(self.token) < TOKEN_LETTERS:
            raise UsageError(f"the token has {len(self.token)} letters, {TOKEN_LETTERS} are needed")
        ranges = {
            "port": (0, 65535),
            "sessions": (0, 64),
            "clients": (1, 1024),
            "quality": (1, 100),
            "peers": (1, 256),
        }
        for key, (low, high) in ranges.items():
            if not low <= getattr(self, key) <= high:
                raise UsageError(f"{key} {getattr(self, key)} is not from {low} to {high}")


@dataclass(frozen=True, slots=True)
class Boxes:
    """Numbers of the mailboxes: pictures for viewers, and two for each browser camera.

    Attributes:
        sessions: Browser cameras at a time.
    """

    sessions: int
    view: int = 0

    def of(self, session: int) -> tuple[int, int]:
        """Mailboxes of a session: to the engine, and from it."""
        return 1 + 2 * session, 2 + 2 * session

    @property
    def sizes(self) -> list[int]:
        """Bytes of each."""
        # A picture on its way in has the time of its arrival before it; by WebRTC it comes decoded.
        raw = protocol.HEADER.size + protocol.MAX_PIXELS * 3 // 2
        own = [max(protocol.MAX_MESSAGE, raw) + 8, protocol.MAX_MESSAGE]
        return [protocol.MAX_PICTURE, *own * self.sessions]
