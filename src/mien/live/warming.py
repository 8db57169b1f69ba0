"""What is done before the first frame is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

from mien.live.ladder import Step
from mien.live.show import Look
from mien.live.types import Camera
from mien.pipeline import Stream
from mien.types import Frame, Identity, Image

MICRO: Final = Fraction(1, 1_000_000)
"""Seconds to a tick of the time of frames."""

WARM: Final = 2
"""Frames painted before anything is shown, at most 30 looked at."""


def prepare(steps: Iterable[Step], identities: Sequence[Identity]) -> None:
    """Do what depends on an identity alone, on all steps, where the generator can."""
    generators = {id(s.swapper.generate): s.swapper.generate for s in steps}
    for generator in generators.values():
        ready: Any = getattr(generator, "prepare", None)
        for identity in identities if ready is not None else ():
            ready(identity)


def warm_up(
    camera: Camera,
    stream: Stream,
    steps: Sequence[Step],
    look: Look,
    *,
    sized: Callable[[Image], Image],
    fps: float,
) -> None:
    """Run everything on the first frames, until faces were painted twice.

    Args:
        camera: Whose preview is looked at; it is shown later all the same.
        stream: Follows the faces; tracker and smoothing know them then.
        steps: All are run once, the first one on every frame.
        look: Who goes on whom.
        sized: Brings a picture to the size of the session.
        fps: Of the camera.
    """
    painted, began = 0, time.monotonic()
    stream.identify = look.chosen
    for number, first in enumerate(camera.preview()):
        frame = timed(sized(first.image), number - 40, began + number / fps)
        faces = stream.observe(frame)
        pairs = stream.assign(faces, look.plan)
        for step in steps:
            if pairs and (not painted or step is steps[0]):
                stream.swapper = step.swapper
                copy = Frame(frame.image.copy(), frame.index, frame.pts, frame.time_base)
                stream.render(copy, pairs, look.plan, faces=faces)
        painted += bool(pairs)
        if painted == WARM or number == 29:
            break


def timed(image: Image, index: int, taken: float) -> Frame:
    """A frame that says when it was taken: the camera's own numbers may start anew."""
    return Frame(image, index, round(taken / MICRO), MICRO)
