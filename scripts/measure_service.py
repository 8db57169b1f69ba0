"""How the service fares with many clients at once: a mix of swaps, jobs, events and sockets.

    python scripts/measure_service.py [--clients 50] [--seconds 300] [--alone 20] [--workers 1]

Starts `mien serve` on loopback in a temporary folder. First one client does each kind of work
alone, then all do theirs at once. Prints a table on standard error and one JSON object on
standard output, and ends with 1 if a bar is missed. Clients and server share the machine.

Goodput is counted in what a single client gets: swaps a second over those of one client alone,
and so on for verified files, enrolments, frames of jobs and live frames, all added up. 1.0 is a
server that does as much good work with all clients as with one. Refusals (429 and 503 with
Retry-After) are kept to, as the examples do; anything else than an answer is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / "examples" / "media"

SHARES = {"swap": 20, "job": 6, "live": 4, "enrol": 4, "verify": 4, "look": 12}
"""Clients of each kind, of fifty."""

WORK = ("swap", "job", "live", "enrol", "verify")
"""Kinds that do something with models; who looks only reads."""

BARS = {
    "goodput": 0.8,  # at least
    "refused_seconds": 30.0,  # at most, from the first refusal until it is let in
    "memory_growth": 0.05,  # at most, last quarter over second
    "live_age_ms": 1000.0,  # p95 at most
}

HEADER = struct.Struct("<4sBBHIIQIHH")
CLIP_FRAMES = 25
STREAM_SECONDS = 20.0


class Failed(Exception):
    """Something that must not happen."""


class Record:
    """What all clients saw.

    Attributes:
        seconds: Endpoint → times of its answers.
        refusals: Endpoint → how often it refused.
        refused: Seconds from a first refusal until the same was let in.
        errors: What must not happen → how often.
        done: Kind → work that was done.
        ages: Second of the run, and milliseconds from a picture's sending until it came back.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.refusals: Counter[str] = Counter()
        self.refused: list[float] = []
        self.errors: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.ages: list[tuple[float, float]] = []


class Client:
    """One client with its own key, and an identity of its tenant."""

    def __init__(self, url: str, key: str, identity: str, record: Record, until: float) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=90)
        self.url, self.record, self.until = url, record, until
        self.identity = identity

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    async def ask(self, name: str, path: str, **said: Any) -> httpx.Response | None:
        """Send a request until it is let in; None if the time is over before."""
        method, first = name.split(" ", maxsplit=1)[0], None
        while True:
            begun = time.monotonic()
            answer = await self.http.request(method, path, **said)
            now = time.monotonic()
            if answer.status_code not in (429, 503):
                break
            wait = answer.headers.get("Retry-After")
            if wait is None:
                raise Failed(f"{name}: {answer.status_code} without Retry-After")
            self.record.refusals[f"{name} {answer.status_code}"] += 1
            first = first or begun
            if now + float(wait) > self.until:
                self.record.refused.append(now - first)
                return None
            await asyncio.sleep(float(wait))
        if answer.status_code >= 400:
            raise Failed(f"{name}: {answer.status_code} {answer.text[:200]}")
        if first is not None:
            self.record.refused.append(begun - first)
        self.record.seconds[name].append(now - begun)
        return answer

    def count(self, kind: str, number: int = 1) -> None:
        """Work that was done, and in time."""
        if not self.over:
            self.record.done[kind] += number


PORTRAIT = (MEDIA / "portrait-1.jpg").read_bytes()
PHOTO = (MEDIA / "photo.jpg").read_bytes()


