"""What the main job costs: frames a second, milliseconds by stage, memory, and the profile.

    python scripts/bench.py [CLIP PORTRAIT] [--memory] [--profile] [-o report.md]

The clip, by default the bundled one, is enlarged to 1080p at 30 fps first. Measured in turn,
several times, medians taken: decoding and encoding alone, the whole job at H.264 veryfast and
ultrafast by the wall clock, and the swap's stages without codecs on one core. ``--memory``
compares peak memory for 10 minutes and 10 seconds of 720p; ``--profile`` needs py-spy and says
where the time of the whole job goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from mien import identity, media, pipeline, provenance
from mien.types import Consent, Frame, Rule, SwapPlan

MEDIA = Path(__file__).parent.parent / "examples" / "media"
CONSENT = Consent("synthetic", "benchmark")


def enlarge(clip: Path, out: Path, width: int, height: int, frames: int) -> None:
    """Write ``frames`` frames of the clip, forth and back, at the given size and 30 fps."""
    with av.open(str(clip)) as source:
        pictures = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    with av.open(str(out), "w") as sink:
        stream = sink.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        h, w = pictures[0].shape[:2]
        scale = min(width / w, height / h)
        size = (round(w * scale), round(h * scale))
        x, y = (width - size[0]) // 2, (height - size[1]) // 2
        period = 2 * len(pictures) - 2
        for i in range(frames):
            k = i % period
            canvas = np.zeros((height, width, 3), np.uint8)
            canvas[y : y + size[1], x : x + size[0]] = cv2.resize(
                pictures[min(k, period - k)], size, interpolation=cv2.INTER_CUBIC
            )
            for packet in stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")):
                sink.mux(packet)
        for packet in stream.encode():
            sink.mux(packet)


def swap(clip: Path, portrait: Path, preset: str, *, only_codecs: bool = False) -> pipeline.Report:
    """The whole job, or decoding and encoding alone, by the same machinery."""
    swapper = pipeline.load()
    me = person(portrait, swapper)
    mark = provenance.Marker(consent=CONSENT)
    plan = SwapPlan((Rule(me),))
    stream = pipeline.Stream(swapper)
    if only_codecs:
        stream.observe = lambda frame: []  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, media.open_source(clip) as source:
        out = Path(folder) / "out.mp4"
        options = media.SinkOptions(preset=preset)
        with media.open_sink(out, source, options=options, metadata=mark.metadata()) as sink:
            return pipeline.run(source, sink, stream, plan, mark)


def person(portrait: Path, swapper: pipeline.Swapper):  # noqa: ANN201
    return identity.enrol(
        [portrait], CONSENT, detect=swapper.detector, landmarks=swapper.landmarks,
        embed=swapper.embed, which="largest",
    )  # fmt: skip


def one_core(clip: Path, portrait: Path) -> tuple[dict[str, float], float, float]:
    """Stages without codecs on one core: mean by stage, then mean and median of their sum, ms."""
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    swapper = pipeline.load()
    stream = pipeline.Stream(swapper)
    plan = SwapPlan((Rule(person(portrait, swapper)),))
    mark = provenance.Marker(consent=CONSENT)
    spent = []
    with media.open_source(clip) as source:
        # Decoded before, since the decoder's own threads would share the core.
        frames = [Frame(f.image, f.index, f.pts, f.time_base) for f in islice(source, 160)]
    for held in frames:
        start = time.perf_counter()
        faces = stream.observe(held)
        stream.render(held, stream.assign(faces, plan), plan)
        with stream.times("mark"):
            mark(held)
        spent.append(1000 * (time.perf_counter() - start))
    spent = spent[1:]  # the first makes the portrait ready
    return stream.times.per_frame(len(spent)), statistics.mean(spent), statistics.median(spent)


def peak_memory() -> int:
    """Peak resident memory of this process so far, MB.

    Not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")) // 1024


def peak(clip: Path, portrait: Path) -> int:
    """Peak resident memory of the whole job in a process of its own, MB."""
    report = call("peak", clip, portrait)
    return int(report["peak"])


def call(task: str, *arguments: object) -> dict[str, object]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--task", task, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def task(name: str, arguments: list[str]) -> None:
    clip, portrait = Path(arguments[0]), Path(arguments[1])
    if name == "one-core":
        stages, mean, median = one_core(clip, portrait)
        print(json.dumps({"stages": stages, "mean": mean, "median": median}))
        return
    preset = arguments[2] if len(arguments) > 2 else "ultrafast"
    report = swap(clip, portrait, preset, only_codecs=name == "codecs")
    most = peak_memory()
    print(json.dumps({"fps": report.fps, "stages": report.stages, "peak": most,
                      "frames": report.frames_out, "swapped": report.swapped}))  # fmt: skip


