"""Recall and precision of the detector on the hand-drawn boxes of ``tests/data/boxes.json``.

    python scripts/measure_detect.py --media ../shared/media [--mode thorough|video|quick] \
        [--turn 0|1|2|3] [--detector NAME --models FOLDER [--like CARD]]

Another detector than the default one is the file of its card in FOLDER; weights that have no card
are read as a card says that is given with ``--like``, from ``NAME.onnx``.

A detection is right if it overlaps a drawn box by an IoU of 0.4 or more; each drawn box counts
once. Data sets use 0.5, but our boxes were drawn by eye, and where a forehead ends under a fringe
or a chin under a mask is a matter of taste that moves the IoU by 0.1 and more. A box on something
else never reaches 0.4. Drawn boxes marked ``ignore`` (too small, turned away, out of focus ...,
each with its reason) are neither missed nor falsely found: a detection that lies in one by half
of its area or more does not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien import detect, runtime, zoo
from mien.types import Face, Faces, Floats, Image

BOXES = Path(__file__).parent.parent / "tests" / "data" / "boxes.json"
IOU = 0.4
SMALLEST = 0.05
"""Share of the picture's height from which a face has to be found."""
SIZES = (0.05, 0.07, 0.1, 0.15, 0.25, 0.5, 10.0)


@dataclass
class Outcome:
    """Of one picture: the share of the height of each box found or missed, and what was wrong."""

    found: list[float] = field(default_factory=list)
    missed: list[Floats] = field(default_factory=list)
    false: list[Floats] = field(default_factory=list)
    ms: float = 0.0
    height: int = 1


def compare(faces: Faces, drawn: list[dict[str, Any]], height: int) -> Outcome:
    """Match detections with drawn boxes, the best detection first."""
    boxes = np.array([d["box"] for d in drawn], np.float32).reshape(-1, 4)
    ignore = np.array([bool(d["ignore"]) for d in drawn], bool)
    left = ~ignore
    outcome = Outcome(height=height)
    for face in sorted(faces, key=lambda face: -face.score):
        overlap = np.where(left, detect.iou(face.box, boxes), 0.0)
        best = int(overlap.argmax()) if overlap.size else -1
        if best >= 0 and overlap[best] >= IOU:
            left[best] = False
            tall = length(boxes[best]) / height
            outcome.found += [tall] if tall >= SMALLEST else []
        elif not (inside(face.box, boxes[ignore]) >= 0.5).any():
            outcome.false.append(face.box)
    outcome.missed = [b for b in boxes[left] if length(b) >= SMALLEST * height]
    return outcome


def length(box: Floats) -> float:
    """Of the face, hairline to chin, also when it lies on its side."""
    return float((box[2:] - box[:2]).max())


def inside(box: Floats, regions: Floats) -> Floats:
    """Share of the box that lies in each region."""
    size = np.minimum(box[2:], regions[:, 2:]) - np.maximum(box[:2], regions[:, :2])
    return np.asarray(size.clip(0).prod(axis=1) / max((box[2:] - box[:2]).prod(), 1e-9))


def measure(media: Path, look: Callable[[Image], Faces], turns: int = 0) -> dict[str, Outcome]:
    """Run the detector on every picture that has drawn boxes, turned by quarter turns."""
    result = {}
    for name, truth in json.loads(BOXES.read_text()).items():
        pixels = cv2.imread(str(media / name))
        if pixels is None:
            raise SystemExit(f"{media / name}: cannot be read")
        image: Image = np.ascontiguousarray(pixels[..., ::-1])
        height, width = image.shape[:2]
        if [width, height] != truth["size"]:
            raise SystemExit(f"{name}: boxes were drawn on {truth['size']}, not {width}x{height}")
        image, drawn = turned(image, truth["faces"], turns)
        start = time.perf_counter()
        faces = look(image)
        took = 1000 * (time.perf_counter() - start)
        result[name] = compare(faces, drawn, image.shape[0])
        result[name].ms = took
    return result


def turned(
    image: Image, drawn: list[dict[str, Any]], turns: int
) -> tuple[Image, list[dict[str, Any]]]:
    image = detect.turn(image, turns)
    height, width = image.shape[:2]
    points = np.zeros((5, 2), np.float32)
    faces = [Face(np.array(entry["box"], np.float32), 1.0, points) for entry in drawn]
    moved = detect.turn_back(faces, -turns, width, height)
    return image, [{**e, "box": f.box} for e, f in zip(drawn, moved, strict=True)]


def recall(outcomes: dict[str, Outcome]) -> float:
    found = sum(len(o.found) for o in outcomes.values())
    return found / max(1, found + sum(len(o.missed) for o in outcomes.values()))


def precision(outcomes: dict[str, Outcome]) -> float:
    found = sum(len(o.found) for o in outcomes.values())
    return found / max(1, found + sum(len(o.false) for o in outcomes.values()))


def looks(detector: detect.Detector) -> dict[str, Callable[[Image], Faces]]:
    return {
        "thorough": lambda image: detector.thorough(image, still=True),
        "video": detector.thorough,
        "quick": detector.quick,
    }


def published(name: str, folder: Path, like: str | None) -> detect.Detector:
    """A detector whose weights lie in a folder."""
    card = zoo.find(like or name)
    if like:  # a graph's own size counts, where it has one
        card = replace(card, name=name, file=f"{name}.onnx", size=0)
    model = runtime.load(folder / card.file)
    network = detect.FAMILIES[card.family](card, model)
    return detect.Detector(network, network)


def report(outcomes: dict[str, Outcome]) -> None:
    def rounded(boxes: list[Floats]) -> str:
        return "; ".join(",".join(str(round(float(v))) for v in box) for box in boxes)

    for name, o in outcomes.items():
        line = f"{name:36} found {len(o.found):3} missed {len(o.missed):2} false {len(o.false):2}"
        line += f" {o.ms:6.1f} ms"
        line += f"  missed {rounded(o.missed)}" if o.missed else ""
        line += f"  false {rounded(o.false)}" if o.false else ""
        print(line)
    print("\nheight of the face, share of the picture's | drawn | found")
    for low, high in itertools.pairwise(SIZES):
        found = sum(low <= s < high for o in outcomes.values() for s in o.found)
        missed = sum(
            low <= length(b) / o.height < high for o in outcomes.values() for b in o.missed
        )
        label = f"{low:.0%} to {high:.0%}" if high < 10 else f"from {low:.0%}"
        print(f"{label:42} | {found + missed:5} | {found / max(1, found + missed):.3f}")
    print(f"\nrecall {recall(outcomes):.4f}  precision {precision(outcomes):.4f}  at IoU {IOU}")
    print(f"median {statistics.median(o.ms for o in outcomes.values()):.1f} ms a picture")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--mode", choices=("thorough", "video", "quick"), default="thorough")
    parser.add_argument("--turn", type=int, choices=(0, 1, 2, 3), default=0, help="quarter turns")
    parser.add_argument("--detector", default=detect.DEFAULT, help="name of a card")
    parser.add_argument("--models", type=Path, help="folder with the detector's weights")
    parser.add_argument("--like", help="card that says how NAME.onnx is fed and read")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detector = (
        published(options.detector, options.models, options.like)
        if options.models
        else detect.load(name=options.detector)
    )
    report(measure(options.media, looks(detector)[options.mode], options.turn))


if __name__ == "__main__":
    main()
