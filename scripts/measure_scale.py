"""What more workers bring, and what frames, faces and streams cost: figures of ``docs/scale.md``.

Loops a clip to a length, follows its faces once, and has its parts painted by 1, 2 and 4 warm
workers, each on one core; then paints pictures with 1, 2 and 4 faces, and lets live streams run at
a fixed rate. What the capacity model says is printed beside what was measured.

    python scripts/measure_scale.py            # about five minutes on two quiet cores
    python scripts/measure_scale.py --repeat 1 --seconds 20   # a look
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing as mp
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import PictureType

ROOT = Path(__file__).resolve().parents[1]
PORTRAIT = ROOT / "examples/media/portrait-1.jpg"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, nargs="?", default=ROOT / "examples/media/clip.mp4")
    parser.add_argument("--seconds", type=float, default=40.0, help="length after looping")
    parser.add_argument("--part", type=float, default=4.7, help="least length of a part")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=5, help="of 1 and 2 workers")
    parser.add_argument("--fps", type=float, default=15.0, help="of live streams")
    parser.add_argument("--photos", type=int, default=0, help="instead: Ray Data and the pool")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {given.clip.name}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIEN_HOME"] = str(Path(folder) / "home")
        if given.photos:
            photos(given, Path(folder))
            return
        videos(given, Path(folder))
        streams(given, faces(given))


def videos(given: argparse.Namespace, folder: Path) -> None:
    import ray

    from mien import api, config, media, parts, pipeline, scale, tracks
    from mien.provenance import Marker
    from mien.types import Rule, SwapPlan

    # More workers than cores share them, so that each still has one.
    ray.init("local", num_cpus=sum(given.workers), include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    swapper = api.load(threads=1)
    person = api.enrol(PORTRAIT, "synthetic", swapper=swapper)
    plan = SwapPlan((Rule(person),))
    clip, output = folder / "long.mp4", folder / "out.mp4"
    frames = loop(given.clip, clip, given.seconds)
    job = parts.begin(folder / "job", clip, {}, output_id="00000000", seconds=given.part)
    stream = pipeline.Stream(swapper)
    with pinned(), media.open_source(clip) as source:
        size = f"{source.info.width}x{source.info.height}"
        began = time.perf_counter()
        seen = parts.follow(source, job.tracks, stream, parts.by_plan(stream, plan))
        follow = time.perf_counter() - began
    with tracks.Reader(job.tracks) as reader:
        every = job.parts(int(reader.pts[0]))
    marker = Marker(consent=person.consent, output_id="00000000")
    options = media.SinkOptions(threads=1)
    print(
        f"{frames} frames of {size}, {seen.faces / frames:.2f} faces in each, {len(every)} parts; "
        f"faces followed in {follow:.1f} s on one core ({frames / follow:.1f} frames/s)"
    )
    took: dict[int, list[float]] = {n: [] for n in given.workers}
    join = 0.0
    with contextlib.ExitStack() as stack:
        pools = {
            n: stack.enter_context(scale.Pool(config.Settings(), actors=n)) for n in given.workers
        }
        for pool in pools.values():
            pool.warm()
        for number in range(given.repeat):
            for workers in given.workers:
                if number and workers > 2:
                    continue
                pool = pools[workers]
                began = time.perf_counter()
                scale.paint_parts(pool, job, every, output, plan, marker, options=options)
                took[workers].append(time.perf_counter() - began)
                if not join:
                    began = time.perf_counter()
                    parts.join(job, output, every, swapper, options=options, marker=marker)
                    join = time.perf_counter() - began
                for part in every:
                    job.path(part).unlink()
    print(f"parts joined in {join:.2f} s\n")
    print(
        "| workers | painting, s | frames/s | gain | model | with following and joining | model |"
    )
    print("|---|---|---|---|---|---|---|")
    one = statistics.median(took[min(took)])
    for workers, all_of_them in took.items():
        paint = statistics.median(all_of_them)
        alone = scale.speedup(workers, len(every), follow=0, paint=one, cores=os.cpu_count())
        whole = scale.speedup(
            workers, len(every), follow=follow, paint=one, join=join, cores=os.cpu_count()
        )
        spread = ", ".join(f"{t:.1f}" for t in sorted(all_of_them))
        print(
            f"| {workers} | {paint:.1f} ({spread}) | {frames / paint:.1f} | {one / paint:.2f} | "
            f"{alone:.2f} | {(follow + one + join) / (follow + paint + join):.2f} | {whole:.2f} |"
        )
    ray.shutdown()


def photos(given: argparse.Namespace, folder: Path) -> None:
    """So many photos by two workers: of the pool, and of Ray Data."""
    import ray

    from mien import api, config, media, scale
    from mien.types import Image

    swapper = api.load(threads=1)
    person = api.enrol(PORTRAIT, "synthetic", swapper=swapper)
    photo = media.read_image(ROOT / "examples/media/photo.jpg")
    (folder / "in").mkdir()
    names = {}
    for number in range(given.photos):
        path = folder / "in" / f"{number:05d}.jpg"
        cv2.imwrite(str(path), np.ascontiguousarray(photo[:, number % 64 :, ::-1]))
        names[path] = folder / f"pool-{number:05d}.jpg"
    ray.init("local", num_cpus=2 + (os.cpu_count() or 1), log_to_driver=False)

    began = time.perf_counter()
    first = 0.0
    with scale.Pool(config.Settings(), actors=2) as pool:
        for result in scale.swap_photos(pool, names, person, weights=swapper.weights):
            assert result.output is not None, result.error
            first = first or time.perf_counter() - began
    report("pool, with log, credentials and files", began, first, given.photos)

    class Batch:
        def __init__(self) -> None:
            cv2.setNumThreads(1)
            self.swapper = api.load(threads=1)

        def __call__(self, row: dict[str, object]) -> dict[str, object]:
            data = np.frombuffer(row["bytes"], np.uint8)  # type: ignore[call-overload]
            image: Image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)  # type: ignore[assignment]
            made = api.swap_image(image, person, swapper=self.swapper)
            return {"path": row["path"], "made": cv2.imencode(".jpg", made[..., ::-1])[1].tobytes()}

    began, first = time.perf_counter(), 0.0
    rows = ray.data.read_binary_files(str(folder / "in"), include_paths=True)
    for row in rows.map(Batch, concurrency=2, num_cpus=1).iter_rows():
        Path(folder, "data-" + Path(row["path"]).name).write_bytes(row["made"])
        first = first or time.perf_counter() - began
    report("Ray Data, without them", began, first, given.photos)
    ray.shutdown()


def report(what: str, began: float, first: float, count: int) -> None:
    took = time.perf_counter() - began
    print(f"{what}: first of {count} photos after {first:.1f} s, all in {took:.1f} s")


def faces(given: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds of one core for a frame of a live stream, and for each face in it."""
    print(
        "\n| faces in a frame | ms a frame, one core | ms without those of faces |\n|---|---|---|"
    )
    found = {}
    for count in (0, 1, 2, 4):
        pipe, other = mp.get_context("spawn").Pipe()
        worker = mp.get_context("spawn").Process(
            target=perform, args=(other, given.clip, CORES[:1], count, 1, 0.0, 90)
        )
        worker.start()
        pipe.recv()
        pipe.send("go")
        found[count] = pipe.recv()[0]
        worker.join()
    face = (found[4] - found[1]) / 3
    for count, ms in found.items():
        print(f"| {count} | {ms:.1f} | {ms - face * count:.1f} |")
    print(f"\nA frame costs {found[1] - face:.1f} ms and each face in it {face:.1f} ms more.")
    return found[1] - face, face


