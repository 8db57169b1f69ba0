"""What goes wrong for a user: one sentence, an exit status, and nothing left behind."""

import json
import os
import resource
import signal
import subprocess
import time
import zlib

import cv2
import numpy as np
import pytest

from material import MIEN, PHOTO, PORTRAIT, environment, listing, mien, noise, pan, write_clip
from mien import media

SWAP = ("swap", "--consent", "synthetic")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("bad") / "clip.mp4", pan())


@pytest.fixture
def folder(tmp_path, clip):
    """A folder with good and bad files."""
    (tmp_path / "portrait.jpg").write_bytes(PORTRAIT.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "there.mp4").write_bytes(b"somebody's work")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Dear diary, today I was renamed.\n" * 50)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-3000])
    (tmp_path / "cut.jpg").write_bytes(PHOTO.read_bytes()[:20000])
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "subfolder").mkdir()
    cv2.imwrite(str(tmp_path / "nobody.png"), noise()[0])
    (tmp_path / "wrong.toml").write_text('blend = "soft"\nblnd = "hard"\n')
    return tmp_path


def bomb():
    """A PNG of a few bytes that says that it has 3,600 megapixels."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def source(name="portrait.jpg"):
    return ("-s", name)


PHOTO_TO = ("-t", "photo.jpg", "-o", "out.jpg")
CLIP_TO = ("-t", "clip.mp4", "-o", "out.mp4")

BAD = {
    # what: (arguments, exit status, words of the message)
    "missing target": ((*source(), "-t", "gone.mp4", "-o", "out.mp4"), 2, ["gone.mp4", "no such"]),
    "missing portrait": ((*source("gone.jpg"), *CLIP_TO), 2, ["gone.jpg", "no such"]),
    "portrait is a folder": ((*source("subfolder"), *PHOTO_TO), 1, ["subfolder", "is a folder"]),
    "portrait is a video": ((*source("clip.mp4"), *PHOTO_TO), 1, ["clip.mp4", "is not a JPEG"]),
    "empty portrait": ((*source("empty.jpg"), *PHOTO_TO), 1, ["empty.jpg", "empty"]),
    "empty target": ((*source(), "-t", "empty.mp4", "-o", "out.mp4"), 1, ["empty.mp4", "empty"]),
    "text named mp4": ((*source(), "-t", "text.mp4", "-o", "out.mp4"), 1, ["text.mp4", "video"]),
    "truncated MP4": ((*source(), "-t", "cut.mp4", "-o", "out.mp4"), 1, ["cut.mp4", "cut off"]),
    "corrupt JPEG target": (
        (*source(), "-t", "cut.jpg", "-o", "out.jpg"), 1, ["cut.jpg", "cut off"]),
    "corrupt JPEG portrait": ((*source("cut.jpg"), *PHOTO_TO), 1, ["cut.jpg", "cut off"]),
    "portrait without a face": ((*source("nobody.png"), *PHOTO_TO), 1, ["nobody.png", "no face"]),
    "portrait with several faces": (
        (*source("photo.jpg"), *PHOTO_TO), 1, ["2 faces", "--source-face"]),
    "no such face in the portrait": (
        (*source("photo.jpg"), *PHOTO_TO, "--source-face", "3"), 1, ["photo.jpg", "3", "2"]),
    "reference without a face": (
        (*source(), *PHOTO_TO, "--match", "nobody.png"), 1, ["nobody.png", "no face"]),
    "reference with several": (
        (*source(), *PHOTO_TO, "--match", "photo.jpg"), 1, ["photo.jpg", "2 faces"]),
    "decompression bomb": (
        (*source(), "-t", "bomb.png", "-o", "out.png"), 1, ["bomb.png", "megapixels"]),
    "missing output folder": (
        (*source(), "-t", "clip.mp4", "-o", "no/out.mp4"), 1, ["no/out.mp4", "does not exist"]),
    "output is the target": ((*source(), "-t", "clip.mp4", "-o", "./clip.mp4", "--overwrite"), 2,
        ["clip.mp4", "input"]),
    "output is the portrait": (
        (*source(), "-t", "photo.jpg", "-o", "portrait.jpg", "--overwrite"), 2,
        ["portrait.jpg", "input"]),
    "output is there": ((*source(), "-t", "clip.mp4", "-o", "there.mp4"), 2,
        ["there.mp4", "--overwrite"]),
    "output is a folder": ((*source(), "-t", "clip.mp4", "-o", "subfolder"), 2,
        ["subfolder", "is a folder"]),
    "folder to file": ((*source(), "-t", ".", "-o", "there.mp4"), 2, ["there.mp4", "a file"]),
    "folder to itself": ((*source(), "-t", ".", "-o", "."), 2, [".", "input"]),
    "empty folder": ((*source(), "-t", "subfolder", "-o", "out"), 2, ["subfolder", "no photo"]),
    "photo to video": ((*source(), "-t", "photo.jpg", "-o", "out.mp4"), 1, ["out.mp4", ".png"]),
    "unknown suffix": ((*source(), "-t", "clip.mp4", "-o", "out.xyz"), 1, ["out.xyz", ".mkv"]),
    "container cannot hold the codec": (
        (*source(), "-t", "clip.mp4", "-o", "out.webm"), 1, ["out.webm", "aac"]),
    "no such encoder": ((*source(), *CLIP_TO, "--encoder", "libx999"), 1, ["libx999"]),
    "encoder refuses the pixels": (
        (*source(), *CLIP_TO, "--pixel-format", "rgb48le"), 1, ["out.mp4", "rgb48le"]),
    "no portrait": (CLIP_TO, 2, ["-s", "portrait"]),
    "no target": ((*source(), "-o", "out.mp4"), 2, ["--target"]),
    "unknown flag": ((*source(), *CLIP_TO, "--fast"), 2, ["--fast"]),
    "unknown faces": ((*source(), *CLIP_TO, "--faces", "middle"), 2, ["--faces", "middle", "left"]),
    "faces and match": ((*source(), *CLIP_TO, "--faces", "1", "--match", "portrait.jpg"), 2,
        ["--match", "--faces"]),
    "unknown source face": ((*source(), *CLIP_TO, "--source-face", "all"), 2, ["--source-face"]),
    "unknown consent": ((*source(), *CLIP_TO, "--consent", "maybe"), 2, ["maybe", "written"]),
    "unknown target consent": ((*source(), *CLIP_TO, "--target-consent", "maybe"), 2,
        ["maybe", "licensed"]),
    "end before start": ((*source(), *CLIP_TO, "--start", "5", "--end", "1:"), 2, ["1:"]),
    "part that is not there": ((*source(), *CLIP_TO, "--start", "1:00"), 1, ["clip.mp4", "60"]),
    "part of a photo": ((*source(), *PHOTO_TO, "--end", "1"), 2, ["photo.jpg", "is a photo"]),
    "map without reference": ((*CLIP_TO, "--map", "portrait.jpg:self"), 2, ["--map", "REFERENCE"]),
    "map with a missing file": (
        (*CLIP_TO, "--map", "portrait.jpg=gone.jpg:self"), 2, ["--map", "gone.jpg"]),
    "unknown generator": (
        (*source(), *CLIP_TO, "--generator", "magic"), 1, ["magic", "relight, mesh, warp"]),
    "unknown provider": ((*source(), *CLIP_TO, "--provider", "abacus"), 1, ["abacus", "cpu"]),
    "unknown blend": ((*source(), *CLIP_TO, "--blend", "hard"), 2, ["--blend", "poisson"]),
    "unknown key": ((*source(), *CLIP_TO, "--config", "wrong.toml"), 2, ["wrong.toml", "blnd"]),
    "missing settings": ((*source(), *CLIP_TO, "--config", "gone.toml"), 2, ["gone.toml"]),
    "no workers": ((*source(), *CLIP_TO, "--workers", "0"), 2, ["--workers"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what, folder):
    arguments, status, words = BAD[what]
    before = listing(folder)
    done = mien(*SWAP, *arguments, cwd=folder)
    assert_one_sentence(done, status)
    for word in words:
        assert word in done.stderr, done.stderr
    assert listing(folder) == before


def assert_one_sentence(done, status):
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("mien: ")
    assert "Traceback" not in done.stderr


def test_faces_of_bad_files(folder):
    before = listing(folder)
    for name, status in (("gone.mp4", 2), ("empty.mp4", 1), ("text.mp4", 1), ("subfolder", 2)):
        done = mien("faces", name, cwd=folder)
        assert_one_sentence(done, status)
        assert name in done.stderr
    assert listing(folder) == before


def test_no_consent(folder):
    before = listing(folder)
    done = mien("swap", *source(), *CLIP_TO, cwd=folder)
    assert_one_sentence(done, 2)
    assert "--consent self|written|artwork|synthetic" in done.stderr
    assert listing(folder) == before


def test_unknown_variable(folder):
    done = mien(*SWAP, *source(), *CLIP_TO, cwd=folder, env=environment(MIEN_BLAND="soft"))
    assert_one_sentence(done, 2)
    assert "MIEN_BLAND" in done.stderr


def test_unwritable_folder(folder):
    locked = folder / "subfolder"
    locked.chmod(0o555)
    # To root every folder is open, but nobody makes files in /proc.
    place = "/proc" if os.geteuid() == 0 else str(locked)
    for target, name in (("photo.jpg", "out.jpg"), ("clip.mp4", "out.mp4")):
        done = mien(*SWAP, *source(), "-t", target, "-o", f"{place}/{name}", cwd=folder)
        assert_one_sentence(done, 1)
        assert f"{place}/{name}" in done.stderr
    assert not list(locked.iterdir())


def test_errors_as_json(folder):
    done = mien(*SWAP, "--json", *source("nobody.png"), *PHOTO_TO, cwd=folder)
    assert done.returncode == 1
    assert '"exit_status": 1' in done.stdout
    assert "nobody.png" in done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_traceback_on_demand(folder):
    done = mien(*SWAP, "-vv", *source("nobody.png"), *PHOTO_TO, cwd=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


SMALL = 12 * 1024
"""Bytes that the small disk holds; less than any result here."""

ON_SMALL_DISK = f"""
mount -t tmpfs -o size={SMALL} mien "$1" || exit 99
shift
"$@"
status=$?
ls -A small
exit $status
"""


@pytest.mark.parametrize("name", ["photo.jpg", "clip.mp4"])
def test_full_disk(name, folder):
    """On a tmpfs of 12 KiB where one can be mounted, and with a limit on a file's size anyway."""
    (folder / "small").mkdir()
    large = ("--quality", "5") if name == "clip.mp4" else ()
    arguments = (*SWAP, *source(), "-t", name, "-o", f"small/{name}", *large)

    def limit():
        # Enough for what mien keeps in its own folder, and less than any output takes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))

    done = mien(*arguments, cwd=folder, preexec_fn=limit)
    assert_one_sentence(done, 1)
    assert f"small/{name}: cannot be written" in done.stderr
    assert not list((folder / "small").iterdir())

    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", ON_SMALL_DISK, "sh", "small",
         MIEN, *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 99 or "unshare failed" in done.stderr:
        return  # no right to mount here; the limit above stood in for it
    assert_one_sentence(done, 1)
    assert f"small/{name}: cannot be written" in done.stderr


