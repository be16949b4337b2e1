"""A clock to set, jobs to queue and a peer that answers as told, for the tests of the queue and of the deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from contourd.dicom.network.commitment_messages import CommitmentReport, CommitmentRequest
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.settings import Destination, SenderNode
from contourd.store.queue import JobClaim
from contourd.store.states import JobState, RetryPolicy, SeriesState
from contourd.store.tables import EventRow, InstanceRow, JobRow, SeriesRow

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = RetryPolicy(30, 1800, 3600)
TAKEN = Outcome(OutcomeKind.ACCEPTED, "", 0x0000)
AWAY = Outcome(OutcomeKind.UNREACHABLE, "cannot be reached")
FULL = Outcome(OutcomeKind.RETRY, "cannot take it now: status 0xA700", 0xA700)
NEVER = Outcome(OutcomeKind.REFUSED, "status 0xA900", 0xA900)


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
            destinations=destinations.split(","),
            state=JobState.QUEUED,
            created_at=START + timedelta(seconds=number),
            updated_at=START,
            lease_until=None,
        )
        session.add(job)
        session.flush()
        return job.id


def in_force(queue, job_id: int) -> JobClaim:
    """Return the claim of whoever has a job."""
    return next(lease.claim for lease in queue.list_leases() if lease.claim.job_id == job_id)


def state(database, job_id: int) -> str:
    with database.reading() as session:
        return session.get_one(JobRow, job_id).state


def events(database, subject: str) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(EventRow.state).where(EventRow.subject == subject).order_by(EventRow.id)))


class Peer:
    """A destination that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.sends: Outcome = TAKEN
        self.echoes: Outcome = TAKEN
        self.commits: Outcome = TAKEN
        self.reports: Outcome = TAKEN
        self.sent: list[str] = []
        self.echoed = 0
        self.asked: list[CommitmentRequest] = []
        self.told: list[CommitmentReport] = []

    def deliver(self, path: Path, destination: Destination) -> Outcome:  # noqa: ARG002
        self.sent.append(path.name)
        return self.sends

    def echo(self, destination: Destination) -> Outcome:  # noqa: ARG002
        self.echoed += 1
        return self.echoes

    def ask(self, request: CommitmentRequest, destination: Destination) -> Outcome:  # noqa: ARG002
        self.asked.append(request)
        return self.commits

    def report(self, report: CommitmentReport, sender: SenderNode) -> Outcome:  # noqa: ARG002
        self.told.append(report)
        return self.reports

    def hang_up(self) -> None:
        pass

    def go_away(self) -> None:
        self.sends = self.echoes = self.commits = self.reports = AWAY

    def come_back(self) -> None:
        self.sends = self.echoes = self.commits = self.reports = TAKEN
