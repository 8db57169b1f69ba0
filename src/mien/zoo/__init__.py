"""Which models mien knows: where each comes from, what may be done with it, how it is fed and read.

A card is data; the code that speaks to a family of networks is in the file of its stage. To add
weights for a known family, add a card.
"""

from __future__ import annotations

from mien.zoo.adding import add, remove
from mien.zoo.card import ModelCard, Swap
from mien.zoo.folder import default_folder
from mien.zoo.pins import pinned
from mien.zoo.shipped import SHIPPED
from mien.zoo.store import CARDS, Zoo, find, path, verify
from mien.zoo.templates import TEMPLATES, scaled

__all__ = [
    "CARDS", "SHIPPED", "TEMPLATES", "ModelCard", "Swap", "Zoo", "add", "default_folder", "find",
    "path", "pinned", "remove", "scaled", "verify",
]  # fmt: skip
