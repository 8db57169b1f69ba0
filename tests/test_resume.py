"""Work that is broken off goes on where it was: a real process, killed and started anew."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

import material
from mien import api, media, tracks
from mien.api.resuming import work_folder
from mien.errors import MediaError, UsageError
from mien.provenance.verifying import verify
from mien.types import Rule, SwapPlan

SWAP = """
import sys
from mien import api
me = api.enrol(sys.argv[1], "synthetic")
result = api.swap_in_parts(sys.argv[2], me, sys.argv[3], seconds=0.4)
print(result.report.frames_in, result.report.frames_out, result.report.swapped)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return material.write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", material.pan(frames=60), fps=25
    )


def times(path: Path) -> list[int]:
    with av.open(str(path)) as file:
        return [frame.pts for frame in file.decode(video=0)]


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("[pt]*.npz"))
    }


def test_who_is_killed_goes_on(tmp_path, clip):
    output = tmp_path / "out.mp4"
    command = [sys.executable, "-c", SWAP, material.PORTRAIT, clip, output]
    work = work_folder(output)
    kept: dict[str, str] = {}
    for _ in range(2):  # killed twice, each time after another part was done
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while len(hashes(work)) < len(kept) + 2 and time.monotonic() < until:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
        found = hashes(work)
        assert kept.items() <= found.items()  # nothing that was done is done again
        kept = found
        assert not output.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["60", "60", "60"]
    assert times(output) == times(clip)
    assert not work.exists()
    assert verify(output).status == 0


def test_another_portrait_does_not_go_on_with_it(tmp_path, clip, swapper, monkeypatch):
    me = api.enrol(material.PORTRAIT, "synthetic", swapper=swapper)
    output = tmp_path / "out.mp4"

    def full(*_: object, **__: object) -> None:
        raise MediaError("disk: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(media.parts, "write_packets", full)
        with pytest.raises(MediaError, match="No space left"):
            api.swap(clip, me, output, swapper=swapper, resume=True)
    assert hashes(work_folder(output)).keys() == {"tracks.npz"}
    other = api.enrol(material.MEDIA / "portrait-2.jpg", "synthetic", swapper=swapper)
    with pytest.raises(UsageError, match="begun with another portrait"):
        api.swap(clip, other, output, swapper=swapper, resume=True)
    result = api.swap(clip, me, output, swapper=swapper, resume=True)
    assert (result.report.frames_out, result.output) == (60, output)


def test_a_video_without_a_face_is_copied_and_nothing_is_left(tmp_path, swapper):
    me = api.enrol(material.PORTRAIT, "synthetic", swapper=swapper)
    clip = material.write_clip(tmp_path / "empty.mp4", material.noise())
    result = api.swap(clip, me, tmp_path / "out.mp4", swapper=swapper, resume=True)
    assert result.copied
    assert (tmp_path / "out.mp4").read_bytes() == clip.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.mp4", "out.mp4"]


def test_a_folder_goes_on_with_what_is_missing(tmp_path, swapper):
    me = api.enrol(material.PORTRAIT, "synthetic", swapper=swapper)
    given, made = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    made.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (given / name).write_bytes(material.PHOTO.read_bytes())
    (made / "a.jpg").write_bytes(b"made before")
    results = list(api.swap_folder(given, me, made, swapper=swapper, resume=True))
    assert [r.earlier for r in results] == [True, False]
    assert (made / "a.jpg").read_bytes() == b"made before"
    assert (made / "b.jpg").stat().st_size > 1000


def test_tracks_are_written_corrected_and_used(tmp_path, swapper):
    """A face that is dropped by hand stays as it is; one with another number is found by that."""
    clip = material.write_clip(tmp_path / "clip.mp4", material.pan(frames=12), fps=25)
    found, fixed = tmp_path / "found.npz", tmp_path / "fixed.npz"
    api.follow_faces(clip, found, swapper=swapper)
    numbers = [line.number for line in tracks.lines_of(found)]
    assert numbers == [1, 2]
    assert all(line.frames == 12 for line in tracks.lines_of(found))
    api.correct_tracks(found, fixed, {1: 5}, [2])
    assert [line.number for line in tracks.lines_of(fixed)] == [5]
    me = api.enrol(material.PORTRAIT, "synthetic", swapper=swapper)
    for which, faces in ((5, 12), ("all", 12), (1, 0)):
        output = tmp_path / f"{which}.mp4"
        plan = SwapPlan((Rule(me, which),))
        result = api.swap(clip, plan, output, swapper=swapper, tracked=fixed)
        assert result.report.faces == faces
    with pytest.raises(UsageError, match="has no track 9"):
        api.correct_tracks(found, tmp_path / "x.npz", {9: 1}, [])
    with pytest.raises(UsageError, match="name the corrected file with -o"):
        api.correct_tracks(found, None, {1: 2}, [])
    with pytest.raises(UsageError, match="would be on two faces"):
        api.correct_tracks(found, tmp_path / "x.npz", {1: 2}, [])
    assert not (tmp_path / "x.npz").exists()
    somebody = SwapPlan((Rule(me, reference=me.embedding),))
    with pytest.raises(UsageError, match="says where faces are, not who"):
        api.swap(clip, somebody, tmp_path / "y.mp4", swapper=swapper, tracked=found)
