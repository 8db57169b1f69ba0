"""Train the relight network.

    python -m mien.train.relight --config configs/relight.toml

Goes on from the last checkpoint of its folder, at whatever step it was stopped. Sample n is a
function of the seed and n alone, so a run that was stopped sees what it would have seen.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from mien import embed
from mien.generate.look import CHANNELS
from mien.train import data, losses
from mien.train.networks import Discriminator, Relight
from mien.types import Face, Frame


class Sequence(Dataset[dict[str, Any]]):
    """Samples from a first number on."""

    def __init__(self, pairs: data.Pairs, first: int, count: int) -> None:
        self.pairs, self.first, self.count = pairs, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> dict[str, Any]:
        return self.pairs(self.first + n)


def composite(net: Relight, batch: dict[str, Tensor]) -> Tensor:
    """``(N, 3, 128, 128)``: the target with the network's portrait on it."""
    gain, bias = net(batch["inputs"].contiguous(memory_format=torch.channels_last))
    out = (batch["lit"] * gain.float() + bias.float()).clamp(-0.05, 1.05)
    mixed: Tensor = batch["crop"] + batch["alpha"] * (out - batch["crop"])
    return mixed


def total(
    out: Tensor, batch: dict[str, Tensor], recogniser: losses.Recogniser, weights: dict[str, float]
) -> tuple[Tensor, dict[str, float]]:
    """The sum of all losses but the discriminator's, and each of them for the log."""
    cross, alpha, strength = batch["cross"], batch["alpha"], batch["strength"]
    same = 1 - cross
    lit = batch["lit"].clamp(0, 1)
    other = cross > 0  # the recogniser costs as much as the network
    found = recogniser(losses.faces(out[other], batch["align"][other], jitter=0.04))
    to_portrait, to_target = torch.ones_like(cross), torch.zeros_like(cross)
    to_portrait[other] = (found * batch["portrait"][other]).sum(1).float()
    to_target[other] = (found * batch["target"][other]).sum(1).float()
    margin = functional.relu(to_target - to_portrait + 0.3)
    # At strength 1 only broad light is taken over; at 0 all that the photo has, which brings the
    # features of the person who was there along.
    scene = 1 - 0.85 * strength
    apart = losses.light(out, batch["crop"], alpha, 32)
    apart = apart + scene * losses.light(out, batch["crop"], alpha, 16)
    parts = {
        "colour": same * scene * losses.weighted(out - batch["crop"], alpha),
        "detail": same * scene * losses.detail(out, batch["crop"], alpha),
        "identity": cross * strength * (1 - to_portrait),
        "margin": cross * strength * margin,
        "light": apart,
        "keep": cross * losses.detail(out, lit, alpha),
        "hue": losses.weighted((out - lit) - (out - lit).mean(1, keepdim=True), alpha),
    }
    kinds = {
        "colour": same * scene,
        "detail": same * scene,
        "light": torch.ones_like(cross),
        "hue": torch.ones_like(cross),
    }
    logged = {
        k: float(v.detach().sum() / kinds.get(k, cross * strength).sum().clamp(min=1))
        for k, v in parts.items()
    }
    loss = torch.stack([weights[k] * v.mean() for k, v in parts.items()]).sum()
    return loss, logged


