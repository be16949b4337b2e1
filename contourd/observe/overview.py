"""What the web page shows of one job, one series and the destinations: read in one consistent state each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from contourd.errors import QueueUnavailable, SchemaMismatch
from contourd.intake.newer_images import latest_newer, renames
from contourd.observe.destinations import UNTRIED, DestinationLine, last_delivered, read_destinations
from contourd.observe.report import JobLine, SeriesLine, job_line, named_with_product, series_line
from contourd.observe.shadows import JobShadow, job_shadows
from contourd.profiles import RTSTRUCT
from contourd.reasons.catalogue import Reason
from contourd.store.contourings import contoured_of_others, last_outputs, models_of_jobs
from contourd.store.database import Database
from contourd.store.states import DELIVERIES_UNDER_WAY, DeliveryState, JobState
from contourd.store.tables import AttemptRow, DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow
from contourd.store.tallies import DELIVERIES, read_tallies

MOST_EVENTS = 200


@dataclass(frozen=True, slots=True)
class EventLine:
    """One transition; ``about``: series, job, or the name of the destination."""

    at: datetime
    about: str
    event: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One try of a delivery."""

    at: datetime
    destination: str
    outcome: str
    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """Everything of one job.

    Attributes
    ----------
    paths
        The images, relative to the spool; those of the series as it is now.
    replaced
        Whether these are not the ones that it was made of: another patient's, or newer ones of the same.
    output
        The first structure set, relative to the spool; empty where there is none yet.
    purged
        When retention removed the images or the structure sets.
    """

    job: JobLine
    series: SeriesLine
    destinations: tuple[str, ...]
    paths: tuple[str, ...]
    output: str
    purged: datetime | None
    waits_for_confirmation: bool
    events: tuple[EventLine, ...]
    attempts: tuple[AttemptLine, ...]
    replaced: bool = False
    shadows: tuple[JobShadow, ...] = ()


@dataclass(frozen=True, slots=True)
class SeriesDetail:
    """A series with its timeline, its images relative to the spool, and the numbers of its jobs.

    ``newer`` is how many of its images came again with other content, ``renamed`` whether as another patient's.
    """

    series: SeriesLine
    events: tuple[EventLine, ...]
    jobs: tuple[int, ...]
    paths: tuple[str, ...]
    purged: datetime | None
    newer: int = 0
    renamed: bool = False


@dataclass(frozen=True, slots=True)
class DestinationDetail:
    """How a destination fares; ``state`` since when, as ``contourd status`` tells it.

    ``waiting`` and ``refused`` count jobs.
    """

    name: str
    state: str
    since: datetime | None
    last_success: datetime | None
    waiting: int
    refused: int
    trouble: str


def read_job(database: Database, job_id: int) -> JobDetail | None:
    """Read one job, None where there is none of that number."""
    with database.reading() as session:
        job = session.get(JobRow, job_id)
        if job is None:
            return None
        series = session.get_one(SeriesRow, job.series_id)
        deliveries = list(
            session.scalars(select(DeliveryRow).where(DeliveryRow.job_id == job_id).order_by(DeliveryRow.id))
        )
        paths = tuple(
            session.scalars(select(InstanceRow.path).where(InstanceRow.series_id == series.id).order_by(InstanceRow.id))
        )
        names = {d.id: named_with_product(d.destination, d.product) for d in deliveries}
        tries = select(AttemptRow).where(AttemptRow.delivery_id.in_(names)).order_by(AttemptRow.id.desc())
        return JobDetail(
            job_line(job, series, deliveries, models_of_jobs(session, [job_id]).get(job_id, ())),
            series_line(series, len(paths)),
            tuple(job.destinations),
            paths,
            _structure_set(session, job_id, deliveries),
            series.purged_at or job.purged_at,
            job.state == JobState.CONFIRMING,
            _events(session, job.series_id, job_id, names),
            tuple(
                AttemptLine(a.at, names[a.delivery_id], a.outcome, a.status, a.reason)
                for a in session.scalars(tries.limit(MOST_EVENTS))
            ),
            job.revision < series.corrected_revision or contoured_of_others(session, job),
            job_shadows(session, job_id),
        )


