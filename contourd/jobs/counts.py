"""Figures of the queue for monitoring: what is there now, and what has happened since the last look.

What happened is read once and then only from where the last look ended, so that a look costs the same after years.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from contourd.jobs.database import Database
from contourd.jobs.job import DeliveryState, JobState, SeriesState
from contourd.jobs.own_series import LOOPBACK_RECEIVER, own_jobs, own_series
from contourd.jobs.reasons import class_of
from contourd.jobs.tables import AttemptRow, AuditRow, DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow

OPEN_JOBS = (JobState.QUEUED, JobState.CONTOURING, JobState.DELIVERING)
BATCH = 5000
ASSOCIATION = "association "  # accepted, rejected, aborted, cut off
REPEATED = re.compile(r"(\d+) more since [\d:]+ UTC$")  # one row of the audit trail may stand for many
# Stage -> the event that begins it and those that end it.
STAGES: Mapping[str, tuple[str, str]] = {
    "waiting": ("queued", "claim"),
    "contouring": ("claim", "contoured"),
    "delivering": ("contoured", "all delivered"),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What is there now.

    Attributes
    ----------
    deliveries
        (destination, state) -> number.
    last_success
        Destination -> when it took a structure set last.
    oldest_open
        When the oldest job was made that is neither ended nor held; None where there is none.
    """

    instances: int
    series: Mapping[str, int]
    jobs: Mapping[str, int]
    deliveries: Mapping[tuple[str, str], int]
    last_success: Mapping[str, datetime]
    oldest_open: datetime | None


def read_standing(database: Database) -> Standing:
    """Count what is patients'; what a constancy check sends is told apart."""
    with database.reading() as session:
        deliveries = session.execute(
            select(DeliveryRow.destination, DeliveryRow.state, func.count())
            .where(DeliveryRow.destination != LOOPBACK_RECEIVER)
            .group_by(DeliveryRow.destination, DeliveryRow.state)
        )
        accepted = session.execute(
            select(DeliveryRow.destination, func.max(DeliveryRow.updated_at))
            .where(DeliveryRow.state == DeliveryState.DELIVERED, DeliveryRow.destination != LOOPBACK_RECEIVER)
            .group_by(DeliveryRow.destination)
        )
        series = session.execute(
            select(SeriesRow.state, func.count()).where(SeriesRow.id.not_in(own_series())).group_by(SeriesRow.state)
        )
        of_patients = JobRow.series_id.not_in(own_series())
        jobs = session.execute(select(JobRow.state, func.count()).where(of_patients).group_by(JobRow.state))
        return Standing(
            session.scalar(select(func.count(InstanceRow.id)).where(InstanceRow.series_id.not_in(own_series()))) or 0,
            {str(s): 0 for s in SeriesState} | dict(series.all()),
            {str(s): 0 for s in JobState} | dict(jobs.all()),
            {(destination, state): number for destination, state, number in deliveries},
            dict(accepted.all()),
            session.scalar(select(func.min(JobRow.created_at)).where(JobRow.state.in_(OPEN_JOBS), of_patients)),
        )


class History:
    """What has happened, added up from the events and the attempts."""

    def __init__(self, database: Database, observe: Callable[[str, float], None]) -> None:
        self._database = database
        self._observe = observe  # of a stage and its seconds
        self._last_event = self._last_attempt = self._last_audit = 0
        self._begun: dict[tuple[int, str], datetime] = {}
        self.held: Counter[str] = Counter()
        self.attempts: Counter[tuple[str, str, str]] = Counter()  # destination, outcome, status

        self.associations: Counter[str] = Counter()

    def catch_up(self) -> None:
        """Read what came since the last call."""
        with self._database.reading() as session:
            while self._read_events(session):
                pass
            while self._read_attempts(session):
                pass
            while self._read_audit(session):
                pass

    def _read_events(self, session: Session) -> bool:
        own = or_(
            and_(EventRow.subject == "job", EventRow.subject_id.in_(own_jobs())),
            and_(EventRow.subject == "series", EventRow.subject_id.in_(own_series())),
        )
        wanted = select(EventRow).where(EventRow.id > self._last_event, EventRow.subject != "delivery", ~own)
        rows = session.scalars(wanted.order_by(EventRow.id).limit(BATCH)).all()
        for row in rows:
            self._last_event = row.id
            if row.event == "hold":
                self.held[class_of(row.detail)] += 1
            if row.subject == "job":
                self._stage(row)
        session.expunge_all()
        return len(rows) == BATCH

    def _stage(self, row: EventRow) -> None:
        for stage, (begins, ends) in STAGES.items():
            if row.event == ends and (since := self._begun.pop((row.subject_id, stage), None)) is not None:
                self._observe(stage, max(0.0, (row.at - since).total_seconds()))
            if row.event == begins:
                self._begun[row.subject_id, stage] = row.at
        if row.state in (JobState.DELIVERED, JobState.SUPERSEDED, JobState.FAILED):
            for stage in STAGES:
                self._begun.pop((row.subject_id, stage), None)

    def _read_attempts(self, session: Session) -> bool:
        wanted = select(AttemptRow).where(
            AttemptRow.id > self._last_attempt, AttemptRow.destination != LOOPBACK_RECEIVER
        )
        rows = session.scalars(wanted.order_by(AttemptRow.id).limit(BATCH)).all()
        for row in rows:
            self._last_attempt = row.id
            status = "" if row.status is None else f"0x{row.status:04X}"
            self.attempts[row.destination, row.outcome, status] += 1
        session.expunge_all()
        return len(rows) == BATCH

    def _read_audit(self, session: Session) -> bool:
        wanted = select(AuditRow).where(AuditRow.id > self._last_audit, AuditRow.action.startswith(ASSOCIATION))
        rows = session.scalars(wanted.order_by(AuditRow.id).limit(BATCH)).all()
        for row in rows:
            self._last_audit = row.id
            more = REPEATED.search(row.detail)
            self.associations[row.action.removeprefix(ASSOCIATION)] += int(more[1]) if more else 1
        session.expunge_all()
        return len(rows) == BATCH
