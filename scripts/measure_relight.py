"""What each part of the default generator costs on one core, for a patch of 512 pixels.

    python scripts/measure_relight.py [--portrait P] [--clip C] [--rounds 60]

Prints medians and tenths (the time that one round in ten beats, which is nearest to an idle core)
of what does not depend on the face's size: motion field, features, both networks; and of what
does: painting and pasting. The frame is enlarged until the patch is 512 pixels wide. Counted is
processor time of the threads that do it, kept on one core where the system can, so that what is
painted beside does not share a core's caches with the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien import blend, eyes, generate, geometry, identity, media, motion, pipeline, shape, zoo
from mien.generate import look, relight
from mien.types import Consent, Face, Frame

MEDIA = Path(__file__).parent.parent / "examples" / "media"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portrait", type=Path, default=MEDIA / "portrait-3.jpg")
    parser.add_argument("--clip", type=Path, default=MEDIA / "clip.mp4")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    swapper = pipeline.load("relight")
    person = identity.enrol(
        [options.portrait], Consent("synthetic"), detect=swapper.detector,
        landmarks=swapper.landmarks, embed=swapper.embed, which="largest",
    )  # fmt: skip
    with media.open_source(options.clip) as source:
        image = next(iter(source)).image
    face = identity.find_faces(Frame(image), swapper.detector, swapper.landmarks)[0]
    zoom = 512 / max(np.ptp(motion.extended(face.mesh, 1.08)[:, :2], axis=0))
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    (face,) = swapper.landmarks(Frame(image), [face_at(face, zoom)])
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            out = function(*args, **kwargs)
            spent[name].append((time.thread_time() - start) * 1e3)
            return out

        return call

    generator: relight.RelightGenerator = swapper.generate
    occlude = timed("occlusion network", generator.occlude)
    made = relight.RelightGenerator(timed("relight network", generator.network), occlude)
    other = {
        precision: generate.load("relight", zoo.Zoo(precision=precision))
        for precision in ("fp32", "int8")
    }
    motion.cover, motion.through = timed("cover", motion.cover), timed("through", motion.through)
    relight.look = timed("look", look.look)
    relight.settle = timed("settle", look.settle)
    relight._painted = timed("warp and light at full size", relight._painted)
    relight._softness = timed("softness", relight._softness)
    relight.Held.steady = timed("hold", relight.Held.steady)
    geometry_warp = geometry.warp
    geometry.warp = timed("crop", geometry_warp)
    shape.bend, shape.surroundings = (
        timed("bend", shape.bend),
        timed("bend, full", shape.surroundings),
    )
    shape.bent = timed("bent crop", shape.bent)
    eyes.paint, eyes.shut = timed("eyes", eyes.paint), timed("eyes, shut", eyes.shut)
    made.prepare(person)
    mesh = geometry.transform(motion.aligned(face.mesh), face.mesh)
    spent.clear()
    memory: dict = {}
    paste = timed("paste", blend.soft)
    for index in range(options.rounds):
        frame = Frame(image.copy(), index)
        face.memory = memory
        for patch in timed("generator", made)(frame, [face], [person]):
            paste(frame, patch)
        for name, generator_ in other.items():
            inputs = np.zeros((1, look.CHANNELS, 128, 128), np.float32)
            timed(f"relight network, {name}", generator_.network)(inputs)
            crop = np.zeros((1, motion.CROP, motion.CROP, 3), np.uint8)
            timed(f"occlusion network, {name}", generator_.occlude)(crop, mesh[None])
    rounds = options.rounds

    def row(values: list[float]) -> tuple[float, float]:
        per = np.array(values).reshape(rounds, -1).sum(1)
        return round(float(np.median(per)), 2), round(float(np.percentile(per, 10)), 2)

    table = {name: row(values) for name, values in spent.items()}
    # through() is called by look(), for the portrait.
    table["features"] = tuple(
        round(a - b, 2) for a, b in zip(table["look"], table["through"], strict=True)
    )

    def total(*names: str) -> tuple[float, float]:
        return tuple(round(sum(table[n][k] for n in names), 2) for k in (0, 1))

    fixed = ("crop", "cover", "through", "features", "settle", "hold", "bend", "bent crop")
    for name in other:
        networks = f"relight network, {name}", f"occlusion network, {name}"
        table[f"SIZE-INDEPENDENT, {name}"] = total(*fixed, *networks)
    table["PAINTING AND PASTING"] = total(
        "warp and light at full size", "softness", "eyes", "eyes, shut", "paste"
    )
    table["PAINTING AND PASTING, surroundings bent"] = tuple(
        round(a + b, 2)
        for a, b in zip(table["PAINTING AND PASTING"], table["bend, full"], strict=True)
    )
    print(json.dumps({"machine": platform.processor() or platform.machine(), "rounds": rounds}))
    print(f"{'ms on one core':44s} median   tenth")
    for name, (median, tenth) in table.items():
        print(f"{name:44s} {median:6.2f}  {tenth:6.2f}")


def face_at(face: Face, zoom: float) -> Face:
    face.mesh = face.mesh * np.float32(zoom)
    face.box, face.points = face.box * zoom, face.points * zoom
    return face


if __name__ == "__main__":
    main()
