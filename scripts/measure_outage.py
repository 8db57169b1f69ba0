"""Let a disk run full, and a store of files go away, while jobs are worked on.

    PYTHONPATH=tests python scripts/measure_outage.py [--frames 60] [--only disk store]

Disks are file systems in memory, which root alone may make; the store is an S3-compatible server
in a process of its own, behind a wire that refuses connections or holds what comes. Each is away
in each stage of a job for some seconds, in which all kinds of things are asked for. Answers may be
200, or 503 and 507 with Retry-After; the job has to be paused and say why, and in the end to be
done, with the times of all frames, the sound and the marks of an undisturbed run, each part
committed once.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import crashing
import material
import outages

MB = 1 << 20


def of_disks(folder: Path, clip: Path) -> list[tuple[str, str, outages.Account]]:
    """Disks that are full to the last byte, or have no more than is to be left free."""
    found = []
    for what, size, data in (
        ("disk of everything", 96 * MB, True),
        ("disk of the database alone (SQLite)", 24 * MB, False),
    ):
        name = "all" if data else "database"
        place = folder / name
        place.mkdir()
        with contextlib.ExitStack() as stack:
            disk = stack.enter_context(outages.disk(place / "disk", size))
            settings: dict[str, Any] = {}
            if data:
                settings["data"] = disk.folder / "data"
                (disk.folder / "tmp").mkdir()
                environment = {"TMPDIR": str(disk.folder / "tmp")}
            else:
                settings["database"] = f"sqlite:///{disk.folder / 'service.db'}"
                environment = {}
            one = stack.enter_context(
                crashing.server(place / "server", environment=environment, **settings)
            )
            who = one.enrol()
            earlier = one.begin(who, clip)
            one.done(earlier)
            for how, left in (("to the last byte", 0), ("to 8 MiB", 8 * MB - 1)):
                if not data and left:
                    continue
                for stage in outages.STAGES:
                    account = outages.run(
                        one, who, clip, earlier, stage, partial(disk.fill, left),
                        disk.free, pauses=data, to=place / "out.mp4",
                    )  # fmt: skip
                    found.append((f"{what}, full {how}", stage, account))
                    tell(*found[-1])
    return found


def of_store(folder: Path, clip: Path) -> list[tuple[str, str, outages.Account]]:
    """A store that refuses connections, or never answers."""
    found = []
    place = folder / "store"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(outages.object_store(place))
        one = stack.enter_context(crashing.server(place / "server", **outages.store_settings(wire)))
        who = one.enrol()
        earlier = one.begin(who, clip)
        one.done(earlier)
        for how, away in (("refuses", wire.refuse), ("hangs", wire.hang)):
            for stage in outages.STAGES:
                account = outages.run(one, who, clip, earlier, stage, away, wire.open,
                                      to=place / "out.mp4")  # fmt: skip
                found.append((f"store, which {how}", stage, account))
                tell(*found[-1])
    return found


def tell(what: str, stage: str, account: outages.Account) -> None:
    print(f"| {what} | {stage} | {account.stage or '–'} | {account.problem or '–'} | "
          f"{account.paused:.1f} | {account.said} | {account.slowest:.1f} | {account.ended:.1f} | "
          f"{'; '.join(account.wrong) or 'correct'} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--only", nargs="+", default=["disk", "store"])
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mien-outage-") as name:
        folder = Path(name)
        clip = material.write_clip(
            folder / "clip.mp4", material.pan(frames=wanted.frames, width=320, height=240)
        )
        print("| away | in | paused in | problem | after s | answers | slowest s | "
              "end after s | in the end |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        rows = of_disks(folder, clip) if "disk" in wanted.only else []
        rows += of_store(folder, clip) if "store" in wanted.only else []
        wrong = sum(bool(account.wrong) for _, _, account in rows)
        print(f"\n{len(rows)} jobs, {len(rows) - wrong} of them done, correct and clear")


if __name__ == "__main__":
    main()
