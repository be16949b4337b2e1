"""The calling side of storage commitment (DICOM PS3.4 annex J): ask a destination, report to a sender."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import build_role

from contourd.dicom.network.association import AssociationRequestor, answer_text, peer_text
from contourd.dicom.network.commitment_messages import (
    PROCESSING_FAILURE,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    RESOURCE_LIMITATION,
    CommitmentReport,
    CommitmentRequest,
    InstanceReference,
    report_dataset,
    request_dataset,
)
from contourd.dicom.network.commitment_scp import ReportSink, report_handler
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.reading.files import read_dicom
from contourd.settings import Destination, SenderNode

SUCCESS = 0x0000
# Some destinations report on the association of the request, at once; most open one to us.
SAME_ASSOCIATION_S = 2.0
CONTEXTS = [(PUSH_MODEL, ImplicitVRLittleEndian)]


class CommitmentClient(Protocol):
    """Asks destinations for storage commitment, and reports to senders."""

    def ask(self, request: CommitmentRequest, destination: Destination) -> Outcome:
        """Ask; accepted means that the destination will report. Whatever goes wrong is an outcome."""

    def report(self, report: CommitmentReport, sender: SenderNode) -> Outcome:
        """Report; accepted means that the sender took it. Whatever goes wrong is an outcome."""

    def hang_up(self) -> None:
        """Break off what is under way; it ends as what is tried again."""


class CommitmentSCU:
    """Asks and reports over an association each."""

    def __init__(self, calling_ae: str, reports: ReportSink, same_association_s: float = SAME_ASSOCIATION_S) -> None:
        self._caller = AssociationRequestor(calling_ae)
        self._reports = reports
        self._same_association_s = same_association_s

    def ask(self, request: CommitmentRequest, destination: Destination) -> Outcome:
        """Send an N-ACTION, and stay for a moment for the report."""
        reported = threading.Event()
        event, handler = report_handler(self._reports, destination.ae_title)

        def note(message: Any) -> Any:
            try:
                return handler(message)
            finally:
                reported.set()

        def send(association: Any) -> Outcome:
            information = request_dataset(request)
            status, _ = association.send_n_action(information, REQUEST_ACTION, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            outcome = _classify(status, destination, "did not take the request for storage commitment")
            if outcome.kind is OutcomeKind.ACCEPTED:
                reported.wait(self._same_association_s)
            return outcome

        return self._caller.ask(destination, CONTEXTS, send, handlers=[(event, note)])

    def report(self, report: CommitmentReport, sender: SenderNode) -> Outcome:
        """Send an N-EVENT-REPORT, in the role of the SCP."""

        def send(association: Any) -> Outcome:
            information = report_dataset(report)
            status, _ = association.send_n_event_report(information, report.event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            return _classify(status, sender, "did not take the report of storage commitment")

        return self._caller.ask(sender, CONTEXTS, send, roles=[build_role(PUSH_MODEL, scp_role=True)])

    def hang_up(self) -> None:
        """Break off what is under way."""
        self._caller.hang_up()


def _classify(response: Any, peer: Destination | SenderNode, what: str) -> Outcome:
    if "Status" not in response:
        return Outcome(OutcomeKind.RETRY, f"{peer_text(peer)} did not answer, or the connection broke")
    status = int(response.Status)
    if status == SUCCESS:
        return Outcome(OutcomeKind.ACCEPTED, "", status)
    passing = status in (PROCESSING_FAILURE, RESOURCE_LIMITATION) or status >> 8 == 0xA7
    kind = OutcomeKind.RETRY if passing else OutcomeKind.REFUSED
    return Outcome(kind, f"{peer_text(peer)} {what}: {answer_text(status, response.get('ErrorComment'))}", status)


def reference_to(path: Path) -> InstanceReference:
    """Name the structure set in a file."""
    dataset = read_dicom(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return InstanceReference(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
