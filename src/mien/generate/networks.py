"""One published generator's network: crops in, crops out, whatever its graph wants them to be.

What a card says about size, layout, channel order, mean and standard deviation of input and
output is applied here and nowhere else. Cards describe, ``docs/stages/published.md`` lists.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import runtime, zoo
from mien.errors import ModelError
from mien.types import Floats, Image
from mien.zoo import ModelCard, Swap, pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """Names of a graph's inputs.

    Attributes:
        target: The crop of the face that is replaced.
        source: Whose face to make; empty where the person is in the weights.
        morph: How much of that person, one number; empty for none.
    """

    target: str
    source: str = ""
    morph: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """Runs a generator on crops.

    Attributes:
        card: How it is fed and read.
        model: The graph.
        ports: Its inputs.
    """

    card: ModelCard
    model: runtime.Model
    ports: Ports

    @property
    def size(self) -> int:
        """Side of its crops in pixels."""
        return self.card.size

    @property
    def batched(self) -> bool:
        """Whether the graph takes any number of crops at once."""
        names = (self.ports.target, self.ports.source)
        return all(not isinstance(self.model.inputs[name][0], int) for name in names if name)

    def __call__(
        self, crops: Image, sources: Floats | None = None, *, morph: float = 1.0
    ) -> tuple[Image, Floats | None]:
        """Make faces, all in one run where the graph allows it.

        Args:
            crops: ``(N, size, size, 3)`` uint8 RGB.
            sources: ``(N, …)`` float32, as the graph wants them; None where it wants none.
            morph: 0..1, for graphs that ask for it.

        Returns:
            ``(N, size, size, 3)`` uint8 RGB, and ``(N, size, size)`` float32 0..1 where the
            network says the face is, if it does.

        Raises:
            ModelError: The graph gave something else than a picture for each crop.
        """
        fed = self._fed(crops)
        step = len(crops) if self.batched else 1
        images, masks = [], []
        for start in range(0, len(crops), step):
            part = slice(start, start + step)
            image, seen = self._run(fed[part], None if sources is None else sources[part], morph)
            images.append(image)
            masks += [] if seen is None else [seen]
        return np.concatenate(images), np.concatenate(masks) if masks else None

    def _fed(self, crops: Image) -> Floats:
        """Crops as the graph wants them."""
        weight = self.swap.sharpen
        if weight > 0:
            blurred = [cv2.GaussianBlur(crop, (0, 0), 2) for crop in crops]
            crops = np.stack(
                [
                    np.asarray(cv2.addWeighted(crop, 1 + weight, soft, -weight, 0), np.uint8)
                    for crop, soft in zip(crops, blurred, strict=True)
                ]
            )
        return pixels.to_input(crops, self.card)

    def _run(
        self, crops: Floats, sources: Floats | None, morph: float
    ) -> tuple[Image, Floats | None]:
        values: dict[str, Any] = {self.ports.target: crops}
        if self.ports.source:
            values[self.ports.source] = sources
        if self.ports.morph:
            values[self.ports.morph] = np.array([morph])
        types = self.model.types()
        answers = self.model(*(np.asarray(values[n], types[n]) for n in self.model.inputs))
        # Hyperswap gives a mask as well, of which nobody says what it means.
        seen = _mask(answers, len(crops), self.size) if self.swap.source == "none" else None
        return self._image(answers, len(crops)), seen

    def _image(self, answers: Sequence[NDArray[Any]], count: int) -> Image:
        """The picture among the outputs, 0..255 RGB."""
        planar = self.card.layout == "NCHW"
        side = (self.size, self.size)
        wanted = (count, 3, *side) if planar else (count, *side, 3)
        for answer in answers:
            if answer.shape == wanted:
                image = answer.transpose(0, 2, 3, 1) if planar else answer
                break
        else:
            raise ModelError(
                f"{self.model.name}: expected an output of shape {wanted}, got "
                f"{', '.join(str(a.shape) for a in answers)}"
            )
        image = image.astype(np.float32)
        image = image * np.array(self.swap.output_std, np.float32)
        image += np.array(self.swap.output_mean, np.float32)
        if self.card.order == "BGR":
            image = image[..., ::-1]
        if not np.isfinite(image).all():
            raise ModelError(
                f"{self.model.name}: the network gave values that are no numbers; "
                "use its fp32 weights"
            )
        return np.asarray(np.clip(image + np.float32(0.5), 0, 255), np.uint8)

    @property
    def swap(self) -> Swap:
        """The card's."""
        assert self.card.swap is not None
        return self.card.swap


