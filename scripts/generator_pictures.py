"""Before and after, on faces of nobody: the faults that the default generator was made against.

    python scripts/generator_pictures.py docs/images/generator.jpg

Each row: the portrait, the target, the swap by ``mesh``, the swap by ``relight``. All faces are the
bundled synthetic ones; what is in front of them, and the hard light, is drawn here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mien import blend, generate, geometry, identity, landmarks, media, pipeline
from mien.types import Consent, Face, Frame, Image

MEDIA = Path(__file__).resolve().parents[1] / "examples" / "media"
CELL = 230


def spectacles(image: Image, mesh: np.ndarray) -> Image:
    out = image.copy()
    wide = float(np.linalg.norm(mesh[263, :2] - mesh[33, :2]))
    thick = max(2, round(wide / 34))
    rims = []
    for ring in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE):
        middle = mesh[list(ring), :2].mean(0) + np.array([0, 0.04 * wide])
        rims.append(middle)
        centre = (int(middle[0]), int(middle[1]))
        axes = (round(0.27 * wide), round(0.22 * wide))
        cv2.ellipse(out, centre, axes, 0, 0, 360, (40, 30, 28), thick, cv2.LINE_AA)
    ends = [
        m + np.array([s * 0.27 * wide, -0.03 * wide]) for m, s in zip(rims, (1, -1), strict=True)
    ]
    cv2.line(out, *(tuple(int(v) for v in e) for e in ends), (40, 30, 28), thick, cv2.LINE_AA)
    return out


def fringe(image: Image, mesh: np.ndarray) -> Image:
    out, rng = image.copy(), np.random.default_rng(3)
    top, brow = mesh[10, :2], mesh[9, :2]
    wide = float(np.linalg.norm(mesh[454, :2] - mesh[234, :2]))
    for _ in range(260):
        x = rng.uniform(-0.5, 0.5) * wide
        start = top + np.array([x, -0.1 * wide])
        sway = rng.normal(0, 0.04), rng.uniform(-0.12, 0.0)
        end = brow + np.array([x * 1.05 + sway[0] * wide, sway[1] * wide])
        shade = rng.integers(20, 60)
        colour = (int(shade * 1.2), int(shade * 0.9), int(shade * 0.7))
        points = np.round(np.array([start, end]) * 8).astype(np.int32)
        cv2.polylines(out, [points], False, colour, max(1, int(wide / 150)), cv2.LINE_AA, 3)
    return out


def side_light(image: Image, mesh: np.ndarray) -> Image:
    edge = mesh[[10, 9, 6, 4, 152], :2]
    w = image.shape[1]
    shade = np.ones(image.shape[:2], np.float32)
    up = np.array([0, 400])
    right = np.array([[w, edge[0, 1] - 400], [w, edge[-1, 1] + 400]])
    polygon = np.concatenate([right[:1], edge[:1] - up, edge, edge[-1:] + up, right[1:]])
    cv2.fillPoly(shade, [np.round(polygon).astype(np.int32)], 0.4)
    shade = cv2.GaussianBlur(shade, (0, 0), w / 120)
    return (image * shade[..., None]).astype(np.uint8)


def crop(image: Image, face: Face) -> Image:
    side = 1.55 * float((face.box[2:] - face.box[:2]).max())
    matrix = geometry.square_crop((face.box[:2] + face.box[2:]) / 2, side, 0.0, CELL)
    return geometry.warp(image, matrix, CELL, border=cv2.BORDER_REPLICATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    swapper = pipeline.load()
    generators = [generate.load(name) for name in ("mesh", "relight")]

    def face_of(image: Image) -> Face:
        faces = identity.find_faces(Frame(image), swapper.detector, swapper.landmarks)
        return max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))

    stream = pipeline.Stream(swapper)
    seen = []
    with media.open_source(MEDIA / "clip.mp4") as source:
        for frame in source:
            seen += [(frame.image.copy(), f) for f in stream.observe(frame)[:1]]

    def extreme(key: Callable[[np.ndarray], float]) -> Image:
        return max(seen, key=lambda item: key(item[1].mesh))[0]

    portraits = [media.read_image(MEDIA / f"portrait-{n}.jpg") for n in (1, 2, 3, 4)]
    plain = seen[len(seen) // 3][0]
    rows = [
        ("identity, shape and eyes", portraits[0], plain),
        ("identity, shape and eyes", portraits[1], plain),
        ("spectacles of the target", portraits[1], spectacles(plain, face_of(plain).mesh)),
        ("fringe of the target", portraits[3], fringe(plain, face_of(plain).mesh)),
        ("spectacles of the portrait",
         spectacles(portraits[0], face_of(portraits[0]).mesh), plain),
        ("fringe of the portrait", fringe(portraits[1], face_of(portraits[1]).mesh), plain),
        ("hard light on the target", portraits[3], side_light(plain, face_of(plain).mesh)),
        ("hard light on the portrait",
         side_light(portraits[0], face_of(portraits[0]).mesh), plain),
        ("turned head", portraits[1], extreme(lambda m: abs(landmarks.yaw(m)))),
        ("shut eyes", portraits[0], extreme(lambda m: -min(landmarks.eye_opening(m)))),
        ("open mouth", portraits[3], extreme(landmarks.mouth_opening)),
    ]  # fmt: skip
    lines = []
    for title, portrait, target in rows:
        person = identity.enrol(
            [portrait], Consent("synthetic"), detect=swapper.detector,
            landmarks=swapper.landmarks, embed=swapper.embed, which="largest",
        )  # fmt: skip
        face = face_of(target)
        cells = [crop(portrait, face_of(portrait)), crop(target, face)]
        for generator in generators:
            frame = Frame(target.copy())
            for patch in generator(frame, [face], [person]):
                blend.soft(frame, patch)
            cells.append(crop(frame.image, face))
        line = np.hstack(cells)
        cv2.putText(line, title, (6, CELL - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1,
                    cv2.LINE_AA)  # fmt: skip
        lines.append(line)
    half = (len(lines) + 1) // 2
    lines += [np.full_like(lines[0], 255)] * (2 * half - len(lines))
    gap = np.full((half * CELL, 8, 3), 255, np.uint8)
    sheet = np.hstack([np.vstack(lines[:half]), gap, np.vstack(lines[half:])])
    _, coded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    options.output.write_bytes(coded.tobytes())


if __name__ == "__main__":
    main()
