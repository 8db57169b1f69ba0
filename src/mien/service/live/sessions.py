"""The live sessions of one server: who may open one, its tickets and sockets, and how it ends.

Sessions are held in memory: they are as long as a stream, and belong to the server that made them.
All methods are called in the loop's thread, unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fastapi import WebSocket
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from mien import errors
from mien.serve.application import BUSY, REFUSED, attend
from mien.serve.hub import FAILED, BusyError, Client, EndedError
from mien.service import people, problems
from mien.service.database import new_id
from mien.service.keys import Caller
from mien.service.live.engine import PLACES, SOCKETS, Engine
from mien.service.live.session import Session
from mien.service.live.standing import WITHDRAWN, note_lost, standing
from mien.service.performing import perform
from mien.service.problems import Problem, missing
from mien.types import Consent

if TYPE_CHECKING:
    from mien.provenance import Marks
    from mien.service.asking import Service

log = logging.getLogger(__name__)

TICKET_SECONDS: Final = 60.0
"""For which a ticket holds; it opens one socket."""


IDLE: Final = 60.0
"""Seconds without a picture after which a session ends."""


KEPT: Final = 600.0
"""Seconds for which the end of a session can be read."""


START_SECONDS: Final = 30.0
"""Within which the engine's process must be ready for a first session."""


LOOK: Final = 1.0
"""Seconds between two looks at who has gone, and whose consent has ended."""


