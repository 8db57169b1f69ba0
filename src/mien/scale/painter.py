"""Single parts painted elsewhere, for a program that gives out its work itself."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from mien import config, identity, media, parts, policy
from mien.pipeline import Report, Swapper
from mien.provenance import Marker
from mien.scale.pool import Pool
from mien.scale.videos import paint_parts
from mien.types import SwapPlan

log = logging.getLogger(__name__)

ROOM: Final = 60.0
"""Seconds for which a part waits for an actor; then it is painted here."""


class _NoRoom(Exception):
    """There was no actor in time."""


class Painter:
    """Paints single parts as :func:`mien.parts.paint` does, and in its place.

    Several threads may call it; each has an actor of its own, which stays warm. Parts for which
    there is no room in time, or that need other models than the actors have, are painted here.

    Args:
        settings: As for :class:`Pool`.
        address: As there.
        threads: As there.
        room: Seconds for which a part waits for an actor.
    """

    def __init__(
        self,
        settings: config.Settings,
        address: str = "local",
        *,
        threads: int = 1,
        room: float = ROOM,
    ) -> None:
        self._settings, self._address, self._threads = settings, address, threads
        self._room = room
        self._pools: dict[int, Pool] = {}
        self._lock = threading.Lock()

    def __call__(  # noqa: PLR0917
        self,
        job: parts.Job,
        part: parts.Part,
        output: Path,
        swapper: Swapper,
        plan: SwapPlan,
        marker: Marker,
        *,
        options: media.SinkOptions,
        workers: int = 1,
        progress: parts.Progress | None = None,
        rules: policy.Policy | None = None,
        use: policy.Use | None = None,
        watch: identity.Watch | None = None,
    ) -> Report:
        """Paint one part; see :func:`mien.parts.paint`.

        ``progress`` is called with 0 about once a second while a worker paints, so that what it
        raises ends the work.
        """
        pool, report = self._pool(), Report()
        options = replace(options, threads=options.threads or self._threads)  # wherever it is
        own = {stage: name for stage, (name, _) in swapper.models.items()}
        seen, people = watch or identity.Watch(), [rule.identity for rule in plan.rules]
        began = time.monotonic()

        def look() -> None:
            seen.permit(people, "video")
            if progress is not None:
                progress(0)
            if not pool.ready and time.monotonic() - began > self._room:
                raise _NoRoom
            if pool.models not in (None, own):
                raise _NoRoom

        try:
            paint_parts(
                *(pool, job, [part], output, plan, marker),
                options=options,
                rules=rules,
                user=use.user if use else "",
                watch=look,
                progress=progress,
                done=lambda _, said: _note(report, said),
            )
        except _NoRoom:
            log.info("%s: part %d is painted here", job.target.name, part.number)
            return parts.paint(
                *(job, part, output, swapper, plan, marker),
                options=options,
                workers=workers,
                progress=progress,
                rules=rules,
                use=use,
                watch=watch,
            )
        return report

    def leave(self) -> None:
        """Let the actor of this thread go."""
        with self._lock:
            pool = self._pools.pop(threading.get_ident(), None)
        if pool is not None:
            pool.close()

    def close(self) -> None:
        """Let all actors go; nobody may be painting."""
        with self._lock:
            for pool in reversed(self._pools.values()):  # the first one began Ray
                pool.close()
            self._pools.clear()

    def _pool(self) -> Pool:
        with self._lock:
            mine = threading.get_ident()
            if mine not in self._pools:
                self._pools[mine] = Pool(
                    self._settings, self._address, actors=1, threads=self._threads
                )
            return self._pools[mine]


def _note(report: Report, said: dict[str, object]) -> None:
    report.frames_out = int(said["frames"])  # type: ignore[call-overload]
    report.seconds = float(said["seconds"])  # type: ignore[arg-type]
