"""Who has called this node, as far as the queue remembers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from contourd.store.constancy_series import own_series
from contourd.store.database import Database
from contourd.store.tables import SeriesRow


def last_call(database: Database, ae_title: str) -> datetime | None:
    """Return when an AE title last sent an image; None if it never did. A constancy check borrows one."""
    sent = SeriesRow.calling_ae == ae_title, SeriesRow.id.not_in(own_series())
    with database.reading() as session:
        called: datetime | None = session.scalar(select(func.max(SeriesRow.last_instance_at)).where(*sent))
        return called
