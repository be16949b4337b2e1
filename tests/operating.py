"""What a person does to a job, and what the database says of it then."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, RetryPolicy, SeriesState
from contourd.store.tables import AuditRow, DeliveryRow, JobRow, SeriesRow
from tests.queueing import Clock, in_force

POLICY = RetryPolicy(first_s=30, max_s=1800, give_up_after_s=259_200)
TAKEN = Outcome(OutcomeKind.ACCEPTED, "", 0x0000)
PROFILES = {"pacs": {"rtstruct": "strict"}, "archive": {"rtstruct": "strict"}, "tps": {"rtstruct": "eclipse"}}


def add(database: Database, clock: Clock, confirm: bool = False) -> int:
    with database.transaction() as session:
        series = SeriesRow(series_uid="1.2.3", state=SeriesState.COMPLETE, created_at=clock(), last_instance_at=clock())
        session.add(series)
        session.flush()
        row = JobRow(
            series_id=series.id, revision=1, model="hn7", destinations=["pacs"], state=JobState.QUEUED, confirm=confirm,
            created_at=clock(), updated_at=clock(),
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


def contour(queue: Queue, job: int, outputs: dict[str, str] | None = None) -> None:
    queue.fetch_job("w", 60)
    queue.finish_job(in_force(queue, job), outputs or {"pacs": "outgoing/1.dcm"})


def read(database: Database, job: int) -> JobRow:
    with database.reading() as session:
        return session.get_one(JobRow, job, options=[selectinload(JobRow.destination_rows)])


def deliveries(database: Database) -> dict[str, str]:
    with database.reading() as session:
        return {d.destination: d.state for d in session.scalars(select(DeliveryRow))}


def trail(database: Database) -> list[tuple[str, str, str, str]]:
    with database.reading() as session:
        return [
            (a.actor, a.action, a.subject, a.detail) for a in session.scalars(select(AuditRow).order_by(AuditRow.id))
        ]


def deliver(sending: Deliveries, destination: str = "pacs") -> None:
    sending.finish_delivery(sending.fetch_delivery(destination), TAKEN)
