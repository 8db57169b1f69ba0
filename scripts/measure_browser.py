"""How the page fares in a headless Chromium, by WebRTC and by WebSocket: frames, ages, size.

    python scripts/measure_browser.py --chromium /usr/bin/chromium

plays the demo clip as the server's camera and as the browser's, in a size of each, and prints one
JSON object. Ages are the page's own, of every frame: from capture until the frame is on the page
(the callback for a presented video frame, or the canvas when it is drawn). Needs Playwright.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / "examples" / "media"

COLLECT = """() => {
  globalThis.seen = [];
  document.addEventListener("mien-frame", ({ detail }) => seen.push([detail.now, detail.age]));
}"""

BARS = {"view": (27.0, 120.0), "camera": (24.0, None)}
"""Frames a second at least, and p95 of the age in milliseconds at most."""


def frames(clip: Path, width: int, height: int) -> Iterator[np.ndarray]:
    """The clip's pictures as RGB, cut to a shape and scaled, at most 8 s of them."""
    import av
    import cv2

    with av.open(str(clip)) as container:
        for _, frame in zip(range(240), container.decode(video=0), strict=False):
            image = frame.to_ndarray(format="rgb24")
            high, wide = image.shape[:2]
            w, h = min(wide, high * width // height), min(high, wide * height // width)
            x, y = (wide - w) // 2, (high - h) // 2
            yield cv2.resize(image[y : y + h, x : x + w], (width, height))


def as_camera(clip: Path, out: Path, width: int, height: int) -> None:
    """The clip at 30 frames a second, as Chromium's fake camera reads it."""
    import cv2

    with out.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode())
        for image in frames(clip, width, height):
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes())


def as_film(clip: Path, out: Path, width: int, height: int) -> None:
    """The clip at 30 frames a second, as the server's camera."""
    import av

    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", 30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in frames(clip, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


def serve(clip: Path, size: str, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start ``mien live``; the process, and the page's address."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from mien.cli import main; main()", "live",
         "-s", str(MEDIA / "portrait-1.jpg"), "--consent", "synthetic",
         "-o", "browser", "--port", "0", "--size", size, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = []
    for line in process.stdout or ():
        said.append(line)
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise RuntimeError("".join(said))


def spent(engine: int) -> dict[str, float]:
    """Seconds of processor time so far: of the engine's process, the server's, and Chromium's."""
    tick, out = os.sysconf("SC_CLK_TCK"), {"engine": 0.0, "server": 0.0, "chromium": 0.0}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used = (int(fields[11]) + int(fields[12])) / tick
        if int(folder.name) == engine:
            out["engine"] += used
        elif int(fields[1]) == engine:
            out["server"] += used
        elif b"--use-file-for-fake" in name or b"--type=" in name:
            out["chromium"] += used
    return out


def measure(
    page: Any, url: str, engine: int, role: str, way: str, size: str, seconds: float, warm: float
) -> dict:
    """Start on the page, and count."""
    page.goto(f"{url}#role={role}&way={way}&size={size}")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.evaluate(COLLECT)
    page.check("#accepted")
    page.click("#go")
    deadline = time.monotonic() + 60
    while not page.evaluate("seen.length"):
        if time.monotonic() > deadline:
            raise RuntimeError(page.inner_text("#message") or "no picture came")
        time.sleep(0.1)
    time.sleep(warm)
    page.evaluate("seen.length = 0")
    before, began = spent(engine), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    cores = {name: round((now - before[name]) / passed, 2) for name, now in spent(engine).items()}
    seen = np.array(page.evaluate("seen"), dtype=float)
    data = page.evaluate("({...document.body.dataset})")
    page.click("#stop")
    ages = seen[:, 1][~np.isnan(seen[:, 1])]
    fps = (len(seen) - 1) / (seen[-1, 0] - seen[0, 0]) * 1000
    least, most = BARS[role]
    p95 = float(np.percentile(ages, 95)) if len(ages) else None
    return {
        "role": role, "way": data["way"], "asked": size,
        "shown": f"{data['width']}x{data['height']}", "fps": round(float(fps), 1),
        "age_p50": round(float(np.percentile(ages, 50)), 1) if len(ages) else None,
        "age_p95": None if p95 is None else round(p95, 1), "cores": cores,
        "met": bool(fps >= least and (most is None or (p95 is not None and p95 <= most))),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--clip", type=Path, default=MEDIA / "clip.mp4")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm", type=float, default=8.0, help="seconds that are not counted")
    parser.add_argument("--view", default="1280x720", help="size of the server's camera")
    parser.add_argument("--camera", default="640x480", help="size of the browser's camera")
    parser.add_argument("--roles", default="view,camera")
    parser.add_argument("--ways", default="webrtc,socket")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    results = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        film, recording = Path(folder) / "camera.y4m", Path(folder) / "film.mp4"
        as_camera(args.clip, film, *map(int, args.camera.split("x")))
        as_film(args.clip, recording, *map(int, args.view.split("x")))
        for role in args.roles.split(","):
            source = ("--input", str(recording), "--loop")
            if role == "camera":
                source = ("--camera", "none")
            for way in args.ways.split(","):
                # A browser and a server of its own each: nothing is left of the one before.
                process, url = serve(args.clip, args.view, *source)
                browser = playwright.chromium.launch(
                    executable_path=args.chromium,
                    args=["--no-sandbox", "--use-fake-ui-for-media-stream",
                          "--use-fake-device-for-media-stream",
                          f"--use-file-for-fake-video-capture={film}"],
                )  # fmt: skip
                try:
                    if role == "view":
                        time.sleep(2)  # until the camera is offered
                    size = args.view if role == "view" else args.camera
                    page = browser.new_page()
                    results.append(
                        measure(page, url, process.pid, role, way, size, args.seconds, args.warm)
                    )
                    print(results[-1], file=sys.stderr)
                finally:
                    browser.close()
                    process.terminate()
                    process.wait(20)
    print(json.dumps({"cores": os.cpu_count(), "seconds": args.seconds, "results": results}))


if __name__ == "__main__":
    main()
