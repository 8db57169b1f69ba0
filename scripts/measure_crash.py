"""Kill worker, server and database while jobs are worked on, and look at what the jobs made.

    PYTHONPATH=tests python scripts/measure_crash.py [--times 10] [--seed 1] [--frames 40]
        [--victims worker server database]

A job is run undisturbed first. Then for each victim as many jobs are run as `--times` says, and in
each the victim gets kill -9 at a random point of the job. The server and the database are started
again; workers are started again by the server. In the end every job has to be done, with the times
of all frames, the sound and the marks of an undisturbed run, each part committed once, and one
result.
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
from pathlib import Path

import crashing
import material
import servers


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


def run(
    one: crashing.Server, who: str, clip: Path, at: float | None, kill: Callable[[], None]
) -> tuple[str, str, float]:
    """Run a job, and kill the victim when so much of it is done.

    Returns:
        Id of the job, where it was when the victim was killed, and seconds in all.
    """
    begun = time.monotonic()
    job = one.begin(who, clip)
    hit = ""
    if at is not None:
        said = one.job(job)
        while said["state"] in ("queued", "running") and said["progress"]["fraction"] < at:
            time.sleep(0.02)
            said = one.job(job)
        hit = f"{said['stage']}, {100 * said['progress']['fraction']:.0f} %"
        kill()
    one.done(job, 300)
    return job, hit, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=40)
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
        run(one, who, clip, None, lambda: None)  # the first is slower
        alone = run(one, who, clip, None, lambda: None)[2]
        print(f"{wanted.frames} frames; a job undisturbed: {alone:.1f} s", flush=True)

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
            faults, seconds = [], []
            for number in range(wanted.times):
                one.ready()
                job, hit, took = run(one, who, clip, chance.random(), kill)
                jobs.append(job)
                wrong = crashing.faults(one, job, clip, folder / "out.mp4")
                faults.append(wrong)
                seconds.append(took)
                print(f"{victim} {number + 1}: {hit}; {took:.1f} s; "
                      f"{', '.join(wrong) or 'correct'}", flush=True)  # fmt: skip
            rows.append((victim, wanted.times, sum(not w for w in faults), seconds))
        there = one.client.get("/jobs", params={"limit": 100, "state": "done"}).json()["items"]
        lost = set(jobs) - {item["id"] for item in there}
        print("\n| killed | times | done and correct | seconds, median | most |")
        print("|---|---|---|---|---|")
        for victim, times, good, seconds in rows:
            print(f"| {victim} | {times} | {good} | {statistics.median(seconds):.1f} | "
                  f"{max(seconds):.1f} |")  # fmt: skip
        print(f"\nlost: {len(lost)}; jobs in all: {len(there)}, {len(jobs) + 2} were begun")


if __name__ == "__main__":
    main()
