"""Published models that users may have, none of which comes with mien.

The numbers are facts of how each network was trained, taken from its publisher's code. SHA-256
values are those of the very file behind the first source, and empty where nobody has published
one. ``commercial`` is true only where the publisher's licence allows it and neither a part of the
network nor its training data is known to be for non-commercial use; what is unknown counts as
forbidden. No model of a named person is listed.
"""

from __future__ import annotations

from mien.zoo.card import ModelCard
from mien.zoo.published.finding import DETECTORS, EMBEDDERS, LANDMARKS
from mien.zoo.published.finishing import ENHANCERS, MASKS, UPSCALERS
from mien.zoo.published.swapping import CONVERTERS, GENERATORS

PUBLISHED: tuple[ModelCard, ...] = (
    *DETECTORS, *LANDMARKS, *EMBEDDERS, *CONVERTERS, *GENERATORS, *ENHANCERS, *UPSCALERS, *MASKS,
)  # fmt: skip
