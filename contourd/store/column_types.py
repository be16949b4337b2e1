"""What a column of the queue holds that no database has a type for, and one of which only some values are known."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, DateTime, Text, TypeDecorator
from sqlalchemy.engine import Dialect

from contourd.model.remarks import NO_REMARKS, Remarks


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes, stored in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse naive datetimes."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the queue")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """SQLite forgets the zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class RemarkRecords(TypeDecorator[Remarks]):
    """Remarks, stored as JSON."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Remarks | None, dialect: Dialect) -> str:  # noqa: ARG002
        """Write them."""
        return (value or NO_REMARKS).to_json()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Remarks:  # noqa: ARG002
        """Read them."""
        return Remarks.from_json(value) if value else NO_REMARKS


class Keywords(TypeDecorator[tuple[str, ...]]):
    """DICOM keywords, stored as text separated by commas."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str:  # noqa: ARG002
        """Write them."""
        return ",".join(value or ())

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:  # noqa: ARG002
        """Read them."""
        return tuple(value.split(",")) if value else ()


def one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    """Return that a column holds one of some states."""
    listed = ", ".join(f"'{s.value}'" for s in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_is_known")
