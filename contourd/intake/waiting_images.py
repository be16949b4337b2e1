"""What images are there for jobs to come: of series that still arrive, and of those whose job waits."""

from __future__ import annotations

from sqlalchemy import select

from contourd.store.database import Database
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import InstanceRow, JobRow, SeriesRow

MOST_SERIES = 50


def arriving_images(database: Database, most: int) -> dict[str, str]:
    """Return path -> hash of when it was received, in the order of their arrival; raises QueueUnavailable.

    Parameters
    ----------
    most
        Images that are listed.
    """
    receiving = select(SeriesRow.id).where(SeriesRow.state == SeriesState.RECEIVING)
    queued = select(JobRow.series_id).where(JobRow.state == JobState.QUEUED)
    with database.reading() as session:
        series = [*session.scalars(queued.limit(MOST_SERIES)), *session.scalars(receiving.limit(MOST_SERIES))]
        if not series:
            return {}
        images = select(InstanceRow.path, InstanceRow.sha256).where(InstanceRow.series_id.in_(series))
        rows = session.execute(images.order_by(InstanceRow.id).limit(most))
        return {row.path: row.sha256 for row in rows}
