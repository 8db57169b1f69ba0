"""Train the network that sees what is in front of a face.

``python -m mien.train.occlusion --config configs/occlusion.toml`` goes from the photos to the
shipped weights, and goes on from its last checkpoint if it was stopped:

1. The photos are read, and a mesh is fitted to each (once; kept in the work folder).
2. A pool of pictures with things in front of the face is drawn, by one process a core.
3. The network is trained on the pool. The photos have spectacles, fringes and hands of their own,
   which nobody labelled. What looks like them by simple signs is left out of the loss. At the
   steps of ``relabel`` the network looks at the unaltered photos: what it takes for hidden is
   left out as well, and signs where it sees nothing are dropped. At the last of these steps what
   it is sure of is labelled as hidden.
4. The weights are written as ONNX into the work folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import multiprocessing
import tarfile
import time
import tomllib
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mien import geometry, heap, occlude
from mien.mask import SKIN
from mien.motion import CROP, aligned
from mien.train import occluders
from mien.types import Floats, Frame, Image

PLANES: Final = 7
"""Of a picture in the pool: RGB, label, contour, features, and what the photo itself has in front
of the face: 0 nothing, ``DOUBT`` or ``SURE``."""

DOUBT: Final = 1
"""There may be something: left out of the loss. Also what lies between ``SURE`` and nothing once a
plane is warped."""

SURE: Final = 2
"""There is something: hidden, as if it had been drawn."""

SEEN: Final = 12
"""So many hidden pixels the network must see where simple signs speak of a thing, or they err."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of a run; each is explained in ``configs/occlusion.toml``."""

    seed: int
    photos: str
    cache: str
    work: str
    pool: int
    batch: int
    waves: tuple[int, ...]
    relabel: tuple[int, ...]
    rate: float
    channels: tuple[int, int, int, int]
    threads: int
    every: int

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return sum(self.waves)


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos with their meshes.

    Attributes:
        images: ``(N, S, S, 3)`` uint8 RGB.
        names: ``(N,)`` of the files, ``Some_Body_0001``.
        mesh: ``(N, 468, 3)`` float32 in pixels.
    """

    images: Image
    names: NDArray[np.str_]
    mesh: Floats

    @property
    def people(self) -> NDArray[np.str_]:
        """``(N,)`` who is on each."""
        return np.array([name.rsplit("_", 1)[0] for name in self.names.tolist()])

    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices for training, and of the people who are kept for measuring.

        They were every fortieth once, and are listed since: which photos are found depends on the
        detector. Of other photos it is every fortieth.
        """
        known, _ = _held_out()
        people = self.people
        everybody = np.unique(people)
        listed = [person for person in everybody.tolist() if _hash(person) in known]
        held = np.isin(people, listed or everybody[::40])
        return np.flatnonzero(~held), np.flatnonzero(held)

    def clean(self) -> NDArray[np.int64]:
        """Those held-out photos in which nothing is in front of the face.

        Chosen by eye: without them the drawn test set counts a fringe, a hat, hair at the temples
        or spectacles that the photo had already as found wrongly.
        """
        _, known = _held_out()
        _, held = self.split()
        found = [i for i in held.tolist() if _hash(str(self.names[i])) in known]
        return np.array(found or held, np.int64)

    def digest(self) -> str:
        """SHA-256 over the names in order: which photos a run was trained on."""
        return hashlib.sha256("\n".join(self.people.tolist()).encode()).hexdigest()


