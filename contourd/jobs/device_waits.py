"""Jobs that wait for the device: since when, how many, and what is said of those that waited too long."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.jobs.job import JobEvent, JobState
from contourd.jobs.tables import EventRow, JobRow

WAITS_FOR_DEVICE = "waits for the device"
# Of a job that waits a claim and a return follow each other; more of them than any patience makes.
MOST_EVENTS = 1000


def given_up(waited_s: float, why: str) -> str:
    """Say why a job is held."""
    return (
        f"the device could not be used for {waited_s / 60:.0f} minutes: {why}; nothing is wrong with the series: "
        "look at the device, then retry the job"
    )


def waits_since(session: Session, job_id: int) -> datetime | None:
    """Say since when a job has waited for the device without anything else between, None where it has not."""
    events = select(EventRow).where(EventRow.subject == "job", EventRow.subject_id == job_id)
    since = None
    for event in session.scalars(events.order_by(EventRow.id.desc()).limit(MOST_EVENTS)):
        if event.event == JobEvent.REQUEUE and event.detail.startswith(WAITS_FOR_DEVICE):
            since = event.at
        elif event.event != JobEvent.CLAIM:
            break
    return since


def waiting_for_device(session: Session) -> int:
    """Count the jobs that wait, or are tried just now."""
    open_ones = JobRow.state.in_((JobState.QUEUED, JobState.CONTOURING))
    return session.scalar(select(func.count()).where(open_ones, JobRow.reason.startswith(WAITS_FOR_DEVICE))) or 0
