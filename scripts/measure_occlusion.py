"""How well what is in front of a face is found: on drawn pictures, and on frames labelled by hand.

python scripts/measure_occlusion.py [--model occlude.onnx] [--photos photos.npz] [--sheet out.png]

Intersection over union of hidden pixels within the face's contour, at the network's 128×128, all
pictures together. The drawn ones need the cache of photos that training makes; the labelled ones
need the footage folder. What is not there is left out and said so. Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from mien import detect, geometry, landmarks, occlude, runtime
from mien.motion import CROP, aligned
from mien.types import Floats, Frame, Image

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT / "tests" / "data" / "occlusion" / "labels.json"
FINE = 4


def read(path: Path, index: int) -> Image:
    """One picture of a photo or a clip, RGB."""
    if path.suffix != ".mp4":
        image = cv2.imread(str(path))
        if image is None:
            raise FileNotFoundError(f"{path}: not a picture that can be read")
        return np.ascontiguousarray(image[..., ::-1])
    with av.open(str(path)) as clip:
        for i, frame in enumerate(clip.decode(video=0)):
            if i == index:
                return frame.to_ndarray(format="rgb24")
    raise IndexError(f"{path}: has no frame {index}")


def drawn(polygons: list[list[list[float]]], matrix: geometry.Matrix) -> Image:
    """Polygons of the picture as a mask of the crop, ``(CROP, CROP)`` bool."""
    big = np.zeros((CROP * FINE, CROP * FINE), np.uint8)
    for polygon in polygons:
        p = (geometry.transform(matrix, np.array(polygon)) + 0.5) * FINE - 0.5
        cv2.fillPoly(big, [np.round(p * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return cv2.resize(big, (CROP, CROP), interpolation=cv2.INTER_AREA) > 127


def labelled(footage: Path) -> Iterator[tuple[str, Image, Floats, Image, Image]]:
    """Name, crop, mesh in the crop, label and what counts (both bool) of every labelled frame."""
    find, fit = detect.load(), landmarks.load()
    for row in json.loads(LABELS.read_text(encoding="utf-8"))["frames"]:
        frame = Frame(read(footage / row["file"], row["frame"]))
        faces = fit(frame, find(frame))
        if not faces:
            print(f"{row['file']} {row['frame']}: no face found, counted as nothing seen")
            continue
        at = np.array(row["face"])
        face = min(faces, key=lambda f: float(np.hypot(*(f.box[:2] / 2 + f.box[2:] / 2 - at))))
        assert face.mesh is not None
        matrix = aligned(face.mesh, CROP)
        label, ignored = (drawn(row[key], matrix) for key in ("polygons", "ignore"))
        mesh = geometry.transform(matrix, face.mesh)
        crop = geometry.warp(frame.image, matrix, CROP)
        yield (
            f"{row['file']}:{row['frame']} {row['what']}",
            crop, mesh, label, (occlude.contour(mesh) > 127) & ~ignored,
        )  # fmt: skip


def overlap(rows: list[tuple[Image, Image, Image]]) -> float:
    """IoU over all of (found, label, inside)."""
    both = sum(int((p & t & i).sum()) for p, t, i in rows)
    either = sum(int(((p | t) & i).sum()) for p, t, i in rows)
    return both / max(either, 1)


def picture(crop: Image, found: Image, label: Image, inside: Image) -> Image:
    """Crop, label in magenta and what was found in green, side by side."""
    out = [crop]
    for mask, colour in ((label & inside, (255, 0, 255)), (found & inside, (0, 255, 0))):
        shown = crop.astype(np.float32)
        shown[mask] = shown[mask] * 0.45 + np.array(colour) * 0.55
        out.append(shown.astype(np.uint8))
    return np.concatenate(out, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photos", type=Path, help="cache that mien.train.occlusion made")
    parser.add_argument("--count", type=int, default=512, help="drawn pictures")
    parser.add_argument("--sheet", type=Path, help="write the labelled crops to look at")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    net = occlude.Occlude(runtime.load(args.model)) if args.model else occlude.load()
    report: dict[str, object] = {}

    footage = Path(os.environ.get("MIEN_TEST_MEDIA") or ROOT.parent / "shared" / "media")
    if footage.is_dir():
        rows, cells, each = [], [], {}
        for name, crop, mesh, label, inside in labelled(footage):
            found = net(crop[None], mesh[None])[0] > 0.5
            rows.append((found, label, inside))
            each[name] = {
                "iou": round(overlap([rows[-1]]), 3),
                "label": int((label & inside).sum()),
                "found": int((found & inside).sum()),
            }
            cells.append(picture(crop, found, label, inside))
            print(f"{name:58} IoU {each[name]['iou']:.3f}  {each[name]['label']:5d} px labelled")
        report["labelled"] = {"frames": len(rows), "iou": round(overlap(rows), 4), "each": each}
        if args.sheet and cells:
            while len(cells) % 3:
                cells.append(np.zeros_like(cells[0]))
            lines = [np.concatenate(cells[i : i + 3], 1) for i in range(0, len(cells), 3)]
            cv2.imwrite(str(args.sheet), np.concatenate(lines)[..., ::-1])
    else:
        print(f"no footage in {footage}: the labelled frames are left out")

    if args.photos:
        # Training's own held-out pictures: other people, surfaces and chances.
        from mien.train import occlusion

        photos = occlusion.load_photos(args.photos)
        rows = []
        for p in occlusion.held_out(photos, args.count):
            seen = p[[0, 1, 2, 4, 5]].transpose(1, 2, 0)[None].astype(np.float32) / 255
            (found,) = net.model(seen)
            rows.append((found[0] > 0.5, p[3] > 127, p[4] > 127))
        report["drawn"] = {"pictures": len(rows), "iou": round(overlap(rows), 4)}
    else:
        print("no --photos: the drawn pictures are left out")

    one = np.zeros((1, CROP, CROP, 5), np.float32)
    times = []
    for _ in range(60):
        start = time.perf_counter()
        net.model(one)
        times.append(time.perf_counter() - start)
    report["milliseconds"] = round(1e3 * float(np.median(times)), 2)
    for key in ("labelled", "drawn"):
        if key in report:
            print(f"{key}: IoU {report[key]['iou']}")  # type: ignore[index]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
