"""What callers do with jobs, and what is done when nobody asks: revoke, expire."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from mien.errors import MediaError
from mien.service.database import Delivery, Event, File, Job, Part, Person
from mien.service.jobs.claims import LEFTOVERS, Claims
from mien.service.jobs.rows import ALIVE, locked, note
from mien.service.problems import details

CAUGHT_UP: Final = 30 * 86_400.0
"""Seconds for which it is seen to that nothing is left of who was revoked."""


class Jobs(Claims):
    """All jobs of a service."""

    # --- what callers do -----------------------------------------------------------------------

    def add(self, rows: Session, job: Job) -> None:
        """Add a job, whose files count from now on."""
        rows.add(job)
        rows.flush()
        note(rows, job, "created", {"state": job.state})

    def cancel(self, tenant: str, job: str) -> Job | None:
        """Cancel a job; whoever works on it stops at his next heartbeat.

        Returns:
            The job, which may have ended otherwise before; None if there is none.
        """
        with self.database() as rows:
            found = locked(rows, tenant, job)
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
        note(rows, job, "queued", {"state": "queued"})
        return True

    def remove(self, tenant: str, job: str) -> bool:
        """Remove a job, its files and all that is known of it.

        Returns:
            False if there is none.
        """
        with self.database() as rows:
            found = locked(rows, tenant, job)
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
                    note(rows, job, "removed", {"state": job.state, "problem": problem})
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

    # --- what expires ------------------------------------------------------------------------

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
