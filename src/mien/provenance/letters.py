"""Letters as polygons, for the visible label.

They are those of Noto Sans Bold and Noto Sans CJK Bold, and lie beside this file (``letters.npz``,
SIL Open Font License 1.1, see ``OFL.txt``; ``scripts/make_labels.py`` makes them). So a label is
sharp at any size, and no font has to be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.types import Image, Rect

LETTERS: Final = Path(__file__).with_name("letters.npz")

CAPITAL: Final = 733
"""Height of capitals in thousandths of the em."""

OVER: Final = 4
"""Letters are drawn so many times larger, to be scaled down."""


class _Letter(NamedTuple):
    """One letter, in thousandths of the em, y down from the baseline."""

    advance: int
    polygons: list[NDArray[np.int32]]


@cache
def _letters() -> dict[str, _Letter]:
    """Letter → its outline."""
    with np.load(LETTERS) as file:
        names = file["names"].tobytes().decode().split("\n")
        advances, counts, lengths = (file[k].tolist() for k in ("advances", "counts", "lengths"))
        points = np.cumsum(file["steps"].T.astype(np.int32), axis=0, dtype=np.int32)
    polygons = iter(np.split(points, np.cumsum(lengths)[:-1]))
    return {
        name: _Letter(advance, [next(polygons) for _ in range(count)])
        for name, advance, count in zip(names, advances, counts, strict=True)
    }


def strange(text: str) -> list[str]:
    """The letters of a text that cannot be drawn, each once."""
    known = _letters() if text else {}
    return [c for c in dict.fromkeys(text) if c not in known]


def _shape(text: str) -> Iterator[tuple[int, _Letter]]:
    """Yield how far right each letter begins, and the letter."""
    known, at = _letters(), 0
    for character in text:
        letter = known[character]
        yield at, letter
        at += letter.advance


@lru_cache(4096)  # lines of labels, which are few and come again
def measure(text: str) -> Rect:
    """What of the plane the ink of a line takes, in thousandths of the em from its beginning."""
    inked = [p + np.array([at, 0]) for at, one in _shape(text) for p in one.polygons]
    points = np.concatenate([*inked, [(0, 0), (0, -CAPITAL)]])
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return Rect(x0, y0, x1, y1)


def draw(plane: Image, text: str, capital: float, origin: tuple[float, float]) -> None:
    """Draw a line of text in white.

    Args:
        plane: ``(h, w)``, written to; it is :data:`OVER` times too large.
        text: All of its letters are known.
        capital: Height of capitals in pixels of what ``plane`` is scaled down to.
        origin: Where the baseline begins, in the same pixels.
    """
    shift = 4  # binary places of pixels that OpenCV gets
    scale = capital / CAPITAL * OVER * (1 << shift)
    begin = np.array(origin) * (OVER * (1 << shift))
    for at, letter in _shape(text):
        outlines = [
            np.rint((p + np.array([at, 0])) * scale + begin).astype(np.int32)
            for p in letter.polygons
        ]
        if outlines:  # even-odd, which for outlines that do not overlap is what fonts mean
            cv2.fillPoly(plane, outlines, 255, cv2.LINE_8, shift)
