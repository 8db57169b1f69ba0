"""The face mesh: 468 or 478 points, fitted to every face, and what is read off it.

The points are MediaPipe's (Kartynnik et al., "Real-time facial surface geometry from monocular
video on mobile GPUs", 2019; with attention: Grishchenko et al., 2020): 468 of the surface, then
five for each iris.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mien import geometry, runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Faces, Floats, Frame, Image
from mien.zoo.pixels import to_input

# Rings of vertices, each in order around. "Left" and "right" as the viewer of a frontal,
# unmirrored photo sees them.
OVAL: Final = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
LEFT_EYE: Final = (
    33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7,
)  # fmt: skip
RIGHT_EYE: Final = (
    263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249,
)  # fmt: skip
INNER_LIPS: Final = (
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
OUTER_LIPS: Final = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip

MARGIN: Final = 1.5
"""Side of the crop over the larger side of the face, as the network was trained."""


PASSES: Final = 6
"""Fits at most for a face that was just detected."""


def five_points(mesh: Floats) -> Floats:
    """``(5, 2)``: centres of the eyes, tip of the nose and corners of the mouth of a mesh."""
    p = mesh[:, :2]
    return np.stack([(p[33] + p[133]) / 2, (p[362] + p[263]) / 2, p[1], p[61], p[291]]).astype(
        np.float32
    )


def roll(points: Floats) -> float:
    """Angle of the line between the eyes of ``(5, 2)`` points, radians, clockwise."""
    dx, dy = points[1] - points[0]
    return float(np.arctan2(dy, dx))


def eye_opening(mesh: Floats) -> tuple[float, float]:
    """Height over width of the left and the right eye."""
    p = mesh[:, :2]
    left = np.linalg.norm(p[159] - p[145]) / np.linalg.norm(p[33] - p[133])
    right = np.linalg.norm(p[386] - p[374]) / np.linalg.norm(p[362] - p[263])
    return float(left), float(right)


def mouth_opening(mesh: Floats) -> float:
    """Height of the open mouth over its width."""
    p = mesh[:, :2]
    return float(np.linalg.norm(p[13] - p[14]) / np.linalg.norm(p[61] - p[291]))


def yaw(mesh: Floats) -> float:
    """Turn of the head in radians from the depth of the face's two sides; 0 is frontal."""
    across = mesh[454] - mesh[234]
    return float(np.arctan2(across[2], np.hypot(across[0], across[1])))


@dataclass(frozen=True, slots=True)
class FaceMesh:
    """Fits the mesh; see ``MODELS.md`` for the default network's contract.

    Attributes:
        model: A square crop → ``(N, 478, 3)`` or ``(N, 468, 3)`` in pixels of the crop, in that
            shape or with the last two axes in one; and ``(N, 1)`` the probability that a face is
            there, or its logit ``(N, 1, 1, 1)``, as MediaPipe's own files have it.
        card: How the crop is fed.
    """

    model: runtime.Model
    card: zoo.ModelCard = field(default_factory=lambda: zoo.find("facemesh"))

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Fit every face: once from its last mesh if it has one, else from its box until settled.

        A detector's box ends where a shut mouth's chin would be; each pass moves the crop, and a
        wide open mouth takes several.

        Returns:
            New faces with mesh, mesh_score, box and points set, in the order given.
        """
        if not faces:
            return []
        fitted = self._fit(frame.image, faces)
        moving = [i for i, face in enumerate(faces) if face.mesh is None]
        for _ in range(PASSES - 1):
            if not moving:
                break
            again = self._fit(frame.image, [fitted[i] for i in moving])
            settled = [_settled(fitted[i], face) for i, face in zip(moving, again, strict=True)]
            for i, face in zip(moving, again, strict=True):
                fitted[i] = face
            moving = [i for i, done in zip(moving, settled, strict=True) if not done]
        return fitted

    def _fit(self, image: Image, faces: Sequence[Face]) -> Faces:
        matrices = [_crop(f, self.card.size) for f in faces]
        crops = np.stack([geometry.warp(image, m, self.card.size) for m in matrices])
        meshes, scores = self._run(to_input(crops, self.card))
        out = []
        for face, matrix, mesh, score in zip(faces, matrices, meshes, scores, strict=True):
            points = geometry.transform(geometry.invert(matrix), mesh)
            out.append(
                replace(
                    face,
                    mesh=points,
                    mesh_score=float(score),
                    box=geometry.bounds(points[:468]),
                    points=five_points(points),
                )
            )
        return out

    def _run(self, crops: Floats) -> tuple[Floats, Floats]:
        """Meshes ``(N, V, 3)`` and scores ``(N,)`` of crops."""
        parts = [crops[i : i + 1] for i in range(len(crops))] if self._single else [crops]
        answers = [self.model(part)[:2] for part in parts]
        meshes, scores = (np.concatenate(a) for a in zip(*answers, strict=True))
        if meshes.size not in (len(crops) * 478 * 3, len(crops) * 468 * 3):
            raise ModelError(
                f"{self.card.name}: expected (N, 478, 3) or (N, 468, 3) for N = {len(crops)}, "
                f"came {meshes.shape}"
            )
        values = scores.reshape(len(crops))
        if scores.ndim == 4:
            values = 1 / (1 + np.exp(-values))
        return meshes.reshape(len(crops), -1, 3), values

    @property
    def _single(self) -> bool:
        return isinstance(next(iter(self.model.inputs.values()))[0], int)


def _settled(before: Face, after: Face) -> bool:
    """Whether no side of the box moved by more than a fiftieth of the face."""
    size = float((after.box[2:] - after.box[:2]).max())
    return float(np.abs(after.box - before.box).max()) <= 0.02 * max(size, 1.0)


def _crop(face: Face, size: int) -> geometry.Matrix:
    centre, side, angle = upright(face)
    return geometry.square_crop(centre, side * MARGIN, angle, size)


def upright(face: Face) -> tuple[NDArray[np.float64], float, float]:
    """Centre, larger side and tilt of a face, from its mesh if it has one, else from its box."""
    if face.mesh is None:
        angle = roll(face.points)
        centre = (face.box[:2] + face.box[2:]) / 2
        side = float((face.box[2:] - face.box[:2]).max())
    else:
        angle = roll(five_points(face.mesh))
        c, s = np.cos(angle), np.sin(angle)
        turned = face.mesh[:468, :2] @ np.array([[c, -s], [s, c]], np.float32)
        low, high = turned.min(0), turned.max(0)
        centre = np.array([[c, -s], [s, c]]) @ ((low + high) / 2)
        side = float((high - low).max())
    return np.asarray(centre, np.float64), max(side, 4.0), angle
