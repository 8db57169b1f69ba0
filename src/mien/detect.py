"""Where the faces are: a quick look for every frame and a thorough one for now and then.

Two networks share the work. :class:`BlazeFace` costs 4 ms and sees faces from about 15 % of the
picture's longer side up to those that fill it. :class:`CenterFace` sees small ones, at a price
that grows with its input. :class:`Detector` joins them.

Boxes of both follow one convention, that of the WIDER FACE data set: from the hairline to the
chin and from ear to ear, as far as visible. Points are in the order of :class:`mien.types.Face`,
left and right as seen by a viewer who holds the head upright: of a face that stands on its head,
"left eye" is the one on the picture's right, so that the direction from the first to the second
point always gives the head's tilt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mien import runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Faces, Floats, Frame, Image

Turn = int
"""Quarter turns counter-clockwise, 0..3, as :func:`numpy.rot90` counts them."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was fitted into a network's input: ``input = picture * scale + shift``.

    Both are in pixel *edges* (the top left pixel's corner is the origin), the convention in which
    resizing is a pure scale; ``back`` returns to pixel centres.

    Attributes:
        scale: Input pixels per picture pixel, x and y.
        shift: Of the picture inside the input, pixels, x and y.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]

    def back(self, points: Floats) -> Floats:
        """Map ``(..., 2)`` input coordinates (edges) to picture pixels (centres)."""
        scale = np.asarray(self.scale, np.float32)
        shift = np.asarray(self.shift, np.float32)
        return np.asarray((points - shift) / scale - 0.5, np.float32)


