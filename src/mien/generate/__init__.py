"""Generators: from a frame, its faces and the identities chosen for them to patches."""

from __future__ import annotations

from typing import Final

from mien import zoo
from mien.errors import ModelNotFound, UsageError
from mien.generate import relight
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


def load(name: str, models: zoo.Zoo | None = None) -> Generate:
    """The generator of that name.

    Args:
        name: One of :data:`GENERATORS`; options may follow, ``relight:shape=0.3,eyes=target``.
        models: Where networks come from and run.

    Raises:
        ModelNotFound: Names those that exist.
        UsageError: An option is unknown or out of range.
        ProviderError: The provider is not there.
    """
    kind, _, options = name.partition(":")
    if options and kind != "relight":
        raise UsageError(f"generator {name!r}: only relight takes options")
    if kind == "relight":
        return relight.load(options, models)
    if kind == "mesh":
        return MeshGenerator()
    if kind == "warp":
        return MeshGenerator(relight=False)
    raise ModelNotFound(f"generator {kind!r} is unknown; known are {', '.join(GENERATORS)}")
