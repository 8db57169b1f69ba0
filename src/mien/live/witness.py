"""How much what was shown still resembles the performer, sampled beside the work."""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple

import numpy as np

from mien.live.slot import Slot
from mien.types import Embed, Faces, Floats, Frame, Image

EVERY: Final = 1.0
"""Seconds between two samples."""


class _Sample(NamedTuple):
    raw: Image
    shown: Image
    faces: Faces


class Witness:
    """Compares raw faces with what was shown in their places, about once a second.

    Attributes:
        cosines: Of each sample, at most the first 3600.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._slot: Slot[_Sample] = Slot()
        self._next = 0.0
        self.cosines: list[float] = []
        self._performers: dict[int | None, Floats] = {}
        self._thread = threading.Thread(target=self._work, name="mien-witness", daemon=True)
        self._thread.start()

    @property
    def due(self) -> bool:
        """Whether the next frame is to be sampled; then its raw pixels must be kept."""
        return time.monotonic() >= self._next

    def see(self, raw: Image, shown: Image, faces: Faces, *, found: bool) -> None:
        """Sample one frame.

        Args:
            raw: ``(H, W, 3)`` as it was taken.
            shown: ``(H, W, 3)`` as it was shown.
            faces: Where the performers are, or were last.
            found: Whether the faces are in this very frame, else only ``shown`` is looked at.
        """
        self._next = time.monotonic() + EVERY
        if faces:
            self._slot.put(_Sample(raw if found else shown[:0], shown.copy(), faces))

    def _work(self) -> None:
        while (sample := self._slot.take()) is not None:
            if sample.raw.size:
                for face in self._embed(Frame(sample.raw), sample.faces):
                    if face.embedding is not None:
                        self._performers[face.track] = face.embedding
            for face in self._embed(Frame(sample.shown), sample.faces):
                known = self._performers.get(face.track)
                if known is not None and face.embedding is not None and len(self.cosines) < 3600:
                    self.cosines.append(float(face.embedding @ known))

    def close(self) -> tuple[float, float] | None:
        """Finish; see :meth:`result`."""
        self._slot.close(keep=True)
        self._thread.join(5)
        return self.result()

    def result(self) -> tuple[float, float] | None:
        """Mean and largest cosine so far, None where there was no sample."""
        seen = list(self.cosines)
        return (round(float(np.mean(seen)), 3), round(max(seen), 3)) if seen else None