def shrink(image: Image, width: int, height: int) -> Image:
    """Resize by halving while that leads down, then linearly: no aliasing, and five times faster.

    OpenCV halves with vector code; its general area average takes 7.6 ms from 1080p to 736x414.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (-(-image.shape[1] // 2), -(-image.shape[0] // 2))
        image = _image(cv2.resize(image, half, interpolation=cv2.INTER_AREA))
    if image.shape[:2] != (height, width):
        image = _image(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return image


def letterbox(image: Image, width: int, height: int, *, centre: bool) -> tuple[Image, Fit]:
    """Fit a picture into ``width`` x ``height``, keeping its shape, with black around it.

    Args:
        image: ``(H, W, 3)`` uint8.
        width: Of the result, pixels.
        height: Of the result, pixels.
        centre: Put it in the middle rather than at the top left.

    Returns:
        ``(height, width, 3)`` uint8, and the way back.
    """
    rows, cols = image.shape[:2]
    scale = min(width / cols, height / rows)
    w = max(1, min(width, round(cols * scale)))
    h = max(1, min(height, round(rows * scale)))
    x, y = ((width - w) // 2, (height - h) // 2) if centre else (0, 0)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[y : y + h, x : x + w] = shrink(image, w, h)
    return canvas, Fit((w / cols, h / rows), (x, y))


def turn(image: Image, turns: Turn) -> Image:
    """Turn a picture counter-clockwise by quarter turns; contiguous."""
    return np.ascontiguousarray(np.rot90(image, turns))


def turn_back(faces: Faces, turns: Turn, width: int, height: int) -> Faces:
    """Map faces found in ``turn(image, turns)`` to ``image``, which is ``width`` x ``height``."""
    return [
        Face(
            box=_box_of(_unturn(face.box.reshape(2, 2), turns, width, height)),
            score=face.score,
            points=_unturn(face.points, turns, width, height),
        )
        for face in faces
    ]


def _unturn(points: Floats, turns: Turn, width: int, height: int) -> Floats:
    x, y = points[..., 0], points[..., 1]
    moved = {
        0: (x, y),
        1: (width - 1 - y, x),
        2: (width - 1 - x, height - 1 - y),
        3: (y, height - 1 - x),
    }[turns % 4]
    return np.stack(moved, axis=-1).astype(np.float32)


def _box_of(corners: Floats) -> Floats:
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)


def _image(pixels: object) -> Image:
    return np.asarray(pixels, np.uint8)


# --- BlazeFace ------------------------------------------------------------------------------


def anchors(side: int) -> Floats:
    """Centres of BlazeFace's anchors in input pixels, in the order of the network's outputs.

    The full-range network (192) has one anchor a cell at stride 4, the "back" (256) and
    short-range (128) networks two at a sixteenth and six at an eighth of the resolution
    (MediaPipe, ``ssd_anchors_calculator.cc`` with the options of ``face_detection_*.pbtxt``).

    Args:
        side: Of the network's square input: 128, 192 or 256.

    Returns:
        ``(2304, 2)`` or ``(896, 2)`` x and y.

    Raises:
        ModelError: No BlazeFace has such an input.
    """
    layout = {192: [(4, 1)], 256: [(16, 2), (32, 6)], 128: [(8, 2), (16, 6)]}
    if side not in layout:
        raise ModelError(f"BlazeFace takes 128, 192 or 256 pixels a side, not {side}")
    grids = []
    for stride, repeats in layout[side]:
        cells = (np.arange(side // stride) + 0.5) * stride
        x, y = np.meshgrid(cells, cells)
        grids.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), repeats, axis=0))
    return np.concatenate(grids).astype(np.float32)


class BlazeFace:
    """MediaPipe's BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047): fast, larger faces.

    Args:
        model: Input ``(1, S, S, 3)`` RGB in -1..1; outputs ``(1, N, 16)`` box and six points in
            pixels relative to the anchor, and ``(1, N, 1)`` logits.
        threshold: Score from which an anchor counts, 0..1.
    """

    def __init__(self, model: runtime.Model, threshold: float = 0.5) -> None:
        side = next(iter(model.inputs.values()))[1]
        if not isinstance(side, int):
            raise ModelError(f"{model.name}: BlazeFace needs a fixed input size, not {side!r}")
        self.model = model
        self.threshold = threshold
        self.side = side
        self.anchors = anchors(side)

    def __call__(self, image: Image) -> Faces:
        """Find faces in an RGB picture ``(H, W, 3)``; boxes and points in its pixels."""
        canvas, fit = letterbox(image, self.side, self.side, centre=True)
        raw, logits = self.model(canvas[None].astype(np.float32) / 127.5 - 1.0)
        chosen = logits[0, :, 0] > math.log(self.threshold / (1 - self.threshold))
        if not chosen.any():
            return []
        values = raw[0, chosen].reshape(-1, 8, 2)
        scores = 1.0 / (1.0 + np.exp(-logits[0, chosen, 0]))
        centre = values[:, 0] + self.anchors[chosen]
        half = values[:, 1] / 2
        points = values[:, 2:] + self.anchors[chosen, None]
        corners = np.concatenate(
            [(centre - half)[:, None], (centre + half)[:, None], points], axis=1
        )
        corners, scores = weighted_nms(corners, scores)
        return [
            Face(hairline_box(found[:2], found[2:]), float(score), five_points(found[2:]))
            for found, score in zip(fit.back(corners), scores, strict=True)
        ]


def weighted_nms(corners: Floats, scores: Floats, overlap: float = 0.3) -> tuple[Floats, Floats]:
    """Melt boxes that overlap into their score-weighted mean, as BlazeFace's paper does.

    It steadies the box from frame to frame, where plain suppression jumps between anchors.

    Args:
        corners: ``(N, K, 2)``; the first two rows are the box's corners.
        scores: ``(N,)``.
        overlap: Intersection over union from which two are one.

    Returns:
        ``(M, K, 2)`` and the highest score of each, ``(M,)``, best first.
    """
    left = np.argsort(-scores)
    boxes = corners[:, :2].reshape(-1, 4)
    kept, best = [], []
    while left.size:
        same = iou(boxes[left[0]], boxes[left]) > overlap
        same[0] = True
        group = left[same]
        weights = scores[group] / scores[group].sum()
        kept.append(np.tensordot(weights, corners[group], axes=1))
        best.append(scores[group[0]])
        left = left[~same]
    return np.array(kept, np.float32), np.array(best, np.float32)


def five_points(six: Floats) -> Floats:
    """BlazeFace's six points (eyes, nose, mouth's centre, ears) as the five of ``Face``.

    The corners of the mouth are *guessed*: they lie 0.39 eye distances to each side of its
    centre, along the eye line, which is where they lie on average in a neutral frontal face. The
    mesh replaces them as soon as landmarks ran.

    Args:
        six: ``(6, 2)`` left eye, right eye, nose, mouth, left ear, right ear.
    """
    half = 0.39 * (six[1] - six[0])
    return np.stack([six[0], six[1], six[2], six[3] - half, six[3] + half]).astype(np.float32)


def hairline_box(corners: Floats, six: Floats) -> Floats:
    """BlazeFace's square box (brows to mouth or chin) stretched to hairline and chin.

    Args:
        corners: ``(2, 2)`` top left and bottom right.
        six: ``(6, 2)`` points, for the direction in which the forehead lies.
    """
    up = (six[0] + six[1]) / 2 - six[3]
    up = up / max(float(np.hypot(*up)), 1e-6)
    size = float((corners[1] - corners[0]).mean())
    ends = size * np.stack([FOREHEAD * up, -CHIN * up, np.zeros(2)])
    narrow = SIDES * size * np.abs(up[::-1])
    low = corners[0] + ends.min(axis=0) + narrow
    high = corners[1] + ends.max(axis=0) - narrow
    return np.concatenate([low, high]).astype(np.float32)


FOREHEAD = 0.15
CHIN = 0.07
SIDES = 0.03
"""How far BlazeFace's box is stretched upward and downward and narrowed on each side, in parts of
its side: the medians over 121 hand-drawn boxes."""


# --- CenterFace -----------------------------------------------------------------------------


class CenterFace:
    """CenterFace (Xu et al. 2019, arXiv:1911.03599): any input size, small faces, five points.

    Args:
        model: Input ``(1, H, W, 3)`` RGB 0..255, H and W multiples of 32; outputs at a quarter of
            the resolution: heat ``(1, 1, h, w)``, log size in cells ``(1, 2, h, w)`` as height
            and width, offset in cells (y, x), and five points (y, x) in parts of the box.
        threshold: Heat from which a cell counts, 0..1.
    """

    STRIDE = 4
    STEP = 32

    def __init__(self, model: runtime.Model, threshold: float = 0.5) -> None:
        self.model = model
        self.threshold = threshold

    def __call__(self, image: Image, side: int) -> Faces:
        """Find faces in an RGB picture.

        Args:
            image: ``(H, W, 3)`` uint8.
            side: Longer side of the network's input, rounded up to a multiple of 32; larger finds
                smaller faces at a cost that grows with its square.
        """
        rows, cols = image.shape[:2]
        scale = side / max(rows, cols)
        width, height = (
            max(self.STEP, math.ceil(n * scale / self.STEP - 1e-6) * self.STEP)
            for n in (cols, rows)
        )
        canvas, fit = letterbox(image, width, height, centre=False)
        pixels = canvas.astype(np.float32)[None]
        heat, size, offset, marks = self.model(pixels)
        y, x = np.nonzero(heat[0, 0] > self.threshold)
        if not y.size:
            return []
        cell = np.stack([x, y], axis=1).astype(np.float32)
        centre = (cell + offset[0, ::-1, y, x] + 0.5) * self.STRIDE
        extent = np.exp(size[0, ::-1, y, x]) * self.STRIDE
        low = centre - extent / 2
        points = marks[0, :, y, x].reshape(-1, 5, 2)[..., ::-1] * extent[:, None] + low[:, None]
        corners = np.concatenate([low[:, None], (low + extent)[:, None], points], axis=1)
        return best_of(
            [
                Face(found[:2].reshape(4), float(score), found[2:])
                for found, score in zip(fit.back(corners), heat[0, 0, y, x], strict=True)
            ]
        )


# --- Joining them ---------------------------------------------------------------------------


def iou(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box ``(4,)`` with many ``(N, 4)``."""
    shared = _shared(box, boxes)
    return np.asarray(shared / np.maximum(_area(box) + _area(boxes) - shared, 1e-9), np.float32)


