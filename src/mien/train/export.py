"""Write the trained relight network as ONNX.

python -m mien.train.export --checkpoint build/relight/last.pt --out relight.onnx
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from mien import precision
from mien.generate.look import CHANNELS
from mien.train import data
from mien.train.networks import Relight
from mien.types import Floats

OPSET = 17


def export(net: Relight, out: Path, record: dict[str, str]) -> None:
    """Write a network with its contract and the record of its training.

    Args:
        net: Trained.
        out: The ``.onnx`` file.
        record: Kept as the graph's metadata.
    """
    net.eval()
    example = torch.zeros(1, CHANNELS, 128, 128)
    with warnings.catch_warnings():
        # The exporter by tracing is called old, but writes the graph without another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (example,), str(out), opset_version=OPSET, dynamo=False,
            input_names=["face"], output_names=["gain", "bias"],
            dynamic_axes={name: {0: "faces"} for name in ("face", "gain", "bias")},
        )  # fmt: skip
    model = onnx.load(str(out))
    for output in model.graph.output:
        for axis, side in enumerate((3, 128, 128), 1):
            output.type.tensor_type.shape.dim[axis].dim_value = side
    onnx.helper.set_model_props(model, record)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))


def samples(config: dict[str, Any], count: int = 64) -> Iterator[Floats]:
    """Inputs of the network from the training data, other ones than it was trained on."""
    where = config["data"]
    photos = data.prepare(Path(where["photos"]), Path(where["recogniser"]), Path(where["folder"]))
    pairs = data.Pairs(photos, data.split(photos)[0], -1 % 2**31, where["cross"], where["eyes"])
    for number in range(count):
        yield pairs(number)["inputs"][None]


def main() -> None:
    """Read the checkpoint, write the file, say what the zoo's card needs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--int8", type=Path, help="also write this file, calibrated on samples of the training data"
    )
    options = parser.parse_args()
    saved = torch.load(options.checkpoint, weights_only=True)
    net = Relight(CHANNELS)
    net.load_state_dict(saved["mean"])
    config = json.loads(saved["config"])
    # Paths are of the machine that trained, and say nothing to others.
    config["data"] = {
        k: Path(v).name if isinstance(v, str) else v for k, v in config["data"].items()
    }
    config["run"].pop("folder", None)
    record = {"config": json.dumps(config), **{k: str(saved[k]) for k in ("data", "step")}}
    export(net, options.out, record | {"hours": f"{saved['hours']:.2f}"})
    if options.int8:
        simple = options.int8.with_suffix(".simple.onnx")
        precision.simplify(options.out, simple)
        seen = [(sample,) for sample in samples(json.loads(saved["config"]))]
        precision.choose_int8(simple, options.int8, seen)
        simple.unlink()
    for file in filter(None, (options.out, options.int8)):
        whole = file.read_bytes()
        print(f"{file}: sha256={hashlib.sha256(whole).hexdigest()} bytes={len(whole)}")


if __name__ == "__main__":
    main()
