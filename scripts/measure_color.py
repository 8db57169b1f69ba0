"""How much lighting error colour matching takes away, for generators that do not relight.

    python scripts/measure_color.py --media FOLDER [--portraits 6] [--clips 6] [--frames 5]

FOLDER holds ``portraits`` and ``clips``. The stand-in for a generator is the portrait warped onto
the face, which has all of the portrait's light and nothing of the scene's: the hardest case. Every
portrait is put on every clip, with each of the matches of ``--color``; what is printed is the
lighting error of ``mien evaluate``, and beside it how near the face comes to the portrait and to
the person who was there, which a match must not change much.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mien import blend, generate, identity, media, pipeline, quality
from mien.evaluate import targets
from mien.types import Consent, Face, Frame, Image

MODES = ("none", "lab", "histogram")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--portraits", type=int, default=6)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=5)
    options = parser.parse_args()
    swapper = pipeline.load("warp")
    warp = generate.load("warp")
    people = [
        identity.enrol(
            [path], Consent("written"), detect=swapper.detector, landmarks=swapper.landmarks,
            embed=swapper.embed, which="largest",
        )
        for path in targets.spread(sorted((options.media / "portraits").iterdir()),
                                   options.portraits)
    ]  # fmt: skip
    figures = defaultdict(list)
    for clip in targets.spread(sorted((options.media / "clips").iterdir()), options.clips):
        for image, face in seen(clip, swapper, options.frames):
            crop, inside = quality.view(image, face.mesh), quality.face_in_view(face.mesh)
            (known,) = swapper.embed(Frame(image), [face])
            for person in people:
                for mode in MODES:
                    frame = Frame(image.copy())
                    patches = warp(frame, [face], [person])
                    for patch in patches:
                        blend.soft(frame, blend.match_color(patch, frame, mode))
                    if not patches:
                        continue
                    made = quality.view(frame.image, face.mesh)
                    (swapped,) = swapper.embed(frame, [face])
                    figures[mode].append(
                        (
                            quality.lighting_error(crop, made, inside),
                            float(swapped.embedding @ person.embedding),
                            float(swapped.embedding @ known.embedding),
                        )
                    )
        print(f"{clip.name}:", *(f"{m} {np.mean(figures[m], 0)[0]:.2f}" for m in MODES), flush=True)
    print(f"{'':10s} lighting error  less by  to portrait  to target")
    base = np.mean(figures["none"], 0)[0]
    for mode in MODES:
        error, near, far = np.mean(figures[mode], 0)
        print(f"{mode:10s} {error:9.2f} L*  {1 - error / base:8.0%}  {near:11.3f}  {far:9.3f}")
    print(f"{len(figures['none'])} faces")


def seen(clip: Path, swapper: pipeline.Swapper, count: int) -> Iterator[tuple[Image, Face]]:
    """Frames spread over the first ten seconds of a clip with their largest face."""
    with media.open_source(clip) as source:
        images = [frame.image for frame, _ in zip(source, range(250), strict=False)]
    for i in targets.spread(range(len(images)), count):
        faces = identity.find_faces(Frame(images[i]), swapper.detector, swapper.landmarks)
        if faces:
            face = max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
            yield images[i], face


if __name__ == "__main__":
    main()