STAGES = {
    "media/source": "decode", "media/colour": "convert", "media/sink": "encode",
    "detect": "detect", "landmarks": "landmarks", "track": "track", "motion": "motion",
    "geometry": "motion", "generate": "generate", "mask": "mask", "blend": "blend",
    "provenance": "mark", "embed": "embed",
}  # fmt: skip


def profile(clip: Path, portrait: Path) -> Counter[str]:
    """Share of active samples by stage, from py-spy's stacks of all threads."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.txt"
        command = ["py-spy", "record", "--format", "raw", "--rate", "200", "--threads",
                   "--nonblocking", "-o", str(raw), "--", sys.executable, __file__,
                   "--task", "swap", str(clip), str(portrait), "veryfast"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        shares: Counter[str] = Counter()
        for line in raw.read_text().splitlines():
            stack, count = line.rsplit(" ", 1)
            if "run (" not in stack and "thread" not in stack.lower():
                continue  # start-up
            frames = stack.split(";")
            where = "other"
            if any("queue.py" in f or "wait (" in f or "join (" in f for f in frames[-3:]):
                continue  # waiting for another thread is no work
            for entry in reversed(frames):
                found = next((v for k, v in STAGES.items() if f"mien/{k}" in entry), None)
                if found:
                    where = found
                    break
            shares[where] += int(count)
        return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, nargs="?", default=MEDIA / "clip.mp4")
    parser.add_argument("portrait", type=Path, nargs="?", default=MEDIA / "portrait-1.jpg")
    parser.add_argument("--frames", type=int, default=282)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="ten minutes of 720p: takes as long")
    parser.add_argument("--profile", action="store_true", help="needs py-spy")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task(options.task[0], options.task[1:])
        return
    lines = [f"machine: {cpu()}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}", ""]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as folder:
        hd = Path(folder) / "1080p.mp4"
        enlarge(options.clip, hd, 1920, 1080, options.frames)
        arguments = (hd, options.portrait)
        say("| job, 1080p | fps, median | of codecs alone | runs |")
        say("|---|---|---|---|")
        for preset in ("veryfast", "ultrafast"):
            runs: dict[str, list[float]] = {"codecs": [], "swap": []}
            for _ in range(options.repeats):  # in turn, so that a noisy minute hits both
                for name, all_fps in runs.items():
                    all_fps.append(float(str(call(name, *arguments, preset)["fps"])))
            codecs = statistics.median(runs["codecs"])
            for name, label in (("codecs", "decode, convert, encode"), ("swap", "whole job")):
                fps = statistics.median(runs[name])
                all_runs = ", ".join(f"{r:.1f}" for r in runs[name])
                say(f"| {label}, {preset} | {fps:.1f} | {fps / codecs:.2f} | {all_runs} |")
        say("")
        results = [call("one-core", *arguments) for _ in range(options.repeats)]
        best = sorted(results, key=lambda r: float(r["mean"]))[len(results) // 2]  # type: ignore[arg-type]
        say(f"stages without codecs, one core: mean {best['mean']:.1f} ms, "
            f"median {best['median']:.1f} ms a frame")  # fmt: skip
        say("| stage | ms a frame |")
        say("|---|---|")
        for stage, ms in dict(best["stages"]).items():  # type: ignore[call-overload]
            say(f"| {stage} | {ms:.2f} |")
        say("")
        if options.profile:
            shares = profile(*arguments)
            total = sum(shares.values())
            say("| where (py-spy, all threads, waiting left out) | share |")
            say("|---|---|")
            for stage, count in shares.most_common():
                say(f"| {stage} | {100 * count / total:.1f} % |")
            say("")
        if options.memory:
            small, large = Path(folder) / "10s.mp4", Path(folder) / "10min.mp4"
            enlarge(options.clip, small, 1280, 720, 300)
            enlarge(options.clip, large, 1280, 720, 18000)
            a, b = peak(small, options.portrait), peak(large, options.portrait)
            say(f"peak memory, 720p: 10 seconds {a} MB, 10 minutes {b} MB, difference {b - a} MB")
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cpu() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(x.split(":", 1)[1].strip() for x in text.splitlines() if "model name" in x)
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
