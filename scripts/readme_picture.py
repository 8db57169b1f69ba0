"""Puts portrait, clip and swapped clip side by side: the picture in the README.

``make demo`` calls it on the bundled media; its ``demo/result.jpg`` is ``docs/images/result.jpg``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mien import media
from mien.types import Image

MEDIA = Path(__file__).resolve().parents[1] / "examples" / "media"

GAP = 6
PAPER = 255
LARGEST = 300_000
"""Bytes that the picture may have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("swapped", type=Path, help="what mien made of the clip")
    parser.add_argument("output", type=Path, help="JPEG to write")
    parser.add_argument("--portrait", type=Path, default=MEDIA / "portrait-3.jpg")
    parser.add_argument("--clip", type=Path, default=MEDIA / "clip.mp4")
    parser.add_argument("--frames", type=int, nargs="+", default=[42, 66, 104])
    parser.add_argument("--height", type=int, default=290, help="of a frame in the picture")
    args = parser.parse_args()
    rows = [
        np.hstack(spaced([scaled(f, args.height) for f in frames(path, args.frames)], axis=1))
        for path in (args.clip, args.swapped)
    ]
    clips = np.vstack(spaced(rows, axis=0))
    portrait = media.read_image(args.portrait)
    side = square(portrait, clips.shape[0])
    picture = np.hstack(spaced([side, clips], axis=1))
    save(args.output, picture)
    print(f"{args.output}: {picture.shape[1]}x{picture.shape[0]}")


def frames(path: Path, numbers: Sequence[int]) -> list[Image]:
    """The frames of these numbers, in the order given."""
    found = {}
    with media.open_source(path) as source:
        for frame in source:
            if frame.index in numbers:
                found[frame.index] = frame.image.copy()
            if len(found) == len(set(numbers)):
                break
    missing = [n for n in numbers if n not in found]
    if missing:
        raise SystemExit(f"{path}: has no frame {missing[0]}")
    return [found[n] for n in numbers]


def scaled(image: Image, height: int) -> Image:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def square(image: Image, side: int) -> Image:
    """The middle of the picture, as large as it goes."""
    height, width = image.shape[:2]
    cut = min(height, width)
    y, x = (height - cut) // 2, (width - cut) // 2
    return scaled(image[y : y + cut, x : x + cut], side)


def spaced(images: list[Image], *, axis: int) -> list[Image]:
    """The images with a white gap between each two."""
    out = [images[0]]
    for image in images[1:]:
        shape = list(image.shape)
        shape[axis] = GAP
        out += [np.full(shape, PAPER, np.uint8), image]
    return out


def save(path: Path, image: Image) -> None:
    """Write the best JPEG that is small enough."""
    for quality in range(92, 60, -4):
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
        if len(data) <= LARGEST:
            break
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
