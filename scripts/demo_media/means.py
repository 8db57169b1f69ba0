"""k-same means: what many faces have in common, after each was warped onto the group's shape."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import detect, embed, geometry, landmarks, motion
from mien.types import Floats, Frame, Image

SIZE = 1024
"""Side of the mean's canvas; the face is about 640 pixels high there."""


@dataclass(frozen=True)
class Photo:
    """One training photo.

    Attributes:
        image: ``(192, 192, 3)`` uint8 RGB.
        mesh: ``(468, 3)`` pixels, of the middle face.
        embedding: ``(512,)`` of unit length.
        person: Whose photo it is.
    """

    image: Image
    mesh: Floats
    embedding: Floats
    person: str


Groups = dict[str, list[Photo]]


def read(tar: Path) -> Iterator[tuple[str, Photo]]:
    """Every photo with a face, and the first twelve hexadecimal digits of its SHA-256."""
    yield from _read(tar, None)


def groups(tar: Path) -> Groups:
    """The photos of every group in ``groups.json``, one for each of ``k`` different people.

    The groups are neighbourhoods in the space of a face embedder: spherical k-means on frontal
    photos, then the people nearest to a centre, each with a frontal photo with closed mouth.

    Raises:
        LookupError: The archive lacks some of the photos.
    """
    listed = json.loads(Path(__file__).with_name("groups.json").read_text())
    found = dict(_read(tar, {key for keys in listed.values() for key in keys}))
    missing = {key for keys in listed.values() for key in keys} - set(found)
    if missing:
        raise LookupError(f"{tar}: lacks {len(missing)} of the photos named in groups.json")
    return {name: [found[key] for key in keys] for name, keys in listed.items()}


def _read(tar: Path, wanted: set[str] | None) -> Iterator[tuple[str, Photo]]:
    finder, mesher, embedder = detect.load(), landmarks.load(), embed.load()
    with tarfile.open(tar) as archive:
        for member in archive:
            if not member.name.endswith(".jpg"):
                continue
            data = archive.extractfile(member).read()
            key = hashlib.sha256(data).hexdigest()[:12]
            if wanted is not None and key not in wanted:
                continue
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            faces = finder.thorough(image) if wanted else finder.quick(image)
            if not faces:
                continue
            middle = min(faces, key=lambda f: np.abs((f.box[:2] + f.box[2:]) / 2 - 96).sum())
            face = embedder(Frame(image), mesher(Frame(image), [middle]))[0]
            yield key, Photo(image, face.mesh[:468], face.embedding, member.name.split("/")[-2])


def aligned(mesh: Floats, to: Floats) -> Floats:
    """The mesh after the similarity that brings its x and y nearest to another's."""
    return geometry.transform(geometry.similarity(mesh[:, :2], to[:, :2]), mesh)


def mean_shape(meshes: Sequence[Floats], start: Floats) -> Floats:
    shape = start
    for _ in range(3):
        shape = np.mean([aligned(m, shape) for m in meshes], 0)
    return shape


def canonical(all_groups: Groups) -> Floats:
    """The mesh of everybody's mean, ``(468, 3)``, upright in the middle of the canvas."""
    some = [photo.mesh for photos in all_groups.values() for photo in photos]
    shape = mean_shape(some, some[0])
    eyes = [[512 - 143, 424], [512 + 143, 424]]
    shape = geometry.transform(geometry.similarity(shape[[33, 263], :2], eyes), shape)
    centre = (shape[:, :2].min(0) + shape[:, :2].max(0)) / 2
    scale = 640 / np.linalg.norm(shape[10, :2] - shape[152, :2])
    shape = (shape - np.array([*centre, 0])) * scale + np.array([512, 540, 0])
    return shape.astype(np.float32)


@dataclass(frozen=True)
class Mean:
    """A face that belongs to nobody.

    Attributes:
        image: ``(SIZE, SIZE, 3)`` float32 RGB 0..255; grey outside the mesh.
        valid: ``(SIZE, SIZE)`` bool, inside the mesh.
        shape: ``(468, 3)`` pixels of the canvas.
    """

    image: Floats
    valid: NDArray[np.bool_]
    shape: Floats


def mean(photos: Sequence[Photo], canon: Floats) -> Mean:
    """Trimmed mean of the photos, each warped triangle by triangle onto the group's shape.

    The shape is taken a third further from the mean of everybody, so that groups differ more. A
    photo's own exposure and colour cast are taken out first. Of each pixel's values the highest
    and the lowest quarter are left out: glasses, fringes and shadows of single photos.
    """
    shape = mean_shape([photo.mesh for photo in photos], canon)
    shape = aligned((shape + 0.35 * (shape - canon)).astype(np.float32), canon)
    triangles = motion.topology().triangles[:852]
    which = geometry.rasterise(shape, triangles, shape[triangles, 2].mean(1), SIZE, SIZE)
    rows, columns = np.nonzero(which >= 0)
    inside = which[rows, columns]
    place = np.c_[columns, rows, np.ones(len(rows))]
    corners = np.concatenate([shape[triangles, :2], np.ones((len(triangles), 3, 1))], 2)
    warped = np.empty((len(photos), len(rows), 3), np.float16)
    for i, photo in enumerate(photos):
        to_photo = np.linalg.solve(corners, photo.mesh[triangles, :2])
        source = np.einsum("ni,nij->nj", place, to_photo[inside]).astype(np.float32)
        grid = np.full((2, SIZE, SIZE), -1, np.float32)
        grid[:, rows, columns] = source.T
        flat = cv2.remap(photo.image, *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        warped[i] = flat[rows, columns]
    tone = np.median(warped.astype(np.float32), axis=1)
    gain = np.median(tone, axis=0) / tone
    image = np.full((SIZE, SIZE, 3), 128, np.float32)
    trim = len(photos) // 4
    for part in np.array_split(np.arange(len(rows)), 64):
        values = np.clip(warped[:, part].astype(np.float32) * gain[:, None], 0, 255)
        image[rows[part], columns[part]] = np.sort(values, axis=0)[trim:-trim].mean(0)
    return Mean(image, which >= 0, shape)
