"""What of the queue a person should hear of, without being at the screen: numbers and classes, no free text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.reasons.catalogue import HoldClass, Reason
from contourd.store.constancy_series import LOOPBACK_RECEIVER, own_series
from contourd.store.database import Database
from contourd.store.device_waits import waiting_for_device
from contourd.store.states import JOBS_SENDING, JOBS_STOPPED, JOBS_UNDER_WAY, DeliveryState, JobState, SeriesState
from contourd.store.tables import DeliveryRow, EventRow, JobRow, SeriesRow


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that is not as it should be.

    Attributes
    ----------
    rule
        The rule of ``[alerts]`` that it falls under.
    subject
        As ``job 12`` or ``destination pacs``: with the rule it tells one concern from another.
    text
        What is wrong, for a person.
    occasion
        Changes when the same subject comes to the same state anew.
    """

    rule: str
    subject: str
    text: str
    occasion: str = ""

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.rule}/{self.subject}/{self.occasion}"


def read_concerns(database: Database, now: datetime, down_s: float, oldest_s: float) -> list[Concern]:
    """Read them all.

    Parameters
    ----------
    down_s
        A destination is down when a delivery has been tried in vain for so long.
    oldest_s
        A job should not be older than this and still open.
    """
    with database.reading() as session:
        return [
            *_held_series(session),
            *_jobs(session),
            *_destinations(session, now - timedelta(seconds=down_s)),
            *_oldest(session, now, oldest_s),
            *_device(session),
        ]


def _device(session: Session) -> list[Concern]:
    number = waiting_for_device(session)
    return [Concern("device", "device", f"the device cannot be used: {number} jobs wait for it")] if number else []


def _held_series(session: Session) -> list[Concern]:
    held = SeriesRow.state == SeriesState.HELD, SeriesRow.id.not_in(own_series())
    rows = session.scalars(select(SeriesRow).where(*held).order_by(SeriesRow.id))
    return [
        Concern(
            "held",
            f"series {row.id}",
            f"series {row.id} is held: {_words(row.reason)}",
            _occasion(session, "series", row.id),
        )
        for row in rows
    ]


def _jobs(session: Session) -> list[Concern]:
    stopped = JobRow.state.in_(JOBS_STOPPED), JobRow.series_id.not_in(own_series())
    wanted = select(JobRow).where(*stopped).order_by(JobRow.id)
    concerns = []
    for row in session.scalars(wanted):
        about, occasion = f"job {row.id}", _occasion(session, "job", row.id)
        if row.state == JobState.FAILED:
            concerns.append(Concern("failed", about, f"job {row.id} failed", occasion))
        else:
            concerns.append(Concern("held", about, f"job {row.id} is held: {_words(row.reason)}", occasion))
    return concerns


def _words(reason: Reason | None) -> str:
    return (reason.held_as if reason else HoldClass.SERIES_UNUSABLE).replace("_", " ")


def _occasion(session: Session, subject: str, number: int) -> str:
    last = select(func.max(EventRow.id)).where(EventRow.subject == subject, EventRow.subject_id == number)
    return str(session.scalar(last) or 0)


def _destinations(session: Session, before: datetime) -> list[Concern]:
    of_open_jobs = select(DeliveryRow.destination, func.count()).join(JobRow, JobRow.id == DeliveryRow.job_id)
    stuck = of_open_jobs.where(
        JobRow.state.in_(JOBS_SENDING),  # what a person holds says nothing of a destination
        DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)),
        DeliveryRow.destination != LOOPBACK_RECEIVER,
        DeliveryRow.attempts > 0,
        DeliveryRow.reason_code != "",
        DeliveryRow.created_at <= before,
    )
    return [
        Concern("destination", f"destination {name}", f"destination {name} takes nothing: {number} wait for it")
        for name, number in session.execute(stuck.group_by(DeliveryRow.destination).order_by(DeliveryRow.destination))
    ]


def _oldest(session: Session, now: datetime, oldest_s: float) -> list[Concern]:
    open_ones = JobRow.state.in_(JOBS_UNDER_WAY), JobRow.series_id.not_in(own_series())
    at = session.scalar(select(func.min(JobRow.created_at)).where(*open_ones))
    if at is None or (now - at).total_seconds() <= oldest_s:
        return []
    return [Concern("age", "oldest job", f"the oldest open job is {(now - at).total_seconds() / 60:.0f} minutes old")]
