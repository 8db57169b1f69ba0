"""What is done with the rows of jobs: create, claim, renew, commit, end, expire.

A job has three stages. ``follow``: one worker finds and follows the faces of the whole video, and
says where it is cut. ``paint``: each part is painted by whoever claims it, several at one time.
``join``: one worker puts the parts together. Of pictures each is a part, and ``follow`` fetches
them. Who has a job or a part holds a lease in its row, under a name of this claim alone, and
renews it; when the lease runs out another goes on. What is made counts when its file is in the
store and a transaction after that says so, which it does only while the lease is still held: so
nothing is done twice, whoever was slow, killed or cut off.

Every file's row is there before the file, and expires unless it is committed, so that nothing
stays in the store of which no row speaks.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from mien.errors import MediaError
from mien.service.database import Database, Delivery, Event, File, Job, Part, Person, new_id
from mien.service.files import Files, Stored
from mien.service.problems import details
from mien.service.settings import KeepTable

ALIVE: Final = ("queued", "running", "paused")

ATTEMPTS: Final = 4
"""Errors in a row after which a job fails, where trying again may help."""

DEATHS: Final = 16
"""Workers in a row that may die with a job before it is taken for the cause."""

UNCOMMITTED: Final = 6 * 3600.0
"""Seconds after which a file goes that was announced and never committed."""

CAUGHT_UP: Final = 30 * 86_400.0
"""Seconds for which it is seen to that nothing is left of who was revoked."""

LEFTOVERS: Final = ("upload", "tracks", "part")
"""Kinds of files that a job needs while it is worked on, or tried again."""


class Lost(Exception):
    """The lease ran out and another has the work, or the job is not to be worked on any more."""


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work that a worker claimed.

    Attributes:
        job: Its row, as it was then.
        stage: ``follow``, ``paint`` or ``join``.
        part: To be painted; None for the other stages.
        owner: Name of this claim alone.
    """

    job: Job
    stage: str
    part: Part | None
    owner: str


