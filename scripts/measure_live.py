"""Ages, drops and memory of the live engine over minutes, a file played as the camera.

    python scripts/measure_live.py CLIP [--slow 0.2] [--seconds 300] [-o out.mp4]

With ``--slow`` a function that sleeps so long takes the generator's place.
"""

import argparse
import json
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mien import api, live, media
from mien.provenance import Marker
from mien.types import Rule, SwapPlan

PORTRAIT = Path(__file__).parents[1] / "examples" / "media" / "portrait-1.jpg"


def memory() -> float:
    """Resident memory of this process in megabytes."""
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * 4096 / 1e6


class Noting:
    """An output that notes each frame's number and its age before and after it is written."""

    def __init__(self, output: live.Output) -> None:
        self.output, self.name = output, output.name
        self.indices: list[int] = []
        self.ages: list[tuple[float, float]] = []
        self.open, self.close = output.open, output.close

    def write(self, shown: live.Shown) -> None:
        handed = time.monotonic() - shown.taken
        self.output.write(shown)
        self.indices.append(shown.marked.frame.index)
        self.ages.append((handed, time.monotonic() - shown.taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--slow", type=float, default=0.0, help="seconds a frame")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()

    swapper = api.load()
    me = api.enrol(PORTRAIT, "synthetic", swapper=swapper)
    look = live.Look(SwapPlan((Rule(me),)), Marker(consent=me.consent))
    if options.slow:
        swapper = replace(swapper, generate=lambda *_: time.sleep(options.slow) or [], fused=None)
    with tempfile.TemporaryDirectory() as folder:
        written = options.output or Path(folder) / "out.mp4"
        output = Noting(live.Encoded(str(written), look.marker.metadata()))
        engine = live.Engine(
            lambda: media.open_camera(str(options.clip), loop=True),
            swapper,
            look,
            [output],
            live.Options(reopen=False, duration=options.seconds),
        )
        grown: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(5):
                grown.append(memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        result = engine.run()
        ended.set()
        watcher.join()
    handed, done = np.array(output.ages).T * 1e3
    windows = [round(float(np.percentile(w, 95))) for w in np.array_split(done, 20)]
    settled = grown[len(grown) // 5 :]
    print(json.dumps({
        **{k: v for k, v in asdict(result).items() if k != "outputs"},
        "handed_p50_p95": [round(float(np.percentile(handed, q)), 1) for q in (50, 95)],
        "done_p50_p95": [round(float(np.percentile(done, q)), 1) for q in (50, 95)],
        "p95_of_20_windows": windows,
        "in_order": bool((np.diff(output.indices) > 0).all()),
        "frames_in - frames_out - dropped": result.frames_in - result.frames_out - result.dropped,
        "memory_mb_first_last_spread": [round(m, 1) for m in
            (settled[0], settled[-1], max(settled) - min(settled))],
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
