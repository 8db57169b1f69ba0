"""What can be set from the page: the look of the engine, or that of one browser camera."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from mien import policy
from mien.errors import MienError, UsageError
from mien.identity import EVERY, Watch
from mien.live import Engine, Look, Recorder
from mien.live.changing import changed, standing
from mien.live.following import tracking_of
from mien.live.show import Painter
from mien.live.types import Shown
from mien.pipeline import Stream, Swapper
from mien.provenance import Marker
from mien.track import TrackOptions
from mien.types import Frame, Identity

log = logging.getLogger(__name__)

WHICH: Final = ["all", "largest", "left", "right"]

ON_MISS: Final = ["pass", "hold", "blur", "card"]

FIGURES: Final = (
    "fps_in", "fps_out", "age_p50", "age_p95", "dropped", "faces", "provider", "step_name",
)  # fmt: skip
"""Of the engine's statistics, those that the page is told."""


def settings_of(look: Look, *, private: bool = False, masks: bool = False) -> dict[str, Any]:
    """Setting → value of a look, as the page shows it.

    Args:
        look: What is seen.
        private: Strength and what is shown in place of a missed face are not a choice then.
        masks: Whether there are mask networks to be used or not.
    """
    rule = look.plan.rules[0]
    values: dict[str, Any] = {
        "identity": rule.identity.name,
        "faces": str(rule.which),
        "strength": look.strength,
        "on_miss": look.on_miss,
        "mark": look.marker.marks.words,
        "paused": look.paused,
    }
    if masks:
        values["mask"] = look.masks
    if private:
        del values["strength"]
    return values


def choices_of(look: Look, people: Mapping[str, Identity]) -> dict[str, list[Any]]:
    """Setting → what may be chosen; ``[low, high]`` for a number, nothing for free words."""
    rule = look.plan.rules[0]
    names = list(people) if len(look.plan.rules) == 1 else []
    on_miss = list(ON_MISS)
    return {
        "identity": names if rule.identity.name in names else [rule.identity.name, *names],
        "faces": WHICH if str(rule.which) in WHICH else [str(rule.which), *WHICH],
        "strength": [0, 1],
        "on_miss": on_miss,
        "mark": [],
        "mask": [False, True],
        "paused": [False, True],
    }


def read(
    values: Mapping[str, Any], people: Mapping[str, Identity], allowed: Mapping[str, Any]
) -> dict[str, Any]:
    """What the engine understands of settings that came from a page.

    Raises:
        UsageError: There is no such setting, or no such identity.
    """
    out = dict(values)
    for key in out:
        if key not in allowed:
            raise UsageError(f"there is no {key!r} to set; known are {', '.join(allowed)}")
    if "identity" in out:
        name = out["identity"]
        if name not in people:
            raise UsageError(f"there is no identity {name!r}; known are {', '.join(people)}")
        out["identity"] = people[name]
    if str(out.get("faces", "")).isdecimal():
        out["faces"] = int(out["faces"])
    return out


class People(Mapping[str, Identity]):
    """Identities that may be chosen; one whose consent ends is dropped within about a second.

    Args:
        people: By name.
        watch: Says whose consent has ended; None asks the people who are kept here.
    """

    def __init__(self, people: Iterable[Identity], watch: Watch | None = None) -> None:
        self._people = {person.name: person for person in people}
        self._watch = watch or Watch()
        threading.Thread(
            target=_drop_ended, args=(weakref.ref(self),), name="mien-consent", daemon=True
        ).start()

    def __getitem__(self, name: str) -> Identity:
        return self._people[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._people))

    def __len__(self) -> int:
        return len(self._people)

    def add(self, person: Identity) -> None:
        """Let somebody else be chosen, too."""
        self._people[person.name] = person

    def drop_ended(self) -> None:
        """Drop those whose consent has ended."""
        for name, person in list(self._people.items()):
            try:
                why = self._watch.objection(person.consent, "live")
            except MienError as error:
                why = str(error)
            if why:
                log.warning("%s: %s; this face cannot be chosen any more", name, why)
                del self._people[name]


def _drop_ended(people: weakref.ref[People]) -> None:
    """Look about once a second, for as long as somebody holds the people."""
    while (here := people()) is not None:
        here.drop_ended()
        del here
        time.sleep(EVERY)


