"""What can be changed in the picture while the engine runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Final

from mien.errors import Refused, UsageError
from mien.identity import Watch
from mien.live.show import Look
from mien.types import Identity, Rule, Which

log = logging.getLogger(__name__)


def standing(look: Look, watch: Watch) -> tuple[Look, list[Identity]]:
    """A look without those whose consent has ended, and who that is.

    Args:
        look: What is to be seen.
        watch: Says whose consent has ended.

    Raises:
        Refused: Nobody would be left to be shown.
    """
    ended: list[Identity] = []
    for rule in look.plan.rules:
        why = watch.objection(rule.identity.consent, "live")
        if not why or rule.identity in ended:
            continue
        ended.append(rule.identity)
        if all(r.identity in ended for r in look.plan.rules):
            raise Refused(f"{rule.identity.name}: {why}; nobody is left who may be shown")
        log.warning("%s: %s; this face is not shown any more", rule.identity.name, why)
    if not ended:
        return look, ended
    rules = tuple(rule for rule in look.plan.rules if rule.identity not in ended)
    return replace(look, plan=replace(look.plan, rules=rules)), ended


def changed(look: Look, key: str, value: Any) -> Look:
    """A look with one thing changed, see :meth:`Engine.change`.

    Raises:
        UsageError: No such key, or no such value.
    """
    if key == "identity" and isinstance(value, Identity):
        rules = tuple(replace(rule, identity=value) for rule in look.plan.rules)
        marker = look.marker.changed(consent=value.consent)
        return replace(look, plan=replace(look.plan, rules=rules), marker=marker)
    if key == "faces" and _is_choice(value):
        rules = tuple(Rule(r.identity, value, r.reference) for r in look.plan.rules)
        return replace(look, plan=replace(look.plan, rules=rules))
    if key == "strength" and not isinstance(value, bool) and isinstance(value, int | float):
        if 0 <= value <= 1:
            return replace(look, strength=float(value))
    elif key in ("mask", "paused") and isinstance(value, bool):
        return replace(look, masks=value) if key == "mask" else replace(look, paused=value)
    elif key == "on_miss" and value in ("pass", "hold", "blur", "card"):
        return replace(look, on_miss=value)
    elif key == "mark" and isinstance(value, str) and len(value) <= 60:
        marks = replace(look.marker.marks, words=" ".join(value.split()))
        return replace(look, marker=look.marker.changed(marks=marks))
    if key not in KEYS:
        raise UsageError(f"there is no {key!r} to change; known are {', '.join(KEYS)}")
    raise UsageError(f"{key}: expected {KEYS[key]}, came {value!r}")


KEYS: Final = {
    "identity": "an identity",
    "faces": "all, largest, left, right or a number from 1",
    "strength": "a number from 0 to 1",
    "mask": "true or false",
    "mark": "at most 60 letters",
    "on_miss": "pass, hold, blur or card",
    "paused": "true or false",
}
"""What can be changed while the engine runs, and to what."""


def _is_choice(value: Which | int | object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return value > 0
    return value in ("all", "largest", "left", "right")
