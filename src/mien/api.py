"""What mien does, as functions: enrol a person, swap a picture, a file or a folder, list faces.

The command line calls these and nothing below them. Every function that needs the models takes
``swapper``, the models as :func:`load` returns them; without it they are loaded for the one call.
"""

from __future__ import annotations

import logging
import mimetypes
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import cv2
import numpy as np

from mien import identity, landmarks, media, pipeline
from mien.errors import MediaError, MienError, NoFace, UsageError
from mien.media.info import IMAGE_SUFFIXES
from mien.media.sink import CONTAINERS, Temporary
from mien.pipeline import Report, Stream, Swapper, load
from mien.provenance import Marker
from mien.types import (
    Consent,
    ConsentBasis,
    Face,
    Floats,
    Frame,
    Identity,
    Image,
    Rule,
    SwapPlan,
    TargetBasis,
    Which,
)

__all__ = [
    "Listing",
    "Person",
    "Result",
    "consent_of",
    "enrol",
    "list_faces",
    "list_people",
    "load",
    "reference",
    "swap",
    "swap_folder",
    "swap_image",
    "target_consent_of",
    "write_faces",
]

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with frames done and frames in all, None where the file does not say."""

FileProgress = Callable[[Path, int, int | None], None]
"""The same for one file of a folder."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target.

    Attributes:
        target: The file.
        output: What was written, None if nothing was.
        report: Counts and times.
        copied: Nothing was swapped, and the target was copied through.
        error: Why it failed, in a folder; a single file raises instead.
    """

    target: Path
    output: Path | None
    report: Report = field(default_factory=Report)
    copied: bool = False
    error: MienError | None = None


def consent_of(basis: str, note: str = "") -> Consent:
    """On what the use of the portrait rests.

    Raises:
        UsageError: The basis is none of :data:`mien.types.ConsentBasis`.
    """
    return _consent(basis, note, get_args(ConsentBasis), "consent")


def target_consent_of(basis: str, note: str = "") -> Consent:
    """On what the use of the footage rests, for the person who is replaced.

    Raises:
        UsageError: The basis is none of :data:`mien.types.TargetBasis`.
    """
    return _consent(basis, note, get_args(TargetBasis), "target-consent")


def _consent(basis: str, note: str, known: tuple[str, ...], what: str) -> Consent:
    if basis not in known:
        raise UsageError(f"{what} {basis!r} is unknown; known are {', '.join(known)}")
    return Consent(basis, note)


def enrol(
    photos: Path | str | Image | Sequence[Path | str | Image],
    consent: Consent | str,
    *,
    which: Which | int | None = None,
    white_balance: bool = False,
    swapper: Swapper | None = None,
) -> Identity:
    """Make an identity of one or more photos of one person.

    Args:
        photos: Files, or ``(H, W, 3)`` uint8 RGB images.
        consent: On what the use rests: ``self``, ``written``, ``artwork`` or ``synthetic``.
        which: Which face, where a photo has several: ``largest``, ``left``, ``right`` or a
            number from 1, from left to right.
        white_balance: Remove each photo's colour cast first.
        swapper: The models.

    Raises:
        NoFace: A photo has no face, or several and ``which`` is None.
        MediaError: A photo cannot be read.
        UsageError: The consent basis is unknown, or there is no photo.
    """
    several = [photos] if isinstance(photos, str | Path | np.ndarray) else list(photos)
    if not several:
        raise UsageError("no photo was given; one of the person's face is needed")
    swapper = swapper or load()
    return identity.enrol(
        several,
        consent if isinstance(consent, Consent) else consent_of(consent),
        detect=swapper.detector,
        landmarks=swapper.landmarks,
        embed=swapper.embed,
        which=which,
        white_balance=white_balance,
    )


def reference(photo: Path | str | Image, *, swapper: Swapper | None = None) -> Floats:
    """Who the person in a photo is, to be found in a target by ``Rule(reference=…)``.

    Of several faces the one that is at least twice as large as the others is meant, or a large
    one (a tenth of the picture) that alone covers the picture's middle.

    Returns:
        ``(512,)`` float32 of unit length.

    Raises:
        NoFace: No face, or several of similar size.
        MediaError: The photo cannot be read.
    """
    swapper = swapper or load()
    label = "the reference" if isinstance(photo, np.ndarray) else str(photo)
    frame = Frame(photo if isinstance(photo, np.ndarray) else media.read_image(photo))
    faces = identity.find_faces(frame, swapper.detector, swapper.landmarks)
    faces = sorted(faces, key=lambda f: -_area(f))
    if not faces:
        raise NoFace(f"{label}: no face found; a reference shows the face of one person")
    middle = (frame.image.shape[1] / 2, frame.image.shape[0] / 2)
    centred = [f for f in faces if _holds(f, middle)]
    if len(centred) == 1 and _area(centred[0]) > 0.1 * frame.image.shape[0] * frame.image.shape[1]:
        faces = centred
    if len(faces) > 1 and _area(faces[0]) < 2 * _area(faces[1]):
        raise NoFace(
            f"{label}: {len(faces)} faces found, and it is not clear which one is meant; cut the "
            f"person out, or take a picture that 'mien faces' wrote"
        )
    (face,) = swapper.embed(frame, faces[:1])
    assert face.embedding is not None
    return face.embedding


def swap_image(
    image: Image,
    who: Identity | SwapPlan,
    *,
    target_consent: Consent | None = None,
    swapper: Swapper | None = None,
) -> Image:
    """Swap the faces of a picture in memory; the result carries the visible label.

    Args:
        image: ``(H, W, 3)`` uint8 RGB; left as it is.
        who: Whose face goes on all others, or a plan that says more.
        target_consent: On what the use of the picture rests.
        swapper: The models.

    Returns:
        ``(H, W, 3)`` uint8 RGB; an unmarked copy if there was no face to swap.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(
            f"expected an image of shape (H, W, 3) and dtype uint8, "
            f"not {image.shape} and {image.dtype}"
        )
    plan = _plan(who)
    frame = Frame(np.array(image, order="C"))
    stream = Stream(swapper or load(), identify=_by_person(plan), still=True)
    pairs = stream.assign(stream.observe(frame), plan)
    if not pairs:
        return frame.image
    marker = Marker(consent=_all_consent(plan), target_consent=target_consent)
    return marker(stream.render(frame, pairs, plan)).frame.image


