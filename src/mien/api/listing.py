"""Who is in it: people of a file by number, with a picture and thumbnails of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from mien import landmarks
from mien.api.files import (
    FileProgress,
    Progress,
    for_file,
    is_still,
    list_media,
    make_folder,
    open_part,
    with_total,
)
from mien.api.loading import load
from mien.errors import MediaError, MienError, UsageError
from mien.media.sink import Temporary
from mien.pipeline import Stream, Swapper
from mien.types import (
    Face,
    Image,
)

log = logging.getLogger(__name__)

GLIMPSES: Final = 12
"""Thumbnails that a person has at least, if seen that often; twice as many at most."""


THUMBNAIL: Final = 160
"""Side of a thumbnail in pixels."""


PICTURE: Final = 512
"""Largest side in pixels of the one picture of a person."""


@dataclass(slots=True)
class Person:
    """Somebody who is seen in a photo or a video.

    Attributes:
        number: As ``Rule.which`` and ``--faces`` take it.
        first: Seconds at which the person is first seen; 0 in a photo.
        frames: Frames in which the person is seen.
        seconds: How long that is; 0 in a photo.
        size: Mean height of the face in pixels.
        score: Mean certainty that it is a face, 0..1.
        picture: ``(h, w, 3)`` uint8 RGB, where the face is seen best; serves as a reference.
        glimpses: Seconds and ``(160, 160, 3)`` uint8 RGB, evenly spread over the time in view.
    """

    number: int
    first: float
    frames: int = 0
    seconds: float = 0.0
    size: float = 0.0
    score: float = 0.0
    picture: Image = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    glimpses: list[tuple[float, Image]] = field(default_factory=list)
    _best: float = -1.0
    _step: int = 1

    def seen(self, face: Face, image: Image, time: float) -> None:
        """Take note of the person in one more frame."""
        height = float(face.box[3] - face.box[1])
        if self.frames % self._step == 0:
            self.glimpses.append((time, _thumbnail(_around(image, face))))
            if len(self.glimpses) >= 2 * GLIMPSES:
                # Every other one goes, so that they stay spread evenly however long it takes.
                del self.glimpses[1::2]
                self._step *= 2
        self.frames += 1
        self.size += (height - self.size) / self.frames
        self.score += (face.mesh_score - self.score) / self.frames
        frontal = 1.0 if face.mesh is None else max(0.0, float(np.cos(landmarks.yaw(face.mesh))))
        merit = frontal**4 * min(height, 600.0) * face.mesh_score
        if merit > self._best * 1.05:
            self._best, self.picture = merit, _around(image, face)


def list_faces(
    target: Path | str,
    *,
    start: float | None = None,
    end: float | None = None,
    progress: Progress | None = None,
    swapper: Swapper | None = None,
) -> list[Person]:
    """Who is in a photo or a video.

    Args:
        target: Photo or video.
        start: Seconds; what lies before is left out. For video only.
        end: Seconds; what lies from there on is left out. For video only.
        progress: Called after each frame.
        swapper: The models.

    Returns:
        People by number. Numbers are those that a swap of the same part of the same file goes by;
        in a photo they run from left to right.

    Raises:
        MediaError: The target cannot be read.
        UsageError: A part of a photo was asked for.
    """
    people: dict[int, Person] = {}
    with open_part(
        Path(target), start, end, swapper.limits if swapper is not None else None
    ) as source:
        still = source.info.kind == "image"
        stream = Stream(swapper or load(), identify=not still, still=still)
        report = with_total(progress, source.info.frames)
        for frame in source:
            time = float(frame.pts * frame.time_base) if frame.pts and frame.time_base else 0.0
            for face in stream.observe(frame):
                assert face.track is not None
                person = people.setdefault(face.track, Person(face.track, time))
                person.seen(face, frame.image, time)
            if report is not None:
                report(frame.index + 1)
        for person in people.values():
            person.seconds = float(person.frames / source.info.fps) if source.info.fps else 0.0
    if not people:
        log.warning("%s: no face was found", target)
    return sorted(people.values(), key=lambda p: p.number)


@dataclass(frozen=True, slots=True)
class Listing:
    """Who is in one file.

    Attributes:
        target: The file.
        people: By number.
        pictures: Number → picture and sheet of thumbnails.
        error: Why it failed, in a folder; a single file raises instead.
    """

    target: Path
    people: list[Person] = field(default_factory=list)
    pictures: dict[int, tuple[Path, Path]] = field(default_factory=dict)
    error: MienError | None = None


def list_people(
    target: Path | str,
    output: Path | str | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
    progress: FileProgress | None = None,
    swapper: Swapper | None = None,
) -> Iterator[Listing]:
    """List people of a file, or of each file of a folder, and write their pictures.

    Args:
        target: Photo, video or folder.
        output: Folder for the pictures, ``NAME-faces`` in the working folder if not given; for a
            folder of targets, with one folder in it for each.
        start: As for :func:`list_faces`; photos of a folder are taken whole.
        end: As for :func:`list_faces`.
        overwrite: Replace pictures of an earlier listing.
        progress: Called after each frame with the file.
        swapper: The models.

    Yields:
        A listing for each file as soon as it is done.

    Raises:
        MediaError: See :func:`list_faces` and :func:`write_faces`.
        UsageError: See there.
    """
    target = Path(target)
    many = target.is_dir()
    name = target.resolve().name if many else target.stem
    folder = Path(f"{name}-faces") if output is None else Path(output)
    targets = list_media(target) if many else [target]
    check_faces_folder(folder, overwrite=overwrite)
    swapper = swapper or load()
    made = many and make_folder(folder)
    try:
        for file in targets:
            still = many and is_still(file)
            place = folder / file.name if many else folder
            try:
                people = list_faces(
                    file,
                    start=None if still else start,
                    end=None if still else end,
                    progress=for_file(progress, file),
                    swapper=swapper,
                )
                pictures = write_faces(people, place, overwrite=overwrite)
            except MienError as error:
                if not many:
                    raise
                yield Listing(file, error=error)
            else:
                yield Listing(file, people, pictures)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def write_faces(
    people: Sequence[Person], folder: Path | str, *, overwrite: bool = False
) -> dict[int, tuple[Path, Path]]:
    """Write a picture and a sheet of thumbnails of each person into a folder.

    Returns:
        Number → ``person-N.jpg`` and ``person-N-sheet.jpg``.

    Raises:
        UsageError: There are such files already.
        MediaError: They cannot be written; then none of them is left.
    """
    folder = Path(folder)
    check_faces_folder(folder, overwrite=overwrite)
    if not people:
        return {}
    made = make_folder(folder)
    old = set(folder.glob("person-*.jpg"))
    written: dict[int, tuple[Path, Path]] = {}
    try:
        for person in people:
            picture = folder / f"person-{person.number}.jpg"
            sheet = folder / f"person-{person.number}-sheet.jpg"
            written[person.number] = picture, sheet
            _write_jpeg(picture, person.picture, overwrite=overwrite)
            _write_jpeg(sheet, _sheet(person), overwrite=overwrite)
    except BaseException:
        for path in {p for pair in written.values() for p in pair} - old:
            path.unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise
    for path in old - {p for pair in written.values() for p in pair}:
        path.unlink()  # of people of an earlier listing, whose numbers no longer hold
    return written


def check_faces_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a folder for faces that cannot be.

    Raises:
        UsageError: It is a file, or has pictures of people already and ``overwrite`` is not set.
        MediaError: The folder that it is to be made in is missing.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; the pictures of people go into a folder")
    if not folder.parent.is_dir():
        raise MediaError(f"{folder}: the folder {folder.parent} does not exist")
    if not overwrite and folder.is_dir() and any(folder.glob("person-*.jpg")):
        raise UsageError(
            f"{folder}: has pictures of people already; choose another folder or add --overwrite"
        )


def _around(image: Image, face: Face) -> Image:
    """A copy of the square around a face, as far as it is inside the image."""
    height, width = image.shape[:2]
    middle = (face.box[:2] + face.box[2:]) / 2
    half = 0.8 * float((face.box[2:] - face.box[:2]).max())
    x0, y0 = np.clip(np.floor(middle - half), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(middle + half), (x0 + 1, y0 + 1), (width, height)).astype(int)
    crop = image[y0:y1, x0:x1]
    scale = PICTURE / max(crop.shape[:2])
    if scale >= 1:
        return crop.copy()
    size = (round(crop.shape[1] * scale), round(crop.shape[0] * scale))
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)


def _thumbnail(crop: Image) -> Image:
    """The crop inside a grey square of ``THUMBNAIL`` pixels."""
    scale = THUMBNAIL / max(crop.shape[:2])
    width, height = (max(1, round(n * scale)) for n in crop.shape[1::-1])
    out = np.full((THUMBNAIL, THUMBNAIL, 3), 40, np.uint8)
    x, y = (THUMBNAIL - width) // 2, (THUMBNAIL - height) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out[y : y + height, x : x + width] = cv2.resize(crop, (width, height), interpolation=how)
    return out


def _sheet(person: Person) -> Image:
    """Thumbnails of a person in rows of six, with the time below each."""
    band, columns = 20, min(6, len(person.glimpses))
    rows = -(-len(person.glimpses) // columns)
    sheet = np.full((rows * (THUMBNAIL + band), columns * THUMBNAIL, 3), 255, np.uint8)
    for i, (time, thumbnail) in enumerate(person.glimpses):
        x, y = i % columns * THUMBNAIL, i // columns * (THUMBNAIL + band)
        sheet[y : y + THUMBNAIL, x : x + THUMBNAIL] = thumbnail
        text = f"{int(time // 60)}:{time % 60:04.1f}"
        where = (x + 6, y + THUMBNAIL + 15)
        cv2.putText(sheet, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def _write_jpeg(path: Path, image: Image, *, overwrite: bool) -> None:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise MediaError(f"{path}: cannot be encoded as JPEG")
    file = Temporary(path, overwrite=overwrite)
    try:
        file.path.write_bytes(data.tobytes())
    except OSError as error:
        file.drop()
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error
    file.keep()
