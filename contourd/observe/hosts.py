"""The processes of all hosts as a person sees them: what each does, how much, and what of it needs somebody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.models.orders import order_digest
from contourd.observe.concerns import Concern
from contourd.reasons.catalogue import Reason
from contourd.store.constancy_series import own_jobs, own_series
from contourd.store.database import Database
from contourd.store.loaded import LoadedModel, read_loaded
from contourd.store.processes import NO_FIGURES, ProcessFigures, figures_of, process_of
from contourd.store.states import JobState, ProcessRole
from contourd.store.tables import ContouringRow, JobRow, ProcessRow

RUNNING = "RUNNING"
SILENT = "SILENT"
GONE = "GONE"
# A heartbeat comes every few seconds.
SILENT_S = 30.0
HOUR = timedelta(hours=1)
# For so long a process that is gone, and in whose place nothing came, is shown and told.
GONE_SHOWN = timedelta(days=1)
# What ended is replaced in seconds where somebody sees to it; for longer nobody waits without being told.
NOBODY_S = REPLACED_S = 60.0


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One process.

    Attributes
    ----------
    state
        RUNNING; SILENT: no heartbeat for a while; GONE: it ended without a word, and its work went to others.
    job
        That it contours now.
    jobs_an_hour
        How many it contoured in the last one.
    declined
        Why it leaves jobs to others that are queued.
    figures
        What it told of its host last.
    loaded
        The models that it has ready, the one that was used last at the end as far as that is known.
    """

    id: str
    role: str
    host: str
    state: str
    version: str
    device: str
    started_at: datetime
    heartbeat_at: datetime
    job: int | None
    jobs_an_hour: int
    declined: tuple[Reason, ...]
    figures: ProcessFigures = NO_FIGURES
    loaded: tuple[LoadedModel, ...] = ()


def read_hosts(database: Database, now: datetime) -> tuple[ProcessLine, ...]:
    """Read all that run, and those that are gone and have no successor, by host."""
    with database.reading() as session:
        return read_lines(session, now)


def read_lines(session: Session, now: datetime) -> tuple[ProcessLine, ...]:
    """Read them inside the caller's transaction."""
    rows = list(session.scalars(select(ProcessRow).where(ProcessRow.ended_at.is_(None))))
    alive = {(row.host, row.role) for row in rows}
    gone = ProcessRow.gone, ProcessRow.ended_at >= now - GONE_SHOWN
    rows += [row for row in session.scalars(select(ProcessRow).where(*gone)) if (row.host, row.role) not in alive]
    claimed = select(JobRow.worker, JobRow.id).where(JobRow.state == JobState.CONTOURING)
    jobs = dict(session.execute(claimed).all())
    lately = ContouringRow.at >= now - HOUR, ContouringRow.job_id.not_in(own_jobs())
    made = select(ContouringRow.process, func.count(ContouringRow.job_id.distinct())).where(*lately)
    done = dict(session.execute(made.group_by(ContouringRow.process)).all())
    waiting = {order_digest(order) for order, _, _ in _waiting(session)}
    lines = [_line(row, jobs, done, waiting, now) for row in rows]
    return tuple(sorted(lines, key=lambda line: (line.host, line.role, line.started_at, line.id)))


def _line(
    row: ProcessRow, jobs: Mapping[str, int], done: Mapping[str, int], waiting: set[str], now: datetime
) -> ProcessLine:
    silent = (now - row.heartbeat_at).total_seconds() > SILENT_S
    return ProcessLine(
        row.id,
        row.role,
        row.host,
        GONE if row.gone else SILENT if silent else RUNNING,
        row.version,
        row.device,
        row.started_at,
        row.heartbeat_at,
        None if row.gone else jobs.get(row.id),
        done.get(row.id, 0),
        tuple(reason for digest, reason in process_of(row).cannot.items() if digest in waiting and not row.gone),
        figures_of(row),
        () if row.gone else read_loaded(row.loaded),
    )


def _waiting(session: Session) -> list[tuple[str, int, datetime]]:
    """Return what is queued of patients: order, number of jobs, since when."""
    queued = JobRow.state == JobState.QUEUED, JobRow.series_id.not_in(own_series())
    found = select(JobRow.contouring_order, func.count(), func.min(JobRow.updated_at)).where(*queued)
    return [(order, number, since) for order, number, since in session.execute(found.group_by(JobRow.contouring_order))]


def host_concerns(session: Session, now: datetime) -> list[Concern]:
    """Find hosts that are gone, and jobs that nobody can contour."""
    gone: dict[tuple[str, str], ProcessLine] = {}
    for line in read_lines(session, now):
        if line.state == GONE and (now - line.heartbeat_at).total_seconds() > REPLACED_S:
            gone[line.host, line.role] = line
    told = [
        Concern("host", f"{role} of host {host}", f"the {role} process of host {host} is gone", line.id)
        for (host, role), line in gone.items()
    ]
    return told + _nobodys(session, now)


def _nobodys(session: Session, now: datetime) -> list[Concern]:
    running = ProcessRow.ended_at.is_(None), ProcessRow.role == ProcessRole.WORKER
    workers = [process_of(row) for row in session.scalars(select(ProcessRow).where(*running))]
    concerns = []
    for order, number, since in _waiting(session):
        digest = order_digest(order)
        if (now - since).total_seconds() <= NOBODY_S or not all(digest in worker.cannot for worker in workers):
            continue
        why = f"no worker can contour them as they were ordered: {workers[0].cannot[digest]}" if workers else ""
        about = why or "no worker runs on any host"
        concerns.append(Concern("worker", "queued jobs", f"{number} queued jobs wait in vain: {about}", digest))
    return concerns
