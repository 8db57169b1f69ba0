"""A real `mien serve` on loopback with keys of several tenants, gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

import material
from material import MIEN
from mien.service import keys
from mien.service.database import Database
from servers import free_port


@dataclass
class Running:
    """A server.

    Attributes:
        url: Without a slash at the end.
        keys: Tenant → secret.
        folder: Of its data.
        log: What it wrote to standard output and error.
        process: Of it.
    """

    url: str
    keys: dict[str, str]
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]

    def client(self, tenant: str, **more) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **more)

    def database(self) -> Database:
        return Database(f"sqlite:///{self.folder / 'service.db'}")


@contextmanager
def serving(
    folder: Path,
    tenants: Sequence[str] = ("ann", "bob"),
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Running]:
    """Start a server and wait until it is ready; settings as in the environment, small letters."""
    data, port = folder / "data", free_port()
    data.mkdir(parents=True, mode=0o700)
    rows = Database(f"sqlite:///{data / 'service.db'}")
    rows.upgrade()
    made = {tenant: keys.make(rows, tenant)[1] for tenant in tenants}
    rows.close()
    said = {"host": "127.0.0.1", "port": str(port), "data": str(data), "workers": "1"} | settings
    log = folder / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [MIEN, "serve"],
            cwd=folder,
            env=material.environment(
                **{f"MIEN_SERVE_{k.upper()}": v for k, v in said.items()}, **(environment or {})
            ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    server = Running(f"http://127.0.0.1:{port}", made, data, log, process)
    try:
        _wait(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise


def _wait(server: Running, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.process.poll() is None, server.log.read_text()
        try:
            if httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"not ready: {server.log.read_text()}")
