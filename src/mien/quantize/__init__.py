"""The tool behind ``mien models quantize``: a model in another precision, measured and kept.

The chain runs over the user's own footage and what the model is asked is recorded: half of the
footage to choose ranges by, half to measure on. What is worse than a limit is not kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mien import __version__, api, media, precision, runtime, zoo
from mien.errors import MediaError, ModelError, UsageError
from mien.precision import Difference, Sample
from mien.quantize import keeping, measures, recording
from mien.quantize.measures import Footage, Loss
from mien.runtime.session import CALIBRATION
from mien.types import Frame, Identity

__all__ = ["LIMIT", "Loss", "Result", "quantize", "table"]

log = logging.getLogger(__name__)

LIMIT: Final = 0.02
"""The largest loss in any measure, as a share, with which a result is kept."""

FILES: Final = 12
"""Files that are used for ranges, and as many to measure on; spread over what was given."""

FRAMES: Final = 48
"""Frames of all files together, of each half."""

PEOPLE: Final = 2
"""People whose faces are made to measure a generator; faces of the footage itself."""

LEAST: Final = 8
"""Samples without which ranges are a guess."""

WHOLE: Final = (0.0, 1.0)
"""Of a file."""

TESTED: Final = 32
"""Samples by which outputs are compared."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was made and kept.

    Attributes:
        card: Of the new model.
        file: Where it is.
        report: As in the JSON file beside it.
    """

    card: zoo.ModelCard
    file: Path
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Half:
    """Of the footage; frames are decoded when they are asked for, since many do not fit.

    Attributes:
        files: Photo or video → from and up to which share of it.
        count: Frames of each whole video.
    """

    files: dict[Path, tuple[float, float]]
    count: int

    def of(self, file: Path) -> Iterator[Frame]:
        """Frames of one file."""
        return recording.frames_of(file, self.count, self.files[file])

    def all(self) -> Iterator[Frame]:
        """Frames of all files."""
        return chain.from_iterable(self.of(file) for file in self.files)


def quantize(
    name: str,
    to: Literal["fp16", "int8"],
    footage: Sequence[Path | str],
    *,
    models: zoo.Zoo,
    limit: float = LIMIT,
    output: Path | str | None = None,
    overwrite: bool = False,
    progress: api.FileProgress | None = None,
) -> Result:
    """Make a model in another precision, measure it, and keep it unless it is too much worse.

    Args:
        name: Of an fp32 model.
        to: The precision.
        footage: Photos, videos and folders of them, as the model will see them in use.
        models: Where models come from and run; the result's card goes into its folder.
        limit: The largest loss in any measure, as a share: .02 is 2 %.
        output: The ``.onnx`` file; None takes the models' folder.
        overwrite: An earlier result may be replaced.
        progress: Called with a file, its number from 1, and the number of files.

    Returns:
        The new card, its file and the report.

    Raises:
        UsageError: The package ``onnx`` is missing, the model is not fp32, there is no footage,
            or something is in the way.
        ModelNotFound: The model is unknown or not there.
        ModelError: It cannot be converted, the chain never runs it on this footage, or it lost
            more than the limit; nothing is left behind.
        MediaError: Footage cannot be read, or the folder cannot be written.
    """
    precision.graph.onnx()  # says at once if it is missing
    card = models.find(name)
    if card.precision != "fp32":
        raise UsageError(f"{name} is {card.precision} already; give the model {card.full or name}")
    if not 0 <= limit < 1:
        raise UsageError(f"limit {limit}: expected a share from 0 to below 1, such as .02 for 2 %")
    new = keeping.name_for(card, to, models)
    file = models.folder / f"{new}.onnx" if output is None else Path(output).absolute()
    if file.suffix != ".onnx":
        raise UsageError(f"{file}: expected a name that ends in .onnx")
    keeping.check_place(file, models, new, overwrite=overwrite)
    source = models.path(card)
    halves = _halves(_files(footage))
    people, seen, tested = _record(card, models, halves, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mien-quantize-", dir=file.parent) as folder:
        simple, made = Path(folder) / "simple.onnx", Path(folder) / "made.onnx"
        precision.simplify(source, simple)
        how = _convert(simple, made, to, seen)
        pair = tuple(
            runtime.load(f, models.device, name=n) for f, n in ((source, name), (made, new))
        )
        report = _measured(card, (pair[0], pair[1]), models, tested, halves[1], people)
        report = {
            "model": new, "full": name, "to": to, "mien": __version__, "limit": limit, **how,
            "footage": {"ranges": len(seen), "outputs": len(tested),
                        "files": [str(f) for f in halves[0].files],
                        "measured_on": [str(f) for f in halves[1].files]},
            "bytes": {"full": source.stat().st_size, "now": made.stat().st_size}, **report,
        }  # fmt: skip
        _refuse(report, name, limit)
        files = {file: made, file.with_suffix(".json"): Path(folder) / "report.json"}
        files[file.with_suffix(".json")].write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        if to == "int8":
            # TensorRT takes the fp32 model and looks for the table beside it.
            beside = source.parent if source.parent == models.folder else file.parent
            table_file = beside / (source.stem + CALIBRATION)
            files[table_file] = Path(folder) / "table"
            precision.write_table(precision.ranges(simple, seen), files[table_file])
        content = made.read_bytes()
        own = replace(
            card, name=new, file=file.name if file.parent == models.folder else str(file),
            sources=(), shipped=False, precision=to, full=name, bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            origin=f"made from {name} by 'mien models quantize'",
        )  # fmt: skip
        return Result(keeping.keep(files, file, own, models), file, report)


def _files(given: Sequence[Path | str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            files += api.list_media(path)
        elif path.is_file():
            files.append(path)
        else:
            raise MediaError(f"{path}: no such file")
    if not files:
        raise UsageError("no footage was given; --calibrate needs photos or videos of faces")
    if len(files) > 2 * FILES:
        places = np.linspace(0, len(files) - 1, 2 * FILES).round().astype(int)
        files = [files[i] for i in places]
    return files


def _halves(files: Sequence[Path]) -> tuple[_Half, _Half]:
    """Every second video and photo for ranges, the others to measure on; one video is cut in two.

    Raises:
        MediaError: A file cannot be read.
    """
    kinds: dict[bool, list[Path]] = {True: [], False: []}
    for file in files:
        with media.open_source(file) as source:
            kinds[source.info.kind == "image"].append(file)
    photos, videos = kinds[True], kinds[False]
    parts: tuple[dict[Path, tuple[float, float]], ...] = ({}, {})
    for number, file in enumerate(videos):
        parts[number % 2][file] = WHOLE
    if len(videos) == 1:
        parts[0][videos[0]], parts[1][videos[0]] = (0.0, 0.5), (0.5, 1.0)
    for number, file in enumerate(photos):
        parts[number % 2][file] = WHOLE
    count = math.ceil(2 * FRAMES / max(len(videos), 1))
    return _Half(parts[0], count), _Half(parts[1], count)


def _record(
    card: zoo.ModelCard,
    models: zoo.Zoo,
    halves: tuple[_Half, _Half],
    progress: api.FileProgress | None = None,
) -> tuple[list[Identity], list[Sample], list[Sample]]:
    """People of the footage, and what the model was asked on both halves.

    Raises:
        ModelError: It was hardly asked at all.
    """
    taken: list[recording.Recorder] = []

    def change(model: runtime.Model) -> recording.Recorder:
        taken.append(recording.recorder(model))
        return taken[-1]

    swapper = recording.chain(card, recording.instead(models, card.name, change))
    found = [recording.person_in(islice(halves[0].of(f), 4), swapper) for f in halves[0].files]
    people = [person for person in found if person is not None]
    asked: list[list[Sample]] = []
    total = sum(len(half.files) for half in halves)
    done = 0
    for half in halves:
        for record in taken:
            record.samples.clear()
            record.seen[0] = 0
        for number, file in enumerate(half.files, 1):
            person = people[number % len(people)] if people else None
            recording.run(swapper, half.of(file), person)
            done += 1
            if progress is not None:
                progress(file, done, total)
        asked.append([sample for record in taken for sample in record.samples])
    if min(map(len, asked)) < LEAST:
        raise ModelError(
            f"{card.name}: was asked {len(asked[0])} and {len(asked[1])} times in the two halves "
            f"of this footage, and {LEAST} are needed of each; give more, with faces in it"
        )
    return people[:PEOPLE], asked[0], asked[1][:TESTED]


def _convert(simple: Path, made: Path, to: str, samples: Sequence[Sample]) -> dict[str, Any]:
    if to == "int8":
        choice = precision.choose_int8(simple, made, samples)
        return asdict(choice) | {"kept": list(choice.kept)}
    kept = precision.too_large(simple, samples)
    precision.to_fp16(simple, made, nodes=kept)
    return {"method": "block list", "kept": kept}


def _measured(  # noqa: PLR0917
    card: zoo.ModelCard,
    pair: tuple[runtime.Model, runtime.Model],
    models: zoo.Zoo,
    samples: Sequence[Sample],
    half: _Half,
    people: Sequence[Identity],
) -> dict[str, Any]:
    """Differences, losses and speed of a model against fp32."""
    outputs = precision.differences(*pair, samples)
    chains = [recording.chain(card, recording.instead(models, card.name, model)) for model in pair]
    footage = Footage(half.all, {file: part != WHOLE for file, part in half.files.items()}, people)
    found = measures.losses(card, (chains[0], chains[1]), pair, samples, footage, outputs)
    full, now = precision.speed(*pair, samples[0])
    return {
        "speed": {
            "full_ms": round(full, 3), "now_ms": round(now, 3), "ratio": round(full / now, 3),
            "provider": pair[1].provider, "threads": models.device.threads,
            "processor": platform.processor() or platform.machine(),
        },
        "outputs": {name: _rounded(value) for name, value in outputs.items()},
        "measures": {name: asdict(value) for name, value in found.items()},
    }  # fmt: skip


def _rounded(value: Difference) -> dict[str, float | None]:
    """For JSON, which knows no infinity."""
    return {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in asdict(value).items()}


def _refuse(report: Mapping[str, Any], name: str, limit: float) -> None:
    """Refuse what lost too much.

    Raises:
        ModelError: Names the worst measure.
    """
    broken = [k for k, v in report["outputs"].items() if v["maximum"] is None or v["error"] is None]
    if broken:
        raise ModelError(
            f"{name} in {report['to']}: output {broken[0]} is not finite; nothing was kept"
        )
    measured = report["measures"]
    if not measured:
        raise ModelError(
            f"{name} in {report['to']}: nothing could be measured on this footage; nothing was kept"
        )
    worst = max(measured, key=lambda key: float(measured[key]["loss"]))
    loss = measured[worst]
    if loss["loss"] > limit:
        raise ModelError(
            f"{name} in {report['to']}: {worst} goes from {loss['full']:.4g} to {loss['now']:.4g}, "
            f"a loss of {100 * loss['loss']:.1f} % where {100 * limit:.1f} % are allowed; nothing "
            "was kept"
        )


def table(report: Mapping[str, Any]) -> list[str]:
    """A report in lines for people."""
    size, speed = report["bytes"], report["speed"]
    kept = len(report["kept"])
    lines = [
        f"{report['model']}: {report['method']}, {kept or 'no'} nodes kept in fp32",
        f"size   {size['full'] / 1e6:8.2f} → {size['now'] / 1e6:.2f} MB "
        f"({size['full'] / size['now']:.2f} times smaller)",
        f"time   {speed['full_ms']:8.2f} → {speed['now_ms']:.2f} ms on {speed['provider']} "
        f"({speed['ratio']:.2f} times as fast)",
    ]
    for name, value in report["outputs"].items():
        cosine, most = value["cosine"], value["maximum"]
        lines.append(
            f"output {name}: at most {most:.4g} and {value['mean']:.4g} in the mean off, "
            f"cosine {cosine:.5f}"
            + (f", {value['psnr']:.1f} dB" if value["psnr"] is not None else ", equal")
        )
    for name, loss in report["measures"].items():
        lines.append(
            f"{name}: {loss['full']:.4g} → {loss['now']:.4g}, lost {100 * loss['loss']:.2f} %"
        )
    return lines
