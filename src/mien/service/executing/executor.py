"""Claims pieces of work, does them, and says in the rows what became of each."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mien.errors import MienError, ModelError, ProviderError
from mien.service import problems
from mien.service.executing import pictures, stages, video
from mien.service.executing.leases import Holding, Stopped
from mien.service.executing.outages import Away, came_of_full, disk_full, look
from mien.service.executing.piece import Models, Piece
from mien.service.fetching import Unanswered
from mien.service.jobs import Jobs, Lost, Task
from mien.service.outages import give_reserve, has_room, is_full, keep_reserve
from mien.service.people import People
from mien.service.settings import ServiceSettings

log = logging.getLogger(__name__)

PAUSE: Final = 5.0
"""Seconds between two looks whether disk and store are back."""


_TRANSIENT: Final = (ModelError, ProviderError)
"""Errors of mien that are the machine's and not the caller's."""


Note = Callable[[str, dict[str, Any]], None]


class Executor:
    """Works on jobs, one piece at a time.

    Args:
        jobs: Rows.
        people: Identities.
        models: Of this worker.
        settings: Of the service.
        name: Of this worker, at most 40 letters.
        stop: Set when the worker ends: then work is given back.
        note: Told what is to be counted, see :meth:`mien.service.metrics.Metrics.note`.
    """

    def __init__(  # noqa: PLR0917
        self,
        jobs: Jobs,
        people: People,
        models: Models,
        settings: ServiceSettings,
        name: str,
        stop: threading.Event,
        *,
        note: Note = lambda _name, _facts: None,
    ) -> None:
        self._jobs, self._people, self._models, self._note = jobs, people, models, note
        self._settings, self._name, self._stop = settings, name, stop
        self.folder = settings.scratch / "jobs"

    # --- what goes on ----------------------------------------------------------------------------

    def work_once(self) -> bool:
        """Do one piece of work; False if there is none.

        Raises:
            SQLAlchemyError: The database is away, and nothing was begun.
        """
        task = self._jobs.claim(self._name)
        if task is None:
            return False
        with Holding(self._jobs, task, self._stop) as holding:
            try:
                if task.job.state == "paused":
                    look(self._settings.scratch, self._jobs.files)
                    self._surely(lambda: self._jobs.resumed(task))
                frames = self._do(task, holding)
                if frames:
                    self._note("frames", {"count": frames})
            except Exception as error:
                with contextlib.suppress(Lost, Stopped):
                    self._surely(partial(self._tell, task, error))
        return True

    def _do(self, task: Task, holding: Holding) -> int:
        """Do it; says how many frames were painted."""
        folder = self.folder / task.job.id
        if not has_room(self._settings.scratch):
            raise disk_full()
        folder.mkdir(parents=True, exist_ok=True)
        piece = Piece(self._jobs, self._people, self._models, self._settings, task, holding,
                      folder, self._surely)  # fmt: skip
        if task.stage == "follow":
            stages.follow(piece)
        elif task.part is None:
            stages.join(piece)
            shutil.rmtree(folder, ignore_errors=True)
        elif task.job.plan["kind"] == "video":
            return video.paint(piece, task.part)
        else:
            pictures.swap(piece, task.part)
            return 1
        return 0

    def _tell(self, task: Task, error: Exception) -> None:
        """Say in the rows what became of a piece of work that was not done."""
        if isinstance(error, Lost):
            return
        if isinstance(error, Stopped | SQLAlchemyError):
            self._jobs.released(task)
            return
        self._note("error", {"work": "job", "error": type(error).__name__})
        if isinstance(error, Away) or came_of_full(error, self._settings.scratch):
            away = error if isinstance(error, Away) else disk_full()
            log.warning("job %s: paused: %s", task.job.id, away)
            self._jobs.paused(task, away.problem, PAUSE)
            return
        known = isinstance(error, MienError) and not isinstance(error, _TRANSIENT)
        if known or isinstance(error, problems.Problem):
            problem = self._problem(task, error)
            log.info("job %s: failed: %s", task.job.id, type(error).__name__)
            if task.part is not None and task.job.plan["kind"] == "images":
                self._jobs.painted(task, None, None, 1, problem)
            else:
                self._jobs.failed(task, problem)
            return
        if isinstance(error, Unanswered):
            self._jobs.again(task, problems.details(422, "unreachable", str(error)))
            return
        log.error("job %s: tried again", task.job.id, exc_info=error)
        why = f"the work failed ({type(error).__name__})"
        self._jobs.again(task, problems.details(500, "failed", why))

    def _problem(self, task: Task, error: Exception) -> dict[str, Any]:
        """An error as the caller may read it: files by the caller's names, no folders of ours."""
        problem = error if isinstance(error, problems.Problem) else None
        if problem is None:
            assert isinstance(error, MienError)
            problem = problems.of(error)
        said = problem.as_dict()
        detail = str(said["detail"])
        for number, target in enumerate(task.job.asked["targets"]):
            for path in sorted((self.folder / task.job.id).glob(f"target-{number}.*")):
                detail = detail.replace(str(path), str(target["name"]))
                detail = detail.replace(path.name, str(target["name"]))
        for folder in (self.folder / task.job.id, self._settings.folder):
            detail = detail.replace(f"{folder}/", "")
        said["detail"] = detail
        return said

    def _surely(self, act: Callable[[], None]) -> None:
        """Write to the database, and wait for it where it is away.

        Raises:
            Stopped: The worker ends before.
        """
        told = False
        while True:
            try:
                act()
            except DBAPIError as error:
                if is_full(error):
                    give_reserve(self._settings.folder)
                if not told:
                    why = "has no space" if is_full(error) else "does not answer"
                    log.warning("the database %s (%s)", why, type(error.orig).__name__)
                told = True
                if self._stop.wait(0.5):
                    raise Stopped from error
            else:
                return

    def sweep(self) -> None:
        """Remove what is in the scratch folder of jobs that are over, and keep some space.

        Raises:
            SQLAlchemyError: The database is away.
        """
        there = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        alive = self._jobs.alive(there) if there else set()
        for name in set(there) - alive:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        keep_reserve(self._settings.folder)
