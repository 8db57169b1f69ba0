"""Half precision that goes wrong at run time is noticed, and the fp32 original takes over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np

from mien import runtime

log = logging.getLogger(__name__)

PICTURE: Final = 4
"""Dimensions of an output from which it is taken for a batch of pictures."""


@dataclass(frozen=True, slots=True)
class Guarded(runtime.Model):
    """An fp16 network with the fp32 one behind it; called like any other.

    The largest finite number of half precision is 65,504; what lies above becomes infinite, and
    a little later NaN. A network that did so once will do so again, so it is left for good.

    Attributes:
        full: Loads the fp32 original.
        faces: Outputs are pictures of faces: one of a single value all over is a fault, too,
            unless fp32 makes the same of it.
    """

    full: Callable[[], runtime.Model] = field(kw_only=True)
    faces: bool = field(default=False, kw_only=True)
    _after: list[runtime.Model] = field(default_factory=list, kw_only=True)
    _lock: Any = field(default_factory=threading.Lock, kw_only=True)

    @property
    def switched(self) -> bool:
        """Whether the fp32 original has taken over."""
        return bool(self._after)

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run the network; what it cannot do in fp16 is done, and said once, in fp32."""
        return self._run(runtime.Model.__call__, arrays)

    def lent(self, *arrays: Any) -> list[Any]:
        """The same without allocating, see :meth:`mien.runtime.Model.lent`."""
        return self._run(runtime.Model.lent, arrays)

    def _run(self, how: Callable[..., list[Any]], arrays: tuple[Any, ...]) -> list[Any]:
        if self._after:
            return how(self._after[0], *arrays)
        found = how(self, *arrays)
        broken = not all(_finite(value) for value in found)
        if not broken and not (self.faces and any(_flat(value) for value in found)):
            return found
        model = self.full()
        instead = how(model, *arrays)
        if not broken and any(_flat(value) for value in instead):
            return found  # the face is like that
        with self._lock:
            first = not self._after
            if first:
                self._after.append(model)
        if first:
            what = "NaN or infinite values" if broken else "a picture of one single value"
            log.warning("%s: gave %s in fp16; %s runs instead from now on", self.name, what,
                        model.name)  # fmt: skip
        return instead


def guarded(
    model: runtime.Model, full: Callable[[], runtime.Model], *, faces: bool = False
) -> Guarded:
    """Put the fp32 original behind an fp16 network.

    Args:
        model: The fp16 network.
        full: Loads the original; called when it is needed first.
        faces: The outputs are pictures of faces, none of which may be black all over.
    """
    given = {f.name: getattr(model, f.name) for f in fields(model) if f.init}
    return Guarded(**given, full=full, faces=faces)


def _finite(value: Any) -> bool:
    """Whether all is finite; a sum of finite float32 in double precision cannot overflow."""
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array.sum(dtype=np.float64)))


def _flat(value: Any) -> bool:
    """Whether a picture of the batch has one single value all over."""
    array = np.asarray(value)
    if array.ndim < PICTURE or array.shape[0] == 0:
        return False
    flat = array.reshape(len(array), -1)
    return flat.shape[1] > 1 and bool((flat.max(axis=1) == flat.min(axis=1)).any())
