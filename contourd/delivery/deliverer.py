"""Deliver to one destination: send, probe by C-ECHO while it is down, ask for storage commitment where that is set.

While a destination is down nothing is sent to it: it is probed once for each step of the backoff, whatever waits for
it. When it answers, everything that waits goes at once.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid

from contourd.delivery.commitments import AwaitedCommitment, Commitments
from contourd.delivery.deliveries import Deliveries, Delivery, WaitingDelivery, reason_of
from contourd.dicom.network.commitment_messages import CommitmentRequest
from contourd.dicom.network.commitment_scu import CommitmentClient, reference_to
from contourd.dicom.network.outcomes import BROKE_OFF, Outcome, OutcomeKind
from contourd.dicom.network.scu import DeliveryClient
from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import LeaseLost, StoreUnavailable
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Destination
from contourd.store.backoff import Backoff, Seconds, WaitingTimes
from contourd.store.write_retry import retry_write
from contourd.transfer.copies import HERE_ALONE, Copies

log = logging.getLogger(__name__)

MOST_ASKED = 10  # before looking again for something to send
MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class DeliveryServices:
    """What all destinations share; ``root`` is the spool's, and ``copies`` who has its files on this host."""

    root: Path
    deliveries: Deliveries
    commitments: Commitments
    sender: DeliveryClient
    committer: CommitmentClient
    copies: Copies = HERE_ALONE

    def fetched(self, output: str) -> Path:
        """Return a structure set's file, fetched from the object store where another host made it."""
        self.copies.bring([output])
        return self.root / output


