"""Kill worker, server and database while jobs are worked on, and look at what the jobs made.

    PYTHONPATH=tests python scripts/measure_crash.py [--times 10] [--seed 1] [--frames 120]
        [--victims worker server database]

A job is run undisturbed first, which says how long each stage takes. Then for each victim as many
jobs are run as `--times` says, and in each the victim gets kill -9: by turns while faces are
followed, while parts are painted and while they are joined, at a random moment of that stage. The
server and the database are started again; workers are started again by the server. In the end
every job has to be done, with the times of all frames, the sound and the marks of an undisturbed
run, each part committed once, and one result.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import crashing
import material
import servers

STAGES = ("follow", "paint", "join")


def kill_database(database: servers.Postgres) -> None:
    """Kill the database as no signal handler would see it, and start it again."""
    process = database.process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    database.process = None
    for _ in range(10):  # its children find out, and let go of the folder
        with contextlib.suppress(TimeoutError):
            time.sleep(1.0)
            database.start()
            if database.process is not None and database.process.poll() is None:
                return
    raise RuntimeError("the database does not start again")


def profile(one: crashing.Server, who: str, clip: Path) -> tuple[dict[str, float], float]:
    """Run a job undisturbed.

    Returns:
        Seconds of each stage, and of the whole.
    """
    begun = time.monotonic()
    job = one.begin(who, clip)
    came: dict[str, float] = {}

    def over() -> bool:
        said = one.job(job)
        came.setdefault(said["stage"], time.monotonic())
        return bool(said["state"] == "done")

    one.until(over, "the job does not end", 600)
    end = time.monotonic()
    starts = [came.get(stage, end) for stage in STAGES] + [end]
    lengths = [after - before for before, after in pairwise(starts)]
    return dict(zip(STAGES, lengths, strict=True)), end - begun


def run(
    one: crashing.Server, who: str, clip: Path, stage: str, after: float, kill: Callable[[], None]
) -> tuple[str, str, int, float]:
    """Run a job, and kill the victim so many seconds after a stage of it began.

    Returns:
        Id of the job, the stage in which the victim was killed, how much was done in percent, and
        seconds in all.
    """
    begun = time.monotonic()
    job = one.begin(who, clip)
    said = one.until(lambda: _beyond(one, job, stage), f"the job does not come to {stage}", 600)
    end = time.monotonic() + after
    while time.monotonic() < end and said["state"] == "running":
        time.sleep(min(0.02, after))
        said = one.job(job)
    kill()
    hit = said["stage"] if said["state"] == "running" else said["state"]
    one.done(job, 600)
    return job, hit, round(100 * said["progress"]["fraction"]), time.monotonic() - begun


def _beyond(one: crashing.Server, job: str, stage: str) -> dict[str, Any] | None:
    """What a job says, once it has begun a stage."""
    said = one.job(job)
    begun = said["state"] not in ("queued", "unknown")
    return said if begun and STAGES.index(said["stage"]) >= STAGES.index(stage) else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--frames", type=int, default=120, help="so many that each stage takes its time"
    )
    parser.add_argument("--victims", nargs="+", default=["worker", "server", "database"])
    wanted = parser.parse_args()
    chance = random.Random(wanted.seed)
    with tempfile.TemporaryDirectory(prefix="mien-crash-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        database = stack.enter_context(servers.postgres(folder))
        clip = material.write_clip(
            folder / "clip.mp4", material.pan(frames=wanted.frames, width=320, height=240)
        )
        one = stack.enter_context(crashing.server(folder / "server", database=database.url))
        who = one.enrol()
        profile(one, who, clip)  # the first is slower
        lengths, alone = profile(one, who, clip)
        print(f"{wanted.frames} frames; a job undisturbed: {alone:.1f} s, " +
              ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in lengths.items()),
              flush=True)  # fmt: skip

        def kill_server() -> None:
            one.kill()
            one.start()

        jobs, rows = [], []
        for victim, kill in (
            ("worker", one.kill_workers),
            ("server", kill_server),
            ("database", lambda: kill_database(database)),
        ):
            if victim not in wanted.victims:
                continue
            faults, seconds, hits = [], [], []
            for number in range(wanted.times):
                one.ready()
                stage = STAGES[number % len(STAGES)]
                after = chance.random() * lengths[stage]
                job, hit, part, took = run(one, who, clip, stage, after, kill)
                jobs.append(job)
                wrong = crashing.faults(one, job, clip, folder / "out.mp4")
                faults.append(wrong)
                seconds.append(took)
                hits.append(hit)
                print(f"{victim} {number + 1}: {hit}, {part} %; {took:.1f} s; "
                      f"{', '.join(wrong) or 'correct'}", flush=True)  # fmt: skip
            rows.append((victim, hits, sum(not w for w in faults), seconds))
        there = one.client.get("/jobs", params={"limit": 100, "state": "done"}).json()["items"]
        lost = set(jobs) - {item["id"] for item in there}
        print("\n| killed | times | in follow, paint, join, after | done and correct | "
              "seconds, median | most |\n|---|---|---|---|---|---|")  # fmt: skip
        for victim, hits, good, seconds in rows:
            where = ", ".join(str(hits.count(stage)) for stage in (*STAGES, "done"))
            print(f"| {victim} | {len(hits)} | {where} | {good} | "
                  f"{statistics.median(seconds):.1f} | {max(seconds):.1f} |")  # fmt: skip
        print(f"\nlost: {len(lost)}; jobs in all: {len(there)}, {len(jobs) + 2} were begun")


if __name__ == "__main__":
    main()
