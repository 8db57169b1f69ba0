"""Generators: from a frame, its faces and the identities chosen for them to patches."""

from __future__ import annotations

from typing import Final

from mien import zoo
from mien.errors import ModelNotFound, UsageError
from mien.generate import relight, swapping
from mien.generate.light import (
    Detail,
    apply,
    detail,
    even_light,
    light,
    match_contrast,
    match_sharpness,
    raise_to,
    shrink,
)
from mien.generate.mesh import MeshGenerator, Paint, only_skin, prepare, warp
from mien.types import Generate

__all__ = [
    "GENERATORS", "Detail", "MeshGenerator", "Paint", "apply", "detail", "even_light", "light",
    "load", "match_contrast", "match_sharpness", "only_skin", "prepare", "raise_to", "relight",
    "shrink", "warp",
]  # fmt: skip

GENERATORS: Final = ("relight", "mesh", "warp")
"""What comes with mien; models of the task ``generate`` that the user has are others."""


def load(name: str, models: zoo.Zoo | None = None) -> Generate:
    """The generator of that name.

    Args:
        name: One of :data:`GENERATORS` or the card of a published generator; options may follow,
            ``relight:shape=0.3,eyes=target`` or ``inswapper_128:strength=0.8,boost=512``.
        models: Where networks come from and run.

    Raises:
        ModelNotFound: Names the generators that are known; or the file of one is not there.
        UsageError: An option is unknown or out of range, or the model is no generator.
        ModelError: A file does not keep its card's contract.
        ProviderError: The provider is not there.
    """
    models = models or zoo.Zoo()
    kind, _, options = name.partition(":")
    if options and kind in ("mesh", "warp"):
        raise UsageError(f"generator {name!r}: {kind} takes no options")
    if kind == "relight":
        return relight.load(options, models)
    if kind == "mesh":
        return MeshGenerator()
    if kind == "warp":
        return MeshGenerator(relight=False)
    card = next((card for card in models.cards if card.name == kind), None)
    published = [c.name for c in models.cards if c.task == "generate" and c.family != "relight"]
    if card is None:
        raise ModelNotFound(
            f"generator {kind!r} is unknown; known are {', '.join([*GENERATORS, *published])}"
        )
    if kind not in published:
        what = "a network of relight" if card.family == "relight" else f"a model for {card.task}"
        raise UsageError(f"generator {kind!r}: is {what}, not a generator")
    return swapping.load(card, options, models)
