"""A worker process: warm models, a thread that answers calls, and one that works on jobs."""

from __future__ import annotations

import logging
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from mien import config
from mien.errors import MienError
from mien.service.database import Database
from mien.service.entrance import said as said_of
from mien.service.people import People, Watch, seal_key
from mien.service.problems import Problem
from mien.service.settings import ServiceSettings

log = logging.getLogger(__name__)


def work(name: str, pipe: Connection, settings: ServiceSettings, chain: config.Settings) -> None:
    """Work until the server says stop, or is gone.

    Args:
        name: Of the worker, for leases and metrics.
        pipe: To the server; see :mod:`mien.service.calls`.
        settings: Of the service.
        chain: Of the models.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which then says stop
    from mien.service.answering import Answering, warm  # noqa: PLC0415 - OpenCV, ONNX Runtime

    database = Database(settings.database_url)
    people, watch = People(database, seal_key(settings)), Watch(database)
    stop, said = threading.Event(), threading.Lock()

    def tell(what: str, facts: Any) -> None:
        with said:
            pipe.send((what, facts))

    answering = Answering(settings, chain, people, watch)
    warm(answering.swapper)
    tell("ready", answering.about())
    try:
        while not stop.is_set():
            what, call = pipe.recv()
            if what == "stop":
                break
            kind, facts = call
            try:
                found, notes = answering(kind, facts)
            except Problem as problem:
                tell("problem", (problem.status_code, problem.name, str(problem.detail)))
            except MienError as error:
                tell("note", ("error", {"work": kind, "error": type(error).__name__}))
                tell("failed", (type(error).__name__, str(error)))
            except Exception as error:
                said_of(error, kind)
                tell("note", ("error", {"work": kind, "error": type(error).__name__}))
                tell("failed", (type(error).__name__, ""))
            else:
                for note in notes:
                    tell("note", note)
                tell("done", found)
    except (EOFError, OSError):
        pass  # the server is gone
    finally:
        stop.set()
        database.close()
