"""Other precisions of a network: int8 by calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from mien.types import Floats


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """Feeds samples to the calibration one by one."""

    def __init__(self, name: str, samples: Iterable[Floats]) -> None:
        self.name = name
        self.samples: Iterator[Floats] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        sample = next(self.samples, None)
        return None if sample is None else {self.name: sample}


def to_int8(source: Path, out: Path, name: str, samples: Iterable[Floats]) -> None:
    """Write an int8 version of a network: QDQ, weights by channel, ranges from samples.

    Args:
        source: fp32 ONNX file.
        out: Where the int8 file goes.
        name: Of the network's only input.
        samples: Inputs as they come in use, a few dozen.
    """
    quantize_static(
        str(source), str(out), _Samples(name, samples), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
