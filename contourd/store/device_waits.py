"""Jobs that wait for the device: since when, and how many."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.reasons.catalogue import HoldReason
from contourd.store.states import JobEvent, JobState
from contourd.store.tables import EventRow, JobRow

# Of a job that waits a claim and a return follow each other; more of them than any patience makes.
MOST_EVENTS = 1000


def waits_since(session: Session, job_id: int) -> datetime | None:
    """Return since when a job has waited for the device without anything else between, None where it has not."""
    events = select(EventRow).where(EventRow.subject == "job", EventRow.subject_id == job_id)
    since = None
    for event in session.scalars(events.order_by(EventRow.id.desc()).limit(MOST_EVENTS)):
        if event.event == JobEvent.REQUEUE and event.reason_code == HoldReason.WAITS_FOR_DEVICE:
            since = event.at
        elif event.event != JobEvent.CLAIM:
            break
    return since


def waiting_for_device(session: Session) -> int:
    """Count the jobs that wait, or are tried just now."""
    open_ones = JobRow.state.in_((JobState.QUEUED, JobState.CONTOURING))
    waits = JobRow.reason_code == HoldReason.WAITS_FOR_DEVICE
    return session.scalar(select(func.count()).where(open_ones, waits)) or 0
