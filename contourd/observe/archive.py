"""All jobs, and the series that are received or held: the newest first, page by page, at the same cost after years.

A page goes on where the one before ended, by time and number. What is rare is found by an index as a whole. What is
common is walked from its newest end, and at most so many rows are looked at for one page: where the filters fit few of
them, the page says how far it got, and the next one goes on there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, literal_column, or_, select, text, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from contourd.observe.archive_filter import ArchiveFilter, ArchiveKey
from contourd.observe.report import JobLine, SeriesLine, job_line, series_line
from contourd.reasons.catalogue import CATALOGUE, HoldClass
from contourd.store.archive_tables import REASONED, JobFacetRow, PatientNameRow, SeriesDescriptionRow
from contourd.store.constancy_series import own_jobs, own_series
from contourd.store.contourings import models_of_jobs
from contourd.store.database import Database
from contourd.store.facets import Facet
from contourd.store.states import SeriesState
from contourd.store.tables import (
    ContouringRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    SeriesRow,
)

PAGE = 50
# Rows that are taken as a whole where one filter fits no more, and rows that are looked at for one page.
FEW, LOOK = 2000, 20_000
MOST_SERIES = 1000  # of one patient
OPEN = (SeriesState.RECEIVING, SeriesState.HELD)
PSEUDONYM_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Description:
    """What an image says of its series, without what may hold a name."""

    study_date: str
    description: str
    body_part: str
    protocol: str
    station: str


@dataclass(frozen=True, slots=True)
class ArchiveLine:
    """A job, or a series that is no job; ``described`` is None where nothing was written down."""

    at: datetime
    sender: str
    job: JobLine | None
    series: SeriesLine | None
    described: Description | None

    @property
    def key(self) -> ArchiveKey:
        """Its place in the list."""
        if self.job is not None:
            return ArchiveKey(self.at, True, self.job.id)
        assert self.series is not None
        return ArchiveKey(self.at, False, self.series.id)


@dataclass(frozen=True, slots=True)
class ArchivePage:
    """One page of the list.

    Attributes
    ----------
    next
        Where the next page goes on; None at the end of the list.
    looked_to
        How far back was looked, where that was not far enough to fill the page.
    """

    lines: tuple[ArchiveLine, ...]
    next: ArchiveKey | None
    looked_to: datetime | None = None


def read_archive(
    database: Database, chosen: ArchiveFilter, most: int = PAGE, few: int = FEW, look: int = LOOK
) -> ArchivePage:
    """Read one page of at most ``most`` jobs and series; what a constancy check sends is none of them.

    Parameters
    ----------
    few, look
        Rows that are taken as a whole where one filter fits no more, and rows that are looked at, of all walks.
    """
    with database.reading() as session:
        searches = _Searches(session, chosen, most, few)
        branches = [*searches.jobs(), *searches.open_series()]
        share = look // max(1, len(branches))
        found = [branch.run(session, max(1, share)) for branch in branches]
        floor = max((one.floor for one in found if one.floor is not None), key=lambda key: key.order, default=None)
        keys = sorted((key for one in found for key in one.keys), key=lambda key: key.order, reverse=True)
        if floor is not None:
            keys = [key for key in keys if key.order >= floor.order]
        page = keys[:most]
        if len(keys) > most:
            return ArchivePage(_lines(session, page), page[-1])
        return ArchivePage(_lines(session, page), floor, floor.at if floor else None)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one branch found, the newest first; ``floor`` is how far it looked, None to its end."""

    keys: tuple[ArchiveKey, ...]
    floor: ArchiveKey | None


@dataclass(frozen=True, slots=True)
class _Branch:
    """One walk from the newest end: by an index alone, and then what else is asked of each row.

    Attributes
    ----------
    walk
        Selects number and time of rows, without order and limit.
    number, at
        Its columns.
    others
        Conditions on the rows of the walk, each for the table's own columns; empty: none.
    """

    walk: Select[int, datetime]
    number: InstrumentedAttribute[int]
    at: InstrumentedAttribute[datetime]
    is_job: bool
    others: tuple[ColumnElement[bool], ...]
    most: int

    def run(self, session: Session, look: int) -> _Found:
        ordered = self.walk.order_by(self.at.desc(), self.number.desc())
        if not self.others:
            return _Found(self._keys(session.execute(ordered.limit(self.most + 1)).all()), None)
        looked = ordered.limit(look).subquery()
        table = JobRow if self.is_job else SeriesRow
        fitting = select(looked.c[0], looked.c[1]).join(table, table.id == looked.c[0]).where(*self.others)
        fitting = fitting.order_by(looked.c[1].desc(), looked.c[0].desc()).limit(self.most + 1)
        keys = self._keys(session.execute(fitting).all())
        if len(keys) > self.most:
            return _Found(keys, None)
        last = self._keys(session.execute(ordered.offset(look - 1).limit(1)).all())
        return _Found(keys, last[0] if last else None)

    def _keys(self, rows: Sequence[Row[int, datetime]]) -> tuple[ArchiveKey, ...]:
        return tuple(ArchiveKey(at, self.is_job, number) for number, at in rows)