def _shared(box: Floats, boxes: Floats) -> Floats:
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return np.asarray(np.maximum(size, 0).prod(axis=1), np.float32)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1), np.float32)


def best_of(faces: Faces, overlap: float = 0.3, inside: float = 1.0, weak: float = 0.0) -> Faces:
    """Keep the best of faces that are the same one.

    Args:
        faces: In any order; of equal scores the earlier wins.
        overlap: Intersection over union from which two are one.
        inside: Share of the smaller box that lies in the larger from which two are one.
        weak: Faces of a lower score must keep twice the distance (half the ``overlap``) from a
            better one: a turned look often takes half a tilted face for a face of its own.

    Returns:
        Best first.
    """
    left = sorted(faces, key=lambda face: -face.score)
    kept: Faces = []
    while left:
        best, *rest = left
        kept.append(best)
        if not rest:
            break
        boxes = np.stack([face.box for face in rest])
        covered = _shared(best.box, boxes) / np.maximum(
            np.minimum(_area(best.box), _area(boxes)), 1e-9
        )
        faint = np.array([face.score < weak for face in rest])
        same = (iou(best.box, boxes) > np.where(faint, overlap / 2, overlap)) | (covered > inside)
        left = [face for face, out in zip(rest, same, strict=True) if not out]
    return kept


