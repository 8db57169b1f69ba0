"""Measure the invisible watermark: what it outlives, what it costs, its false alarms.

    python scripts/measure_watermark.py ../shared/media                # everything, half an hour
    python scripts/measure_watermark.py ../shared/media --seconds 5    # of each clip
    python scripts/measure_watermark.py ../shared/media --quick        # a few clips and photos
    python scripts/measure_watermark.py ../shared/media --keep FOLDER  # swaps are made once

The folder holds ``clips`` and folders of photos. All are swapped with a synthetic portrait of
``examples/media``; the outputs are then attacked and read.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from mien import api, media, pipeline
from mien.errors import MienError
from mien.media import veil as veils
from mien.media.colour import Orientation
from mien.provenance import coding, watermark
from mien.provenance.watermark import Watermark
from mien.types import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ("portraits", "groups", "same_person", "hard")
Attack = Callable[[list[Image]], list[Image]]
rng = np.random.default_rng(5)


def frames_of(path: Path) -> Iterator[Image]:
    """Decode a file with mien's own source."""
    with media.open_source(path) as source:
        for frame in source:
            yield frame.image


def rate_of(path: Path) -> Fraction:
    """Frames a second of a clip."""
    with media.open_source(path) as source:
        return source.info.fps or Fraction(25)


