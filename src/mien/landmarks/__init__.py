"""Landmarks: a mesh of 478 points, fitted to every face, and networks of 68 or 106 points.

The mesh is what the whole swap hangs on and is always there. A network of fewer points, where one
is asked for, places the five points by which embedders and published generators align.

The mesh's points are MediaPipe's (Kartynnik et al., "Real-time facial surface geometry from
monocular video on mobile GPUs", 2019; with attention: Grishchenko et al., 2020): 468 of the
surface, then five for each iris.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mien import runtime, zoo
from mien.errors import ModelError
from mien.landmarks.mesh import (
    INNER_LIPS,
    LEFT_EYE,
    MARGIN,
    OUTER_LIPS,
    OVAL,
    PASSES,
    RIGHT_EYE,
    FaceMesh,
    eye_opening,
    five_points,
    mouth_opening,
    roll,
    upright,
    yaw,
)
from mien.landmarks.sparse import Fan68, Points106, Refined, peaks
from mien.types import Landmarks

__all__ = [
    "DEFAULT", "INNER_LIPS", "LEFT_EYE", "MARGIN", "OUTER_LIPS", "OVAL", "PASSES", "RIGHT_EYE",
    "SPARSE", "FaceMesh", "Fan68", "Points106", "Refined", "eye_opening", "five_points", "load",
    "mouth_opening", "peaks", "roll", "upright", "yaw",
]  # fmt: skip

DEFAULT: Final = "facemesh"
"""Card of the mesh that comes with mien."""

SPARSE: Final[Mapping[str, Callable[[zoo.ModelCard, runtime.Model], Landmarks]]] = MappingProxyType(
    {"2dfan4": Fan68, "2d106det": Points106}
)
"""The family on a card → the class that speaks to such networks of fewer points."""


def load(models: zoo.Zoo | None = None, name: str = DEFAULT) -> Landmarks:
    """A mesh network; or the default one, refined by a network of fewer points.

    Args:
        models: Where models come from and run.
        name: Of a card.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: It is no landmark network, or its file is damaged or another network.
        ProviderError: The provider is not there.
        Refused: Its licence is not allowed.
    """
    models = models or zoo.Zoo()
    card = models.find(name)
    if card.task != "landmarks" or card.family not in {"facemesh", *SPARSE}:
        raise ModelError(
            f"model {name!r}: expected landmarks of a family among facemesh, "
            f"{', '.join(SPARSE)}, came task {card.task}, family {card.family}"
        )
    card, model = models.open(card)
    if card.family == "facemesh":
        return FaceMesh(model, card)
    return Refined(load(models), SPARSE[card.family](card, model))