class _Searches:
    """The walks that a filter asks for."""

    def __init__(self, session: Session, chosen: ArchiveFilter, most: int, few: int) -> None:
        self._session = session
        self._chosen = chosen
        self._most = most
        self._few = few
        self._series = _series_of(session, chosen.patients) if chosen.patients else None

    def jobs(self) -> list[_Branch]:
        chosen = self._chosen
        facets = [
            (facet, value)
            for facet, value in (
                (Facet.REMARK, chosen.remark),
                (Facet.ROUTE, chosen.route),
                (Facet.DESTINATION, chosen.destination),
                (Facet.SENDER, chosen.sender),
                (Facet.MODEL, chosen.model),
            )
            if value
        ]
        codes = _codes(chosen.reason) if chosen.reason else ()
        few = self._few_jobs(facets, codes)
        if few is not None:
            return [self._walk_jobs(self._conditions(facets, codes), JobRow.id.in_(few))]
        if facets:
            (facet, value), rest = facets[0], facets[1:]
            return [self._walk_facet(facet, value, self._conditions(rest, codes))]
        if codes:
            others = self._conditions((), ())
            return [
                self._walk_jobs(others, and_(JobRow.reason_code == code, literal_column(REASONED))) for code in codes
            ]
        if chosen.states:
            return [self._walk_jobs((), JobRow.state == state) for state in chosen.states]
        return [self._walk_jobs(())]

    def open_series(self) -> list[_Branch]:
        chosen = self._chosen
        if chosen.of_jobs_alone:
            return []
        states = [state for state in OPEN if not chosen.states or state in chosen.states]
        others: list[ColumnElement[bool]] = []
        if chosen.sender:
            others.append(SeriesRow.calling_ae == chosen.sender)
        if chosen.reason:
            others.append(SeriesRow.reason_code.in_(_codes(chosen.reason)))
        driver = [SeriesRow.id.in_(self._series)] if self._series is not None else []
        walks = [
            select(SeriesRow.id, SeriesRow.created_at).where(
                SeriesRow.state == state,
                *driver,
                SeriesRow.id.not_in(own_series()),
                *self._within(SeriesRow.created_at, SeriesRow.id, False),
            )
            for state in states
        ]
        return [_Branch(walk, SeriesRow.id, SeriesRow.created_at, False, tuple(others), self._most) for walk in walks]

    def _few_jobs(self, facets: Sequence[tuple[Facet, str]], codes: Sequence[str]) -> list[int] | None:
        """Return every job that one of the filters fits, of the first that fits only a few; None where none does."""
        chosen, asked = self._chosen, list[Select[Any]]()
        if self._series is not None:
            return list(self._session.scalars(select(JobRow.id).where(JobRow.series_id.in_(self._series))))
        if chosen.worker:
            made = ContouringRow.process == chosen.worker, ContouringRow.at >= chosen.contoured
            return list(self._session.scalars(select(ContouringRow.job_id).where(*made).distinct()))
        if chosen.delivery:
            asked.append(
                select(DeliveryRow.job_id).where(
                    DeliveryRow.destination == chosen.destination, DeliveryRow.state.in_(chosen.delivery)
                )
            )
        if len(facets) + bool(codes) + bool(chosen.states) + len(asked) > 1:
            within = self._within(JobFacetRow.at, JobFacetRow.job_id, True)
            asked += [
                select(JobFacetRow.job_id).where(JobFacetRow.facet == str(f), JobFacetRow.value == v, *within)
                for f, v in facets
            ]
            if chosen.states:
                asked.append(select(JobRow.id).where(JobRow.state.in_(chosen.states)))
            if codes:
                asked.append(select(JobRow.id).where(JobRow.reason_code.in_(codes), text(REASONED)))
        for query in asked:
            found = list(self._session.scalars(query.limit(self._few + 1)))
            if len(found) <= self._few:
                return found
        return None

    def _conditions(self, facets: Sequence[tuple[Facet, str]], codes: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
        """Return what is asked of a job beside what a walk goes by."""
        chosen = self._chosen
        asked: list[ColumnElement[bool]] = [
            select(JobFacetRow.job_id)
            .where(
                JobFacetRow.facet == str(facet),
                JobFacetRow.value == value,
                JobFacetRow.at == JobRow.created_at,
                JobFacetRow.job_id == JobRow.id,
            )
            .correlate(JobRow)
            .exists()
            for facet, value in facets
        ]
        if chosen.states:
            asked.append(JobRow.state.in_(chosen.states))
        if codes:
            asked.append(JobRow.reason_code.in_(codes))
        if chosen.delivery:
            delivery = DeliveryRow.destination == chosen.destination, DeliveryRow.state.in_(chosen.delivery)
            asked.append(
                select(DeliveryRow.id).where(DeliveryRow.job_id == JobRow.id, *delivery).correlate(JobRow).exists()
            )
        if chosen.worker:
            made = ContouringRow.process == chosen.worker, ContouringRow.at >= chosen.contoured
            asked.append(
                select(ContouringRow.id).where(ContouringRow.job_id == JobRow.id, *made).correlate(JobRow).exists()
            )
        return tuple(asked)

    def _walk_jobs(self, others: tuple[ColumnElement[bool], ...], *driver: ColumnElement[bool]) -> _Branch:
        rows = select(JobRow.id, JobRow.created_at).where(
            *driver, JobRow.series_id.not_in(own_series()), *self._within(JobRow.created_at, JobRow.id, True)
        )
        return _Branch(rows, JobRow.id, JobRow.created_at, True, others, self._most)

    def _walk_facet(self, facet: Facet, value: str, others: tuple[ColumnElement[bool], ...]) -> _Branch:
        rows = select(JobFacetRow.job_id, JobFacetRow.at).where(
            JobFacetRow.facet == str(facet),
            JobFacetRow.value == value,
            JobFacetRow.job_id.not_in(own_jobs()),
            *self._within(JobFacetRow.at, JobFacetRow.job_id, True),
        )
        return _Branch(rows, JobFacetRow.job_id, JobFacetRow.at, True, others, self._most)

    def _within(
        self, at: InstrumentedAttribute[datetime], number: InstrumentedAttribute[int], is_job: bool
    ) -> list[ColumnElement[bool]]:
        """Return the conditions of time, and that a row stands after the page before."""
        chosen = self._chosen
        asked: list[ColumnElement[bool]] = []
        if chosen.since is not None:
            asked.append(at >= chosen.since)
        if chosen.until is not None:
            asked.append(at < chosen.until)
        if (key := chosen.before) is not None:
            if is_job == key.is_job:
                asked.append(tuple_(at, number) < (key.at, key.id))
            else:  # at the same time jobs stand before series
                asked.append(at < key.at if is_job else at <= key.at)
        return asked


def _codes(reason: HoldClass) -> tuple[str, ...]:
    return tuple(str(code) for code, entry in CATALOGUE.items() if entry.held_as is reason)


def _series_of(session: Session, patients: Sequence[str]) -> list[int]:
    """Return the series of patients, by their pseudonyms or the hashes of their names."""
    pseudonyms = [one for one in patients if len(one) == PSEUDONYM_DIGITS]
    names = [one for one in patients if len(one) > PSEUDONYM_DIGITS]
    by_name = select(PatientNameRow.series_id).where(PatientNameRow.name_hmac.in_(names))
    found = select(SeriesRow.id).where(or_(SeriesRow.patient.in_(pseudonyms), SeriesRow.id.in_(by_name)))
    return list(session.scalars(found.where(SeriesRow.id.not_in(own_series())).limit(MOST_SERIES)))


def known_patients(database: Database, pseudonym: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of a pseudonym and of hashes of a name by which series are known."""
    asked = [one for one in (pseudonym, *names) if one]
    with database.reading() as session:
        return tuple(one for one in asked if _series_of(session, [one]))


def _lines(session: Session, keys: Sequence[ArchiveKey]) -> tuple[ArchiveLine, ...]:
    jobs = {
        job.id: job for job in session.scalars(select(JobRow).where(JobRow.id.in_([k.id for k in keys if k.is_job])))
    }
    open_ones = [key.id for key in keys if not key.is_job]
    wanted = {*open_ones, *(job.series_id for job in jobs.values())}
    series = {row.id: row for row in session.scalars(select(SeriesRow).where(SeriesRow.id.in_(wanted)))}
    described = {
        row.series_id: Description(row.study_date, row.description, row.body_part, row.protocol, row.station)
        for row in session.scalars(select(SeriesDescriptionRow).where(SeriesDescriptionRow.series_id.in_(wanted)))
    }
    counted = select(InstanceRow.series_id, func.count()).where(InstanceRow.series_id.in_(open_ones))
    images = dict(session.execute(counted.group_by(InstanceRow.series_id)).all())
    deliveries: dict[int, list[DeliveryRow]] = {}
    for row in session.scalars(select(DeliveryRow).where(DeliveryRow.job_id.in_(jobs)).order_by(DeliveryRow.id)):
        deliveries.setdefault(row.job_id, []).append(row)
    models = models_of_jobs(session, list(jobs))
    lines = []
    for key in keys:
        if key.is_job:
            job = jobs[key.id]
            own = series[job.series_id]
            line = job_line(job, own, deliveries.get(job.id, []), models.get(job.id, ()))
            known = None if line.patient_replaced else described.get(own.id)
            lines.append(ArchiveLine(key.at, own.calling_ae, line, None, known))
        else:
            own = series[key.id]
            shown = series_line(own, images.get(own.id, 0))
            lines.append(ArchiveLine(key.at, own.calling_ae, None, shown, described.get(own.id)))
    return tuple(lines)