def short_clip() -> bytes:
    """The first second of the demo clip, as a file of its own."""
    import io

    import av

    out = io.BytesIO()
    with av.open(str(MEDIA / "clip.mp4")) as source, av.open(out, "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _, frame in zip(range(CLIP_FRAMES), source.decode(video=0), strict=False):
            sink.mux(stream.encode(frame.reformat(format="yuv420p")))
        sink.mux(stream.encode(None))
    return out.getvalue()


def camera_pictures() -> list[bytes]:
    """The demo clip as JPEGs, every fourth frame."""
    import av
    import cv2

    with av.open(str(MEDIA / "clip.mp4")) as source:
        images = [f.to_ndarray(format="bgr24") for f in source.decode(video=0)][::4]
    return [cv2.imencode(".jpg", image, [1, 85])[1].tobytes() for image in images]


class Mix:
    """What clients of each kind do, once."""

    def __init__(self) -> None:
        self.clip, self.pictures = short_clip(), camera_pictures()

    async def swap(self, client: Client) -> None:
        said = {"identity": client.identity}
        files = {"target": PHOTO}
        if await client.ask("POST /v1/swaps", "/v1/swaps", files=files, data=said) is not None:
            client.count("swap")

    async def verify(self, client: Client) -> None:
        if await client.ask("POST /v1/verify", "/v1/verify", files={"file": PHOTO}) is not None:
            client.count("verify")

    async def enrol(self, client: Client) -> None:
        answer = await client.ask(
            "POST /v1/identities",
            "/v1/identities",
            files={"photos": PORTRAIT},
            data={"consent": "synthetic"},
        )
        if answer is None:
            return
        identity = answer.json()["id"]
        client.count("enrol")
        await client.ask("GET /v1/identities/{identity}", f"/v1/identities/{identity}")
        await client.ask("DELETE /v1/identities/{identity}", f"/v1/identities/{identity}")

    async def look(self, client: Client) -> None:
        for path in ("/v1/jobs", "/v1/identities", "/v1/models", "/v1/policy", "/healthz"):
            await client.ask(f"GET {path}", path)
            await asyncio.sleep(0.5)

    async def job(self, client: Client) -> None:
        begun, said = time.monotonic(), {"identity": client.identity}
        files = {"target": self.clip}
        answer = await client.ask("POST /v1/jobs", "/v1/jobs", files=files, data=said)
        if answer is None:
            return
        job = answer.json()["id"]
        kinds = []
        async with client.http.stream("GET", f"/v1/jobs/{job}/events") as events:
            if events.status_code != 200:
                raise Failed(f"GET events: {events.status_code}")
            async for line in events.aiter_lines():
                if line.startswith("event: "):
                    kinds.append(line.removeprefix("event: "))
        if kinds[-1] != "done":
            raise Failed(f"events of a job ended with {kinds[-1]}")
        client.record.seconds["a job, until it is done"].append(time.monotonic() - begun)
        half = {"Range": "bytes=0-9999"}
        where = "GET /v1/jobs/{job}/result"
        part = await client.ask(where, f"/v1/jobs/{job}/result", headers=half)
        whole = await client.ask(where, f"/v1/jobs/{job}/result")
        if part and whole and (part.status_code, part.content) != (206, whole.content[:10_000]):
            raise Failed(f"{where}: a range that is not of the whole")
        await client.ask("DELETE /v1/jobs/{job}", f"/v1/jobs/{job}")
        client.count("job", CLIP_FRAMES)

    async def live(self, client: Client) -> None:
        said = {"identities": [client.identity]}
        made = await client.ask("POST /v1/live", "/v1/live", json=said)
        if made is None:
            return
        session = made.json()
        try:
            await self._stream(client, session)
        finally:
            await client.ask("DELETE /v1/live/{live_id}", f"/v1/live/{session['id']}")

    async def _stream(self, client: Client, session: dict[str, Any]) -> None:
        from websockets.asyncio.client import connect

        address = client.url.replace("http", "ws", 1) + session["socket"]
        until = min(client.until, time.monotonic() + STREAM_SECONDS)
        async with connect(address, compression=None, max_size=1 << 24) as socket:
            hello = {"type": "hello", "role": "camera", "accepted": True}
            await socket.send(json.dumps(hello | {"token": session["ticket"]}))
            number = 0

            async def picture() -> None:
                nonlocal number
                jpeg, now = self.pictures[number % len(self.pictures)], time.monotonic_ns() // 1000
                await socket.send(HEADER.pack(b"MIEN", 1, 1, 0, number, 0, now, 0, 0, 0) + jpeg)
                number += 1

            await picture()
            while time.monotonic() < until:
                message = await asyncio.wait_for(socket.recv(), 30)
                if isinstance(message, str):
                    if json.loads(message)["type"] == "error":
                        raise Failed(f"socket: {message}")
                    continue
                _, _, _, _, frame, _, captured, _, _, _ = HEADER.unpack_from(message)
                now = time.monotonic_ns() // 1000
                record = client.record
                record.ages.append((time.monotonic() - record.begun, (now - captured) / 1000))
                client.count("live")
                await socket.send(json.dumps({"type": "ack", "frame": frame}))
                await picture()


async def work(one: Callable[[Client], Awaitable[None]], client: Client, start: float) -> None:
    """Do one kind of work over and over until the time is over."""
    await asyncio.sleep(start)
    while not client.over:
        try:
            await one(client)
        except Failed as error:
            client.record.errors[str(error)] += 1
            await asyncio.sleep(1)
        except Exception as error:  # whatever it is must not happen
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:200]} ({place.name})"
            client.record.errors[said] += 1
            await asyncio.sleep(1)
    await client.http.aclose()


