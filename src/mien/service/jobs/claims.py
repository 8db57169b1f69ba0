"""What workers do with jobs: claim, renew, commit, let go; and the end of a job."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from mien.service.database import Database, Delivery, File, Job, Part, new_id
from mien.service.files import Files, Stored
from mien.service.jobs.rows import (
    ALIVE,
    Lost,
    Task,
    is_committed,
    is_due,
    let_go,
    note,
    step_done,
    waiting,
)
from mien.service.problems import details
from mien.service.settings import KeepTable

ATTEMPTS: Final = 4
"""Errors in a row after which a job fails, where trying again may help."""

DEATHS: Final = 16
"""Workers in a row that may die with a job before it is taken for the cause."""

UNCOMMITTED: Final = 6 * 3600.0
"""Seconds after which a file goes that was announced and never committed."""

LEFTOVERS: Final = ("upload", "tracks", "part")
"""Kinds of files that a job needs while it is worked on, or tried again."""


class Claims:
    """Jobs as workers have them.

    Attributes:
        database: Rows.
        files: Store.
        keep: For how long things are kept.
        lease: Seconds for which a claim holds without being renewed.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        keep: KeepTable,
        lease: float,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database, self.files, self.keep, self.lease = database, files, keep, lease
        self._clock = clock

    # --- files ---------------------------------------------------------------------------------

    def announce(self, tenant: str, job: str, kind: str, name: str, suffix: str) -> File:
        """The row of a file that is about to be put into the store; it expires until it counts."""
        made = new_id()
        file = File(
            id=made,
            tenant=tenant,
            job=job,
            kind=kind,
            name=name[:255],
            path=f"jobs/{job}/{kind}/{made}{suffix}",
            size=0,
            expires=self._clock() + UNCOMMITTED,
        )
        with self.database() as rows:
            rows.add(file)
        return file

    def count(
        self, rows: Session, file: File, stored: Stored, expires: float | None = None
    ) -> File:
        """Let a file that is in the store count, in the transaction of what it is for.

        Raises:
            Lost: Its row was removed meanwhile.
        """
        row = rows.get(File, file.id, with_for_update=True, populate_existing=True)
        if row is None:
            raise Lost
        row.size, row.sha256, row.expires = stored.size, stored.sha256, expires
        row.media_type = file.media_type or row.media_type
        return row

    def discard(self, file: File) -> None:
        """Let a file go that was not committed; the next sweep removes it.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        with self.database() as rows:
            uncommitted = File.id == file.id, File.sha256 == ""
            rows.execute(update(File).where(*uncommitted).values(expires=0.0))

    # --- what workers do -----------------------------------------------------------------------

    def claim(self, worker: str) -> Task | None:
        """Take the next piece of work, of the tenant who has the least going on.

        Args:
            worker: Name of it, at most 40 letters.
        """
        now = self._clock()
        with self.database(write=False) as rows:
            if not waiting(rows, now):
                return None
        with self.database() as rows:
            for found in waiting(rows, now):
                job = rows.get(Job, found, with_for_update=True, populate_existing=True)
                if job is None or not is_due(job, now):
                    continue
                task = self._take(rows, job, f"{worker}/{secrets.token_hex(6)}", now)
                if task is not None:
                    return task
        return None

    def _take(self, rows: Session, job: Job, owner: str, now: float) -> Task | None:
        part: Part | None = None
        if job.stage == "paint":
            unfinished = select(Part).where(
                Part.job == job.id, Part.state.not_in(("done", "failed"))
            )
            part = rows.scalar(
                unfinished.where(or_(Part.lease.is_(None), Part.lease < now))
                .order_by(Part.number)
                .limit(1)
            )
            if part is None and rows.scalar(unfinished.limit(1)) is not None:
                return None  # all are being painted
            if part is None:
                job.stage = "join"
        had = job if part is None else part
        if had.owner is not None:
            job.deaths += 1
            if job.deaths > DEATHS:
                problem = details(500, "crashes", f"{job.deaths} workers died with it")
                self._end(rows, job, "failed", problem)
                return None
        had.owner, had.lease = owner, now + self.lease
        if part is not None:
            part.state, part.frames = "running", 0
        if job.state == "queued":
            job.state, job.problem = "running", None
            job.started = job.started or now
            note(rows, job, "running", {"state": "running"})
        return Task(job, job.stage, part, owner)

    def beat(self, task: Task, frames: int) -> bool:
        """Renew a lease and say how far the work is; False if it is to be stopped."""
        lease = self._clock() + self.lease
        query: Any
        if task.part is None:
            query = update(Job).where(
                Job.id == task.job.id, Job.owner == task.owner, Job.state.in_(ALIVE)
            )
            query = query.values(
                lease=lease, **({"done": frames} if task.stage == "follow" else {})
            )
        else:
            alive = exists().where(Job.id == task.job.id, Job.state.in_(ALIVE))
            query = update(Part).where(
                Part.job == task.job.id, Part.number == task.part.number, Part.owner == task.owner
            )
            query = query.where(alive).values(lease=lease, frames=frames)
        with self.database() as rows:
            return bool(rows.execute(query).rowcount)  # type: ignore[attr-defined]

    def held(self, rows: Session, task: Task) -> tuple[Job, Part | None]:
        """The rows of a task, locked.

        Raises:
            Lost: It is not this worker's any more.
        """
        job = rows.get(Job, task.job.id, with_for_update=True, populate_existing=True)
        if job is None or job.state not in ALIVE:
            raise Lost
        if task.part is None:
            if job.owner != task.owner:
                raise Lost
            return job, None
        part = rows.get(
            Part, (job.id, task.part.number), with_for_update=True, populate_existing=True
        )
        if part is None or part.owner != task.owner:
            raise Lost
        return job, part

    def followed(
        self,
        task: Task,
        plan: Mapping[str, Any],
        spans: Sequence[tuple[int, int | None]],
        files: Iterable[tuple[File, Stored]] = (),
        *,
        frames: int,
        total: int,
    ) -> None:
        """Commit the first stage.

        Args:
            task: The claim.
            plan: What was found.
            spans: First tick of each part, and that of the next; of pictures their places.
            files: Tracks, and targets that were fetched.
            frames: That were followed.
            total: Of both passes.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, _ = self.held(rows, task)
            for file, stored in files:
                self.count(rows, file, stored)
            rows.execute(delete(Part).where(Part.job == job.id))
            for number, (first, end) in enumerate(spans):
                rows.add(Part(job=job.id, number=number, first=first, end=end))
            job.kind = str(plan["kind"])
            job.plan, job.stage, job.done, job.total = dict(plan), "paint", frames, total
            job.output_id = str(plan.get("output_id", ""))
            step_done(job)
            note(rows, job, "followed", {"parts": len(spans)})

    def begin_anew(self, task: Task) -> None:
        """Forget what was done: it was done by models that are not here any more.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, _ = self.held(rows, task)
            rows.execute(delete(Part).where(Part.job == job.id))
            made = File.kind.in_(("part", "tracks"))
            rows.execute(update(File).where(File.job == job.id, made).values(expires=0.0))
            job.stage, job.plan, job.done, job.total = "follow", {}, 0, None
            job.owner = job.lease = None
            job.attempt += 1
            note(rows, job, "anew", {})

    def painted(
        self,
        task: Task,
        file: File | None,
        stored: Stored | None,
        frames: int,
        problem: dict[str, Any] | None = None,
    ) -> None:
        """Commit a part, or a picture, which may have failed while the others go on.

        Raises:
            Lost: It is not this worker's any more.
        """
        assert task.part is not None
        with self.database() as rows:
            if file is not None and is_committed(rows, file):
                return  # the word of an earlier commit did not arrive
            job, part = self.held(rows, task)
            assert part is not None
            if file is not None and stored is not None:
                part.file = self.count(rows, file, stored).id
            part.state = "done" if problem is None else "failed"
            part.frames, part.problem = frames, problem
            part.owner = part.lease = None
            job.attempt = job.deaths = 0
            said: dict[str, Any] = {"part": part.number, "state": part.state}
            note(rows, job, "part", said | ({"problem": problem} if problem else {}))

    def joined(self, task: Task, file: File, stored: Stored) -> None:
        """Commit the result: the job is done.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            if is_committed(rows, file):
                return
            job, _ = self.held(rows, task)
            self.count(rows, file, stored, self._clock() + self.keep.results)
            self._end(rows, job, "done", None)

    def failed(self, task: Task, problem: dict[str, Any]) -> None:
        """End a job that cannot be done.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, _ = self.held(rows, task)
            self._end(rows, job, "failed", problem)

    def again(self, task: Task, problem: dict[str, Any]) -> None:
        """Try again later, or fail where that was tried often enough.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, part = self.held(rows, task)
            job.attempt += 1
            if job.attempt >= ATTEMPTS:
                self._end(rows, job, "failed", problem)
                return
            job.due = self._clock() + 2.0 ** (job.attempt - 1)
            let_go(job, part)
            note(rows, job, "again", {"problem": problem, "attempt": job.attempt})

    def paused(self, task: Task, problem: dict[str, Any], seconds: float) -> None:
        """Wait until disk or store are back.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, part = self.held(rows, task)
            job.due = self._clock() + seconds
            let_go(job, part)
            if job.state != "paused":
                job.state = "paused"
                note(rows, job, "paused", {"state": "paused", "problem": problem})
            job.problem = problem

    def resumed(self, task: Task) -> None:
        """Go on after a pause.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, _ = self.held(rows, task)
            if job.state == "paused":
                job.state, job.problem, job.due = "running", None, None
                note(rows, job, "running", {"state": "running"})

    def released(self, task: Task) -> None:
        """Give a claim back, as the worker ends.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            let_go(*self.held(rows, task))

    def abandoned(self, worker: str) -> None:
        """Let others go on at once with what a worker had that is known to be dead."""
        past = self._clock() - 1
        with self.database() as rows:
            for table in (Job, Part):
                rows.execute(
                    update(table)
                    .where(table.owner.startswith(f"{worker}/", autoescape=True))
                    .values(lease=past)
                )

    def alive(self, jobs: Sequence[str]) -> set[str]:
        """Those of some jobs that are still to be worked on."""
        with self.database(write=False) as rows:
            return set(rows.scalars(select(Job.id).where(Job.id.in_(jobs), Job.state.in_(ALIVE))))

    # --- the end -------------------------------------------------------------------------------

    def _end(self, rows: Session, job: Job, state: str, problem: dict[str, Any] | None) -> None:
        now = self._clock()
        job.state, job.problem, job.ended = state, problem, now
        job.owner = job.lease = job.due = None
        if state == "done":
            job.done = job.total or job.done
            rows.execute(update(Part).where(Part.job == job.id).values(file=None))
            rows.execute(
                update(File).where(File.job == job.id, File.kind == "part").values(expires=0.0)
            )
        kept = File.job == job.id, File.kind.in_(LEFTOVERS), File.expires.is_(None)
        rows.execute(update(File).where(*kept).values(expires=now + self.keep.uploads))
        data: dict[str, Any] = {"state": state} | ({"problem": problem} if problem else {})
        said = note(rows, job, state, data)
        webhook = job.asked.get("webhook")
        if webhook:
            rows.add(
                Delivery(
                    tenant=job.tenant,
                    job=job.id,
                    url=webhook["url"],
                    due=now,
                    body={
                        "type": f"job.{state}",
                        "timestamp": said.at,
                        "data": {"id": job.id, "kind": job.kind, "name": job.asked["name"]} | data,
                    },
                )
            )
