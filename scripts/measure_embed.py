"""How well the embedder tells people apart: the 6,000 pairs of Labeled Faces in the Wild.

    python scripts/measure_embed.py --photos lfw-192.tar --pairs lfw-pairs.txt

Prints the area under the ROC curve, the accuracy over the list's ten folds (the threshold chosen
on the other nine), the cosine from which one pair of strangers in a thousand is taken for one
person, the share of true pairs above it, and the milliseconds that a face costs. Faces go through
mien's own detector and mesh; in each photo the face nearest the middle counts.
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import detect, embed, landmarks
from mien.types import Face, Faces, Floats, Frame

Pair = tuple[str, str, bool]


def read_pairs(path: Path) -> list[list[Pair]]:
    """The folds of a pairs file: two photo names and whether they show one person."""
    head, *lines = path.read_text().splitlines()
    folds, per_kind = (int(n) for n in head.split())
    pairs: list[Pair] = []
    for line in lines:
        match line.split():
            case [name, a, b]:
                pairs.append((photo(name, a), photo(name, b), True))
            case [one, a, other, b]:
                pairs.append((photo(one, a), photo(other, b), False))
    if len(pairs) != folds * per_kind * 2:
        raise SystemExit(
            f"{path}: {len(pairs)} pairs, its first line promises {folds * per_kind * 2}"
        )
    step = per_kind * 2
    return [pairs[i : i + step] for i in range(0, len(pairs), step)]


def photo(name: str, number: str) -> str:
    return f"{name}_{int(number):04d}.jpg"


def read_photos(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Frame]]:
    """Photos of a tar file by base name."""
    with tarfile.open(path) as tar:
        for member in tar:
            name = Path(member.name).name
            stream = tar.extractfile(member) if name.endswith(".jpg") and wanted(name) else None
            if stream is not None:
                coded = np.frombuffer(stream.read(), np.uint8)
                image = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
                yield name, Frame(np.ascontiguousarray(image))


def middle(faces: Faces, image: NDArray[np.uint8]) -> Face | None:
    """The face nearest the middle, measured in its own size."""
    centre = np.array([image.shape[1], image.shape[0]]) / 2

    def away(face: Face) -> float:
        size = float((face.box[2:] - face.box[:2]).mean())
        return float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre)) / size

    return min(faces, key=away, default=None)


def vectors(
    photos: Iterable[tuple[str, Frame]], embedder: embed.Embedder, points: str = "mesh"
) -> tuple[dict[str, Floats], float, int]:
    """Embed the middle face of every photo.

    Args:
        photos: Name and picture.
        embedder: Run on one face at a time.
        points: ``mesh`` or ``detector``: whose five points decide the crop.

    Returns:
        Name → embedding; median milliseconds of the embedder alone; photos without a face, in
        which the middle was taken.
    """
    detector, mesh = detect.load(), landmarks.load()
    found: dict[str, Floats] = {}
    times, lost = [], 0
    for name, frame in photos:
        face = middle(detector.thorough(frame.image), frame.image)
        if face is None:
            lost += 1
            half = frame.image.shape[0] / 2
            box = np.array([half * 0.5, half * 0.5, half * 1.5, half * 1.5], np.float32)
            eyes = np.array([[0.8, 0.9], [1.2, 0.9]]) * half
            rest = np.array([[1, 1.1], [0.85, 1.3], [1.15, 1.3]]) * half
            face = Face(box, 0.0, np.concatenate([eyes, rest]).astype(np.float32))
        fitted = mesh(frame, [face])[0]
        if points == "detector":
            fitted = replace(fitted, points=face.points)
        start = time.perf_counter()
        vector = embedder(frame, [fitted])[0].embedding
        times.append(time.perf_counter() - start)
        assert vector is not None
        found[name] = vector
    return found, float(np.median(times)) * 1e3, lost


def report(folds: list[list[Pair]], found: dict[str, Floats]) -> dict[str, float]:
    """AUC, ten-fold accuracy, threshold for a false match in a thousand, and recall there."""
    scores = np.array([[float(found[a] @ found[b]) for a, b, _ in fold] for fold in folds])
    truth = np.array([[same for *_, same in fold] for fold in folds])
    same, other = np.sort(scores[truth]), np.sort(scores[~truth])
    below = np.searchsorted(other, same, "left") + np.searchsorted(other, same, "right")
    right = []
    for i in range(len(folds)):
        rest_scores = np.delete(scores, i, 0).ravel()
        rest_truth = np.delete(truth, i, 0).ravel()
        order = np.argsort(rest_scores)
        # accuracy of a threshold just below each score: strangers under it, true pairs from it on
        strangers = np.concatenate([[0], np.cumsum(~rest_truth[order])[:-1]])
        kept = rest_truth.sum() - np.concatenate([[0], np.cumsum(rest_truth[order])[:-1]])
        cut = rest_scores[order][(strangers + kept).argmax()]
        right.append(((scores[i] >= cut) == truth[i]).mean())
    limit = float(other[-max(1, round(len(other) / 1000)) - 1])
    return {
        "auc": float(below.mean() / 2 / len(other)),
        "accuracy": float(np.mean(right)),
        "threshold_far_1e-3": limit,
        "recall_far_1e-3": float((same > limit).mean()),
        "same_below_0.2": float((same < 0.2).mean()),
        "same_median": float(np.median(same)),
        "other_median": float(np.median(other)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="tar file of the photos")
    parser.add_argument("--pairs", type=Path, required=True, help="the list of pairs")
    parser.add_argument("--points", choices=("mesh", "detector"), default="mesh")
    options = parser.parse_args()
    folds = read_pairs(options.pairs)
    wanted = {name for fold in folds for a, b, _ in fold for name in (a, b)}
    photos = read_photos(options.photos, wanted.__contains__)
    found, per_face, lost = vectors(photos, embed.load(), options.points)
    if missing := wanted - found.keys():
        raise SystemExit(f"{options.photos}: lacks {len(missing)} photos, {min(missing)} first")
    for key, value in report(folds, found).items():
        print(f"{key:20} {value:.4f}")
    print(f"{'ms_per_face':20} {per_face:.1f}")
    print(f"{'photos':20} {len(found)}, of which {lost} without a face found")


if __name__ == "__main__":
    main()
