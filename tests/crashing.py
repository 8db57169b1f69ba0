"""A server of its own as real processes, to be killed; and what a job must have made in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import httpx

import material
import servers
from mien.provenance.verifying import verify


class Server:
    """``mien serve`` in a process, its workers below it."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self.folder, self.port = folder, servers.free_port()
        folder.mkdir(exist_ok=True)
        said = {
            "data": folder / "data", "port": self.port, "keys": "false", "lease_seconds": 3,
            "part_seconds": 0.4, "live": "false", "quotas": "calls=0 jobs=1000",
        } | settings  # fmt: skip
        self._environment = material.environment(
            MIEN_HOME=str(folder / "home"),
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
            **{f"MIEN_SERVE_{key.upper()}": str(value) for key, value in said.items()},
            **(environment or {}),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/v1", timeout=30)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [material.MIEN, "serve"], env=self._environment, cwd=self.folder, stdout=log,
                stderr=log,
            )  # fmt: skip

    def ready(self) -> None:
        """Wait until a worker has warmed up."""
        self.until(lambda: self.client.get("../readyz").status_code == 200, "it is not ready", 600)

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 300.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found = holds()
                if found:
                    return found
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        log = (self.folder / "log").read_text(errors="replace")[-3000:]
        raise TimeoutError(f"{what}\n{log}")

    @property
    def workers(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def kill_workers(self) -> None:
        for worker in self.workers:
            os.kill(worker, signal.SIGKILL)

    def kill(self) -> None:
        """As the machine's end: the server goes, its workers find out."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    # --- jobs ------------------------------------------------------------------------------------

    def enrol(self) -> str:
        answer = self.client.post(
            "/identities",
            data={"consent": "synthetic"},
            files={"photos": material.PORTRAIT.read_bytes()},
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def begin(self, who: str, clip: Path, **more: Any) -> str:
        answer = self.client.post(
            "/jobs",
            data={"identity": who} | more,
            files={"target": (clip.name, clip.read_bytes())},
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job}")
        if answer.status_code in (503, 507):  # the database is away, or its disk full
            return {"state": "unknown", "progress": {"done": 0, "total": None}}
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def done(self, job: str, seconds: float = 300.0) -> dict[str, Any]:
        """Wait for the end of a job."""
        ends = ("done", "failed", "canceled")
        self.until(lambda: self.job(job)["state"] in ends, "the job does not end", seconds)
        return self.job(job)

    def events(self, job: str) -> list[str]:
        """Kinds of all events of a job that ended."""
        text = self.client.get(f"/jobs/{job}/events").text
        return [line[7:] for line in text.splitlines() if line.startswith("event: ")]

    def result(self, job: str, to: Path) -> Path:
        answer = self.client.get(f"/jobs/{job}/result")
        assert answer.status_code == 200, answer.text
        to.write_bytes(answer.content)
        return to


@contextmanager
def server(
    folder: Path, environment: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Server]:
    one = Server(folder, environment, **settings)
    one.start()
    try:
        one.ready()
        yield one
    finally:
        one.stop()


def contents(path: Path) -> tuple[list[int], list[tuple[int, bytes]]]:
    """Times of all frames, and packets of sound."""
    with av.open(str(path)) as file:
        times = [frame.pts for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = [(p.pts, bytes(p)) for p in file.demux(file.streams.audio[0]) if p.size]
    return times, sound


def faults(one: Server, job: str, clip: Path, to: Path) -> list[str]:
    """What is wrong with a job that should be done and correct; empty if nothing is."""
    said = one.job(job)
    if said["state"] != "done":
        return [f"{said['state']}: {said['problem']}"]
    wrong = []
    if contents(one.result(job, to)) != contents(clip):
        wrong.append("other frames or another sound")
    if verify(to).status != 0:
        wrong.append("its marks do not verify")
    events = one.events(job)
    parts = -(-said["found"]["frames"] // 10)
    if events.count("done") != 1 or events.count("part") != parts:
        wrong.append(f"{events.count('part')} parts of {parts}, {events.count('done')} ends")
    return wrong
