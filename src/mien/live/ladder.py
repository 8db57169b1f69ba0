"""When quality steps down because the machine is too slow, and when it comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import cv2
import numpy as np

from mien import detect
from mien.generate import MeshGenerator
from mien.generate.relight import RelightGenerator
from mien.pipeline import Swapper
from mien.types import Faces, Image

SLOW: Final = 0.95
"""Share of the time between two frames beyond which the machine is too slow."""

EASY: Final = 0.6
"""Share below which a better step is tried."""

PATIENCE: Final = 1.0
"""Seconds for which it must be too slow before a step down."""

CALM: Final = 5.0
"""Seconds for which it must be easy before a step up; doubled each time that did not last."""

LONGEST: Final = 80.0
"""The most that grows to."""


class Step(NamedTuple):
    """One setting of the chain.

    Attributes:
        name: In words.
        swapper: The stages.
        sparse: Look for new faces a third as often.
        half: Of the detection input's side, see :class:`Eased`.
        scale: Of the picture in which faces are painted.
    """

    name: str
    swapper: Swapper
    sparse: bool = False
    half: bool = False
    scale: float = 1.0


def steps_of(swapper: Swapper, *, private: bool = False) -> list[Step]:
    """The steps for a chain, best first; each keeps what those before it gave up.

    Args:
        swapper: Full quality.
        private: Faces must be looked for as often and as well as ever, and nothing more of the
            performer's may be seen: their shape and light raised the cosine from .36 to .44.
    """
    steps = [Step("full quality", swapper)]

    def add(name: str, **change: object) -> None:
        steps.append(steps[-1]._replace(name=name, **change))  # type: ignore[arg-type]

    if not private:
        add("looks for faces less often", sparse=True)
        add("smaller detection input", half=True)
    now = steps[-1].swapper
    if now.enhancer is not None:
        now = replace(now, enhancer=None)
        add("no enhancer", swapper=now)
    if isinstance(now.generate, RelightGenerator) and not private:
        if now.generate.options.shape > 0:
            flat = replace(now.generate, options=replace(now.generate.options, shape=0.0))
            now = replace(now, generate=flat, fused=None)
            add("the target's own face shape", swapper=now)
        now = replace(now, generate=MeshGenerator(), fused=None)
        add("light without a network", swapper=now)
    add("smaller picture", scale=2 / 3)
    return steps


@dataclass(slots=True)
class Eased:
    """A detection network whose input can be made half as large, where its size is free.

    Attributes:
        network: The same without.
        half: Whether it is. A stream keeps its detector, so this is changed in place.
    """

    network: detect.Network
    half: bool = False

    def __call__(self, image: Image, side: int = 0) -> Faces:
        """Find faces, see :class:`mien.detect.Network`."""
        return self.network(image, max(160, (side or 640) // 2) if self.half else side)


def eased(swapper: Swapper) -> tuple[Swapper, Eased]:
    """The chain with the detector's fine network made adjustable, and that network."""
    fast, fine = swapper.detector.fast, swapper.detector.fine
    network = Eased(fine)
    detector = detect.Detector(network if fast is fine else fast, network)
    return replace(swapper, detector=detector), network


@dataclass(slots=True)
class Ladder:
    """Decides on which step to be, from how long frames take.

    Attributes:
        count: How many steps there are.
        interval: Seconds between two frames that are asked for.
        step: Where it is, 0 is the best.
        downs: How often it went down.
    """

    count: int
    interval: float
    step: int = 0
    downs: int = 0
    _since: float | None = None
    _slow: bool = False
    _recent: list[float] = field(default_factory=list)
    _calm: float = CALM
    _rose: float = -1e9

    def __call__(self, work: float, now: float) -> bool:
        """Take note of a frame.

        Args:
            work: Seconds that it took.
            now: Seconds on any clock that does not go back.

        Returns:
            Whether the step changed.
        """
        self._recent = [*self._recent[-8:], work]
        load = float(np.median(self._recent)) / self.interval
        slow = load > SLOW
        if not slow and load >= EASY:
            self._since = None
            return False
        if self._since is None or slow != self._slow:
            self._since, self._slow = now, slow
        lasted = now - self._since
        if slow and lasted >= PATIENCE and self.step < self.count - 1:
            if now - self._rose < 2 * CALM:  # the last step up did not last
                self._calm = min(LONGEST, 2 * self._calm)
            self.downs += 1
            return self._go(self.step + 1)
        if not slow and lasted >= self._calm and self.step > 0:
            self._rose = now
            return self._go(self.step - 1)
        return False

    def _go(self, step: int) -> bool:
        self.step, self._since = step, None
        self._recent.clear()
        return True


def shrink(image: Image, scale: float) -> Image:
    """The picture for a step that paints in a smaller one; sides stay even."""
    height, width = image.shape[:2]
    size = round(width * scale) // 2 * 2, round(height * scale) // 2 * 2
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
