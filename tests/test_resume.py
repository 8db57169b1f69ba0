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
from mien import api, media
from mien.api.resuming import work_folder
from mien.errors import MediaError, UsageError
from mien.provenance.verifying import verify

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
