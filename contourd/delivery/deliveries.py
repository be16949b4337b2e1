"""Deliveries: claim, accept, postpone, refuse. Each try is a row of ``attempts``, written with its transition."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.errors import LeaseLost
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.database import Database
from contourd.store.locks import lock_delivery, locked
from contourd.store.states import (
    DELIVERIES_WAITING,
    JOBS_SENDING,
    DeliveryEvent,
    DeliveryState,
    RetryPolicy,
)
from contourd.store.tables import AttemptRow, DeliveryRow, JobRow
from contourd.store.transitions import advance_delivery, end_delivery, refuse_delivery, return_delivery
from contourd.system.clock import Clock, utc_now

INTERRUPTED = "interrupted"


CODES: Mapping[OutcomeKind, HoldReason] = MappingProxyType(
    {
        OutcomeKind.ACCEPTED: HoldReason.DESTINATION_TOOK,
        OutcomeKind.RETRY: HoldReason.DESTINATION_BUSY,
        OutcomeKind.UNREACHABLE: HoldReason.DESTINATION_UNREACHABLE,
        OutcomeKind.IMPROPER: HoldReason.DESTINATION_IMPROPER,
        OutcomeKind.REFUSED: HoldReason.DESTINATION_REFUSED,
    }
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery: who claims it next has a higher token, and then this one counts for nothing.

    Attributes
    ----------
    output
        The structure set, relative to the spool.
    """

    id: int
    token: int
    job_id: int
    destination: str
    output: str
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingDelivery:
    """A delivery that is to be sent, or whose commitment is awaited; ``is_due``: its time has come."""

    id: int
    job_id: int
    created_at: datetime
    is_due: bool