class Live:
    """The live sessions of one server.

    Args:
        service: Its parts.
        work: What the engine's process runs.
    """

    def __init__(self, service: Service, work: Callable[..., None] = perform) -> None:
        self._service, self._work = service, work
        self._sessions: dict[str, Session] = {}
        self._engine: Engine | None = None
        self._starting = asyncio.Lock()
        self._sockets = 0
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        own = service.metrics.registry
        self._ages = Gauge(
            "mien_stream_age_seconds",
            "Age of live frames when they were sent, of the slowest stream",
            ["quantile"],
            registry=own,
        )
        self._restarts = Counter(
            "mien_live_restarts", "Engine processes of live started again", registry=own
        )
        self._do(self._look_after())

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- for routes ------------------------------------------------------------------------------

    def of(self, tenant: str) -> list[Session]:
        """A tenant's sessions, newest first."""
        found = [s for s in self._sessions.values() if s.tenant == tenant]
        return sorted(found, key=lambda s: s.created, reverse=True)

    def find(self, tenant: str, which: str) -> Session:
        """A session.

        Raises:
            Problem: 404: there is none, or it is another tenant's.
        """
        session = self._sessions.get(which)
        if session is None or session.tenant != tenant:
            raise missing("live session")
        return session

    async def create(
        self,
        caller: Caller,
        identities: Iterable[str],
        values: Mapping[str, Any],
        *,
        marks: Marks,
        target: Consent | None,
        private: bool,
    ) -> Session:
        """Make a session, with a ticket.

        Args:
            caller: Who asks.
            identities: Ids that may be chosen; the first is shown.
            values: Settings.
            marks: Of every frame.
            target: Consent of who is replaced.
            private: No raw face is shown.

        Raises:
            Problem: 404: there is no such identity. 429: the tenant has as many as it may. 503: the
                server has, or the engine is not ready.
            MienError: The policy or a consent does not allow it.
        """
        if not self._service.settings.live:
            raise errors.Refused("live sessions are not offered here (live = false in [serve])")
        wanted = list(dict.fromkeys(identities))
        rows = await asyncio.to_thread(self._consents, caller.tenant, wanted)
        mark = self._service.mark
        session = Session(
            mark + new_id()[len(mark) :],
            caller.tenant,
            caller.key,
            rows,
            marks,
            target,
            private,
            {"identity": wanted[0], **values},
        )
        self._check_room(caller.tenant)
        self._sessions[session.id] = session  # counts from now on
        try:
            engine = await self._ready()
            await engine.prepare(session)
            if session.ended is not None:
                raise Problem(503, "live", "the engine ended; try again", retry_after=2)
        except BaseException:
            self._sessions.pop(session.id, None)
            raise
        self.give_ticket(session)
        session.left = time.monotonic()
        return session

    def _consents(self, tenant: str, wanted: list[str]) -> dict[str, Consent]:
        found = [people.show(self._service.database, tenant, which) for which in wanted]
        return {row.id: people.consent_of(row) for row in found}

    def _check_room(self, tenant: str) -> None:
        held = [s for s in self._sessions.values() if s.ended is None]
        most = self._service.settings.limits.streams
        if sum(s.tenant == tenant for s in held) >= most:
            raise Problem(429, "streams", f"{most} live sessions are open already; delete one",
                          retry_after=10)  # fmt: skip
        places = PLACES if self._engine is None else min(PLACES, self._engine.places)
        if len(held) >= places:
            raise Problem(503, "streams", f"all {places} places are taken", retry_after=10)

    def give_ticket(self, session: Session) -> str:
        """A new ticket; one that was given before holds no more.

        Raises:
            Problem: 409: the session has ended.
        """
        self._check_open(session)
        session.ticket = secrets.token_urlsafe(24)
        session.until = time.monotonic() + TICKET_SECONDS
        return session.ticket

    @staticmethod
    def _check_open(session: Session) -> None:
        if session.problem is not None:
            raise Problem(409, "ended", f"the session has ended: {session.problem['detail']}")

    async def change(self, session: Session, values: Mapping[str, Any]) -> None:
        """Change settings; they hold from the next frame on.

        Raises:
            Problem: 409: the session has ended. 422: not with these values. 503: no answer.
        """
        self._check_open(session)
        who = values.get("identity")
        if who is not None and who not in session.consents:
            raise Problem(422, "invalid", "identity: is none that the session was made with",
                          errors=[("body.identity", "is none of the session's")])  # fmt: skip
        if session.private and "strength" in values:
            raise Problem(422, "invalid", "strength: is 1 in a private session",
                          errors=[("body.strength", "is no choice")])  # fmt: skip
        if session.client is None or self._engine is None:
            if "mark" in values:
                replace(session.marks, words=values["mark"])  # can it be drawn?
            session.values |= values
            return
        try:
            await self._engine.hub.change(session.client, values)
        except TimeoutError:
            raise Problem(503, "live", "the engine does not answer", retry_after=2) from None

    def delete(self, session: Session) -> None:
        """End a session and forget it."""
        self._end(session, 410, "deleted", "the session was deleted", REFUSED)
        self._sessions.pop(session.id, None)

    async def connect(self, which: str, ticket: str, sdp: str) -> str:
        """Answer an offer of WebRTC, of who has an open socket.

        Args:
            which: Id of the session.
            ticket: That ``welcome`` named.
            sdp: The offer.

        Raises:
            Problem: 403: the ticket is wrong. 503: there is no place, or no address was found.
            UsageError: The offer is not to be answered.
        """
        session = self._sessions.get(which)
        client = None if session is None else session.client
        engine = self._engine
        own = "" if client is None else client.ticket
        if engine is None or not own or not hmac.compare_digest(own.encode(), ticket.encode()):
            raise Problem(403, "ticket", "the ticket is not that of an open socket")
        try:
            return await engine.hub.connect(ticket, sdp)
        except BusyError as error:
            raise Problem(503, "peers", str(error), retry_after=10) from error
        except TimeoutError:
            raise Problem(503, "address", "no address was found in time", retry_after=5) from None

    async def attend(self, socket: WebSocket, which: str) -> None:
        """Serve a socket of a session, from the handshake on."""
        session = self._sessions.get(which)
        if session is None or session.ended is not None or not self._is_known(socket):
            await socket.close(REFUSED)  # before the handshake: answered with 403
            return
        if self._sockets >= SOCKETS or self._engine is None:
            await socket.close(BUSY)
            return
        await socket.accept()

        def admits(token: str) -> bool:
            if not self._admits(session, token):
                return False
            self._attach(session, client)
            return True

        client = Client(socket, admits=admits)
        self._sockets += 1
        try:
            await attend(self._engine.hub, client)
        finally:
            self._sockets -= 1
            self._detach(session, client)

    def _is_known(self, socket: WebSocket) -> bool:
        """Whether no page of another origin asks, but those that may."""
        origin = socket.headers.get("origin")
        return (
            origin is None
            or urlsplit(origin).netloc == socket.headers.get("host")
            or origin in self._service.settings.cors
        )

    @staticmethod
    def _admits(session: Session, token: str) -> bool:
        own, session_holds = session.ticket, session.ended is None
        if not own or not session_holds or time.monotonic() > session.until:
            return False
        return hmac.compare_digest(own.encode(), token.encode())

    def _attach(self, session: Session, client: Client) -> None:
        session.ticket = ""
        before = session.client
        if before is not None:
            self._detach(session, before)
            before.end(EndedError("another socket took its place", REFUSED))
        client.about = {"live": session.id, "values": session.values}
        session.client = client

    def _detach(self, session: Session, client: Client) -> None:
        if session.client is not client:
            return
        session.values |= client.values
        session.fares = client.fares or session.fares
        session.client, session.left = None, time.monotonic()
        over = client.over
        if over.done() and session.ended is None and not self._closing:
            self._end(session, 503, "failed", str(over.exception()), FAILED)

    # --- ends ------------------------------------------------------------------------------------

    def ended(self, _: Service, tenant: str, who: str) -> None:
        """An identity was revoked; called by any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._revoked, tenant, who)

    def _revoked(self, tenant: str, who: str) -> None:
        for session in [s for s in self._sessions.values() if s.tenant == tenant]:
            self._withdraw(session, who, WITHDRAWN)

    def _withdraw(self, session: Session, who: str, why: str) -> None:
        if session.ended is not None or who not in session.consents:
            return
        if session.settings.get("identity") == who:
            self._end(session, 403, "refused", why, REFUSED)
        session.consents.pop(who)

    def _end(self, session: Session, status: int, name: str, detail: str, code: int) -> None:
        if session.ended is not None:
            return
        session.ended = time.time()
        session.problem = problems.details(status, name, detail)
        if self._engine is not None:
            self._engine.send("forget", live=session.id)
        client = session.client
        if client is not None:
            self._detach(session, client)
            client.end(EndedError(detail, code))

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                now = time.monotonic()
                for session in list(self._sessions.values()):
                    self._look_at(session, now)
                if self._engine is not None:
                    self._engine.look()
                self._measure()
                await self._look_at_rows()
            except SQLAlchemyError:
                log.warning("live: the database does not answer")
            except Exception:
                log.exception("live")

    def _look_at(self, session: Session, now: float) -> None:
        if session.ended is not None:
            if time.time() - session.ended > KEPT:
                self._sessions.pop(session.id, None)
            return
        client = session.client
        if now - (session.left if client is None else client.heard) > IDLE:
            self._end(session, 408, "idle", f"no picture came for {IDLE:.0f} s", REFUSED)

    async def _look_at_rows(self) -> None:
        """End what rests on a consent that has ended, or on a key that was revoked."""
        held = [s for s in self._sessions.values() if s.ended is None]
        if not held:
            return
        consents = {which: c for s in held for which, c in s.consents.items()}
        used = {s.key for s in held if s.key}
        objections, revoked = await asyncio.to_thread(
            standing, self._service.database, consents, used
        )
        for session in held:
            if session.key in revoked:
                self._end(session, 401, "wrong-key", "the key was revoked", REFUSED)
            for which in [w for w in session.consents if w in objections]:
                self._withdraw(session, which, objections[which])

    def _measure(self) -> None:
        running = [s for s in self._sessions.values() if s.state == "running"]
        self._service.metrics.streams.set(len(running))
        figures = [s.figures for s in running]
        for quantile, key in (("0.5", "age_p50"), ("0.95", "age_p95")):
            slowest = max((f[key] or 0.0 for f in figures), default=0.0)
            self._ages.labels(quantile).set(slowest / 1000)

    # --- the engine ------------------------------------------------------------------------------

    async def _ready(self) -> Engine:
        """The engine, started where there is none.

        Raises:
            Problem: 503: it is not ready in time, or cannot be started.
        """
        async with self._starting:
            if self._closing:
                raise Problem(503, "live", "the server ends", retry_after=5)
            engine = self._engine
            if engine is None:
                engine = Engine(self._service, self._work, self._heard, self._gone)
                try:
                    await asyncio.to_thread(engine.start)
                except OSError as error:
                    raise Problem(503, "live", f"the engine cannot be started ({error.strerror})",
                                  retry_after=10) from error  # fmt: skip
                self._engine = engine
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(engine.ready)
        except TimeoutError:
            raise Problem(503, "live", "the engine is not ready yet", retry_after=5) from None
        return engine

    def _heard(self, engine: Engine, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "pong":
                engine.answered = time.monotonic()
            case "ready":
                if not engine.ready.done():
                    engine.ready.set_result(None)
            case "unready":
                log.error("live: %s", message["message"])
                engine.ready.set_exception(
                    Problem(503, "live", "the engine cannot start; the server's log says why")
                )
            case "prepared":
                asked = engine.asked.get(message["ask"])
                if asked is None or asked.done():
                    return
                if message["error"]:
                    asked.set_exception(_error(message["error"], message["message"]))
                else:
                    asked.set_result(None)
            case _:
                engine.hub.handle(message)

    def _gone(self, engine: Engine) -> None:
        """The process has ended: so have its sessions. Another takes its place."""
        ready = engine.ready
        again = ready.done() and ready.exception() is None and not self._closing
        lost = Problem(503, "live", "the engine's process ended", retry_after=5)
        for waits in (engine.ready, *engine.asked.values()):
            if not waits.done():
                waits.set_exception(lost)
                waits.exception()  # nobody may wait for it
        if engine is not self._engine:
            return
        self._engine = None
        for session in self._sessions.values():
            if session.ended is None:
                self._end(session, 503, "engine", "the engine's process ended; make a new "
                          "session", FAILED)  # fmt: skip
                note_lost(session)
        if not self._closing:
            self._do(engine.close())
        if again:
            log.error("the engine of live died (%s); another starts", engine.process.exitcode)
            self._restarts.inc()
            self._do(self._start_again())

    async def _start_again(self) -> None:
        with suppress(Problem):
            await self._ready()

    async def warm(self) -> None:
        """Have the engine ready, so that the first session need not wait for it.

        Raises:
            Problem: As :meth:`create`.
        """
        await self._ready()

    def end_all(self) -> None:
        """End all sessions, since the server ends."""
        for session in self._sessions.values():
            self._end(session, 503, "stopped", "the server ends", 1001)

    async def close(self) -> None:
        """End everything."""
        self._closing = True
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        self.end_all()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()


def _error(kind: str, message: str) -> Exception:
    made = getattr(errors, kind, None)
    return made(message) if made is not None else RuntimeError(kind)
