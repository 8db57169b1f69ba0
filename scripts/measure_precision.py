"""The default models in fp32 and in int8: time, size, and accuracy in each stage's own measure.

    python scripts/measure_precision.py --media ../shared/media [--train ../shared/train] \
        [--models relight,occlude] [--out FOLDER]

Ranges come from five clips and some photos; accuracy is measured on other footage: boxes drawn by
hand (detectors), distance between meshes (facemesh), pairs of Labeled Faces in the Wild (embedder),
labelled frames (occlusion), other clips by the measures of ``mien evaluate`` (relight). Times are
medians of alternating runs on one thread, in that thread's own processor time. Prints a table;
``--out`` keeps the int8 files.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien import detect, embed, media, occlude, pipeline, precision, quality, runtime, zoo
from mien.precision import Sample
from mien.quantize import measures, recording
from mien.types import Frame

sys.path.insert(0, str(Path(__file__).parent))
import measure_detect
import measure_embed
import measure_occlusion

MODELS = ("blazeface_full", "centerface", "facemesh", "faceres512", "occlude", "relight")
RANGES = ("clips/lp_d0.mp4", "clips/lp_d13.mp4", "clips/ghost_nggyup.mp4", "clips/lp_src_s20.mp4",
          "clips/facenet_1080p.mp4")  # fmt: skip
MEASURED = ("clips/lp_d12.mp4", "clips/WDA_KatieHill_000.mp4", "clips/lp_src_s13.mp4")
ONE = runtime.Device(threads=1)

Figures = dict[str, float]
Measured = dict[str, Figures]
"""``fp32`` and ``int8`` → measure → figure."""


@dataclass(frozen=True, slots=True)
class Recording(zoo.Zoo):
    """A zoo that records what every model is asked."""

    taken: dict[str, recording.Recorder] = field(default_factory=dict)

    def open(self, model: str | zoo.ModelCard) -> tuple[zoo.ModelCard, runtime.Model]:
        card, loaded = zoo.Zoo.open(self, model)
        return card, self.taken.setdefault(card.name, recording.recorder(loaded))


def frames(folder: Path, names: Sequence[str], each: int) -> list[list[Frame]]:
    return [list(recording.frames_of(folder / name, each)) for name in names]


def asked(folder: Path, names: Sequence[str], each: int = 10) -> dict[str, list[Sample]]:
    """What every model is asked while faces of some files are put onto others."""
    models = Recording(ONE, precision="fp32")
    swapper = pipeline.load(models=models)
    some = frames(folder, names, each)
    people = [p for p in (recording.person_in(f[:4], swapper) for f in some) if p]
    for number, several in enumerate(some, 1):
        recording.run(swapper, several, people[number % len(people)])
    return {name: record.samples for name, record in models.taken.items()}


def chain(card: zoo.ModelCard, model: runtime.Model) -> pipeline.Swapper:
    return recording.chain(card, recording.instead(zoo.Zoo(ONE), card.name, model))


def of_detector(card: zoo.ModelCard, pair: dict[str, runtime.Model], args: Any) -> Measured:
    quick = card.name == "blazeface_full"
    out = {}
    for name, model in pair.items():
        detector: detect.Detector = chain(card, model).detector
        found = measure_detect.measure(args.media, detector.quick if quick else detector.thorough)
        out[name] = {
            "recall": measure_detect.recall(found),
            "precision": measure_detect.precision(found),
        }
    return out


def of_mesh(card: zoo.ModelCard, pair: dict[str, runtime.Model], args: Any) -> Measured:
    several = [f for file in frames(args.media, MEASURED, 12) for f in file]
    chains = tuple(chain(card, model) for model in pair.values())
    (loss,) = measures._mesh((chains[0], chains[1]), several).values()
    return {"fp32": {"points off, % of the face": 0.0},
            "int8": {"points off, % of the face": 100 * loss.loss}}  # fmt: skip


class Both:
    """Several embedders as one: the first answers, the vectors of all are kept."""

    def __init__(self, embedders: dict[str, embed.Embedder]) -> None:
        self.embedders = embedders
        self.vectors: dict[str, list[Any]] = {name: [] for name in embedders}

    def __call__(self, frame: Frame, faces: Any) -> Any:
        found = {name: one(frame, faces) for name, one in self.embedders.items()}
        for name, faces_ in found.items():
            self.vectors[name].append(faces_[0].embedding)
        return found["fp32"]


def of_embedder(card: zoo.ModelCard, pair: dict[str, runtime.Model], args: Any) -> Measured:
    if args.train is None:
        return {name: {} for name in pair}
    folds = measure_embed.read_pairs(args.train / "lfw-pairs.txt")[: args.folds]
    folds = [fold[start::2] for fold in folds for start in (0, 1)]  # the report needs two
    wanted = {name for fold in folds for a, b, _ in fold for name in (a, b)}
    both = Both({name: chain(card, model).embed for name, model in pair.items()})
    photos = measure_embed.read_photos(args.train / "lfw-192.tar", wanted.__contains__)
    found, *_ = measure_embed.vectors(photos, both)
    out = {}
    for name, vectors in both.vectors.items():
        report = measure_embed.report(folds, dict(zip(found, vectors, strict=True)))
        out[name] = {k: report[k] for k in ("auc", "accuracy", "recall_far_1e-3")}
    mixed = [float(a @ b) for a, b in zip(*both.vectors.values(), strict=True)]
    out["int8"]["cosine with fp32's"] = float(np.mean(mixed))
    return out


def of_occlusion(card: zoo.ModelCard, pair: dict[str, runtime.Model], args: Any) -> Measured:
    rows: dict[str, list[Any]] = {name: [] for name in pair}
    for _, crop, mesh, label, inside in measure_occlusion.labelled(args.media):
        for name, model in pair.items():
            found = occlude.Occlude(model)(crop[None], mesh[None])[0] > 0.5
            rows[name].append((found, label, inside))
    return {name: {"IoU": measure_occlusion.overlap(found)} for name, found in rows.items()}


def of_generator(card: zoo.ModelCard, pair: dict[str, runtime.Model], args: Any) -> Measured:
    chains = [chain(card, model) for model in pair.values()]
    portraits = [[Frame(media.read_image(args.media / "portraits" / name))]
                 for name in ("lp_d30.jpg", "lp_s1.jpg", "lp_s42.jpg")
                 if (args.media / "portraits" / name).is_file()]  # fmt: skip
    people = [p for p in (recording.person_in(f, chains[0]) for f in portraits) if p]
    footage = measures.Footage(list, {args.media / c: False for c in MEASURED}, people)
    found = measures._quality((chains[0], chains[1]), footage)
    short = {value.title: key for key, value in quality.MEASURES.items()}
    worst = max(loss.loss for loss in found.values())
    return {
        "fp32": {short[k]: v.full for k, v in found.items()},
        "int8": {short[k]: v.now for k, v in found.items()} | {"worst loss, %": 100 * worst},
    }


MEASURE: dict[str, Callable[[zoo.ModelCard, dict[str, runtime.Model], Any], Measured]] = {
    "detect": of_detector, "landmarks": of_mesh, "embed": of_embedder,
    "occlude": of_occlusion, "generate": of_generator,
}  # fmt: skip


speed = partial(precision.speed, clock=time.thread_time)


def dynamic(simple: Path, out: Path) -> bool:
    """Weights of matrix products in int8, ranges found in each run; False if there are none."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(simple), str(out), op_types_to_quantize=["MatMul", "Gemm"])
    return out.read_bytes() != simple.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--train", type=Path, help="with lfw-192.tar and lfw-pairs.txt")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", type=Path, help="keep the int8 files there")
    parser.add_argument("--methods", default=",".join(precision.METHODS), help="of calibration")
    parser.add_argument("--folds", type=int, default=2, help="of the pairs' list, 600 pairs each")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    seen = asked(args.media, RANGES)
    rows = []
    for name in args.models.split(","):
        card = zoo.find(name)
        source = zoo.path(card)
        with tempfile.TemporaryDirectory() as folder:
            simple, made = Path(folder) / "simple.onnx", Path(folder) / f"{name}_int8.onnx"
            precision.simplify(source, simple)
            samples = seen[name]
            if not card.size:  # free sizes: the most frequent one is enough to measure time by
                samples = [s for s in samples if s[0].size <= 3 * 512 * 512][:32]
            choice = precision.choose_int8(simple, made, samples, methods=args.methods.split(","))
            full, folded, int8 = (runtime.load(p, ONE) for p in (source, simple, made))
            row: dict[str, Any] = {"model": name, "method": choice.method, "kept": len(choice.kept)}
            row["tried"] = {k: round(v, 4) for k, v in choice.tried.items()}
            row["bytes"] = [source.stat().st_size, made.stat().st_size]
            row["ms"] = speed(full, int8, samples[-1], args.rounds)
            row["ms of fp32, simplified"] = speed(full, folded, samples[-1], args.rounds)
            other = Path(folder) / "dynamic.onnx"
            if name in ("faceres512", "facemesh") and dynamic(simple, other):
                row["ms of dynamic"] = speed(
                    full, runtime.load(other, ONE), samples[-1], args.rounds
                )
            row["outputs"] = {
                k: round(v.error, 4) for k, v in precision.differences(full, int8, samples).items()
            }
            pair = {"fp32": replace(full, name=name), "int8": replace(int8, name=f"{name}_int8")}
            row["measures"] = MEASURE[card.task](card, pair, args)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                (args.out / made.name).write_bytes(made.read_bytes())
        rows.append(row)
        print(json.dumps(row, default=float), flush=True)
    print(f"\n{platform.processor() or platform.machine()}, one thread\n")
    print("| model | ms fp32 → int8 | as fast | MB fp32 → int8 | accuracy fp32 → int8 |")
    print("|---|---|---|---|---|")
    for row in rows:
        (a, b), (p, q) = row["ms"], row["bytes"]
        both = row["measures"]
        said = "; ".join(
            f"{k} {both['fp32'].get(k, float('nan')):.4g} → {v:.4g}"
            for k, v in both["int8"].items()
        )
        figures = f"{a:.2f} → {b:.2f} | {a / b:.2f} | {p / 1e6:.2f} → {q / 1e6:.2f}"
        print(f"| {row['model']} | {figures} | {said} |")


if __name__ == "__main__":
    main()