def _mask(answers: Sequence[NDArray[Any]], count: int, size: int) -> Floats | None:
    """Where all outputs of one channel say that the face is; None without such outputs."""
    found = [a for a in answers if a.size == count * size * size]
    if not found:
        return None
    masks = [a.reshape(count, size, size).astype(np.float32) for a in found]
    return np.asarray(np.clip(np.minimum.reduce(masks), 0, 1), np.float32)


# --- Pixel boost --------------------------------------------------------------------------------


def parts(crop: Image, times: int) -> Image:
    """Every ``times``-th pixel of a crop, from each of the ``times``² places to begin at.

    Args:
        crop: ``(times · S, times · S, 3)``.
        times: Parts along each side.

    Returns:
        ``(times², S, S, 3)``, the polyphase parts.
    """
    size = crop.shape[0] // times
    split = crop.reshape(size, times, size, times, 3).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(split).reshape(times * times, size, size, 3)


def whole(images: NDArray[Any], times: int) -> NDArray[Any]:
    """The crop of which :func:`parts` makes these; ``(times², S, S, …)``."""
    size = images.shape[1]
    rest = images.shape[3:]
    split = images.reshape(times, times, size, size, *rest)
    axes = (2, 0, 3, 1, *range(4, 4 + len(rest)))
    return np.ascontiguousarray(split.transpose(axes)).reshape(times * size, times * size, *rest)


# --- Loading ------------------------------------------------------------------------------------


def load(card: ModelCard, models: zoo.Zoo, *, many: bool = False) -> Network:
    """Open a generator's graph and find its inputs.

    Args:
        card: With ``swap``.
        models: Where it comes from and runs.
        many: It will be run on many crops at once, if that can be had.

    Raises:
        ModelNotFound: The file is not there.
        ModelError: The graph does not keep the card's contract.
        ProviderError: The provider is not there.
    """
    _, model = models.open(card)
    network = Network(card, model, _ports(card, model))
    if many and not network.batched:
        return _freed(network, models)
    return network


def _ports(card: ModelCard, model: runtime.Model) -> Ports:
    """Inputs by name where they have the usual ones, else by their number of axes."""
    assert card.swap is not None
    kind = card.swap.source
    left = dict(model.inputs)
    named = {name: name for name in ("target", "source") if name in left}
    pictures = [name for name, shape in left.items() if len(shape) == 4]
    vectors = [name for name, shape in left.items() if len(shape) == 2]
    numbers = [name for name, shape in left.items() if len(shape) <= 1]
    found: tuple[str, ...]
    if kind == "none" and len(pictures) == 1 and len(left) == 1 + len(numbers) <= 2:
        return Ports(pictures[0], morph=numbers[0] if numbers else "")
    if kind == "embedding" and len(pictures) == len(vectors) == 1 and len(left) == 2:
        return Ports(pictures[0], vectors[0])
    if kind == "image" and len(pictures) == len(left) == 2:
        found = tuple(named)
        if len(found) == 2:
            return Ports("target", "source")
        own = card.swap.source_size
        small = [n for n in pictures if own in left[n][1:] and card.size not in left[n][1:]]
        if len(small) == 1:
            (target,) = set(pictures) - set(small)
            return Ports(target, small[0])
    wanted = {
        "none": "one picture, and at most one number",
        "embedding": "one picture and one vector",
        "image": "two pictures named target and source",
    }[kind]
    came = ", ".join(f"{name} {list(shape)}" for name, shape in left.items())
    raise ModelError(f"{model.name}: expected a graph that takes {wanted}; it takes {came}")


