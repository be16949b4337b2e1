"""A stopped site's queue carried into another database, SQLite or PostgreSQL: all of it, checked, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Row, Select, Text, func, insert, select, text
from sqlalchemy import Table as CoreTable
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from contourd.errors import BackupError
from contourd.store import archive_tables as archive_tables  # its tables are carried over with the others
from contourd.store.column_types import Keywords, RemarkRecords
from contourd.store.database import Database, reason_of
from contourd.store.tables import Table

BATCH = 1000
COUNTED = "tallies"  # the database makes its rows by itself


@dataclass(frozen=True, slots=True)
class Moved:
    """What was carried over."""

    tables: int
    rows: int


def move_queue(source: Database, target: Database) -> Moved:
    """Copy every row, and compare each with its copy before the copies count.

    Nobody else may use either database.

    Raises
    ------
    BackupError
        A node uses one of them, the target is not empty, or a row does not fit into it; nothing was copied.
    SchemaMismatch
        One of them is not at this version's revision.
    QueueUnavailable
        One of them cannot be read or written.
    """
    source.check()
    target.prepare()
    for database in (source, target):
        _refuse_others(database)
    tables = _plain_tables()
    with source.reading() as old, _written_whole(target) as new:
        _refuse_rows(new, target, tables)
        rows = sum(_copy(old, new, table) for table in tables)
        for table in tables:
            _compare(old, new, table)
            _count_on(new, table)
    return Moved(len(tables), rows)


def _plain_tables() -> list[CoreTable]:
    """Return the tables, each after those that it refers to, with what is kept as text read as that text."""
    plain, metadata = [], MetaData()
    for table in Table.metadata.sorted_tables:
        if table.name != COUNTED:
            columns = (
                Column(
                    c.name,
                    Text() if isinstance(c.type, RemarkRecords | Keywords) else c.type,
                    primary_key=c.primary_key,
                )
                for c in table.columns
            )
            plain.append(CoreTable(table.name, metadata, *columns))
    return plain


def _refuse_others(database: Database) -> None:
    """Refuse where another process is connected; that of SQLite's spool is kept away by its lock."""
    if database.is_sqlite:
        return
    others = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'contourd' AND pid <> pg_backend_pid()"
    )
    with database.reading() as session:
        if session.scalar(others):
            raise BackupError(
                f"another contourd is connected to the database {database.name}; stop contourd on every host first"
            )


@contextmanager
def _written_whole(target: Database) -> Iterator[Session]:
    try:
        with target.transaction() as session:
            yield session
    except (DataError, IntegrityError) as error:
        raise BackupError(
            f"a row does not fit into the database {target.name}: {reason_of(error)}; nothing was copied"
        ) from error


def _refuse_rows(new: Session, target: Database, tables: list[CoreTable]) -> None:
    for table in tables:
        if new.execute(select(table).limit(1)).first() is not None:
            raise BackupError(
                f"the database {target.name} is not empty: there are rows in {table.name}; give an empty one"
            )


def _in_order(table: CoreTable) -> Select[Any]:
    return select(table).order_by(*table.primary_key).execution_options(yield_per=BATCH)


def _copy(old: Session, new: Session, table: CoreTable) -> int:
    number = 0
    connection: Connection = new.connection()
    for rows in old.execute(_in_order(table)).mappings().partitions():
        connection.execute(insert(table), [dict(row) for row in rows])
        number += len(rows)
    return number


def _compare(old: Session, new: Session, table: CoreTable) -> None:
    with closing(old.execute(_in_order(table))) as there, closing(new.execute(_in_order(table))) as here:
        for before, after in zip_longest(there, here):
            if before is None or after is None or _without_nul(before) != _without_nul(after):
                number = (before or after)[0]
                raise BackupError(f"row {number} of {table.name} is not what it was; nothing was copied")


def _without_nul(row: Row[Any]) -> tuple[object, ...]:
    """Return a row as PostgreSQL keeps it, which has no NUL in a text."""
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row)


def _count_on(new: Session, table: CoreTable) -> None:
    """Have PostgreSQL number the next row after the last one; SQLite does so by itself."""
    if new.get_bind().dialect.name == "sqlite" or "id" not in table.columns:
        return
    sequence = new.scalar(select(func.pg_get_serial_sequence(table.name, "id")))
    last = new.scalar(select(func.max(table.c.id)))
    if sequence is not None and last is not None:
        new.execute(select(func.setval(sequence, last)))