def memory(root: int) -> int:
    """Bytes of a process and all below it, shared pages counted once for each (Linux)."""
    children = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = status.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(status.parent.name))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        todo += children[pid]
    return total * os.sysconf("SC_PAGE_SIZE")


async def watch(pid: int, until: float) -> AsyncIterator[int]:
    while time.monotonic() < until:
        yield memory(pid)
        await asyncio.sleep(2)


async def phase(
    mix: Mix,
    server: Any,
    callers: list[tuple[str, str]],
    kinds: dict[str, int],
    seconds: float,
) -> tuple[Record, list[int]]:
    """Let some clients of each kind do their work at once."""
    record = Record()
    until = record.begun + seconds
    clients, number = [], 0
    for kind, count in kinds.items():
        for _ in range(count):
            key, identity = callers[number % len(callers)]
            client = Client(server.url, key, identity, record, until)
            # They do not come all at once, which no users do either.
            clients.append(work(getattr(mix, kind), client, number * 0.05))
            number += 1
    used: list[int] = []

    async def watching() -> None:
        async for bytes_ in watch(server.process.pid, until):
            used.append(bytes_)

    await asyncio.gather(watching(), *clients)
    return record, used


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def summary(
    options: argparse.Namespace, alone: dict[str, float], record: Record, used: list[int]
) -> dict[str, Any]:
    rates = {kind: record.done[kind] / options.seconds for kind in WORK}
    shares = {kind: rates[kind] / alone[kind] for kind in WORK if alone[kind]}
    quarter = max(1, len(used) // 4)
    before = statistics.median(used[quarter : 2 * quarter] or used)
    after = statistics.median(used[-quarter:])
    ages = [age for _, age in record.ages]
    third = options.seconds / 3
    first = [age for at, age in record.ages if at < third]
    last = [age for at, age in record.ages if at > 2 * third]
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.python_version()}",
        "clients": options.clients,
        "workers": options.workers,
        "seconds": options.seconds,
        "alone_a_second": {kind: round(rate, 3) for kind, rate in alone.items()},
        "together_a_second": {kind: round(rate, 3) for kind, rate in rates.items()},
        "shares": {kind: round(share, 3) for kind, share in shares.items()},
        "goodput": round(sum(shares.values()), 3),
        "endpoints": {
            name: {
                "count": len(times),
                "p50_ms": round(quantile(times, 0.5) * 1000, 1),
                "p95_ms": round(quantile(times, 0.95) * 1000, 1),
            }
            for name, times in sorted(record.seconds.items())
        },
        "refusals": dict(sorted(record.refusals.items())),
        "refused_seconds": {
            "p50": round(quantile(record.refused, 0.5), 2),
            "most": round(max(record.refused, default=0.0), 2),
        },
        "memory_mib": {
            "second_quarter": round(before / 2**20),
            "last_quarter": round(after / 2**20),
            "most": round(max(used) / 2**20),
            "growth": round(after / before - 1, 4),
        },
        "live_age_ms": {
            "p50": round(quantile(ages, 0.5), 1),
            "p95": round(quantile(ages, 0.95), 1),
            "most": round(max(ages, default=0.0), 1),
            "p95_first_third": round(quantile(first, 0.95), 1),
            "p95_last_third": round(quantile(last, 0.95), 1),
        },
        "errors": dict(record.errors.most_common()),
    }
    found["bars"] = {
        "no error but 429 and 503 with Retry-After": not record.errors,
        "goodput": found["goodput"] >= BARS["goodput"],
        "nobody refused for longer": found["refused_seconds"]["most"] <= BARS["refused_seconds"],
        "memory flat": found["memory_mib"]["growth"] <= BARS["memory_growth"],
        "age of live frames bounded": bool(ages)
        and found["live_age_ms"]["p95"] <= BARS["live_age_ms"]
        and quantile(last, 0.95) <= 1.5 * quantile(first, 0.95) + 100,
    }
    return found