class Deliverer:
    """Delivers to one destination, in a thread of its own: one that is down delays no other."""

    def __init__(
        self,
        destination: Destination,
        post: DeliveryServices,
        stopping: threading.Event,
        elapsed: Seconds = time.monotonic,
    ) -> None:
        self._destination = destination
        self._name = destination.name
        self._delivering = post
        self._deliveries = post.deliveries
        self._stopping = stopping
        self._backoff = Backoff(post.deliveries.policy, elapsed)
        self._trying = WaitingTimes(elapsed)
        self._told_to_wait: frozenset[int] = frozenset()
        self._broke_off = False

    @property
    def remembered(self) -> int:
        """How many deliveries' waiting times are remembered."""
        return len(self._trying)

    def deliver_due(self) -> None:
        """Send what is due, and ask for the commitment of what was sent."""
        if self._broke_off:  # the database could not be written, for instance
            self._deliveries.recover(destination=self._name, reason="an error of contourd's own; see its log")
        self._broke_off = True
        if (not self._backoff.is_down or self._answers_again()) and self._send_due() and self._destination.commitment:
            self._ask_for_commitment()
        self._broke_off = False
        if len(self._trying) > MOST_REMEMBERED:
            self._trying.forget_but({one.id for one in self._deliveries.list_waiting(self._name)})

    def _send_due(self) -> bool:
        """Send what is due; False where the destination cannot be reached."""
        while not self._stopping.is_set() and (delivery := self._deliveries.fetch_delivery(self._name)) is not None:
            if not self._send(delivery):
                return False
        return True

    def _send(self, delivery: Delivery) -> bool:
        """Send one; False where the destination cannot be reached."""
        waited_s = self._trying.waited_s(delivery.id, delivery.created_at)
        outcome = BROKE_OFF
        recorded = False
        if not self._deliveries.is_ours(delivery):
            log.warning("another process has the delivery now", extra={"action": "lease lost", "job": delivery.job_id})
            return True
        try:
            outcome = self._delivering.sender.deliver(self._delivering.fetched(delivery.output), self._destination)
        except StoreUnavailable as error:
            outcome = Outcome(OutcomeKind.RETRY, str(error))
        finally:  # what is raised counts as a try in vain; once and for all: what is not written down is sent again
            recorded = retry_write(lambda: self._record(delivery, outcome, waited_s), self._stopping)
        if not recorded:
            return False
        if outcome.kind is OutcomeKind.UNREACHABLE:
            self._is_down(outcome)
            return False
        self._backoff.succeed()
        return True

    def _record(self, delivery: Delivery, outcome: Outcome, waited_s: float) -> None:
        """Write down how a try ended, unless another process took it over meanwhile; raises QueueUnavailable."""
        try:
            self._record_own(delivery, outcome, waited_s)
        except LeaseLost as error:
            log.warning("%s", error, extra={"action": "lease lost", "job": delivery.job_id})

    def _record_own(self, delivery: Delivery, outcome: Outcome, waited_s: float) -> None:
        about = {"job": delivery.job_id, "destination": self._name}
        if outcome.kind is OutcomeKind.REFUSED:
            self._deliveries.refuse_delivery(delivery, outcome)
            log.error("refused: %s", outcome.reason, extra={"action": "refuse", **about})
        elif outcome.kind is not OutcomeKind.ACCEPTED:
            if self._deliveries.postpone_delivery(delivery, outcome, waited_s):
                log.warning("will be sent again: %s", outcome.reason, extra={"action": "retry", **about})
            else:
                log.error("given up: %s", outcome.reason, extra={"action": "give up", **about})
        elif self._destination.commitment:
            self._deliveries.await_commitment(delivery, outcome)
            log.info("sent, and not yet committed", extra={"action": "send", **about})
        else:
            self._deliveries.finish_delivery(delivery, outcome)
            log.info("delivered", extra={"action": "deliver", **about})

    def _is_down(self, outcome: Outcome) -> None:
        if not self._backoff.is_down:
            log.warning(
                "the destination is down; nothing is sent to it until it answers: %s",
                outcome.reason,
                extra={"action": "down", "destination": self._name},
            )
        self._put_off(self._backoff.fail(), reason_of(outcome))

    def _put_off(self, wait_s: float, reason: Reason) -> None:
        self._deliveries.postpone_all(self._name, wait_s, reason)
        waiting = self._deliveries.list_waiting(self._name)
        for one in waiting:
            self._trying.waited_s(one.id, one.created_at)  # its time begins now at the latest
        self._trying.forget_but({one.id for one in waiting})
        self._told_to_wait |= {one.id for one in waiting}

    def _answers_again(self) -> bool:
        """Probe where a step is over, or a person released something that was told to wait."""
        waiting = self._deliveries.list_waiting(self._name)
        due = {one.id for one in waiting if one.is_due}
        if not waiting or (self._backoff.left_s > 0 and not due & self._told_to_wait):
            if due:  # new ones: they wait with the rest
                self._put_off(self._backoff.left_s, Reason.of(HoldReason.DESTINATION_DOWN, destination=self._name))
            return False
        outcome = BROKE_OFF
        try:
            outcome = self._delivering.sender.echo(self._destination)
        finally:
            answers = outcome.kind in (OutcomeKind.ACCEPTED, OutcomeKind.REFUSED)  # to refuse it must be there
            if not answers:
                self._is_down(outcome)
                self._give_up_old(waiting, outcome)
        if answers:
            self._backoff.answer()
            self._told_to_wait = frozenset()
            self._deliveries.make_due(self._name)
            log.info("the destination answers again", extra={"action": "up", "destination": self._name})
        return answers

    def _give_up_old(self, waiting: list[WaitingDelivery], outcome: Outcome) -> None:
        """Refuse what has waited for too long for a destination that has just been found down."""
        for one in waiting:
            if self._deliveries.policy.gives_up(self._trying.waited_s(one.id, one.created_at)):
                self._deliveries.give_up_delivery(one.id, Reason.of(HoldReason.GIVEN_UP, why=reason_of(outcome)))
                log.error(
                    "given up: %s",
                    outcome.reason,
                    extra={"action": "give up", "job": one.job_id, "destination": self._name},
                )

    def _ask_for_commitment(self) -> None:
        due = self._delivering.commitments.list_due(self._name, self._destination.commitment_wait_s)
        for awaited in due[:MOST_ASKED]:  # what is to be sent comes first
            waited_s = self._trying.waited_s(awaited.delivery_id, awaited.created_at)
            if self._stopping.is_set():
                return
            if awaited.asked and self._deliveries.policy.gives_up(waited_s):
                self._never_committed(awaited, Reason.of(HoldReason.COMMITMENT_FAILED, said=awaited.reason))
            elif not self._ask(awaited):
                return

    def _ask(self, awaited: AwaitedCommitment) -> bool:
        """Ask for one; False where the destination cannot be reached."""
        about = {"job": awaited.job_id, "destination": self._name}
        if awaited.asked:
            log.warning("asking again for storage commitment: %s", awaited.reason, extra={"action": "ask", **about})
        try:
            reference = reference_to(self._delivering.fetched(awaited.output))
        except StoreUnavailable as error:
            log.warning("%s", error, extra={"action": "ask", **about})
            return True
        except UNREADABLE as error:
            gone = Reason.of(HoldReason.STRUCTURE_SET_GONE, output=awaited.output, said=str(error))
            self._never_committed(awaited, gone)
            return True
        transaction_uid = str(generate_uid(prefix=None))
        self._delivering.commitments.record_request(
            awaited.delivery_id, transaction_uid, reference, self._destination.commitment_wait_s
        )
        outcome = BROKE_OFF
        try:
            outcome = self._delivering.committer.ask(
                CommitmentRequest(transaction_uid, (reference,)), self._destination
            )
        finally:
            self._record_asked(awaited, transaction_uid, outcome)
        if outcome.kind is OutcomeKind.UNREACHABLE:
            self._is_down(outcome)
            return False
        return True

    def _record_asked(self, awaited: AwaitedCommitment, transaction_uid: str, outcome: Outcome) -> None:
        """Write down how asking for a commitment ended."""
        about = {"job": awaited.job_id, "destination": self._name}
        commitments, wait_s = self._delivering.commitments, self._destination.commitment_wait_s
        if outcome.kind is OutcomeKind.ACCEPTED:
            log.info("storage commitment is asked for", extra={"action": "ask", **about})
        elif outcome.kind is OutcomeKind.REFUSED:
            commitments.record_unasked(transaction_uid, outcome.reason, wait_s)
            self._never_committed(awaited, Reason.of(HoldReason.COMMITMENT_NOT_TAKEN, why=reason_of(outcome)))
        else:
            again_s = self._deliveries.policy.wait_s(awaited.asked + 1)
            commitments.record_unasked(transaction_uid, outcome.reason, again_s)
            log.warning("will be asked again: %s", outcome.reason, extra={"action": "ask", **about})

    def _never_committed(self, awaited: AwaitedCommitment, reason: Reason) -> None:
        never = Reason.of(HoldReason.NEVER_COMMITTED, why=reason)
        self._deliveries.give_up_delivery(awaited.delivery_id, never)
        log.error("%s", never, extra={"action": "refuse", "job": awaited.job_id, "destination": self._name})
