"""Jobs: claim, renew, advance, release. Every write is one short transaction with one event row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from contourd.commands import command
from contourd.errors import InvalidTransition, LeaseLost
from contourd.model.model_names import PartialRule, partial_rule
from contourd.model.model_use import ModelUse
from contourd.model.remarks import NO_REMARKS, Remarks
from contourd.profiles import RTSTRUCT
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.claiming import Wanted, claim_oldest, sent_with
from contourd.store.contourings import Contouring, FurtherOutput, add_contouring, last_outputs
from contourd.store.database import Database
from contourd.store.device_waits import waits_since
from contourd.store.facets import file_remarks
from contourd.store.hints import DELIVERIES, JOBS, hint
from contourd.store.locks import lock_deliveries_of_job, lock_job, locked
from contourd.store.processes import end_process
from contourd.store.states import DELIVERIES_WAITING, JOBS_NOT_ENDED, DeliveryState, JobEvent, JobState
from contourd.store.tables import DeliveryRow, JobRow, SeriesRow
from contourd.store.transitions import Why, add_delivery, advance_job, end_job, release_delivery, withdraw_job
from contourd.system.clock import Clock, utc_now


@dataclass(frozen=True, slots=True)
class JobClaim:
    """That a worker has a job: whoever claims it next has a higher token, and then this one counts for nothing."""

    job_id: int
    worker: str
    token: int


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: what a worker needs.

    Attributes
    ----------
    paths, hashes
        The images, relative to the spool, and what their datasets had when they came.
    sent_with
        The models of the structure sets that went out, or are about to: a further form of them must be theirs too.
    order
        What decides the bytes (``contourd.models.orders``); empty: the worker's own settings.
    partial
        What becomes of it where one of several models fails.
    """

    claim: JobClaim
    series_uid: str
    revision: int
    model: str
    paths: tuple[str, ...]
    destinations: tuple[str, ...]
    attempts: int
    override: str = ""
    hashes: tuple[str, ...] = ()
    sent_with: tuple[ModelUse, ...] = ()
    order: str = ""
    partial: PartialRule = "hold"

    @property
    def id(self) -> int:
        """Its number."""
        return self.claim.job_id


