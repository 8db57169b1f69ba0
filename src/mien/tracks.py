"""Faces of a whole video in a file: found and followed once, corrected by hand, painted later.

The file is a ZIP of NumPy arrays that ``numpy.load`` opens as it is; docs/tracks.md describes it.
Embeddings are never in it: it says where faces are, not who.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaError, UsageError
from mien.types import Face, Faces, Floats

VERSION: Final = 1

CHUNK: Final = 256
"""Frames to a chunk, which is read and written as a whole."""

GRAIN: Final = 64
"""Steps to a pixel in which meshes are stored."""

LARGEST: Final = 1 << 28
"""Bytes that a chunk's array may have, unpacked: a thousand faces in each frame."""

_SHAPES: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "track": ("<i4", ()),
    "rule": ("<i2", ()),
    "missed": ("<u2", ()),
    "fade": ("<f4", ()),
    "score": ("<f4", ()),
    "mesh_score": ("<f4", ()),
    "lids": ("<f4", (2,)),
    "box": ("<f4", (4,)),
    "points": ("<f4", (5, 2)),
}
"""Arrays with a row for each face: type and shape of a row; the mesh comes on top."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file of tracks is about.

    Attributes:
        width: Of the frames as displayed.
        height: The same.
        time_base: Seconds to a tick of the frames' times.
        frames: How many there are.
        points: Of a mesh.
        made_by: Version of mien, detector and landmark network; for the reader alone.
    """

    width: int
    height: int
    time_base: Fraction
    frames: int = 0
    points: int = 478
    made_by: Mapping[str, str] = field(default_factory=dict)


class Seen(NamedTuple):
    """The faces of one frame.

    Attributes:
        pts: The frame's time in ticks.
        faces: With meshes and track numbers.
        rules: For each face the number of the plan's rule that chose it, from 0; -1 for none.
    """

    pts: int
    faces: Faces
    rules: list[int]


