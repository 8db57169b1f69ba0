"""Tracks in a file: what goes in comes out, and what is damaged is said to be."""

from __future__ import annotations

import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import tracks
from mien.errors import MediaError, UsageError
from mien.types import Face

HEAD = tracks.Header(640, 360, Fraction(1, 30), points=5, made_by={"mien": "test"})


def face(track: int, rng: np.random.Generator, **more: object) -> Face:
    box = rng.uniform(0, 600, 4).astype(np.float32)
    mesh = rng.uniform(-50, 2000, (5, 3)).astype(np.float32)
    points = rng.uniform(0, 600, (5, 2)).astype(np.float32)
    return Face(box, 0.75, points, mesh, 0.5, track, **more)  # type: ignore[arg-type]


def write(path: Path, frames: list[tracks.Seen], head: tracks.Header = HEAD) -> Path:
    with tracks.Writer(path, head) as writer:
        for seen in frames:
            writer.write(seen)
    return path


def some(count: int, seed: int = 0) -> list[tracks.Seen]:
    rng = np.random.default_rng(seed)
    out = []
    for n in range(count):
        numbers = rng.permutation(4)[: rng.integers(0, 4)] + 1
        faces = [face(int(k), rng, lids=(0.2, 0.3) if k % 2 else None, missed=int(k == 3), fade=0.5)
                 for k in numbers]  # fmt: skip
        out.append(tracks.Seen(7 + 3 * n, faces, [int(k) - 2 for k in numbers]))
    return out


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 600), seed=st.integers(0, 9))
def test_what_goes_in_comes_out(tmp_path_factory, count: int, seed: int):
    frames = some(count, seed)
    path = write(tmp_path_factory.mktemp("t") / "t.npz", frames)
    with tracks.Reader(path) as reader:
        assert reader.header.frames == count
        assert (reader.header.width, reader.header.height) == (640, 360)
        assert reader.header.time_base == Fraction(1, 30)
        for seen, again in zip(frames, reader, strict=True):
            assert (seen.pts, seen.rules) == (again.pts, again.rules)
            for one, other in zip(seen.faces, again.faces, strict=True):
                np.testing.assert_array_equal(one.box, other.box)
                np.testing.assert_array_equal(one.points, other.points)
                assert np.abs(one.mesh - other.mesh).max() <= 0.5 / tracks.GRAIN + 1e-3
                assert (one.track, one.missed, one.fade) == (other.track, other.missed, other.fade)
                assert (one.lids is None) == (other.lids is None)
                assert other.embedding is None


def test_any_frame_can_be_asked_for_in_any_order(tmp_path):
    frames = some(600)
    with tracks.Reader(write(tmp_path / "t.npz", frames)) as reader:
        for n in (599, 0, 300, 255, 256, 1):
            seen = reader(frames[n].pts)
            assert seen is not None
            assert seen.pts == frames[n].pts
            assert [f.track for f in seen.faces] == [f.track for f in frames[n].faces]
        assert reader(8) is None
        assert reader(10**9) is None


def test_boxes_are_had_without_the_rest(tmp_path):
    frames = some(600)
    with tracks.Reader(write(tmp_path / "t.npz", frames)) as reader:
        for count in (0, 1, 255, 256, 257, 600):
            before = frames[count].pts if count < 600 else 10**9
            found = list(reader.boxes(before))
            assert [pts for pts, _ in found] == [seen.pts for seen in frames[:count]]
            for (_, faces), seen in zip(found, frames, strict=False):
                assert [f.box.tolist() for f in faces] == [f.box.tolist() for f in seen.faces]


def test_numpy_opens_it_as_it_is(tmp_path):
    frames = some(300)
    with np.load(write(tmp_path / "t.npz", frames)) as file:
        assert list(file["00001/pts"]) == [seen.pts for seen in frames[256:]]


def test_embeddings_are_never_in_it(tmp_path):
    rng = np.random.default_rng(1)
    vector = rng.normal(size=512).astype(np.float32)
    path = write(tmp_path / "t.npz", [tracks.Seen(0, [face(1, rng, embedding=vector)], [0])])
    with zipfile.ZipFile(path) as file:
        held = b"".join(file.read(name) for name in file.namelist())
    assert vector[:8].tobytes() not in held


def damaged(path: Path, change) -> Path:
    """The file with members changed by ``change(name, bytes) -> bytes | None``."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    path.write_bytes(out.getvalue())
    return path


def header(**change: object):
    def inner(name: str, data: bytes) -> bytes:
        return json.dumps(json.loads(data) | change).encode() if name == "header.json" else data

    return inner


def pickled(name: str, data: bytes) -> bytes:
    if not name.endswith("score.npy"):
        return data
    held = io.BytesIO()
    np.save(held, np.array([{"a": 1}], object), allow_pickle=True)
    return held.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (header(version=2), "version 2, expected 1"),
        (header(format="other"), "expected a file of tracks"),
        (header(frames=9), "do not grow"),
        (header(frames=300), "00001/pts.npy is missing"),
        (header(time_base=[1, 0]), "header is damaged"),
        (header(points=7), "mesh: expected rows of"),
        (header(points=10**9), "header is damaged"),
        (lambda n, d: None if n.endswith("box.npy") else d, "box.npy is missing"),
        (lambda n, d: d[:-3] if n.endswith("box.npy") else d, "box is no array"),
        (lambda n, d: d[:-4] if n.endswith("count.npy") else d, "count is no array"),
        (pickled, "score is no array"),
        (lambda n, d: b"{" if n == "header.json" else d, "header is damaged"),
        (lambda n, d: b"[]" if n == "header.json" else d, "header is damaged"),
    ],
)
def test_what_is_damaged_is_said_to_be(tmp_path, change, said):
    path = damaged(write(tmp_path / "t.npz", some(10)), change)
    with pytest.raises(MediaError, match=said) as caught, tracks.Reader(path) as reader:
        list(reader)
    assert "t.npz" in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_raises_nothing_else(tmp_path_factory, at: int, byte: int):
    path = write(tmp_path_factory.mktemp("t") / "t.npz", some(12))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(bytes(data))
    caught: MediaError | None = None
    try:
        with tracks.Reader(path) as reader:
            assert len(list(reader)) == 12
    except MediaError as error:
        caught = error
    assert caught is None or "t.npz" in str(caught)


def test_no_file_and_another_file(tmp_path):
    with pytest.raises(MediaError, match="expected a file of tracks"):
        tracks.Reader(tmp_path / "none.npz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(MediaError, match="expected a file of tracks"):
        tracks.Reader(tmp_path / "text")


def test_corrections(tmp_path):
    rng = np.random.default_rng(0)
    frames = [
        tracks.Seen(0, [face(1, rng), face(2, rng)], [0, -1]),
        tracks.Seen(1, [face(3, rng), face(2, rng)], [0, -1]),
    ]
    path = write(tmp_path / "t.npz", frames)

    def change(seen: tracks.Seen) -> tracks.Seen:
        return tracks.corrected(seen, renumber={3: 1}, drop=frozenset({2}))

    assert tracks.rewrite(path, tmp_path / "new.npz", change) == 2
    with tracks.Reader(tmp_path / "new.npz") as reader:
        assert [[f.track for f in seen.faces] for seen in reader] == [[1], [1]]
    with pytest.raises(UsageError, match="track 2: would be on two faces"):
        tracks.corrected(frames[0], renumber={1: 2})
