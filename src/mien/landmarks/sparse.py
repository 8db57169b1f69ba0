"""Landmarks of 68 or 106 points, of which five serve: eyes, nose and corners of the mouth.

These networks place the five points that published generators and embedders align by. They say
nothing of depth and little of the forehead, so the mesh stays what carries pose and outline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from mien import geometry, runtime, zoo
from mien.errors import ModelError
from mien.landmarks.mesh import upright
from mien.types import Face, Faces, Floats, Frame, Image, Landmarks
from mien.zoo.pixels import to_input

FAN_FACE: Final = 195
"""Pixels of 2DFAN's input that the larger side of a face takes, of 256."""

CELLS: Final = 64
"""Side of 2DFAN's heat maps."""

SURE: Final = 0.9
"""Mean height of the heat maps' peaks that counts as certain."""

POINTS_106: Final = (38, 88, 86, 52, 61)
"""Of InsightFace's 106 points: pupils, tip of the nose, corners of the mouth."""

MARGIN_106: Final = 1.5
"""Side of the crop over the larger side of the face."""


@dataclass(frozen=True, slots=True)
class Fan68:
    """2DFAN (Bulat and Tzimiropoulos 2017, arXiv:1703.07332): 68 points by heat maps.

    Attributes:
        card: How the crop is fed.
        model: A crop ``(1, 3, 256, 256)`` → places ``(1, 68, 2 or 3)`` in cells of the heat maps
            (what is third is not used) and the heat maps ``(1, 68, 64, 64)``; or these alone.
    """

    card: zoo.ModelCard
    model: runtime.Model

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Copies of the faces with better ``points``, where the network is sure of them."""
        size, out = self.card.size, []
        for face in faces:
            crop, back = _cut(frame.image, face, size / FAN_FACE, size)
            places, score = self._read(self.model(to_input(crop[None], self.card)))
            places = geometry.transform(back, places)
            eyes = places[36:42].mean(0), places[42:48].mean(0)
            five = np.stack([*eyes, places[30], places[48], places[54]])
            out.append(_with(face, five, score) if score >= self.card.threshold else face)
        return out

    def _read(self, out: list[Any]) -> tuple[Floats, float]:
        """Places in pixels of the crop, and how sure they are, 0..1."""
        heat = next((o for o in out if np.shape(o)[1:] == (68, CELLS, CELLS)), None)
        places = next((o for o in out if np.shape(o)[1:] in ((68, 2), (68, 3))), None)
        if heat is None:
            raise ModelError(
                f"{self.model.name}: expected heat maps (1, 68, {CELLS}, {CELLS}), came "
                f"{', '.join(str(np.shape(o)) for o in out)}"
            )
        cells = peaks(heat[0]) if places is None else places[0, :, :2]
        score = min(1.0, float(heat[0].max((1, 2)).mean()) / SURE)
        return np.asarray(cells * (self.card.size / CELLS) - 0.5, np.float32), score


def peaks(heat: Floats) -> Floats:
    """Where heat maps are highest, a quarter of a cell toward the higher neighbour; not at a rim.

    Args:
        heat: ``(N, h, w)``.

    Returns:
        ``(N, 2)`` x and y in cells, the middle of the first at 0.5.
    """
    count, rows, cols = heat.shape
    y, x = np.divmod(heat.reshape(count, -1).argmax(1), cols)
    n = np.arange(count)
    inside = (x > 0) & (x < cols - 1) & (y > 0) & (y < rows - 1)
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    aside = np.sign(padded[n, y + 1, x + 2] - padded[n, y + 1, x]) * inside
    down = np.sign(padded[n, y + 2, x + 1] - padded[n, y, x + 1]) * inside
    return np.stack([x + 0.5 + aside / 4, y + 0.5 + down / 4], 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Points106:
    """InsightFace's ``2d106det``: 106 points by regression.

    Attributes:
        card: How the crop is fed; the published graph normalises by itself.
        model: A crop ``(N, 3, 192, 192)`` → ``(N, 212)`` x and y, -1 at one end of the crop
            and 1 at the other.
    """

    card: zoo.ModelCard
    model: runtime.Model

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Copies of the faces with better ``points``."""
        size, out = self.card.size, []
        for face in faces:
            crop, back = _cut(frame.image, face, MARGIN_106, size)
            answer = self.model(to_input(crop[None], self.card))[0]
            if np.size(answer) != 212:
                raise ModelError(f"{self.model.name}: expected (1, 212), came {np.shape(answer)}")
            places = (np.asarray(answer, np.float32).reshape(106, 2) + 1) * (size / 2)
            # The network does not say how sure it is.
            out.append(_with(face, geometry.transform(back, places)[list(POINTS_106)], face.score))
        return out


@dataclass(frozen=True, slots=True)
class Refined:
    """A mesh, with the five points of another network.

    Attributes:
        mesh: Fits meshes.
        points: Places five points on faces that have one.
    """

    mesh: Landmarks
    points: Landmarks

    def __call__(self, frame: Frame, faces: Faces) -> Faces:
        """Fit every face; what the mesh's network takes for no face keeps the mesh's points."""
        fitted = self.mesh(frame, faces)
        sure = [i for i, face in enumerate(fitted) if face.mesh_score >= FACE]
        for i, face in zip(sure, self.points(frame, [fitted[i] for i in sure]), strict=True):
            fitted[i] = face
        return fitted


FACE: Final = 0.5
"""Score of a mesh from which there is a face."""


def _cut(image: Image, face: Face, share: float, size: int) -> tuple[Image, geometry.Matrix]:
    """The upright square around a face, ``share`` times its size, and the way back."""
    centre, side, angle = upright(face)
    matrix = geometry.square_crop(centre, side * share, angle, size)
    return geometry.warp(image, matrix, size), geometry.invert(matrix)


def _with(face: Face, five: Floats, score: float) -> Face:
    """With points, and with their score where no mesh has one; as it was if they are none."""
    if float(np.ptp(five, axis=0).max()) < 1e-3:
        return face  # all in one place: no face can be aligned by them
    sure = score if face.mesh is None else face.mesh_score
    return replace(face, points=np.asarray(five, np.float32), mesh_score=sure)
