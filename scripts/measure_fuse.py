"""Time the fused graph against the path through OpenCV, and say how far their pictures differ.

    python scripts/measure_fuse.py [PHOTO …] [--provider cpu]

A generator of 256 pixels that gives its crop back, so that all time goes to what is around it; one
face of 420 pixels across the crop in a drawn frame of 1920 × 1080; both ways take turns. On the
processor its own time is counted, so that what else runs does not count; elsewhere that of the
clock. With photos, their faces are swapped both ways by a generator that changes colours, and the
largest and the mean difference under the masks is said.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mien import blend, detect, fuse, geometry, identity, landmarks, media, runtime, zoo
from mien.generate import networks, swapping
from mien.types import Consent, Face, Frame, Identity, Portrait, Rule, SwapPlan

CARD = "hyperswap_1a_256"
WHO = Identity(
    "nobody", np.eye(1, 512, dtype=np.float32)[0],
    (Portrait(np.zeros((8, 8, 3), np.uint8), np.zeros((468, 3), np.float32)),),
    Consent("synthetic"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class One(zoo.Zoo):
    """Whatever is asked for, it is this file."""

    file: Path = Path()

    def path(self, card: zoo.ModelCard) -> Path:
        return self.file

    def open(self, model: Any) -> tuple[zoo.ModelCard, runtime.Model]:
        return model, runtime.load(self.file, self.device, name=model.name)


def generator(
    folder: Path, device: runtime.Device, gains: tuple[float, float, float], name: str
) -> tuple[swapping.SwapGenerator, One]:
    """A crop generator that multiplies channels, and the zoo that it is from."""
    card = zoo.find(CARD)
    crop = [1, 3, card.size, card.size]
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["target", "gains"], ["scaled"]),
        helper.make_node("ReduceSum", ["source"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "none"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "shape"], ["number"]),
        helper.make_node("Add", ["scaled", "number"], ["output"]),
    ]
    constants = {
        "gains": np.float32(gains).reshape(1, 3, 1, 1), "none": np.float32(0),
        "shape": np.array([1, 1, 1, 1]),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "tiny",
        [value("target", TensorProto.FLOAT, crop), value("source", TensorProto.FLOAT, [1, 512])],
        [value("output", TensorProto.FLOAT, crop)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / name)
    models = One(device, file=folder / name)
    network = networks.load(card, models)

    def source(frame: Frame, faces: list[Face], who: list[Identity], strength: float) -> Any:
        return np.zeros((len(faces), 512), np.float32)

    return swapping.SwapGenerator(network, source, None), models


def by_steps(make: Any, frame: Frame, faces: list[Face], plan: SwapPlan) -> None:
    for patch in make(frame, faces, [WHO] * len(faces)):
        blend.soft(frame, blend.match_color(patch, frame, plan.color))


def as_one(fused: fuse.Fused, frame: Frame, faces: list[Face], plan: SwapPlan) -> None:
    fused.paint(frame, fused.outline(frame, faces, [WHO] * len(faces)), plan)


def timed(make: Any, fused: fuse.Fused, rounds: int) -> None:
    clock = time.process_time if fused.model.provider == "cpu" else time.perf_counter
    rng = np.random.default_rng(0)
    rough = rng.uniform(60, 200, (9, 16, 3)).astype(np.float32)
    image = cv2.resize(rough, (1920, 1080), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    image = image.astype(np.uint8)
    card = make.network.card
    matrix = geometry.square_crop((1000.3, 520.7), 420, 0.2, card.size)
    points = geometry.transform(geometry.invert(matrix), swapping.template(card, 1))
    face = Face(np.array([*points.min(0), *points.max(0)], np.float32), 1.0, points)
    for color in ("lab", "none"):
        plan = SwapPlan((Rule(WHO),), color=color)
        spent: dict[str, list[float]] = {"step by step": [], "one graph": []}
        for turn in range(rounds + 2):
            for name, way, what in (
                ("step by step", by_steps, make), ("one graph", as_one, fused),
            ):  # fmt: skip
                frame = Frame(image.copy())
                start = clock()
                way(what, frame, [face], plan)
                if turn > 1:
                    spent[name].append((clock() - start) * 1e3)
        steps, one = (statistics.median(v) for v in spent.values())
        ratio = one / steps
        print(f"color {color}: step by step {steps:.1f} ms, one graph {one:.1f} ms, {ratio:.1f} ×")


def compared(make: Any, fused: fuse.Fused, photos: list[Path]) -> None:
    detector, mesh = detect.load(), landmarks.load()
    for color in ("lab", "none"):
        plan = SwapPlan((Rule(WHO),), color=color)
        worst, total, over, pixels, count = 0, 0.0, 0, 0, 0
        for photo in photos:
            image = media.read_image(photo)
            for face in identity.find_faces(Frame(image), detector, mesh):
                a, b = Frame(image.copy()), Frame(image.copy())
                by_steps(make, a, [face], plan)
                as_one(fused, b, [face], plan)
                off = np.abs(a.image.astype(int) - b.image).max(2)[(a.image != image).any(2)]
                if not off.size:
                    continue
                worst, count = max(worst, int(off.max())), count + 1
                over += int((off > 2).sum())
                total, pixels = total + float(off.sum()), pixels + off.size
        print(
            f"color {color}: {count} faces, {pixels} pixels: max {worst}, "
            f"mean {total / max(pixels, 1):.4f}, over 2: {over}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    said = parser.parse_args()
    device = runtime.Device(said.provider, said.threads)
    device = replace(device, cache="off")
    cv2.setNumThreads(said.threads)
    with tempfile.TemporaryDirectory() as folder:
        make, models = generator(Path(folder), device, (1, 1, 1), "identity.onnx")
        timed(make, fuse.load(make, models), said.rounds)
        if said.photos:
            make, models = generator(Path(folder), device, (0.9, 0.7, 0.5), "shift.onnx")
            compared(make, fuse.load(make, models), said.photos)


if __name__ == "__main__":
    main()
