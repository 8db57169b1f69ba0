"""Contact sheet of results, portraits × clips, to be looked at face by face.

    python scripts/contact_sheet.py --portraits a.jpg b.jpg --clips x.mp4 y.mp4 -o sheet.jpg
        [--frames 4] [--generator mesh] [--cell 256]

First row: the portraits. Then, for each clip, rows of frames: the original, and the swap with each
portrait, cut out around the largest face. Frames are taken where the eyes are most shut, the
mouth most open and the head most turned to either side, since faults show there first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mien import geometry, identity, landmarks, media, pipeline
from mien.types import Consent, Face, Frame, Identity, Image, Rule, SwapPlan


def extremes(path: Path, swapper: pipeline.Swapper, count: int) -> list[tuple[Frame, Face]]:
    """The frames of a clip in which the largest face is most extreme, in order of time."""
    stream = pipeline.Stream(swapper)
    seen: list[tuple[Frame, Face, tuple[float, ...]]] = []
    with media.open_source(path) as source:
        for frame in source:
            faces = stream.observe(frame)
            if not faces:
                continue
            face = max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
            assert face.mesh is not None
            turn = landmarks.yaw(face.mesh)
            key = (
                -min(landmarks.eye_opening(face.mesh)),
                landmarks.mouth_opening(face.mesh),
                turn,
                -turn,
            )
            seen.append((Frame(frame.image, frame.index), face, key))
    chosen: dict[int, tuple[Frame, Face]] = {}
    for k in range(4):
        for frame, face, _ in sorted(seen, key=lambda s: -s[2][k]):
            if all(abs(frame.index - i) > 5 for i in chosen):
                chosen[frame.index] = (frame, face)
                break
        if len(chosen) == count:
            break
    return [chosen[i] for i in sorted(chosen)]


def cell(image: Image, face: Face, size: int) -> Image:
    """A square around the face."""
    side = 1.7 * float((face.box[2:] - face.box[:2]).max())
    matrix = geometry.square_crop((face.box[:2] + face.box[2:]) / 2, side, 0.0, size)
    kind = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=kind), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portraits", nargs="+", type=Path, required=True)
    parser.add_argument("--clips", nargs="+", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=4, help="for each clip, at most 4")
    parser.add_argument("--generator", default="mesh")
    parser.add_argument("--blend", default="soft", choices=["soft", "poisson"])
    parser.add_argument("--cell", type=int, default=256)
    options = parser.parse_args()

    swapper = pipeline.load(options.generator, threads=2)
    people: list[Identity] = [
        identity.enrol(
            [path], Consent("synthetic"), detect=swapper.detector, landmarks=swapper.landmarks,
            embed=swapper.embed, which="largest",
        )
        for path in options.portraits
    ]  # fmt: skip
    size = options.cell
    head = [cv2.resize(p.portraits[0].image, (size, size), interpolation=cv2.INTER_AREA)
            for p in people]  # fmt: skip
    rows = [np.hstack([np.zeros((size, size, 3), np.uint8), *head])]
    for clip in options.clips:
        for frame, face in extremes(clip, swapper, options.frames):
            row = [cell(frame.image, face, size)]
            for person in people:
                copy = Frame(frame.image.copy(), frame.index)
                plan = SwapPlan((Rule(person),), blend=options.blend)
                pipeline.Stream(swapper).render(copy, [(face, person)], plan)
                row.append(cell(copy.image, face, size))
            rows.append(np.hstack(row))
        print(f"{clip.name}: {len(rows) - 1} rows", flush=True)
    sheet = np.ascontiguousarray(np.vstack(rows)[..., ::-1])
    if not cv2.imwrite(str(options.output), sheet):
        raise SystemExit(f"{options.output}: cannot be written")
    print(f"{options.output}: {sheet.shape[1]}×{sheet.shape[0]}")


if __name__ == "__main__":
    main()
