"""Training data: photos with their meshes, prepared once, and pairs of them made into samples.

What does not depend on the pair is computed once and kept in a folder: the photo, its mesh, the
rasterised triangles of its aligned crop, and an embedding for the identity loss.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import detect, geometry, landmarks, motion, runtime
from mien.errors import MediaError
from mien.generate.look import look
from mien.landmarks import five_points
from mien.types import Floats, Frame, Image, Rect

HELD_OUT: Final = 40
"""Every person whose place in the sorted names is a multiple of this is kept for measuring."""

ARCFACE: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]], np.float32,
)  # fmt: skip
"""Where the five points belong in a crop of 112², as face recognisers are trained."""

CROP: Final = Rect(0, 0, motion.CROP, motion.CROP)


@dataclass(frozen=True, slots=True)
class Photos:
    """The prepared photos; arrays are mapped from files, not read.

    Attributes:
        image: ``(N, H, W, 3)`` uint8 RGB.
        mesh: ``(N, 478, 3)`` float32 in pixels of the photo.
        hit: ``(N, 128, 128)`` int16, see :class:`mien.motion.Cover`.
        face: ``(N, 256)`` float32 unit embeddings of the identity loss's recogniser.
        names: Person of each photo.
        digest: SHA-256 of the list of photos, for the record.
    """

    image: Image
    mesh: Floats
    hit: NDArray[np.int16]
    face: Floats
    names: list[str]
    digest: str


def prepare(photos: Path, recogniser: Path, folder: Path) -> Photos:
    """Detect, fit and rasterise every photo of a tar; quick if the folder has it all already.

    Args:
        photos: Tar of ``Person/Person_0001.jpg``, all of one size.
        recogniser: ONNX file, ``(N, 112, 112, 3)`` float32 RGB 0..255 → ``(N, 256)``.
        folder: Where the arrays are kept.

    Raises:
        MediaError: The tar has no photo with a face.
    """
    if not (folder / "names.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _prepare(photos, recogniser, folder)
    arrays: Any = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("image", "mesh", "hit", "face")
    }
    listed = json.loads((folder / "names.json").read_text("utf-8"))
    return Photos(**arrays, names=listed["people"], digest=listed["digest"])


def _prepare(photos: Path, recogniser: Path, folder: Path) -> None:
    detector, fit, model = detect.load(), landmarks.load(), runtime.load(recogniser)
    images, meshes, hits, faces, people = [], [], [], [], []
    digest = hashlib.sha256()
    for name, image in _read(photos):
        found = detector.quick(image)
        middle = np.array([image.shape[1], image.shape[0]]) / 2
        if not found:
            continue
        nearest = min(
            found, key=lambda f: float(np.abs((f.box[:2] + f.box[2:]) / 2 - middle).sum())
        )
        (face,) = fit(Frame(image), [nearest])
        assert face.mesh is not None
        crop = geometry.warp(image, geometry.similarity(face.points, ARCFACE), 112)
        vector = model(crop[None].astype(np.float32))[0][0]
        images.append(image)
        meshes.append(face.mesh)
        hits.append(motion.cover(in_crop(face.mesh), CROP).hit.astype(np.int16))
        faces.append(vector / np.linalg.norm(vector))
        people.append(name.rsplit("_", 1)[0])
        digest.update(name.encode() + b"\n")
    if not people:
        raise MediaError(f"{photos}: no photo with a face in it")
    for key, rows in (("image", images), ("mesh", meshes), ("hit", hits), ("face", faces)):
        np.save(folder / f"{key}.npy", np.stack(rows))
    # Last, since it says that the rest is whole.
    record = {"people": people, "digest": digest.hexdigest()}
    (folder / "names.json").write_text(json.dumps(record), "utf-8")


def _read(photos: Path) -> Iterator[tuple[str, Image]]:
    with tarfile.open(photos) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            stream = tar.extractfile(member) if member.name.endswith(".jpg") else None
            if stream is not None:
                coded = np.frombuffer(stream.read(), np.uint8)
                yield (
                    Path(member.name).stem,
                    np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)),
                )


def in_crop(mesh: Floats) -> Floats:
    """A mesh in pixels of its own aligned crop."""
    return geometry.transform(motion.aligned(mesh), mesh)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Samples for the relight network; sample n is the same on every run with the same seed.

    Attributes:
        photos: Prepared.
        people: Photos of each person who may be used.
        seed: Of the sequence.
        cross: Share of samples whose portrait is of somebody else, for the identity loss.
        eyes: Share of samples in which the target's eyes are kept.

    Raises:
        MediaError: There are too few people for what is asked.
    """

    photos: Photos
    people: tuple[tuple[int, ...], ...]
    seed: int
    cross: float
    eyes: float

    def __post_init__(self) -> None:
        # Looking for somebody else would never end.
        least = 2 if self.cross > 0 else 1
        if len(self.people) < least:
            raise MediaError(
                f"the photos show {len(self.people)} people to draw from, and {least} are needed "
                f"where cross is {self.cross:g}; add photos of other people"
            )

    def __call__(self, number: int) -> dict[str, Any]:
        """One sample: what :func:`mien.generate.look.look` sees and losses compare with."""
        rng = np.random.default_rng((self.seed, number))
        photos = self.photos
        target = self._photo(rng)
        while abs(landmarks.yaw(photos.mesh[target])) > STEEP:
            target = self._photo(rng)
        cross = rng.random() < self.cross
        portrait, image, mesh = self._portrait(rng, target, cross)
        crop, matrix, in_cells = _crop(photos, target)
        cover = motion.Cover(
            CROP, motion.extended(in_cells), photos.hit[target],
            geometry.signed_areas(motion.extended(in_cells), motion.topology().triangles),
        )  # fmt: skip
        strength = 1.0 if rng.random() < 0.4 else float(rng.random())
        seen = look(
            crop, cover, in_cells, disturb(image, rng), None, motion.extended(mesh),
            occluded=_blob(rng) if rng.random() < 0.2 else None,
            strength=strength, eyes=rng.random() < self.eyes,
        )  # fmt: skip
        lit = seen.painted * seen.gain + seen.bias
        align = geometry.similarity(five_points(in_cells), ARCFACE)
        return {
            "inputs": seen.inputs,
            "lit": (lit.transpose(2, 0, 1) / 255).astype(np.float32),
            "alpha": seen.alpha[None],
            "crop": crop.transpose(2, 0, 1).astype(np.float32) / 255,
            "align": align.astype(np.float32),
            "portrait": np.array(photos.face[portrait]),
            "target": np.array(photos.face[target]),
            "cross": np.float32(cross),
            "strength": np.float32(strength),
            "index": np.array([target, portrait]),
            "matrix": matrix,
        }

    def _photo(self, rng: np.random.Generator) -> int:
        return int(rng.choice(self.people[rng.integers(len(self.people))]))

    def _portrait(
        self, rng: np.random.Generator, target: int, cross: bool
    ) -> tuple[int, Image, Floats]:
        """Somebody else; or another photo of the same person, or the same one mirrored."""
        photos = self.photos
        others = [i for i in self._of(target) if i != target]
        if cross:
            portrait = self._photo(rng)
            while photos.names[portrait] == photos.names[target]:
                portrait = self._photo(rng)
        elif others and rng.random() < 0.75:
            portrait = int(rng.choice(others))
        else:
            image, mesh = mirrored(photos.image[target], photos.mesh[target])
            return target, image, mesh + rng.normal(0, 0.3, mesh.shape).astype(np.float32)
        return portrait, photos.image[portrait], photos.mesh[portrait]

    def _of(self, photo: int) -> tuple[int, ...]:
        """All photos of the person in a photo; photos of one person lie side by side."""
        names = self.photos.names
        first = last = photo
        while first > 0 and names[first - 1] == names[photo]:
            first -= 1
        while last + 1 < len(names) and names[last + 1] == names[photo]:
            last += 1
        return tuple(range(first, last + 1))


