"""Live sessions: pictures of a camera in, swapped pictures out, over a socket or WebRTC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response, WebSocket
from pydantic import BaseModel, ConfigDict, Field

from mien.serve.protocol import MAX_OFFER
from mien.service.asking import Parts, asks
from mien.service.keys import Caller
from mien.service.live import TICKET_SECONDS, Live, Session
from mien.service.problems import Details, documented
from mien.service.routes.fields import FACES, ID, TEXT, marks_of, moment
from mien.types import Consent, TargetBasis


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service = app.state.service
    live = app.state.live = Live(service)
    service.ended.append(live.ended)
    try:
        yield
    finally:
        service.ended.remove(live.ended)
        await live.close()


router = APIRouter(tags=["live"], lifespan=_lifespan)

EXAMPLE: Final[dict[str, Any]] = {
    "id": "3c0d7a1e94b24c5f8a6e2b9d0f1c7e55",
    "state": "running",
    "identities": ["0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11"],
    "settings": {
        "identity": "0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11",
        "faces": "all",
        "strength": 1.0,
        "on_miss": "pass",
        "mark": "",
        "paused": False,
    },
    "private": False,
    "figures": {
        "fps": 24.5,
        "age_p50": 31.2,
        "age_p95": 48.9,
        "frames": 1470,
        "swapped": 1466,
        "faces": 1,
    },
    "created": "2031-05-02T10:00:00Z",
    "ended": None,
    "problem": None,
}

MADE: Final[dict[str, Any]] = {
    **EXAMPLE,
    "state": "waiting",
    "figures": {
        "fps": 0.0, "age_p50": None, "age_p95": None, "frames": 0, "swapped": 0, "faces": 0,
    },
    "ticket": "mF1hYkU0vVd9…",
    "ticket_seconds": 60,
    "socket": "/v1/live/3c0d7a1e94b24c5f8a6e2b9d0f1c7e55/socket",
    "webrtc": "/v1/live/3c0d7a1e94b24c5f8a6e2b9d0f1c7e55/webrtc",
}  # fmt: skip


def live_of(request: Request) -> Live:
    """The live sessions of the server that answers."""
    live: Live = request.app.state.live
    return live


Asks = Annotated[Caller, Depends(asks("live"))]
Lives = Annotated[Live, Depends(live_of)]
Which = Annotated[str, Path(description="Id of a live session.", pattern=ID)]
Faces = Annotated[
    str, Field(pattern=FACES, description="all, largest, left, right, or the number of a track.")
]
OnMiss = Annotated[
    Literal["pass", "hold", "blur", "card"],
    Field(description="What is shown while the face is missed."),
]
Strength = Annotated[float, Field(ge=0, le=1, description="Of the swap.")]
Mark = Annotated[
    str, Field(max_length=60, pattern=TEXT, description="Words after the label's own.")
]
Identity = Annotated[str, Field(pattern=ID)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wish(_Table):
    """A live session to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"identities": ["0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11"], "on_miss": "blur"}]
        },
    )

    identities: list[Identity] = Field(
        min_length=1, max_length=16, description="That may be chosen; the first is shown."
    )
    faces: Faces = "all"
    strength: Strength | None = Field(None, description="None for 1.")
    on_miss: OnMiss = "pass"
    private: bool = Field(
        False, description="No raw face is shown: what is not replaced is blurred."
    )
    mark: Mark | None = None
    target_consent: TargetBasis | None = Field(
        None, description="On what the use of the face before the camera rests."
    )
    target_note: Annotated[str, Field(max_length=1000, pattern=TEXT)] = ""
    label_language: Annotated[str, Field(max_length=20, pattern=TEXT)] | None = None
    label_preset: Literal["usual", "regulated"] | None = None
    marks_off: list[Literal["label", "watermark"]] = Field(
        [], max_length=2, description="Marks to leave out, where the policy allows it."
    )


class Change(_Table):
    """Settings to be changed; what is not named stays."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"strength": 0.5, "on_miss": "card"}]}
    )

    identity: Identity | None = Field(None, description="One that the session was made with.")
    faces: Faces | None = None
    strength: Strength | None = None
    on_miss: OnMiss | None = None
    mark: Mark | None = None
    paused: bool | None = Field(None, description="Nothing is swapped.")


class Figures(BaseModel):
    """How a session fares."""

    fps: float = Field(description="Pictures sent a second, over the last two.")
    age_p50: float | None = Field(
        description="Milliseconds from a picture's arrival until it was handed on, swapped."
    )
    age_p95: float | None = Field(description="The same, which one picture in twenty exceeds.")
    frames: int = Field(description="Pictures sent since the socket was opened.")
    swapped: int = Field(description="Of those, with a face replaced.")
    faces: int = Field(description="In the last one.")


class LiveOut(BaseModel):
    """A live session."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

    id: str
    state: Literal["waiting", "running", "ended"] = Field(description="Waiting for a socket.")
    identities: list[str] = Field(description="That may be chosen.")
    settings: dict[str, Any] = Field(description="Setting → value.")
    private: bool
    figures: Figures
    created: datetime
    ended: datetime | None
    problem: Details | None = Field(description="Why it ended.")


class LiveMade(LiveOut):
    """A live session, and the way in."""

    model_config = {"json_schema_extra": {"examples": [MADE]}}

    ticket: str = Field(description="The socket's token; opens one socket.")
    ticket_seconds: int = Field(description="For which it holds.")
    socket: str = Field(description="Path of the WebSocket.")
    webrtc: str = Field(description="Path for offers of WebRTC.")