def test_interrupt(tmp_path):
    """Ctrl-C leaves a playable file of what was done and says so."""
    target = write_clip(tmp_path / "long.mp4", pan(frames=12) * 40)
    with subprocess.Popen(
        [MIEN, *SWAP, "-s", PORTRAIT, "-t", target, "-o", "out.mp4"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(600):
            if next(tmp_path.glob(".out.mp4.*"), None):
                break
            time.sleep(0.05)
        time.sleep(2)  # what is done is not to be seen from outside: packets wait for their sound
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = said.splitlines()
    assert "stopped; out.mp4 holds the" in line
    with media.open_source(tmp_path / "out.mp4") as source:
        frames = sum(1 for _ in source)
    assert 0 < frames < 480
    assert f"the {frames} frames" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.mp4", "out.mp4"]


def test_interrupt_before_the_first_frame(folder):
    write_clip(folder / "clip.mp4", pan(frames=12) * 20)
    before = listing(folder)
    with subprocess.Popen(
        [MIEN, *SWAP, *source(), *CLIP_TO],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    if "holds the" not in said:
        assert listing(folder) == before


def test_damaged_frame(tmp_path, clip):
    """A damaged frame is reported, counted and passed over; the rest is done."""
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + len(data[data.index(b"mdat") :]) // 3
    rng = np.random.default_rng(5)
    data[start : start + 2500] = rng.integers(0, 256, 2500, np.uint8).tobytes()
    (tmp_path / "hurt.mp4").write_bytes(bytes(data))
    done = mien(*SWAP, "--json", "-s", PORTRAIT, "-t", "hurt.mp4", "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["damaged"] > 0
    assert 0 < summary["frames_out"] < 20
    assert "hurt.mp4: a damaged frame" in done.stderr
