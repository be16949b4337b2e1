"""Take the oldest queued job: the row, its event, and what a worker needs of it.

SQLite's one writer reads the job, and then moves it. PostgreSQL, where each statement is a way there and back and many
ask at once, does both in one statement, and reads what belongs to the job in a second one: by then it is locked, and
its images are those of its revision.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Select, bindparam, exists, func, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from contourd.model.model_names import PartialRule, partial_rule
from contourd.model.model_use import ModelUse
from contourd.store.constancy_series import own_series
from contourd.store.contourings import kept_models, models_of_jobs
from contourd.store.states import JobEvent, JobState
from contourd.store.stored_files import within_reach
from contourd.store.tables import ContouringRow, DeliveryRow, InstanceRow, JobDestinationRow, JobRow, SeriesRow
from contourd.store.transitions import advance_job, claim_chosen


class ClaimedJob(NamedTuple):
    """A job that was claimed just now; ``token`` is the claim's, ``images`` paths and hashes in the order they came."""

    id: int
    token: int
    series_uid: str
    revision: int
    model: str
    images: list[tuple[str, str]]
    destinations: list[str]
    attempts: int
    override: str
    sent_with: tuple[ModelUse, ...]
    order: str
    partial: PartialRule


class Wanted(NamedTuple):
    """Which of the queued jobs may be taken; as ``Queue.fetch_job``."""

    but: Collection[int] = ()
    orders: Collection[str] | None = None
    host: str = ""


def claim_oldest(session: Session, worker: str, wanted: Wanted, now: datetime, until: datetime) -> ClaimedJob | None:
    """Claim it for a worker until then, None where there is none: a patient's, else one of a constancy check."""
    claim = _claim_of_sqlite if session.get_bind().dialect.name == "sqlite" else _claim_of_postgresql
    return claim(session, worker, wanted, now, until)


def sent_with(session: Session, job_id: int) -> tuple[ModelUse, ...]:
    """Return the models of a job's structure sets that went out, or are about to; none where there are no such."""
    sent = session.scalar(select(DeliveryRow.id).where(DeliveryRow.job_id == job_id).limit(1))
    return () if sent is None else models_of_jobs(session, [job_id]).get(job_id, ())


def _oldest(what: Any, but: bool, ordered: bool, host: str, patients: bool) -> Select[Any]:
    # In the statement itself: a plan that is made for any state would not know that few jobs are queued.
    queued: BindParameter[str] = bindparam("queued", JobState.QUEUED.value, literal_execute=True)
    oldest = select(what).where(JobRow.state == queued)
    if but:
        oldest = oldest.where(JobRow.id.not_in(bindparam("but", expanding=True)))
    if ordered:
        oldest = oldest.where(JobRow.contouring_order.in_(bindparam("orders", expanding=True)))
    if host:
        oldest = oldest.where(within_reach(host))
    if patients:
        oldest = oldest.where(JobRow.series_id.not_in(own_series()))
    oldest = oldest.order_by(JobRow.attempts, JobRow.created_at, JobRow.id).limit(1)
    return oldest.with_for_update(key_share=True, skip_locked=True)


def _statements(wanted: Wanted) -> tuple[tuple[bool, bool, str], dict[str, Any]]:
    """Return what decides the form of a statement, and the values that stand in it."""
    given = {"but": list(wanted.but), "orders": list(wanted.orders or ())}
    form = bool(wanted.but), wanted.orders is not None, wanted.host
    return form, {name: values for name, values in given.items() if form[name == "orders"]}


def _claim_of_sqlite(
    session: Session, worker: str, wanted: Wanted, now: datetime, until: datetime
) -> ClaimedJob | None:
    form, values = _statements(wanted)
    job: JobRow | None = next(
        (
            found
            for patients in (True, False)
            if (found := session.scalars(_of_sqlite(*form, patients), values).first()) is not None
        ),
        None,
    )
    if job is None:
        return None
    job.attempts += 1
    job.claims += 1
    job.worker, job.lease_until = worker, until
    advance_job(session, job, JobEvent.CLAIM, worker, now)
    series_uid = session.scalars(select(SeriesRow.series_uid).where(SeriesRow.id == job.series_id)).one()
    stored = select(InstanceRow.path, InstanceRow.sha256).where(InstanceRow.series_id == job.series_id)
    images = [(path, sha256) for path, sha256 in session.execute(stored.order_by(InstanceRow.id))]
    sent = sent_with(session, job.id)
    whose = job.id, job.claims, series_uid, job.revision, job.model
    how = sent, job.contouring_order, partial_rule(job.partial)
    return ClaimedJob(*whose, images, list(job.destinations), job.attempts, job.override, *how)


def _claim_of_postgresql(
    session: Session, worker: str, wanted: Wanted, now: datetime, until: datetime
) -> ClaimedJob | None:
    form, values = _statements(wanted)
    values |= {"worker": worker, "now": now, "until": until}
    claimed = (
        session.execute(_of_postgresql(*form, True), values).first()
        or session.execute(_of_postgresql(*form, False), values).first()
    )
    if claimed is None:
        return None
    series_uid, paths, hashes, destinations, *model = session.execute(
        _parts(), {"job": claimed.id, "series": claimed.series_id}
    ).one()
    return ClaimedJob(
        claimed.id,
        claimed.claims,
        series_uid,
        claimed.revision,
        claimed.model,
        list(zip(paths or (), hashes or (), strict=True)),
        destinations or [],
        claimed.attempts,
        claimed.override,
        kept_models(*model) if model[0] is not None else (),
        claimed.contouring_order,
        partial_rule(claimed.partial),
    )


@cache
def _of_sqlite(but: bool, ordered: bool, host: str, patients: bool) -> Select[Any]:
    return _oldest(JobRow, but, ordered, host, patients)


@cache
def _of_postgresql(but: bool, ordered: bool, host: str, patients: bool) -> Select[Any]:
    return claim_chosen(_oldest(JobRow.id, but, ordered, host, patients))


@cache
def _parts() -> Select[Any]:
    """Select what belongs to a job: its series' UID, the images, the destinations, the models of what went out."""
    job: BindParameter[int] = bindparam("job")
    series: BindParameter[int] = bindparam("series")
    images = InstanceRow.series_id == series
    sent = exists().where(DeliveryRow.job_id == job)
    identity = ContouringRow.model_name, ContouringRow.model_version, ContouringRow.model_sha256
    last = (
        select(*identity, ContouringRow.runtime, ContouringRow.models)
        .where(ContouringRow.job_id == job, sent)
        .order_by(ContouringRow.id.desc())
        .limit(1)
    )
    model = last.subquery("last_model")
    in_order = func.array_agg(aggregate_order_by(JobDestinationRow.destination, JobDestinationRow.position))
    both = (
        select(
            func.array_agg(aggregate_order_by(InstanceRow.path, InstanceRow.id)).label("paths"),
            func.array_agg(aggregate_order_by(InstanceRow.sha256, InstanceRow.id)).label("hashes"),
        )
        .where(images)
        .subquery("images")
    )
    destinations = select(in_order).where(JobDestinationRow.job_id == job).scalar_subquery()
    return (
        select(SeriesRow.series_uid, both.c.paths, both.c.hashes, destinations, *model.c)
        .select_from(SeriesRow)
        .join(both, true())
        .outerjoin(model, true())
        .where(SeriesRow.id == series)
    )
