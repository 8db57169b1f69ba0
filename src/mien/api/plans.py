"""What a plan says of people, consent and use."""

from __future__ import annotations

from typing import Any

from mien import policy
from mien.pipeline import Report
from mien.provenance import Marker
from mien.types import Consent, Identity, Rule, SwapPlan


def plan_of(who: Identity | SwapPlan) -> SwapPlan:
    """A plan that puts one identity on all, or the plan that was given."""
    return who if isinstance(who, SwapPlan) else SwapPlan((Rule(who),))


def people_of(plan: SwapPlan) -> list[Identity]:
    """Whose faces."""
    return [rule.identity for rule in plan.rules]


def use_of(kind: policy.Kind, marker: Marker) -> policy.Use:
    """What the policy is asked about."""
    return policy.Use(kind, target_consent=marker.target_consent, marks=marker.marks)


def made_of(report: Report, marker: Marker) -> dict[str, Any]:
    """What the audit log says of a run that made something."""
    return {**marker.account, "frames": report.frames_out, "swapped": report.swapped}


def by_person(plan: SwapPlan, *, still: bool = True) -> bool:
    """Whether the plan needs to know who is who; a number in a still is a place."""
    return any(
        r.reference is not None or (isinstance(r.which, int) and not still) for r in plan.rules
    )


def consent_to(plan: SwapPlan) -> Consent:
    """What the use of all portraits of a plan rests on."""
    each = [r.identity.consent for r in plan.rules]
    bases = dict.fromkeys(c.basis for c in each)
    notes = dict.fromkeys(c.note for c in each if c.note)
    return Consent(", ".join(bases), "; ".join(notes))
