"""By what a job is found in the list of all jobs; filed with the job, and again where one of them changes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import and_, delete, insert
from sqlalchemy.orm import Session

from contourd.model.model_names import names_of_text
from contourd.model.remarks import RemarkCheck, Remarks, RemarkVerdict
from contourd.store.archive_tables import JobFacetRow
from contourd.store.route_choice import RouteChoice
from contourd.store.tables import JobRow

REMARK_VALUES = tuple(map(str, (*RemarkCheck, *RemarkVerdict)))


class Facet(StrEnum):
    """What a value is of."""

    SENDER = "sender"  # calling AE title
    MODEL = "model"  # as the route names it
    DESTINATION = "destination"
    ROUTE = "route"  # its number
    REMARK = "remark"  # what was looked at, and what became of it


def file_job(session: Session, job: JobRow, sender: str) -> None:
    """File a job that was made now."""
    choice = RouteChoice.from_json(job.route_choice)
    values = [(Facet.SENDER, sender), (Facet.ROUTE, str(choice.number) if choice else "")]
    values += [(Facet.MODEL, name) for name in names_of_text(job.model)]
    _file(session, job, [(facet, value) for facet, value in values if value])
    _file(session, job, [(Facet.DESTINATION, name) for name in job.destinations])


def file_destination(session: Session, job: JobRow, destination: str) -> None:
    """File a destination that a job did not go to before."""
    _file(session, job, [(Facet.DESTINATION, destination)])


def file_remarks(session: Session, job: JobRow, remarks: Remarks) -> None:
    """File the remarks of a job in the place of those that it had."""
    of_job = and_(JobFacetRow.at == job.created_at, JobFacetRow.job_id == job.id)
    known = JobFacetRow.facet == Facet.REMARK, JobFacetRow.value.in_(REMARK_VALUES)
    session.execute(delete(JobFacetRow).where(*known, of_job))
    told = {str(word) for remark in remarks.records for word in (remark.finding.check, remark.verdict)}
    _file(session, job, [(Facet.REMARK, value) for value in sorted(told)])


def _file(session: Session, job: JobRow, values: Iterable[tuple[Facet, str]]) -> None:
    rows = [{"facet": str(f), "value": v, "at": job.created_at, "job_id": job.id} for f, v in dict.fromkeys(values)]
    if rows:
        session.execute(insert(JobFacetRow), rows)
