"""Fuzz the readers of ``targets.py``: coverage-guided with atheris, else by plain mutation.

Each target runs in a process of its own. A finding is kept in ``fuzz/found`` and ends the target;
the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
MEMORY = 4 << 30
"""Bytes that a target may take; libav and OpenCV alone map about one."""
READERS = ["mien.media", "mien.runtime", "mien.zoo", "mien.config", "mien.policy", "mien.audit",
           "mien.deny", "mien.tracks", "mien.serve.protocol", "mien.live.control"]  # fmt: skip
"""What is watched for coverage; to instrument all of mien takes half a minute."""
TOO_LONG = 10
"""Seconds for one input."""


def mutated(
    data: bytes, words: tuple[bytes, ...], others: list[bytes], dice: random.Random
) -> bytes:
    """Change an input a few times: bits, bytes, numbers, pieces moved, doubled, cut and joined."""
    made = bytearray(data)
    for _ in range(1 << dice.randrange(5)):
        at = dice.randrange(len(made) + 1)
        size = min(1 << dice.randrange(10), len(made) - at)
        match dice.randrange(9):
            case 0 if at < len(made):
                made[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(made):
                made[at] = dice.randrange(256)
            case 2:
                value = dice.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
                )
                width = dice.choice((1, 2, 4, 8))
                order = dice.choice(("big", "little"))
                made[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, order)
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[at : at + size] * dice.randrange(1, 5)
            case 5 if words:
                word = dice.choice(words)
                made[at : at + dice.choice((0, len(word)))] = word
            case 6:
                made[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 7:
                other = dice.choice(others)
                start = dice.randrange(len(other) + 1)
                made[at : at + size] = other[start : start + size]
            case 8 if dice.random() < 0.1:
                del made[at:]
    return bytes(made[: 1 << 20])


def by_mutation(name: str, seconds: float, seed: int) -> None:
    """Mutate seeds and corpus; prints how many executions were made."""
    from targets import TARGETS, corpus

    target, dice = TARGETS[name], random.Random(seed)
    inputs = [*target.seeds(), *(path.read_bytes() for path in corpus(name))]
    until, count = time.monotonic() + seconds, 0
    FOUND.mkdir(exist_ok=True)
    last = FOUND / f"{name}-running"  # what was read if the process dies

    def late(_: int, __: FrameType | None) -> NoReturn:
        raise TimeoutError(f"more than {TOO_LONG} s")

    signal.signal(signal.SIGALRM, late)
    data = b""
    try:
        for data in inputs:
            count += 1
            last.write_bytes(data)
            target(data)
        while time.monotonic() < until:
            data = mutated(dice.choice(inputs), target.words, inputs, dice)
            last.write_bytes(data)
            count += 1
            signal.alarm(TOO_LONG)
            target(data)
            signal.alarm(0)
    except Exception:
        place = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        place.write_bytes(data)
        print(f"{name}: {count} executions, and then {place}", flush=True)
        raise
    finally:
        signal.alarm(0)
    last.unlink()
    print(f"executions: {count}")


def by_coverage(name: str, seconds: float, seed: int) -> None:
    """Let atheris (libFuzzer) choose mutations by what of mien they reach; never returns."""
    import atheris

    with atheris.instrument_imports(include=READERS):
        from targets import CORPUS, TARGETS

    target = TARGETS[name]
    work = FOUND / "corpus" / name
    work.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (work / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    words = FOUND / f"{name}.dict"
    lines = ("".join(f"\\x{b:02x}" for b in word) for word in target.words)
    words.write_text("".join(f'"{line}"\n' for line in lines))
    kept = CORPUS / name
    atheris.Setup(
        [
            name, str(work), *([str(kept)] if kept.is_dir() else []), f"-dict={words}",
            f"-max_total_time={int(seconds)}", f"-timeout={TOO_LONG}", f"-seed={seed}",
            f"-rss_limit_mb={MEMORY >> 20}", "-max_len=262144", "-print_final_stats=1",
            f"-artifact_prefix={FOUND}/{name}-", "-verbosity=1",
        ],
        target,
    )  # fmt: skip
    atheris.Fuzz()


def has_atheris() -> bool:
    """Whether it can be imported; there are no wheels of it for every system."""
    return not subprocess.run(
        [sys.executable, "-c", "import atheris"], capture_output=True, check=False
    ).returncode


def main() -> int:
    """Run all targets, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="names; all of them without")
    parser.add_argument("--seconds", type=float, default=60, help="of each target")
    parser.add_argument("--seed", type=int, default=0, help="0 takes the clock")
    parser.add_argument("--how", choices=("auto", "coverage", "mutation", "both"), default="auto")
    parser.add_argument("--child", choices=("coverage", "mutation"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = given.seed or int(time.time()) % 2**31
    sys.path.insert(0, str(HERE))
    if given.child:
        work = by_coverage if given.child == "coverage" else by_mutation
        work(given.targets[0], given.seconds, seed)
        return 0
    from targets import TARGETS

    how = given.how
    if how == "auto":
        how = "both" if has_atheris() else "mutation"
        if how == "mutation":
            print("atheris is not there: mutation alone")
    FOUND.mkdir(exist_ok=True)
    total = findings = 0
    for name in given.targets or TARGETS:
        for way in ("coverage", "mutation") if how == "both" else (how,):
            share = given.seconds / (2 if how == "both" else 1)
            count, bad = child(name, way, share, seed)
            total += count
            findings += bad
    print(f"{total} executions, {findings} findings")
    return 1 if findings else 0


def child(name: str, way: str, seconds: float, seed: int) -> tuple[int, bool]:
    """Executions of one target, and whether there was a finding."""
    command = [sys.executable, __file__, name, "--child", way, "--seed", str(seed)]
    log = FOUND / f"{name}-{way}.log"
    with log.open("wb") as file:
        try:
            status = subprocess.run(
                [*command, "--seconds", str(seconds)],
                stdout=file, stderr=subprocess.STDOUT, check=False, timeout=seconds * 3 + 300,
                preexec_fn=limit if way == "mutation" else None,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            status = 124
    said = log.read_text("utf-8", "replace")
    counts = re.findall(r"(?:executions|number_of_executed_units): *(\d+)", said)
    counts = counts or re.findall(r"(\d+) executions", said)
    count = int(counts[-1]) if counts else 0
    bad = status != 0
    print(
        f"{name:<10} {way:<9} {count:>9} executions{'  FINDING, see ' + str(log) if bad else ''}",
        flush=True,
    )
    return count, bad


def limit() -> None:
    """Keep a finding from taking the machine's memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(main())
