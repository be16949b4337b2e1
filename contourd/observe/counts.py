"""Figures of the queue for monitoring: what is there now, and what has happened since the last look.

What happened is read from when the process began, and then only from where the last look ended: a look costs the same
after years. Prometheus knows such counters, which begin at zero with each process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from contourd.errors import QueueUnavailable
from contourd.observe.appended import BATCH, AppendedRows
from contourd.observe.destinations import last_delivered
from contourd.observe.report import jobs_by_state
from contourd.store.constancy_series import LOOPBACK_RECEIVER, own_jobs, own_series
from contourd.store.database import Database
from contourd.store.states import JOBS_ENDED, JOBS_UNDER_WAY, JobEvent, JobState, SeriesState
from contourd.store.tables import AuditRow, EventRow, InstanceRow, JobRow, SeriesRow
from contourd.store.tallies import ATTEMPTS, DELIVERIES, INSTANCES, SERIES, count_all, read_tallies

HOLDS = (JobEvent.HOLD, JobEvent.AWAIT_CONFIRMATION)
ASSOCIATION = "association "  # accepted, rejected, aborted, cut off
# Stage -> the event that begins it and those that end it.
STAGES: Mapping[str, tuple[str, str]] = {
    "waiting": ("queued", "claim"),
    "contouring": ("claim", "contoured"),
    "delivering": ("contoured", "all delivered"),
}


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What is there now.

    Attributes
    ----------
    deliveries
        (destination, state) -> number.
    attempts
        (destination, outcome, DIMSE status as 0xA700 or empty) -> number of tries of deliveries, ever.
    last_success
        Destination -> when it took a structure set last.
    oldest_open
        When the oldest job was made that is neither ended nor held; None where there is none.
    """

    instances: int
    series: Mapping[str, int]
    jobs: Mapping[str, int]
    deliveries: Mapping[tuple[str, str], int]
    attempts: Mapping[tuple[str, str, str], int]
    last_success: Mapping[str, datetime]
    oldest_open: datetime | None


def read_standing(database: Database) -> QueueCounts:
    """Count what is patients'; what a constancy check sends is told apart."""
    with database.reading() as session:
        deliveries = {
            (tally.destination, tally.state): tally.number
            for tally in read_tallies(session, DELIVERIES)
            if tally.destination != LOOPBACK_RECEIVER
        }
        series = {tally.state: tally.number for tally in read_tallies(session, SERIES)}
        own = select(SeriesRow.state, func.count()).where(SeriesRow.id.in_(own_series())).group_by(SeriesRow.state)
        for state, number in session.execute(own):
            series[state] -= number
        own_images = select(func.count(InstanceRow.id)).where(InstanceRow.series_id.in_(own_series()))
        open_ones = JobRow.state.in_(JOBS_UNDER_WAY), JobRow.series_id.not_in(own_series())
        return QueueCounts(
            count_all(session, INSTANCES) - (session.scalar(own_images) or 0),
            {str(s): 0 for s in SeriesState} | series,
            {str(s): 0 for s in JobState} | jobs_by_state(session),
            deliveries,
            {
                (tally.destination, tally.state, "" if tally.status is None else f"0x{tally.status:04X}"): tally.number
                for tally in read_tallies(session, ATTEMPTS)
                if tally.destination != LOOPBACK_RECEIVER
            },
            {
                name: at
                for name in dict.fromkeys(n for n, _ in deliveries)
                if (at := last_delivered(session, name)) is not None
            },
            session.scalar(select(func.min(JobRow.created_at)).where(*open_ones)),
        )


class EventCounters:
    """What has happened since this was made, added up from the events and the audit trail."""

    def __init__(self, database: Database, observe: Callable[[str, float], None]) -> None:
        self._database = database
        self._observe = observe  # of a stage and its seconds
        self._new_events = AppendedRows(EventRow)
        self._new_entries = AppendedRows(AuditRow)
        self._left_out = False
        self._begun: dict[tuple[int, str], datetime] = {}
        self.held: Counter[str] = Counter()
        self.remarks: Counter[tuple[str, str]] = Counter()  # of what was looked at, and what became of it
        self.associations: Counter[str] = Counter()
        with suppress(QueueUnavailable):  # the first look tries again
            self._begin()

    def _begin(self) -> None:
        """Leave out what was there before."""
        if not self._left_out:
            with self._database.reading() as session:
                self._new_events.leave_out(session)
                self._new_entries.leave_out(session)
            self._left_out = True

    def catch_up(self) -> None:
        """Read what came since the last call."""
        self._begin()
        with self._database.reading() as session:
            while self._read_events(session):
                pass
            while self._read_audit(session):
                pass

    def _read_events(self, session: Session) -> bool:
        own = or_(
            and_(EventRow.subject == "job", EventRow.subject_id.in_(own_jobs())),
            and_(EventRow.subject == "series", EventRow.subject_id.in_(own_series())),
        )
        rows = self._new_events.read(session, EventRow.subject != "delivery", ~own)
        for row in rows:
            if row.event in HOLDS and row.reason is not None:
                self.held[row.reason.held_as] += 1
            if row.subject == "job":
                self._stage(row)
        self._count_remarks(session, [r.subject_id for r in rows if (r.subject, r.event) == ("job", "contoured")])
        session.expunge_all()
        return len(rows) == BATCH

    def _count_remarks(self, session: Session, jobs: Sequence[int]) -> None:
        for remarks in session.scalars(select(JobRow.remarks).where(JobRow.id.in_(jobs))) if jobs else ():
            self.remarks.update((str(r.finding.check), str(r.verdict)) for r in remarks.records)

    def _stage(self, row: EventRow) -> None:
        for stage, (begins, ends) in STAGES.items():
            if row.event == ends and (since := self._begun.pop((row.subject_id, stage), None)) is not None:
                self._observe(stage, max(0.0, (row.at - since).total_seconds()))
            if row.event == begins:
                self._begun[row.subject_id, stage] = row.at
        if row.state in (*JOBS_ENDED, JobState.FAILED):
            for stage in STAGES:
                self._begun.pop((row.subject_id, stage), None)

    def _read_audit(self, session: Session) -> bool:
        rows = self._new_entries.read(session, AuditRow.action.startswith(ASSOCIATION))
        for row in rows:
            self.associations[row.action.removeprefix(ASSOCIATION)] += row.times
        session.expunge_all()
        return len(rows) == BATCH