class Detector:
    """Finds faces in stills and videos.

    Args:
        fast: The full-range BlazeFace.
        fine: CenterFace.
    """

    def __init__(self, fast: BlazeFace, fine: CenterFace) -> None:
        self.fast = fast
        self.fine = fine

    def __call__(self, frame: Frame) -> Faces:
        """Look at a frame thoroughly (the ``Detect`` alias); at a still without hurry."""
        return self.thorough(frame.image, still=frame.pts is None)

    def quick(self, image: Image) -> Faces:
        """Look for larger faces that are about upright, within milliseconds.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Faces with boxes in pixels, best first.
        """
        return self.fast(image)

    def thorough(self, image: Image, *, still: bool = False) -> Faces:
        """Look for faces from 5 % of the picture's height, at any tilt.

        CenterFace looks twice, the second time at a tiny picture, because it overlooks faces that
        fill its input. What lies on its side is found in the turned picture: always by BlazeFace,
        which is cheap, and in a still, or where nothing was found, by CenterFace too.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            still: Take the time for a larger input, and for all four turns with both networks.

        Returns:
            Faces with boxes in pixels, best first.
        """
        height, width = image.shape[:2]
        small = shrink_to(image, _side(width, height, SMALLEST))
        rows, cols = small.shape[:2]
        fine = image if still else small
        side = _side(width, height, SMALLEST_STILL if still else SMALLEST)
        found = to_scale([*self.fine(small, COARSE_SIDE), *self.fast(small)], small, image)
        found += to_scale(self.fine(fine, side), fine, image)
        search = still or not found
        turned_side = max(cols, rows) // (1 if still else 2)
        for turns in (1, 3, 2) if search else (1, 3):
            turned = turn(small, turns)
            faces = self.fast(turned)
            if search:
                faces += self.fine(turned, turned_side)
            found += to_scale(turn_back(faces, turns, cols, rows), small, image)
        return best_of(found, inside=0.6, weak=0.65)


COARSE_SIDE = 256
"""Longer side of CenterFace's second input, in which faces that fill the picture are found."""

SMALLEST = 20
"""Height in input pixels that a face of 5 % of the picture's height gets in CenterFace."""

SMALLEST_STILL = 32
"""The same for a still, where time matters less."""

LARGEST_SIDE = 1600
SMALLEST_SIDE = 320


def _side(width: int, height: int, smallest: int) -> int:
    """CenterFace's longer side, so that 5 % of the height become ``smallest`` pixels."""
    wanted = smallest / 0.05 * max(width, height) / height
    return int(min(LARGEST_SIDE, max(SMALLEST_SIDE, wanted)))


def shrink_to(image: Image, side: int) -> Image:
    """Shrink so that the longer side is at most ``side``."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    return shrink(image, max(1, round(width * scale)), max(1, round(height * scale)))


def to_scale(faces: Faces, found_in: Image, image: Image) -> Faces:
    """Faces of a shrunken picture in pixels of the whole one."""
    if found_in.shape == image.shape:
        return faces
    factor = np.array(image.shape[1::-1], np.float32) / found_in.shape[1::-1]

    def back(points: Floats) -> Floats:
        return np.asarray((points + 0.5) * factor - 0.5, np.float32)

    return [
        Face(back(face.box.reshape(2, 2)).reshape(4), face.score, back(face.points))
        for face in faces
    ]


def load(models: zoo.Zoo | None = None) -> Detector:
    """Load the detector that ships with mien."""
    models = models or zoo.Zoo()
    fast, fine = (models.open(name)[1] for name in ("blazeface_full", "centerface"))
    return Detector(BlazeFace(fast), CenterFace(fine))
