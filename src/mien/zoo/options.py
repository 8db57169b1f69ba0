"""What is said behind a model's name on the command line: ``gfpgan_1.4:amount=0.8,faces=all``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mien.errors import UsageError


class Number(NamedTuple):
    """An option that is a number in a range, both ends included."""

    low: float
    high: float


Kind = Number | tuple[str, ...] | frozenset[str]
"""A number, one of several words, or several words joined by ``+``."""


def split(text: str, known: Mapping[str, Kind]) -> tuple[str, dict[str, Any]]:
    """The name, and the options as numbers, words and tuples of words.

    Args:
        text: ``name`` or ``name:key=value,key=value``.
        known: Key → what its value may be.

    Raises:
        UsageError: Names the option and what it may be.
    """
    name, _, options = text.partition(":")
    chosen: dict[str, Any] = {}
    for pair in filter(None, options.split(",")):
        key, equals, value = pair.partition("=")
        if key not in known:
            raise UsageError(f"{name}: no option {key!r}; known are {', '.join(known) or 'none'}")
        if not equals or not value:
            raise UsageError(f"{name}: expected {key}=VALUE, came {pair!r}")
        chosen[key] = _value(name, key, value, known[key])
    return name, chosen


def _value(name: str, key: str, value: str, kind: Kind) -> Any:
    if isinstance(kind, Number):
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not kind.low <= number <= kind.high:
            raise UsageError(
                f"{name}: {key} must be from {kind.low:g} to {kind.high:g}, came {value!r}"
            )
        return number
    words = value.split("+") if isinstance(kind, frozenset) else [value]
    for word in words:
        if word not in kind:
            listed = ", ".join(sorted(kind) if isinstance(kind, frozenset) else kind)
            raise UsageError(f"{name}: {key} knows no {word!r}; known are {listed}")
    return tuple(words) if isinstance(kind, frozenset) else value
