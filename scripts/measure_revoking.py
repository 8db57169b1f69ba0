"""How quickly the store answers, and how soon a running `mien live` ends when a consent does.

    python scripts/measure_revoking.py [--portraits 4] [--runs 3]

Prints one JSON object. Nothing is kept: the store lies in a temporary folder. The live part needs
`mien` on the path of this interpreter and takes some seconds a run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.identity import Store, Watch
from mien.types import Consent, Identity, Portrait

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "media"
COMMAND = [sys.executable, "-c", "from mien.cli import main; main()"]


def person(name: str, portraits: int) -> Identity:
    """Somebody with portraits of full size, blurred noise in place of a face."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(portraits):
        coarse = rng.integers(0, 256, (64, 64, 3), np.uint8)
        image = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
        image ^= rng.integers(0, 8, image.shape, np.uint8)  # a camera's noise
        made.append(Portrait(image, rng.normal(500, 200, (478, 3)).astype(np.float32)))
    embedding = rng.normal(size=512).astype(np.float32)
    return Identity(name, embedding, tuple(made), Consent("synthetic"))


def milliseconds(work: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(spent), 4)


def until_live_ends(folder: Path) -> tuple[float, float]:
    """Seconds from start and end of `mien identity revoke` to the end of `mien live`."""
    name = f"p{time.monotonic_ns()}"
    add = ["identity", "add", name, str(EXAMPLES / "portrait-1.jpg"), "--consent", "synthetic"]
    subprocess.run([*COMMAND, *add, "-q"], check=True)
    out = folder / "out.mp4"
    live = ["live", "-s", name, "--input", str(EXAMPLES / "clip.mp4"), "--loop", "-o", str(out)]
    running = subprocess.Popen([*COMMAND, *live, "--overwrite"], stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("*.part")) and not out.exists() and running.poll() is None:
        time.sleep(0.1)
    time.sleep(3)
    began = time.perf_counter()
    subprocess.run([*COMMAND, "identity", "revoke", name, "-q"], check=True)
    withdrawn = time.perf_counter()
    words = running.communicate(timeout=60)[1]
    ended = time.perf_counter()
    if running.returncode != 2 or "consent.revoked" not in words:
        raise SystemExit(f"mien live: expected a refusal, came {running.returncode}: {words}")
    return ended - began, ended - withdrawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portraits", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MIEN_HOME"] = str(folder / "home")
        store = Store.open()
        somebody = person("somebody", chosen.portraits)
        adding = milliseconds(lambda: store.add(somebody), 1)
        reading = milliseconds(lambda: store.get("somebody"), 9)
        size = store.path.stat().st_size
        kept = store.get("somebody")
        watch, eager = Watch(), Watch(every=0)
        frame = milliseconds(lambda: watch.permit([kept], "live"), 2000)
        look = milliseconds(lambda: eager.permit([kept], "live"), 500)
        full = milliseconds(store.revoked, 50)
        revoking = milliseconds(lambda: store.revoke("somebody"), 1)
        ends = [until_live_ends(folder) for _ in range(chosen.runs)]
    print(
        json.dumps(
            {
                "portraits": chosen.portraits,
                "bytes": size,
                "add_ms": adding,
                "get_ms": reading,
                "watch_ms_a_frame": frame,
                "watch_ms_a_look_unchanged": look,
                "watch_ms_a_look_changed": full,
                "revoke_ms": revoking,
                "live_ends_s_after_command_started": [round(a, 2) for a, _ in ends],
                "live_ends_s_after_command_ended": [round(b, 2) for _, b in ends],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
