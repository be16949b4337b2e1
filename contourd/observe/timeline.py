"""The audit trail and the record of transitions, read as one time line: neither repeats what the other holds."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from contourd.errors import InvalidTransition
from contourd.store.database import Database
from contourd.store.tables import AuditRow, DeliveryRow, EventRow, JobRow

NODE = "contourd"
BATCH = 1000


@dataclass(frozen=True, slots=True)
class TimelineFilter:
    """What is asked for; None: all.

    Attributes
    ----------
    action
        The beginning of an action: ``job`` finds every event of jobs, ``job hold`` those that were held.
    job
        The job, its series and its deliveries.
    """

    since: datetime
    until: datetime
    action: str = ""
    job: int | None = None


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One entry; ``state`` is that of the subject afterwards, ``code`` that of its reason; empty where it has none."""

    at: datetime
    actor: str
    action: str
    subject: str
    state: str
    detail: str
    job: int | None
    destination: str | None
    code: str = ""


def read_timeline(database: Database, wanted: TimelineFilter) -> Iterator[TimelineEntry]:
    """Read the entries from ``since`` up to, and without, ``until``, the oldest first.

    Raises
    ------
    InvalidTransition
        There is no such job.
    """
    with database.reading() as session:
        job = None
        if wanted.job is not None and (job := session.get(JobRow, wanted.job)) is None:
            raise InvalidTransition(f"there is no job {wanted.job}")
        lines = heapq.merge(_audited(session, wanted, job), _events(session, wanted, job), key=lambda line: line.at)
        yield from (line for line in lines if line.action.startswith(wanted.action))


def _audited(session: Session, wanted: TimelineFilter, job: JobRow | None) -> Iterator[TimelineEntry]:
    query = select(AuditRow).where(AuditRow.at >= wanted.since, AuditRow.at < wanted.until)
    if job is not None:
        query = query.where(AuditRow.subject.in_((f"job {job.id}", f"series {job.series_id}")))
    for row in session.scalars(query.order_by(AuditRow.at, AuditRow.id).execution_options(yield_per=BATCH)):
        word, _, number = row.subject.partition(" ")
        named = int(number) if word == "job" and number.isdecimal() else None
        yield TimelineEntry(row.at, row.actor, row.action, row.subject, "", row.detail, named, None)


def _events(session: Session, wanted: TimelineFilter, job: JobRow | None) -> Iterator[TimelineEntry]:
    query = _with_deliveries().where(EventRow.at >= wanted.since, EventRow.at < wanted.until)
    if job is not None:
        query = query.where(
            or_(
                and_(EventRow.subject == "job", EventRow.subject_id == job.id),
                and_(EventRow.subject == "delivery", DeliveryRow.job_id == job.id),
                and_(EventRow.subject == "series", EventRow.subject_id == job.series_id),
            )
        )
    ordered = query.order_by(EventRow.at, EventRow.id).execution_options(yield_per=BATCH)
    for row, job_id, destination in session.execute(ordered):
        of = row.subject_id if row.subject == "job" else job_id
        action, subject = f"{row.subject} {row.event}", f"{row.subject} {row.subject_id}"
        yield TimelineEntry(row.at, NODE, action, subject, row.state, row.text, of, destination, row.reason_code)


def _with_deliveries() -> Select[EventRow, int, str]:
    of_delivery = and_(EventRow.subject == "delivery", DeliveryRow.id == EventRow.subject_id)
    return select(EventRow, DeliveryRow.job_id, DeliveryRow.destination).outerjoin(DeliveryRow, of_delivery)
