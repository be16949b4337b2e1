"""How many rows there are of each kind: the database counts with every change, and a look costs the same after years.

SQLite keeps them by triggers, within the transaction that changes the rows. In PostgreSQL, where rows that all writers
had to change would make them queue up, the triggers append what each change adds, and a view adds it up.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.store.tables import NO_STATUS, TallyRow

SERIES = "series"
INSTANCES = "instances"
JOBS = "jobs"
DELIVERIES = "deliveries"
ATTEMPTS = "attempts"


@dataclass(frozen=True, slots=True)
class Tally:
    """So many rows, one or more.

    Attributes
    ----------
    destination
        Of deliveries and attempts, else empty.
    state
        Of series, jobs and deliveries; the outcome of attempts; else empty.
    status
        The DIMSE status of attempts; None where no response came, and for all else.
    """

    destination: str
    state: str
    status: int | None
    number: int


def read_tallies(session: Session, table: str) -> list[Tally]:
    """Read those of one table, what constancy checks sent among them, in the order of their attributes."""
    of_table = select(TallyRow).where(TallyRow.table_name == table, TallyRow.number > 0)
    rows = session.scalars(of_table.order_by(TallyRow.destination, TallyRow.state, TallyRow.status))
    return [
        Tally(row.destination, row.state, None if row.status == NO_STATUS else row.status, row.number) for row in rows
    ]


def count_all(session: Session, table: str) -> int:
    """Return the number of a table's rows."""
    return sum(tally.number for tally in read_tallies(session, table))
