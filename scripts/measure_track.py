"""Jitter and lag of what steadies landmarks, and whether numbers stay with people.

    python scripts/measure_track.py steady [CLIP ...] [--step 2] [--noise 4]
    python scripts/measure_track.py people [--portraits FILE FILE ...]

``steady`` fits meshes to every ``--step``-th frame of the clips (each frame left out makes a head
turn that much faster) and to a frame that stands still under sensor noise, and runs the same fits
through every filter:

- jitter: standard deviation of the landmarks of the still face, in parts of the unfiltered one's;
- lag: the delay in frames at which the filtered landmarks lie nearest to the fitted ones, over
  the quarter of the frames in which the face moves most;
- off: how far they lie from the fitted ones there, 95th percentile in % of the face's width;
- shiver: mean second difference of the landmarks over the slower half of the frames, in parts of
  the unfiltered one's: tremble that is seen while the face moves;
- blink: the narrowest opening of the eyes, fitted over filtered: 1 keeps a blink, less cuts it;
- ms: time for a face and frame.

``people`` runs the made clips of tests/crowd.py, with the bundled portraits or with those given.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from mien import media, pipeline
from mien.landmarks import eye_opening
from mien.track import LIVE, Flow, OneEuro, Steady, Tracker, TrackOptions
from mien.types import Floats, Frame, Image

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / "examples" / "media"
sys.path.insert(0, str(ROOT / "tests"))

RATE = 30.0
STILL = 60
LONGEST = 150

Fits = list[tuple[Image, Floats]]
Filter = Callable[[Image, Floats, float], Floats]


def fitted(pictures: Sequence[Image], swapper: pipeline.Swapper) -> Fits:
    """Each picture and the mesh of its first face, the longest run without a miss."""
    tracker = Tracker(
        swapper.detector.quick, swapper.detector.thorough, swapper.landmarks,
        TrackOptions(steady="off"),
    )  # fmt: skip
    runs: list[Fits] = [[]]
    number = None
    for index, picture in enumerate(pictures):
        faces = tracker(Frame(picture, index))
        if not faces or faces[0].mesh is None or faces[0].track != number:
            runs.append([])
        if faces and faces[0].mesh is not None:
            runs[-1].append((picture, faces[0].mesh))
            number = faces[0].track
    return max(runs, key=len)


def flow() -> Filter:
    steady, seen = Steady(TrackOptions().tremble), Flow()

    def run(image: Image, mesh: Floats, width: float) -> Floats:
        last = mesh if steady.value is None else steady.value
        return steady(mesh, width, seen(image, mesh, last))

    return run


def fits_alone() -> Filter:
    steady = Steady(TrackOptions().tremble)
    return lambda image, mesh, width: steady(mesh, width)


def one_euro(cutoff: float, beta: float) -> Filter:
    steady = OneEuro(cutoff, beta)
    return lambda image, mesh, width: steady(mesh, width, 1 / RATE)


def none() -> Filter:
    return lambda image, mesh, width: mesh


FILTERS: dict[str, Callable[[], Filter]] = {
    "none": none,
    "flow (default)": flow,
    "flow's filter without flow": fits_alone,
    **{
        f"One-Euro {c:g} Hz, beta {b:g}": (lambda c=c, b=b: one_euro(c, b))
        for c, b in ((2, 6), (0.5, 40), (0.5, 80), (0.5, 160), (0.3, 40), (0.3, 80), (0.3, 160))
    },
}


def width_of(mesh: Floats) -> float:
    return float(np.ptp(mesh[:468, :2], axis=0).max())


def run(fits: Fits, make: Callable[[], Filter]) -> tuple[Floats, float]:
    """``(T, N, 2)`` filtered landmarks and milliseconds a frame."""
    step = make()
    began = time.perf_counter()
    out = [step(image, mesh, width_of(mesh)) for image, mesh in fits]
    return np.stack(out), 1000 * (time.perf_counter() - began) / len(fits)


def lag(fit: Floats, out: Floats, fast: np.ndarray) -> float:
    """Frames by which ``(T, N, 2)`` lies behind, over the frames that are meant."""
    delays = np.arange(0, 3.01, 0.05)
    where = np.flatnonzero(fast)
    where = where[where >= 4]
    wrong = []
    for delay in delays:
        first = np.floor(where - delay).astype(int)
        part = (where - delay - first)[:, None, None]
        then = fit[first] * (1 - part) + fit[np.minimum(first + 1, len(fit) - 1)] * part
        wrong.append(float(((out[where] - then) ** 2).mean()))
    return float(delays[int(np.argmin(wrong))])


def steadiness(clips: Sequence[Path], step: int, noise: float) -> None:
    swapper = pipeline.load()
    rng = np.random.default_rng(0)
    moving, still = [], []
    for clip in clips:
        with media.open_source(clip) as source:
            pictures = [f.image for f, _ in zip(source, range(LONGEST * step), strict=False)]
        moving.append(fitted(pictures[::step], swapper))
        first = cv2.GaussianBlur(pictures[0], (0, 0), 0.7).astype(np.float32)
        noisy = [
            np.clip(first + rng.normal(0, noise, first.shape), 0, 255).astype(np.uint8)
            for _ in range(STILL)
        ]
        still.append(fitted(noisy, swapper))
    plain = [jitter(run(fits, none)[0]) for fits in still]
    shares = [100 * p / width_of(fits[0][1]) for p, fits in zip(plain, still, strict=True)]
    print(
        f"{len(clips)} clips, every {step}. frame, {sum(map(len, moving))} fits; noise {noise:g}: "
        f"unfiltered jitter {np.mean(shares):.3f} % of the face's width"
    )
    print(f"{'':34}{'jitter':>8}{'lag':>7}{'off %':>8}{'shiver':>8}{'blink':>7}{'ms':>7}")
    for name, make in FILTERS.items():
        trembles = [jitter(run(fits, make)[0]) / p for fits, p in zip(still, plain, strict=True)]
        lags, offs, shivers, blinks, times = [], [], [], [], []
        for fits in moving:
            raw, _ = run(fits, none)
            out, ms = run(fits, make)
            wide = np.mean([width_of(m) for m in raw])
            pace = np.array([0, *(np.abs(b - a)[:, :2].mean() for a, b in pairwise(raw))])
            fast = pace > np.quantile(pace, 0.75)
            lags.append(lag(raw[..., :2], out[..., :2], fast))
            apart = np.linalg.norm((out - raw)[..., :2], axis=-1)[fast]
            offs.append(100 * float(np.percentile(apart, 95)) / wide)
            slow = (pace <= np.quantile(pace, 0.5))[2:]
            bends = [np.abs(np.diff(m[..., :2], n=2, axis=0))[slow].mean() for m in (out, raw)]
            shivers.append(bends[0] / bends[1])
            narrow = [min(np.mean(eye_opening(m)) for m in meshes[5:]) for meshes in (raw, out)]
            blinks.append(max(narrow[0], 0.02) / max(narrow[1], 0.02))
            times.append(ms)
        print(
            f"{name:34}{np.mean(trembles):8.2f}{max(lags):7.2f}{max(offs):8.2f}"
            f"{np.mean(shivers):8.2f}{np.mean(blinks):7.2f}{np.mean(times):7.2f}"
        )


def jitter(meshes: Floats) -> float:
    """Standard deviation of ``(T, N, 3)`` landmarks, after a start of ten frames."""
    return float(meshes[10:, :, :2].std(0).mean())


def people(portraits: Sequence[Path]) -> None:
    import crowd

    swapper = pipeline.load()
    if portraits:
        heads = [crowd.cutout(path, swapper) for path in portraits]
        pairs = list(zip(heads, heads[1:] + heads[:1], strict=True))
    else:
        photo = MEDIA / "photo.jpg"
        left, right = crowd.cutout(photo, swapper), crowd.cutout(photo, swapper, 1)
        other = crowd.cutout(MEDIA / "portrait-2.jpg", swapper)
        pairs = [(left, right), (right, left), (right, other), (other, right)]
    alike = [(one, crowd.alike(one)) for one, _ in pairs]
    told: dict[str, list[int]] = {}
    ways = {"files": TrackOptions(), "live": LIVE}
    for way, options in ways.items():
        for kind, clips in crowd.made(pairs, alike).items():
            for clip in clips:
                stream = pipeline.Stream(swapper, identify=True, options=options)
                told_ = crowd.tell(clip, stream)
                row = told.setdefault(f"{kind} ({way})", [0, 0, 0, 0])
                row[0] += 1
                row[1] += sum(map(len, told_.numbers))
                row[2] += len(told_.changes)
                row[3] += stream.times.calls("embed")
    print(f"{'':34}{'clips':>8}{'faces':>8}{'changed':>9}{'looks':>8}")
    for kind, (count, faces, changed, looks) in told.items():
        print(f"{kind:34}{count:8}{faces:8}{changed:9}{looks / count:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    steady = kinds.add_parser("steady")
    steady.add_argument("clips", nargs="*", type=Path, default=[MEDIA / "clip.mp4"])
    steady.add_argument("--step", type=int, default=2)
    steady.add_argument("--noise", type=float, default=4.0)
    crowd = kinds.add_parser("people")
    crowd.add_argument("--portraits", nargs="*", type=Path, default=[])
    asked = parser.parse_args()
    if asked.kind == "steady":
        steadiness(asked.clips, asked.step, asked.noise)
    else:
        people(asked.portraits)


if __name__ == "__main__":
    main()