def swap(
    target: Path | str,
    who: Identity | SwapPlan,
    output: Path | str,
    *,
    target_consent: Consent | None = None,
    options: media.SinkOptions | None = None,
    start: float | None = None,
    end: float | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    swapper: Swapper | None = None,
) -> Result:
    """Swap the faces of a photo or a video; everything else stays.

    A target in which nothing is to be swapped is copied through, with a warning in the log.
    An interrupt (Ctrl-C) ends the work early; what was done is kept as a playable file.

    Args:
        target: Photo or video.
        who: Whose face goes on all others, or a plan that says more.
        output: The file to be made; its folder is there.
        target_consent: On what the use of the target rests, for the person who is replaced.
        options: Encoder, speed, quality, pixel format.
        start: Seconds; what lies before is left out. For video only.
        end: Seconds; what lies from there on is left out. For video only.
        workers: Frames painted at a time.
        overwrite: Whether an existing output may be replaced.
        progress: Called after each frame.
        swapper: The models.

    Raises:
        MediaError: The target cannot be read, or the output cannot be written.
        UsageError: Target and output do not go together.
    """
    target, output = Path(target), Path(output)
    plan = _plan(who)
    check_output([target], output, overwrite=overwrite)
    with _open(target, start, end) as source:
        still = source.info.kind == "image"
        stream = Stream(swapper or load(), identify=_by_person(plan, still=still), still=still)
        marker = Marker(consent=_all_consent(plan), target_consent=target_consent)
        sink = media.open_sink(
            output, source, options=options, metadata=marker.metadata(), overwrite=overwrite
        )
        try:
            report = pipeline.run(
                source,
                sink,
                stream,
                plan,
                marker,
                workers=workers,
                progress=_with_total(progress, source.info.frames),
            )
            if report.interrupted:
                return Result(target, output if sink.abort(keep=True) else None, report)
            if report.swapped:
                sink.close()
                return Result(target, output, report)
            sink.abort()
        except BaseException:
            sink.abort()
            raise
    cause = "no face was found"
    if report.faceless < report.frames_in:
        cause = "none of the faces in it is the one that was asked for"
    log.warning("%s: %s; it was copied through unchanged", target, cause)
    _copy(target, output, options, start, end, overwrite=overwrite)
    return Result(target, output, report, copied=True)


