"""Models on this machine: found by name, checked, and loaded onto a device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mien import runtime
from mien.errors import ModelError, ModelNotFound
from mien.zoo.card import ModelCard
from mien.zoo.published import PUBLISHED
from mien.zoo.shipped import SHIPPED

CARDS = (*SHIPPED, *PUBLISHED)
"""The models that mien knows by itself."""


@dataclass(frozen=True, slots=True)
class Zoo:
    """Where models come from and where they run; given to every stage's ``load``.

    Attributes:
        device: Where models run.
        cards: All that are known, by name.
    """

    device: runtime.Device = runtime.CPU
    cards: tuple[ModelCard, ...] = CARDS

    def find(self, name: str) -> ModelCard:
        """Look up a card by name.

        Raises:
            ModelNotFound: No card has that name.
        """
        for card in self.cards:
            if card.name == name:
                return card
        known = ", ".join(card.name for card in self.cards)
        raise ModelNotFound(f"no model is called {name!r}; known are {known}")

    def path(self, card: ModelCard) -> Path:
        """Where the file of a card is.

        Raises:
            ModelNotFound: It is not there.
        """
        file = Path(str(resources.files("mien").joinpath("models", card.file)))
        if not file.is_file():
            raise ModelNotFound(f"{file}: the file of model {card.name} is missing; reinstall mien")
        return file

    def open(self, model: str | ModelCard) -> tuple[ModelCard, runtime.Model]:
        """A model by name or card, checked and loaded onto the device.

        Raises:
            ModelNotFound: The model is unknown, or its file is not there.
            ModelError: The file is not the one that the card describes, or no graph.
            ProviderError: The device is not there.
        """
        card = self.find(model) if isinstance(model, str) else model
        return card, runtime.load(self.path(card), self.device, name=card.name)


def find(name: str) -> ModelCard:
    """Look up a card that mien knows by itself; see :meth:`Zoo.find`."""
    return Zoo().find(name)


def path(card: ModelCard) -> Path:
    """Where the file of a card is; see :meth:`Zoo.path`."""
    return Zoo().path(card)


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
