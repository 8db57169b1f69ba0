"""How the check before a camera errs: recordings that pass it, people who do not, photos that turn.

    python scripts/measure_liveness.py --clips ../shared/media/clips \
        --portraits ../shared/media/portraits --keep /tmp/liveness

It prints, for each clip of one talking face and of all of them:

- how far the head turns and lifts from where it usually is, and the longest times for which the
  mouth is as wide, and the eyes as shut, as the check demands;
- how often the clip passes a random challenge. It is played forth and back from a random place,
  which no cut tells, and the check for pictures that repeat is left out. Also how often the first
  motion alone is passed, since three in a row are too seldom to be counted;
- the least cosine of the face with its own first second.

Then, with drawn faces: how often a recording that was made for it, three motions with rests
between, passes a challenge that it does not know; and how many people pass who do what they are
asked, with delays, speeds, sizes, blinks and a tremble drawn at random. And how far the mesh of
portraits turns and lifts when the photo is tilted before the camera.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mien import api, identity, media
from mien.bench.face import mesh
from mien.identity import challenge
from mien.identity.challenge import Challenge, Pose, Seen
from mien.media.camera import fit
from mien.pipeline import Swapper
from mien.types import Frame

FPS = 15.0
SIMILARITY = 0.38
FULL = {
    "left": {"yaw": 0.8},
    "right": {"yaw": -0.8},
    "up": {"pitch": 0.6},
    "mouth": {"mouth": 1.9},
    "eyes": {"shut": 1.0},
}


def observed(path: Path, swapper: Swapper, keep: Path | None) -> list[Seen]:
    """What the check sees of a clip."""
    kept = None if keep is None else keep / f"{path.stem}.npz"
    if kept is not None and kept.exists():
        z = np.load(kept)
        rows = zip(z["time"], z["faces"], z["mesh"], z["embedding"], z["track"], strict=True)
        return [Seen(float(t), int(n), m, e, int(k)) if n == 1 else Seen(float(t), int(n))
                for t, n, m, e, k in rows]  # fmt: skip
    asks = Challenge(("left", "mouth", "eyes"), (1.0,) * 4, swapper.similarity)
    session = identity.Session(swapper.detector, swapper.landmarks, swapper.embed, asks)
    out = []
    for number, frame in enumerate(media.VideoSource(path)):
        time = float(frame.pts * frame.time_base)
        if not out or time - out[-1].time >= 0.98 / FPS:
            out.append(session.see(Frame(frame.image, number, number), time)[0])
    if kept is not None:
        none = np.zeros((478, 3), np.float32), np.zeros(512, np.float32)
        np.savez(
            kept,
            time=[s.time for s in out],
            faces=[s.faces for s in out],
            mesh=[none[0] if s.mesh is None else s.mesh for s in out],
            embedding=[none[1] if s.embedding is None else s.embedding for s in out],
            track=[s.track or 0 for s in out],
        )
    return out


def to_and_fro(frames: list[Seen], start: int) -> Iterator[Seen]:
    """The clip forth and back without end, with times that go on."""
    step = float(np.median(np.diff([s.time for s in frames])))
    places = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    for number in range(10**6):
        yield frames[places[(start + number) % len(places)]]._replace(time=number * step)


def run(asks: Challenge, frames: Iterator[Seen]) -> Challenge:
    for seen in frames:
        asks(seen)
        if asks.state != "running":
            break
    return asks


def longest(times: list[float], there: list[bool]) -> float:
    """Seconds of the longest time for which something is there."""
    best, since = 0.0, None
    for time, now in zip(times, there, strict=True):
        since = (time if since is None else since) if now else None
        best = max(best, time - since if since is not None else 0.0)
    return best


def bound(count: int, trials: int) -> float:
    """Upper end of the 95 % interval of a share (Wilson)."""
    z, p = 1.96, count / trials
    middle = p + z * z / (2 * trials)
    return (middle + z * (p * (1 - p) / trials + z * z / (4 * trials**2)) ** 0.5) / (
        1 + z * z / trials
    )


def recordings(folder: Path, swapper: Swapper, keep: Path | None, trials: int) -> None:
    source, total, first = random.Random(1), Counter[str](), Counter[bool]()
    print(f"{'clip':<18} sec  yaw  lift  wide  shut  cos   begun  1st   passed of {trials}")
    for path in sorted(folder.glob("*.mp4")):
        frames = observed(path, swapper, keep)
        alone = [s for s in frames if s.mesh is not None]
        if len(alone) < 0.9 * len(frames):
            print(f"{path.stem:<18} has several faces, and is refused for that")
            continue
        poses = [Pose.of(s.mesh) for s in alone if s.mesh is not None]
        usual = Pose(*np.median(poses, axis=0))
        times = [s.time for s in alone]
        faces = np.stack([s.embedding for s in alone if s.embedding is not None])
        cosines = faces @ challenge.mean(list(faces[: round(FPS)]))
        results = Counter[str]()
        begun = ended = 0
        for _ in range(trials):
            asks = run(Challenge.drawn(swapper.similarity, source),
                       to_and_fro(frames, source.randrange(len(frames))))  # fmt: skip
            results[asks.state] += 1
            begun += asks.asked or asks.done > 0
            ended += asks.done > 0
        total += results
        first[True] += ended
        first[False] += begun - ended
        wide = [p.mouth >= max(challenge.WIDE, usual.mouth + 0.3) for p in poses]
        shut = [p.eyes <= challenge.SHUT * usual.eyes for p in poses]
        print(
            f"{path.stem:<18} {times[-1]:3.0f} {max(abs(p.yaw - usual.yaw) for p in poses):5.1f} "
            f"{max(usual.pitch - p.pitch for p in poses):5.1f} {longest(times, wide):5.2f} "
            f"{longest(times, shut):5.2f}  {cosines.min():.2f} {begun:6d} {ended:5d} "
            f"{results['passed']:5d}"
        )
    count, whole = total["passed"], sum(total.values())
    asked = sum(first.values())
    print(
        f"passed: {count} of {whole} (95 %: below {bound(count, whole):.2%}); of the {asked} that "
        f"were asked anything, {first[True] / asked:.1%} passed the first motion"
    )


class Actor:
    """Somebody drawn, who does what ``wants`` says."""

    def __init__(self, source: random.Random, wants: Callable[[float, Challenge], str]) -> None:
        self.wants, self.noise = wants, np.random.default_rng(source.getrandbits(32))
        self.speed, self.fps = source.uniform(1.5, 4.0), source.uniform(8, 30)
        self.size = {m: source.uniform(0.75, 1.15) for m in FULL} | {"eyes": source.uniform(0.8, 1)}
        self.blinks = source.uniform(2, 6)
        self.there = dict.fromkeys(FULL, 0.0)

    def __call__(self, asks: Challenge) -> Challenge:
        one = np.zeros(512, np.float32)
        one[0] = 1
        for number in range(int(90 * self.fps)):
            time = number / self.fps
            wanted = self.wants(time, asks)
            body = {"shut": 0.9 if time % self.blinks < 0.2 else 0.0, "yaw": 0.0}
            for motion, now in self.there.items():
                step = self.speed / self.fps
                to = self.size[motion] if motion == wanted else 0.0
                self.there[motion] = now + float(np.clip(to - now, -step, step))
                for part, most in FULL[motion].items():
                    body[part] = max(body.get(part, 0.0), most * self.there[motion], key=abs)
            # Tremble of the mesh between frames, in pixels of a face 260 high.
            points = mesh((240, 250), 260, **body)
            points += self.noise.normal(0, 0.6, points.shape).astype(np.float32)
            asks(Seen(time, 1, points, one, 1))
            if asks.state != "running":
                break
        return asks


def obedient(source: random.Random) -> Callable[[float, Challenge], str]:
    """Does what is asked, a moment later."""
    delay, told, since, doing = source.uniform(0.3, 2.0), (-1, False), 0.0, ""

    def wants(time: float, asks: Challenge) -> str:
        nonlocal told, since, doing
        if (asks.done, asks.asked) != told:
            told, since = (asks.done, asks.asked), time
        if time - since >= delay:
            doing = asks.steps[asks.done] if asks.asked else ""
        return doing

    return wants


def recorded(source: random.Random) -> Callable[[float, Challenge], str]:
    """Does three motions with rests, whatever is asked."""
    steps, _ = challenge.draw(source)
    rest, held = source.uniform(1.0, 3.0), source.uniform(0.8, 2.0)

    def wants(time: float, asks: Challenge) -> str:
        number, into = divmod(time - 1.0, rest + held)
        return steps[int(number)] if 0 <= number < 3 and into > rest else ""

    return wants


def drawn(trials: int) -> None:
    source = random.Random(2)
    for name, way in (("people who do as asked", obedient), ("recordings made for it", recorded)):
        done = [Actor(source, way(source))(Challenge.drawn(SIMILARITY, source))
                for _ in range(trials)]  # fmt: skip
        passed = sum(asks.state == "passed" for asks in done)
        print(f"{name}: {passed} of {trials} pass ({passed / trials:.1%})")
        for reason, count in Counter(a.reason for a in done if a.reason).most_common(3):
            print(f"  {count:4d}  {reason}")


def tilted(image: np.ndarray, across: float, down: float) -> np.ndarray:
    """A photo turned about its two axes by degrees, as a camera at 1.6 widths sees it."""
    height, width = image.shape[:2]
    far = 1.6 * width
    a, b = np.radians([across, down])
    turn = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]) @ np.array(
        [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    )
    lens = np.array([[far, 0, width / 2], [0, far, height / 2], [0, 0, 1]])
    plane = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 0]])
    away = np.zeros((3, 3))
    away[2, 2] = far
    matrix = lens @ (turn @ plane + away)
    return np.asarray(cv2.warpPerspective(image, matrix, (width, height)), np.uint8)


def photos(folder: Path, swapper: Swapper) -> None:
    turns, lifts = [], []
    for path in sorted(folder.iterdir()):
        image = fit(media.read_image(path), (640, 640))
        poses: list[Pose] = []
        for angles in ((0, 0), (-40, 0), (-25, 0), (25, 0), (40, 0), (0, -30), (0, 30)):
            frame = Frame(tilted(image, *angles))
            found = identity.find_faces(frame, swapper.detector, swapper.landmarks)
            if len(found) == 1 and found[0].mesh is not None:
                poses.append(Pose.of(found[0].mesh))
            elif not poses:
                break
        turns += [abs(p.yaw - poses[0].yaw) for p in poses[1:]]
        lifts += [poses[0].pitch - p.pitch for p in poses[1:]]
    print(
        f"photos tilted by up to 40 degrees, {len(turns)} pictures: yaw changes by "
        f"{np.median(turns):.1f} (median), {np.percentile(turns, 95):.1f} (95 %), at most "
        f"{max(turns):.1f} degrees; {sum(t >= challenge.TURN for t in turns)} pass for a turn, "
        f"{sum(t >= challenge.LIFT for t in lifts)} for a lift (at most {max(lifts):.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder of clips of talking people")
    parser.add_argument("--portraits", type=Path, help="folder of photos")
    parser.add_argument("--keep", type=Path, help="folder for what was seen of the clips")
    parser.add_argument("--trials", type=int, default=500, help="challenges for each clip")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    swapper = api.load("mesh")
    drawn(options.trials)
    if options.portraits is not None:
        photos(options.portraits, swapper)
    if options.clips is not None:
        recordings(options.clips, swapper, options.keep, options.trials)


if __name__ == "__main__":
    main()
