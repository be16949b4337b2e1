"""Storage commitments that destinations are asked for (DICOM PS3.4 annex J), and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.dicom.network.commitment_messages import (
    INVALID_ARGUMENT,
    NO_SUCH_INSTANCE,
    NOT_AUTHORISED,
    CommitmentReport,
    InstanceReference,
    failure_text,
)
from contourd.dicom.uids import PRODUCTS
from contourd.errors import CommitmentRefused
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.database import Database
from contourd.store.locks import lock_delivery, locked
from contourd.store.states import SPREAD, CommitmentState, DeliveryEvent, DeliveryState, RetryPolicy
from contourd.store.tables import CommitmentRow, DeliveryRow
from contourd.store.transitions import end_delivery, return_delivery
from contourd.system.clock import Clock, utc_now

UNANSWERED = "it did not answer for the structure set"


@dataclass(frozen=True, slots=True)
class AwaitedCommitment:
    """A delivery whose commitment is to be asked for; ``asked`` times it was already, ``reason`` is how that ended."""

    delivery_id: int
    job_id: int
    output: str
    created_at: datetime
    asked: int
    reason: str


class Commitments:
    """The commitments of one database.

    Parameters
    ----------
    titles
        Destination -> its AE title: nobody else may report.
    """

    def __init__(
        self, database: Database, policy: RetryPolicy, titles: Mapping[str, str], clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._policy = policy
        self._titles = titles
        self._now = clock

    def list_due(self, destination: str, wait_s: float) -> list[AwaitedCommitment]:
        """Return the deliveries to a destination for which it is to be asked now: at first, or since none answered.

        Parameters
        ----------
        wait_s
            The longest time that an answer is waited for; a date that lies further ahead is another clock's.
        """
        latest = self._now() + timedelta(seconds=max(wait_s, self._policy.longest_s) * SPREAD)
        asked = select(func.count()).where(CommitmentRow.delivery_id == DeliveryRow.id).scalar_subquery()
        sent = select(DeliveryRow, asked).where(
            DeliveryRow.state == DeliveryState.SENT,
            DeliveryRow.destination == destination,
            (DeliveryRow.not_before <= self._now()) | (DeliveryRow.not_before > latest),
        )
        with self._database.reading() as session:
            rows = session.execute(sent.order_by(DeliveryRow.id)).all()
            return [
                AwaitedCommitment(d.id, d.job_id, d.output, d.created_at, n, self._last(session, d.id)) for d, n in rows
            ]

    def _last(self, session: Session, delivery_id: int) -> str:
        of_it = select(CommitmentRow).where(CommitmentRow.delivery_id == delivery_id)
        row = session.scalars(of_it.order_by(CommitmentRow.id.desc()).limit(1)).first()
        return "" if row is None else row.reason or UNANSWERED

    def record_request(
        self, delivery_id: int, transaction_uid: str, reference: InstanceReference, wait_s: float
    ) -> None:
        """Record a request before it is sent, for the report may overtake the answer; an earlier one has expired."""
        with self._database.transaction() as session:
            row, now = lock_delivery(session, delivery_id), self._now()
            unanswered = (CommitmentRow.delivery_id == delivery_id) & (CommitmentRow.state == CommitmentState.REQUESTED)
            for earlier in session.scalars(locked(select(CommitmentRow).where(unanswered).order_by(CommitmentRow.id))):
                earlier.state = CommitmentState.EXPIRED
                earlier.reason = UNANSWERED
            session.add(
                CommitmentRow(
                    transaction_uid=transaction_uid,
                    delivery_id=delivery_id,
                    sop_instance_uid=reference.sop_instance_uid,
                    state=CommitmentState.REQUESTED,
                    requested_at=now,
                    answered_at=None,
                )
            )
            if row.state == DeliveryState.SENT:
                row.not_before = now + timedelta(seconds=wait_s)
                row.reason = Reason(HoldReason.COMMITMENT_AWAITED)

    def record_unasked(self, transaction_uid: str, reason: str, wait_s: float) -> None:
        """Record that a request was not taken; it is asked again later, unless it was answered all the same."""
        with self._database.transaction() as session:
            found = self._locked(session, transaction_uid)
            if found is None:
                return
            row, delivery = found
            if row.state != CommitmentState.REQUESTED:
                return
            row.state = CommitmentState.EXPIRED
            row.reason = reason
            if delivery.state == DeliveryState.SENT:
                delivery.not_before = self._now() + timedelta(seconds=wait_s)
                delivery.reason = Reason.of(HoldReason.COMMITMENT_FAILED, said=reason)

    def reported(self, calling_ae: str, report: CommitmentReport) -> None:
        """Record a destination's report: what is committed is delivered, what is not is sent again.

        Raises
        ------
        CommitmentRefused
            It is no answer to what this destination was asked.
        QueueUnavailable
            It cannot be recorded now.
        """
        with self._database.transaction() as session:
            self._report(session, calling_ae, report)

    def _report(self, session: Session, calling_ae: str, report: CommitmentReport) -> None:
        found = self._locked(session, report.transaction_uid)
        if found is None:
            raise CommitmentRefused(INVALID_ARGUMENT, "there is no such transaction")
        row, delivery = found
        if self._titles.get(delivery.destination) != calling_ae:
            raise CommitmentRefused(
                NOT_AUTHORISED, f"the transaction is not {calling_ae}'s, but {delivery.destination}'s"
            )
        ours = PRODUCTS[delivery.product]  # nothing else was asked after
        failures = {r.sop_instance_uid: reason for r, reason in report.failed.items() if r.sop_class_uid == ours}
        stored = {r.sop_instance_uid for r in report.stored if r.sop_class_uid == ours}
        if row.sop_instance_uid not in failures and row.sop_instance_uid not in stored:
            raise CommitmentRefused(NO_SUCH_INSTANCE, "the report does not name the structure set that was asked after")
        if row.state in (CommitmentState.COMMITTED, CommitmentState.FAILED):
            return  # told again, for our answer was lost
        row.answered_at = self._now()
        if row.sop_instance_uid in failures:
            self._failed(session, row, delivery, failures[row.sop_instance_uid])
        else:
            row.state = CommitmentState.COMMITTED
            row.reason = ""
            if delivery.state == DeliveryState.SENT:
                end_delivery(session, delivery, DeliveryEvent.COMMITTED, None, self._now())

    def _locked(self, session: Session, transaction_uid: str) -> tuple[CommitmentRow, DeliveryRow] | None:
        """Lock a commitment after its delivery; None where there is no such transaction."""
        of_transaction = select(CommitmentRow).where(CommitmentRow.transaction_uid == transaction_uid)
        row = session.scalars(of_transaction).first()
        if row is None:
            return None
        delivery = lock_delivery(session, row.delivery_id)
        return session.scalars(locked(of_transaction)).one(), delivery

    def _failed(self, session: Session, row: CommitmentRow, delivery: DeliveryRow, failure: int) -> None:
        newest = session.scalar(select(func.max(CommitmentRow.id)).where(CommitmentRow.delivery_id == delivery.id))
        row.state = CommitmentState.FAILED
        row.reason = f"it took the structure set and says that it does not hold it ({failure_text(failure)})"
        if delivery.state == DeliveryState.SENT and row.id == newest:
            later = self._now() + timedelta(seconds=self._policy.wait_s(delivery.attempts))
            failed = Reason.of(HoldReason.COMMITMENT_FAILED, said=f"{delivery.destination}: {row.reason}")
            return_delivery(session, delivery, failed, later, self._now())
