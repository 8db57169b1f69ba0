"""Virtual cameras through pyvirtualcam, at the boundary: a module that stands in for it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import synthetic
from mien import live, media
from mien.errors import MediaError
from mien.provenance import Marker
from mien.types import Frame

MARKER = Marker(consent=synthetic.CONSENT)

STAND_IN = """
import pathlib, time
folder = pathlib.Path(__file__).parent
class Camera:
    def __init__(self, width, height, fps):
        if (folder / "missing").exists():
            raise RuntimeError("'obs' backend: virtual camera output could not be started")
        (folder / "asked").write_text(f"{width} {height} {fps}")
    def __enter__(self):
        return self
    def __exit__(self, *_):
        (folder / "closed").touch()
    def send(self, frame):
        assert frame.flags["C_CONTIGUOUS"] and frame.dtype == "uint8"
        if (folder / "breaks").exists():
            raise RuntimeError("gone")
        with (folder / "frames").open("ab") as file:
            file.write(frame.tobytes())
        if (folder / "stuck").exists():
            time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "pyvirtualcam.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))  # new processes get it, too
    return tmp_path


def shown(value: int) -> live.Shown:
    image = np.full((64, 96, 3), value, np.uint8)
    image[:, :, 1] = 7
    return live.Shown(MARKER(Frame(image, value)), 0.0, [], 1)


def write_all(camera: media.LentCamera, count: int) -> None:
    for n in range(count):
        camera.write(shown(n).marked)
        time.sleep(0.01)


def test_frames_reach_the_other_process_whole_and_in_order(folder, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    output = live.Virtual()
    output.open(96, 64, 30)
    sent = [shown(n) for n in range(20)]
    for one in sent:
        output.write(one)
    output.close()
    assert (folder / "asked").read_text() == "96 64 30"
    assert (folder / "closed").exists()
    got = np.fromfile(folder / "frames", np.uint8).reshape(-1, 64, 96, 3)
    assert (got == np.stack([one.marked.frame.image for one in sent])).all()


def test_what_is_not_marked_is_not_shown(folder):
    camera = media.LentCamera((96, 64), 30)
    with pytest.raises(TypeError, match="provenance marked"):
        camera.write(Frame(np.zeros((64, 96, 3), np.uint8)))  # type: ignore[arg-type]
    camera.close()
    assert not (folder / "frames").exists()


def test_no_virtual_camera_is_said_with_what_to_install(folder):
    (folder / "missing").touch()
    with pytest.raises(MediaError, match=r"could not be started.*install OBS Studio"):
        media.LentCamera((96, 64), 30)


def test_a_missing_package_is_named_with_its_licence(tmp_path, monkeypatch):
    (tmp_path / "pyvirtualcam.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MediaError, match=r"pip install mien\[virtual\].*GPL-2\.0"):
        media.LentCamera((96, 64), 30)


def test_a_camera_that_breaks_is_an_error_and_no_hang(folder):
    camera = media.LentCamera((96, 64), 30)
    (folder / "breaks").touch()
    with pytest.raises(MediaError, match=r"virtual: no virtual camera \(gone\)"):
        write_all(camera, 50)
    camera.close()


def test_a_camera_that_hangs_is_let_go(folder, monkeypatch):
    monkeypatch.setattr("mien.media.virtual.STUCK", 0.2)
    (folder / "stuck").touch()
    camera = media.LentCamera((96, 64), 30)
    began = time.monotonic()
    with pytest.raises(MediaError, match="took no frame"):
        write_all(camera, 5)
    assert time.monotonic() - began < 3
    camera._process.terminate()
    camera.close()
