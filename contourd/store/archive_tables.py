"""The tables and indexes that the list of all jobs is searched by. Nothing in them decides what becomes of a series."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from contourd.store.tables import JobRow, SeriesRow, Table

# Of rows that have a reason.
REASONED = "reason_code <> ''"
INDEXES = (
    Index("jobs_by_creation", JobRow.created_at, JobRow.id),
    Index("jobs_of_state", JobRow.state, JobRow.created_at, JobRow.id),
    Index(
        *("jobs_by_reason", JobRow.reason_code, JobRow.created_at, JobRow.id),
        sqlite_where=text(REASONED),
        postgresql_where=text(REASONED),
    ),
    Index("series_of_state", SeriesRow.state, SeriesRow.created_at, SeriesRow.id),
)


class JobFacetRow(Table):
    """One value by which a job is found, as that it goes to a destination; in the order in which jobs are listed."""

    __tablename__ = "job_facets"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    facet: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(255), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)  # the job's ``created_at``
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, autoincrement=False)


class SeriesDescriptionRow(Table):
    """What an image says of its series, as far as it holds no name; empty where it does, or says nothing."""

    __tablename__ = "series_descriptions"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True, autoincrement=False)
    study_date: Mapped[str] = mapped_column(String(8))  # as 20261130
    description: Mapped[str] = mapped_column(String(64))
    body_part: Mapped[str] = mapped_column(String(64))
    protocol: Mapped[str] = mapped_column(String(64))
    station: Mapped[str] = mapped_column(String(64))


class PatientNameRow(Table):
    """A spelling of a patient's name, hashed with the site's key: what is typed is hashed alike and compared."""

    __tablename__ = "patient_names"

    name_hmac: Mapped[str] = mapped_column(String(32), primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True, autoincrement=False, index=True)
