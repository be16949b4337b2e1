"""What the spool's journal knows of a series and the database has forgotten: written down again at the start."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy.orm import Session

from contourd.intake.refusals import restore_refused
from contourd.intake.series_steps import reopen_series
from contourd.intake.verdicts import ENDED
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.spool.marks import JournalEntry, JournalMark
from contourd.store.database import Database
from contourd.store.locks import lock_jobs_of_series, lock_series
from contourd.store.queue import Queue
from contourd.store.states import JOBS_UNDER_WAY, JobEvent, JobState, SeriesState
from contourd.store.tables import SeriesRow
from contourd.store.transitions import advance_job
from contourd.system.clock import utc_now

Standing = Mapping[str, JournalEntry]


def finish_interrupted(
    database: Database, recorded: Collection[str], broken_off: Collection[str], standing: Standing
) -> None:
    """Record how the transfer of series ended whose images were recorded at the start; raises QueueUnavailable."""
    for uid in recorded:
        with database.transaction() as session:
            series = lock_series(session, [uid])[uid]
            series.interrupted = ENDED if uid in broken_off else ""
            _recall(session, Queue(database), series, standing.get(uid))


def recall_all(database: Database, standing: Standing) -> None:
    """Write down again what stands against series that an older database knows; raises QueueUnavailable."""
    for uid, marks in standing.items():
        with database.transaction() as session:
            series = lock_series(session, [uid]).get(uid)
            if series is not None:
                _recall(session, Queue(database), series, marks)


def _recall(session: Session, queue: Queue, series: SeriesRow, marks: JournalEntry | None) -> None:
    """Restore a series to the state in its journal: broken off, without an image, stopped by a person."""
    if marks is None:
        return
    now = utc_now()
    if JournalMark.INTERRUPTED in marks.words:
        series.interrupted = marks.words[JournalMark.INTERRUPTED]
    if marks.refused:
        restore_refused(session, series.series_uid, marks.refused, now)
        if series.state == SeriesState.COMPLETE:
            reopen_series(session, queue, series, "an image of it was refused", now)
    word = marks.words.get(JournalMark.PERSON)
    if word is None:
        return
    reason = Reason.of(HoldReason.DATABASE_PUT_BACK, why=Reason.read_whole(word) or word)  # before codes: its sentence
    jobs = [job for job in lock_jobs_of_series(session, series.id) if job.state in JOBS_UNDER_WAY]
    for job in jobs:
        job.reason = reason
        job.lease_until = None
        if job.state == JobState.CONTOURING:
            advance_job(session, job, JobEvent.REQUEUE, "contourd was restarted", now)
        advance_job(session, job, JobEvent.HOLD, reason, now)
    if series.state == SeriesState.RECEIVING:
        series.hold = reason
