"""The rows that were appended to a table since the last look, each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from contourd.store.tables import AuditRow, EventRow

Row = TypeVar("Row", EventRow, AuditRow)

BATCH = 5000
# PostgreSQL numbers a row before it is committed, so that it may be seen after later ones: so many are looked at again.
LOOKED_AGAIN = 1000


class AppendedRows(Generic[Row]):
    """Where the last look at a table ended."""

    def __init__(self, table: type[Row]) -> None:
        self._table: Any = table
        self._last = 0
        self._seen: set[int] = set()

    def leave_out(self, session: Session) -> None:
        """Leave out what is there."""
        self._last = session.scalar(select(func.max(self._table.id))) or 0
        again = self._table.id > self._last - self._again(session)
        self._seen = set(session.scalars(select(self._table.id).where(again)))

    def read(self, session: Session, *conditions: ColumnElement[bool]) -> Sequence[Row]:
        """Read the next ones for which the conditions hold, ``BATCH`` at most."""
        again = self._again(session)
        new = self._table.id > self._last - again, self._table.id.not_in(self._seen)
        wanted = select(self._table).where(*new, *conditions).order_by(self._table.id).limit(BATCH)
        rows: Sequence[Row] = session.scalars(wanted).all()
        numbers: set[int] = {row.id for row in rows}
        self._last = max((self._last, *numbers))
        self._seen = {number for number in self._seen.union(numbers) if number > self._last - again}
        return rows

    def _again(self, session: Session) -> int:
        return 0 if session.get_bind().dialect.name == "sqlite" else LOOKED_AGAIN