def swap_folder(
    folder: Path | str,
    who: Identity | SwapPlan,
    output: Path | str,
    *,
    target_consent: Consent | None = None,
    options: media.SinkOptions | None = None,
    start: float | None = None,
    end: float | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: FileProgress | None = None,
    swapper: Swapper | None = None,
) -> Iterator[Result]:
    """Swap every photo and video of a folder; results get the same names in another folder.

    One file that fails does not stop the others. Folders inside the folder are left out.

    Args:
        folder: With photos, videos, or both.
        who: As for :func:`swap`.
        output: A folder; made if it is not there but the folder that it lies in is.
        target_consent: As for :func:`swap`.
        options: As for :func:`swap`.
        start: As for :func:`swap`; photos are taken whole.
        end: As for :func:`swap`; photos are taken whole.
        workers: As for :func:`swap`.
        overwrite: As for :func:`swap`.
        progress: Called after each frame with the file.
        swapper: The models.

    Yields:
        A result for each file as soon as it is done.

    Raises:
        MediaError: The folder cannot be read, or the output folder cannot be made.
        UsageError: The output is the folder itself, or there is nothing to swap.
    """
    folder, output = Path(folder), Path(output)
    if output.is_dir() and output.samefile(folder):
        raise UsageError(f"{output}: is the input, too; choose another folder for the output")
    names = _output_names(list_media(folder))
    made = _make_folder(output)
    swapper = swapper or load()
    try:
        for target, name in names.items():
            still = _is_still(target)
            try:
                result = swap(
                    target,
                    who,
                    output / name,
                    target_consent=target_consent,
                    options=options,
                    start=None if still else start,
                    end=None if still else end,
                    workers=workers,
                    overwrite=overwrite,
                    progress=_for_file(progress, target),
                    swapper=swapper,
                )
            except MienError as error:
                result = Result(target, None, error=error)
            yield result
            if result.report.interrupted:
                return
    finally:
        if made and not any(output.iterdir()):
            output.rmdir()


VIDEO_SUFFIXES: Final = {*CONTAINERS, ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv",
                         ".3gp", ".ts", ".ogv"}  # fmt: skip


def list_media(folder: Path | str) -> list[Path]:
    """Photos and videos of a folder in order of name; hidden files are left out.

    What is neither by its name nor an image by its content is left out, with a note in the log.

    Raises:
        MediaError: The folder cannot be read.
        UsageError: There is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder")
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read ({error.strerror})") from error
    images = set(media.list_images(folder))
    found = [p for p in files if p in images or _named_as_media(p)]
    for path in files:
        if path not in found:
            log.info("%s: is left out; it is no photo and no video by its name", path)
    if not found:
        raise UsageError(f"{folder}: has no photo and no video in it")
    return found


def _named_as_media(path: Path) -> bool:
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return kind in ("image", "video") or path.suffix.lower() in VIDEO_SUFFIXES


def _is_still(path: Path) -> bool:
    """Whether a file is a photo; of what cannot be read its opening will say more."""
    try:
        return media.kind_of(path) == "image"
    except MediaError:
        return True


def _output_names(targets: Sequence[Path]) -> dict[Path, str]:
    """The same name, or one whose suffix mien writes; no two the same."""
    taken = {t.name for t in targets}
    names = {}
    for target in targets:
        suffix, name = target.suffix.lower(), target.name
        if suffix not in IMAGE_SUFFIXES and suffix not in CONTAINERS:
            image = suffix == ".bmp" or (mimetypes.guess_type(name)[0] or "").startswith("image/")
            name = target.stem + (".png" if image else ".mkv")
            if name in taken:
                name = target.name + (".png" if image else ".mkv")
            taken.add(name)
        names[target] = name
    return names


def _make_folder(path: Path) -> bool:
    """Make the folder if it is not there; says whether it was made."""
    if path.is_dir():
        return False
    if path.exists():
        raise UsageError(f"{path}: is a file; the target is a folder, so the output must be one")
    try:
        path.mkdir()
    except FileNotFoundError as error:
        raise MediaError(f"{path}: the folder {path.parent} does not exist") from error
    except OSError as error:
        raise MediaError(f"{path}: the folder cannot be made ({error.strerror})") from error
    return True


def check_output(inputs: Sequence[Path], output: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output that cannot be.

    Raises:
        UsageError: It is one of the inputs, a folder, or there already without ``overwrite``.
        MediaError: Its folder is missing.
    """
    if output.is_dir():
        raise UsageError(
            f"{output}: is a folder; the target is one file, so the output must be one"
        )
    if not output.parent.is_dir():
        raise MediaError(f"{output}: the folder {output.parent} does not exist")
    if output.exists():
        if any(p.exists() and output.samefile(p) for p in inputs):
            raise UsageError(f"{output}: is the input, too; choose another name for the output")
        if not overwrite:
            raise UsageError(f"{output}: exists already; choose another name or add --overwrite")