def read_series(database: Database, series_id: int) -> SeriesDetail | None:
    """Read one series, None where there is none of that number."""
    with database.reading() as session:
        series = session.get(SeriesRow, series_id)
        if series is None:
            return None
        images = select(InstanceRow.path).where(InstanceRow.series_id == series_id).order_by(InstanceRow.id)
        paths = tuple(session.scalars(images))
        jobs = session.scalars(select(JobRow.id).where(JobRow.series_id == series_id).order_by(JobRow.id))
        events, newer = _events(session, series_id, None, {}), latest_newer(session, series_id).values()
        renamed = any(renames(row) for row in newer)
        line = series_line(series, len(paths))
        return SeriesDetail(line, events, tuple(jobs), paths, series.purged_at, len(newer), renamed)


def _structure_set(session: Session, job_id: int, deliveries: list[DeliveryRow]) -> str:
    """Return the structure set that is shown; where none goes anywhere, that of which the segmentation was made."""
    sent = next((d.output for d in deliveries if d.output and d.product == RTSTRUCT), "")
    return sent or next((output.path for output in last_outputs(session, job_id) if deliveries), "")


def _events(session: Session, series_id: int, job_id: int | None, deliveries: dict[int, str]) -> tuple[EventLine, ...]:
    """Read the transitions of a series, of a job and of its deliveries, the newest first."""
    wanted = [and_(EventRow.subject == "series", EventRow.subject_id == series_id)]
    if job_id is not None:
        wanted.append(and_(EventRow.subject == "job", EventRow.subject_id == job_id))
    if deliveries:
        wanted.append(and_(EventRow.subject == "delivery", EventRow.subject_id.in_(deliveries)))
    rows = session.scalars(select(EventRow).where(or_(*wanted)).order_by(EventRow.id.desc()).limit(MOST_EVENTS))
    return tuple(
        EventLine(
            row.at,
            deliveries[row.subject_id] if row.subject == "delivery" else row.subject,
            row.event,
            row.state,
            row.text,
        )
        for row in rows
    )


def read_details(database: Database, names: tuple[str, ...]) -> tuple[DestinationDetail, ...]:
    """Read how each destination fares."""
    with database.reading() as session:
        known = {line.name: line for line in read_destinations(session)}
        return tuple(_destination(session, name, known.get(name)) for name in names)


def _destination(session: Session, name: str, line: DestinationLine | None) -> DestinationDetail:
    of_it = DeliveryRow.destination == name
    counts = {t.state: t.number for t in read_tallies(session, DELIVERIES) if t.destination == name}
    stuck = select(DeliveryRow.reason_code, DeliveryRow.reason_detail).where(
        of_it, DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.reason_code != ""
    )
    kept = session.execute(stuck.order_by(DeliveryRow.updated_at.desc()).limit(1)).first()
    trouble = str(Reason.read(*kept)) if kept else ""
    waiting = _jobs(session, of_it, counts, DELIVERIES_UNDER_WAY)
    state, since = (line.state, line.since) if line else (UNTRIED, None)
    refused = _jobs(session, of_it, counts, (DeliveryState.REFUSED,))
    return DestinationDetail(name, state, since, last_delivered(session, name), waiting, refused, trouble)


def _jobs(
    session: Session, of_it: ColumnElement[bool], counts: Mapping[str, int], states: Sequence[DeliveryState]
) -> int:
    """Count the jobs whose deliveries are in some states: of one that has several products there are several."""
    if not any(counts.get(state) for state in states):
        return 0
    jobs = select(func.count(DeliveryRow.job_id.distinct())).where(of_it, DeliveryRow.state.in_(states))
    return session.scalar(jobs) or 0


def database_problem(database: Database) -> str:
    """Return why the database cannot be used, in a word; empty where it can."""
    try:
        database.check()
    except (SchemaMismatch, QueueUnavailable) as error:
        return type(error).__name__
    return ""