def streams(given: argparse.Namespace, cost: tuple[float, float]) -> None:
    """Live streams at a fixed rate, shared out among as many processes as there are cores."""
    from mien import scale

    costs, cores = scale.Costs(*cost), len(CORES) or os.cpu_count() or 1
    need = scale.nodes_for(1000, costs, fps=given.fps, cores=cores, busy=1.0)
    print(f"\nThe model: at {given.fps:g} frames/s {need.streams} streams fill {cores} cores.\n")
    print("| streams | cores busy, model | frames in time | age, ms: median, 95 of 100 |")
    print("|---|---|---|---|")
    most = need.streams
    for count in sorted({1, max(1, round(most * scale.capacity.BUSY)), most, round(most * 1.5)}):
        pipes, started = [], []
        for number in range(min(cores, count)):
            own = count // cores + (number < count % cores)
            pipe, other = mp.get_context("spawn").Pipe()
            where = [CORES[number]] if CORES else []
            worker = mp.get_context("spawn").Process(
                target=perform, args=(other, given.clip, where, 1, own, given.fps, 120)
            )
            worker.start()
            pipes.append(pipe)
            started.append(worker)
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        ages = np.concatenate([pipe.recv()[1] for pipe in pipes])
        for worker in started:
            worker.join()
        in_time = float((ages < 1000 / given.fps).mean())
        busy = count * costs.frame_with(1) * given.fps / 1000 / cores
        age = [np.percentile(ages, share, method="higher") for share in (50, 95)]
        said = ", ".join(f"{ms:.0f}" if np.isfinite(ms) else "never shown" for ms in age)
        print(f"| {count} | {busy:.0%} | {in_time:.0%} | {said} |")
    for busy in (scale.capacity.BUSY, 1.0):
        need = scale.nodes_for(1000, costs, fps=given.fps, cores=cores, busy=busy)
        print(
            f"\nA thousand streams at {given.fps:g} frames/s, one face each, {busy:.0%} busy: "
            f"{need.nodes} nodes like this one, {need.streams} streams on each."
        )


