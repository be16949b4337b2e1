"""Jobs: claim, renew, advance, release. Every write is one short transaction with one event row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.errors import InvalidTransition, LeaseLost
from contourd.jobs.database import Database
from contourd.jobs.job import DeliveryEvent, DeliveryState, JobEvent, JobState
from contourd.jobs.tables import DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.jobs.transitions import advance_delivery, advance_job


class Clock(Protocol):
    """Tells the time; swapped in tests."""

    def __call__(self) -> datetime:
        """Return the time, aware."""


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: what a worker needs; ``paths`` are relative to the spool."""

    id: int
    series_uid: str
    revision: int
    model: str
    paths: tuple[str, ...]
    destinations: tuple[str, ...]
    attempts: int
    override: str = ""


class Queue:
    """The jobs of one database."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._now = clock

    def claim(self, worker: str, lease_s: float) -> Job | None:
        """Take the oldest queued job under a lease, None where there is none."""
        with self._database.transaction() as session:
            oldest = (
                select(JobRow).where(JobRow.state == JobState.QUEUED).order_by(JobRow.created_at, JobRow.id).limit(1)
            )
            job = session.scalars(oldest.with_for_update(skip_locked=True)).first()
            if job is None:
                return None
            job.attempts += 1
            job.worker, job.lease_until = worker, self._now() + timedelta(seconds=lease_s)
            self._advance(session, job, JobEvent.CLAIM, worker)
            series = session.get_one(SeriesRow, job.series_id)
            paths = session.scalars(
                select(InstanceRow.path).where(InstanceRow.series_id == job.series_id).order_by(InstanceRow.id)
            )
            return Job(
                job.id,
                series.series_uid,
                job.revision,
                job.model,
                tuple(paths),
                tuple(job.destinations.split(",")),
                job.attempts,
                job.override,
            )

    def renew(self, job_id: int, worker: str, lease_s: float) -> None:
        """Extend the lease.

        Raises
        ------
        LeaseLost
            The job is no longer this worker's.
        """
        with self._database.transaction() as session:
            self._owned(session, job_id, worker).lease_until = self._now() + timedelta(seconds=lease_s)

    def contoured(self, job_id: int, worker: str, outputs: Mapping[str, str], remarks: str = "") -> None:
        """Record the structure sets and make a pending delivery for each destination, together.

        Parameters
        ----------
        outputs
            Destination -> its structure set, relative to the spool.
        remarks
            What a person is to look at.

        Raises
        ------
        LeaseLost
            The job is no longer this worker's: the result is another's to give.
        """
        with self._database.transaction() as session:
            job, now = self._owned(session, job_id, worker), self._now()
            job.lease_until, job.reason, job.remarks = None, "", remarks
            self._advance(session, job, JobEvent.CONTOURED, remarks)
            for name, output in outputs.items():
                known = select(DeliveryRow).where(DeliveryRow.job_id == job_id, DeliveryRow.destination == name)
                if session.scalars(known).first() is None:
                    session.add(
                        DeliveryRow(
                            job_id=job_id,
                            destination=name,
                            output=output,
                            state=DeliveryState.PENDING,
                            not_before=now,
                            created_at=now,
                            updated_at=now,
                        )
                    )

    def hold(self, job_id: int, worker: str, reason: str) -> None:
        """Hold a claimed job: a person must look. Raises LeaseLost."""
        self._end(job_id, worker, JobEvent.HOLD, reason)

    def fail(self, job_id: int, worker: str, reason: str, max_attempts: int) -> None:
        """Queue a claimed job again after an error of ours, or fail it when the attempts are spent."""
        with self._database.transaction() as session:
            job = self._owned(session, job_id, worker)
            spent = job.attempts >= max_attempts
            job.reason, job.lease_until = reason, None
            self._advance(session, job, JobEvent.FAIL if spent else JobEvent.REQUEUE, reason)

    def _end(self, job_id: int, worker: str, event: JobEvent, reason: str) -> None:
        with self._database.transaction() as session:
            job = self._owned(session, job_id, worker)
            job.reason, job.lease_until = reason, None
            self._advance(session, job, event, reason)

    def expire_leases(self, max_attempts: int) -> list[int]:
        """Queue again the jobs whose lease ran out; hold those that outlived ``max_attempts`` workers.

        Returns
        -------
        The ids of all of them.
        """
        with self._database.transaction() as session:
            expired = select(JobRow).where(JobRow.state == JobState.CONTOURING, JobRow.lease_until < self._now())
            return [self._abandon(session, job, max_attempts) for job in session.scalars(expired)]

    def abandon(self, worker: str, max_attempts: int) -> list[int]:
        """Do the same at once for the jobs of a worker that is known to be dead."""
        with self._database.transaction() as session:
            owned = select(JobRow).where(JobRow.state == JobState.CONTOURING, JobRow.worker == worker)
            return [self._abandon(session, job, max_attempts) for job in session.scalars(owned)]

    def _abandon(self, session: Session, job: JobRow, max_attempts: int) -> int:
        job.lease_until = None
        if job.attempts >= max_attempts:
            job.reason = f"the worker died {job.attempts} times on this job; look at the log, then release it"
            self._advance(session, job, JobEvent.HOLD, job.reason)
        else:
            self._advance(session, job, JobEvent.REQUEUE, "the worker died or hung")
        return job.id

    def recover(self) -> None:
        """Queue again the jobs that a killed daemon left under way; the attempt was not the job's fault."""
        with self._database.transaction() as session:
            for job in session.scalars(select(JobRow).where(JobRow.state == JobState.CONTOURING)):
                job.attempts, job.lease_until = max(0, job.attempts - 1), None
                self._advance(session, job, JobEvent.REQUEUE, "contourd was restarted")

    def retry(self, job_id: int, override: str = "") -> None:
        """Release a held or failed job, or make its refused and waiting deliveries due now.

        Parameters
        ----------
        override
            Why, and who lets the model run outside of its limits; it is kept with the job.

        Raises
        ------
        InvalidTransition
            There is nothing to retry: the job is under way, delivered, superseded or unknown.
        """
        with self._database.transaction() as session:
            job, now = session.get(JobRow, job_id), self._now()
            if job is None:
                raise InvalidTransition(f"there is no job {job_id}")
            deliveries = list(session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id)))
            refused = [d for d in deliveries if d.state == DeliveryState.REFUSED]
            for row in refused:
                row.created_at = now  # the time to give up is counted anew
                advance_delivery(session, row, DeliveryEvent.RELEASE, "released by a person", now)
            for row in deliveries:
                if row.state in (DeliveryState.PENDING, DeliveryState.SENT):
                    row.not_before = now
            if job.state == JobState.DELIVERING:
                return
            job.attempts, job.reason, job.override = 0, "", override or job.override
            event = JobEvent.REDELIVER if deliveries else JobEvent.RELEASE
            self._advance(session, job, event, "released by a person" + (f": {override}" if override else ""))

    def supersede(self, session: Session, jobs: Sequence[JobRow], why: str) -> None:
        """End jobs of an older revision inside the caller's transaction; what was delivered stays delivered."""
        for job in jobs:
            if job.state in (JobState.DELIVERED, JobState.SUPERSEDED):
                continue
            job.reason, job.lease_until = why, None
            self._advance(session, job, JobEvent.SUPERSEDE, why)
            for row in session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job.id)):
                if row.state == DeliveryState.PENDING:
                    row.reason = why
                    advance_delivery(session, row, DeliveryEvent.REFUSE, why, self._now())

    def _owned(self, session: Session, job_id: int, worker: str) -> JobRow:
        job = session.get(JobRow, job_id)
        if job is None or job.state != JobState.CONTOURING or job.worker != worker:
            raise LeaseLost(f"job {job_id} is no longer {worker}'s")
        return job

    def _advance(self, session: Session, job: JobRow, event: JobEvent, detail: str) -> None:
        advance_job(session, job, event, detail, self._now())