def _held_out() -> tuple[set[str], set[str]]:
    """Hashes of the people kept for measuring, and of those of their photos that show all."""
    with resources.files("mien.train").joinpath("held_out.json").open(encoding="utf-8") as file:
        known = json.load(file)
    return set(known["people"]), set(known["clean"])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def read_config(path: Path) -> Config:
    """Read the settings; a key that is unknown or missing is an error that names it."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    known = set(Config.__dataclass_fields__)
    if set(values) != known:
        wrong = ", ".join(sorted(set(values) ^ known))
        raise ValueError(f"{path}: these keys are unknown or missing: {wrong}")
    values |= {key: tuple(values[key]) for key in ("waves", "relabel", "channels")}
    return Config(**values)


def load_photos(path: Path) -> Photos:
    """Photos from a cache that :func:`make_cache` wrote."""
    with np.load(path) as data:
        return Photos(data["images"], data["names"], data["mesh"][:, :468])


def make_cache(archive: Path, out: Path, size: int = 200) -> None:
    """Read ``Name/Name_0001.jpg`` photos from a tar, fit a mesh to each, and keep both.

    Args:
        archive: The tar of photos.
        out: The ``.npz`` to write.
        size: Side of the kept photo; smaller ones are padded with their own edge.
    """
    from mien import detect, landmarks  # noqa: PLC0415 - not needed where a cache is at hand

    find, fit = detect.load(), landmarks.load()
    images, names, meshes = [], [], []
    with tarfile.open(archive) as tar:
        for member in sorted(tar, key=lambda m: m.name):
            stream = tar.extractfile(member) if member.name.endswith(".jpg") else None
            if stream is None:
                continue
            raw = np.frombuffer(stream.read(), np.uint8)
            image = np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB), np.uint8)
            pad = max(0, size - image.shape[0]) // 2
            padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
            frame = Frame(np.ascontiguousarray(padded, np.uint8))
            middle = np.array(padded.shape[1::-1]) / 2
            faces = [f for f in fit(frame, find(frame)) if f.mesh_score > 0.5]
            if not faces:
                continue
            face = min(faces, key=lambda f: float(np.hypot(*(f.points[2] - middle))))
            if face.mesh is not None:
                images.append(frame.image)
                names.append(Path(member.name).stem)
                meshes.append(face.mesh[:468])
    np.savez(out, images=np.stack(images), names=np.array(names), mesh=np.stack(meshes))


# The network ----------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, 1, 1)
        self.b = nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Net(nn.Module):
    """A U-Net that works at half the crop's size and below, without normalisation.

    The first convolution takes 6×6 pixels in steps of two, as unshuffling pixels 2×2 and a 3×3
    convolution would; the last gives four values a cell that are shuffled back.
    """

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = channels  # at halves, quarters, eighths and sixteenths of the crop
        self.stem = nn.Conv2d(5, a, 6, 2, 2)
        self.e0 = nn.Conv2d(a, a, 3, 1, 1)
        self.d1, self.e1 = nn.Conv2d(a, b, 3, 2, 1), Block(b)
        self.d2, self.e2 = nn.Conv2d(b, c, 3, 2, 1), Block(c)
        # Whether a shadow belongs to a thing is decided where a cell sees most of the face.
        self.d3, self.e3 = nn.Conv2d(c, d, 3, 2, 1), nn.Sequential(Block(d), Block(d))
        self.u2, self.f2 = nn.Conv2d(d, c, 1), nn.Conv2d(c, c, 3, 1, 1)
        self.u1, self.f1 = nn.Conv2d(c, b, 1), nn.Conv2d(b, b, 3, 1, 1)
        self.u0, self.f0 = nn.Conv2d(b, a, 1), nn.Conv2d(a, a, 3, 1, 1)
        self.out = nn.Conv2d(a, 4, 3, 1, 1)
        # Most pixels are not hidden.
        nn.init.constant_(self.out.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 5, 128, 128)`` 0..1 → ``(N, 128, 128)`` logits."""
        x0 = torch.relu(self.e0(torch.relu(self.stem(x - 0.5))))
        x1 = self.e1(torch.relu(self.d1(x0)))
        x2 = self.e2(torch.relu(self.d2(x1)))
        x3 = self.e3(torch.relu(self.d3(x2)))
        x2 = torch.relu(self.f2(torch.relu(x2 + _twice(self.u2(x3)))))
        x1 = torch.relu(self.f1(torch.relu(x1 + _twice(self.u1(x2)))))
        x0 = torch.relu(self.f0(torch.relu(x0 + _twice(self.u0(x1)))))
        return F.pixel_shuffle(self.out(x0), 2)[:, 0]


class Exported(nn.Module):
    """The network as it is shipped: pixels last, probabilities out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 128, 128, 5)`` 0..1 → ``(N, 128, 128)`` 0..1."""
        return torch.sigmoid(self.net(x.permute(0, 3, 1, 2)))


def export(net: nn.Module, path: Path) -> None:
    """Write the network as ONNX, opset 17, float32, any number of faces."""
    with warnings.catch_warnings():
        # The exporter by tracing is called old, but writes the graph without another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exported(net).eval().float(), (torch.zeros(1, CROP, CROP, 5),), str(path),
            input_names=["crop"], output_names=["occlusion"], opset_version=17, dynamo=False,
            dynamic_axes={"crop": {0: "faces"}, "occlusion": {0: "faces"}},
        )  # fmt: skip