class Jobs:
    """All jobs of a service.

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

    # --- what callers do -----------------------------------------------------------------------

    def add(self, rows: Session, job: Job) -> None:
        """Add a job, whose files count from now on."""
        rows.add(job)
        rows.flush()
        _note(rows, job, "created", {"state": job.state})

    def cancel(self, tenant: str, job: str) -> Job | None:
        """Cancel a job; whoever works on it stops at his next heartbeat.

        Returns:
            The job, which may have ended otherwise before; None if there is none.
        """
        with self.database() as rows:
            found = _locked(rows, tenant, job)
            if found is not None and found.state in ALIVE:
                self._end(rows, found, "canceled", None)
        return found

    def retry(self, rows: Session, job: Job) -> bool:
        """Let a job that failed or was canceled go on with what is missing.

        Args:
            rows: The transaction.
            job: Locked.

        Returns:
            False if what it needs has expired.
        """
        now = self._clock()
        wanted = [t["file"] for t in job.asked["targets"] if t["file"]]
        kept = rows.scalar(
            select(func.count())
            .select_from(File)
            .where(File.id.in_(wanted), or_(File.expires.is_(None), File.expires > now))
        )
        if kept != len(wanted):
            return False
        rows.execute(
            update(File)
            .where(File.job == job.id, File.kind.in_(LEFTOVERS), File.expires > now)
            .where(File.size > 0)
            .values(expires=None)
        )
        rows.execute(
            update(Part)
            .where(Part.job == job.id, Part.state != "done")
            .values(state="queued", owner=None, lease=None, problem=None)
        )
        if job.stage == "join":
            job.stage = "paint"
        job.state, job.problem, job.ended, job.due = "queued", None, None, None
        job.attempt, job.deaths = 0, 0
        _note(rows, job, "queued", {"state": "queued"})
        return True

    def remove(self, tenant: str, job: str) -> bool:
        """Remove a job, its files and all that is known of it.

        Returns:
            False if there is none.
        """
        with self.database() as rows:
            found = _locked(rows, tenant, job)
            if found is None:
                return False
            rows.execute(update(File).where(File.job == job).values(expires=0.0))
            rows.execute(delete(Part).where(Part.job == job))
            rows.execute(delete(Event).where(Event.job == job))
            rows.execute(delete(Delivery).where(Delivery.job == job))
            rows.delete(found)
        self.sweep()
        return True

    def revoked(self, tenant: str, identity: str) -> int:
        """Stop all jobs that show somebody, and remove what was made of them; done ones, too.

        Returns:
            How many jobs it were.
        """
        with self.database() as rows:
            each = rows.scalars(
                select(Job)
                .where(Job.tenant == tenant, Job.identities.contains(identity, autoescape=True))
                .order_by(Job.id)
                .with_for_update()
            ).all()
            for job in each:
                problem = details(403, "refused", "the consent of an identity was withdrawn")
                if job.state in ALIVE:
                    self._end(rows, job, "canceled", problem)
                else:
                    job.problem = problem
                    _note(rows, job, "removed", {"state": job.state, "problem": problem})
                rows.execute(
                    update(Part)
                    .where(Part.job == job.id)
                    .values(state="queued", file=None, owner=None, lease=None)
                )
                rows.execute(update(File).where(File.job == job.id).values(expires=0.0))
        self.sweep()
        return len(each)

    def catch_up(self) -> None:
        """Stop what shows somebody who was revoked by a server that died before it could say so."""
        with self.database(write=False) as rows:
            query = (
                select(Job.tenant, Person.id)
                .join(Job, Job.tenant == Person.tenant)
                .join(File, File.job == Job.id)
                .where(Person.revoked > self._clock() - CAUGHT_UP)
                .where(Job.identities.contains(Person.id))
                .where(or_(File.expires.is_(None), File.expires > 0.0))
                .distinct()
            )
            found = rows.execute(query).all()
        for tenant, identity in found:
            self.revoked(tenant, identity)

    # --- what workers do -----------------------------------------------------------------------

    def claim(self, worker: str) -> Task | None:
        """Take the next piece of work, of the tenant who has the least going on.

        Args:
            worker: Name of it, at most 40 letters.
        """
        now = self._clock()
        with self.database(write=False) as rows:
            if not _waiting(rows, now):
                return None
        with self.database() as rows:
            for found in _waiting(rows, now):
                job = rows.get(Job, found, with_for_update=True, populate_existing=True)
                if job is None or not _is_due(job, now):
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
            _note(rows, job, "running", {"state": "running"})
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
            _on(job)
            _note(rows, job, "followed", {"parts": len(spans)})

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
            _note(rows, job, "anew", {})

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
            if file is not None and _is_committed(rows, file):
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
            _note(rows, job, "part", said | ({"problem": problem} if problem else {}))

    def joined(self, task: Task, file: File, stored: Stored) -> None:
        """Commit the result: the job is done.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            if _is_committed(rows, file):
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
            _let_go(job, part)
            _note(rows, job, "again", {"problem": problem, "attempt": job.attempt})

    def paused(self, task: Task, problem: dict[str, Any], seconds: float) -> None:
        """Wait until disk or store are back.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            job, part = self.held(rows, task)
            job.due = self._clock() + seconds
            _let_go(job, part)
            if job.state != "paused":
                job.state = "paused"
                _note(rows, job, "paused", {"state": "paused", "problem": problem})
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
                _note(rows, job, "running", {"state": "running"})

    def released(self, task: Task) -> None:
        """Give a claim back, as the worker ends.

        Raises:
            Lost: It is not this worker's any more.
        """
        with self.database() as rows:
            _let_go(*self.held(rows, task))

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
        said = _note(rows, job, state, data)
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

    def sweep(self) -> None:
        """Remove files that expired, and jobs that ended long ago.

        What the store does not remove now is removed the next time.
        """
        now = self._clock()
        with self.database(write=False) as rows:
            gone = rows.scalars(select(File).where(File.expires <= now).limit(1000)).all()
            old = rows.scalars(
                select(Job.id).where(Job.ended < now - self.keep.jobs).limit(1000)
            ).all()
        for file in gone:
            try:
                self.files.remove(file.path)
            except MediaError:
                return
            with self.database() as rows:
                rows.execute(update(Part).where(Part.file == file.id).values(file=None))
                rows.execute(delete(File).where(File.id == file.id))
        for job in old:
            with self.database() as rows:
                if rows.scalar(select(func.count()).select_from(File).where(File.job == job)):
                    continue  # its result is kept for longer
                for table in (Part, Event, Delivery):
                    rows.execute(delete(table).where(table.job == job))
                rows.execute(delete(Job).where(Job.id == job))


def _waiting(rows: Session, now: float) -> list[str]:
    """Jobs that may have something to do, those of the least busy tenants first."""
    held = select(Job.tenant, func.count()).where(Job.lease > now).group_by(Job.tenant)
    painted = (
        select(Job.tenant, func.count())
        .join(Part, Part.job == Job.id)
        .where(Part.lease > now)
        .group_by(Job.tenant)
    )
    found = rows.execute(
        select(Job.id, Job.tenant)
        .where(
            Job.state.in_(ALIVE),
            or_(Job.due.is_(None), Job.due <= now),
            or_(Job.lease.is_(None), Job.lease < now),
        )
        .order_by(Job.created)
        .limit(1000)
    ).all()
    if len({tenant for _, tenant in found}) < 2:
        return [job for job, _ in found]
    busy: dict[str, int] = {}
    for query in (held, painted):
        for tenant, number in rows.execute(query):
            busy[tenant] = busy.get(tenant, 0) + int(number)
    return [job for job, _ in sorted(found, key=lambda row: busy.get(row[1], 0))]


def _is_due(job: Job, now: float) -> bool:
    """The same for one job, after it was locked."""
    free = job.lease is None or job.lease < now
    return job.state in ALIVE and free and (job.due is None or job.due <= now)


def _is_committed(rows: Session, file: File) -> bool:
    row = rows.get(File, file.id)
    return row is not None and bool(row.sha256)


def _locked(rows: Session, tenant: str, job: str) -> Job | None:
    return rows.scalar(select(Job).where(Job.id == job, Job.tenant == tenant).with_for_update())


def _on(job: Job) -> None:
    """The job's stage is done."""
    job.owner = job.lease = None
    job.attempt = job.deaths = 0


def _let_go(job: Job, part: Part | None) -> None:
    had = job if part is None else part
    had.owner = had.lease = None
    if part is not None:
        part.state = "queued"


def _note(rows: Session, job: Job, kind: str, data: dict[str, Any]) -> Event:
    """Write an event; the job's row is locked, so ids of its events grow as they are committed."""
    event = Event(tenant=job.tenant, job=job.id, kind=kind, data=data, at=time.time())
    rows.add(event)
    return event
