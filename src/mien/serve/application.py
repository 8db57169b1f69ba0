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
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module, resources
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from mien.errors import UsageError
from mien.serve import protocol
from mien.serve.hub import FAILED, BusyError, Client, EndedError, Hub
from mien.serve.options import is_loopback
from mien.serve.shared import Gone

log = logging.getLogger(__name__)

FILES: Final = {
    "/": ("index.html", "text/html"),
    "/static/page.js": ("page.js", "text/javascript"),
    "/static/protocol.js": ("protocol.js", "text/javascript"),
    "/static/webrtc.js": ("webrtc.js", "text/javascript"),
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


def application(hub: Hub) -> FastAPI:
    """The application around a hub."""
    folder = resources.files("mien.serve") / "static"
    contents = {path: (folder / name).read_bytes() for path, (name, _) in FILES.items()}
    local = is_loopback(hub.options.host)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if hub.options.webrtc:  # takes half a second, in which pages may be had already
            early = asyncio.ensure_future(asyncio.to_thread(import_module, "mien.serve.rtc"))
        yield
        if hub.options.webrtc:
            with contextlib.suppress(ImportError):
                await early
        await hub.close()
        for client in list(hub.clients):
            with contextlib.suppress(Exception):
                await client.socket.close(1001)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    def known(asks: Request | WebSocket) -> bool:
        """Whether who asks is a page of ours, or no page: others may point their names here."""
        host, origin = asks.headers.get("host", ""), asks.headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        return not foreign and (not local or _is_local(host))

    @app.get("/about", include_in_schema=False)
    async def about(request: Request) -> Response:
        if not known(request):
            return Response("this page is for this machine alone", 403, HEADERS)
        words = {
            "server_camera": hub.state["server_camera"],
            "browser_cameras": hub.options.sessions > 0,
            "token": bool(hub.options.token),
            "webrtc": hub.options.webrtc,
            "enrol": hub.options.enrol,
        }
        return _said(words)

    async def file(request: Request) -> Response:
        if not known(request):
            return Response("this page is for this machine alone", 403, HEADERS)
        path = request.url.path
        kind = FILES[path][1] + "; charset=utf-8"
        return Response(contents[path], 200, HEADERS, media_type=kind)

    for path in FILES:
        app.get(path, include_in_schema=False)(file)

    _add_webrtc(app, hub, known)

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        if not known(socket):
            await socket.close(REFUSED)  # before the handshake: answered with 403
            return
        await socket.accept()
        if len(hub.clients) >= hub.options.clients:
            await _refuse(socket, "too many clients are connected; try later", BUSY)
            return
        await attend(hub, Client(socket))

    return app


async def attend(hub: Hub, client: Client) -> None:
    """Serve a client whose socket was accepted until its end, and tell it why that is."""
    socket = client.socket
    try:
        await hub.talk(client)
    except EndedError as error:
        await _refuse(socket, str(error), error.code)
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
        await _refuse(socket, "the engine is gone", FAILED)


def _add_webrtc(app: FastAPI, hub: Hub, known: Callable[[Request], bool]) -> None:
    """The way in for offers, and what is open."""

    @app.get("/status", include_in_schema=False)
    async def status(request: Request) -> Response:
        """What is open, for whoever looks after the server."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        token = hub.options.token
        if not known(request) or (
            token and not hmac.compare_digest(token.encode(), given.encode())
        ):
            return Response("the token is missing or wrong", 403, HEADERS)
        try:
            return _said(await hub.count())
        except TimeoutError:
            return _said({"error": "the engine does not answer"}, 503)

    @app.post("/webrtc", include_in_schema=False)
    async def webrtc(request: Request) -> Response:
        if not known(request) or not hub.options.webrtc:
            return Response("this page is for this machine alone", 403, HEADERS)
        try:
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > protocol.MAX_OFFER:
                    raise UsageError(f"the limit of an offer is {protocol.MAX_OFFER} bytes")
            offer = protocol.offer(body)
            answer = await hub.connect(offer.ticket, offer.sdp)
        except BusyError as error:
            return _said({"error": str(error)}, 503)
        except UsageError as error:
            return _said({"error": str(error)}, 400)
        except TimeoutError:
            return _said({"error": "no address was found in time"}, 504)
        return _said({"type": "answer", "sdp": answer})


def _said(words: Mapping[str, Any], code: int = 200) -> Response:
    return Response(json.dumps(words), code, HEADERS, media_type="application/json")


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
