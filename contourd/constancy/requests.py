"""Constancy checks in the queue: asked for, begun, and ended so that nothing of them is left or goes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.commands import command
from contourd.errors import InvalidTransition
from contourd.intake.series_steps import hold_series
from contourd.model.model_identity import ModelIdentity
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.audit import AuditEntry, audit_row
from contourd.store.constancy_result import ConstancyResult
from contourd.store.constancy_series import digest
from contourd.store.constancy_standing import BASELINE, CHECK, OPEN, ConstancyCheck, check_of, read_last, read_open
from contourd.store.contourings import models_of_jobs
from contourd.store.database import Database
from contourd.store.locks import lock_jobs_of_series, lock_one, locked, take_turns
from contourd.store.states import JOBS_NOT_ENDED, JOBS_STOPPED, ConstancyState, JobEvent, JobState, SeriesState
from contourd.store.tables import ConstancyCheckRow, ConstancySeriesRow, JobRow, SeriesRow
from contourd.store.transitions import withdraw_job
from contourd.system.clock import Clock, utc_now

OVER = "the constancy check is over"


@dataclass(frozen=True, slots=True)
class SeriesProgress:
    """How far a series of a check is.

    Attributes
    ----------
    trouble
        Why it will not come to its end; empty while it may.
    claimed
        Whether the worker has it, or had it.
    delivered
        Whether contourd knows that the receiver has its structure set.
    stage
        Where it is, in words.
    """

    trouble: str = ""
    claimed: bool = False
    delivered: bool = False
    stage: str = ""


class ConstancyChecks:
    """The checks of one database: one at a time."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._now = clock

    def request(self, actor: str, purpose: str = CHECK) -> int:
        """Ask the running node for a check or a baseline; returns its number.

        Raises
        ------
        InvalidTransition
            One is under way.
        """
        with self._database.transaction() as session:
            take_turns(session, "constancy")
            if (other := read_open(session)) is not None:
                raise InvalidTransition(
                    f"constancy {other.purpose} {other.id} is under way, asked for by {other.actor}; wait for its end"
                )
            row = ConstancyCheckRow(purpose=purpose, state=ConstancyState.REQUESTED, actor=actor[:64], port=0)
            row.requested_at = self._now()
            row.started_at = None
            row.ended_at = None
            session.add(row)
            session.flush()
            return row.id

    def open_one(self) -> ConstancyCheck | None:
        """Return what is asked for or under way."""
        with self._database.reading() as session:
            return read_open(session)

    def last_begun(self) -> ConstancyCheck | None:
        """Return the last check that came to an end, green or red, or is under way."""
        with self._database.reading() as session:
            return read_last(session, tuple(ConstancyState))

    def get(self, check_id: int) -> ConstancyCheck:
        """Return one check."""
        with self._database.reading() as session:
            return check_of(session.get_one(ConstancyCheckRow, check_id))

    def history(self, most: int) -> list[ConstancyCheck]:
        """Return the newest checks and baselines, the newest first."""
        wanted = select(ConstancyCheckRow).order_by(ConstancyCheckRow.id.desc()).limit(most)
        with self._database.reading() as session:
            return [check_of(row) for row in session.scalars(wanted)]

    def begin(self, check_id: int) -> None:
        """Record that the node has begun it."""
        with self._database.transaction() as session:
            row = lock_one(session, ConstancyCheckRow, check_id)
            row.state = ConstancyState.RUNNING
            row.started_at = self._now()

    def listen(self, check_id: int, port: int) -> None:
        """Write down the port of loopback on which the check receives."""
        with self._database.transaction() as session:
            lock_one(session, ConstancyCheckRow, check_id).port = port

    def register(self, check_id: int, series_uid: str, model: str, sop_instance_uids: Sequence[str]) -> None:
        """Write down a series before it is sent: this one, of these instances, goes to the check's receiver.

        Raises
        ------
        InvalidTransition
            The check is over.
        """
        with self._database.transaction() as session:
            if lock_one(session, ConstancyCheckRow, check_id).state != ConstancyState.RUNNING:
                raise InvalidTransition(OVER)
            row = ConstancySeriesRow(series_uid=series_uid, check_id=check_id, series_id=None, model=model)
            row.instances_sha256 = digest(sop_instance_uids)
            session.add(row)

    def progress(self, series_uid: str) -> SeriesProgress:
        """Return how far a series is."""
        with self._database.reading() as session:
            series = session.scalars(select(SeriesRow).where(SeriesRow.series_uid == series_uid)).first()
            if series is None:
                return SeriesProgress(stage="it was not received")
            if series.state == SeriesState.HELD:
                return SeriesProgress(f"the series was held: {series.reason}")
            job = session.scalars(select(JobRow).where(JobRow.series_id == series.id)).first()
            if job is None:
                return SeriesProgress(stage="its series is not complete yet")
            return _progress_of(job)

    def model_of(self, series_uid: str) -> ModelIdentity | None:
        """Return the model that contoured a series, None where that is not recorded."""
        jobs = select(JobRow.id).join(SeriesRow, SeriesRow.id == JobRow.series_id)
        with self._database.reading() as session:
            job = session.scalar(jobs.where(SeriesRow.series_uid == series_uid).order_by(JobRow.id))
            models = models_of_jobs(session, [job]).get(job, ()) if job is not None else ()
            return models[0].identity if models else None  # a check has one model alone

    def end(self, check_id: int, state: ConstancyState, reason: str, result: ConstancyResult | None = None) -> bool:
        """End a check, what is left of it in the queue, and write it into the audit trail; False where it was over."""
        with self._database.transaction() as session:
            row = lock_one(session, ConstancyCheckRow, check_id)
            if row.state not in OPEN:
                return False
            row.state = state
            row.reason = reason
            row.ended_at = self._now()
            row.result = (result or ConstancyResult()).model_dump_json()
            own = select(ConstancySeriesRow.series_id).where(ConstancySeriesRow.check_id == check_id)
            sent = select(SeriesRow).where(SeriesRow.id.in_(own)).order_by(SeriesRow.series_uid)
            for series in session.scalars(locked(sent)):
                self._close(session, series)
            session.add(audit_row(self._now(), self._deed(row)))
            return True

    def _deed(self, row: ConstancyCheckRow) -> AuditEntry:
        words = {ConstancyState.GREEN: "made", ConstancyState.RED: "not made"} if row.purpose == BASELINE else {}
        outcome = words.get(ConstancyState(row.state), row.state.lower())
        return AuditEntry(
            row.actor, f"constancy {row.purpose}", f"constancy {row.id}", f"{outcome}; {row.reason}".rstrip("; ")
        )

    def _close(self, session: Session, series: SeriesRow) -> None:
        """Leave nothing of a series open: no image is waited for, nothing is contoured, nothing is sent."""
        now = self._now()
        if series.state == SeriesState.RECEIVING:
            hold_series(session, series, Reason(HoldReason.CHECK_OVER), now)
        for job in lock_jobs_of_series(session, series.id):
            if job.state in JOBS_NOT_ENDED:
                withdraw_job(session, job, JobEvent.CANCEL, Reason(HoldReason.CHECK_OVER), now)

    def recover(self) -> None:
        """End as red what was under way when contourd ended; what was only asked for is begun now."""
        running = self.open_one()
        if running is not None and running.state == ConstancyState.RUNNING:
            self.end(
                running.id,
                ConstancyState.RED,
                f"contourd was stopped or killed in mid-check; {command('constancy run')}",
            )


def _progress_of(job: JobRow) -> SeriesProgress:
    queued = job.state == JobState.QUEUED
    if job.state in (*JOBS_STOPPED, JobState.SUPERSEDED, JobState.CANCELLED):
        return SeriesProgress(f"job {job.id} is {job.state.lower()}: {job.reason}", claimed=True)
    if queued and job.attempts:
        return SeriesProgress(f"job {job.id} did not end at its first try: {job.reason}", claimed=True)
    stage = f"job {job.id} " + ("waits for its turn; patients go first" if queued else f"is {job.state.lower()}")
    return SeriesProgress(claimed=not queued, delivered=job.state == JobState.DELIVERED, stage=stage)
