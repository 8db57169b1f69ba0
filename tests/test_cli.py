"""The command line as a user meets it: processes, their words and their results."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from material import (
    MEDIA,
    MIEN,
    PHOTO,
    PORTRAIT,
    environment,
    listing,
    mien,
    noise,
    pan,
    write_clip,
)
from mien import __version__, cli, media, provenance
from mien.errors import UsageError

SWAP = ("swap", "-s", PORTRAIT, "--consent", "synthetic")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("cli") / "clip.mp4", pan(frames=12))


def test_version_and_help(tmp_path):
    assert mien("--version", cwd=tmp_path).stdout == f"mien {__version__}\n"
    for command in ([], ["swap"], ["faces"]):
        done = mien(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage: mien" in done.stdout
    nothing = mien(cwd=tmp_path)
    assert nothing.returncode == 2
    assert "swap" in nothing.stdout + nothing.stderr
    wrong = mien("swop", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "swop" in wrong.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom mien import cli\nsys.argv = ['mien', 'swap', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'cv2', 'av', 'onnxruntime', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("12.5", 12.5), ("0", 0), ("1:05", 65), ("1:02:03.5", 3723.5), ("90", 90)]
)
def test_times(text, seconds):
    assert cli.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "nan", "1e3", "1:", ":1", "1,5"])
def test_wrong_times(text):
    with pytest.raises(UsageError, match="is no time"):
        cli.parse_time(text)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    for name in ("me.jpg", "ref.jpg", "a=b.jpg", "C:me.jpg", "x", "b.jpg=ref.jpg", "a", "b.jpg"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("me.jpg=ref.jpg:self", ("me.jpg", "ref.jpg", "self")),
        ("me.jpg=ref.jpg", ("me.jpg", "ref.jpg", None)),
        ("C:me.jpg=ref.jpg:written", ("C:me.jpg", "ref.jpg", "written")),
        ("ref.jpg=C:me.jpg", ("ref.jpg", "C:me.jpg", None)),
        ("a=b.jpg=me.jpg:self", ("a=b.jpg", "me.jpg", "self")),
        ("me.jpg=a=b.jpg:artwork", ("me.jpg", "a=b.jpg", "artwork")),
    ],
)
def test_map(text, parts, pictures):
    me, ref, basis = cli.parse_map(text)
    assert (str(me), str(ref), basis) == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("me.jpg", "PORTRAIT=REFERENCE:BASIS"),
        ("me.jpg=:self", "PORTRAIT=REFERENCE:BASIS"),
        ("=ref.jpg:self", "PORTRAIT=REFERENCE:BASIS"),
        ("me.jpg=ref.jpg:selfie", "'selfie' is unknown"),
        ("gone.jpg=ref.jpg:self", r"gone\.jpg: no such file"),
        ("me.jpg=gone.jpg:self", r"gone\.jpg: no such file"),
        ("a=b.jpg=ref.jpg:self", "not clear"),
    ],
)
def test_wrong_map(text, words, pictures):
    with pytest.raises(UsageError, match=words):
        cli.parse_map(text)


def test_photo(tmp_path):
    done = mien(*SWAP, "-t", PHOTO, "-o", "out.png", "--target-consent", "synthetic",
                "--consent-note", "drawn", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == "out.png: 2 faces swapped\n"
    out = media.read_image(tmp_path / "out.png")
    assert not np.array_equal(out, media.read_image(PHOTO))
    words = provenance.read(tmp_path / "out.png")
    assert words["mien_consent"] == words["mien_target_consent"] == "synthetic"
    assert words["mien_consent_note"] == "drawn"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_video_as_json(tmp_path, clip):
    done = mien(*SWAP, "-t", clip, "-o", "out.mp4", "--json", "--faces", "2",
                "--preset", "ultrafast", "--quality", "30", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    summary = json.loads(done.stdout)
    assert summary["output"] == "out.mp4"
    counts = ("frames_in", "frames_out", "swapped", "faces", "faceless", "damaged")
    assert [summary[key] for key in counts] == [12, 12, 12, 12, 0, 0]
    assert summary["fps"] > 0
    assert summary["seconds"] > 0
    stages = {"decode", "detect", "landmarks", "embed", "generate", "blend", "mark", "encode"}
    assert stages <= set(summary["stages"])
    made = summary["models"]["generate"]
    assert (made["model"].partition("_int8")[0], made["provider"]) == ("relight", "cpu")
    assert summary["warnings"] == []
    with media.open_source(tmp_path / "out.mp4") as source:
        assert sum(1 for _ in source) == 12


def test_settings(tmp_path):
    (tmp_path / "mien.toml").write_text('generator = "warp"\ncolor = "lab"\n')
    job = (*SWAP, "-t", PHOTO, "-o", "out.jpg", "--json", "--overwrite")
    summary = json.loads(mien(*job, cwd=tmp_path).stdout)
    assert summary["models"]["generate"]["model"] == "warp"
    env = environment(MIEN_GENERATOR="mesh")
    summary = json.loads(mien(*job, cwd=tmp_path, env=env).stdout)
    assert summary["models"]["generate"]["model"] == "mesh"


def test_no_face(tmp_path):
    target = write_clip(tmp_path / "empty.mp4", noise())
    done = mien(*SWAP, "-t", target, "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert "no face was found" in done.stderr
    assert (tmp_path / "out.mp4").read_bytes() == target.read_bytes()
    quiet = mien(*SWAP, "-t", target, "-o", "out.mp4", "--overwrite", "-q", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_folder(tmp_path, clip):
    """Photos and videos together; one bad file fails alone."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip.read_bytes())
    (folder / "b.jpg").write_bytes(PHOTO.read_bytes())
    (folder / "c.jpg").write_bytes(PHOTO.read_bytes()[:5000])
    done = mien(*SWAP, "-s", MEDIA / "portrait-2.jpg", "-t", "in", "-o", "out/", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("mien: in/c.jpg: ")
    assert "1 of 3 files failed" in done.stderr
    assert "2 of 3 files done" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.mp4", "b.jpg"]
    before = listing(tmp_path)
    again = mien(*SWAP, "-t", "in", "-o", "out", "--json", cwd=tmp_path)
    assert again.returncode == 1
    summary = json.loads(again.stdout)
    assert (summary["done"], summary["failed"]) == (0, 3)
    assert "--overwrite" in summary["files"][0]["error"]
    assert listing(tmp_path) == before


def test_faces_then_match_and_map(tmp_path):
    """What `mien faces` writes serves for --match and --map."""
    done = mien("faces", PHOTO, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    people = json.loads(done.stdout)["people"]
    assert [p["number"] for p in people] == [1, 2]
    first, second = (tmp_path / p["picture"] for p in people)
    assert Path(people[0]["sheet"]) == Path("photo-faces/person-1-sheet.jpg")
    table = mien("faces", PHOTO, "-o", "who", cwd=tmp_path)
    assert "number" in table.stdout
    assert "who/person-2.jpg" in table.stdout
    refused = mien("faces", PHOTO, "-o", "who", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr

    match = mien(*SWAP, "-t", PHOTO, "-o", "m.png", "--match", second, "--json", cwd=tmp_path)
    assert json.loads(match.stdout)["faces"] == 1
    other = MEDIA / "portrait-2.jpg"
    both = mien("swap", "--map", f"{PORTRAIT}={first}:written", "--map", f"{other}={second}",
                "--consent", "synthetic", "-t", PHOTO, "-o", "b.png", "--json",
                cwd=tmp_path)  # fmt: skip
    assert both.returncode == 0, both.stderr
    assert json.loads(both.stdout)["faces"] == 2
    assert provenance.read(tmp_path / "b.png")["mien_consent"] == "written, synthetic"


def on_a_terminal(*arguments, answers, cwd):
    """Run mien with a terminal as its standard input and error; returns status and what it said."""
    ours, its = pty.openpty()
    os.write(ours, answers.encode())
    with subprocess.Popen(
        [MIEN, *map(str, arguments)],
        cwd=cwd,
        env=environment(TERM="xterm"),
        stdin=its,
        stderr=its,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(its)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux: nobody has the other end any more
                break
            if not part:
                break
            said += part
        process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, said.decode(errors="replace")


def test_questions_on_a_terminal(tmp_path, clip):
    """Consent is asked for once, the target's may stay unsaid, and a bar shows progress."""
    job = ("swap", "-s", PORTRAIT, "-t", clip, "-o", "out.mp4")
    status, said = on_a_terminal(*job, answers="sure\nsynthetic\n\n", cwd=tmp_path)
    assert status == 0, said
    assert "one of self, written, artwork, synthetic, please" in said
    assert said.count("On what does the use of the portrait rest?") == 1
    assert "licensed footage" in said
    assert "fps" in said
    assert "12/12" in said
    words = provenance.read(tmp_path / "out.mp4")
    assert words["mien_consent"] == "synthetic"
    assert "mien_target_consent" not in words


def test_no_answer(tmp_path):
    status, said = on_a_terminal(
        "swap", "-s", PORTRAIT, "-t", PHOTO, "-o", "out.png", answers="\x04", cwd=tmp_path
    )
    assert status == 2, said
    assert "--consent" in said
    assert not list(tmp_path.iterdir())