def loss_of(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy and soft overlap, both over the pixels that count.

    Overlap is taken of each picture, which gives thin things their due, and of all together, as
    it is measured.

    Args:
        logits: ``(N, h, w)``.
        label: ``(N, h, w)`` 0..1.
        weight: ``(N, h, w)``, 0 where a pixel does not count.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    bce = (entropy * weight).sum() / weight.sum().clamp(min=1)
    # As it is measured: half covered is hidden or is not. With soft labels what is covered by
    # less than half would gain by being called hidden.
    p, hard = torch.sigmoid(logits), (label > 0.5).float()
    both = (p * hard * weight).sum((1, 2))
    either = ((p + hard - p * hard) * weight).sum((1, 2))
    has = (hard * weight).sum((1, 2)) > 8
    overlap = torch.where(has, 1 - both / either.clamp(min=1), 0.0)
    whole = 1 - both.sum() / either.sum().clamp(min=1)
    return bce + 0.3 * overlap.mean() + 0.3 * whole


# The pool -------------------------------------------------------------------------------------


def picture(
    photos: Photos, index: int, textures: NDArray[np.int64], rng: np.random.Generator,
    chances: Mapping[str, float] = occluders.MEASURED,
) -> tuple[Image, Floats]:  # fmt: skip
    """One picture of the pool, ``(PLANES, CROP, CROP)``, and the map of its photo onto it."""
    surfaces = [photos.images[int(i)] for i in rng.choice(textures, 3)]
    image, mesh = photos.images[index], photos.mesh[index]
    s, matrix = occluders.sample(image, mesh, surfaces, rng, chances=chances)
    out = np.zeros((PLANES, CROP, CROP), np.uint8)
    out[:3] = s.image.transpose(2, 0, 1)
    out[3] = s.label
    out[4:6] = occlude.guide(s.mesh).transpose(2, 0, 1)
    out[6] = carried(suspected(image, mesh), mesh, matrix)
    return out, matrix


def suspected(photo: Image, mesh: Floats) -> Image:
    """Where the photo itself may have hair or spectacles in front of the face, by simple signs.

    Nobody labelled these, and a network told that they are skin learns to overlook them. Hair: in
    the upper half of the face, what is far from the colour of the skin and reaches the contour.
    Spectacles: a sharp line across the bridge of the nose puts all around the eyes in doubt.

    Returns:
        ``(CROP, CROP)`` uint8 of the aligned crop, 1 in doubt.
    """
    matrix = aligned(mesh, CROP)
    crop = geometry.warp(photo, matrix, CROP).astype(np.float32)
    points = geometry.transform(matrix, mesh)
    contour = occlude.contour(points) > 0
    grey = cv2.GaussianBlur(crop.mean(2), (0, 0), 0.7)
    eyes = points[[33, 133, 362, 263], :2].reshape(2, 2, 2).mean(1)
    d, (x, y) = float(np.hypot(*(eyes[1] - eyes[0]))), points[168, :2].tolist()
    level = np.clip(points[1, 1], 1, CROP - 1).astype(int)  # the tip of the nose

    out = np.zeros((CROP, CROP), np.uint8)
    at = np.clip(np.round(points[list(SKIN), :2]).astype(int), 0, CROP - 1)
    skin = np.maximum(np.median(crop[at[:, 1], at[:, 0]], 0), 8)
    light = crop.mean(2) / skin.mean()
    tint = np.abs(crop / np.maximum(crop.mean(2, keepdims=True), 8) - skin / skin.mean()).sum(2)
    odd = ((light < 0.55) | (light > 1.7) | (tint > 0.45)) & contour
    odd[level:] = False
    count, parts = cv2.connectedComponents(odd.astype(np.uint8))
    rim = contour & (cv2.erode(contour.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0)
    reach = np.isin(parts, np.setdiff1d(np.unique(parts[rim & odd]), [0])) if count > 1 else odd
    out[cv2.dilate(reach.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0] = 1
    out[level:] = 0

    top, low = np.clip((int(y - 0.12 * d), int(y + 0.38 * d)), 0, CROP)
    left, right = np.clip((int(x - 0.08 * d), int(x + 0.08 * d) + 1), 0, CROP)
    strip = grey[top:low, left:right]
    if strip.shape[0] > 3 and strip.shape[1] > 0:
        bend = np.diff(strip.mean(1) / max(float(grey[contour].mean()), 20.0), 2)
        if float(np.abs(bend).max()) > 0.05:
            out[max(0, int(y - 0.3 * d)) : int(y + 0.55 * d)] = 1
    return out


def carried(plane: Image, mesh: Floats, matrix: Floats) -> Image:
    """A plane of the photo's aligned crop, laid onto the picture that the matrix leads to."""
    back = np.vstack([geometry.invert(aligned(mesh, CROP)), [0, 0, 1]])
    whole = np.vstack([matrix, [0, 0, 1]]) @ back
    return np.asarray(cv2.warpAffine(plane, whole[:2], (CROP, CROP)), np.uint8)


def held_out(photos: Photos, count: int, seed: int = 40) -> Image:
    """Pictures of people, surfaces and numbers not used in training, ``(count, PLANES, …)``.

    The faces are those of :meth:`Photos.clean`; surfaces are cut from any held-out photo.
    """
    rng = np.random.default_rng(seed)
    _, held = photos.split()
    clean = photos.clean()
    return np.stack([picture(photos, int(i), held, rng)[0] for i in rng.choice(clean, count)])


class Pool:
    """Pictures on disk that some processes draw and another reads."""

    def __init__(self, folder: Path, count: int) -> None:
        self.files = [folder / n for n in ("pool.u8", "matrices.f32", "sources.i32", "drawn.u8")]
        mode: Any = "r+" if self.files[0].exists() else "w+"
        self.pictures = np.memmap(self.files[0], np.uint8, mode, shape=(count, PLANES, CROP, CROP))
        self.matrices = np.memmap(self.files[1], np.float32, mode, shape=(count, 2, 3))
        self.sources = np.memmap(self.files[2], np.int32, mode, shape=(count,))
        self.drawn = np.memmap(self.files[3], np.uint8, mode, shape=(count,))

    def __len__(self) -> int:
        return len(self.drawn)


def fill(config: Config, cache: Path, part: int = 0) -> None:
    """Draw what the pool still lacks of every ``threads``-th picture from ``part`` on."""
    cv2.setNumThreads(1)
    photos = load_photos(cache)
    train, _ = photos.split()
    pool = Pool(Path(config.work), config.pool)
    parent = multiprocessing.parent_process()
    for n in range(part, config.pool, config.threads):
        if parent is not None and not parent.is_alive():  # killed: nobody waits for this
            return
        if pool.drawn[n]:
            continue
        rng = np.random.default_rng((config.seed, n))
        source = int(rng.choice(train))
        pool.pictures[n], pool.matrices[n] = picture(photos, source, train, rng, occluders.TRAINED)
        pool.sources[n] = source
        pool.drawn[n] = 1


def fill_together(config: Config, cache: Path) -> Pool:
    """The whole pool, drawn by as many processes as the training has threads."""
    pool = Pool(Path(config.work), config.pool)
    if not pool.drawn.all():
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.threads, spawn) as workers:
            tasks = [workers.submit(fill, config, cache, part) for part in range(config.threads)]
            for task in tasks:
                task.result()
    return pool


def doubted(net: nn.Module, photos: Photos, which: list[int], sure: bool) -> Image:
    """What unaltered photos have in front of the face, now that a network looks.

    It looks at each and at its mirror image. What it takes for hidden (above .35 on average) is in
    doubt, with a pixel around it. Simple signs count only where it sees something as well: most of
    them are a beard's shadow or a dark eye, and a network that never learns them as skin paints
    things wider than they are.

    Args:
        net: The network so far.
        photos: All photos.
        which: Indices of those to look at.
        sure: Mark what it takes for hidden both times (above .8) as ``SURE``. What is only left out
            is forgotten: the rest of a fringe, which it did not see, teaches it that hair is skin.

    Returns:
        ``(len(which), CROP, CROP)`` uint8 of the aligned crops: 0, ``DOUBT`` or ``SURE``.
    """
    inputs = []
    for i in which:
        m = aligned(photos.mesh[i], CROP)
        crop = geometry.warp(photos.images[i], m, CROP)
        guide = occlude.guide(geometry.transform(m, photos.mesh[i]))
        inputs.append(np.concatenate([crop, guide], 2))
    x = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
    looks = np.stack([_predict(net, x), _predict(net, x.flip(3))[..., ::-1]])
    found, least = looks.mean(0), looks.min(0)
    out = np.where(found > 0.35, DOUBT, 0).astype(np.uint8)
    for i, p, plane in zip(which, found, out, strict=True):
        plane[:] = cv2.dilate(plane, np.ones((3, 3), np.uint8))
        count, parts = cv2.connectedComponents(suspected(photos.images[i], photos.mesh[i]))
        seen = np.bincount(parts[p > 0.5], minlength=count) > SEEN
        seen[0] = False
        np.maximum(plane, seen[parts], out=plane)
    if sure:
        out[least > 0.8] = SURE
    return out


def relabel(net: nn.Module, photos: Photos, pool: Pool, sure: bool = False) -> tuple[float, float]:
    """Mark in the pool what is :func:`doubted`; returns the shares of ``DOUBT`` and ``SURE``."""
    order, shares = np.argsort(pool.sources, kind="stable"), np.zeros(3)
    for start in range(0, len(order), 512):  # pictures of one photo lie beside each other
        part = order[start : start + 512]
        sources = np.unique(pool.sources[part]).tolist()
        planes = dict(zip(sources, doubted(net, photos, sources, sure), strict=True))
        for n in part:
            source = int(pool.sources[n])
            plane = carried(planes[source], photos.mesh[source], pool.matrices[n])
            pool.pictures[n, 6] = plane
            shares += np.bincount(plane.ravel(), minlength=3) / plane.size
    return float(shares[DOUBT] / len(order)), float(shares[SURE] / len(order))


def batch_of(pool: Pool, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures from the pool, half of them mirrored, each in a light of its own.

    Returns:
        Input ``(N, 5, h, w)`` 0..1, label ``(N, h, w)`` and weight ``(N, h, w)``.
    """
    x = np.array(pool.pictures[np.sort(rng.integers(0, len(pool), size))])
    flip = rng.random(size) < 0.5
    x[flip] = x[flip, ..., ::-1]
    t = torch.from_numpy(x).float() / 255
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.12, (size, 3, 1, 1))).astype(np.float32))
    bias = torch.from_numpy(rng.normal(0, 0.04, (size, 1, 1, 1)).astype(np.float32))
    t[:, :3] = (t[:, :3] * gain + bias).clamp(0, 1)
    own = torch.from_numpy(x[:, 6])
    label = t[:, 3].maximum((own == SURE).float())
    counts = (own != DOUBT) | (label > 0.5)
    weight = t[:, 4] * counts.float() + 0.03 * (1 - t[:, 4])
    return t[:, [0, 1, 2, 4, 5]].contiguous(memory_format=torch.channels_last), label, weight


# Training -------------------------------------------------------------------------------------


def rate_of(config: Config, step: int) -> float:
    """The learning rate of a step: it rises for 200 steps, then falls in half waves.

    Each wave begins at a quarter of the one before (Loshchilov and Hutter, "SGDR", 2017).
    """
    warm, top, start = min(1.0, (step + 1) / 200), 1.0, 0
    for length in config.waves[:-1]:
        if step < start + length:
            break
        start, top = start + length, top / 4
    else:
        length = config.waves[-1]
    wave = 0.5 * (1 + math.cos(math.pi * (step - start) / length))
    return config.rate * warm * (0.02 + (top - 0.02) * wave)


class Optimiser:
    """Muon for the inner convolutions; AdamW for the first, the last and what is added.

    Muon (Jordan et al., 2024) makes all directions of a weight's step equally long, where Adam
    follows the few strongest: as far after 1,500 steps as with Adam after 6,000.
    """

    def __init__(self, net: nn.Module) -> None:
        named = dict(net.named_parameters())
        self.weights = [
            p for name, p in named.items() if p.ndim == 4 and not name.startswith(("stem", "out"))
        ]
        rest = [p for p in named.values() if all(p is not w for w in self.weights)]
        # Muon takes matrices only. These share the memory of the weights, whose channels lie last.
        self.matrices = [
            nn.Parameter(w.detach().permute(0, 2, 3, 1).view(len(w), -1)) for w in self.weights
        ]
        self.muon = torch.optim.Muon(
            self.matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(rest, weight_decay=1e-4)

    def step(self, rate: float) -> None:
        """Take one step at this learning rate along the gradients of the network."""
        for matrix, weight in zip(self.matrices, self.weights, strict=True):
            assert weight.grad is not None
            matrix.grad = weight.grad.permute(0, 2, 3, 1).flatten(1)
        for one in (self.muon, self.adam):
            for group in one.param_groups:
                group["lr"] = rate
            one.step()  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of both."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def overlap(net: nn.Module, pictures: Image) -> float:
    """Intersection over union of hidden pixels within the contours, all pictures together."""
    p = _predict(net, torch.from_numpy(pictures[:, [0, 1, 2, 4, 5]])) > 0.5
    inside, label = pictures[:, 4] > 127, pictures[:, 3] > 127
    both, either = (p & label & inside).sum(), ((p | label) & inside).sum()
    return float(both) / max(float(either), 1.0)


def train(config: Config) -> None:  # noqa: PLR0915 - reads top to bottom
    """Train from the last checkpoint, or from the start, to the last step, and export."""
    heap.keep_large()
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.seed)
    work = Path(config.work)
    work.mkdir(parents=True, exist_ok=True)
    cache = Path(config.cache) if config.cache else work / "photos.npz"
    if not cache.exists():
        make_cache(Path(config.photos), cache)
    photos = load_photos(cache)
    pool = fill_together(config, cache)
    test = work / "held_out.npy"
    if not test.exists():
        np.save(test, held_out(photos, 256))
    pictures = np.load(test)
    net = Net(config.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Net(config.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average.load_state_dict(net.state_dict())
    optimiser = Optimiser(net)
    step, spent = 0, 0.0
    saved = work / "last.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    log = work / "log.jsonl"
    board = _board(work)
    _say(log, {"seed": config.seed, "people": photos.digest(), "photos": len(photos.people),
               "parameters": sum(p.numel() for p in net.parameters()), "from": step})  # fmt: skip
    started, total = time.monotonic(), 0.0
    while step < config.steps:
        rng = np.random.default_rng((config.seed, step))
        x, label, weight = batch_of(pool, config.batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
        loss = loss_of(logits.float(), label, weight)
        net.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step(rate_of(config, step))
        step += 1
        total += float(loss.detach())
        keep = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        if step in config.relabel:
            left, hidden = relabel(average, photos, pool, sure=step == config.relabel[-1])
            _say(log, {"step": step, "left out": round(left, 4), "hidden": round(hidden, 4)})
        if step % config.every == 0 or step == config.steps:
            now = spent + time.monotonic() - started
            row = {
                "step": step, "loss": round(total / config.every, 4),
                "iou": round(overlap(average, pictures), 4), "minutes": round(now / 60, 1),
            }  # fmt: skip
            _say(log, row)
            if board is not None:
                board.add_scalar("loss", row["loss"], step)
                board.add_scalar("iou", row["iou"], step)
            total = 0.0
            _save(saved, net, average, optimiser, step, now)
            export(_copy(average, config), work / "occlude.onnx")
    _save(saved, net, average, optimiser, step, spent + time.monotonic() - started)
    export(_copy(average, config), work / "occlude.onnx")
    _say(log, {"step": step, "iou": round(overlap(average, pictures), 4), "done": True})
    if board is not None:
        board.close()


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _predict(net: nn.Module, planes: Tensor) -> Floats:
    """``(N, h, w)`` 0..1 for ``(N, 5, h, w)`` uint8."""
    out = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for part in planes.split(32):  # type: ignore[no-untyped-call]
            x = (part.float() / 255).contiguous(memory_format=torch.channels_last)
            out.append(torch.sigmoid(net(x).float()).numpy())
    return np.concatenate(out)


def _copy(net: nn.Module, config: Config) -> Net:
    out = Net(config.channels)
    out.load_state_dict(net.state_dict())
    return out


def _save(  # noqa: PLR0917
    path: Path, net: nn.Module, average: nn.Module, optimiser: Optimiser, step: int, spent: float
) -> None:
    buffer = io.BytesIO()
    torch.save(
        {"net": net.state_dict(), "average": average.state_dict(),
         "optimiser": optimiser.state_dict(), "step": step, "spent": spent}, buffer,
    )  # fmt: skip
    part = path.with_suffix(".part")  # a stop in the middle leaves the last one whole
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def _say(log: Path, row: dict[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def _board(work: Path) -> Any:
    """TensorBoard's writer where it is installed; the log file says the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError:
        return None
    return SummaryWriter(str(work / "board"))  # type: ignore[no-untyped-call]


def main() -> None:
    """Entry of ``python -m mien.train.occlusion``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    train(read_config(parser.parse_args().config))


if __name__ == "__main__":
    main()
