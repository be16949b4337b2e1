"""What the queue holds, read in one consistent state: for ``contourd status`` and the web page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, and_, false, func, select
from sqlalchemy.orm import Session

from contourd.model.library import Activation
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_names import shown_names
from contourd.model.model_use import ModelUse
from contourd.model.remarks import Remarks
from contourd.models.activations import read_activations
from contourd.observe.destinations import DestinationLine, read_destinations
from contourd.observe.hosts import ProcessLine, read_lines
from contourd.profiles import RTSTRUCT
from contourd.reasons.catalogue import Reason
from contourd.store.constancy_series import own_series
from contourd.store.constancy_standing import ConstancyStatus
from contourd.store.contourings import models_of_jobs
from contourd.store.database import Database
from contourd.store.route_choice import RouteChoice
from contourd.store.states import JOBS_NOT_ENDED, DeliveryState, JobState, SeriesState
from contourd.store.tables import DeliveryRow, InstanceRow, JobDestinationRow, JobRow, SeriesRow
from contourd.store.tallies import JOBS, read_tallies

# In the place of the patient of a job whose images were replaced by those of another: the queue keeps the newer alone.
PATIENT_REPLACED = "(not known any more: its images were replaced)"


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """One delivery; ``next_try`` while it waits, ``product`` what is sent."""

    destination: str
    state: str
    attempts: int
    reason: Reason | None
    next_try: datetime | None
    product: str = RTSTRUCT

    @property
    def to(self) -> str:
        """Return where it goes, and what it is where that is no structure set."""
        return named_with_product(self.destination, self.product)


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job; ``model`` as its route names it (or them), ``models`` what this stood for, each with what it did.

    ``patient_replaced`` where its images were replaced, so that ``patient`` names nobody any more; ``route`` is why it
    took its route, None where that was not written down.
    """

    id: int
    state: str
    reason: Reason | None
    series_uid: str
    revision: int
    patient: str
    model: str
    attempts: int
    remarks: Remarks
    created_at: datetime
    updated_at: datetime
    deliveries: tuple[DeliveryLine, ...]
    models: tuple[ModelUse, ...] = ()
    patient_replaced: bool = False
    route: RouteChoice | None = None

    @property
    def contoured_with(self) -> ModelIdentity | None:
        """The first model that drew; None where none has."""
        return next((use.identity for use in self.models if use.drew), None)

    @property
    def asked(self) -> str:
        """The names of its models, for people."""
        return shown_names(self.model)


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """A series that is no job yet: still received, or held."""

    id: int
    state: str
    reason: Reason | None
    series_uid: str
    patient: str
    calling_ae: str
    instances: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Counts by state (``series RECEIVING`` ... and job states), the newest jobs, the series that are no job, ..."""

    counts: dict[str, int]
    jobs: tuple[JobLine, ...]
    series: tuple[SeriesLine, ...]
    destinations: tuple[DestinationLine, ...] = ()
    activations: tuple[Activation, ...] = ()
    constancy: ConstancyStatus | None = None
    hosts: tuple[ProcessLine, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportFilter:
    """Which jobs and series are read; what is left out narrows nothing.

    Attributes
    ----------
    states
        Of jobs and of series.
    since
        Only what has changed since then.
    destination
        Only jobs that go to it.
    job, series
        Only the one of that number.
    """

    states: tuple[str, ...] = ()
    since: datetime | None = None
    destination: str = ""
    job: int | None = None
    series: int | None = None

    def jobs(self) -> list[ColumnElement[bool]]:
        """Return the conditions on the rows of jobs."""
        conditions: list[ColumnElement[bool]] = []
        if self.states:
            conditions.append(JobRow.state.in_(self.states))
        if self.since is not None:
            conditions.append(JobRow.updated_at >= self.since)
        if self.destination:
            going = select(JobDestinationRow.job_id).where(JobDestinationRow.destination == self.destination)
            conditions.append(JobRow.id.in_(going))
        if self.job is not None:
            conditions.append(JobRow.id == self.job)
        return [false()] if self.series is not None else conditions

    def open_series(self) -> list[ColumnElement[bool]]:
        """Return the conditions on the rows of series that are no job yet."""
        conditions: list[ColumnElement[bool]] = []
        if self.states:
            conditions.append(SeriesRow.state.in_(self.states))
        if self.since is not None:
            conditions.append(SeriesRow.last_instance_at >= self.since)
        if self.series is not None:
            conditions.append(SeriesRow.id == self.series)
        return [false()] if self.destination or self.job is not None else conditions


EVERYTHING = ReportFilter()


def read_report(database: Database, most_jobs: int = 50, chosen: ReportFilter = EVERYTHING) -> QueueReport:
    """Read the newest ``most_jobs`` jobs, the open ones first, and all series that are being received or held.

    What a constancy check sends is none of them. The counts are those of all.
    """
    with database.reading() as session:
        counts = {str(state): 0 for state in (*JobState, SeriesState.RECEIVING)}
        for state, number in jobs_by_state(session).items():
            counts[state] += number
        patients = SeriesRow.state.in_((SeriesState.RECEIVING, SeriesState.HELD)), SeriesRow.id.not_in(own_series())
        open_series = select(SeriesRow.state, func.count()).where(*patients).group_by(SeriesRow.state)
        for state, number in session.execute(open_series):
            counts[state] += number
        rows = _newest(session, and_(JobRow.state.in_(JOBS_NOT_ENDED), *chosen.jobs()), most_jobs)
        rows += _newest(session, and_(JobRow.state.not_in(JOBS_NOT_ENDED), *chosen.jobs()), most_jobs - len(rows))
        ids = [job.id for job, _ in rows]
        deliveries: dict[int, list[DeliveryRow]] = {}
        for row in session.scalars(select(DeliveryRow).where(DeliveryRow.job_id.in_(ids)).order_by(DeliveryRow.id)):
            deliveries.setdefault(row.job_id, []).append(row)
        models = models_of_jobs(session, ids)
        jobs = tuple(job_line(job, series, deliveries.get(job.id, []), models.get(job.id, ())) for job, series in rows)
        images = select(func.count()).where(InstanceRow.series_id == SeriesRow.id).scalar_subquery()
        waiting = select(SeriesRow, images).where(*patients, *chosen.open_series()).order_by(SeriesRow.id.desc())
        lines = tuple(series_line(series, count) for series, count in session.execute(waiting))
        destinations, activations = read_destinations(session), read_activations(session)
        hosts = read_lines(session, datetime.now(UTC))
    return QueueReport(counts, jobs, lines, destinations, activations, hosts=hosts)


def jobs_by_state(session: Session) -> dict[str, int]:
    """Count the jobs of patients; a state that none is in is left out."""
    counts = {tally.state: tally.number for tally in read_tallies(session, JOBS)}
    own = select(JobRow.state, func.count()).where(JobRow.series_id.in_(own_series())).group_by(JobRow.state)
    for state, number in session.execute(own):
        counts[state] -= number
    return counts


def newest_jobs(which: ColumnElement[bool], most: int) -> Select[JobRow, SeriesRow]:
    """Select the newest of some jobs of patients with their series; neither sorts nor reads more rows than it gives."""
    joined = select(JobRow, SeriesRow).join(SeriesRow, SeriesRow.id == JobRow.series_id)
    return joined.where(which, JobRow.series_id.not_in(own_series())).order_by(JobRow.id.desc()).limit(most)


def _newest(session: Session, which: ColumnElement[bool], most: int) -> list[tuple[JobRow, SeriesRow]]:
    return [(row[0], row[1]) for row in session.execute(newest_jobs(which, most))]


def job_line(job: JobRow, series: SeriesRow, deliveries: list[DeliveryRow], models: tuple[ModelUse, ...]) -> JobLine:
    """Make a job's line of its rows."""
    lines = tuple(
        DeliveryLine(
            d.destination,
            d.state,
            d.attempts,
            d.reason,
            d.not_before if d.state == DeliveryState.PENDING else None,
            d.product,
        )
        for d in deliveries
    )
    replaced = job.revision < series.corrected_revision
    return JobLine(
        job.id,
        job.state,
        job.reason,
        series.series_uid,
        job.revision,
        PATIENT_REPLACED if replaced else series.patient,
        job.model,
        job.attempts,
        job.remarks,
        job.created_at,
        job.updated_at,
        lines,
        models,
        replaced,
        RouteChoice.from_json(job.route_choice),
    )


def named_with_product(destination: str, product: str) -> str:
    """Name a destination, and what goes there where that is no structure set."""
    return destination if product == RTSTRUCT else f"{destination} ({product})"


def series_line(series: SeriesRow, instances: int) -> SeriesLine:
    """Make a series' line of its row and the number of its images."""
    return SeriesLine(
        series.id,
        series.state,
        series.reason,
        series.series_uid,
        series.patient,
        series.calling_ae,
        instances,
        series.created_at,
    )