def validate(
    net: Relight, pairs: data.Pairs, recogniser: losses.Recogniser, folder: Path, step: int
) -> dict[str, float]:
    """Identity and light on held-out people; writes a sheet of pictures.

    Identity is asked of a recogniser that no loss has seen (``loose``), and of the loss's own
    (``tight``), which flatters itself.
    """
    judge = embed.load()
    photos = pairs.photos
    batch = torch.utils.data.default_collate([pairs(n) for n in range(64)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = composite(net, batch).float()
        tight = recogniser(losses.faces(out, batch["align"])).float()
    plain = batch["crop"] + batch["alpha"] * (batch["lit"].clamp(0, 1) - batch["crop"])
    cross = batch["cross"] > 0

    def loose(images: Tensor) -> Tensor:
        rows = []
        for picture, (target, _), matrix in zip(
            images, batch["index"].tolist(), batch["matrix"].numpy(), strict=True
        ):
            photo = np.array(photos.image[target])
            small = (picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
            size = photo.shape[1], photo.shape[0]
            back = cv2.warpAffine(small, matrix, size, flags=cv2.WARP_INVERSE_MAP)
            cover = cv2.warpAffine(np.ones((128, 128), np.uint8), matrix, size,
                                   flags=cv2.WARP_INVERSE_MAP)  # fmt: skip
            photo[cover > 0] = back[cover > 0]
            rows.append(_embedding(judge, photo, photos.mesh[target]))
        return torch.from_numpy(np.stack(rows))

    of_portrait, of_target = (
        torch.from_numpy(np.stack([
            _embedding(judge, np.asarray(photos.image[i]), photos.mesh[i])
            for i in batch["index"][:, k].tolist()
        ])) for k in (1, 0)
    )  # fmt: skip
    found: dict[str, float] = {}
    for name, vectors in (("", loose(out)), ("plain_", loose(plain))):
        p, t = ((vectors * other).sum(1)[cross] for other in (of_portrait, of_target))
        found[f"{name}loose_p"], found[f"{name}loose_t"] = float(p.mean()), float(t.mean())
        found[f"{name}loose_won"] = float((p > t).float().mean())
    found["tight_p"] = float((tight * batch["portrait"]).sum(1)[cross].mean())
    found["tight_t"] = float((tight * batch["target"]).sum(1)[cross].mean())
    for name, images in (("", out), ("plain_", plain)):
        found[f"{name}light"] = float(losses.light(images, batch["crop"], batch["alpha"]).mean())
        apart = losses.weighted(images - batch["crop"], batch["alpha"])
        found[f"{name}colour"] = float(apart[~cross].mean())
    rows = [torch.cat([r[i] for r in (batch["lit"].clamp(0, 1), plain, out, batch["crop"])], 2)
            for i in range(24)]  # fmt: skip
    sheet = torch.cat([torch.cat(rows[i : i + 3], 2) for i in range(0, 24, 3)], 1)
    picture = (sheet.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    coded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1]
    (folder / f"sheet-{step:06d}.png").write_bytes(coded.tobytes())
    return found


def _embedding(judge: embed.Embedder, image: Any, mesh: Any) -> Any:
    from mien import geometry, landmarks  # noqa: PLC0415

    face = Face(box=geometry.bounds(mesh), score=1.0, points=landmarks.five_points(mesh))
    return judge(Frame(np.ascontiguousarray(image)), [face])[0].embedding


def batches(pairs: data.Pairs, first: int, steps: int, size: int) -> Iterator[dict[str, Tensor]]:
    """The rest of the run's batches, made by a process of their own."""
    sequence = Sequence(pairs, first * size, (steps - first) * size)
    yield from DataLoader(sequence, size, num_workers=1, prefetch_factor=4)


def train(config: dict[str, Any]) -> None:  # noqa: PLR0915 - reads top to bottom
    """The whole run; returns when the configured number of steps is done."""
    run, weights = config["run"], config["loss"]
    folder = Path(run["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    # Before anything uses OpenCV: a process that is forked off later waits forever for a pool of
    # threads that it has no part of.
    cv2.setNumThreads(1)
    torch.set_num_threads(run["threads"])
    torch.manual_seed(run["seed"])
    where = config["data"]
    photos = data.prepare(Path(where["photos"]), Path(where["recogniser"]), Path(where["folder"]))
    people, held_out = data.split(photos)
    pairs = data.Pairs(photos, people, run["seed"], where["cross"], where["eyes"])
    held = data.Pairs(photos, held_out, 1, 0.75, 0.0)
    recogniser = losses.Recogniser(Path(where["recogniser"]))

    net = Relight(CHANNELS)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = copy.deepcopy(net).requires_grad_(False)
    judge = Discriminator()
    adam = torch.optim.Adam(net.parameters(), run["rate"], (0.9, 0.99))
    adam_judge = torch.optim.Adam(judge.parameters(), run["rate"] / 2, (0.5, 0.99))
    state = {"net": net, "mean": mean, "judge": judge, "adam": adam, "adam_judge": adam_judge}
    checkpoint, step, hours = folder / "last.pt", 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        step, hours = saved["step"], saved["hours"]
        for name, part in state.items():
            part.load_state_dict(saved[name])
    writer = _tensorboard(folder)

    started = time.monotonic()
    for batch in batches(pairs, step, run["steps"], run["batch"]):
        # Cosine to a twentieth, after a short rise.
        share = step / run["steps"]
        scale = min(1.0, (step + 1) / 200) * (0.525 + 0.475 * float(np.cos(np.pi * share)))
        for optimiser, rate in ((adam, run["rate"]), (adam_judge, run["rate"] / 2)):
            optimiser.param_groups[0]["lr"] = rate * scale
        with torch.autocast("cpu", torch.bfloat16):
            out = composite(net, batch)
            loss, logged = total(out, batch, recogniser, weights)
            fake = judge(out)
            loss = loss - weights["real"] * fake.float().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        with torch.autocast("cpu", torch.bfloat16):
            real, fake = judge(batch["crop"]), judge(out.detach())
            hinge = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        adam_judge.zero_grad(set_to_none=True)
        hinge.backward()  # type: ignore[no-untyped-call]
        adam_judge.step()
        step += 1
        # The mean starts short, so that it does not carry the first guesses along.
        keep = min(run["ema"], step / (step + 10))
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 1 - keep)
        now = hours + (time.monotonic() - started) / 3600
        if step % 50 == 0:
            _log(folder, writer, {"step": step, "hours": now, "loss": float(loss.detach()),
                                  "judge": float(hinge.detach()), **logged})  # fmt: skip
        if step % run["save"] == 0 or step == run["steps"]:
            parts = {name: part.state_dict() for name, part in state.items()}
            record = {"config": json.dumps(config), "data": photos.digest}
            unfinished = checkpoint.with_suffix(".part")
            torch.save({**parts, **record, "step": step, "hours": now}, unfinished)
            os.replace(unfinished, checkpoint)
        if step % run["validate"] == 0 or step == run["steps"] or step == 200:
            _log(folder, writer, {"step": step, "hours": now,
                                  **validate(mean, held, recogniser, folder, step)})  # fmt: skip


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError:
        return None
    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call]


def _log(folder: Path, writer: Any, row: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({k: round(float(v), 5) for k, v in row.items()}) + "\n")
    if writer is not None:
        for key, value in row.items():
            writer.add_scalar(key, value, int(row["step"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    train(tomllib.loads(parser.parse_args().config.read_text("utf-8")))
