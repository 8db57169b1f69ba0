"""What goes away under a server and comes back: the space of a disk, a store of files."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import crashing
import material
import servers

STAGES = ("follow", "paint", "join")


class Disk:
    """A file system in memory, of its own size.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, left: int = 0) -> None:
        """Take the space, but for so many bytes, as somebody else's files would."""
        self.free()
        most = shutil.disk_usage(self.folder).free - left
        with self._ballast.open("wb") as file, suppress(OSError):
            if most > 0:
                os.posix_fallocate(file.fileno(), 0, most)
            while not left:
                os.write(file.fileno(), bytes(4096))

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


def may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Disk]:
    """A disk of so many bytes; only root may make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Wire:
    """Passes connections on to a port, refuses them, or holds what comes.

    Attributes:
        port: Its own.
    """

    def __init__(self, to: int) -> None:
        self.port, self._to = servers.free_port(), to
        self._passes, self._lock = threading.Event(), threading.Lock()
        self._listening: socket.socket | None = None
        self._ends: set[socket.socket] = set()

    def open(self) -> None:
        """Pass everything on, what was held, too."""
        self._passes.set()
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
            accepting = threading.Thread(target=self._accept, args=(self._listening,), daemon=True)
            accepting.start()

    def hang(self) -> None:
        """Take connections and bytes, and pass nothing on."""
        self._passes.clear()

    def refuse(self) -> None:
        """Reset what is there, and refuse what comes."""
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self._listening.close()
            self._listening = None
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._passes.set()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    self._ends |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while block := one.recv(1 << 16):
                self._passes.wait()
                other.sendall(block)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def object_store(folder: Path) -> Iterator[Wire]:
    """An S3-compatible store in a process of its own, with a bucket ``mien``, behind a wire."""
    import boto3

    port = servers.free_port()
    with (folder / "store.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
    wire = Wire(port)
    try:
        until = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < until, (folder / "store.log").read_text()
            time.sleep(0.1)
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket="mien")
        client.close()
        wire.open()
        yield wire
    finally:
        wire.refuse()
        process.kill()
        process.wait()


def store_settings(wire: Wire) -> dict[str, str]:
    """Settings of a server whose files are in the store behind a wire."""
    options = {"endpoint_url": f"http://127.0.0.1:{wire.port}", "key": "test", "secret": "test"}
    said = " ".join(f"{key}={value}" for key, value in options.items())
    return {"files": "s3://mien/files", "files_options": said}


# --- a job over which something goes away --------------------------------------------------------


@dataclass
class Account:
    """What a job and its server said while something was away.

    Attributes:
        stage: Of the job when it was paused.
        problem: Type of the job's problem, without what all have in front; empty if it was never
            paused.
        paused: Seconds until then.
        answers: What was asked and the status → how often.
        slowest: Seconds of the slowest answer.
        ended: Seconds from the return of what was away to the end of the job.
        wrong: What should not have been; empty if all is well.
    """

    stage: str = ""
    problem: str = ""
    paused: float = 0.0
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    slowest: float = 0.0
    ended: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The answers in short."""
        every: dict[str, set[int]] = {}
        for what, status in self.answers:
            every.setdefault(what, set()).add(status)
        return ", ".join(
            f"{what} {'/'.join(str(s) for s in sorted(found))}" for what, found in every.items()
        )


def ask(one: crashing.Server, who: str, clip: Path, job: str, earlier: str, to: Account) -> None:
    """Ask for all kinds of things once, and see that each answer is one that may be given."""
    photo = material.PHOTO.read_bytes()
    every: list[tuple[str, str, str, dict[str, Any]]] = [
        ("alive", "GET", "../healthz", {}),
        ("ready", "GET", "../readyz", {}),
        ("job", "GET", f"jobs/{job}", {}),
        ("jobs", "GET", "jobs", {}),
        ("result", "GET", f"jobs/{earlier}/result", {}),
        ("new job", "POST", "jobs",
         {"data": {"identity": who}, "files": {"target": (clip.name, clip.read_bytes())}}),
        ("photo", "POST", "swaps", {"data": {"identity": who}, "files": {"target": photo}}),
    ]  # fmt: skip
    for what, method, path, more in every:
        begun = time.monotonic()
        try:
            # A connection of its own: one that is kept may be closed just as it is used again.
            answer = httpx.request(method, one.client.base_url.join(path), timeout=60, **more)
        except httpx.TransportError as error:
            to.wrong.append(f"{what}: {type(error).__name__}")
            continue
        to.slowest = max(to.slowest, time.monotonic() - begun)
        to.answers[what, answer.status_code] += 1
        if answer.status_code in (503, 507):
            if "retry-after" not in answer.headers:
                to.wrong.append(f"{what}: {answer.status_code} without Retry-After")
        elif answer.status_code not in (200, 201):
            to.wrong.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        if what == "new job" and answer.status_code == 201:
            one.client.delete(f"/jobs/{answer.json()['id']}")


def at(stage: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a job is in the middle of a stage, or beyond."""

    def there(said: dict[str, Any]) -> bool:
        done, total = said["progress"]["done"], said["progress"]["total"]
        if stage == "follow":
            return bool(done > 2 or total)
        if stage == "paint":
            return bool(total and done > 0.6 * total)
        return said.get("stage") == "join" or bool(total and done >= total)

    return there


def run(
    one: crashing.Server,
    who: str,
    clip: Path,
    earlier: str,
    stage: str,
    away: Callable[[], None],
    back: Callable[[], None],
    *,
    pauses: bool = True,
    seconds: float = 8.0,
    to: Path,
) -> Account:
    """Run a job over which something goes away for a while.

    Args:
        one: The server.
        who: An identity.
        clip: The video.
        earlier: A job that is done.
        stage: In which it goes away.
        away: Lets it go.
        back: Brings it back.
        pauses: Whether the job has to say so, if it did not just get through.
        seconds: For which it is away at least.
        to: Where the result may be written.
    """
    found, job = Account(), one.begin(who, clip)
    there = at(stage)
    one.until(lambda: there(one.job(job)), f"the job does not come to {stage}", 300)
    away()
    begun = time.monotonic()
    try:
        if pauses:
            said = one.until(lambda: _paused_or_over(one, job), "the job is not paused", 120)
            pauses = said["state"] == "paused"
        if pauses:
            found.paused = time.monotonic() - begun
            found.stage = said["stage"]
            found.problem = said["problem"]["type"].rpartition(":")[2]
        while True:
            ask(one, who, clip, job, earlier, found)
            if time.monotonic() - begun > seconds:
                break
            time.sleep(0.5)
        if pauses and one.job(job)["state"] != "paused":
            found.wrong.append(f"the job is {one.job(job)['state']} while something is away")
    except TimeoutError:
        found.wrong.append(f"it is {one.job(job)['state']}, not paused")
    finally:
        back()
    begun = time.monotonic()
    one.done(job, 300)
    found.ended = time.monotonic() - begun
    found.wrong += crashing.faults(one, job, clip, to)
    return found


def _paused_or_over(one: crashing.Server, job: str) -> dict[str, Any] | None:
    said = one.job(job)
    return said if said["state"] in ("paused", "done", "failed") else None
