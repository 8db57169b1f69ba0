"""What a recording says of itself when it is done, though it may have changed while it ran."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import replace

from mien.live.engine import Engine
from mien.live.outputs import Encoded
from mien.provenance import credentials, manifest
from mien.signing import OWN, Signing
from mien.types import Identity


def keep_account(
    output: Encoded,
    engine: Engine,
    models: Iterable[tuple[str, str]] = (),
    signing: Signing = OWN,
) -> None:
    """Have an output say what its frames rest on, and a file signed when it is done.

    The manifest lists everybody whose portrait was chosen while the file was written.

    Args:
        output: Changed, before it is opened.
        engine: Whose frames it gets.
        models: Name and SHA-256 of each.
        signing: Whose certificate.

    Raises:
        UsageError: The certificate cannot be used.
        MediaError: The machine's own cannot be made.
    """
    weights = tuple(models)
    seen: weakref.WeakSet[Identity] = weakref.WeakSet()
    hashes: dict[str, None] = {}

    def now() -> dict[str, str]:
        look = engine.look
        for rule in look.plan.rules:
            if rule.identity not in seen:
                seen.add(rule.identity)
                hashes[manifest.portrait_hash(rule.identity)] = None
        return look.marker.metadata()

    def facts() -> manifest.Facts:
        said = output.said
        return replace(
            manifest.facts_of(engine.look.marker, (), weights),
            portraits=tuple(hashes),
            consent=said.get("mien_consent", ""),
            target_consent=said.get("mien_target_consent", ""),
        )

    output.now = now
    if not output.streamed:
        on = engine.look.marker.marks.credentials_on
        output.finish = credentials.finisher(facts, signing) if on else credentials.unsigned
