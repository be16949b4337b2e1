"""Steps of a series inside the caller's transaction: held, opened again, complete with a job."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.locks import lock_jobs_of_series
from contourd.store.queue import Queue
from contourd.store.route_choice import RouteChoice
from contourd.store.states import JOBS_NOT_ENDED, SeriesEvent, SeriesState
from contourd.store.tables import JobRow, SeriesRow
from contourd.store.transitions import add_job, advance_series, record


def hold_series(session: Session, series: SeriesRow, reason: Reason, now: datetime) -> None:
    """Hold a series, or tell another reason of one that is held."""
    if series.state == SeriesState.COMPLETE:
        advance_series(session, series, SeriesEvent.INSTANCE, reason, now)
    if series.state == SeriesState.RECEIVING:
        advance_series(session, series, SeriesEvent.HOLD, reason, now)
    elif series.reason != reason:
        record(session, "series", series.id, SeriesEvent.HOLD, series.state, reason, now)
    series.reason = reason


def reopen_series(session: Session, queue: Queue, series: SeriesRow, reason: str, now: datetime) -> None:
    """Wait for more of a series that was complete or held; its jobs are of an older revision then."""
    series.last_instance_at = now
    if series.state == SeriesState.RECEIVING:
        return
    jobs = lock_jobs_of_series(session, series.id)
    if jobs:
        series.revision += 1
        queue.supersede_jobs(session, jobs, Reason.of(HoldReason.NEWER_REVISION, because=reason))
    series.reason = None
    advance_series(session, series, SeriesEvent.INSTANCE, f"re-opened: {reason}", now)


def stop_jobs(session: Session, queue: Queue, series: SeriesRow, reason: Reason) -> None:
    """End the jobs of a series that are not delivered; what is made of it next is of a new revision."""
    jobs = [job for job in lock_jobs_of_series(session, series.id) if job.revision == series.revision]
    under_way = [job for job in jobs if job.state in JOBS_NOT_ENDED]
    if under_way:
        series.revision += 1
        queue.supersede_jobs(session, under_way, reason)


def complete_series(
    session: Session, series: SeriesRow, route: Route, now: datetime, choice: RouteChoice | None = None
) -> None:
    """Make the job of a series, with why it took the route.

    One that was released after a hold that left its job untouched has it already.
    """
    advance_series(session, series, SeriesEvent.COMPLETED, f"revision {series.revision}", now)
    series.reason = None
    series.interrupted = ""
    series.purged_at = None
    series.purged_images = 0
    same = select(JobRow).where(
        JobRow.series_id == series.id, JobRow.revision == series.revision, JobRow.model == route.asked
    )
    if session.scalars(same).first() is None:
        add_job(session, series, route, ", ".join(route.models), now, choice)
