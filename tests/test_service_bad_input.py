"""The bad inputs of the command line, sent to the service: 4xx with the cause, and nothing kept."""

from __future__ import annotations

import subprocess
import sys

import cv2
import httpx
import pytest

from material import MEDIA, PHOTO, PORTRAIT, environment, noise
from serviceparts import until
from test_bad_input import bomb

CLIP = MEDIA / "clip.mp4"


def jpeg(image):
    return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


FILES = {
    "empty": b"",
    "text": b"Dear diary, today I was renamed.\n" * 50,
    "cut.jpg": PHOTO.read_bytes()[:20_000],
    "cut.mp4": CLIP.read_bytes()[:-30_000],
    "bomb.png": bomb(),
    "nobody.jpg": jpeg(noise()[0]),
    "photo.jpg": PHOTO.read_bytes(),
    "portrait.jpg": PORTRAIT.read_bytes(),
    "clip.mp4": CLIP.read_bytes(),
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
}

ONCE = {"consent": "synthetic"}

BAD = {
    # what: (route, file → field, fields, words of the answer); "ME" is an identity
    "no target": ("swaps", {}, {"identity": "ME"}, ["target"]),
    "no portrait": ("swaps", {"target": "photo.jpg"}, {}, ["identity", "source"]),
    "no consent": ("swaps", {"target": "photo.jpg", "source": "portrait.jpg"}, {}, ["consent"]),
    "unknown consent": ("swaps", {"target": "photo.jpg", "source": "portrait.jpg"},
                        {"consent": "maybe"}, ["consent", "written"]),
    "empty portrait": ("swaps", {"target": "photo.jpg", "source": "empty"}, ONCE, ["empty"]),
    "portrait is a video": ("swaps", {"target": "photo.jpg", "source": "clip.mp4"}, ONCE,
                            ["source 1", "is not a JPEG"]),
    "corrupt portrait": ("swaps", {"target": "photo.jpg", "source": "cut.jpg"}, ONCE, ["cut off"]),
    "portrait without a face": ("swaps", {"target": "photo.jpg", "source": "nobody.jpg"}, ONCE,
                                ["no face"]),
    "portrait with several faces": ("swaps", {"target": "photo.jpg", "source": "photo.jpg"}, ONCE,
                                    ["2 faces", "source_face"]),
    "no such face in the portrait": ("swaps", {"target": "photo.jpg", "source": "photo.jpg"},
                                     ONCE | {"source_face": "3"}, ["3", "2"]),
    "empty photo": ("swaps", {"target": "empty"}, {"identity": "ME"}, ["target", "empty"]),
    "text as photo": ("swaps", {"target": "text"}, {"identity": "ME"}, ["target"]),
    "corrupt photo": ("swaps", {"target": "cut.jpg"}, {"identity": "ME"}, ["target", "cut off"]),
    "decompression bomb": ("swaps", {"target": "bomb.png"}, {"identity": "ME"}, ["megapixels"]),
    "video as photo": ("swaps", {"target": "clip.mp4"}, {"identity": "ME"}, ["target", "jobs"]),
    "photo without a face": ("swaps", {"target": "nobody.jpg"}, {"identity": "ME"}, ["no face"]),
    "playlist as photo": ("swaps", {"target": "playlist"}, {"identity": "ME"}, ["target"]),
    "unknown faces": ("swaps", {"target": "photo.jpg"}, {"identity": "ME", "faces": "middle"},
                      ["faces"]),
    "unknown generator": ("swaps", {"target": "photo.jpg"},
                          {"identity": "ME", "generator": "magic"}, ["generator", "relight"]),
    "unknown blend": ("swaps", {"target": "photo.jpg"}, {"identity": "ME", "blend": "hard"},
                      ["blend", "poisson"]),
    "unknown format": ("swaps", {"target": "photo.jpg"}, {"identity": "ME", "format": "xyz"},
                       ["format", "png"]),
    "job without target": ("jobs", {}, {"identity": "ME"}, ["target"]),
    "job without identity": ("jobs", {"target": "clip.mp4"}, {}, ["identity"]),
    "job of nobody": ("jobs", {"target": "clip.mp4"}, {"identity": "0" * 32}, ["identity"]),
    "job: empty": ("jobs", {"target": "empty"}, {"identity": "ME"}, ["empty"]),
    "job: text": ("jobs", {"target": "text"}, {"identity": "ME"}, ["text", "video"]),
    "job: truncated MP4": ("jobs", {"target": "cut.mp4"}, {"identity": "ME"},
                           ["cut.mp4", "cut off"]),
    "job: corrupt photo": ("jobs", {"target": "cut.jpg"}, {"identity": "ME"},
                           ["cut.jpg", "cut off"]),
    "job: decompression bomb": ("jobs", {"target": "bomb.png"}, {"identity": "ME"},
                                ["bomb.png", "megapixels"]),
    "job: playlist": ("jobs", {"target": "playlist"}, {"identity": "ME"}, ["playlist"]),
    "job: part that is not there": ("jobs", {"target": "clip.mp4"},
                                    {"identity": "ME", "start": "60"}, ["clip.mp4", "60"]),
    "job: end before start": ("jobs", {"target": "clip.mp4"},
                              {"identity": "ME", "start": "2", "end": "1"}, ["clip.mp4"]),
    "job: part of a photo": ("jobs", {"target": "photo.jpg"}, {"identity": "ME", "end": "1"},
                             ["photo.jpg", "is a photo"]),
    "job: photo to video": ("jobs", {"target": "photo.jpg"}, {"identity": "ME", "format": "mp4"},
                            ["format", "png"]),
    "job: unknown generator": ("jobs", {"target": "clip.mp4"},
                               {"identity": "ME", "generator": "magic"}, ["generator"]),
    "job: tracks that are none": ("jobs", {"target": "clip.mp4", "tracks": "text"},
                                  {"identity": "ME"}, ["tracks"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def me(service):
    with service.client("bob") as client:
        made = client.post(
            "/v1/identities", data=ONCE, files={"photos": ("a.jpg", FILES["portrait.jpg"])}
        )
        assert made.status_code == 201, made.text
        return made.json()["id"]


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_with_the_cause(service, me, what):
    route, files, fields, words = BAD[what]
    fields = {key: me if value == "ME" else value for key, value in fields.items()}
    with service.client("bob") as client:
        before = client.get("/v1/jobs").json()
        answer = client.post(
            f"/v1/{route}",
            data=fields,
            files={field: (name, FILES[name]) for field, name in files.items()} or None,
        )
        assert client.get("/v1/jobs").json() == before
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    told = said["detail"] + str(said["errors"])
    for word in words:
        assert word in told, told
    assert "/tmp" not in told
    assert "--" not in told, "names a flag of the command line"


def test_nothing_is_left_of_what_was_refused(service):
    sizes = {len(data) for data in FILES.values()} - {0}

    def left():
        folders = (service.folder / name for name in ("scratch", "files"))
        files = [path for folder in folders for path in folder.rglob("*")]
        return [path for path in files if path.is_file() and path.stat().st_size in sizes]

    until(lambda: not left(), 30)  # a worker sweeps every two seconds
    assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mien", "--version"],
        capture_output=True, text=True, env=environment(), check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith("mien ")