class Writer:
    """Writes the frames of a video in order. A context; the file is whole after ``close``.

    Args:
        path: Written to at once; the caller gives it its name afterwards.
        header: ``frames`` is counted anew.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self._waiting: list[Seen] = []
        self._frames = 0

    def write(self, seen: Seen) -> None:
        """Add the next frame."""
        self._waiting.append(seen)
        if len(self._waiting) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        number = self._frames // CHUNK
        for name, array in _packed(self._waiting, self.header.points).items():
            held = io.BytesIO()
            np.lib.format.write_array(held, array, allow_pickle=False)
            self._zip.writestr(f"{number:05d}/{name}.npy", held.getvalue())
        self._frames += len(self._waiting)
        self._waiting = []

    def close(self) -> None:
        """Write what is left, and the header."""
        if self._waiting:
            self._flush()
        head = self.header
        words = {
            "format": "mien tracks",
            "version": VERSION,
            "width": head.width,
            "height": head.height,
            "time_base": [head.time_base.numerator, head.time_base.denominator],
            "frames": self._frames,
            "chunk": CHUNK,
            "points": head.points,
            "grain": GRAIN,
            "made_by": dict(head.made_by),
        }
        self._zip.writestr("header.json", json.dumps(words, indent=1))
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._zip.close()


class Reader:
    """Reads a file of tracks, a chunk at a time. A context.

    Attributes:
        header: What it is about.
        pts: ``(F,)`` int64, times of all frames, growing.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the file and read the frames' times.

        Raises:
            MediaError: It is missing, damaged or of another version.
        """
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
            # zipfile's RuntimeErrors are ZIP versions and methods that it does not know.
            raise MediaError(f"{path}: expected a file of tracks ({error})") from error
        try:
            self.header, chunks = self._head()
            times = [self._array(f"{n:05d}/pts", "<i8", ()) for n in range(chunks)]
            self.pts = np.concatenate([np.zeros(0, np.int64), *times])
            if len(self.pts) != self.header.frames or (np.diff(self.pts) <= 0).any():
                raise MediaError(f"{path}: is damaged: the times of its frames do not grow")
        except BaseException:
            self._zip.close()
            raise
        self._chunk: tuple[int, list[Seen]] = (-1, [])

    def _head(self) -> tuple[Header, int]:
        try:
            words = json.loads(self._read("header.json", 1 << 16))
            if words.get("format") != "mien tracks":
                raise MediaError(f"{self.path}: expected a file of tracks")
            if words["version"] != VERSION:
                raise MediaError(
                    f"{self.path}: is of version {words['version']}, expected {VERSION}"
                )
            if (words["chunk"], words["grain"]) != (CHUNK, GRAIN):
                raise ValueError("chunk or grain")
            head = Header(
                int(words["width"]),
                int(words["height"]),
                Fraction(*map(int, words["time_base"])),
                int(words["frames"]),
                int(words["points"]),
                {str(k): str(v) for k, v in words["made_by"].items()},
            )
            if not (0 < head.points <= 5000 and 0 <= head.frames < 1 << 31 and head.time_base > 0):
                raise ValueError("frames or points")
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise MediaError(f"{self.path}: its header is damaged ({error})") from error
        return head, -(-head.frames // CHUNK)

    def _read(self, name: str, largest: int) -> bytes:
        try:
            if self._zip.getinfo(name).file_size > largest:
                raise MediaError(f"{self.path}: {name} has more than {largest} bytes")
            return self._zip.read(name)
        except MediaError:
            raise
        except KeyError as error:
            raise MediaError(f"{self.path}: {name} is missing ({error})") from error
        except Exception as error:  # of zipfile, zlib and the disk, whatever is wrong with it
            raise MediaError(f"{self.path}: {name} is damaged ({error})") from error

    def _array(self, name: str, kind: str, row: tuple[int, ...]) -> NDArray[Any]:
        data = self._read(f"{name}.npy", LARGEST)
        try:
            array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
            raise MediaError(f"{self.path}: {name} is no array ({error})") from error
        if array.dtype != np.dtype(kind) or array.shape[1:] != row:
            raise MediaError(
                f"{self.path}: {name}: expected rows of {row} {kind}, came {array.shape[1:]} "
                f"{array.dtype.str}"
            )
        return np.asarray(array)

    def __call__(self, pts: int) -> Seen | None:
        """The frame at that time, or None; quick for frames one after the other."""
        at = int(np.searchsorted(self.pts, pts))
        if at == len(self.pts) or self.pts[at] != pts:
            return None
        number = at // CHUNK
        if self._chunk[0] != number:
            self._chunk = number, self._load(number)
        return self._chunk[1][at % CHUNK]

    def __iter__(self) -> Iterator[Seen]:
        for number in range(-(-len(self.pts) // CHUNK)):
            yield from self._load(number)

    def boxes(self, before: int) -> Iterator[tuple[int, Faces]]:
        """Times before one, and faces that are little more than a box; much quicker than all."""
        nowhere = np.zeros((5, 2), np.float32)
        for number in range(-(-int(np.searchsorted(self.pts, before)) // CHUNK)):
            counts = self._array(f"{number:05d}/count", "<u2", ())
            boxes = self._array(f"{number:05d}/box", "<f4", (4,))
            ends = np.cumsum(counts)
            for pts, count, end in zip(self.pts[number * CHUNK :], counts, ends, strict=False):
                if pts >= before:
                    return
                yield int(pts), [Face(box, 1.0, nowhere) for box in boxes[end - count : end]]

    def _load(self, number: int) -> list[Seen]:
        counts = self._array(f"{number:05d}/count", "<u2", ())
        times = self.pts[number * CHUNK : (number + 1) * CHUNK]
        rows = {
            name: self._array(f"{number:05d}/{name}", kind, row)
            for name, (kind, row) in _SHAPES.items()
        }
        rows["mesh"] = self._array(f"{number:05d}/mesh", "<i4", (self.header.points, 3))
        if len(counts) != len(times) or {len(r) for r in rows.values()} != {int(counts.sum())}:
            raise MediaError(
                f"{self.path}: chunk {number} is damaged: its arrays do not go together"
            )
        return list(_unpacked(times, counts, rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def _packed(frames: list[Seen], points: int) -> dict[str, NDArray[Any]]:
    """The arrays of a chunk; meshes as steps from the face of that track before."""
    faces = [face for seen in frames for face in seen.faces]
    rows: dict[str, Any] = {
        "track": [0 if f.track is None else f.track for f in faces],
        "rule": [rule for seen in frames for rule in seen.rules],
        "missed": [f.missed for f in faces],
        "fade": [f.fade for f in faces],
        "score": [f.score for f in faces],
        "mesh_score": [f.mesh_score for f in faces],
        "lids": [(np.nan, np.nan) if f.lids is None else f.lids for f in faces],
        "box": [f.box for f in faces],
        "points": [f.points for f in faces],
    }
    meshes = np.zeros((len(faces), points, 3), "<i4")
    before: dict[int | None, NDArray[np.int32]] = {}
    for number, face in enumerate(faces):
        if face.mesh is None or face.mesh.shape != (points, 3):
            raise UsageError(f"expected faces with a mesh of {points} points")
        now = np.rint(face.mesh * GRAIN).astype("<i4")
        meshes[number] = now - before.get(face.track, 0)
        before[face.track] = now
    return {
        "pts": np.array([seen.pts for seen in frames], "<i8"),
        "count": np.array([len(seen.faces) for seen in frames], "<u2"),
        "mesh": meshes,
    } | {
        name: np.array(rows[name], kind).reshape(-1, *row) for name, (kind, row) in _SHAPES.items()
    }


def _unpacked(
    times: NDArray[np.int64], counts: NDArray[Any], rows: dict[str, NDArray[Any]]
) -> Iterator[Seen]:
    before: dict[int, NDArray[np.int32]] = {}
    row = 0
    for pts, count in zip(times, counts, strict=True):
        faces: Faces = []
        for _ in range(int(count)):
            track = int(rows["track"][row])
            now = rows["mesh"][row] + before.get(track, 0)
            before[track] = now
            lids = rows["lids"][row]
            faces.append(
                Face(
                    box=rows["box"][row],
                    score=float(rows["score"][row]),
                    points=rows["points"][row],
                    mesh=_floats(now),
                    mesh_score=float(rows["mesh_score"][row]),
                    track=track,
                    lids=None if np.isnan(lids).any() else (float(lids[0]), float(lids[1])),
                    missed=int(rows["missed"][row]),
                    fade=float(rows["fade"][row]),
                )
            )
            row += 1
        rules = rows["rule"][row - len(faces) : row]
        yield Seen(int(pts), faces, [int(rule) for rule in rules])


def _floats(steps: NDArray[np.int32]) -> Floats:
    return np.asarray(steps / np.float32(GRAIN), np.float32)


def corrected(
    seen: Seen, *, renumber: Mapping[int, int], drop: frozenset[int] = frozenset()
) -> Seen:
    """A frame after a correction by hand.

    Args:
        seen: The frame.
        renumber: Track numbers that become others, for instance where one person got two.
        drop: Track numbers of what is no face, or nobody to be swapped.
    """
    kept = [(f, r) for f, r in zip(seen.faces, seen.rules, strict=True) if f.track not in drop]
    faces = [replace(f, track=renumber.get(f.track or 0, f.track or 0)) for f, _ in kept]
    numbers = [f.track for f in faces]
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise UsageError(f"track {twice}: would be on two faces of the frame at {seen.pts}")
    return Seen(seen.pts, faces, [r for _, r in kept])


@dataclass(slots=True)
class Line:
    """One track of a file, in a list of all.

    Attributes:
        number: Of the track.
        frames: In which it is.
        first: Seconds, its first frame.
        last: Seconds, its last frame.
        height: Pixels, the mean over its frames.
    """

    number: int
    frames: int = 0
    first: float = 0.0
    last: float = 0.0
    height: float = 0.0


def lines_of(path: Path | str) -> list[Line]:
    """All tracks of a file, by number.

    Raises:
        MediaError: The file is damaged.
    """
    lines: dict[int, Line] = {}
    with Reader(path) as reader:
        base = float(reader.header.time_base)
        for seen in reader:
            for face in seen.faces:
                line = lines.setdefault(face.track or 0, Line(face.track or 0, 0, seen.pts * base))
                line.last = seen.pts * base
                line.height += (float(face.box[3] - face.box[1]) - line.height) / (line.frames + 1)
                line.frames += 1
    return [lines[number] for number in sorted(lines)]


def rewrite(path: Path | str, output: Path, change: Callable[[Seen], Seen]) -> int:
    """Write a file of tracks anew, each frame changed; how many frames there are.

    Raises:
        MediaError: The file is damaged.
        UsageError: From ``change``.
    """
    with Reader(path) as reader, Writer(output, reader.header) as writer:
        for seen in reader:
            writer.write(change(seen))
        return len(reader.pts)
