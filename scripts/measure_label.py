"""How surely the visible label is found again, and how often it is found where there is none.

    python scripts/measure_label.py marked FOLDER…     labels on clips: CRF 28, half size, JPEG 75
    python scripts/measure_label.py clean FOLDER…      the same files without a label, at five sizes

Every clip is marked in a language, a place and a size drawn by chance, in pictures of 240, 360,
480 and 720 lines; of photos and clips without a label, one frame a second is looked at.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from mien.errors import MienError
from mien.media import kind_of, open_source
from mien.provenance import label

FRAMES = 12
LINES = (240, 360, 480, 720)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("marked", "clean"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=4, help="how often each clip is marked")
    given = parser.parse_args()
    files = sorted(p for folder in given.folders for p in folder.rglob("*") if p.is_file())
    kinds = {path: kind for path in files if (kind := kind_if_any(path)) is not None}
    if given.what == "clean":
        clean(kinds)
    else:
        marked([p for p, kind in kinds.items() if kind == "video"], given.rounds)


def kind_if_any(path: Path) -> str | None:
    try:
        with open_source(path):
            return kind_of(path)
    except MienError:
        return None


def marked(clips: list[Path], rounds: int) -> None:
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[bool, bool, float]]] = {}
    for number, path in enumerate(clips * rounds):
        with open_source(path) as source:
            frames = [sized(f.image, LINES[number % len(LINES)]) for f in islice(source, FRAMES)]
        language = str(rng.choice(list(label.SAID)))
        place = str(rng.choice(label.PLACES))
        preset = ("usual", "regulated")[number // len(LINES) % 2]
        height, width = frames[0].shape[:2]
        drawn = label.render(
            label.layout(height, width, place, preset=preset, language=language)  # type: ignore[arg-type]
        )
        for image in frames:
            region = image[drawn.rect.slices()]
            cv2.multiply(region, drawn.keep, region, scale=1 / 255)
            cv2.add(region, drawn.light, region)
        coded = encoded(frames)
        seen = {
            "JPEG 75": jpeg(frames[-1]),
            "CRF 28": coded,
            "CRF 28, then half size": half(coded),
            "half size, then CRF 28": encoded([half(image) for image in frames]),
            "CRF 28, half size and back": cv2.resize(half(coded), (width, height)),
            "CRF 28, half size, JPEG 75": jpeg(half(coded)),
        }
        for name, image in seen.items():
            found = label.find(image)
            right = found is not None and found.place == place
            right = right and label.SAID[found.language] == label.SAID[language]
            margin = -1.0 if found is None else found.score - label.needed(found.rect)
            rows.setdefault(name, []).append((found is not None, right, margin))
    print("| after | pictures | found | place and words right | least margin |")
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        there, right, margin = zip(*row, strict=True)
        print(f"| {name} | {len(row)} | {sum(there)} | {sum(right)} | {min(margin):.2f} |")


def clean(kinds: dict[Path, str]) -> None:
    pictures, closest = 0, [(-2.0, "")]
    found = []
    for path, kind in kinds.items():
        for image in once_a_second(path) if kind == "video" else shrunk(path):
            pictures += 1
            margins = [c.score - label.needed(c.rect) for c in label.candidates(image)]
            best = max(margins, default=-2.0)
            closest.append((best, f"{path.name} at {image.shape[1]}x{image.shape[0]}"))
            found += [closest[-1]] if best >= 0 else []
    print(f"{pictures} pictures without a label, found in {len(found)}: {found}")
    print("nearest:", *(f"{m:.3f} {name};" for m, name in sorted(closest, reverse=True)[:5]))


def once_a_second(path: Path) -> Iterator[np.ndarray]:
    with open_source(path) as source:
        step = max(1, round(float(source.info.fps or 25)))
        for number, frame in enumerate(source):
            if number % step == 0:
                yield frame.image


def shrunk(path: Path) -> Iterator[np.ndarray]:
    with open_source(path) as source:
        image = next(iter(source)).image
    for size in (1280, 640, 320, 160, 96):
        if max(image.shape[:2]) >= size:
            yield sized(image, round(size * min(image.shape[:2]) / max(image.shape[:2])))


def sized(image: np.ndarray, lines: int) -> np.ndarray:
    scale = lines / min(image.shape[:2])
    size = [max(2, round(n * scale / 2) * 2) for n in (image.shape[1], image.shape[0])]
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def half(image: np.ndarray) -> np.ndarray:
    return sized(image, min(image.shape[:2]) // 2)


def jpeg(image: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])


def encoded(frames: list[np.ndarray]) -> np.ndarray:
    """The middle one of frames that went through H.264 at CRF 28."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "28"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return pictures[len(pictures) // 2]


if __name__ == "__main__":
    main()
