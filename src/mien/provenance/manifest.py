"""What a manifest of content credentials says, written and read back."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mien import __version__
from mien.provenance.marker import DIGITAL_SOURCE_TYPE, Marker
from mien.types import Identity

ASSERTION: Final = "mien.output"
"""Label of what mien says of an output besides what C2PA has words for."""

WATERMARK: Final = "mien.watermark.1"
"""What the manifest calls mien's watermark (``alg`` of a soft binding)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a manifest says of its file.

    Attributes:
        output_id: Hexadecimal, as in the watermark.
        consent: Basis for the use of the portraits.
        target_consent: The same for the person replaced; empty if unsaid.
        label: Whether the file carries the visible label.
        watermark: Whether it carries the watermark.
        target: SHA-256 of the file that was changed, in hexadecimal; empty for a camera.
        portraits: SHA-256 of each identity's portraits.
        models: Name and SHA-256 of every model that was used.
    """

    output_id: str
    consent: str
    target_consent: str = ""
    label: bool = True
    watermark: bool = True
    target: str = ""
    portraits: tuple[str, ...] = ()
    models: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was found of content credentials.

    Attributes:
        state: ``absent``; ``broken``: file or manifest were changed; ``valid``: both are as they
            were when they were signed, by whomever; ``trusted``: and the signer is known.
        reason: Why it is broken, or what came instead.
        where: ``embedded``, ``beside`` (a sidecar), or empty.
        signer: Name on the certificate, as its holder wrote it.
        known: Who the signer is: ``here`` (this machine's own certificate), ``operator`` (of
            ``authorities``), or empty.
        generator: The program that made the manifest.
        synthetic: It says that trained models made the file or a part of it.
        facts: What mien says of the file; None where it is no manifest of mien.
    """

    state: Literal["absent", "broken", "valid", "trusted"]
    reason: str = ""
    where: Literal["", "embedded", "beside"] = ""
    signer: str = ""
    known: Literal["", "here", "operator"] = ""
    generator: str = ""
    synthetic: bool = False
    facts: Facts | None = None


ABSENT: Final = Manifest("absent")


def facts_of(
    marker: Marker,
    identities: Iterable[Identity] = (),
    models: Iterable[tuple[str, str]] = (),
    target: Path | None = None,
) -> Facts:
    """What is known of an output when it is done.

    Args:
        marker: Marked it, or was told its size; see :meth:`Marker.fit`.
        identities: Whose portraits were used.
        models: Name and SHA-256 of each.
        target: The file that was changed.
    """
    sha256 = ""
    if target is not None:
        with contextlib.suppress(OSError), target.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(
        output_id=marker.output_id,
        consent=marker.consent.basis,
        target_consent=marker.target_consent.basis if marker.target_consent else "",
        label=marker.marks.label_on,
        watermark=marker.marks.watermark_on and "watermark" not in marker.missing,
        target=sha256,
        portraits=tuple(dict.fromkeys(portrait_hash(one) for one in identities)),
        models=tuple(dict.fromkeys(models)),
    )


def portrait_hash(identity: Identity) -> str:
    """SHA-256 of the pixels of an identity's portraits, best first, in hexadecimal."""
    digest = hashlib.sha256()
    for portrait in identity.portraits:
        digest.update(np.ascontiguousarray(portrait.image).tobytes())
    return digest.hexdigest()


def definition(facts: Facts) -> dict[str, Any]:
    """The manifest before it is bound to a file; words as in C2PA 2.2, 18."""
    agent = {"name": "mien", "version": __version__}
    inputs: list[dict[str, Any]] = []
    for sha256 in facts.portraits:
        inputs.append(_ingredient("portrait", sha256, "inputTo"))
    for name, sha256 in facts.models:
        model = [{"type": "c2pa.types.model"}]
        inputs.append(_ingredient(name, sha256, "inputTo") | {"data_types": model})
    for number, one in enumerate(inputs):
        one["label"] = f"input-{number}"
    changed: dict[str, Any] = {
        "action": "c2pa.edited" if facts.target else "c2pa.created",
        "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "softwareAgent": agent,
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "description": "A face was replaced by that of another person",
        "parameters": {"ingredientIds": [one["label"] for one in inputs]},
    }
    actions = [changed]
    ingredients = inputs
    if facts.target:
        parent = _ingredient("target", facts.target, "parentOf") | {"label": "target"}
        ingredients = [parent, *inputs]
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"]}}
        actions = [opened, changed]
    said: dict[str, Any] = {
        "version": 1,
        "output": facts.output_id,
        "consent": facts.consent,
        "target_consent": facts.target_consent,
        "label": facts.label,
        "watermark": facts.watermark,
        "target": facts.target,
        "portraits": list(facts.portraits),
        "models": [{"name": name, "sha256": sha256} for name, sha256 in facts.models],
    }
    assertions: list[dict[str, Any]] = [{"label": ASSERTION, "data": said}]
    if facts.watermark:
        actions.append({"action": "c2pa.watermarked.bound"})
        block = {"scope": {}, "value": facts.output_id}
        bound = {"alg": WATERMARK, "blocks": [block]}
        assertions.append({"label": "c2pa.soft-binding", "data": bound})
    assertions.insert(0, {"label": "c2pa.actions.v2", "data": {"actions": actions}})
    return {
        "claim_generator_info": [agent],
        "ingredients": ingredients,
        "assertions": assertions,
    }


