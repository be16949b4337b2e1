"""What waits for a time of day follows a clock that is set, so that it neither fires at once nor waits for a day."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from contourd.store.database import Database
from contourd.store.locks import locked
from contourd.store.states import DELIVERIES_UNDER_WAY, CommitmentState, RequestState
from contourd.store.tables import CommitmentRequestRow, CommitmentRow, DeliveryRow


def follow_clock(database: Database, step_s: float) -> None:
    """Shift the moments that open deliveries and commitments wait for, or are given up by, by as much as the clock."""
    step = timedelta(seconds=step_s)
    open_ones = select(DeliveryRow).where(DeliveryRow.state.in_(DELIVERIES_UNDER_WAY)).order_by(DeliveryRow.id)
    with database.transaction() as session:
        for delivery in session.scalars(locked(open_ones)):
            delivery.not_before += step
            delivery.created_at += step
        asked_for = select(CommitmentRow).where(CommitmentRow.state == CommitmentState.REQUESTED)
        for asked in session.scalars(locked(asked_for.order_by(CommitmentRow.id))):
            asked.requested_at += step
        open_requests = select(CommitmentRequestRow).where(CommitmentRequestRow.state == RequestState.PENDING)
        for request in session.scalars(locked(open_requests.order_by(CommitmentRequestRow.id))):
            request.not_before += step
            request.created_at += step
