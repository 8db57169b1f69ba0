"""What travels over the socket: pictures with a header of 32 bytes, and words as JSON.

``docs/protocol.md`` describes it for those who write clients; limits are here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mien.errors import UsageError
from mien.identity.records import LONGEST_NAME

MAGIC: Final = b"MIEN"
VERSION: Final = 1
PICTURE: Final = 1
"""The one kind of binary message: a JPEG."""

DECODED: Final = 2
"""Kind of a picture between our own processes: Y, U and V planes in 4:2:0, one after another."""

HEADER: Final = struct.Struct("<4sBBHIIQIHH")
"""Magic, version, kind, flags, frame number, length of the metadata in bytes, capture time in
microseconds, age in microseconds, width, height; little-endian, 32 bytes."""

SWAPPED: Final = 1
"""Flag: at least one face was replaced."""

MAX_MESSAGE: Final = 512 * 1024
"""Bytes of a picture that a client sends, header included."""

MAX_PICTURE: Final = 2 * 1024 * 1024
"""Bytes of a picture that the server sends, header and metadata included."""

MAX_PIXELS: Final = 1280 * 720
"""Of a picture that a client sends."""

MAX_OFFER: Final = 32 * 1024
"""Bytes of a request for WebRTC; browsers send 2 to 8 thousand."""

MAX_TEXT: Final = 4096
"""Characters of a text message."""

RATE: Final = 200
"""Messages a second that a client may send in the long run; twice as many at once."""

WINDOW: Final = 2
"""Pictures that may be on their way to a client without its acknowledgement."""

HELLO_SECONDS: Final = 5.0
"""Within which the first message must come."""

STALL_SECONDS: Final = 10.0
"""Without an acknowledgement after which a client is let go."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture.

    Attributes:
        frame: Number, counted from 0 by whoever captured it; it wraps at 2³².
        captured: Microseconds on the clock of whoever captured it.
        age: Microseconds between capture and sending; from a client 0.
        width: Pixels.
        height: Pixels.
        flags: ``SWAPPED``.
    """

    frame: int
    captured: int
    age: int = 0
    width: int = 0
    height: int = 0
    flags: int = 0


def pack(header: Header, jpeg: bytes, metadata: dict[str, Any] | None = None) -> bytes:
    """Put a message together."""
    words = json.dumps(metadata, separators=(",", ":")).encode() if metadata else b""
    return b"".join((head(header, PICTURE, len(words)), words, jpeg))


def head(header: Header, kind: int, words: int = 0) -> bytes:
    """The 32 bytes before a picture.

    Args:
        header: What they say.
        kind: ``PICTURE`` or ``DECODED``.
        words: Bytes of the metadata.
    """
    return HEADER.pack(
        MAGIC,
        VERSION,
        kind,
        header.flags,
        header.frame & 0xFFFFFFFF,
        words,
        header.captured & 0xFFFFFFFFFFFFFFFF,
        min(max(header.age, 0), 0xFFFFFFFF),
        header.width,
        header.height,
    )


def unpack(
    message: bytes | memoryview, expected: int = PICTURE
) -> tuple[Header, dict[str, Any] | None, bytes | memoryview]:
    """Take a message apart: header, metadata, JPEG.

    Args:
        message: All of it.
        expected: Its kind.

    Raises:
        UsageError: It is not of this form.
    """
    if len(message) < HEADER.size or message[:4] != MAGIC:
        raise UsageError("expected a picture that begins with MIEN, and something else came")
    _, version, kind, flags, frame, words, captured, age, width, height = HEADER.unpack_from(
        message
    )
    if version != VERSION or kind != expected:
        raise UsageError(f"expected version {VERSION}, kind {expected}, not {version} and {kind}")
    body = HEADER.size + words
    if body > len(message):
        raise UsageError(f"the message ends within {words} bytes of metadata")
    metadata: Any = None
    if words:
        try:
            metadata = json.loads(bytes(message[HEADER.size : body]))
        except (ValueError, RecursionError) as error:
            raise UsageError("the metadata of a picture is no JSON") from error
    return Header(frame, captured, age, width, height, flags), metadata, message[body:]


def without_metadata(message: bytes) -> bytes:
    """The same picture for a client that did not ask for metadata."""
    words = int.from_bytes(message[12:16], "little")
    if not words:
        return message
    return message[:12] + bytes(4) + message[16 : HEADER.size] + message[HEADER.size + words :]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hello(_Message):
    """The first message of a client.

    Attributes:
        role: ``view`` watches the server's camera, ``camera`` sends pictures of its own.
        accepted: Whoever sits there read the notice and agreed.
        token: What the server asks for where it listens to other machines.
        metadata: Boxes, points and poses are wanted beside the picture.
        pictures: They are to be sent here; False for who gets them by WebRTC.
        enrol: In the role ``camera``: who is before it is enrolled under this name.
    """

    type: Literal["hello"]
    role: Literal["view", "camera"] = "view"
    accepted: bool = False
    token: str = Field("", max_length=256)
    metadata: bool = False
    pictures: bool = True
    enrol: str = Field("", max_length=LONGEST_NAME)


class Ack(_Message):
    """A picture arrived; the next may come."""

    type: Literal["ack"]
    frame: int = Field(ge=0, le=0xFFFFFFFF)


class Ping(_Message):
    """Asks for the server's clock; ``sent`` comes back as it was."""

    type: Literal["ping"]
    sent: float


class Change(_Message):
    """New settings; what is not named stays.

    Attributes:
        values: Setting → value, as ``welcome`` lists them.
    """

    type: Literal["set"]
    values: dict[str, str | float | bool] = Field(max_length=16)


class Pictures(_Message):
    """Whether pictures are to be sent here, after all: for who tried WebRTC in vain."""

    type: Literal["pictures"]
    on: bool


class Dial(_Message):
    """An offer of WebRTC, by who cannot post it."""

    type: Literal["offer"]
    sdp: str = Field(max_length=MAX_OFFER)


class Offer(_Message):
    """Asks for a WebRTC connection.

    Attributes:
        ticket: From ``welcome``.
        sdp: What the browser offers.
    """

    ticket: str = Field(min_length=1, max_length=64)
    sdp: str = Field(max_length=MAX_OFFER)


def offer(body: bytes) -> Offer:
    """Read a request for WebRTC.

    Raises:
        UsageError: It is no JSON, or is not of this form.
    """
    try:
        return Offer.model_validate_json(body)
    except ValidationError as error:
        raise UsageError("expected an offer as JSON, with ticket and sdp") from error


Message = Hello | Ack | Ping | Change | Pictures | Dial

_KINDS: Final[dict[str, type[Message]]] = {
    "hello": Hello, "ack": Ack, "ping": Ping, "set": Change, "pictures": Pictures, "offer": Dial,
}  # fmt: skip


_OFFERS: Final = ('{"type":"offer"', '{"type": "offer"')
"""How the one message begins that may be long."""


def parse(text: str) -> Message:
    """Read a text message.

    Raises:
        UsageError: It is too long, no JSON, or no message of this protocol.
    """
    limit = 2 * MAX_OFFER if text.startswith(_OFFERS) else MAX_TEXT
    if len(text) > limit:
        raise UsageError(f"a message has {len(text)} characters, the limit is {limit}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("a message is no JSON") from error
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise UsageError(f"expected a message of type {', '.join(_KINDS)}, not {str(name)[:40]!r}")
    try:
        return _KINDS[name].model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:40]
        raise UsageError(f"message {name!r}: {where}: {first['msg'].lower()}") from error