def table(found: dict[str, Any]) -> str:
    lines = [f"{'endpoint':36} {'count':>7} {'p50 ms':>9} {'p95 ms':>9}"]
    for name, one in found["endpoints"].items():
        lines.append(f"{name:36} {one['count']:7} {one['p50_ms']:9.1f} {one['p95_ms']:9.1f}")
    lines += [f"{name}: {'yes' if held else 'NO'}" for name, held in found["bars"].items()]
    return "\n".join(lines)


def counts(clients: int) -> dict[str, int]:
    """Clients of each kind; at least one of each."""
    made = {kind: max(1, round(share * clients / 50)) for kind, share in SHARES.items()}
    made["swap"] = max(1, made["swap"] + clients - sum(made.values()))
    return made


def make_callers(server: Any, count: int) -> list[tuple[str, str]]:
    """Keys, by turns of each tenant, each with an identity of the tenant."""
    from mien.service import keys

    people, rows, made = [], server.database(), []
    for tenant in server.keys:
        with server.client(tenant) as client:
            said = {"files": {"photos": PORTRAIT}, "data": {"consent": "synthetic"}}
            people.append((tenant, client.post("/v1/identities", **said).json()["id"]))
    for number in range(count):
        tenant, identity = people[number % len(people)]
        made.append((keys.make(rows, tenant)[1], identity))
    rows.close()
    return made


async def measure(options: argparse.Namespace, server: Any) -> dict[str, Any]:
    mix, alone = Mix(), {}
    callers = make_callers(server, max(options.clients, len(SHARES)))
    for kind in WORK:
        # Models that were never used are slower the first time.
        await phase(mix, server, callers, {kind: 1}, min(5.0, options.alone))
        record, _ = await phase(mix, server, callers, {kind: 1}, options.alone)
        if record.errors:
            print(f"{kind} alone: {dict(record.errors)}", file=sys.stderr)
        alone[kind] = record.done[kind] / options.alone
        print(f"{kind} alone: {alone[kind]:.2f} a second", file=sys.stderr)
    record, used = await phase(mix, server, callers, counts(options.clients), options.seconds)
    return summary(options, alone, record, used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of each kind alone")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["MIEN_HOME"] = str(home / "home")
        from serviceserver import serving  # type: ignore[import-not-found]

        tenants = [f"t{number}" for number in range(5)]
        with serving(home / "server", tenants, workers=str(options.workers)) as server:
            found = asyncio.run(measure(options, server))
    print(table(found), file=sys.stderr)
    print(json.dumps(found, indent=2))
    return 0 if all(found["bars"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