def _ingredient(title: str, sha256: str, relationship: str) -> dict[str, Any]:
    """Something that went into the file, by its hash alone."""
    return {
        "title": title,
        "relationship": relationship,
        "instance_id": f"urn:sha256:{sha256 or 'unknown'}",
    }


def found(store: Mapping[str, Any], where: Literal["embedded", "beside"]) -> Manifest:
    """What the library's report says; all words of it are somebody else's."""
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = [f for f in results.get("failure", []) if f["code"] != "signingCredential.untrusted"]
    trust = [s for s in results.get("success", []) if s["code"] == "signingCredential.trusted"]
    known: Literal["", "here", "operator"] = ""
    if trust:
        known = "here" if "[user_anchors]" in trust[0].get("explanation", "") else "operator"
    valid = store.get("validation_state") in ("Valid", "Trusted") and bool(active)
    state: Literal["broken", "valid", "trusted"] = "valid" if valid else "broken"
    reason = ""
    if not valid:
        known = ""
        reason = _why(failures[0] if failures else {})
    elif known:
        state = "trusted"
    assertions = {a.get("label"): a.get("data") for a in active.get("assertions", [])}
    actions = (assertions.get("c2pa.actions.v2") or assertions.get("c2pa.actions") or {}).get(
        "actions", []
    )
    signed = active.get("signature_info", {})
    program = (active.get("claim_generator_info") or [{}])[0]
    return Manifest(
        state,
        reason,
        where,
        signer=clean(signed.get("issuer") or signed.get("common_name") or ""),
        known=known,
        generator=clean(f"{program.get('name', '')} {program.get('version', '')}"),
        synthetic=any(
            "algorithmicmedia" in str(a.get("digitalSourceType", "")).lower() for a in actions
        ),
        facts=_facts(assertions.get(ASSERTION)),
    )


_REASONS: Final = {
    "assertion.dataHash": "the file was changed after it was signed",
    "assertion.bmffHash": "the file was changed after it was signed",
    "assertion.boxesHash": "the file was changed after it was signed",
    "assertion.hashedURI": "the manifest was changed after it was signed",
    "claimSignature.outsideValidity": "the certificate's time is over or not yet come",
    "claimSignature": "the manifest's signature is not that of its signer",
    "signingCredential": "the signer's certificate cannot be used for it",
}
"""Beginning of the library's code of a failure → what that means."""


def _why(failure: Mapping[str, Any]) -> str:
    code = str(failure.get("code", ""))
    words = next((said for start, said in _REASONS.items() if code.startswith(start)), "")
    return words or clean(failure.get("explanation") or code or "no reason is given")


def _facts(said: Any) -> Facts | None:
    if not isinstance(said, dict):
        return None
    models = [m for m in said.get("models") or () if isinstance(m, dict)]
    return Facts(
        output_id=clean(said.get("output", "")),
        consent=clean(said.get("consent", "")),
        target_consent=clean(said.get("target_consent", "")),
        label=said.get("label") is True,
        watermark=said.get("watermark") is True,
        target=clean(said.get("target", "")),
        portraits=tuple(clean(p) for p in list(said.get("portraits") or ())[:100]),
        models=tuple((clean(m.get("name", "")), clean(m.get("sha256", ""))) for m in models[:100]),
    )


def clean(text: Any) -> str:
    """Words of a stranger, short and without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:200]).strip()


def plain(error: BaseException) -> str:
    """A message of the library without its classes."""
    return clean(str(error).partition("\n")[0].rpartition(": ")[2] or type(error).__name__)