class LiveList(BaseModel):
    """The tenant's live sessions, newest first."""

    model_config = {"json_schema_extra": {"examples": [{"items": [EXAMPLE]}]}}

    items: list[LiveOut]


class Ticket(BaseModel):
    """Opens one socket."""

    model_config = {
        "json_schema_extra": {"examples": [{"ticket": "mF1hYkU0vVd9…", "ticket_seconds": 60}]}
    }

    ticket: str
    ticket_seconds: int


class Offer(_Table):
    """An offer of WebRTC."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"ticket": "pQ2x…", "sdp": "v=0\r\no=- 4611…"}]},
    )

    ticket: str = Field(min_length=1, max_length=64, description="From the socket's `welcome`.")
    sdp: str = Field(max_length=MAX_OFFER)


class Answer(BaseModel):
    """The answer to an offer, with all addresses."""

    model_config = {
        "json_schema_extra": {"examples": [{"type": "answer", "sdp": "v=0\r\no=- 3912…"}]}
    }

    type: Literal["answer"]
    sdp: str


@router.post(
    "/live",
    status_code=201,
    responses=documented(),
    summary="Make a live session",
)
async def create_live(
    wish: Wish, service: Parts, live: Lives, caller: Asks, response: Response
) -> LiveMade:
    """Make a session, and get a ticket that opens its socket.

    The ticket is the `token` of the socket's first message, so a page or a game can be given it
    without the key. The first session of a server waits until its models are loaded.
    """
    marks = marks_of(service, wish.label_language, wish.label_preset, wish.marks_off)
    if wish.mark is not None:
        marks = replace(marks, words=wish.mark)
    about = None if wish.target_consent is None else Consent(wish.target_consent, wish.target_note)
    values: dict[str, Any] = {"faces": wish.faces, "on_miss": wish.on_miss, "paused": False}
    if not wish.private:
        values["strength"] = 1.0 if wish.strength is None else wish.strength
    session = await live.create(
        caller,
        wish.identities,
        {**values, "mark": marks.words},
        marks=marks,
        target=about,
        private=wish.private,
    )
    path = f"/v1/live/{session.id}"
    response.headers["Location"] = path
    return LiveMade(
        **shown(session).model_dump(),
        ticket=session.ticket,
        ticket_seconds=round(TICKET_SECONDS),
        socket=f"{path}/socket",
        webrtc=f"{path}/webrtc",
    )


@router.get("/live", responses=documented(), summary="List live sessions")
async def list_live(live: Lives, caller: Asks) -> LiveList:
    """The tenant's sessions on this server; those that ended for ten minutes after."""
    return LiveList(items=[shown(session) for session in live.of(caller.tenant)])


@router.get("/live/{live_id}", responses=documented(), summary="Show a live session")
async def show_live(live_id: Which, live: Lives, caller: Asks) -> LiveOut:
    """How a session fares."""
    return shown(live.find(caller.tenant, live_id))


@router.patch("/live/{live_id}", responses=documented(409), summary="Change a live session")
async def change_live(live_id: Which, change: Change, live: Lives, caller: Asks) -> LiveOut:
    """Change settings; they hold from the next picture on."""
    session = live.find(caller.tenant, live_id)
    values = change.model_dump(exclude_none=True)
    if values:
        await live.change(session, values)
    return shown(session)


@router.delete(
    "/live/{live_id}",
    status_code=204,
    response_class=Response,
    responses=documented(),
    summary="End a live session",
)
async def delete_live(live_id: Which, live: Lives, caller: Asks) -> Response:
    """End a session; its socket is closed."""
    live.delete(live.find(caller.tenant, live_id))
    return Response(status_code=204)


@router.post(
    "/live/{live_id}/ticket",
    status_code=201,
    responses=documented(409),
    summary="Get another ticket",
)
async def give_ticket(live_id: Which, live: Lives, caller: Asks) -> Ticket:
    """A ticket for another socket, which takes the place of one that is open."""
    ticket = live.give_ticket(live.find(caller.tenant, live_id))
    return Ticket(ticket=ticket, ticket_seconds=round(TICKET_SECONDS))


@router.post("/live/{live_id}/webrtc", responses=documented(), summary="Connect by WebRTC")
async def connect_live(live_id: Which, offer: Offer, live: Lives, caller: Asks) -> Answer:
    """Answer an offer of one video that is sent and received, H.264 or VP8.

    The ticket is that of the socket's `welcome`, which has to stay open. A browser, which has no
    key, sends its offer over the socket instead.
    """
    live.find(caller.tenant, live_id)
    return Answer(type="answer", sdp=await live.connect(live_id, offer.ticket, offer.sdp))


@router.websocket("/live/{live_id}/socket")
async def live_socket(socket: WebSocket, live_id: str) -> None:
    """Pictures in and out, as docs/protocol.md says; the token is a ticket."""
    await socket.app.state.live.attend(socket, live_id)


def shown(session: Session) -> LiveOut:
    """A session as it is answered."""
    ended = session.ended
    return LiveOut(
        id=session.id,
        state=session.state,  # type: ignore[arg-type]
        identities=list(session.consents),
        settings=session.settings,
        private=session.private,
        figures=Figures(**session.figures),
        created=datetime.fromtimestamp(session.created, UTC),
        ended=moment(ended),
        problem=None if session.problem is None else Details(**session.problem),
    )