def _freed(network: Network, models: zoo.Zoo) -> Network:
    """The same graph with a free first dimension, if it computes the same then.

    Published graphs were mostly exported for one crop, though nothing in their layers asks for
    that. Whether something does is tried: two crops at once must come out as they do alone.
    """
    card, model = network.card, network.model
    path = models.path(card)
    try:
        data = free_batch(path.read_bytes())
        with tempfile.TemporaryDirectory(prefix="mien-") as folder:
            copy = Path(folder) / path.name
            copy.write_bytes(data)
            del data
            freed = replace(network, model=runtime.load(copy, models.device, name=model.name))
        if not freed.batched or not _alike(network, freed):
            raise ModelError("its answers change")
    except Exception as error:  # whatever ONNX Runtime says of a graph that cannot do it
        log.info(
            "%s: takes one crop a run, so crops go through one after the other (%s)",
            model.name, str(error).splitlines()[0],
        )  # fmt: skip
        return network
    return freed


def _alike(one: Network, many: Network) -> bool:
    """Whether two crops in a batch come out as the second does alone."""
    rng = np.random.default_rng(0)
    values = {
        name: rng.random((2, *(d if isinstance(d, int) else one.size for d in shape[1:])))
        for name, shape in one.model.inputs.items()
        if shape
    }
    values |= {name: np.ones(1) for name in (one.ports.morph,) if name}

    def run(network: Network, part: slice) -> list[NDArray[Any]]:
        types = network.model.types()
        cut = {n: v if n == network.ports.morph else v[part] for n, v in values.items()}
        answers = network.model(*(cut[n].astype(types[n]) for n in network.model.inputs))
        return [np.asarray(a, np.float32) for a in answers]

    alone, both = run(one, slice(1, 2)), run(many, slice(0, 2))
    return all(
        b.shape == (2, *a.shape[1:]) and np.allclose(a[0], b[1], rtol=1e-2, atol=2e-3)
        for a, b in zip(alone, both, strict=True)
    )


def free_batch(model: bytes) -> bytes:
    """An ONNX file whose inputs and outputs of more than one axis have a free first dimension.

    Done on the bytes, so that it needs no package for ONNX: a dimension of 1 is stored as the
    two bytes of ``dim_value: 1`` and becomes ``denotation: ""``, two bytes that say nothing. So
    no length changes.

    Args:
        model: A serialised ``ModelProto``.

    Raises:
        ValueError: It is none.
    """
    out = bytearray(model)
    view = memoryview(model)
    for graph in _within([(0, len(view))], view, 7):
        for value in _within([graph], view, 11, 12):
            # ValueInfoProto.type → tensor_type → shape → dim
            shapes = _within(_within(_within([value], view, 2), view, 1), view, 2)
            dims = _within(shapes, view, 1)
            if len(dims) > 1 and bytes(view[slice(*dims[0])]) == b"\x08\x01":
                out[slice(*dims[0])] = b"\x1a\x00"
    return bytes(out)


Span = tuple[int, int]


def _within(spans: Sequence[Span], view: memoryview, *numbers: int) -> list[Span]:
    """Where the length-delimited fields with these numbers lie in protobuf messages."""
    found = []
    for start, end in spans:
        at = start
        while at < end:
            key, at = _varint(view, at, end)
            kind = key & 7
            if kind == 0:
                _, at = _varint(view, at, end)
                continue
            size, at = _varint(view, at, end) if kind == 2 else ({1: 8, 5: 4}.get(kind, end), at)
            if at + size > end:
                raise ValueError(f"no ONNX file: field {key >> 3} ends beyond its message")
            if kind == 2 and key >> 3 in numbers:
                found.append((at, at + size))
            at += size
    return found


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = view[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("no ONNX file: a number does not end")
