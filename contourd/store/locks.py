"""Locks of rows: what SQLite's one writer gives for free, and PostgreSQL's many ask for.

Whoever decides by a row, and then writes, locks it first: ``FOR NO KEY UPDATE``, so that rows which refer to it may be
added meanwhile. In SQLite nothing is locked, for a transaction that writes is alone.

So that no two wait for each other, all lock in one order: series by their UIDs, then jobs by their numbers, then
deliveries by theirs. A transaction that has locked a job locks no series after it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar
from zlib import crc32

from sqlalchemy import Select, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from contourd.store.tables import DeliveryRow, JobRow, SeriesRow, Table

Rows = TypeVar("Rows", bound=Select[Any])
Row = TypeVar("Row", bound=Table)
# The first half of the key of an advisory lock by which transactions take turns.
TURNS = 0x636F6E74


def locked(rows: Rows) -> Rows:
    """Return a query that locks the rows which it finds, and reads them as they are then."""
    return rows.with_for_update(key_share=True).execution_options(populate_existing=True)


def lock_row(session: Session, table: type[Row], number: object) -> Row | None:
    """Lock one row by its primary key and return it as it is now, None where there is none."""
    return session.get(table, number, with_for_update={"key_share": True}, populate_existing=True)


def lock_one(session: Session, table: type[Row], number: object) -> Row:
    """Lock one row that is there, and return it as it is now."""
    return session.get_one(table, number, with_for_update={"key_share": True}, populate_existing=True)


def lock_series(session: Session, series_uids: Collection[str]) -> dict[str, SeriesRow]:
    """Lock the series of these UIDs that are there, and return them by UID."""
    if not series_uids:
        return {}
    wanted = select(SeriesRow).where(SeriesRow.series_uid.in_(sorted(series_uids))).order_by(SeriesRow.series_uid)
    return {row.series_uid: row for row in session.scalars(locked(wanted))}


def lock_job(session: Session, job_id: int) -> JobRow | None:
    """Lock a job after its series, and return it; None where there is none."""
    series = session.scalar(select(JobRow.series_id).where(JobRow.id == job_id))
    if series is None:
        return None
    lock_row(session, SeriesRow, series)
    return lock_row(session, JobRow, job_id)


def lock_jobs_of_series(session: Session, series_id: int) -> list[JobRow]:
    """Lock all jobs of a series, which is locked, and return them by their numbers."""
    return list(session.scalars(locked(select(JobRow).where(JobRow.series_id == series_id).order_by(JobRow.id))))


def lock_deliveries_of_job(session: Session, job_id: int) -> list[DeliveryRow]:
    """Lock all deliveries of a job, which is locked, and return them by their numbers."""
    of_job = select(DeliveryRow).where(DeliveryRow.job_id == job_id).order_by(DeliveryRow.id)
    return list(session.scalars(locked(of_job)))


def lock_delivery(session: Session, delivery_id: int) -> DeliveryRow:
    """Lock a delivery after its job, whose end it may be, and return it."""
    job = session.scalars(select(DeliveryRow.job_id).where(DeliveryRow.id == delivery_id)).one()
    lock_one(session, JobRow, job)
    return lock_one(session, DeliveryRow, delivery_id)


def take_turns(session: Session, about: str) -> None:
    """Wait until no other transaction has the turn of this name: for what depends on rows that are not there yet."""
    if session.get_bind().dialect.name != "sqlite":
        key = crc32(about.encode()) - 2**31
        session.execute(select(func.pg_advisory_xact_lock(TURNS, key)))


def insert_absent(session: Session, row: Table) -> bool:
    """Insert a row if none of its key, or of a unique constraint, is there; False where one is, or has just come.

    ``row`` itself is no part of the session: read it from there.
    """
    state = inspect(row)
    kept = state.mapper.column_attrs
    values = {one.columns[0].name: state.dict[one.key] for one in kept if one.key in state.dict}
    table = Table.metadata.tables[row.__tablename__]
    if session.get_bind().dialect.name == "sqlite":
        return bool(session.execute(sqlite.insert(table).values(values).on_conflict_do_nothing()).rowcount)  # type: ignore[attr-defined]
    keys = postgresql.insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return session.execute(keys).first() is not None
