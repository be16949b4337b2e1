"""Report to one sender which of the instances that it asked after are safe (DICOM PS3.4 J.3.3)."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import CTImageStorage

from contourd.delivery.commitment_requests import CommitmentRequests, PendingReport, StoredInstance
from contourd.delivery.stored_instance_check import stored_instance_failure
from contourd.dicom.network.commitment_messages import (
    CLASS_NOT_SUPPORTED,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentReport,
    CommitmentRequest,
    InstanceReference,
    failure_text,
)
from contourd.dicom.network.commitment_scu import CommitmentClient
from contourd.dicom.network.outcomes import BROKE_OFF, Outcome, OutcomeKind
from contourd.errors import StoreUnavailable
from contourd.settings import SenderNode
from contourd.store.backoff import Backoff, Seconds, WaitingTimes
from contourd.transfer.copies import HERE_ALONE, Copies

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class CommitmentServices:
    """What all senders share.

    Attributes
    ----------
    root
        The spool's.
    copies
        Who has its files on this host.
    late_s
        How long after a request an instance may still come: it may be on its way on another association.
    """

    root: Path
    requests: CommitmentRequests
    committer: CommitmentClient
    late_s: float
    copies: Copies = HERE_ALONE


class CommitmentReporter:
    """Reports to one sender, in a thread of its own; one that is down is tried once for each step of the backoff."""

    def __init__(
        self,
        sender: SenderNode,
        custody: CommitmentServices,
        stopping: threading.Event,
        elapsed: Seconds = time.monotonic,
    ) -> None:
        self._sender = sender
        self._committing = custody
        self._requests = custody.requests
        self._stopping = stopping
        self._backoff = Backoff(custody.requests.policy, elapsed)
        self._trying = WaitingTimes(elapsed)

    def report_due(self) -> None:
        """Examine the instances of each request that is due, and report."""
        if self._backoff.left_s > 0:
            return
        while (
            not self._stopping.is_set() and (pending := self._requests.fetch_request(self._sender.ae_title)) is not None
        ):
            try:
                report = self.examine(pending.request)
            except StoreUnavailable as error:
                log.warning("%s; it is reported later", error, extra={"action": "commit"})
                self._requests.await_instances(pending.id, LOOK_AGAIN_S)
                return
            if (
                NO_SUCH_INSTANCE in report.failed.values()
                and not pending.attempts
                and pending.age_s < self._committing.late_s
            ):
                self._requests.await_instances(pending.id, LOOK_AGAIN_S)
            elif not self._report(pending, report):
                return

    def examine(self, request: CommitmentRequest) -> CommitmentReport:
        """Read each instance and compare it with what was received.

        Raises
        ------
        StoreUnavailable
            One is in the object store, or on another host, and cannot be had now.
        """
        kept = self._requests.find_stored([reference.sop_instance_uid for reference in request.references])
        paths = [one.path for several in kept.values() for one in several]
        self._committing.copies.bring(paths)
        if self._committing.copies.missing(paths):
            raise StoreUnavailable("another host has images that were asked after, and did not store them yet")
        failures = {r: self._failure(r, kept.get(r.sop_instance_uid, [])) for r in request.references}
        stored = tuple(reference for reference, failure in failures.items() if failure is None)
        failed = {reference: failure for reference, failure in failures.items() if failure is not None}
        if PROCESSING_FAILURE in failed.values():
            log.error(
                "%d received images are not on the disk as they came; look at the disk of spool.root",
                list(failed.values()).count(PROCESSING_FAILURE),
                extra={"action": "commit", "calling_ae": self._sender.ae_title},
            )
        return CommitmentReport(request.transaction_uid, stored, failed)

    def _failure(self, reference: InstanceReference, kept: list[StoredInstance]) -> int | None:
        if not kept:
            return NO_SUCH_INSTANCE if reference.sop_class_uid == CTImageStorage else CLASS_NOT_SUPPORTED
        failures = [stored_instance_failure(self._committing.root / one.path, one.sha256, reference) for one in kept]
        return None if None in failures else failures[0]

    def _report(self, pending: PendingReport, report: CommitmentReport) -> bool:
        """Report one; False where the sender cannot be reached."""
        waited_s, outcome = self._trying.waited_s(pending.id, pending.created_at), BROKE_OFF
        try:
            outcome = self._committing.committer.report(report, self._sender)
        finally:  # whatever is raised counts as a try in vain
            self._record(pending, report, outcome, waited_s)
        if outcome.kind is OutcomeKind.UNREACHABLE:
            self._requests.postpone_all(self._sender.ae_title, self._backoff.fail(), outcome.reason)
            return False
        self._backoff.succeed()
        return True

    def _record(self, pending: PendingReport, report: CommitmentReport, outcome: Outcome, waited_s: float) -> None:
        """Write down how a try ended."""
        about = {"calling_ae": self._sender.ae_title}
        if outcome.kind is OutcomeKind.ACCEPTED:
            text = _report_text(report)
            self._trying.forget(pending.id, pending.created_at)
            self._requests.reported(pending.id, text)
            level = logging.WARNING if report.failed else logging.INFO
            log.log(level, "storage commitment reported: %s", text, extra={"action": "commit", **about})
        elif self._requests.policy.gives_up(waited_s):
            self._requests.give_up_requests(pending.id, f"given up: {outcome.reason}")
            self._trying.forget(pending.id, pending.created_at)
            log.error("a report was given up: %s", outcome.reason, extra={"action": "give up", **about})
        else:
            self._requests.postpone_request(
                pending.id, self._requests.policy.wait_s(pending.attempts + 1), outcome.reason
            )
            log.warning("will be reported again: %s", outcome.reason, extra={"action": "retry", **about})


def _report_text(report: CommitmentReport) -> str:
    failures = sorted(set(report.failed.values()))
    reasons = f" ({', '.join(map(failure_text, failures))})" if failures else ""
    return f"{len(report.stored)} instances are safe, {len(report.failed)} are not{reasons}"
