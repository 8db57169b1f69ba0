"""The rules of a policy, and the log of what is done by them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mien import audit as audit_
from mien import deny as deny_
from mien.errors import MediaError, Refused
from mien.policy.tables import AuditTable, ClassifierTable, DenyTable, MarksTable, Table
from mien.policy.use import Use, facts, user
from mien.signing import Signing
from mien.types import Consent, ConsentBasis, Identity, Image, TargetBasis

if TYPE_CHECKING:
    from mien.classify import Classifier
    from mien.provenance import Marks


class Policy(Table):
    """What is allowed. The defaults are those of a user's own machine.

    Attributes:
        contact: Where abuse is reported; shown with the notice.
        consent: Bases of portraits that are accepted.
        target_consent: Whether the consent of the person who is replaced may stay unsaid.
        target_bases: Bases that are accepted for that person.
        live: Whether live use is allowed.
        several_people: Whether several identities may be used at a time.
        max_faces: Faces replaced in one picture at most, 0 for any number.
        self_liveness: Whether a face may be used on the basis ``self`` only by an identity that
            was enrolled before a camera with the liveness check.
        marks: Who may turn marks off.
        audit: The log.
        deny: People who must not be used or replaced.
        classifier: Networks that refuse pictures.
        credentials: Whose certificate signs, and whose signatures are trusted.
        where: The file, for messages; set by :func:`load`.
        sha256: Of the file; empty for the defaults.
    """

    contact: str = ""
    consent: tuple[ConsentBasis, ...] = ("self", "written", "artwork", "synthetic")
    target_consent: Literal["optional", "required"] = "optional"
    target_bases: tuple[TargetBasis, ...] = ("self", "written", "artwork", "synthetic", "licensed")
    live: bool = True
    several_people: bool = True
    max_faces: Annotated[int, Field(ge=0)] = 0
    self_liveness: bool = False
    marks: MarksTable = MarksTable()
    audit: AuditTable = AuditTable()
    deny: DenyTable = DenyTable()
    classifier: tuple[ClassifierTable, ...] = ()
    credentials: Signing = Signing()
    where: Annotated[str, Field(exclude=True)] = "the default policy"
    sha256: Annotated[str, Field(exclude=True)] = ""

    # --- what it leads to --------------------------------------------------------------------

    @cached_property
    def denied(self) -> deny_.DenyList:
        """Everybody on one's own list, the imported ones and those that the policy names.

        Raises:
            MediaError: A list cannot be read; then nothing is permitted.
            Refused: A list that the policy names is not signed by one of its keys.
        """
        entries = list(deny_.DenyFile().entries())
        for path in self.deny.lists:
            entries += deny_.read_signed(path, self.deny.keys)[1].entries
        return deny_.DenyList(tuple(entries), self.deny.threshold)

    @cached_property
    def classifiers(self) -> tuple[tuple[ClassifierTable, Classifier], ...]:
        """The networks of ``[[classifier]]``, loaded.

        Raises:
            ModelNotFound: A file is missing.
            ModelError: A file is no such network.
            Refused: A file is not the one that the policy names.
        """
        from mien import classify  # noqa: PLC0415 - ONNX Runtime, only where it is needed

        made = []
        for said in self.classifier:
            if said.sha256 and audit_.sha256_of(said.model) != said.sha256.lower():
                raise Refused(f"{self.where}: classifier {said.name}: {said.model} is another file")
            how = said.model_dump(exclude={"name", "model", "sha256", "size", "every"})
            made.append((said, classify.load(said.model, said.name, said.size, **how)))
        return tuple(made)

    def log(self) -> audit_.AuditLog | None:
        """The audit log; None where there is none.

        Raises:
            MediaError: The key of the log cannot be read, or is empty.
        """
        if not self.audit.on:
            return None
        key = b""
        if self.audit.key is not None:
            try:
                key = self.audit.key.read_bytes().strip()
            except OSError as error:
                raise MediaError(
                    f"{self.audit.key}: the key of the audit log cannot be read ({error.strerror})"
                ) from error
            if not key:
                raise MediaError(f"{self.audit.key}: the key of the audit log is empty")
        limit = int(self.audit.megabytes * 1e6)
        return audit_.AuditLog(limit=limit, keep=self.audit.files, key=key)

    def note(self, event: str, **facts: Any) -> None:
        """Write to the audit log, if there is one.

        Raises:
            MediaError: It cannot be written.
        """
        log = self.log()
        if log is not None:
            log.append(event, policy=self.sha256 or "default", user=user(), **facts)

    # --- permission --------------------------------------------------------------------------

    def permit(self, identities: Iterable[Identity], use: Use) -> None:
        """Let a use pass, or refuse it and write that down.

        Args:
            identities: Whose faces are to be shown.
            use: What is to be done with them.

        Raises:
            Refused: Names the rule and the file that it stands in.
            MediaError: The audit log or the deny list cannot be read or written.
        """
        people = list(dict.fromkeys(identities))
        try:
            self._permit(people, use)
        except Refused as error:
            self.note("refused", why=str(error), **facts(people, use))
            raise

    def refused(self, error: Refused, **said: Any) -> Refused:
        """Write down a refusal that is no matter of a use, and return it to be raised."""
        self.note("refused", why=str(error), **said)
        return error

    def _permit(self, people: Sequence[Identity], use: Use) -> None:
        where = self.where
        if not people:
            raise Refused("a swap needs an identity with a consent basis")
        for identity in people:
            self._portrait(identity)
        if use.kind == "live" and not self.live:
            raise Refused(f"{where}: live is not allowed (live = false)")
        if len(people) > 1 and not self.several_people:
            raise Refused(
                f"{where}: {len(people)} people at a time are not allowed (several_people = false)"
            )
        if self.max_faces and use.people > self.max_faces:
            raise Refused(
                f"{where}: {use.people} faces in one picture are not allowed "
                f"(max_faces = {self.max_faces})"
            )
        if use.marks is not None:
            self._target(use.target_consent)
            self._marks(use.marks, use.off, use.user or user())

    def _portrait(self, identity: Identity) -> None:
        consent, where = identity.consent, self.where
        bases = consent.basis.split(", ")
        for basis in bases:
            if basis not in self.consent:
                raise Refused(
                    f"{where}: a portrait on the basis {basis!r} is not accepted "
                    f"(consent = {', '.join(self.consent) or 'none'})"
                )
        self.check_self(consent.basis, consent.verified)
        self.denied.check(identity.embedding, "source", "the portrait")

    def check_self(self, basis: str, verified: str) -> None:
        """Refuse the basis ``self`` without the liveness check, where that is a rule.

        Raises:
            Refused: Says how to enrol with it.
        """
        if self.self_liveness and "self" in basis.split(", ") and verified != "liveness":
            raise Refused(
                f"{self.where}: 'self' needs an identity enrolled before a camera, with: mien "
                f"identity add NAME --from-camera 0 --consent self (self_liveness = true)"
            )

    def _target(self, consent: Consent | None) -> None:
        if consent is None:
            if self.target_consent == "required":
                raise Refused(
                    f"{self.where}: the consent of the person who is replaced has to be said: "
                    "--target-consent (target_consent = required)"
                )
            return
        for basis in consent.basis.split(", "):
            if basis not in self.target_bases:
                raise Refused(
                    f"{self.where}: a target on the basis {basis!r} is not accepted "
                    f"(target_bases = {', '.join(self.target_bases) or 'none'})"
                )

    def _marks(self, marks: Marks, off: Sequence[str], who: str) -> None:
        for mark in off:
            allowed = getattr(self.marks, f"{mark}_off")
            if "*" not in allowed and who not in allowed:
                raise Refused(
                    f"{self.where}: {who} may not turn the {mark} off (marks.{mark}_off = "
                    f"{', '.join(allowed) or 'nobody'})"
                )
        if not marks.label_on:
            return
        if self.marks.preset == "regulated" and marks.preset != "regulated":
            raise Refused(
                f"{self.where}: the label has to be the regulated one (marks.preset = regulated)"
            )
        if self.marks.languages and marks.language not in self.marks.languages:
            raise Refused(
                f"{self.where}: a label in {marks.language!r} is not accepted "
                f"(marks.languages = {', '.join(self.marks.languages)})"
            )

    # --- the log of a run --------------------------------------------------------------------

    def begin(
        self, identities: Iterable[Identity], use: Use, target: Path | Image | None = None
    ) -> Run:
        """Permit a use and write its beginning to the audit log, before anything is made.

        Args:
            identities: Whose faces.
            use: What is done with them.
            target: The file or picture that is swapped, whose hash is kept.

        Raises:
            Refused: As :meth:`permit`.
            MediaError: The target cannot be read, or the log cannot be written.
        """
        people = list(dict.fromkeys(identities))
        self.permit(people, use)
        said = facts(people, use)
        if target is not None and self.audit.on:
            said["target"] = self.hashes(target)
        run = Run(self, secrets.token_hex(8))
        self.note("begin", run=run.id, **said)
        return run

    def hashes(self, what: Path | Image) -> dict[str, str]:
        """What an entry says of a file or of the pixels of a picture.

        Of a file the SHA-256, and its name where the policy wants names; of a picture the SHA-256
        of its ``(H, W, 3)`` bytes.
        """
        if not isinstance(what, Path):
            return {"pixels": audit_.sha256_of([np.ascontiguousarray(what).tobytes()])}
        named = {"name": what.name} if self.audit.names else {}
        return {"sha256": audit_.sha256_of(what), **named}


@dataclass(slots=True)
class Run:
    """A run whose beginning is in the log; say once how it ended. A context.

    Attributes:
        policy: Whose log.
        id: Joins its entries.
    """

    policy: Policy
    id: str
    ended: bool = field(default=False)

    def end(self, event: str, *, output: Path | Image | None = None, **said: Any) -> None:
        """Write the end: ``made``, ``copied``, ``ended`` or ``failed``.

        Args:
            event: Which.
            output: The file or picture that was made.
            said: Output id, counts and the like.

        Raises:
            MediaError: The log cannot be written, or the output cannot be read.
        """
        if self.ended:
            return
        self.ended = True
        if not self.policy.audit.on:
            return
        if output is not None:
            said["output"] = self.policy.hashes(output)
        self.policy.note(event, run=self.id, **said)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        """Write down a run that failed, and the rule that refused it."""
        if kind is not None:
            # The words may hold a person's name; the rule at their end does not.
            rule = re.search(r"\((?:rule )?([^()]*)\)$", str(error))
            said: dict[str, Any] = {"rule": rule[1]} if isinstance(error, Refused) and rule else {}
            self.end("failed", error=kind.__name__, **said)
