"""Real servers for tests on loopback, gone at the end: PostgreSQL and an S3-compatible store."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    """Folder of PostgreSQL's programs: Debian keeps them off the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    wanted = ("initdb", "postgres")
    return next((f for f in debian + on_path if all((f / w).exists() for w in wanted)), None)


@dataclass
class Postgres:
    """A cluster of its own in a folder.

    Attributes:
        folder: Of its files.
        port: On 127.0.0.1.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://mien@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> list[str]:
        programs = postgres_programs()
        assert programs is not None
        # It refuses to run as root.
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        return [*(other if os.geteuid() == 0 else []), str(programs / program), *arguments]

    def make(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.folder, 65534, 65534)
        command = self._run(
            "initdb", "-D", str(self.folder), "-U", "mien", "-A", "trust", "-N", "-E", "UTF8"
        )
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        settings = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.folder}",
        ]
        command = self._run("postgres", "-D", str(self.folder), "-p", str(self.port), *settings)
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        import psycopg

        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise TimeoutError("PostgreSQL does not answer")

    def kill(self) -> None:
        """As by a power cut; what was committed is there after :meth:`start`."""
        self._end(signal.SIGQUIT)  # immediate shutdown: no checkpoint, recovery at the next start

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running PostgreSQL; the folder must be one that others may enter."""
    server = Postgres(folder / "postgres", free_port())
    server.make()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def object_store() -> Iterator[str]:
    """An S3-compatible store with a bucket named ``mien``; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
                              aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
        client.create_bucket(Bucket="mien")
        client.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
