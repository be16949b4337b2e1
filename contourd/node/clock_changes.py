"""What waits for a time of day follows a clock that is set, so that it neither fires at once nor waits for a day."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from contourd.store.database import Database
from contourd.store.states import DELIVERIES_UNDER_WAY, CommitmentState, RequestState
from contourd.store.tables import CommitmentRequestRow, CommitmentRow, DeliveryRow


def follow_clock(database: Database, step_s: float) -> None:
    """Shift the moments that open deliveries and commitments wait for, or are given up by, by as much as the clock."""
    step = timedelta(seconds=step_s)
    with database.transaction() as session:
        for delivery in session.scalars(select(DeliveryRow).where(DeliveryRow.state.in_(DELIVERIES_UNDER_WAY))):
            delivery.not_before += step
            delivery.created_at += step
        for asked in session.scalars(select(CommitmentRow).where(CommitmentRow.state == CommitmentState.REQUESTED)):
            asked.requested_at += step
        open_requests = select(CommitmentRequestRow).where(CommitmentRequestRow.state == RequestState.PENDING)
        for request in session.scalars(open_requests):
            request.not_before += step
            request.created_at += step
