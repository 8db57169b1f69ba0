"""How far a network is from its fp32 original, and how much quicker it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien import runtime
from mien.precision.graph import Sample


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one output, over all samples together.

    Attributes:
        maximum: Largest absolute difference.
        mean: Mean absolute difference.
        range: Of the original's values, largest less smallest.
        psnr: Peak signal-to-noise ratio in dB, the peak being the range; infinite if equal.
        cosine: Between all values of both.
        error: Size of the difference over that of the original's departure from its mean (both
            root mean squares): 0 the same, 1 no better than the mean.
    """

    maximum: float
    mean: float
    range: float
    psnr: float
    cosine: float
    error: float


def differences(
    full: runtime.Model, other: runtime.Model, samples: Sequence[Sample]
) -> dict[str, Difference]:
    """Run both on samples and compare what comes out.

    Args:
        full: The fp32 original.
        other: With the same inputs and outputs.
        samples: Inputs, at least one.

    Returns:
        Output → how it differs.
    """
    sums = {name: _Sums() for name in full.outputs}
    for sample in samples:
        for name, a, b in zip(full.outputs, full(*sample), other(*sample), strict=True):
            sums[name].add(np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())
    return {name: total.difference() for name, total in sums.items()}


@dataclass(slots=True)
class _Sums:
    """Sums over values a of the original and b, as they come."""

    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    maximum: float = 0.0
    absolute: float = 0.0
    squares: float = 0.0
    a: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0

    def add(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        gap = np.abs(a - b)
        if not a.size:
            return
        self.count += a.size
        self.low, self.high = min(self.low, float(a.min())), max(self.high, float(a.max()))
        # A NaN stays one: maximum() passes it on, max() might not.
        self.maximum = float(np.maximum(self.maximum, gap.max()))
        self.absolute += float(gap.sum())
        self.squares += float(gap @ gap)
        self.a += float(a.sum())
        self.aa += float(a @ a)
        self.bb += float(b @ b)
        self.ab += float(a @ b)

    def difference(self) -> Difference:
        n = max(self.count, 1)
        spread = max(self.high - self.low, 0.0) if self.count else 0.0
        noise = self.squares / n
        variance = max(self.aa / n - (self.a / n) ** 2, 0.0)
        # Of a constant output, against its size.
        scale = variance if variance > 1e-12 * max(self.aa / n, 1e-12) else max(self.aa / n, 1e-12)
        size = float(np.sqrt(self.aa * self.bb))
        peak = max(spread, 1e-9) ** 2
        return Difference(
            maximum=self.maximum,
            mean=self.absolute / n,
            range=spread,
            psnr=float("inf") if noise == 0 else float(10 * np.log10(peak / noise)),
            cosine=self.ab / size if size > 0 else float(self.aa == self.bb),
            error=float(np.sqrt(noise / scale)),
        )


def speed(
    full: runtime.Model,
    other: runtime.Model,
    sample: Sample,
    rounds: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Milliseconds of a run of each: medians of alternating runs, after a warm-up.

    Turns are taken because what else the machine does changes from second to second.

    Args:
        full: The fp32 original.
        other: With the same inputs.
        sample: What goes in.
        rounds: Runs of each.
        clock: Seconds; ``time.thread_time`` leaves out what others take of the processor, and
            counts this thread alone.
    """
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 2):
        for model, times in zip((full, other), spent, strict=True):
            start = clock()
            model(*sample)
            if number >= 2:
                times.append(clock() - start)
    return float(np.median(spent[0])) * 1e3, float(np.median(spent[1])) * 1e3
