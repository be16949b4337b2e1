"""Jobs and deliveries: claim, renew, advance, release. Every write is one short transaction with one event row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.errors import InvalidTransition, LeaseLost
from contourd.jobs.database import Database
from contourd.jobs.job import (
    DeliveryEvent,
    DeliveryState,
    JobEvent,
    JobState,
    RetryPolicy,
    next_delivery_state,
    next_job_state,
)
from contourd.jobs.tables import DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow


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


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery; ``output`` is relative to the spool."""

    id: int
    job_id: int
    destination: str
    output: str
    attempts: int
    created_at: datetime


class Queue:
    """The jobs and deliveries of one database."""

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
            if job.confirm and not job.confirmed_by:
                job.reason = "waits for confirmation: a person is to look at the pictures before it is sent"
                self._advance(session, job, JobEvent.HOLD, job.reason)
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
        """Make whatever a killed daemon left under way ready again; the attempt was not the job's fault."""
        with self._database.transaction() as session:
            for job in session.scalars(select(JobRow).where(JobRow.state == JobState.CONTOURING)):
                job.attempts, job.lease_until = max(0, job.attempts - 1), None
                self._advance(session, job, JobEvent.REQUEUE, "contourd was restarted")
            for delivery in session.scalars(select(DeliveryRow).where(DeliveryRow.state == DeliveryState.SENDING)):
                delivery.not_before = self._now()
                self._advance_delivery(session, delivery, DeliveryEvent.RETRY, "contourd was restarted")

    def claim_delivery(self, destination: str) -> Delivery | None:
        """Take the oldest delivery to a destination that is due, None where there is none."""
        with self._database.transaction() as session:
            due = (
                select(DeliveryRow)
                .join(JobRow, JobRow.id == DeliveryRow.job_id)
                .where(
                    JobRow.state.in_((JobState.DELIVERING, JobState.FAILED)),  # nothing of a held job is sent
                    DeliveryRow.state == DeliveryState.PENDING,
                    DeliveryRow.destination == destination,
                    DeliveryRow.not_before <= self._now(),
                )
                .order_by(DeliveryRow.not_before, DeliveryRow.id)
                .limit(1)
            )
            row = session.scalars(due.with_for_update(skip_locked=True, of=DeliveryRow)).first()
            if row is None:
                return None
            row.attempts += 1
            self._advance_delivery(session, row, DeliveryEvent.CLAIM, "")
            return Delivery(row.id, row.job_id, row.destination, row.output, row.attempts, row.created_at)

    def delivered(self, delivery_id: int, reason: str) -> None:
        """Record the destination's acceptance; the job is delivered with its last delivery."""
        with self._database.transaction() as session:
            row = session.get_one(DeliveryRow, delivery_id)
            row.reason = reason
            self._advance_delivery(session, row, DeliveryEvent.ACCEPTED, reason)
            self._end_if_delivered(session, session.get_one(JobRow, row.job_id))

    def _end_if_delivered(self, session: Session, job: JobRow) -> None:
        session.flush()
        states = set(session.scalars(select(DeliveryRow.state).where(DeliveryRow.job_id == job.id)))
        if states == {DeliveryState.DELIVERED} and job.state == JobState.DELIVERING:
            job.reason = ""
            self._advance(session, job, JobEvent.ALL_DELIVERED, "")

    def postpone(self, delivery_id: int, reason: str, policy: RetryPolicy) -> None:
        """Set the time of the next try, or refuse the delivery when the policy gives up."""
        with self._database.transaction() as session:
            row = session.get_one(DeliveryRow, delivery_id)
            later = policy.next_try(row.attempts, row.created_at, self._now())
            row.reason = reason
            if later is None:
                self._refuse(session, row, f"given up after {row.attempts} tries: {reason}")
                return
            row.not_before = later
            self._advance_delivery(session, row, DeliveryEvent.RETRY, reason)

    def refuse(self, delivery_id: int, reason: str) -> None:
        """Record that retrying cannot help; the job fails with the reason."""
        with self._database.transaction() as session:
            self._refuse(session, session.get_one(DeliveryRow, delivery_id), reason)

    def _refuse(self, session: Session, row: DeliveryRow, reason: str) -> None:
        row.reason = reason
        self._advance_delivery(session, row, DeliveryEvent.REFUSE, reason)
        job = session.get_one(JobRow, row.job_id)
        if job.state == JobState.DELIVERING:
            job.reason = f"{row.destination}: {reason}"
            self._advance(session, job, JobEvent.FAIL, job.reason)

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
            self.retry_within(session, job_id, override)

    def retry_within(self, session: Session, job_id: int, override: str = "") -> None:
        """Do so inside the caller's transaction."""
        job, now = session.get(JobRow, job_id), self._now()
        if job is None:
            raise InvalidTransition(f"there is no job {job_id}")
        deliveries = list(session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id)))
        if job.state == JobState.HELD and deliveries and job.confirm and not job.confirmed_by:
            raise InvalidTransition(
                f"job {job_id} waits for confirmation: look at its pictures, then `contourd confirm {job_id}`"
            )
        if job.state == JobState.DELIVERED:
            raise InvalidTransition(f"job {job_id} is delivered; `contourd resend` sends it again")
        refused = [d for d in deliveries if d.state == DeliveryState.REFUSED]
        for row in refused:
            row.created_at = now  # the time to give up is counted anew
            self._advance_delivery(session, row, DeliveryEvent.RELEASE, "released by a person")
        for row in deliveries:
            if row.state == DeliveryState.PENDING:
                row.not_before = now
        if job.state == JobState.DELIVERING:
            return
        job.attempts, job.reason, job.override = 0, "", override or job.override
        event = JobEvent.REDELIVER if deliveries else JobEvent.RELEASE
        self._advance(session, job, event, "released by a person" + (f": {override}" if override else ""))
        self._end_if_delivered(session, job)

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
                    self._advance_delivery(session, row, DeliveryEvent.REFUSE, why)

    def _owned(self, session: Session, job_id: int, worker: str) -> JobRow:
        job = session.get(JobRow, job_id)
        if job is None or job.state != JobState.CONTOURING or job.worker != worker:
            raise LeaseLost(f"job {job_id} is no longer {worker}'s")
        return job

    def _advance(self, session: Session, job: JobRow, event: JobEvent, detail: str) -> None:
        job.state, job.updated_at = next_job_state(JobState(job.state), event), self._now()
        record(session, "job", job.id, event, job.state, detail, self._now())

    def _advance_delivery(self, session: Session, row: DeliveryRow, event: DeliveryEvent, detail: str) -> None:
        row.state, row.updated_at = next_delivery_state(DeliveryState(row.state), event), self._now()
        record(session, "delivery", row.id, event, row.state, detail, self._now())


def record(session: Session, subject: str, subject_id: int, event: str, state: str, detail: str, at: datetime) -> None:
    """Append one event row."""
    session.add(
        EventRow(at=at, subject=subject, subject_id=subject_id, event=str(event), state=str(state), detail=detail)
    )
