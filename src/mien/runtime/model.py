"""A loaded network, and runs of it that allocate nothing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnxruntime as ort

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]

TYPES: Final[dict[str, Any]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip
"""ONNX Runtime's names of types → NumPy's."""

DEVICES: Final = {"cuda": "cuda", "tensorrt": "cuda", "directml": "dml", "cann": "cann"}
"""Short name of a provider → ONNX Runtime's name of the memory it computes in; else the
processor's."""

KEPT: Final = 4
"""Sets of buffers a thread keeps for one model: that many different shapes in turn."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded network; call it with arrays in the order of ``inputs``.

    Attributes:
        name: For reports and messages.
        provider: Short name of the provider that holds the graph.
        inputs: Name → shape as the graph declares it (a string is a free dimension).
        outputs: Names in the graph's order.
        session: ONNX Runtime's.
        turn: Held while the network runs, where a provider takes one run at a time.
    """

    name: str
    provider: str
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    session: Any
    turn: AbstractContextManager[Any] = field(default_factory=nullcontext, compare=False)
    _own: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run the network on arrays given in the order of ``inputs``.

        Returns:
            All outputs, in arrays of the caller's own.
        """
        with self.turn:
            result: list[Any] = self.session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        return result

    def lent(self, *arrays: Any) -> list[Any]:
        """The same without allocating: outputs are written into buffers that are used again.

        Returns:
            All outputs, until this thread calls this model's ``lent`` again with these shapes:
            who keeps them must copy them. Where the sizes of outputs depend on what is in the
            inputs, they are fresh, as from a call.
        """
        if len(arrays) != len(self.inputs):
            raise ValueError(f"{self.name}: expected {len(self.inputs)} inputs, not {len(arrays)}")
        key = tuple(np.shape(a) for a in arrays)
        buffers: dict[Any, Bound | None] = self._own.__dict__.setdefault("buffers", {})
        if key not in buffers:
            while len(buffers) >= KEPT:
                buffers.pop(next(iter(buffers)))
            known = self._foreseeable()
            shapes = dict(zip(self.inputs, key, strict=True))
            buffers[key] = Bound(self, shapes) if known else None
        bound = buffers[key]
        return self(*arrays) if bound is None else bound(*arrays)

    def bound(
        self,
        shapes: Mapping[str, Shape],
        *,
        given: Mapping[str, Any] | None = None,
        stay: Collection[str] = (),
    ) -> Bound:
        """A run with buffers of its own, for one thread; see :class:`Bound`."""
        return Bound(self, shapes, given=given, stay=stay)

    def warm(self, shapes: Mapping[str, Shape] | None = None) -> None:
        """Run once on zeros, so that the first real run is as fast as the second.

        Args:
            shapes: Of inputs; elsewhere as the graph declares them, free sizes 1.
        """
        shapes = shapes or {}
        self(*(np.zeros(shapes.get(n, self.declared(n)), t) for n, t in self.types().items()))

    def declared(self, name: str) -> Shape:
        """Shape of an input with free sizes 1."""
        return tuple(d if isinstance(d, int) and d > 0 else 1 for d in self.inputs[name])

    def types(self) -> dict[str, Any]:
        """NumPy's type of each input."""
        return {i.name: TYPES[i.type] for i in self.session.get_inputs()}

    def _foreseeable(self) -> bool:
        """Sizes of outputs follow from those of inputs: free ones bear the same names."""
        free = {d for dims in self.inputs.values() for d in dims if isinstance(d, str)}
        return all(
            isinstance(d, int) or d in free for o in self.session.get_outputs() for d in o.shape
        )


class Bound:
    """A model with inputs and outputs in fixed places, so that a run allocates nothing.

    Not for several threads at once: each makes its own.

    Args:
        model: The network.
        shapes: Of each input that is not in ``given``.
        given: Inputs that are there already, as :class:`onnxruntime.OrtValue`: what another
            ``Bound`` left on the device.
        stay: Outputs that stay in the device's memory, in ``values``, for another model.

    Attributes:
        values: Output → where it lies, for ``given`` of another model.
    """

    def __init__(
        self,
        model: Model,
        shapes: Mapping[str, Shape],
        *,
        given: Mapping[str, Any] | None = None,
        stay: Collection[str] = (),
    ) -> None:
        given = dict(given or {})
        unknown = (set(given) | set(shapes)) - set(model.inputs) | set(stay) - set(model.outputs)
        missing = set(model.inputs) - set(given) - set(shapes)
        if unknown or missing:
            raise ValueError(f"{model.name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        self.model = model
        types = model.types()
        self._inputs = {n: np.zeros(shapes[n], types[n]) for n in model.inputs if n not in given}
        # One plain run says how large the outputs are, and is the warm-up.
        fed = [self._inputs[n] if n in self._inputs else given[n].numpy() for n in model.inputs]
        sample = [np.asarray(a) for a in model(*fed)]
        self._outputs: dict[str, Array] = {}
        self.values: dict[str, Any] = {}
        self._binding = model.session.io_binding()
        for name, buffer in self._inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(buffer))
        for name, value in given.items():
            self._binding.bind_ortvalue_input(name, value)
        place = DEVICES.get(model.provider, "cpu")
        for name, like in zip(model.outputs, sample, strict=True):
            if name in stay:
                value = ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype, place, 0)
            else:
                self._outputs[name] = np.zeros_like(like, order="C")
                value = ort.OrtValue.ortvalue_from_numpy(self._outputs[name])
            self.values[name] = value
            self._binding.bind_ortvalue_output(name, value)
        self._results = list(self._outputs.values())

    def __call__(self, *arrays: Any) -> list[Any]:
        """Copy the inputs into their places and run.

        Args:
            *arrays: In the order of the model's inputs, without those that were given.

        Returns:
            The outputs that do not stay on the device; the next call overwrites them.
        """
        for buffer, array in zip(self._inputs.values(), arrays, strict=True):
            if np.shape(array) != buffer.shape:
                raise ValueError(
                    f"{self.model.name}: bound to {buffer.shape}, not {np.shape(array)}"
                )
            np.copyto(buffer, array, casting="same_kind")
        with self.model.turn:
            self.model.session.run_with_iobinding(self._binding)
        return self._results
