"""What is known about one file of weights, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Triple = tuple[float, float, float]
Template = tuple[tuple[float, float], ...]

Task = Literal[
    "detect", "landmarks", "embed", "convert", "occlude", "segment", "generate", "enhance",
    "upscale", "other",
]  # fmt: skip
TASKS: tuple[str, ...] = get_args(Task)

Precision = Literal["fp32", "fp16", "int8"]

ZERO: Triple = (0.0, 0.0, 0.0)
ONE: Triple = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Swap:
    """How a published generator is told whose face to make, and how its answer is read.

    Attributes:
        source: ``embedding`` of the person, an aligned ``image`` of the face, or ``none`` where
            the person is in the weights.
        recogniser: Card of the embedder whose vector is meant.
        converter: Card of the network that turns that vector into the generator's own; ``emap``
            for the square matrix in the graph's last initialiser; empty for none.
        normalise: The (converted) vector is brought to unit length.
        source_size: Side of the source image in pixels.
        source_mean: For each channel; the source image is ``(pixel 0..255 - mean) / std``.
        source_std: For each channel.
        source_template: Five points in pixels of the source image.
        output_mean: For each channel; a pixel 0..255 is ``output * output_std + output_mean``.
        output_std: For each channel.
        offset: Added to x and y of the template, in pixels of the input.
        sharpen: Weight of the unsharp mask on the input: ``(1 + w)·x - w·blurred(x)``, σ 2.
        boost: The graph may be run on the polyphase parts of a larger crop (pixel boost).
    """

    source: Literal["embedding", "image", "none"] = "embedding"
    recogniser: str = ""
    converter: str = ""
    normalise: bool = True
    source_size: int = 0
    source_mean: Triple = ZERO
    source_std: Triple = (255.0, 255.0, 255.0)
    source_template: Template = ()
    output_mean: Triple = ZERO
    output_std: Triple = (255.0, 255.0, 255.0)
    offset: float = 0.0
    sharpen: float = 0.0
    boost: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All that is known about one file of weights.

    Attributes:
        name: What it is called on the command line and in reports.
        task: The stage it serves.
        family: The architecture, which decides the class that runs it.
        file: Name of the file.
        sources: URLs it may be fetched from, best first; a path on this machine for a user's own.
        origin: Who published it, or how it was made.
        sha256: Of the file, in hexadecimal; empty where nobody has published it.
        bytes: Size of the file; 0 where it is not known.
        licence: SPDX expression for the weights, or the words their publisher uses.
        commercial: Whether that licence allows commercial use.
        shipped: The file is part of mien's wheel.
        size: Side of the square input in pixels; 0 if it is free (``multiple`` of which it is).
        multiple: Sides must be multiples of this.
        layout: Order of the input's axes.
        order: Order of the channels of the input.
        mean: For each channel; the input is ``(pixel 0..255 - mean) / std``, float32.
        std: For each channel.
        outputs: Name → shape for one image, without the batch dimension; empty if not fixed.
        template: Five points ``(x, y)`` in pixels of the input onto which a face's points are
            fitted; empty if the stage crops in another way.
        threshold: Score from which a result counts, or cosine from which two faces are one
            person's with one false match in a thousand; see MODELS.md.
        scale: Pixels of the output to one of the input, of an upscaler.
        swap: For generators that make a whole crop from an identity.
        precision: Of weights and arithmetic.
        full: Name of the fp32 model that this one was made from; empty if it is the original.
    """

    name: str
    task: Task
    family: str
    file: str
    licence: str
    commercial: bool
    size: int
    mean: Triple = ZERO
    std: Triple = ONE
    sources: tuple[str, ...] = ()
    origin: str = ""
    sha256: str = ""
    bytes: int = 0
    shipped: bool = False
    outputs: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    multiple: int = 1
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    order: Literal["RGB", "BGR"] = "RGB"
    template: Template = ()
    threshold: float = 0.5
    scale: int = 1
    swap: Swap | None = None
    precision: Precision = "fp32"
    full: str = ""
