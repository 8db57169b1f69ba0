"""int8 by static calibration: ranges of every tensor on samples, then QDQ with ONNX Runtime."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import runtime
from mien.errors import ModelError
from mien.precision import graph
from mien.precision.compare import differences
from mien.precision.graph import Sample
from mien.types import Floats

METHODS: Final = ("minmax", "percentile", "entropy")
"""How ranges are chosen: all that was seen, all but the outermost hundred-thousandth, or such
that the quantised distribution tells most about the original (Migacz, "8-bit inference with
TensorRT", 2017)."""

NEAR: Final = 1.1
"""Of those whose error is within this factor of the least, the one with most in int8 is taken."""

AT_ONCE: Final = 4
"""Samples whose inner tensors are in memory at a time."""

Ranges = dict[str, tuple[float, float]]
"""Tensor → least and largest value."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The quantised network that is nearest to the original.

    Attributes:
        method: One of :data:`METHODS`.
        kept: Nodes left in fp32.
        error: Mean over outputs of :attr:`~mien.precision.compare.Difference.error`, on samples
            that the ranges do not come from.
        tried: The same for all that were tried, ``method`` or ``method, outputs in fp32``.
    """

    method: str
    kept: tuple[str, ...]
    error: float
    tried: dict[str, float]


class _NoHistogram(Exception):
    """A tensor has values too much alike to be put into the bins that a method needs."""


def ranges(
    source: Path,
    samples: Sequence[Sample],
    method: str = "minmax",
    operators: Sequence[str] | None = None,
) -> Ranges:
    """What values the tensors of a graph take.

    Args:
        source: fp32 graph, simplified.
        samples: Inputs as they come in use.
        method: One of :data:`METHODS`.
        operators: Kinds of nodes whose tensors are looked at; None for all that can be quantised.
    """
    found = _calibrated(source, samples, method, operators)
    return {
        name: (float(np.min(data.range_value[0])), float(np.max(data.range_value[1])))
        for name, data in found.items()
    }


def to_int8(
    source: Path,
    out: Path,
    samples: Sequence[Sample],
    *,
    method: str = "minmax",
    keep: Sequence[str] = (),
) -> None:
    """Write an int8 version of a network: QDQ, weights by channel, ranges from samples.

    Activations are uint8, which processors multiply with int8 weights; a ReLU or Clip goes into
    the quantisation before it.

    Args:
        source: fp32 graph, simplified.
        out: The ``.onnx`` file to write.
        samples: Inputs as they come in use, a few dozen.
        method: One of :data:`METHODS`.
        keep: Names of nodes that stay in fp32.

    Raises:
        ModelError: There is nothing in it to quantise, or ONNX Runtime cannot.
    """
    _write(source, out, _calibrated(source, samples, method, None), keep)


def choose_int8(
    source: Path, out: Path, samples: Sequence[Sample], *, methods: Sequence[str] = METHODS
) -> Choice:
    """Try methods, each with and without the outputs' last layers, and write the nearest one.

    A quarter of the samples is set aside to compare by; see :data:`NEAR`.

    Args:
        source: fp32 graph, simplified.
        out: The ``.onnx`` file to write.
        samples: Inputs as they come in use, a few dozen.
        methods: Of :data:`METHODS`.

    Raises:
        ModelError: There is nothing in it to quantise, or ONNX Runtime cannot.
    """
    aside = list(samples[3::4]) or list(samples)
    used = [s for i, s in enumerate(samples) if i % 4 != 3]
    full = runtime.load(source)
    last = last_layers(source)
    options: dict[str, tuple[str, tuple[str, ...], float]] = {}
    found = {}
    for method in methods:
        with contextlib.suppress(_NoHistogram):
            found[method] = _calibrated(source, used, method, None)
    with tempfile.TemporaryDirectory(prefix="mien-int8-") as folder:
        for method, seen in found.items():
            for keep in ((), last) if last else ((),):
                file = Path(folder) / "tried.onnx"
                _write(source, file, seen, keep)
                outputs = differences(full, runtime.load(file), aside).values()
                error = sum(d.error for d in outputs) / len(outputs)
                options[f"{method}, outputs in fp32" if keep else method] = (method, keep, error)
    least = min(error for *_, error in options.values())
    near = [option for option in options.values() if option[2] <= NEAR * least]
    method, keep, error = min(near, key=lambda option: (len(option[1]), methods.index(option[0])))
    _write(source, out, found[method], keep)
    return Choice(method, keep, error, {name: error for name, (*_, error) in options.items()})


def last_layers(source: Path) -> tuple[str, ...]:
    """Names of the last convolution or matrix product before each output, and what follows it.

    Their outputs are the result itself, on which a step of 1/255 of the range shows at once.
    """
    model = graph.onnx().load(str(source))
    made = {name: node for node in model.graph.node for name in node.output}
    names: dict[str, None] = {}
    pending = [output.name for output in model.graph.output]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        node = made.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        names[node.name] = None
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            pending += node.input
    weighty = {n.name for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm")}
    # Where that is all of it, nothing would be left to quantise.
    return tuple(names) if weighty - names.keys() else ()


def write_table(found: Ranges, out: Path) -> None:
    """Write ranges as a calibration table of TensorRT, for the fp32 graph they were taken on.

    ONNX Runtime's TensorRT provider reads it by ``trt_int8_calibration_table_name``. TensorRT
    quantises symmetrically, so each tensor has one number, its largest magnitude.

    Args:
        found: From :func:`ranges`.
        out: The file to write (FlatBuffers).
    """
    graph.onnx()
    from onnxruntime.quantization import write_calibration_table  # noqa: PLC0415
    from onnxruntime.quantization.calibrate import TensorData  # noqa: PLC0415

    table = {}
    for name, (low, high) in found.items():
        largest = np.float32(max(-low, high))
        table[name] = TensorData(lowest=-largest, highest=largest)
    with tempfile.TemporaryDirectory(prefix="mien-table-") as folder, _quiet():
        write_calibration_table(table, folder)
        shutil.move(Path(folder) / "calibration.flatbuffers", out)


def _calibrated(
    source: Path, samples: Sequence[Sample], method: str, operators: Sequence[str] | None
) -> Mapping[str, Any]:
    """Run a graph on samples; tensor → ONNX Runtime's ``TensorData``."""
    onnx = graph.onnx()
    from onnxruntime.quantization.calibrate import (  # noqa: PLC0415
        CalibrationMethod,
        create_calibrator,
    )

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    model = onnx.load(str(source))
    inputs = graph.feeds(model, samples)
    with tempfile.TemporaryDirectory(prefix="mien-calibrate-") as folder, _quiet():
        calibrator = create_calibrator(
            source,
            operators,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kinds[method],
        )
        for some in _alike(inputs):
            try:
                calibrator.collect_data(_reader(some))
            except ValueError as error:
                if method == "minmax":
                    raise
                raise _NoHistogram(str(error)) from error
            calibrator.clear_collected_data()
        found: Mapping[str, Any] = calibrator.compute_data()
        del calibrator  # holds the file open
    return found


def _alike(inputs: Sequence[dict[str, Floats]]) -> Iterator[list[dict[str, Floats]]]:
    """A few samples of the same shapes at a time: only those can be stacked."""

    def shapes(sample: dict[str, Floats]) -> list[tuple[int, ...]]:
        return [array.shape for array in sample.values()]

    for _, same in itertools.groupby(sorted(inputs, key=shapes), key=shapes):
        several = list(same)
        yield from (several[i : i + AT_ONCE] for i in range(0, len(several), AT_ONCE))


def _write(source: Path, out: Path, found: Mapping[str, Any], keep: Sequence[str]) -> None:
    onnx = graph.onnx()
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415
    from onnxruntime.quantization.quant_utils import QuantType  # noqa: PLC0415
    from onnxruntime.quantization.registry import (  # noqa: PLC0415
        QDQRegistry,
        QLinearOpsRegistry,
    )

    model = onnx.load(str(source))
    with _quiet():
        try:
            quantizer = QDQQuantizer(
                model, True, False, QuantType.QInt8, QuantType.QUInt8, found, [], list(keep),
                sorted({*QLinearOpsRegistry, *QDQRegistry}), {},
            )  # fmt: skip
            quantizer.quantize_model()
            made = quantizer.model.model
        except Exception as error:  # the quantiser raises what it likes
            raise ModelError(f"{source}: cannot be quantised to int8 ({error})") from error
    if not any(node.op_type == "DequantizeLinear" for node in made.graph.node):
        raise ModelError(f"{source}: has nothing that could be quantised to int8")
    graph.copy_nearest(made)
    onnx.save(made, str(out))


def _reader(inputs: Sequence[dict[str, Floats]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds samples to the calibration one by one."""

        def __init__(self) -> None:
            self.left: Iterator[dict[str, Floats]] = iter(inputs)

        def get_next(self) -> dict[str, Floats] | None:
            return next(self.left, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that ONNX Runtime's tools write to the root logger and to stdout."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logging.disable(before)