def encode(images: Iterator[Image], path: Path, crf: int, rate: Fraction) -> Path:
    """Encode as H.264 with x264's usual preset (medium)."""
    with av.open(str(path), "w") as out:
        stream = None
        for image in images:
            height, width = (n // 2 * 2 for n in image.shape[:2])
            if stream is None:
                options = {"crf": str(crf)}
                stream = out.add_stream(
                    "libx264", rate=rate, width=width, height=height, options=options
                )
                stream.pix_fmt = "yuv420p"
            even = np.ascontiguousarray(image[:height, :width])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        if stream is not None:
            out.mux(stream.encode(None))
    return path


def scaled(image: Image, factor: float) -> Image:
    """Resize, to even numbers of pixels."""
    height, width = (max(2, round(n * factor) // 2 * 2) for n in image.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def low(image: Image) -> Image:
    """Down to 360 lines."""
    return scaled(image, min(1, 360 / min(image.shape[:2])))


def jpeg(image: Image, quality: int = 75) -> Image:
    """Compress and decompress."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def half(images: list[Image]) -> list[Image]:
    """To half the size and back."""
    sizes = [image.shape[1::-1] for image in images]
    small = [scaled(image, 0.5) for image in images]
    return [
        np.asarray(cv2.resize(a, s, interpolation=cv2.INTER_CUBIC), np.uint8)
        for a, s in zip(small, sizes, strict=True)
    ]


def screenshot(images: list[Image]) -> list[Image]:
    """As a phone shows and keeps it: another size, a slight blur, JPEG 75."""
    shown = (cv2.GaussianBlur(scaled(image, 0.83), (0, 0), 0.8) for image in images)
    return [jpeg(np.asarray(image, np.uint8)) for image in shown]


def cropped(images: list[Image], left: float = 0.9) -> list[Image]:
    """Cut 10 % of the width and of the height away, at random."""
    height, width = images[0].shape[:2]
    rows, columns = round(left * height), round(left * width)
    y, x = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return [np.ascontiguousarray(i[y : y + rows, x : x + columns]) for i in images]


def mirrored(images: list[Image]) -> list[Image]:
    """Left and right changed."""
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]


def same(images: list[Image]) -> list[Image]:
    """As it is."""
    return images


PIXELS: dict[str, tuple[Attack, bool]] = {
    "as written by mien": (same, False),
    "half size and back": (half, False),
    "screenshot (83 %, blur, JPEG 75)": (screenshot, False),
    "crop to 90 % × 90 %": (cropped, True),
    "mirrored": (mirrored, False),
}
"""Attacks on windows of frames, and whether a crop has to be looked for."""

CODED = {
    "H.264 CRF 28": (28, same),
    "H.264 CRF 35": (35, same),
    "half size, H.264 CRF 28": (28, lambda images: [scaled(i, 0.5) for i in images]),
    "360 lines, H.264 CRF 28": (28, lambda images: [low(i) for i in images]),
}
"""Attacks on whole clips: CRF and what comes first."""


def windows(path: Path) -> Iterator[list[Image]]:
    """Two seconds of frames, begun anew every second; a shorter clip is one window."""
    fps = float(rate_of(path))
    size, step = round(2 * fps), round(fps)
    kept: list[Image] = []
    said = False
    for count, image in enumerate(frames_of(path), 1):
        kept = [*kept[-size + 1 :], image]
        if count >= size and (count - size) % step == 0:
            said = True
            yield kept
    if kept and not said:
        yield kept


def ids(path: Path) -> int:
    """The output id that the file's metadata says."""
    return int(media.read_metadata(path)["mien_output"], 16)


class Table:
    """Rates by row, and the weakest find of each."""

    def __init__(self) -> None:
        self.tries: dict[str, int] = defaultdict(int)
        self.good: dict[str, int] = defaultdict(int)
        self.wrong: dict[str, int] = defaultdict(int)
        self.missed: dict[str, list[str]] = defaultdict(list)

    def add(self, row: str, images: list[Image], wanted: int, name: str, *, search: bool) -> None:
        """Read and count."""
        found = watermark.read(images, search=search)
        self.tries[row] += 1
        self.good[row] += found is not None and found.output_id == wanted
        self.wrong[row] += found is not None and found.output_id != wanted
        if found is None:
            self.missed[row].append(name)

    def show(self) -> None:
        """Print as Markdown."""
        print("\n| after | read | of | share | wrong id | missed |\n|---|---|---|---|---|---|")
        for row, tries in self.tries.items():
            names: dict[str, int] = defaultdict(int)
            for name in self.missed[row]:
                names[name] += 1
            missed = ", ".join(f"{n} × {name}" for name, n in names.items())
            print(
                f"| {row} | {self.good[row]} | {tries} | {self.good[row] / tries:.1%} | "
                f"{self.wrong[row]} | {missed[:120]} |",
                flush=True,
            )


def swap_all(targets: list[Path], folder: Path, seconds: float | None) -> dict[Path, Path]:
    """Swap every target that has a face; returns originals and outputs."""
    swapper = pipeline.load()
    who = api.enrol(ROOT / "examples/media/portrait-1.jpg", "synthetic", swapper=swapper)
    made = {}
    for target in targets:
        still = media.kind_of(target) == "image"
        output = folder / f"{target.parent.name}-{target.stem}{'.png' if still else '.mp4'}"
        if not output.exists():
            try:
                result = api.swap(
                    target, who, output, end=None if still else seconds, swapper=swapper
                )
            except MienError as error:
                print(f"{target.name}: {error}", file=sys.stderr)
                continue
            if result.copied:
                output.unlink()
                continue
        if "mien_output" in media.read_metadata(output):
            made[target] = output
    return made


def measure_clips(made: dict[Path, Path], table: Table) -> None:
    """Attack the swapped clips."""
    for target, output in made.items():
        wanted, name, begin = ids(output), target.stem, time.perf_counter()
        for window in windows(output):
            for row, (attack, search) in PIXELS.items():
                table.add(f"clips: {row}", attack(window), wanted, name, search=search)
        for row, (crf, first) in CODED.items():
            with tempfile.TemporaryDirectory() as folder:
                before = (first([image])[0] for image in frames_of(output))
                path = encode(before, Path(folder, "a.mp4"), crf, rate_of(output))
                for window in windows(path):
                    table.add(f"clips: {row}", window, wanted, name, search=False)
                    if row == "H.264 CRF 28":
                        both = cropped(window)
                        label = "clips: H.264 CRF 28, then crop"
                        table.add(label, both, wanted, name, search=True)
        print(f"  {name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)


def measure_photos(made: dict[Path, Path], table: Table) -> None:
    """Attack the swapped photos; those too small to be marked are counted apart."""
    small = 0
    for target, output in made.items():
        image, wanted = media.read_image(output), ids(output)
        if min(image.shape[:2]) < watermark.SMALLEST:
            small += 1
            continue
        name = target.name
        table.add("photos: JPEG 75", [jpeg(image)], wanted, name, search=False)
        table.add("photos: JPEG 50", [jpeg(image, 50)], wanted, name, search=False)
        table.add("photos: half size and back", half([image]), wanted, name, search=False)
        table.add("photos: screenshot", screenshot([image]), wanted, name, search=False)
        crop = [jpeg(cropped([image])[0])]
        table.add("photos: crop to 90 % × 90 %, JPEG 75", crop, wanted, name, search=True)
    print(f"\nPhotos too small for a watermark (below {watermark.SMALLEST} px): {small}")


def measure_sizes(originals: list[Path], table: Table) -> None:
    """Write into pictures of falling size, and read them after JPEG 75."""
    mark = Watermark(0x1234_5678)
    for path in originals:
        image = media.read_image(path)
        for side in (160, 200, 240, 320, 480):
            if min(image.shape[:2]) < side:
                continue
            small = np.ascontiguousarray(scaled(image, side / min(image.shape[:2])))
            if min(small.shape[:2]) < watermark.SMALLEST:
                continue
            mark.embed(small)
            row = f"photos of {side} px (shorter side): JPEG 75"
            table.add(row, [jpeg(small)], mark.output_id, path.name, search=False)


def measure_alarms(clips: list[Path], photos: list[Path]) -> None:
    """Read what carries nothing, and compare the tail of likeness with its theory."""
    tried = alarms = 0
    whitened = []
    pictures = ([media.read_image(path)] for path in photos)
    films = (window for path in clips for n, window in enumerate(windows(path)) if n % 4 == 0)
    for images in (*pictures, *films):
        if min(images[0].shape[:2]) < watermark.SMALLEST:
            continue
        tried += 1
        alarms += watermark.read(images) is not None
        grid = watermark._cells(images[0])
        whitened.append(watermark._whiten(*watermark._activity(grid))[0].ravel())
    print(f"\nFalse alarms on unmarked footage, crops looked for: {alarms} of {tried}")
    counts = watermark._layout().counts[: coding.CODED]
    codes = np.stack([coding.encode(1, int(n)) for n in rng.integers(0, 2**32, 400)])
    codes /= math.sqrt(coding.CODED)
    levels = dict.fromkeys((0.20, 0.25, 0.30, 0.33), 0)
    total, highest = 0, 0.0
    owner = watermark._layout().owner
    for cells in whitened:
        for _ in range(max(1, 20_000 // len(whitened))):
            drawn = rng.permutation(owner)  # another layout and other signs, as with another key
            signed = cells * (rng.integers(0, 2, cells.size) * 2 - 1)
            soft = np.bincount(drawn, signed, coding.CODED + 1)[: coding.CODED] / np.sqrt(counts)
            cosines = codes @ (soft / np.linalg.norm(soft)).astype(np.float32)
            total += cosines.size
            highest = max(highest, float(cosines.max()))
            for level in levels:
                levels[level] += int((cosines > level).sum())
    print(f"Likeness of {total / 1e6:.1f} million pairs of unmarked footage (drawn keys) and code:")
    print("\n| likeness above | measured | computed |\n|---|---|---|")
    for level, count in levels.items():
        print(f"| {level:.2f} | {count / total:.2e} | {10 ** coding.cap_log10(level):.2e} |")
    needs = f"{_needed(1):.2f}, with all crops {_needed(10**6):.2f}"
    print(f"\nHighest {highest:.2f}; a find needs {needs}")


def _needed(alignments: int) -> float:
    """The likeness from which a find is sure enough."""
    levels = np.linspace(0.2, 0.99, 791)
    doubts = [coding.false_alarm_log10(float(t), alignments) for t in levels]
    return float(levels[np.argmax(np.array(doubts) <= watermark.SUREST)])


def measure_cost(clips: list[Path]) -> None:
    """Time at 1080p on one thread, and PSNR before encoding."""
    cv2.setNumThreads(1)
    mark = Watermark(0x1234_5678)
    image = scaled(next(frames_of(clips[0])), 1)
    image = np.ascontiguousarray(cv2.resize(image, (1920, 1080)), np.uint8)
    planes = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")

    def in_luma() -> None:
        veils.add_to_luma(planes, mark.veil(image), Orientation())

    def in_pixels() -> None:
        mark.embed(image)

    steps: dict[str, Callable[[], None]] = {"RGB pixels": in_pixels, "luma plane": in_luma}
    for what, step in steps.items():
        spent = []
        for _ in range(60):
            begin = time.perf_counter()
            step()
            spent.append(time.perf_counter() - begin)
        print(f"Written into {what}, 1920x1080, one thread: {np.median(spent) * 1e3:.2f} ms")
    cv2.setNumThreads(-1)
    each = []
    for path in clips:
        errors = []
        for n, before in enumerate(frames_of(path)):
            if n % 10 == 0:
                after = before.copy()
                mark.embed(after)
                errors.append(np.mean((after.astype(np.float32) - before) ** 2))
        each.append([10 * math.log10(255**2 / e) for e in errors])
    flat = [value for values in each for value in values]
    print(
        f"PSNR before encoding, {len(flat)} frames: lowest {min(flat):.1f} dB, "
        f"mean {np.mean(flat):.1f} dB"
    )


def main() -> None:
    """Measure all that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("media", type=Path, help="folder with clips and photos")
    parser.add_argument("--quick", action="store_true", help="three clips of 4 s, a dozen photos")
    parser.add_argument("--keep", type=Path, help="folder where the swaps are kept for next time")
    parser.add_argument("--seconds", type=float, help="of each clip; its whole length if unsaid")
    given = parser.parse_args()
    clips = sorted((given.media / "clips").glob("*.mp4"))
    photos = [p for name in PHOTOS for p in media.list_images(given.media / name)]
    if given.quick:
        clips, photos = clips[1:6:2], photos[::6]
    seconds = 4.0 if given.quick and given.seconds is None else given.seconds
    measure_cost(clips)
    table = Table()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        made = swap_all([*photos, *clips], folder, seconds)
        measure_photos({a: b for a, b in made.items() if a in photos}, table)
        measure_clips({a: b for a, b in made.items() if a in clips}, table)
    measure_sizes(photos, table)
    table.show()
    measure_alarms(clips, photos)


if __name__ == "__main__":
    main()
