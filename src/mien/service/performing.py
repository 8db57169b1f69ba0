"""The process that swaps live pictures of the service: its models, and one stream a camera.

Nothing heavy is imported before it runs, since the server's process names it, too.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from mien import config
from mien.errors import MediaError, MienError, Refused
from mien.heap import keep_small, settle
from mien.service import people
from mien.service.database import Database
from mien.service.problems import Problem
from mien.service.settings import ServiceSettings

if TYPE_CHECKING:
    from mien.live import Look
    from mien.serve.control import People, Performance

log = logging.getLogger(__name__)

QUALITY: Final = 80
"""Of JPEGs."""

PATIENCE: Final = 10.0
"""Seconds for which streams go on while the database does not say whose consent stands."""


def perform(  # noqa: PLR0917 - of a process
    settings: ServiceSettings,
    chain: config.Settings,
    sizes: list[int],
    lock: Lock,
    memory: str,
    connections: tuple[Connection, Connection],
) -> None:
    """Swap until the server says stop, or is gone; what a new process runs.

    Args:
        settings: Of the service.
        chain: Of the models.
        sizes: Of the mailboxes, two for each camera after the first.
        lock: Theirs.
        memory: Name of theirs.
        connections: For words, and for packets.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which then says stop
    keep_small()
    # OpenCV, ONNX Runtime:
    from mien.serve.options import Boxes  # noqa: PLC0415
    from mien.serve.packets import Packets  # noqa: PLC0415
    from mien.serve.shared import Board, Link  # noqa: PLC0415
    from mien.serve.visitors import Visitors  # noqa: PLC0415

    link, database = Link(connections[0]), Database(settings.database_url)
    try:
        stage = Stage(settings, chain, database)
    except MienError as error:
        link.send("unready", message=str(error))
        return
    board, boxes = Board(sizes, lock, memory), Boxes(len(sizes) // 2)
    visitors = Visitors(board, link, Packets(connections[1]), boxes, perform=stage, quality=QUALITY)
    # Portraits are made ready beside the work on pictures, one at a time.
    beside = ThreadPoolExecutor(1, "mien-portraits")
    settle()
    link.send("ready")
    try:
        for message in link:
            match message["kind"]:
                case "stop":
                    break
                case "prepare":
                    beside.submit(_prepare, stage, link, message)
                case "forget":
                    stage.forget(message["live"])
                case _:
                    visitors.hear(message)
    finally:
        visitors.close()
        beside.shutdown(wait=False, cancel_futures=True)
        database.close()
        board.close()


def _prepare(stage: Stage, link: Any, message: Mapping[str, Any]) -> None:
    kind, why = "", ""
    try:
        stage.prepare(message["said"])
    except Problem as problem:
        kind, why = "UsageError", str(problem.detail)
    except MienError as error:
        kind, why = type(error).__name__, str(error)
    except Exception:
        log.exception("a live session could not be prepared")
        kind, why = "RuntimeError", "something went wrong"
    link.send("prepared", ask=message["ask"], error=kind, message=why)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A session that may be opened.

    Attributes:
        look: What is seen at first.
        people: Who may be chosen, by id.
        private: No raw face is shown.
        user: Tenant, whom the policy may name.
        said: For the audit log.
    """

    look: Look
    people: People
    private: bool
    user: str
    said: dict[str, str]


class Stage:
    """The models, and the sessions that may be opened.

    Args:
        settings: Of the service.
        chain: Of the models.
        database: Where identities are.

    Raises:
        MienError: The models cannot be loaded, or the key of identities not be read.
    """

    def __init__(
        self, settings: ServiceSettings, chain: config.Settings, database: Database
    ) -> None:
        from mien import api  # noqa: PLC0415 - OpenCV, ONNX Runtime
        from mien.service.answering import warm  # noqa: PLC0415

        self._chain = chain
        self._people = people.People(database, people.seal_key(settings))
        self._watch = Watch(database)
        self._swapper = api.chain_of(chain)
        warm(self._swapper)
        self._prepared: dict[str, _Prepared] = {}

    def prepare(self, said: Mapping[str, Any]) -> None:
        """Make the portraits of a session ready, where all of it is allowed.

        Args:
            said: As :meth:`mien.service.live.Session.said` gives it.

        Raises:
            Refused: The policy, or a consent, does not allow it.
            Problem: There is no such identity.
            MediaError: It cannot be unsealed.
        """
        from mien import policy  # noqa: PLC0415
        from mien.live import Look  # noqa: PLC0415
        from mien.provenance import Marker, Marks  # noqa: PLC0415
        from mien.serve.control import People  # noqa: PLC0415
        from mien.types import Consent, Rule, SwapPlan  # noqa: PLC0415

        marks = Marks(**said["marks"])
        target = None if said["target"] is None else Consent(*said["target"])
        use = policy.Use("live", target_consent=target, marks=marks, user=said["tenant"])
        rules = policy.load()
        make_ready: Any = getattr(self._swapper.generate, "prepare", None)
        chosen = []
        for which in said["identities"]:
            me = replace(self._people.get(said["tenant"], which), name=which)
            why = self._watch.objection(me.consent, "live")
            if why:
                raise rules.refused(Refused(f"identity {which}: {why}"), kind="live")
            rules.permit([me], use)
            if make_ready is not None:
                make_ready(me)
            chosen.append(me)
        first = chosen[0]
        look = Look(
            SwapPlan((Rule(first),), blend=self._chain.blend, color=self._chain.color),
            Marker(marks, consent=first.consent, target_consent=target),
        )
        about = {key: said[key] for key in ("live", "tenant", "key")}
        self._prepared[said["live"]] = _Prepared(
            look, People(chosen, self._watch), said["private"], said["tenant"], about
        )

    def forget(self, live: str) -> None:
        """A session is over; what is open of it ends with its socket."""
        self._prepared.pop(live, None)

    def __call__(self, about: Mapping[str, Any]) -> Performance:
        """A stream for a camera of a session.

        Args:
            about: ``live``, the session, and ``values``, its settings.

        Raises:
            Refused: As :meth:`prepare`.
            MediaError: The session is over.
        """
        from mien.serve.control import Performance  # noqa: PLC0415

        prepared = self._prepared.get(about["live"])
        if prepared is None:
            raise MediaError("the session is over")
        made = Performance(
            self._swapper,
            prepared.look,
            prepared.people,
            private=prepared.private,
            watch=self._watch,
            user=prepared.user,
            said=prepared.said,
        )
        known = made.settings()
        made.change({key: value for key, value in about["values"].items() if key in known})
        return made


class Watch(people.Watch):
    """Says whose consent has ended; bears a database that is away for some seconds."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._well = self._tried = time.monotonic()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._tried > self._well and now - self._tried < 1.0:
            return self._bear(now)
        try:
            super()._refresh()
        except SQLAlchemyError:
            self._tried = time.monotonic()
            return self._bear(now)
        self._well = now
        return None

    def _bear(self, now: float) -> None:
        if now - self._well > PATIENCE:
            raise MediaError("nobody can say whose consent stands: the database does not answer")
