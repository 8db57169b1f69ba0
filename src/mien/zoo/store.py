"""Models on this machine: found by name, checked, and loaded onto a device."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from mien import runtime
from mien.errors import ModelError, ModelNotFound, Refused, UsageError
from mien.precision import guarded
from mien.zoo import contract, own, pins
from mien.zoo.card import ModelCard, Precision
from mien.zoo.folder import default_folder
from mien.zoo.published import PUBLISHED
from mien.zoo.shipped import SHIPPED

CARDS = (*SHIPPED, *PUBLISHED)
"""The models that mien knows by itself."""

State = Literal["shipped", "present", "missing", "pattern"]


@dataclass(frozen=True, slots=True)
class Zoo:
    """Where models come from and where they run; given to every stage's ``load``.

    Opening a model never uses the network: what is not there is fetched with :func:`pull`.

    Attributes:
        device: Where models run.
        cards: All that are known, by name.
        folder: Of models that do not come with mien, of their pins and of users' own cards.
        offline: Nothing may be fetched.
        commercial: Models whose licence forbids commercial use, or is unknown, are refused.
        precision: In which models are opened, where there is one; ``auto`` for the one that was
            measured to be quicker and as good. See :meth:`choose`.
    """

    device: runtime.Device = runtime.CPU
    cards: tuple[ModelCard, ...] = CARDS
    folder: Path = field(default_factory=default_folder)
    offline: bool = False
    commercial: bool = False
    precision: Precision | Literal["auto"] = "auto"

    @classmethod
    def at(
        cls,
        folder: Path | str | None = None,
        device: runtime.Device = runtime.CPU,
        *,
        offline: bool = False,
        commercial: bool = False,
        precision: Precision | Literal["auto"] = "auto",
    ) -> Zoo:
        """The zoo of a folder, with the cards that its user added.

        Args:
            folder: None takes the system's usual one, see :func:`default_folder`.
            device: Where models run.
            offline: Nothing may be fetched.
            commercial: Refuse models that forbid commercial use.
            precision: In which models are opened, where there is one.

        Raises:
            ModelError: A card in the folder is wrong.
        """
        folder = (Path(folder).expanduser() if folder else default_folder()).absolute()
        cards = (*CARDS, *own.cards_of(folder, CARDS))
        return cls(device, cards, folder, offline, commercial, precision)

    def find(self, name: str) -> ModelCard:
        """Look up a card by name.

        Raises:
            ModelNotFound: No card has that name.
        """
        for card in self.cards:
            if card.name == name:
                return card
        close = difflib.get_close_matches(name, [card.name for card in self.cards], 3)
        if close:
            meant = f"did you mean {' or '.join(close)}?"
        else:
            meant = f"known are {', '.join(c.name for c in self.cards if c.shipped)} and others:"
        raise ModelNotFound(f"no model is called {name!r}; {meant} 'mien models list' shows all")

    def choose(self, model: str | ModelCard) -> ModelCard:
        """The card that is opened for a model: in the zoo's precision where there is one.

        What is there comes before what would have to be fetched, and a user's own before others. A
        model that was named in another precision than fp32 is what it is. ``auto`` takes the int8
        models that come with mien where the processor multiplies int8 by itself, since those were
        measured to be as good.

        Raises:
            ModelNotFound: No card has that name.
        """
        card = self.find(model) if isinstance(model, str) else model
        if self.precision == "fp32" or card.precision != "fp32":
            return card
        versions = [c for c in self.cards if c.full == card.name]
        if self.precision == "auto":
            quick = self.device.names() == ("cpu",) and runtime.int8_is_quick()
            shipped = [c for c in versions if c.shipped and c.precision == "int8"]
            return shipped[0] if quick and shipped else card
        made = [c for c in versions if c.precision == self.precision]
        known = {c.name for c in CARDS}
        return min(made, key=lambda c: (self.state(c) == "missing", c.name in known), default=card)

    def chosen(self, names: Iterable[str]) -> list[str]:
        """What :meth:`choose` gives for names; what has no card stays as it is.

        Raises:
            UsageError: A precision was asked for, and none of them has it.
        """
        known = {card.name for card in self.cards}
        cards = {name: self.choose(name) for name in names if name in known}
        if self.precision not in ("auto", "fp32") and self.precision not in {
            card.precision for card in cards.values()
        }:
            raise UsageError(
                f"--precision {self.precision}: none of {', '.join(cards)} is there in it; "
                "make one with 'mien models quantize NAME "
                f"--to {self.precision} --calibrate FOLDER'"
            )
        return [cards[name].name if name in cards else name for name in names]

    def locate(self, card: ModelCard) -> Path:
        """Where the file of a card is, or would be.

        Raises:
            ModelNotFound: The card is a pattern for others and has no file.
        """
        if card.shipped:
            return Path(str(resources.files("mien").joinpath("models", card.file)))
        if not card.file:
            raise ModelNotFound(
                f"{card.name} is a pattern and no model: add a file of your own with "
                f"'mien models add FILE --like {card.name} --name NAME'"
            )
        return self.folder / card.file  # a full path stays what it is

    def state(self, card: ModelCard) -> State:
        """Whether the file of a card is there; says nothing of what is in it."""
        if not card.file:
            return "pattern"
        if not self.locate(card).is_file():
            return "missing"
        return "shipped" if card.shipped else "present"

    def path(self, card: ModelCard) -> Path:
        """Where the file of a card is; it is the one that the card describes.

        Raises:
            ModelNotFound: It is not there; the message says how to get it.
            ModelError: It is another file.
            Refused: Its licence forbids what the zoo is for.
        """
        self.allow(card)
        return self._checked(card, fresh=False)

    def verify(self, card: ModelCard) -> Path:
        """Hash the file of a card anew, whatever is remembered of it, and return where it is.

        Raises:
            ModelNotFound: The file is missing.
            ModelError: The file is not the one that the card describes.
        """
        return self._checked(card, fresh=True)

    def open(self, model: str | ModelCard) -> tuple[ModelCard, runtime.Model]:
        """A model by name or card, checked and loaded onto the device.

        It may come in the zoo's precision, see :meth:`choose`. One in fp16 has its fp32 original
        behind it, see :func:`mien.precision.guarded`.

        Raises:
            ModelNotFound: The model is unknown, or its file is not there.
            ModelError: The file is not the one that the card describes, no graph, or a graph of
                another kind.
            Refused: Its licence forbids what the zoo is for.
            ProviderError: The device is not there.
        """
        card = self.choose(model)
        loaded = runtime.load(self.path(card), self.device, name=card.name)
        contract.check(card, loaded)
        if card.precision == "fp16" and card.full:
            full = self.find(card.full)
            loaded = guarded(
                loaded,
                lambda: runtime.load(self.path(full), self.device, name=full.name),
                faces=card.task in ("generate", "enhance"),
            )
        return card, loaded

    def allow(self, card: ModelCard) -> None:
        """See whether a model may be used.

        Raises:
            Refused: Its licence forbids commercial use, and the zoo is for that.
        """
        if self.commercial and not card.commercial:
            raise Refused(
                f"model {card.name} may not be used commercially (licence: {card.licence}), and "
                'the settings say licence = "commercial"'
            )

    def _checked(self, card: ModelCard, *, fresh: bool) -> Path:
        file = self.locate(card)
        if not file.is_file():
            raise ModelNotFound(self._missing(card, file))
        if card.shipped:  # small enough to be hashed each time
            found = pins.digest(file)
            if found != card.sha256:
                raise ModelError(
                    f"{file}: expected SHA-256 {card.sha256}, came {found}; reinstall mien"
                )
            return file
        names = {known.sha256: known.name for known in self.cards if known.sha256}
        pins.check(card, file, self.folder, fresh=fresh, names=names)
        return file

    def _missing(self, card: ModelCard, file: Path) -> str:
        if card.shipped:
            return f"{file}: the file of model {card.name} is missing; reinstall mien"
        if not card.sources:
            return f"{file}: the file of model {card.name} is not there, and mien knows no source"
        if self.offline:
            hashed = f" (SHA-256 {card.sha256})" if card.sha256 else ""
            return (
                f"model {card.name} is not there, and mien is offline: put its file{hashed} at "
                f"{file}; it is published at {card.sources[0]}"
            )
        return (
            f"model {card.name} is not there; get it with 'mien models pull {card.name}', "
            f"or put its file at {file}"
        )


def find(name: str) -> ModelCard:
    """Look up a card that mien knows by itself; see :meth:`Zoo.find`."""
    return Zoo().find(name)


def path(card: ModelCard) -> Path:
    """Where the file of a card is; see :meth:`Zoo.path`."""
    return Zoo().path(card)


def verify(card: ModelCard) -> Path:
    """Check the file of a card against its SHA-256; see :meth:`Zoo.verify`."""
    return Zoo().verify(card)
