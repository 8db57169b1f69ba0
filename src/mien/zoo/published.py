"""Published models that users may have, none of which comes with mien."""

from __future__ import annotations

from mien.zoo.card import ModelCard

PUBLISHED: tuple[ModelCard, ...] = ()
