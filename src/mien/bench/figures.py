"""What is made of samples of time: percentiles, jitter, and the speed a pipeline could have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """How samples are spread.

    Attributes:
        p50: Median.
        p95: 95 of 100 samples lie at or below it, between samples by straight lines.
        p99: The same for 99.
        jitter: Standard deviation.
        count: Number of samples.
    """

    p50: float
    p95: float
    p99: float
    jitter: float
    count: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread | None:
        """Spread of samples; None where there are none."""
        values = np.fromiter(samples, np.float64)
        if not len(values):
            return None
        p50, p95, p99 = (float(v) for v in np.percentile(values, (50, 95, 99)))
        return cls(p50, p95, p99, float(values.std()), len(values))

    def as_dict(self) -> dict[str, float]:
        """For JSON, to a thousandth."""
        return {key: round(value, 3) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Alone:
    """What a stage costs with nothing beside it.

    Attributes:
        wall: Milliseconds a frame by the clock.
        processor: Milliseconds a frame of all processors together, its own threads included.
    """

    wall: float
    processor: float


def slowest(stages: Mapping[str, Alone]) -> str:
    """The stage that takes longest by the clock."""
    return max(stages, key=lambda name: stages[name].wall)


def share(stages: Mapping[str, Alone]) -> float:
    """Time of the slowest stage in parts of all stages' together, 0..1."""
    return stages[slowest(stages)].wall / sum(s.wall for s in stages.values())


def bound(stages: Mapping[str, Alone], cores: float, streams: int = 1) -> float:
    """Frames a second that no arrangement of the stages can pass.

    Each stage of a stream works on one frame at a time, so the slowest sets the pace; and all
    stages share the cores: ``min(streams / slowest, cores / sum of processor time)``.

    Args:
        stages: Each measured alone.
        cores: Processors that may be used.
        streams: Videos at a time.
    """
    pace = streams * 1000 / max(stages[slowest(stages)].wall, 1e-6)
    work = cores * 1000 / max(sum(s.processor for s in stages.values()), 1e-6)
    return min(pace, work)


def intervals(times: Sequence[float]) -> list[float]:
    """Milliseconds between one time and the next, times in seconds."""
    return [1000 * (b - a) for a, b in pairwise(times)]


def middle(rounds: Sequence[Mapping[str, Alone]]) -> dict[str, Alone]:
    """Medians over rounds, stage by stage; a stage that one round lacks is left out."""
    names = [n for n in rounds[0] if all(n in r for r in rounds)]
    return {
        n: Alone(median(r[n].wall for r in rounds), median(r[n].processor for r in rounds))
        for n in names
    }
