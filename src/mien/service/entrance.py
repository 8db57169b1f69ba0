"""What every request passes first: its key, its rate, its size; and what it meets last.

All this happens before a byte of the body is read, and while it is: a body that becomes too large
is refused as soon as it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.service import keys
from mien.service.asking import Service
from mien.service.keys import Caller
from mien.service.limits import quota
from mien.service.outages import is_full
from mien.service.problems import Problem, answer, database_gone, no_space
from mien.service.settings import is_loopback

log = logging.getLogger(__name__)

API: Final = "/v1/"

PICTURES: Final = ("/v1/identities", "/v1/swaps")
"""Where pictures are sent to."""

UPLOADS: Final = ("/v1/jobs", "/v1/verify")
"""Where videos are sent to."""

CLOSE: Final = {"Connection": "close"}
"""Of answers to requests whose body was not read to its end."""

LINGER: Final = 2.0
"""Seconds for which what a client still sends is read after the answer, and thrown away."""

LINGER_BYTES: Final = 8 << 20
"""The same in bytes."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
"""Of every answer that does not say otherwise."""


class Entrance:
    """Around the application: keys, rates, sizes, counts, and errors that nobody caught.

    Args:
        app: Behind it.
        service: Of which.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer that it may not come in."""
        if scope["type"] == "websocket":
            scope.setdefault("state", {})["caller"] = await self._caller_of_socket(scope)
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        body = _Body(scope, receive)
        receive = body.receive

        async def sent(message: Message) -> None:
            nonlocal status
            if _is_last(message) and not body.over:
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in HEADERS if pair[0] not in there),
                ]
            await send(message)

        try:
            if scope["path"].startswith(API):
                await self._admit(scope)
                receive = self._measured(scope, receive)
            await self._app(scope, receive, sent)
        except Problem as problem:
            problem.headers = {**(problem.headers or {}), **CLOSE}
            await answer(problem)(scope, receive, sent)
        except Exception as error:
            said(error)
            if status:
                raise
            failed = Problem(500, "failed", "something went wrong in the server; its log says what")
            await answer(no_space() if is_full(error) else failed)(scope, receive, sent)
        finally:
            route = _label(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics = self._service.metrics
            metrics.requests.labels(method, route, str(status or 499)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    async def _admit(self, scope: Scope) -> None:
        """Find who asks, and count the request.

        Raises:
            Problem: 401, 403, 413, 429 or 503.
        """
        headers = Headers(scope=scope)
        caller = await self._caller(headers)
        scope.setdefault("state", {})["caller"] = caller
        a_minute = quota(self._service, caller, "calls")
        wait = self._service.rates.wait(caller.key, a_minute)
        if wait:
            raise Problem(
                429, "rate", f"the key may make {a_minute} requests a minute", retry_after=wait
            )
        most, length = self._most(scope), headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > most):
            raise _too_large(most)

    async def _caller(self, headers: Headers) -> Caller:
        if not self._service.settings.keys:
            if not self._is_ours(headers):
                raise Problem(403, "foreign", "without keys the service is for this machine alone")
            return keys.ANYONE
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise Problem(
                401,
                "no-key",
                "send a key: Authorization: Bearer mien_…",
                headers={"WWW-Authenticate": "Bearer"},
            )
        try:
            found = await to_thread.run_sync(keys.find, self._service.database, secret.strip())
        except SQLAlchemyError as error:
            raise database_gone(error) from error
        if found is None:
            raise Problem(
                401,
                "wrong-key",
                "there is no such key, or it was revoked",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return found

    async def _caller_of_socket(self, scope: Scope) -> Caller | None:
        """Who opens a WebSocket; None where nothing says it, as browsers cannot send fields."""
        try:
            return await self._caller(Headers(scope=scope))
        except Problem:
            return None

    def _is_ours(self, headers: Headers) -> bool:
        """Whether who asks is no page of somebody else's: others may point their names here."""
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            return False
        origin = headers.get("origin")
        foreign = origin is not None and (
            urlsplit(origin).netloc != headers.get("host")
            and origin not in self._service.settings.cors
        )
        return host is not None and is_loopback(host) and not foreign

    def _most(self, scope: Scope) -> int:
        """Bytes that the body may have."""
        limits, path = self._service.settings.limits, scope["path"].rstrip("/")
        if scope["method"] != "POST":
            return limits.json_bytes
        if path in PICTURES:
            return limits.photo_bytes
        return limits.body_bytes if path in UPLOADS else limits.json_bytes

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        most, idle = self._most(scope), self._service.settings.limits.idle_seconds
        seen, more = 0, True

        async def measured() -> Message:
            nonlocal seen, more
            if not more:  # the body is there; what comes is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout(idle):
                    message = await receive()
            except TimeoutError as error:
                raise Problem(408, "slow", f"nothing came for {idle:g} s", headers=CLOSE) from error
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                more = message.get("more_body", False)
                if seen > most:
                    raise _too_large(most)
            return message

        return measured


class _Body:
    """The body of a request, read to its end or not.

    Were a connection closed over bytes that nobody read, TCP would reset it, and the answer could
    be lost on its way (RFC 9112, 9.6).
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers, self._receive = Headers(scope=scope), receive
        self.over = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.over = True
        return message

    async def drain(self) -> None:
        """Read what is left of it, if that does not take long."""
        got = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self.over and got < LINGER_BYTES:
                    got += len((await self.receive()).get("body", b""))


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def _label(scope: Scope) -> str:
    """The route's pattern; who guesses at paths makes no new figures."""
    path: str = getattr(scope.get("route"), "path", "")
    if not path:
        return "none"
    whole = scope["path"].startswith(API) and not path.startswith(API)
    return API.rstrip("/") + path if whole else path


def _too_large(most: int) -> Problem:
    return Problem(
        413,
        "too-large",
        f"the body may have {most} bytes",
        errors=[("body", f"over {most} bytes")],
        headers=CLOSE,
    )


def said(error: BaseException, about: str = "request") -> None:
    """Log an error by kind and place alone: its words may hold a person's name or a file's."""
    places: Any = traceback.extract_tb(error.__traceback__)[-6:]
    where = " > ".join(f"{p.filename.rpartition('/')[2]}:{p.lineno} {p.name}" for p in places)
    log.error("%s failed: %s at %s", about, type(error).__name__, where)