STEEP: Final = np.radians(50)
"""Yaw of a target from which its mesh is a guess."""


def split(photos: Photos) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Photos of each person to train with, and of each who is held out."""
    of: dict[str, list[int]] = {}
    for number, name in enumerate(photos.names):
        of.setdefault(name, []).append(number)
    ordered = sorted(of)
    kept = set(ordered[::HELD_OUT])
    return (
        tuple(tuple(of[name]) for name in ordered if name not in kept),
        tuple(tuple(of[name]) for name in ordered if name in kept),
    )


def mirrored(image: Image, mesh: Floats) -> tuple[Image, Floats]:
    """A photo seen in a mirror: the same person, lit from the other side."""
    other = np.array(mesh[motion.mirror()], np.float32)
    other[:, 0] = image.shape[1] - 1 - other[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), other


def disturb(image: Image, rng: np.random.Generator) -> Image:
    """Another light, camera and film: what the network must take out of a portrait."""
    h, w = image.shape[:2]
    x = image.astype(np.float32) * np.float32(1 / 255)
    field = cv2.resize(rng.normal(0, 1, (4, 4, 1)).astype(np.float32), (w, h))
    light = field * np.float32(rng.uniform(0, 0.3))
    across = np.linspace(-1, 1, w, dtype=np.float32) * np.float32(rng.normal(0, 0.25))
    light = light + across + np.float32(rng.normal(0, 0.25))
    tint = np.exp(light[..., None] + rng.normal(0, 0.1, 3).astype(np.float32))
    x = np.clip(x * tint, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.2)))
    if rng.random() < 0.25:
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        x += (grey[..., None] - x) * np.float32(rng.uniform(0.3, 1))
    if rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.005, 0.03), x.shape).astype(np.float32)
    return np.asarray(np.clip(x * 255, 0, 255), np.uint8)


def _crop(photos: Photos, number: int) -> tuple[Image, NDArray[np.float64], Floats]:
    matrix = motion.aligned(photos.mesh[number])
    crop = geometry.warp(
        np.asarray(photos.image[number]), matrix, motion.CROP, border=cv2.BORDER_REPLICATE
    )
    return crop, matrix, geometry.transform(matrix, photos.mesh[number])


def _blob(rng: np.random.Generator) -> Floats:
    """A soft shape in front of the face, whose pixels must be left alone and not be read."""
    canvas = np.zeros((motion.CROP, motion.CROP), np.float32)
    points = rng.uniform(0, motion.CROP, 2) + rng.normal(0, 18, (6, 2))
    hull = cv2.convexHull(points.astype(np.int32))
    cv2.fillPoly(canvas, [hull], 1.0)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 1.0), np.float32)
