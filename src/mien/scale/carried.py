"""What goes to a worker: words, numbers and arrays, and what is made of them there.

No class of mien is pickled, so a worker never runs what a driver of another version meant; and
what a worker has no need for stays where it is: names of consent records, the audit log, the
certificate, classifiers (which saw the footage when its faces were followed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien import deny, media, parts, policy
from mien.provenance import Marker, Marks
from mien.types import Consent, Identity, Portrait, Rule, SwapPlan

Words = dict[str, Any]
"""Of text, numbers, lists, dictionaries and NumPy arrays alone."""

KEPT_BACK: Final = {"audit", "classifier", "credentials", "deny", "where", "sha256"}
"""Of a policy."""


def of_plan(plan: SwapPlan) -> Words:
    """A plan; the records of consents stay behind, as a worker cannot look them up."""
    return {
        "rules": [
            {
                "name": rule.identity.name,
                "embedding": rule.identity.embedding,
                "portraits": [(p.image, p.mesh) for p in rule.identity.portraits],
                "consent": asdict(replace(rule.identity.consent, record="")),
                "which": rule.which,
                "reference": rule.reference,
            }
            for rule in plan.rules
        ],
        "blend": plan.blend,
        "color": plan.color,
        "similarity": plan.similarity,
    }


def to_plan(said: Mapping[str, Any]) -> SwapPlan:
    """What :func:`of_plan` was given. Arrays are copied, as Ray's may not be written to."""
    rules = [
        Rule(
            Identity(
                one["name"],
                np.array(one["embedding"]),
                tuple(Portrait(np.array(i), np.array(m)) for i, m in one["portraits"]),
                _consent(one["consent"]),
            ),
            one["which"],
            None if one["reference"] is None else np.array(one["reference"]),
        )
        for one in said["rules"]
    ]
    return SwapPlan(tuple(rules), said["blend"], said["color"], said["similarity"])


def of_marker(marker: Marker) -> Words:
    """All that a marker says."""
    about = marker.target_consent
    return {
        "marks": asdict(marker.marks),
        "consent": asdict(replace(marker.consent, record="")),
        "target_consent": None if about is None else asdict(about),
        "output_id": marker.output_id,
    }


def to_marker(said: Mapping[str, Any]) -> Marker:
    """A new marker that says the same."""
    about = said["target_consent"]
    return Marker(
        Marks(**said["marks"]),
        consent=_consent(said["consent"]),
        target_consent=None if about is None else _consent(about),
        output_id=said["output_id"],
    )


def of_policy(rules: policy.Policy, user: str) -> Words:
    """What a worker has to see to: the rules, and who must not be replaced.

    Args:
        rules: In force where the job was begun.
        user: Who asked there.
    """
    return {
        "rules": rules.model_dump(mode="json", exclude=KEPT_BACK),
        "where": rules.where,
        "user": user,
        "threshold": rules.deny.threshold,
        "denied": [(e.id, e.embedding) for e in rules.denied.entries if e.covers("target")],
    }


def to_policy(said: Mapping[str, Any]) -> policy.Policy:
    """The policy without its log: what a worker refuses is written down where it was asked."""
    rules = policy.Policy(**said["rules"], where=said["where"], audit=policy.AuditTable(on=False))
    listed = tuple(deny.Entry(id_, "target", np.array(vector)) for id_, vector in said["denied"])
    vars(rules)["denied"] = deny.DenyList(listed, said["threshold"])  # in place of this machine's
    return rules


def of_job(job: parts.Job) -> Words:
    """A job, but for its folder."""
    return {
        "target": job.target.name,
        "start": None if job.start is None else str(job.start),
        "end": None if job.end is None else str(job.end),
        "time_base": str(job.time_base),
        "cuts": list(job.cuts),
        "output_id": job.output_id,
    }


def to_job(said: Mapping[str, Any], folder: Path, target: Path) -> parts.Job:
    """The job in another folder, of which the target is there."""
    start, end = said["start"], said["end"]
    return parts.Job(
        folder,
        target,
        None if start is None else Fraction(start),
        None if end is None else Fraction(end),
        Fraction(said["time_base"]),
        tuple(said["cuts"]),
        said["output_id"],
    )


def to_options(said: Mapping[str, Any]) -> media.SinkOptions:
    """What ``dataclasses.asdict`` was given."""
    return media.SinkOptions(**said)


def _consent(said: Mapping[str, Any]) -> Consent:
    return Consent(**{**said, "scope": tuple(said["scope"])})
