"""What an operator allows, in ``policy.toml``; and the one place where a use is permitted.

On a user's own machine the policy is a set of honest defaults, since who may change the file, or
the program, may do as he likes. Where others use a service of yours, it is enforced: they reach
neither. Every refusal names its rule and is written to the audit log.

The file is the first there of the system's (``/etc/mien/policy.toml``), the one that
``MIEN_POLICY`` names, and ``policy.toml`` in mien's folder. The system's comes first so that
a user's environment cannot replace it.
"""

from __future__ import annotations

from mien.policy.reading import FILE, SYSTEM, VARIABLE, find, load, permit
from mien.policy.rules import Policy, Run
from mien.policy.tables import AuditTable, ClassifierTable, DenyTable, MarksTable
from mien.policy.use import MARKS, Kind, Use, facts, user

__all__ = [
    "FILE",
    "MARKS",
    "SYSTEM",
    "VARIABLE",
    "AuditTable",
    "ClassifierTable",
    "DenyTable",
    "Kind",
    "MarksTable",
    "Policy",
    "Run",
    "Use",
    "facts",
    "find",
    "load",
    "permit",
    "user",
]