class Deliveries:
    """The deliveries of one database.

    Parameters
    ----------
    commitment_wait_s
        The longest that a destination is given to answer for what it took.
    process_id
        Who sends: the id of this process.
    """

    def __init__(
        self,
        database: Database,
        policy: RetryPolicy,
        clock: Clock = utc_now,
        commitment_wait_s: float = 0.0,
        process_id: str = "",
    ) -> None:
        self._process = process_id
        self._database = database
        self.policy = policy
        self._now = clock
        self._longest = timedelta(seconds=max(policy.longest_s, commitment_wait_s))

    def recover(
        self, process_id: str | None = None, destination: str | None = None, reason: str = "contourd was restarted"
    ) -> None:
        """Make what was being sent when it broke off ready again: whether it arrived is not known.

        Parameters
        ----------
        process_id
            Who was sending it, and is dead; by default this process, which has nothing under way there.
        destination
            Only what goes there. None: to all.
        """
        sender = self._process if process_id is None else process_id
        sent_by = DeliveryRow.process == sender
        which = sent_by if destination is None else and_(sent_by, DeliveryRow.destination == destination)
        self._recover(which, reason)

    def recover_all_but(self, running: Collection[str]) -> None:
        """Do the same for whatever no process sends that runs; ``running``: the ids of those."""
        self._recover(DeliveryRow.process.not_in(running), "contourd was restarted")

    def _recover(self, which: ColumnElement[bool], reason: str) -> None:
        sending = select(DeliveryRow.id, DeliveryRow.claims).where(DeliveryRow.state == DeliveryState.SENDING, which)
        with self._database.reading() as session:
            claimed = session.execute(sending.order_by(DeliveryRow.id)).all()
        for number, token in claimed:  # one by one: each locks its job
            with self._database.transaction() as session:
                row = lock_delivery(session, number)
                if (row.state, row.claims) == (DeliveryState.SENDING, token):
                    self._note(session, row, INTERRUPTED, None, reason)
                    broke_off = Reason.of(HoldReason.SENDING_BROKE_OFF, because=reason)
                    return_delivery(session, row, broke_off, self._now(), self._now())

    def fetch_delivery(self, destination: str) -> Delivery | None:
        """Take the oldest delivery to a destination that is due, None where there is none."""
        with self._database.transaction() as session:
            due = (
                select(DeliveryRow)
                .where(self._to_be_sent(destination), self._is_due())
                .order_by(DeliveryRow.not_before, DeliveryRow.id)
                .limit(1)
            )
            row = session.scalars(due.with_for_update(key_share=True, skip_locked=True)).first()
            if row is None:
                return None
            row.attempts += 1
            row.claims += 1
            row.process = self._process
            advance_delivery(session, row, DeliveryEvent.CLAIM, "", self._now())
            return Delivery(row.id, row.claims, row.job_id, row.destination, row.output, row.attempts, row.created_at)

    def _is_due(self) -> ColumnElement[bool]:
        """Its time has come, or lies where no wait of ours can put it: the clock was set since."""
        now = self._now()
        return or_(DeliveryRow.not_before <= now, DeliveryRow.not_before > now + self._longest)

    def is_ours(self, delivery: Delivery) -> bool:
        """Return whether nobody else has claimed it since: it is asked right before it is sent."""
        with self._database.reading() as session:
            row = session.get_one(DeliveryRow, delivery.id)
            return (row.state, row.claims) == (DeliveryState.SENDING, delivery.token)

    def finish_delivery(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record the destination's acceptance; the job is delivered with its last delivery. Raises LeaseLost."""
        with self._database.transaction() as session:
            row = self._note_attempt(session, delivery, outcome)
            end_delivery(session, row, DeliveryEvent.ACCEPTED, _reason_of(outcome), self._now())

    def await_commitment(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record the destination's acceptance where it is delivered only when the destination commits itself to it."""
        with self._database.transaction() as session:
            row = self._note_attempt(session, delivery, outcome)
            row.reason = Reason(HoldReason.COMMITMENT_TO_ASK)
            row.not_before = self._now()
            advance_delivery(session, row, DeliveryEvent.AWAIT, _reason_of(outcome), self._now())

    def postpone_delivery(self, delivery: Delivery, outcome: Outcome, waited_s: float) -> bool:
        """Set the time of the next try, or refuse the delivery when the policy gives up.

        Parameters
        ----------
        waited_s
            For how long it has been tried.

        Returns
        -------
        False where it was given up.
        """
        with self._database.transaction() as session:
            row, now = self._note_attempt(session, delivery, outcome), self._now()
            if self.policy.gives_up(waited_s):
                reason = reason_of(outcome)
                refuse_delivery(session, row, Reason.of(HoldReason.GIVEN_UP_AFTER, tries=row.attempts, why=reason), now)
                return False
            wait_s = max(self.policy.wait_s(row.attempts), min(outcome.after_s, self.policy.longest_s))
            later = now + timedelta(seconds=wait_s)
            return_delivery(session, row, reason_of(outcome), later, now)
            return True

    def refuse_delivery(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record that retrying cannot help; the job fails with the reason."""
        with self._database.transaction() as session:
            row = self._note_attempt(session, delivery, outcome)
            refuse_delivery(session, row, reason_of(outcome), self._now())

    def finish_awaiting(self, destination: str) -> None:
        """Call delivered what a destination took, where its commitment was awaited and is not wanted any more."""
        sent = (DeliveryRow.state == DeliveryState.SENT) & (DeliveryRow.destination == destination)
        with self._database.reading() as session:
            numbers = session.scalars(select(DeliveryRow.id).where(sent).order_by(DeliveryRow.id)).all()
        for number in numbers:  # one by one: each locks its job
            with self._database.transaction() as session:
                row = lock_delivery(session, number)
                if row.state == DeliveryState.SENT:
                    taken = Reason(HoldReason.COMMITMENT_NOT_WANTED)
                    end_delivery(session, row, DeliveryEvent.COMMITTED, taken, self._now())

    def give_up_delivery(self, delivery_id: int, reason: Reason) -> None:
        """Refuse a delivery that waits, or whose commitment is awaited, without another try."""
        with self._database.transaction() as session:
            row = lock_delivery(session, delivery_id)
            if row.state in DELIVERIES_WAITING:
                refuse_delivery(session, row, reason, self._now())

    def list_waiting(self, destination: str) -> list[WaitingDelivery]:
        """Return what is to be sent to a destination, or waits for its commitment."""
        columns = (DeliveryRow.id, DeliveryRow.job_id, DeliveryRow.created_at, self._is_due())
        with self._database.reading() as session:
            rows = session.execute(select(*columns).where(self._open(destination)).order_by(DeliveryRow.id))
            return [WaitingDelivery(number, job, created_at, bool(due)) for number, job, created_at, due in rows]

    def postpone_all(self, destination: str, wait_s: float, reason: Reason) -> None:
        """Postpone all that waits for a destination by so long at least: it cannot be reached."""
        until = self._now() + timedelta(seconds=wait_s)
        with self._database.transaction() as session:
            sooner = self._open(destination), or_(DeliveryRow.not_before < until, self._is_due())
            put_off = {"not_before": until, "reason_code": reason.code.value, "reason_detail": reason.dump()}
            self._change_all(session, and_(*sooner), put_off)

    def make_due(self, destination: str) -> None:
        """Make all that waits for a destination due now: it answers again."""
        with self._database.transaction() as session:
            self._change_all(session, self._to_be_sent(destination), {"not_before": self._now()})

    def _change_all(self, session: Session, which: ColumnElement[bool], values: Mapping[str, object]) -> None:
        """Change many at once, which are locked in their order before."""
        if not self._database.is_sqlite:
            session.execute(locked(select(DeliveryRow.id).where(which).order_by(DeliveryRow.id)))
        session.execute(update(DeliveryRow).where(which).values(values))

    def _open(self, destination: str) -> ColumnElement[bool]:
        awaited = (DeliveryRow.state == DeliveryState.SENT) & (DeliveryRow.destination == destination)
        return or_(self._to_be_sent(destination), awaited)

    def _to_be_sent(self, destination: str) -> ColumnElement[bool]:
        """Select what waits for its destination and not for a person: nothing of a held job is sent."""
        at_work = DeliveryRow.job_id.in_(select(JobRow.id).where(JobRow.state.in_(JOBS_SENDING)))
        return (DeliveryRow.state == DeliveryState.PENDING) & (DeliveryRow.destination == destination) & at_work

    def _note_attempt(self, session: Session, delivery: Delivery, outcome: Outcome) -> DeliveryRow:
        """Return the row of what was sent, locked, with its try; raises LeaseLost where another process has it now."""
        row = lock_delivery(session, delivery.id)
        if (row.state, row.claims) != (DeliveryState.SENDING, delivery.token):
            raise LeaseLost(f"delivery {delivery.id} is no longer this process's: nothing of its try is recorded")
        self._note(session, row, outcome.kind.value, outcome.status, outcome.reason)
        return row

    def _note(self, session: Session, row: DeliveryRow, outcome: str, status: int | None, reason: str) -> None:
        attempt = AttemptRow(delivery_id=row.id, destination=row.destination, at=self._now(), outcome=outcome)
        attempt.status = status
        attempt.reason = reason
        session.add(attempt)


def reason_of(outcome: Outcome) -> Reason:
    """Return the reason that is kept of how a try ended."""
    return Reason.of(CODES[outcome.kind], said=outcome.reason)


def _reason_of(outcome: Outcome) -> Reason | None:
    """Return the same, None where there is nothing to say."""
    return reason_of(outcome) if outcome.reason else None
