"""What the audit log says of a live session: its beginning, changes of people, files and end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien import policy
from mien.live.outlet import Outlet
from mien.live.outputs import Encoded
from mien.live.show import Look
from mien.types import Identity


class Journal:
    """The entries of one session, joined by an id from its beginning on."""

    def __init__(self, rules: policy.Policy) -> None:
        """Write nothing yet.

        Args:
            rules: Say whether there is a log.
        """
        self._rules = rules
        self._run: policy.Run | None = None

    def begin(self, look: Look) -> None:
        """Permit what is to be seen, and write that the session begins.

        Raises:
            Refused: The policy does not allow it.
            MediaError: The log cannot be written.
        """
        people = [rule.identity for rule in look.plan.rules]
        self._run = self._rules.begin(people, use_of(look))

    def changed(self, identity: Identity, look: Look) -> None:
        """Write that this identity's face is shown from now on."""
        self._rules.note("changed", **policy.facts([identity], use_of(look)), **self._named)

    def recorded(self, outlet: Outlet) -> None:
        """Write down a file that was finished; of other outputs there is nothing to say."""
        output, rules = outlet.output, self._rules
        if not isinstance(output, Encoded) or output.streamed:
            return
        path = Path(output.name)
        if rules.audit.on and outlet.statistics(whole=True).written and path.is_file():
            rules.note("recorded", output=rules.hashes(path), **self._named)

    def failed(self, error: BaseException) -> None:
        """Write that the session could not begin."""
        if self._run is not None:
            self._run.end("failed", error=type(error).__name__)

    def end(
        self,
        look: Look,
        outlets: list[Outlet],
        figures: Mapping[str, int],
        failure: BaseException | None,
    ) -> None:
        """Write the end and the files that were finished with it, once.

        Args:
            look: What was seen last.
            outlets: Those that were still open.
            figures: Counts of frames.
            failure: What ended the session, if that was an error.
        """
        run = self._run
        if run is None or run.ended:
            return
        for outlet in outlets:
            self.recorded(outlet)
        said: dict[str, Any] = {**look.marker.account, **figures}
        if failure is not None:
            said["error"] = type(failure).__name__
        run.end("ended", **said)

    @property
    def _named(self) -> dict[str, str]:
        """What joins the entries of this session."""
        return {} if self._run is None else {"run": self._run.id}


def use_of(look: Look) -> policy.Use:
    """What the policy is asked about."""
    marker = look.marker
    return policy.Use("live", target_consent=marker.target_consent, marks=marker.marks)