@dataclass(frozen=True, slots=True)
class UnorderedJob:
    """A queued job that is to be ordered."""

    id: int
    model: str
    destinations: tuple[str, ...]
    sent_with: tuple[ModelUse, ...]
    partial: PartialRule = "hold"


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker has claimed, until when."""

    claim: JobClaim
    until: datetime


class Queue:
    """The jobs of one database.

    Parameters
    ----------
    host
        Where images travel by an object store, the host whose jobs are claimed: of others those alone are whose images
        are in the store. Empty: every host has all images.
    """

    def __init__(self, database: Database, clock: Clock = utc_now, host: str = "") -> None:
        self._database = database
        self._now = clock
        self._host = host

    def fetch_job(
        self, worker: str, lease_s: float, but: Collection[int] = (), orders: Collection[str] | None = None
    ) -> Job | None:
        """Take the oldest queued job under a lease, None where there is none.

        What has broken a worker goes last, so that it keeps nothing else waiting; a constancy check waits for patients.

        Parameters
        ----------
        but
            Jobs that wait for a device.
        orders
            Those that the worker can do; None: whatever was ordered.
        """
        wanted = Wanted(but, orders, self._host)
        with self._database.transaction() as session:
            now = self._now()
            job = claim_oldest(session, worker, wanted, now, now + timedelta(seconds=lease_s))
        if job is None:
            return None
        return Job(
            JobClaim(job.id, worker, job.token),
            job.series_uid,
            job.revision,
            job.model,
            tuple(path for path, _ in job.images),
            tuple(job.destinations),
            job.attempts,
            job.override,
            tuple(sha256 for _, sha256 in job.images),
            job.sent_with,
            job.order,
            job.partial,
        )

    def waiting_orders(self, but: Collection[str] = ()) -> list[str]:
        """Return what queued jobs are ordered as, each order once, but those."""
        waiting = select(JobRow.contouring_order).where(JobRow.state == JobState.QUEUED, JobRow.contouring_order != "")
        with self._database.reading() as session:
            return list(session.scalars(waiting.where(JobRow.contouring_order.not_in(but)).distinct()))

    def unordered_jobs(self) -> list[UnorderedJob]:
        """Return the queued jobs that have no order yet, or no more: they were made, or released, just now."""
        queued = select(JobRow).where(JobRow.state == JobState.QUEUED, JobRow.contouring_order == "")
        with self._database.reading() as session:
            return [
                UnorderedJob(
                    job.id, job.model, tuple(job.destinations), sent_with(session, job.id), partial_rule(job.partial)
                )
                for job in session.scalars(queued.order_by(JobRow.id))
            ]

    def order_job(self, job_id: int, order: str) -> None:
        """Give a queued job its order, unless it has one."""
        unordered = JobRow.id == job_id, JobRow.state == JobState.QUEUED, JobRow.contouring_order == ""
        with self._database.transaction() as session:
            session.execute(update(JobRow).where(*unordered).values(contouring_order=order))
            hint(session, JOBS)

    def hold_unordered(self, job_id: int, reason: Reason) -> None:
        """Hold a queued job that cannot be ordered."""
        with self._database.transaction() as session:
            job = lock_job(session, job_id)
            if job is not None and job.state == JobState.QUEUED and not job.contouring_order:
                job.reason = reason
                self._advance(session, job, JobEvent.HOLD, reason)

    def hold_ordered(self, order: str, reason: Reason) -> list[int]:
        """Hold the queued jobs of an order that nobody can do; returns their numbers."""
        of_order = JobRow.state == JobState.QUEUED, JobRow.contouring_order == order
        with self._database.transaction() as session:
            jobs = list(session.scalars(locked(select(JobRow).where(*of_order).order_by(JobRow.id))))
            for job in jobs:
                job.reason = reason
                self._advance(session, job, JobEvent.HOLD, reason)
            return [job.id for job in jobs]

    def withdraw_order(self, order: str) -> None:
        """Have queued jobs of an order ordered anew."""
        of_order = JobRow.state == JobState.QUEUED, JobRow.contouring_order == order
        with self._database.transaction() as session:
            session.execute(update(JobRow).where(*of_order).values(contouring_order=""))

    def renew_lease(self, claim: JobClaim, lease_s: float) -> None:
        """Extend the lease.

        Raises
        ------
        LeaseLost
            The job is no longer this worker's.
        """
        with self._database.transaction() as session:
            self._owned(session, claim).lease_until = self._now() + timedelta(seconds=lease_s)

    def finish_job(
        self,
        claim: JobClaim,
        outputs: Mapping[str, str],
        remarks: Remarks = NO_REMARKS,
        contouring: Contouring | None = None,
        further: Collection[FurtherOutput] = (),
    ) -> None:
        """Record the structure sets and make a pending delivery for each destination, together.

        Parameters
        ----------
        outputs
            Destination -> its structure set, relative to the spool.
        remarks
            What a person is to look at.
        contouring
            What made them, kept with the job.
        further
            The products that are no structure set.

        Raises
        ------
        LeaseLost
            The job is no longer this worker's: the result is another's to give.
        """
        with self._database.transaction() as session:
            # A commit whose answer was lost: the claim's token is in these paths, and nobody else wrote there.
            written = contouring.outputs if contouring is not None else ()
            if written and last_outputs(session, claim.job_id) == written:
                return
            job, now = self._owned(session, claim), self._now()
            job.lease_until = None
            job.reason = None
            job.remarks = remarks
            file_remarks(session, job, remarks)
            if contouring is not None:
                add_contouring(session, claim.job_id, claim.worker, contouring, now)
            self._advance(session, job, JobEvent.CONTOURED, remarks.text())
            if job.confirm and not job.confirmed_by:
                job.reason = Reason(HoldReason.WAITS_FOR_CONFIRMATION)
                self._advance(session, job, JobEvent.AWAIT_CONFIRMATION, job.reason)
            hint(session, DELIVERIES)
            job.rewriting = False
            of_job = select(DeliveryRow.destination, DeliveryRow.product).where(DeliveryRow.job_id == job.id)
            known = {(destination, product) for destination, product in session.execute(of_job)}
            wanted = [FurtherOutput(name, RTSTRUCT, output) for name, output in outputs.items()]
            for one in (*wanted, *further):
                if (one.destination, one.product) not in known:
                    add_delivery(session, job, one.destination, one.path, now, one.product)

    def hold_job(self, claim: JobClaim, reason: Reason) -> None:
        """Hold a claimed job: a person must look. Raises LeaseLost."""
        with self._database.transaction() as session:
            job = self._owned(session, claim)
            job.reason = reason
            job.lease_until = None
            self._advance(session, job, JobEvent.HOLD, reason)

    def fail_job(
        self, claim: JobClaim, reason: Reason, max_attempts: int, when_spent: JobEvent = JobEvent.FAIL
    ) -> None:
        """Queue a claimed job again after an error of ours, or fail or hold it when the attempts are spent."""
        with self._database.transaction() as session:
            job = self._owned(session, claim)
            spent = job.attempts >= max_attempts
            job.reason = reason
            job.lease_until = None
            self._advance(session, job, when_spent if spent else JobEvent.REQUEUE, reason)

    def return_job(self, claim: JobClaim, reason: Reason) -> None:
        """Queue a claimed job again that met no fault of its own: the attempt does not count. Raises LeaseLost."""
        with self._database.transaction() as session:
            job = self._owned(session, claim)
            job.attempts, job.reason, job.lease_until = max(0, job.attempts - 1), reason, None
            self._advance(session, job, JobEvent.REQUEUE, reason)

    def waited_for_device_s(self, job_id: int) -> float:
        """Return for how long a job has waited for a device without a pause, in seconds."""
        with self._database.reading() as session:
            since = waits_since(session, job_id)
        return (self._now() - since).total_seconds() if since is not None else 0.0

    def wait_for_device(self, claim: JobClaim, reason: Reason, limit_s: float) -> bool:
        """Queue a claimed job again that found no device to run on: the attempt does not count. Raises LeaseLost.

        Returns
        -------
        False where it has waited for longer than ``limit_s`` without a pause: it is held.
        """
        with self._database.transaction() as session:
            job, now = self._owned(session, claim), self._now()
            waited_s = (now - (waits_since(session, job.id) or now)).total_seconds()
            patient = waited_s < limit_s
            job.attempts, job.lease_until = max(0, job.attempts - 1), None
            job.reason = Reason.of(HoldReason.WAITS_FOR_DEVICE, why=reason)
            if not patient:
                job.reason = Reason.of(HoldReason.DEVICE_NEVER_FREE, minutes=waited_s / 60, why=reason)
            self._advance(session, job, JobEvent.REQUEUE if patient else JobEvent.HOLD, job.reason)
            return patient

    def list_leases(self) -> list[Lease]:
        """Return the leases of all jobs that are being contoured."""
        claimed = select(JobRow.id, JobRow.worker, JobRow.claims, JobRow.lease_until).where(
            JobRow.state == JobState.CONTOURING
        )
        with self._database.reading() as session:
            rows = session.execute(claimed).all()
        return [Lease(JobClaim(job, worker, token), until) for job, worker, token, until in rows if until is not None]

    def revoke_lease(self, lease: Lease, reason: Reason, max_attempts: int) -> bool:
        """Queue the job again, or hold it after ``max_attempts``; returns False where the lease was renewed."""
        with self._database.transaction() as session:
            try:
                job = self._owned(session, lease.claim)
            except LeaseLost:
                return False
            if job.lease_until != lease.until:
                return False
            self._release_job(session, job, reason, max_attempts)
            return True

    def release_jobs_of(self, worker: str, reason: Reason, max_attempts: int) -> list[int]:
        """Do the same for the jobs of a worker that is known to be dead; returns their ids."""
        with self._database.transaction() as session:
            end_process(session, worker, self._now())
            jobs = session.scalars(_contoured_by(worker))
            return [self._release_job(session, job, reason, max_attempts) for job in jobs]

    def _release_job(self, session: Session, job: JobRow, reason: Reason, max_attempts: int) -> int:
        spent = job.attempts >= max_attempts
        job.lease_until = None
        job.reason = reason
        if spent:
            job.reason = Reason.of(HoldReason.JOB_BROKE_WORKER, tries=job.attempts, why=reason)
        self._advance(session, job, JobEvent.HOLD if spent else JobEvent.REQUEUE, job.reason)
        return job.id

    def recover(self, running: Collection[str] = ()) -> None:
        """Queue again the jobs that a killed daemon left under way; the attempt was not the job's fault.

        Parameters
        ----------
        running
            The ids of processes that run: what they have is theirs.
        """
        with self._database.transaction() as session:
            left = select(JobRow).where(JobRow.state == JobState.CONTOURING, JobRow.worker.not_in(running))
            for job in session.scalars(locked(left.order_by(JobRow.id))):
                self._return(session, job, "contourd was restarted")

    def return_jobs_of(self, worker: str, reason: str) -> list[int]:
        """Queue again the jobs of a worker that was ended in the midst of them, at no fault of theirs."""
        with self._database.transaction() as session:
            end_process(session, worker, self._now())
            return [self._return(session, job, reason) for job in session.scalars(_contoured_by(worker))]

    def _return(self, session: Session, job: JobRow, reason: str) -> int:
        job.attempts = max(0, job.attempts - 1)
        job.lease_until = None
        self._advance(session, job, JobEvent.REQUEUE, reason)
        return job.id

    def retry_job(self, job_id: int, override: str = "") -> None:
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
            self.retry_job_within(session, job_id, override)

    def retry_job_within(self, session: Session, job_id: int, override: str = "") -> None:
        """Do so inside the caller's transaction."""
        job, now = lock_job(session, job_id), self._now()
        if job is None:
            raise InvalidTransition(f"there is no job {job_id}")
        deliveries = lock_deliveries_of_job(session, job_id)
        # Where a destination has no structure set yet, sending what there is would not be all.
        contoured = {row.destination for row in deliveries} >= set(job.destinations) and not job.rewriting
        self._refuse_retry(session, job, contoured)
        for row in deliveries:
            if row.state == DeliveryState.REFUSED:
                release_delivery(session, row, "released by a person", now)
            elif row.state == DeliveryState.PENDING and job.state == JobState.HELD:
                row.created_at = now
            if row.state in DELIVERIES_WAITING:
                row.not_before = now
        if job.state == JobState.DELIVERING:
            return
        job.attempts, job.reason, job.override = 0, None, override or job.override
        event = JobEvent.REDELIVER if contoured else JobEvent.RELEASE
        self._advance(session, job, event, "released by a person" + (f": {override}" if override else ""))
        end_job(session, job, now)

    def _refuse_retry(self, session: Session, job: JobRow, contoured: bool) -> None:
        if job.state == JobState.DELIVERED:
            raise InvalidTransition(
                f"job {job.id} is delivered; `{command('resend', job.id, '--to', 'DESTINATION')}` sends it again"
            )
        if job.state == JobState.CONFIRMING:
            raise InvalidTransition(
                f"job {job.id} waits for confirmation: look at its pictures, then `{command('confirm', job.id)}`"
            )
        removed = job.purged_at if contoured else session.get_one(SeriesRow, job.series_id).purged_at
        if removed is not None:
            raise InvalidTransition(f"retention removed the files of job {job.id}; send the series again")

    def supersede_jobs(self, session: Session, jobs: Sequence[JobRow], reason: Reason) -> None:
        """End jobs of an older revision inside the caller's transaction; what was delivered stays delivered."""
        for job in jobs:
            if job.state in JOBS_NOT_ENDED:
                withdraw_job(session, job, JobEvent.SUPERSEDE, reason, self._now())

    def _owned(self, session: Session, claim: JobClaim) -> JobRow:
        """Return the row of a job that is claimed, locked; a worker that hung finds another's token there."""
        job = lock_job(session, claim.job_id)
        if job is None or job.state != JobState.CONTOURING or (job.worker, job.claims) != (claim.worker, claim.token):
            raise LeaseLost(f"job {claim.job_id} is no longer {claim.worker}'s")
        return job

    def _advance(self, session: Session, job: JobRow, event: JobEvent, reason: Why) -> None:
        advance_job(session, job, event, reason, self._now())


def _contoured_by(worker: str) -> Select[JobRow]:
    owned = select(JobRow).where(JobRow.state == JobState.CONTOURING, JobRow.worker == worker)
    return locked(owned.order_by(JobRow.id))