def _copy(
    target: Path,
    output: Path,
    options: media.SinkOptions | None,
    start: float | None,
    end: float | None,
    *,
    overwrite: bool,
) -> None:
    """Copy a target in which nothing was swapped; without marks, since nothing was made."""
    formats = IMAGE_SUFFIXES | CONTAINERS
    same = formats.get(target.suffix.lower()) == formats.get(output.suffix.lower())
    if same and start is None and end is None:
        file = Temporary(output, overwrite=overwrite)
        try:
            shutil.copyfile(target, file.path)
            file.keep()
        except OSError as error:
            file.drop()
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{output}: cannot be written ({error.strerror})") from error
        except BaseException:
            file.drop()
            raise
        return
    # Another container or a part of it: decoded and encoded again. The label stays off, as it
    # would be untrue.
    unlabelled = Marker(consent=Consent("none"), label_on=False)
    with (
        media.open_source(target, start=start, end=end) as source,
        media.open_sink(output, source, options=options, metadata={}, overwrite=overwrite) as sink,
    ):
        for frame in source:
            sink.write(unlabelled(frame))


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
    with _open(Path(target), start, end) as source:
        still = source.info.kind == "image"
        stream = Stream(swapper or load(), identify=not still, still=still)
        report = _with_total(progress, source.info.frames)
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
    made = many and _make_folder(folder)
    try:
        for file in targets:
            still = many and _is_still(file)
            place = folder / file.name if many else folder
            try:
                people = list_faces(
                    file,
                    start=None if still else start,
                    end=None if still else end,
                    progress=_for_file(progress, file),
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
    made = _make_folder(folder)
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


def _open(target: Path, start: float | None, end: float | None) -> media.Source:
    source = media.open_source(target, start=start, end=end)
    if source.info.kind == "image" and not (start is None and end is None):
        source.close()
        raise UsageError(f"{target}: is a photo; start and end are for videos")
    return source


def _plan(who: Identity | SwapPlan) -> SwapPlan:
    return who if isinstance(who, SwapPlan) else SwapPlan((Rule(who),))


def _by_person(plan: SwapPlan, *, still: bool = True) -> bool:
    """Whether the plan needs to know who is who; a number in a still is a place."""
    return any(
        r.reference is not None or (isinstance(r.which, int) and not still) for r in plan.rules
    )


def _all_consent(plan: SwapPlan) -> Consent:
    """What the use of all portraits of a plan rests on."""
    each = [r.identity.consent for r in plan.rules]
    bases = dict.fromkeys(c.basis for c in each)
    notes = dict.fromkeys(c.note for c in each if c.note)
    return Consent(", ".join(bases), "; ".join(notes))


def _with_total(progress: Progress | None, total: int | None) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(done, total)


def _for_file(progress: FileProgress | None, file: Path) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(file, done, total)


def _holds(face: Face, point: tuple[float, float]) -> bool:
    x0, y0, x1, y1 = face.box
    return bool(x0 <= point[0] <= x1 and y0 <= point[1] <= y1)


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))
