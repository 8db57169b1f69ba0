"""The contact sheet: originals and swaps side by side, to be looked at face by face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from mien import quality
from mien.evaluate.measuring import Shown
from mien.types import Identity, Image

CELL: Final = 128
"""Side of a face in pixels."""

PEOPLE: Final = 9
"""Identities shown at most, spread evenly over those given."""

NAME: Final = 16
"""Height in pixels of a line of text."""


class Sheet:
    """Rows of faces: for each target one for each generator; the portraits on top.

    Args:
        people: All identities.
        generators: Their names.
    """

    def __init__(self, people: Sequence[Identity], generators: Sequence[str]) -> None:
        count = min(PEOPLE, len(people))
        self.numbers = [int((k + 0.5) * len(people) / count) for k in range(count)]
        self.generators = list(generators)
        portraits = [people[n].portraits[0] for n in self.numbers]
        faces = [quality.view(p.image, p.mesh, CELL) for p in portraits]
        self._rows = [_titled(np.hstack([_blank(), *faces]), "AI-generated: faces swapped by mien")]

    def add(self, target: str, shown: dict[tuple[str, int], Shown]) -> None:
        """Add the rows of a target; what was lost stays grey."""
        for name in self.generators:
            mine = [shown.get((name, n)) for n in self.numbers]
            original = next((s.original for s in mine if s is not None), None)
            cells = [_blank() if original is None else _small(original)]
            cells += [_blank() if s is None else _small(s.swapped) for s in mine]
            self._rows.append(_titled(np.hstack(cells), f"{target}: {name}"))

    def picture(self) -> Image:
        """``(h, w, 3)`` uint8 RGB."""
        return np.ascontiguousarray(np.vstack(self._rows))


def _small(crop: Image) -> Image:
    return np.asarray(cv2.resize(crop, (CELL, CELL), interpolation=cv2.INTER_AREA), np.uint8)


def _blank() -> Image:
    return np.full((CELL, CELL, 3), 40, np.uint8)


def _titled(row: Image, text: str) -> Image:
    line = np.full((NAME, row.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (4, NAME - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([line, row])
