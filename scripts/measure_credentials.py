"""How long signing and checking take, and what they add to a file: docs/credentials.md.

    python scripts/measure_credentials.py [--megabytes 100]

The video is noise, written to a temporary folder; nothing else on the machine should run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np


def timed(function: Callable[[], object], times: int = 5) -> float:
    """Milliseconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begun)
    return best * 1e3


def video(path: Path, megabytes: int) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (720, 1280, 3), np.uint8), "rgb24")
        for number in range(megabytes * 10**6 // (1280 * 720 * 3 // 2)):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--megabytes", type=int, default=100)
    megabytes = asked.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MIEN_HOME"] = str(folder / "home")
        from mien.provenance import certificate, credentials, manifest
        from mien.provenance.verifying import verify

        print(f"certificate made: {timed(certificate.own, 1):.0f} ms, read: ", end="")
        print(f"{timed(certificate.own):.1f} ms")
        models = tuple((f"model-{n}", "ab" * 32) for n in range(6))
        facts = manifest.Facts(output_id="0", consent="self", target="cd" * 32, models=models)
        rng = np.random.default_rng(1)
        noise = cv2.GaussianBlur(rng.integers(0, 255, (1080, 1920, 3), np.uint8), (9, 9), 0)
        files = [folder / f"picture{suffix}" for suffix in (".jpg", ".png", ".webp")]
        for path in files:
            cv2.imwrite(str(path), noise)
        for suffix in (".mov", ".mkv"):
            files.append(folder / f"video{suffix}")
            video(files[-1], megabytes)
        own = certificate.own()
        print("file, MB, added bytes, signed ms, checked ms, verified ms")
        for path in files:
            plain = path.read_bytes()

            def sign(path: Path = path) -> None:
                beside = credentials.sign(path, facts, own)
                if beside is not None:
                    path.with_suffix(".c2pa").write_bytes(beside)

            spent = []
            for _ in range(4):
                path.write_bytes(plain)
                spent.append(timed(sign, 1))
            added = path.stat().st_size - len(plain)
            added = added or path.with_suffix(".c2pa").stat().st_size
            assert credentials.check(path).state == "trusted"
            checked = timed(lambda path=path: credentials.check(path), 3)
            judged = timed(lambda path=path: verify(path), 1)
            print(
                f"{path.name}, {len(plain) / 1e6:.1f}, {added}, {min(spent):.1f}, "
                f"{checked:.1f}, {judged:.0f}"
            )
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    for module in ("c2pa", "cryptography.x509"):
        runs = [subprocess.check_output([sys.executable, "-c", code.format(module)]) for _ in "abc"]
        print(f"import {module}: {min(map(float, runs)) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
