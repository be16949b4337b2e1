"""Make and advance series, jobs, deliveries and reviews in the caller's transaction: the row and its event, together.

No row of theirs is made anywhere else, and no state of theirs is set anywhere else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, String, bindparam, insert, literal, select, update
from sqlalchemy.orm import Session

from contourd.profiles import RTSTRUCT
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.column_types import UTCDateTime
from contourd.store.facets import file_job
from contourd.store.locks import insert_absent, lock_series, locked
from contourd.store.review_tables import ReviewRow
from contourd.store.route_choice import RouteChoice
from contourd.store.shadow_tables import ShadowRow, ShadowState
from contourd.store.states import (
    DeliveryEvent,
    DeliveryState,
    JobEvent,
    JobState,
    ReviewEvent,
    ReviewState,
    SeriesEvent,
    SeriesState,
    next_delivery_state,
    next_job_state,
    next_review_state,
    next_series_state,
)
from contourd.store.tables import DeliveryRow, EventRow, JobRow, SeriesRow

ORDERED_ANEW = (JobEvent.RELEASE, JobEvent.REWRITE, JobEvent.REVIVE)
Why = Reason | str | None  # a reason, or words for what happens of itself or by a person


def record(session: Session, subject: str, subject_id: int, event: str, state: str, reason: Why, at: datetime) -> None:
    """Append one event row."""
    row = EventRow(at=at, subject=subject, subject_id=subject_id, event=str(event), state=str(state), detail="")
    if isinstance(reason, str):
        row.detail = reason
    else:
        row.reason = reason
    session.add(row)


def add_series(session: Session, series_uid: str, calling_ae: str, patient: str, at: datetime) -> SeriesRow:
    """Make the row of a series of which the first image came: it is being received.

    Where another node has made it in the same moment, that one is returned; locked in any case.
    """
    row = SeriesRow(series_uid=series_uid, state=SeriesState.RECEIVING, calling_ae=calling_ae, patient=patient)
    row.created_at = row.last_instance_at = at
    made = insert_absent(session, row)
    series = lock_series(session, [series_uid])[series_uid]
    if made:
        record(session, "series", series.id, SeriesEvent.INSTANCE, series.state, calling_ae, at)
    return series


def add_job(
    session: Session, series: SeriesRow, route: Route, detail: str, at: datetime, choice: RouteChoice | None = None
) -> JobRow:
    """Queue a job for a series as it is now, with a route's models, destinations, confirmation and shadow.

    Parameters
    ----------
    choice
        Why the series took the route; None where no route of the settings was asked.
    """
    job = JobRow(
        series_id=series.id,
        revision=series.revision,
        model=route.asked,
        partial=route.partial,
        destinations=list(dict.fromkeys(route.destinations)),
        state=JobState.QUEUED,
        confirm=route.confirm,
        route_choice=choice.to_json() if choice else "",
        created_at=at,
        updated_at=at,
        lease_until=None,
    )
    session.add(job)
    session.flush()
    file_job(session, job, series.calling_ae)
    record(session, "job", job.id, "queued", job.state, detail, at)
    if route.shadow:
        shadow = ShadowRow(job_id=job.id, model=route.shadow, state=ShadowState.WAITING, lease_until=None)
        shadow.created_at = shadow.updated_at = at
        session.add(shadow)
    return job


def add_delivery(
    session: Session, job: JobRow, destination: str, output: str, at: datetime, product: str = RTSTRUCT
) -> DeliveryRow:
    """Make the delivery of a product of a job to a destination, due at once.

    Parameters
    ----------
    output
        The product's file, relative to the spool; a shadow's is refused: it goes nowhere.
    """
    row = DeliveryRow(
        job_id=job.id, destination=destination, product=product, output=output, state=DeliveryState.PENDING
    )
    row.not_before = row.created_at = row.updated_at = at
    session.add(row)
    session.flush()
    return row


def add_review(session: Session, row: ReviewRow, at: datetime) -> bool:
    """Record a structure set that came back; False where the very same one is there already."""
    row.state, row.received_at, row.updated_at, row.tried_at = ReviewState.RECEIVED, at, at, at
    made = insert_absent(session, row)
    if made:
        same = ReviewRow.sop_instance_uid == row.sop_instance_uid, ReviewRow.sha256 == row.sha256
        number = session.scalars(select(ReviewRow.id).where(*same)).one()
        record(session, "review", number, "received", row.state, row.calling_ae, at)
    return made


def advance_review(session: Session, row: ReviewRow, event: ReviewEvent, reason: Reason | None, at: datetime) -> None:
    """Advance a structure set that came back; raises InvalidTransition."""
    row.state, row.updated_at = next_review_state(ReviewState(row.state), event), at
    row.reason = reason
    record(session, "review", row.id, event, row.state, reason, at)


def advance_series(session: Session, series: SeriesRow, event: SeriesEvent, reason: Why, at: datetime) -> None:
    """Advance a series; raises InvalidTransition."""
    series.state = next_series_state(SeriesState(series.state), event)
    record(session, "series", series.id, event, series.state, reason, at)


def advance_job(session: Session, job: JobRow, event: JobEvent, reason: Why, at: datetime) -> None:
    """Advance a job; raises InvalidTransition. What a person has done again is ordered anew."""
    job.state, job.updated_at = next_job_state(JobState(job.state), event), at
    if event in ORDERED_ANEW:
        job.contouring_order = ""
    record(session, "job", job.id, event, job.state, reason, at)


def claim_chosen(chosen: Select[tuple[int]]) -> Select[Any]:
    """Return the statement by which PostgreSQL claims a job, and records it: it selects the row as it is then.

    Its parameters are ``worker``, ``now`` and ``until``.

    Parameters
    ----------
    chosen
        Selects the id of a job that is queued, and locks it.
    """
    worker, now, jobs = bindparam("worker", type_=String), bindparam("now", type_=UTCDateTime), JobRow.__table__
    event, state = JobEvent.CLAIM, next_job_state(JobState.QUEUED, JobEvent.CLAIM)
    one = chosen.cte("chosen")
    claimed = (
        update(jobs)  # type: ignore[arg-type]
        .where(jobs.c.id == one.c.id)
        .values(
            state=state.value,
            attempts=jobs.c.attempts + 1,
            claims=jobs.c.claims + 1,
            worker=worker,
            lease_until=bindparam("until", type_=UTCDateTime),
            updated_at=now,
        )
        .returning(*jobs.c)
        .cte("claimed")
    )
    values = {"at": now, "subject": "job", "subject_id": claimed.c.id, "event": event.value, "state": state.value}
    told = select(*(literal(v) if isinstance(v, str) else v for v in values.values()), worker, literal(""), literal(""))
    columns = [*values, "detail", "reason_code", "reason_detail"]
    return select(claimed).add_cte(insert(EventRow.__table__).from_select(columns, told).cte("told"))  # type: ignore[arg-type]


def advance_delivery(session: Session, row: DeliveryRow, event: DeliveryEvent, reason: Why, at: datetime) -> None:
    """Advance a delivery; raises InvalidTransition."""
    row.state, row.updated_at = next_delivery_state(DeliveryState(row.state), event), at
    record(session, "delivery", row.id, event, row.state, reason, at)


def end_delivery(session: Session, row: DeliveryRow, event: DeliveryEvent, reason: Reason | None, at: datetime) -> None:
    """Advance a delivery to DELIVERED; the job is delivered with its last one."""
    row.reason = reason
    advance_delivery(session, row, event, reason, at)
    end_job(session, session.get_one(JobRow, row.job_id), at)


def end_job(session: Session, job: JobRow, at: datetime) -> None:
    """Advance a job to DELIVERED where every destination has its structure set."""
    session.flush()
    states = set(session.scalars(select(DeliveryRow.state).where(DeliveryRow.job_id == job.id)))
    if states == {DeliveryState.DELIVERED} and job.state == JobState.DELIVERING:
        job.reason = None
        advance_job(session, job, JobEvent.ALL_DELIVERED, None, at)


def release_delivery(session: Session, row: DeliveryRow, detail: str, at: datetime) -> None:
    """Send a delivery again at once; its tries, and the time to give up, are counted anew."""
    row.attempts = 0
    row.reason = None
    row.created_at = row.not_before = at
    advance_delivery(session, row, DeliveryEvent.RELEASE, detail, at)


def refuse_delivery(session: Session, row: DeliveryRow, reason: Reason, at: datetime) -> None:
    """Advance a delivery to REFUSED; its job fails with the reason."""
    row.reason = reason
    advance_delivery(session, row, DeliveryEvent.REFUSE, reason, at)
    job = session.get_one(JobRow, row.job_id)
    if job.state == JobState.DELIVERING:
        job.reason = Reason.of(HoldReason.DELIVERY_REFUSED, destination=row.destination, why=reason)
        advance_job(session, job, JobEvent.FAIL, job.reason, at)


def withdraw_job(session: Session, job: JobRow, event: JobEvent, reason: Reason, at: datetime) -> None:
    """End a job, and what of it waits to be sent; what was delivered stays delivered, what is being sent may arrive."""
    job.reason = reason
    job.lease_until = None
    advance_job(session, job, event, reason, at)
    pending = DeliveryRow.job_id == job.id, DeliveryRow.state == DeliveryState.PENDING
    for row in session.scalars(locked(select(DeliveryRow).where(*pending).order_by(DeliveryRow.id))):
        row.reason = reason
        advance_delivery(session, row, DeliveryEvent.REFUSE, reason, at)


def return_delivery(session: Session, row: DeliveryRow, reason: Reason, not_before: datetime, at: datetime) -> None:
    """Send a delivery again later; one of a job that was superseded or cancelled is not."""
    job = session.get_one(JobRow, row.job_id)
    if job.state in (JobState.SUPERSEDED, JobState.CANCELLED):
        ended = Reason.of(HoldReason.DELIVERY_OF_ENDED_JOB, job=job.reason, why=reason)
        refuse_delivery(session, row, ended, at)
        return
    row.reason = reason
    row.not_before = not_before
    advance_delivery(session, row, DeliveryEvent.RETRY, reason, at)
