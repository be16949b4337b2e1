"""The listening side of storage commitment (DICOM PS3.4 annex J): requests of senders, reports of destinations.

A destination reports by an association of its own, in which it proposes to be the SCP (PS3.7 D.3.3.4).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode

from contourd.dicom.network.commitment_messages import (
    MOST_BYTES,
    NO_SUCH_ACTION,
    NO_SUCH_CLASS,
    NO_SUCH_INSTANCE,
    NOT_AUTHORISED,
    PROCESSING_FAILURE,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    RESOURCE_LIMITATION,
    CommitmentReport,
    CommitmentRequest,
    read_report,
    read_request,
)
from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import CommitmentRefused, QueueUnavailable

log = logging.getLogger(__name__)

SUCCESS = 0x0000
# Not the deflated one: what comes from another node is bounded by its bytes.
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]


class RequestSink(Protocol):
    """Who is told of a sender's request."""

    def requested(self, calling_ae: str, request: CommitmentRequest) -> None:
        """Record a request so that it survives; CommitmentRefused or QueueUnavailable refuse it."""


class ReportSink(Protocol):
    """Who is told of a destination's report."""

    def reported(self, calling_ae: str, report: CommitmentReport) -> None:
        """Record a report so that it survives; CommitmentRefused or QueueUnavailable refuse it."""


class CommitmentSCP:
    """Takes requests where there is somebody to record them, and reports."""

    def __init__(self, reports: ReportSink, requests: RequestSink | None = None) -> None:
        self._reports = reports
        self._requests = requests

    def add_to(self, ae: AE) -> Sequence[Any]:
        """Add the push model in either role to an application entity; returns the handlers for its server."""
        ae.add_supported_context(PUSH_MODEL, SYNTAXES, scu_role=True, scp_role=True)
        return ((evt.EVT_N_ACTION, self._n_action), report_handler(self._reports))

    def _n_action(self, event: Any) -> tuple[Dataset, None]:
        calling_ae, message = str(event.assoc.requestor.ae_title), event.request
        try:
            if self._requests is None:
                raise CommitmentRefused(NOT_AUTHORISED, "node.commitment is not switched on")
            _well_known(message.RequestedSOPClassUID, message.RequestedSOPInstanceUID)
            if message.ActionTypeID != REQUEST_ACTION:
                raise CommitmentRefused(NO_SUCH_ACTION, f"action type {message.ActionTypeID} is unknown")
            request = read_request(_decoded(message.ActionInformation, event))
            self._requests.requested(calling_ae, request)
        except (CommitmentRefused, QueueUnavailable) as error:
            return _refusal(error, "a request for storage commitment was refused", calling_ae), None
        return _answer(SUCCESS), None


def report_handler(reports: ReportSink, peer_ae: str | None = None) -> tuple[Any, Any]:
    """Return pynetdicom's event and a handler for it.

    Parameters
    ----------
    peer_ae
        Who reports, where the association is one of ours; else whoever opened it.
    """

    def report(event: Any) -> tuple[Dataset, None]:
        calling_ae, message = peer_ae or str(event.assoc.requestor.ae_title), event.request
        try:
            _well_known(message.AffectedSOPClassUID, message.AffectedSOPInstanceUID)
            found = read_report(_decoded(message.EventInformation, event), int(message.EventTypeID))
            reports.reported(calling_ae, found)
        except (CommitmentRefused, QueueUnavailable) as error:
            return _refusal(error, "a report of storage commitment was refused", calling_ae), None
        return _answer(SUCCESS), None

    return evt.EVT_N_EVENT_REPORT, report


def _well_known(sop_class_uid: str, sop_instance_uid: str) -> None:
    if sop_class_uid != PUSH_MODEL:
        raise CommitmentRefused(NO_SUCH_CLASS, "not the Storage Commitment Push Model")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        raise CommitmentRefused(NO_SUCH_INSTANCE, "not the well-known instance of the Storage Commitment Push Model")


def _decoded(encoded: BytesIO | None, event: Any) -> Dataset:
    content = encoded.getvalue() if encoded is not None else b""
    if len(content) > MOST_BYTES:
        raise CommitmentRefused(RESOURCE_LIMITATION, f"{len(content)} bytes; at most {MOST_BYTES} are taken")
    syntax = event.context.transfer_syntax
    try:
        dataset = decode(BytesIO(content), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        dataset.walk(lambda *_: None)  # what is read later fails later
    except UNREADABLE as error:
        raise CommitmentRefused(PROCESSING_FAILURE, f"the message cannot be read: {type(error).__name__}") from error
    return dataset


def _refusal(error: CommitmentRefused | QueueUnavailable, what: str, calling_ae: str) -> Dataset:
    status = error.status if isinstance(error, CommitmentRefused) else RESOURCE_LIMITATION
    log.warning("%s with status 0x%04X: %s", what, status, error, extra={"action": "refuse", "calling_ae": calling_ae})
    return _answer(status)


def _answer(status: int) -> Dataset:
    answer = Dataset()
    answer.Status = status
    return answer
