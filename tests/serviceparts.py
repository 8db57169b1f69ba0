"""The service in one process for tests: a server on loopback, and workers that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from mien import config
from mien.errors import MienError
from mien.service import application, keys
from mien.service.asking import Service
from mien.service.problems import Problem
from mien.service.settings import ServiceSettings

Answer = Callable[[str, dict[str, Any]], tuple[dict[str, Any], list[Any]]]


@dataclass
class Parts:
    """A service and its clients.

    Attributes:
        service: Its parts.
        client: Without a key.
    """

    service: Service
    client: httpx.Client

    def key(self, tenant: str = "ann", **more: Any) -> dict[str, str]:
        """Headers with a new key of a tenant."""
        return {"Authorization": f"Bearer {keys.make(self.service.database, tenant, **more)[1]}"}


def settings(folder: Path, **said: Any) -> ServiceSettings:
    return ServiceSettings(data=folder / "data", **said)


@contextmanager
def serving(
    made: ServiceSettings, answer: Callable[[Service], Answer] | None = None, count: int = 1
) -> Iterator[Parts]:
    """The application; its calls are answered by ``count`` threads, if there is an answer."""
    service = application.service(made, config.Settings())
    for _ in range(count if answer else 0):
        ours, theirs = Pipe()
        assert answer is not None
        end = _closing(theirs)
        thread = threading.Thread(target=_work, args=(theirs, answer(service), end), daemon=True)
        thread.start()
        service.calls.attach(ours, end)
    config_ = uvicorn.Config(
        application.create_app(service), port=0, log_level="critical", access_log=False
    )
    server = uvicorn.Server(config_)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        until(lambda: answer is None or service.calls.ready == count)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Parts(service, client)
    finally:
        server.should_exit = True
        thread.join()


def until(there: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something."""
    import time

    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def _closing(pipe: Any) -> Callable[[], None]:
    """Closes a pipe once, whoever asks: a second close could hit another file of that number."""
    lock = threading.Lock()

    def close() -> None:
        with lock:
            if not pipe.closed:
                pipe.close()

    return close


def _work(pipe: Any, answer: Answer, end: Callable[[], None]) -> None:
    pipe.send(("ready", {"models": {"generate": ("relight", "cpu")}, "weights": []}))
    try:
        while True:
            _, (kind, said) = pipe.recv()
            try:
                found, notes = answer(kind, said)
            except Problem as problem:
                pipe.send(("problem", (problem.status_code, problem.name, problem.detail)))
            except MienError as error:
                pipe.send(("failed", (type(error).__name__, str(error))))
            except RuntimeError:
                end()  # as if the process had died
                return
            else:
                for note in notes:
                    pipe.send(("note", note))
                pipe.send(("done", found))
    except (EOFError, OSError):
        pass


def real(swapper: Any) -> Callable[[Service], Answer]:
    """What a worker does, with models that are loaded already."""
    from mien.service.answering import Answering
    from mien.service.people import People, Watch, seal_key

    def answer(service: Service) -> Answer:
        people = People(service.database, seal_key(service.settings))
        watch = Watch(service.database, every=0.05)
        return Answering(service.settings, service.chain, people, watch, swapper)

    return answer
