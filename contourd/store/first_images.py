"""An image of a series or of a job: enough to read whose it is."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from contourd.store.database import Database
from contourd.store.tables import InstanceRow, JobRow, SeriesRow


def first_images(database: Database, series_uids: Sequence[str]) -> dict[str, str]:
    """Return SeriesInstanceUID -> path of its first image, relative to the spool."""
    first = select(func.min(InstanceRow.id)).group_by(InstanceRow.series_id)
    paths = select(SeriesRow.series_uid, InstanceRow.path).join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
    wanted = paths.where(InstanceRow.id.in_(first), SeriesRow.series_uid.in_(series_uids))
    with database.reading() as session:
        return {row.series_uid: row.path for row in session.execute(wanted)}


def image_of_job(database: Database, job_id: int) -> str | None:
    """Return the path of an image that a job is about, None where there is no such job."""
    of_job = select(InstanceRow.path).join(JobRow, JobRow.series_id == InstanceRow.series_id)
    with database.reading() as session:
        return session.scalars(of_job.where(JobRow.id == job_id).order_by(InstanceRow.id).limit(1)).first()


def image_of_series(database: Database, series_id: int) -> str | None:
    """Return the path of an image of a series, None where there is none."""
    of_series = select(InstanceRow.path).where(InstanceRow.series_id == series_id)
    with database.reading() as session:
        return session.scalars(of_series.order_by(InstanceRow.id).limit(1)).first()