class EngineControls:
    """The engine's look and figures, as the page sees them.

    Args:
        engine: Whose output the page is.
        people: Identities that may be chosen, ready to be used, by name.
        recorder: Records to files; None where that is not offered.
    """

    def __init__(
        self, engine: Engine, people: Mapping[str, Identity], recorder: Recorder | None = None
    ) -> None:
        self._engine, self._people, self._recorder = engine, people, recorder

    def settings(self) -> dict[str, Any]:
        engine = self._engine
        values = settings_of(engine.look, private=engine.options.private, masks=engine.masks)
        if self._recorder is not None:
            values["recording"] = bool(self._recorder.path)
        return values

    def choices(self) -> dict[str, list[Any]]:
        choices = choices_of(self._engine.look, self._people)
        return choices | ({"recording": [False, True]} if self._recorder is not None else {})

    def change(self, values: Mapping[str, Any]) -> None:
        values = dict(values)
        record = values.pop("recording", None) if self._recorder is not None else None
        self._engine.change(**read(values, self._people, self.settings()))
        if self._recorder is not None and record is True:
            self._recorder.start()
        elif self._recorder is not None and record is not None:
            self._recorder.stop()

    def statistics(self) -> dict[str, Any]:
        """Figures for the page."""
        figures = asdict(self._engine.statistics())
        return {key: figures[key] for key in FIGURES}


class Performance:
    """Swaps the pictures of one browser camera, with tracks and a look of its own.

    Args:
        swapper: Shared by all.
        look: What is to be seen at first.
        people: Identities that may be chosen, by name.
        private: No raw face may be shown.
        tracking: How faces are followed; None as the engine follows them.
        watch: Says whose consent has ended; None asks the people who are kept here.
        user: Who asks; empty for who runs mien.
        said: What the audit log says of it besides.

    Raises:
        Refused: The policy does not allow it; see :mod:`mien.policy`.
    """

    def __init__(
        self,
        swapper: Swapper,
        look: Look,
        people: Mapping[str, Identity],
        *,
        private: bool = False,
        tracking: TrackOptions | None = None,
        watch: Watch | None = None,
        user: str = "",
        said: Mapping[str, str] | None = None,
    ) -> None:
        self._look = replace(look, marker=look.marker.anew())  # an output of its own
        self._people, self._private, self._swapper = people, private, swapper
        self._changing = threading.Lock()
        identify = any(rule.reference is not None for rule in look.plan.rules)
        marker = self._look.marker
        use = policy.Use(
            "live", target_consent=marker.target_consent, marks=marker.marks, user=user
        )
        tracking = tracking_of(tracking, private=private)
        self._stream = Stream(swapper, identify=identify, options=tracking, use=use)
        if watch is not None:
            self._stream.watch = watch
        self._rules = self._stream.gate.rules
        self._run = self._rules.begin([rule.identity for rule in look.plan.rules], use)
        if said:
            self._rules.note("opened", run=self._run.id, output_id=marker.output_id, **said)
        # When the camera is gone, whoever drops this, its end is in the audit log.
        weakref.finalize(self, _end, self._run, marker, said or {})
        self._painter = Painter(self._stream, private)

    def __call__(self, frame: Frame, taken: float) -> Shown:
        look = self._standing()
        masks = self._swapper.masks if look.masks else ()
        self._stream.swapper = replace(self._swapper, masks=masks)
        faces = self._stream.observe(frame)
        pairs = [] if look.paused else self._stream.assign(faces, look.plan)
        done = self._painter(frame, faces, pairs, look, taken=taken)
        return Shown(look.marker(done.frame, faces), taken, faces, done.swapped)

    def _standing(self) -> Look:
        """What is to be seen, without those whose consent has ended meanwhile.

        Raises:
            Refused: Nobody is left.
        """
        with self._changing:
            self._look, ended = standing(self._look, self._stream.watch)
        for identity in ended:
            self._stream.forget(identity)
            self._painter.forget()
        return self._look

    def settings(self) -> dict[str, Any]:
        masks = bool(self._swapper.masks)
        return settings_of(self._look, private=self._private, masks=masks)

    def choices(self) -> dict[str, list[Any]]:
        return choices_of(self._look, self._people)

    def change(self, values: Mapping[str, Any]) -> None:
        with self._changing:
            look = self._look
            for key, value in read(values, self._people, self.settings()).items():
                if isinstance(value, Identity):
                    gate = self._stream.gate
                    gate.admit([value])
                    self._stream.watch.permit([value], "live")
                    self._rules.note("changed", run=self._run.id, **policy.facts([value], gate.use))
                look = changed(look, key, value)
            self._look = look


def _end(run: policy.Run, marker: Marker, said: Mapping[str, Any]) -> None:
    """Write that a visitor is gone, and which marks the pictures lacked."""
    run.end("ended", **marker.account, **said)
