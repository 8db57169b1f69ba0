"""How much a cluster gets done: from milliseconds of each stage to a number of nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

PER_FACE: Final = frozenset({"landmarks", "generate", "blend", "mask", "enhance"})
"""Stages whose time grows with the number of faces; that of the others with the frames alone."""

BUSY: Final = 0.7
"""Share of a node that live streams may take: beyond it frames wait for one another."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time of a frame, in milliseconds of one core.

    Attributes:
        frame: Whatever is in it: decoding, following, marking, encoding.
        face: More for each face that is replaced.
    """

    frame: float
    face: float

    @classmethod
    def of(cls, stages: Mapping[str, float], faces: float = 1.0) -> Costs:
        """From a report's stages.

        Args:
            stages: Milliseconds a frame by stage, measured on one core.
            faces: Faces a frame at which they were measured.
        """
        face = sum(ms for stage, ms in stages.items() if stage in PER_FACE)
        return cls(sum(stages.values()) - face, face / faces if faces else 0.0)

    def frame_with(self, faces: float) -> float:
        """Milliseconds of one core for a frame with so many faces."""
        return self.frame + self.face * faces


class Need(NamedTuple):
    """What streams need.

    Attributes:
        nodes: Machines.
        streams: On each, at most.
        cores: That are busy on average, over all.
    """

    nodes: int
    streams: int
    cores: float


def nodes_for(
    streams: int,
    costs: Costs,
    *,
    fps: float = 30.0,
    faces: float = 1.0,
    cores: float = 16.0,
    busy: float = BUSY,
) -> Need:
    """How many nodes a number of live streams needs.

    A stream stays on its node, so each node takes whole streams.

    Args:
        streams: At the same time.
        costs: On one core of such a node.
        fps: Frames a second of each.
        faces: Replaced in each frame.
        cores: Of a node.
        busy: Share of them that may be in use.

    Raises:
        ValueError: One stream is more than a node can do; it needs fewer frames a second.
    """
    each = costs.frame_with(faces) * fps / 1000.0
    fit = int(cores * busy / each)
    if fit < 1:
        raise ValueError(
            f"a stream takes {each:.1f} cores, and {cores * busy:.1f} of a node's may be in use"
        )
    return Need(math.ceil(streams / fit), fit, streams * each)


def speedup(
    workers: int,
    parts: int,
    *,
    follow: float,
    paint: float,
    join: float = 0.0,
    cores: int | None = None,
) -> float:
    """How much quicker a video is done by several workers than by one.

    Faces are followed once, before anything is painted, and parts are joined after, so that these
    two do not become quicker; and whole parts are given out (Amdahl's law, with rounds).

    Args:
        workers: Each on a core of its own, if there are so many.
        parts: Of the video, about equally long.
        follow: Seconds for following all faces.
        paint: Seconds for painting all parts by one worker.
        join: Seconds for putting them together.
        cores: Of all nodes; None for enough.
    """
    at_once = min(workers, parts)
    rounds = math.ceil(parts / at_once)
    each = paint / parts * max(1.0, at_once / cores if cores else 1.0)
    return (follow + paint + join) / (follow + rounds * each + join)
