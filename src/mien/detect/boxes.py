"""Boxes that overlap, and which of them stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.types import Face, Faces, Floats


def iou(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box ``(4,)`` with many ``(N, 4)``."""
    shared = _shared(box, boxes)
    return np.asarray(shared / np.maximum(_area(box) + _area(boxes) - shared, 1e-9), np.float32)


def _shared(box: Floats, boxes: Floats) -> Floats:
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return np.asarray(np.maximum(size, 0).prod(axis=1), np.float32)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1), np.float32)


def best_of(
    faces: Faces,
    overlap: float = 0.3,
    inside: float = 1.0,
    weak: float = 0.0,
    ranks: Sequence[float] | None = None,
) -> Faces:
    """Keep the best of faces that are the same one.

    Args:
        faces: In any order; of equal ranks the earlier wins.
        overlap: Intersection over union from which two are one.
        inside: Share of the smaller box that lies in the larger from which two are one.
        weak: Faces of a lower score must keep twice the distance (half the ``overlap``) from a
            better one: a turned look often takes half a tilted face for a face of its own.
        ranks: Which is better, one for each face; their scores if left out.

    Returns:
        Best first.
    """
    ranks = [face.score for face in faces] if ranks is None else ranks
    left = [faces[i] for i in sorted(range(len(faces)), key=lambda i: -ranks[i])]
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


def nms(boxes: Floats, scores: Floats, overlap: float = 0.4) -> list[int]:
    """Which boxes stay when of those that overlap only the best does.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        overlap: Intersection over union from which two are one.

    Returns:
        Indices, best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while left.size:
        kept.append(int(left[0]))
        left = left[1:][iou(boxes[left[0]], boxes[left[1:]]) <= overlap]
    return kept


def distinct(boxes: Floats, scores: Floats, points: Floats) -> Faces:
    """Faces of what stays of a network's answers after :func:`nms`.

    Args:
        boxes: ``(N, 4)`` in pixels of the picture.
        scores: ``(N,)``, 0..1.
        points: ``(N, 5, 2)`` in pixels of the picture.
    """
    return [Face(boxes[i], float(scores[i]), points[i]) for i in nms(boxes, scores)]
