"""Where the faces are: a quick look for every frame and a thorough one for now and then.

Two networks share the work unless one is asked for by name. :class:`BlazeFace` costs 4 ms and
sees faces from about 15 % of the picture's longer side up to those that fill it.
:class:`CenterFace` sees small ones, at a price that grows with its input. :class:`Detector` joins
them.

Boxes follow one convention, that of the WIDER FACE data set: from the hairline to the chin and
from ear to ear, as far as visible. Points are in the order of :class:`mien.types.Face`, left and
right as seen by a viewer who holds the head upright: of a face that stands on its head, "left
eye" is the one on the picture's right, so that the direction from the first to the second point
always gives the head's tilt.

To add a family of networks, add a class with the constructor ``(card, model)`` and a line in
:data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mien import runtime, zoo
from mien.detect.blazeface import (
    CHIN,
    FOREHEAD,
    SIDES,
    BlazeFace,
    anchors,
    five_points,
    hairline_box,
)
from mien.detect.boxes import best_of, iou, nms, weighted_nms
from mien.detect.centerface import CenterFace
from mien.detect.detector import Detector
from mien.detect.feed import Network
from mien.detect.pictures import (
    Fit,
    Turn,
    letterbox,
    shrink,
    shrink_to,
    to_scale,
    turn,
    turn_back,
)
from mien.detect.scrfd import Scrfd
from mien.detect.yolo import Yolov5Face, Yolov8Face
from mien.detect.yunet import YuNet
from mien.errors import ModelError

__all__ = [
    "CHIN", "DEFAULT", "FAMILIES", "FOREHEAD", "SIDES", "BlazeFace", "CenterFace", "Detector",
    "Family", "Fit", "Network", "Scrfd", "Turn", "Yolov5Face", "Yolov8Face", "YuNet", "anchors",
    "best_of", "five_points", "hairline_box", "iou", "letterbox", "load", "nms", "shrink",
    "shrink_to", "to_scale", "turn", "turn_back", "weighted_nms",
]  # fmt: skip

Family = Callable[[zoo.ModelCard, runtime.Model], Network]

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "blazeface": BlazeFace,
        "centerface": CenterFace,
        "retinaface": Scrfd,
        "scrfd": Scrfd,
        "yolov5face": Yolov5Face,
        "yolov8face": Yolov8Face,
        "yunet": YuNet,
    }
)
"""The family on a card → the class that speaks to such networks."""

DEFAULT: Final = "mien"
"""Name of the pair that comes with mien."""


def load(
    models: zoo.Zoo | None = None,
    name: str = DEFAULT,
    families: Mapping[str, Family] = FAMILIES,
) -> Detector:
    """Load a detector.

    Args:
        models: Where models come from and run.
        name: ``mien`` for BlazeFace and CenterFace together, or the card of one network, which
            then serves both looks.
        families: Family → class; to try a class that :data:`FAMILIES` does not have.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: It is no detector, or its file is damaged or another network.
        ProviderError: The provider is not there.
        Refused: Its licence is not allowed.
    """
    models = models or zoo.Zoo()
    if name == DEFAULT:
        return Detector(
            BlazeFace(*models.open("blazeface_full")), CenterFace(*models.open("centerface"))
        )
    network = _network(models, name, families)
    return Detector(network, network)


def _network(models: zoo.Zoo, name: str, families: Mapping[str, Family]) -> Network:
    card = models.find(name)
    if card.task != "detect" or card.family not in families:
        raise ModelError(
            f"model {name!r}: expected a detector of a family among {', '.join(families)}, "
            f"came task {card.task}, family {card.family}"
        )
    return families[card.family](*models.open(card))
