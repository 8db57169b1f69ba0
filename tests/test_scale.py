"""Scale: parts and photos on Ray's actors come out as they do here, whoever is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import material
from mien import api, config, identity, media, parts, pipeline, policy, tracks
from mien.errors import MediaError, Refused
from mien.provenance import Marker, Marks
from mien.types import Rule, SwapPlan

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),  # Ray leaves sockets and processes to the collector
]

OPTIONS = media.SinkOptions(preset="veryfast", threads=1)


@pytest.fixture(scope="module", autouse=True)
def _ray():
    pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    from mien import scale

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(home))  # the actors', which have no store and no policy
        with scale.Pool(config.Settings(), actors=4) as made:  # Ray has as many cores
            made.actors = 2
            made.begin()
            yield made


@pytest.fixture(scope="module")
def plan(swapper) -> SwapPlan:
    return SwapPlan((Rule(api.enrol(material.PORTRAIT, "synthetic", swapper=swapper), "left"),))


@pytest.fixture(scope="module")
def followed(tmp_path_factory, swapper, plan) -> parts.Job:
    folder = tmp_path_factory.mktemp("followed")
    clip = material.write_clip(folder / "clip.mp4", material.pan(frames=30), fps=25)
    job = parts.begin(folder / "job", clip, {}, output_id="1a2b3c4d", seconds=0.4)
    stream = pipeline.Stream(swapper, identify=True)
    with media.open_source(clip) as source:
        parts.follow(source, job.tracks, stream, parts.by_plan(stream, plan))
    return job


@pytest.fixture
def job(tmp_path, followed) -> parts.Job:
    return replace(followed, folder=Path(shutil.copytree(followed.folder, tmp_path / "job")))


def parts_of(job: parts.Job) -> list[parts.Part]:
    with tracks.Reader(job.tracks) as reader:
        return job.parts(int(reader.pts[0]))


def marker_of(plan: SwapPlan) -> Marker:
    return Marker(consent=plan.rules[0].identity.consent, output_id="1a2b3c4d")


def hashes(job: parts.Job, every: list[parts.Part]) -> list[str]:
    return [hashlib.sha256(job.path(part).read_bytes()).hexdigest() for part in every]


def test_a_folder_of_photos(tmp_path, pool, swapper, plan):
    from mien import scale

    folder, made = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    photo = media.read_image(material.PHOTO)
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.jpg"), photo[:, number * 8 :, ::-1])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    cv2.imwrite(str(folder / "grey.png"), np.full((90, 120, 3), 128, np.uint8))
    found = {
        result.target.name: result
        for result in scale.swap_folder(pool, folder, plan, made, swapper=swapper)
    }
    assert sorted(found) == ["0.jpg", "1.jpg", "broken.jpg", "grey.png"]
    assert isinstance(found["broken.jpg"].error, MediaError)
    assert "broken.jpg" in str(found["broken.jpg"].error)
    assert found["grey.png"].copied
    for number in range(2):
        alone = tmp_path / "alone.jpg"
        api.swap(folder / f"{number}.jpg", plan, alone, swapper=swapper, overwrite=True)
        one, other = (media.read_image(p).astype(int) for p in (made / f"{number}.jpg", alone))
        assert np.abs(one - other).mean() < 1.0  # the watermark says another number
        assert api.verify(made / f"{number}.jpg").status == 0
    ids = {media.read_metadata(made / f"{n}.jpg")["mien_output"] for n in range(2)}
    assert len(ids) == 2


def test_workers_keep_the_rules_of_who_asked(tmp_path, pool, job, plan, set_policy):
    """The video travels, too, as if they were elsewhere."""
    from mien import scale

    every, output = parts_of(job), tmp_path / "out.mp4"
    set_policy('[marks]\nlabel_off = ["somebody"]\n')
    bare = Marker(Marks(label_on=False), consent=plan.rules[0].identity.consent)
    more = {"options": OPTIONS, "rules": policy.load(), "shared": False}
    scale.paint_parts(pool, job, every[1:], output, plan, bare, user="somebody", **more)
    assert job.missing(every) == every[:1]
    with pytest.raises(Refused, match=r"label_off"):
        scale.paint_parts(pool, job, every[:1], output, plan, bare, **more)
    wrong = more | {"options": media.SinkOptions("nonsense")}
    with pytest.raises(MediaError, match=r"no video encoder 'nonsense'"):
        scale.paint_parts(pool, job, every[:1], output, plan, marker_of(plan), **wrong)
    assert job.missing(every) == every[:1]


def test_a_worker_killed_in_the_midst_changes_nothing(tmp_path, pool, job, swapper, plan, caplog):
    from mien import scale

    every, output = parts_of(job), tmp_path / "out.mp4"
    for part in every:
        parts.paint(job, part, output, swapper, plan, marker_of(plan), options=OPTIONS)
    wanted = hashes(job, every)
    for part in every:
        job.path(part).unlink()
    killed, done, shown = [], [], []

    def kill_one() -> None:
        busy = [hand for hand in pool._hands if hand.starting is None and hand.load]
        if busy and not killed:
            killed.append(busy[0].about["pid"])
            os.kill(killed[0], signal.SIGKILL)

    scale.paint_parts(
        *(pool, job, every, output, plan, marker_of(plan)), options=OPTIONS, watch=kill_one,
        progress=shown.append, done=lambda part, facts: done.append((part.number, facts["frames"])),
    )  # fmt: skip
    assert killed
    assert "is lost" in caplog.text
    assert sorted(number for number, _ in done) == [part.number for part in every]  # each once
    assert shown[-1] == 30
    assert hashes(job, every) == wanted
    wrote = parts.join(job, output, every, swapper, options=OPTIONS, marker=marker_of(plan))
    assert wrote == 30


def test_single_parts_for_several_threads(tmp_path, pool, job, swapper, plan, caplog):
    """As a service gives them out; on the Ray that the pool began."""
    from mien import scale

    every, output = parts_of(job)[:2], tmp_path / "out.mp4"
    painter = scale.Painter(config.Settings())
    with ThreadPoolExecutor(2) as threads:
        reports = list(
            threads.map(
                lambda part: painter(
                    job, part, output, swapper, plan, marker_of(plan), options=OPTIONS
                ),
                every,
            )
        )
    made = hashes(job, every)
    assert all(report.frames_out for report in reports)
    job.path(every[0]).unlink()

    def canceled(frames: int) -> None:
        raise MediaError("canceled")

    with pytest.raises(MediaError, match="canceled"):
        painter(
            *(job, every[0], output, swapper, plan, marker_of(plan)), options=OPTIONS,
            progress=canceled,
        )  # fmt: skip
    painter.close()
    crowded = scale.Painter(config.Settings(), threads=99, room=0)
    crowded(job, every[0], output, swapper, plan, marker_of(plan), options=OPTIONS)
    crowded.close()
    assert hashes(job, every) == made


def test_a_withdrawn_consent_stops_the_work(tmp_path, pool, job, plan):
    from mien import scale

    store, every = identity.Store.open(), parts_of(job)
    store.add(replace(plan.rules[0].identity, name="someone"))
    stored = SwapPlan((Rule(store.get("someone"), "left"),))

    def withdraw(part: parts.Part, facts: dict) -> None:
        if job.missing(every) == [p for p in every if p is not part]:
            store.revoke("someone")
            time.sleep(1.2)  # the store is looked at once a second

    with pytest.raises(Refused, match=r"consent\.revoked"):
        scale.paint_parts(
            *(pool, job, every, tmp_path / "out.mp4", stored, marker_of(plan)),
            options=OPTIONS, done=withdraw,
        )  # fmt: skip
    assert len(job.missing(every)) == len(every) - 1


def test_jobs_of_the_service_are_painted_by_actors(tmp_path):
    """From the upload to a result that passes ``mien verify``, with real processes."""
    import serviceserver

    clip = material.write_clip(tmp_path / "clip.mp4", material.pan(frames=24), fps=25)
    home = {"MIEN_HOME": os.environ["MIEN_HOME"]}
    seen: set[str] = set()
    with (
        serviceserver.serving(
            tmp_path / "service", ["ann"], home, executor="ray", part_seconds="0.4"
        ) as server,
        server.client("ann") as client,
    ):
        person = client.post(
            "/v1/identities",
            files={"photos": material.PORTRAIT.read_bytes()},
            data={"consent": "synthetic"},
        ).json()["id"]
        begun = client.post(
            "/v1/jobs",
            files={"target": ("clip.mp4", clip.read_bytes())},
            data={"identity": person},
        )
        assert begun.status_code == 201, begun.text
        job, until = begun.json(), time.monotonic() + 100
        while job["state"] in ("queued", "running") and time.monotonic() < until:
            time.sleep(0.2)
            running = subprocess.check_output(["ps", "-eo", "args"], text=True)
            seen |= {line.strip() for line in running.splitlines() if "ray::" in line}
            job = client.get(f"/v1/jobs/{job['id']}").json()
        assert job["state"] == "done", server.log.read_text()
        made = tmp_path / "made.mp4"
        made.write_bytes(client.get(f"/v1/jobs/{job['id']}/result").content)
    assert job["found"]["swapped"] == 24
    assert "ray::Worker.paint" in seen
    assert api.verify(made).status == 0


def test_more_nodes_for_more_streams():
    from mien import scale

    costs = scale.Costs.of({"decode": 1.0, "track": 4.0, "generate": 8.0, "encode": 2.0}, faces=2)
    assert (costs.frame, costs.face) == (7.0, 4.0)
    assert costs.frame_with(3) == 19.0
    need = scale.nodes_for(1000, costs, fps=25, faces=1, cores=16, busy=0.5)
    assert need.streams == 29  # 8 cores, 0.275 for each
    assert need.nodes == 35
    assert need.cores == pytest.approx(275)
    with pytest.raises(ValueError, match=r"2\.8 cores"):
        scale.nodes_for(1, costs, fps=100, faces=5.25, cores=2, busy=1.0)


@pytest.mark.parametrize(
    ("workers", "expected"), [(1, 1.0), (2, 110 / 70), (3, 110 / 60), (9, 110 / 40), (20, 110 / 40)]
)
def test_what_is_done_once_bounds_the_gain(workers, expected):
    from mien import scale

    gained = scale.speedup(workers, 8, follow=20, paint=80, join=10)
    assert gained == pytest.approx(expected)
