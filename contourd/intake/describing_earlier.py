"""Series of an earlier version, described from their images where these are still here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from contourd.intake.describing import SeriesDescriber, write_description
from contourd.store.archive_tables import PatientNameRow, SeriesDescriptionRow
from contourd.store.constancy_series import own_series
from contourd.store.database import Database
from contourd.store.tables import InstanceRow, SeriesRow
from contourd.transfer.copies import Copies, bring_if_possible

BATCH = 200


@dataclass(frozen=True, slots=True)
class DescribedEarlier:
    """How many series are described now, and of how many the images are gone or cannot be read."""

    described: int
    gone: int


def describe_earlier(database: Database, root: Path, copies: Copies, describer: SeriesDescriber) -> DescribedEarlier:
    """Describe every series of which nothing is written down, by its first image.

    Raises
    ------
    QueueUnavailable
        The database does not take it; what was described so far stays.
    """
    described = gone = last = 0
    known = select(PatientNameRow.series_id).union(select(SeriesDescriptionRow.series_id))
    first = select(InstanceRow.series_id, func.min(InstanceRow.id).label("image")).group_by(InstanceRow.series_id)
    while True:
        with database.reading() as session:
            wanted = select(SeriesRow.id).where(
                SeriesRow.id > last, SeriesRow.id.not_in(known), SeriesRow.id.not_in(own_series())
            )
            series = list(session.scalars(wanted.order_by(SeriesRow.id).limit(BATCH)))
            images = first.where(InstanceRow.series_id.in_(series)).subquery()
            paths = dict(
                session.execute(
                    select(InstanceRow.series_id, InstanceRow.path).join(images, images.c.image == InstanceRow.id)
                ).all()
            )
        if not series:
            return DescribedEarlier(described, gone)
        last = series[-1]
        bring_if_possible(copies, paths.values())
        found = {n: describer.describe_files([root / path]) for n, path in paths.items()}
        with database.transaction() as session:
            for number, one in found.items():
                if one is not None:
                    write_description(session, number, one)
        here = sum(one is not None for one in found.values())
        described, gone = described + here, gone + len(series) - here
