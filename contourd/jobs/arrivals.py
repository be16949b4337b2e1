"""A further image of a series that is being received: what nearly every image is, written down in three statements."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from contourd.dicom.reception import ReceivedInstance
from contourd.jobs.job import SeriesState
from contourd.jobs.tables import Table

SERIES, INSTANCES = Table.metadata.tables["series"], Table.metadata.tables["instances"]
_KNOWN = select(INSTANCES.c.id).where(
    INSTANCES.c.series_id == SERIES.c.id, INSTANCES.c.sop_instance_uid == bindparam("sop_instance_uid")
)
_LAST = select(INSTANCES.c.id).where(INSTANCES.c.series_id == SERIES.c.id).limit(1).offset(bindparam("before_last"))
_FOUND = select(
    SERIES.c.id,
    SERIES.c.purged_at,
    func.coalesce(_KNOWN.scalar_subquery(), _LAST.scalar_subquery()).label("obstacle"),
).where(
    SERIES.c.series_uid == bindparam("series_uid"),
    SERIES.c.state == SeriesState.RECEIVING,
    SERIES.c.calling_ae != "",
)
_ADD = insert(INSTANCES)
_TOUCH = update(SERIES).where(SERIES.c.id == bindparam("of_series")).values(last_instance_at=bindparam("now"))


def add_further(session: Session, received: ReceivedInstance, most: int, now: datetime) -> bool:
    """Add an image to its series; False, and nothing is written, where there is more to decide about it.

    Parameters
    ----------
    most
        The number of images that a series may have.
    """
    connection = session.connection()
    wanted = {
        "series_uid": received.series_instance_uid,
        "sop_instance_uid": received.sop_instance_uid,
        "before_last": most - 1,
    }
    found = connection.execute(_FOUND, wanted).one_or_none()
    if found is None or found.obstacle is not None:
        return False
    connection.execute(
        _ADD,
        {
            "series_id": found.id,
            "sop_instance_uid": received.sop_instance_uid,
            "path": received.path,
            "sha256": received.sha256,
            "received_at": after_removal(found.purged_at, now),
        },
    )
    connection.execute(_TOUCH, {"of_series": found.id, "now": now})
    return True


def after_removal(purged_at: datetime | None, now: datetime) -> datetime:
    """Date an image after the removal of the earlier ones, whatever the clock says: so they are told apart."""
    return now if purged_at is None else max(now, purged_at + timedelta(milliseconds=1))
