"""A clock to set, and jobs to queue, for the tests of the queue and of the deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from contourd.jobs.job import JobState, RetryPolicy, SeriesState
from contourd.jobs.tables import EventRow, InstanceRow, JobRow, SeriesRow

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = RetryPolicy(30, 1800, 3600)


class Clock:
    """The time that people see, which may be set, and the seconds that pass."""

    def __init__(self) -> None:
        self.now = START
        self.passed_s = 0.0

    def __call__(self) -> datetime:
        return self.now

    def elapsed(self) -> float:
        return self.passed_s

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.passed_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the clock: no time passes."""
        self.now += timedelta(seconds=seconds)


def add_job(database, number: int = 1, destinations: str = "pacs") -> int:
    with database.transaction() as session:
        series = SeriesRow(
            series_uid=f"1.2.{number}",
            state=SeriesState.COMPLETE,
            created_at=START,
            last_instance_at=START,
        )
        session.add(series)
        session.flush()
        for k in range(2):
            session.add(
                InstanceRow(
                    series_id=series.id,
                    sop_instance_uid=f"1.2.{number}.{k}",
                    path=f"{number}/{k}",
                    sha256="",
                    received_at=START,
                )
            )
        job = JobRow(
            series_id=series.id,
            revision=1,
            model="hn7",
            destinations=destinations,
            state=JobState.QUEUED,
            created_at=START + timedelta(seconds=number),
            updated_at=START,
            lease_until=None,
        )
        session.add(job)
        session.flush()
        return job.id


def state(database, job_id: int) -> str:
    with database.reading() as session:
        return session.get_one(JobRow, job_id).state


def events(database, subject: str) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(EventRow.state).where(EventRow.subject == subject).order_by(EventRow.id)))
