"""Videos in parts: whatever order and whoever painted them, the whole is what one run makes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

import material
from mien import api, media, parts, pipeline, tracks
from mien.errors import MediaError, UsageError
from mien.provenance import Marker
from mien.types import Rule, SwapPlan

OPTIONS = media.SinkOptions(preset="veryfast")  # has B frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return material.write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", material.pan(frames=42), fps=25
    )


@pytest.fixture(scope="module")
def plan(swapper) -> SwapPlan:
    return SwapPlan((Rule(api.enrol(material.PORTRAIT, "synthetic", swapper=swapper), "left"),))


def begun(folder: Path, clip: Path, seconds: float = 0.4, **more) -> parts.Job:
    return parts.begin(
        folder, clip, {"portrait": "a"}, output_id="1a2b3c4d", seconds=seconds, **more
    )


def followed(job: parts.Job, swapper, plan: SwapPlan) -> list[parts.Part]:
    stream = pipeline.Stream(swapper, identify=True)
    with media.open_source(job.target, start=job.start, end=job.end) as source:
        parts.follow(source, job.tracks, stream, parts.by_plan(stream, plan))
    with tracks.Reader(job.tracks) as reader:
        return job.parts(int(reader.pts[0]))


def marker_of(job: parts.Job, plan: SwapPlan) -> Marker:
    return Marker(consent=plan.rules[0].identity.consent, output_id=job.output_id)


def painted(job: parts.Job, which: list[parts.Part], output: Path, swapper, plan: SwapPlan) -> None:
    for part in which:
        parts.paint(job, part, output, swapper, plan, marker_of(job, plan), options=OPTIONS)


def contents(path: Path) -> tuple[list[int], list[np.ndarray], list, list[bool]]:
    """Times and pictures of all frames, packets of sound, and whether dts grow."""
    with av.open(str(path)) as file:
        frames = [(f.pts, f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = [(p.pts, bytes(p)) for p in file.demux(file.streams.audio[0]) if p.size]
    with av.open(str(path)) as file:
        due = [
            (p.dts, p.pts)
            for p in file.demux(file.streams.video[0])
            if p.size and p.dts is not None
        ]
    grows = bool((np.diff([dts for dts, _ in due]) > 0).all())
    return (
        [p for p, _ in frames],
        [i for _, i in frames],
        sound,
        [grows, all(d <= p for d, p in due)],
    )


def test_the_whole_is_what_one_run_makes(tmp_path, clip, swapper, plan):
    job = begun(tmp_path / "job", clip)
    every = followed(job, swapper, plan)
    assert [p.number for p in every] == [0, 1, 2, 3, 4]
    whole, once = tmp_path / "whole.mp4", tmp_path / "once.mp4"
    painted(job, every[::-1], whole, swapper, plan)  # any order will do
    wrote = parts.join(job, whole, every, swapper, options=OPTIONS, marker=marker_of(job, plan))
    api.swap(clip, plan, once, options=OPTIONS, swapper=swapper)
    times, pictures, sound, sane = contents(whole)
    wanted_times, wanted, wanted_sound, _ = contents(once)
    assert wrote == 42
    assert times == wanted_times
    assert sound == wanted_sound
    assert sane == [True, True]
    for number, (one, other) in enumerate(zip(pictures, wanted, strict=True)):
        off = np.abs(one.astype(int) - other)
        assert off.mean() < 2.5, f"frame {number}"
    assert media.read_metadata(whole)["mien_output"] == "1a2b3c4d"


def test_who_starts_anew_paints_what_is_missing(tmp_path, clip, swapper, plan):
    job = begun(tmp_path / "job", clip)
    every = followed(job, swapper, plan)
    output = tmp_path / "out.mp4"
    painted(job, every[:2], output, swapper, plan)
    kept = [hashlib.sha256(job.path(p).read_bytes()).hexdigest() for p in every[:2]]
    again = begun(tmp_path / "job", clip)
    assert again == job
    assert again.missing(every) == every[2:]
    painted(again, again.missing(every), output, swapper, plan)
    assert [hashlib.sha256(job.path(p).read_bytes()).hexdigest() for p in every[:2]] == kept
    parts.join(again, output, every, swapper, options=OPTIONS, marker=marker_of(job, plan))
    assert contents(output)[0] == contents(clip)[0]
    again.remove()
    assert not (tmp_path / "job").exists()


def test_a_part_of_a_video_in_parts(tmp_path, clip, swapper, plan):
    job = begun(tmp_path / "job", clip, seconds=0.3, start=0.32, end=1.2)
    every = followed(job, swapper, plan)
    assert len(every) > 1
    output, once = tmp_path / "out.mkv", tmp_path / "once.mkv"
    painted(job, every, output, swapper, plan)
    parts.join(job, output, every, swapper, options=OPTIONS, marker=marker_of(job, plan))
    api.swap(clip, plan, once, options=OPTIONS, swapper=swapper, start=0.32, end=1.2)
    assert contents(output)[0] == contents(once)[0]
    assert contents(output)[2] == contents(once)[2]


def test_another_job_in_the_folder_is_refused(tmp_path, clip):
    begun(tmp_path / "job", clip)
    with pytest.raises(UsageError, match="begun with another portrait"):
        parts.begin(tmp_path / "job", clip, {"portrait": "b"}, output_id="1")
    other = material.write_clip(tmp_path / "clip.mp4", material.noise(10))
    with pytest.raises(UsageError, match="begun with another target"):
        parts.begin(tmp_path / "job", other, {"portrait": "a"}, output_id="1")


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_job_is_said_to_be(tmp_path, clip, text):
    job = begun(tmp_path / "job", clip)
    (job.folder / "job.json").write_text(text)
    with pytest.raises(MediaError, match=r"job\.json: is damaged"):
        begun(tmp_path / "job", clip)


def test_damaged_and_misplaced_parts_are_said_to_be(tmp_path, clip, swapper, plan):
    job = begun(tmp_path / "job", clip)
    every = followed(job, swapper, plan)
    output = tmp_path / "out.mp4"
    painted(job, every, output, swapper, plan)
    first = job.path(every[0]).read_bytes()
    for number, (data, said) in enumerate(
        [
            (first[: len(first) // 2], "is no part of a video"),
            (job.path(every[2]).read_bytes(), "does not come after"),
        ]
    ):
        job.path(every[0]).write_bytes(data)
        with pytest.raises(MediaError, match=said):
            parts.join(job, output, every, swapper, options=OPTIONS, marker=marker_of(job, plan))
        assert not output.exists(), number
    job.path(every[0]).write_bytes(first)
    with pytest.raises(MediaError, match="expected 42 frames"):
        parts.join(job, output, every[:-1], swapper, options=OPTIONS, marker=marker_of(job, plan))
    other = media.SinkOptions(preset="ultrafast", pixel_format="yuv444p")
    with pytest.raises(MediaError, match="was encoded otherwise"):
        parts.join(job, output, every, swapper, options=other, marker=marker_of(job, plan))


def test_a_photo_is_not_made_in_parts(tmp_path):
    with pytest.raises(UsageError, match="only videos"):
        begun(tmp_path / "job", material.PHOTO)