def perform(
    pipe: Connection, clip: Path, cores: list[int], count: int, own: int, fps: float, frames: int
) -> None:
    """Swap frames of live streams by turns on one core; a process of its own.

    Sends milliseconds a frame, and how old each frame was when it was ready: a frame is taken at
    its stream's next beat, or at once if that is over, and then the newest.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    from mien import api, pipeline
    from mien.provenance import Marker
    from mien.types import Frame, Rule, SwapPlan

    cv2.setNumThreads(1)
    swapper = api.load(threads=1)
    person = api.enrol(PORTRAIT, "synthetic", swapper=swapper)
    plan = SwapPlan((Rule(person),))
    pictures = tiled(clip, count, 60)
    live = [(pipeline.Stream(swapper), Marker(consent=person.consent)) for _ in range(own)]

    def one(number: int, index: int) -> None:
        stream, marker = live[number]
        frame = Frame(pictures[index % len(pictures)].copy(), index)
        found = stream.observe(frame)
        marker(stream.render(frame, stream.assign(found, plan), plan, faces=found), found)

    for number in range(own):
        for index in range(20):
            one(number, index)
    pipe.send("ready")
    pipe.recv()
    began, ages = time.perf_counter(), []
    beats = [n / own / fps if fps else 0.0 for n in range(own)]  # seconds of the next frame
    until = frames / fps if fps else 0.0
    for turn in range(20, 20 + frames) if not fps else ():
        one(0, turn)
    per_frame = (time.perf_counter() - began) / frames * 1000
    while fps and min(beats) < until:
        number = int(np.argmin(beats))
        now = time.perf_counter() - began
        if beats[number] > now:
            time.sleep(beats[number] - now)
        taken = beats[number]
        one(number, 20 + round(taken * fps))
        now = time.perf_counter() - began
        ages.append((now - taken) * 1000)
        beats[number] += 1 / fps
        while beats[number] + 1 / fps < now:  # a newer one is there; this one is never shown
            ages.append(np.inf)
            beats[number] += 1 / fps
    pipe.send((per_frame, np.array(ages)))


def tiled(clip: Path, count: int, frames: int) -> list[np.ndarray]:
    """Pictures of four fields of 320x240, of which ``count`` show the clip and the others grey."""
    made = []
    with av.open(str(clip)) as file:
        for frame in file.decode(video=0):
            picture = cv2.resize(frame.to_ndarray(format="rgb24"), (320, 240))
            grey = np.full_like(picture, 110)
            four = [picture if n < count else grey for n in range(4)]
            made.append(np.vstack([np.hstack(four[:2]), np.hstack(four[2:])]))
            if len(made) == frames:
                break
    return made


def loop(clip: Path, output: Path, seconds: float) -> int:
    """Write the clip again and again, to and fro, with a key frame each second."""
    with av.open(str(clip)) as file:
        stream = file.streams.video[0]
        rate = stream.average_rate
        assert rate is not None
        pictures = [frame.to_ndarray(format="yuv420p") for frame in file.decode(stream)]
    to_and_fro = pictures + pictures[-2:0:-1]
    frames = round(seconds * float(rate))
    with av.open(str(output), "w") as file:
        how = {"preset": "veryfast", "g": "9999", "sc_threshold": "0", "forced-idr": "1"}
        made = file.add_stream("libx264", rate=rate, options=how)
        made.height, made.width = pictures[0].shape[0] * 2 // 3, pictures[0].shape[1]
        made.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = to_and_fro[number % len(to_and_fro)]
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            key = number % round(rate) == 0
            frame.pict_type = PictureType.I if key else PictureType.NONE
            file.mux(made.encode(frame))
        file.mux(made.encode(None))
    return frames


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """This thread, and those that it starts, on one core."""
    if CORES:
        os.sched_setaffinity(0, CORES[:1])
    try:
        yield
    finally:
        if CORES:
            os.sched_setaffinity(0, CORES)


if __name__ == "__main__":
    main()
