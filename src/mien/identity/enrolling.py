"""Identities: photos of one person made into what generators need, with the consent given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from mien import gate, geometry, media, policy
from mien.blend import white_balance as balance
from mien.errors import NoFace
from mien.landmarks import mouth_opening, roll, yaw
from mien.types import (
    Consent,
    Detect,
    Embed,
    Face,
    Faces,
    Floats,
    Frame,
    Identity,
    Image,
    Landmarks,
    Portrait,
    Which,
)

log = logging.getLogger(__name__)

MESH_SCORE: Final = 0.5
"""A face whose mesh scores less is no portrait."""

STRANGER: Final = 0.2
"""Cosine below which two photos hardly show one person: about one pair in two hundred of one
person lies there (``same_below_0.2`` of scripts/measure_embed.py)."""

PORTRAIT_SIDE: Final = 1024
"""Largest side of a portrait crop in pixels; no face on a screen needs more."""


def enrol(
    photos: Sequence[Path | str | Image],
    consent: Consent,
    *,
    detect: Detect,
    landmarks: Landmarks,
    embed: Embed,
    which: Which | int | None = None,
    white_balance: bool = False,
    name: str = "",
) -> Identity:
    """Make an identity of one or more photos of one person.

    Args:
        photos: Files, or ``(H, W, 3)`` uint8 RGB images.
        consent: What the use rests on.
        detect: Finds the face.
        landmarks: Fits its mesh.
        embed: Says who it is.
        which: Which face to take where a photo has several: ``largest``, ``left``, ``right`` or
            a number from 1, from left to right. None refuses such photos.
        white_balance: Remove each photo's colour cast first.
        name: For reports; the first file's stem if not given.

    Returns:
        The identity, its best photo (frontal, large, mouth shut) first.

    Raises:
        NoFace: A photo has no face, or several and ``which`` is None.
        MediaError: A photo cannot be read.
        Refused: The person is on the deny list, or a classifier refuses a photo.
    """
    rules = policy.load()
    found: list[tuple[float, Portrait, Floats]] = []
    for number, photo in enumerate(photos, 1):
        label = f"photo {number}" if isinstance(photo, np.ndarray) else str(photo)
        image = photo if isinstance(photo, np.ndarray) else media.read_image(photo)
        if white_balance:
            image = balance(image)
        frame = Frame(image)
        face = the_face(find_faces(frame, detect, landmarks), label, which)
        (face,) = embed(frame, [face])
        assert face.mesh is not None
        assert face.embedding is not None
        gate.portrait(frame, face, label, own=embed, rules=rules)
        size = float((face.box[2:] - face.box[:2]).max())
        merit = float(np.cos(yaw(face.mesh))) ** 4 * min(size, 600.0)
        merit *= 1 - min(mouth_opening(face.mesh), 0.8)  # an open mouth has its lips stretched
        if found and max(float(e @ face.embedding) for _, _, e in found) < STRANGER:
            log.warning("%s: shows somebody else than the photos before, it seems", label)
        found.append((merit, cut_out(image, face), face.embedding))
    found.sort(key=lambda item: -item[0])
    mean = np.mean([embedding for _, _, embedding in found], axis=0)
    first = photos[0]
    return Identity(
        name=name or ("portrait" if isinstance(first, np.ndarray) else Path(first).stem),
        embedding=(mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32),
        portraits=tuple(portrait for _, portrait, _ in found),
        consent=consent,
    )


def find_faces(frame: Frame, detect: Detect, landmarks: Landmarks) -> Faces:
    """Faces of a still with their meshes, from left to right; what has no mesh is left out."""
    fitted = [f for f in landmarks(frame, detect(frame)) if f.mesh_score >= MESH_SCORE]
    kept: Faces = []
    for face in sorted(fitted, key=lambda f: -f.mesh_score):
        if not kept or geometry.overlap(face.box, np.stack([k.box for k in kept])).max() < 0.4:
            kept.append(face)
    return sorted(kept, key=lambda f: float(f.box[0] + f.box[2]))


def the_face(faces: Faces, label: str, which: Which | int | None) -> Face:
    """The one face that is meant in a still.

    Raises:
        NoFace: Names the file, how many faces were found and the flag that chooses.
    """
    if not faces:
        raise NoFace(f"{label}: no face found; use a photo that shows one face from the front")
    if len(faces) == 1 and not isinstance(which, int):
        return faces[0]
    if which is None or which == "all":
        raise NoFace(
            f"{label}: {len(faces)} faces found where one is needed; choose with "
            f"--source-face largest, left, right or a number from 1 to {len(faces)}"
        )
    if which == "largest":
        return max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
    if which == "left":
        return faces[0]
    if which == "right":
        return faces[-1]
    if not 1 <= which <= len(faces):
        raise NoFace(f"{label}: face {which} was asked for, but only {len(faces)} found")
    return faces[which - 1]


def cut_out(image: Image, face: Face) -> Portrait:
    """The upright square around a face, hair and chin included, with the mesh in its pixels."""
    assert face.mesh is not None
    centre = (face.box[:2] + face.box[2:]) / 2
    side = float((face.box[2:] - face.box[:2]).max()) * 1.7
    size = int(np.clip(side, 192, PORTRAIT_SIDE))
    matrix = geometry.square_crop(centre, side, roll(face.points), size)
    crop = geometry.warp(
        image, matrix, size, interpolation=cv2.INTER_CUBIC, border=cv2.BORDER_REPLICATE
    )
    return Portrait(crop, geometry.transform(matrix, face.mesh))
