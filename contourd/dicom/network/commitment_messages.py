"""Storage commitment messages as values (DICOM PS3.4 annex J, PS3.3 C.14): what is asked for, and what is answered.

Whatever comes from another node is bounded before it is decoded: bytes, references, the form of UIDs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from contourd.errors import CommitmentRefused

PUSH_MODEL, PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
REQUEST_ACTION = 1
ALL_STORED = 1
SOME_FAILED = 2
MOST_REFERENCES, MOST_BYTES = 10_000, 2_000_000
# PS3.7 annex C.
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_CLASS = 0x0118
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124
RESOURCE_LIMITATION = 0x0213
# PS3.3 C.14.1.1, the values of Failure Reason.
PROCESSING_FAILURE = 0x0110
CLASS_CONFLICT = 0x0119
CLASS_NOT_SUPPORTED = 0x0122
FAILURES: Mapping[int, str] = MappingProxyType(
    {
        PROCESSING_FAILURE: "processing failure",
        NO_SUCH_INSTANCE: "no such object instance",
        RESOURCE_LIMITATION: "resource limitation",
        CLASS_NOT_SUPPORTED: "referenced SOP class not supported",
        CLASS_CONFLICT: "class-instance conflict",
        0x0131: "duplicate transaction UID",
    }
)
WELL_FORMED = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """An instance that is asked after."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """An N-ACTION: a sender asks whether these instances are safe."""

    transaction_uid: str
    references: tuple[InstanceReference, ...]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """An N-EVENT-REPORT: what is safe, and why the rest is not (a value of Failure Reason)."""

    transaction_uid: str
    stored: tuple[InstanceReference, ...]
    failed: Mapping[InstanceReference, int] = field(default_factory=dict)

    @property
    def event_type(self) -> int:
        """Event Type ID (PS3.4 J.3.3)."""
        return SOME_FAILED if self.failed else ALL_STORED


def failure_text(reason: int) -> str:
    """Return a Failure Reason for a person."""
    return f"0x{reason:04X} {FAILURES.get(reason, 'of its own')}"


def request_dataset(request: CommitmentRequest) -> Dataset:
    """Make the Action Information of a request."""
    dataset = Dataset()
    dataset.TransactionUID = request.transaction_uid
    dataset.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    return dataset


def report_dataset(report: CommitmentReport) -> Dataset:
    """Make the Event Information of a report; a sequence that would be empty is left out."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.stored:
        dataset.ReferencedSOPSequence = [_item(reference) for reference in report.stored]
    if report.failed:
        dataset.FailedSOPSequence = [_item(reference) for reference in report.failed]
        for item, reason in zip(dataset.FailedSOPSequence, report.failed.values(), strict=True):
            item.FailureReason = reason
    return dataset


def read_request(dataset: Dataset) -> CommitmentRequest:
    """Read the Action Information of a request.

    Raises
    ------
    CommitmentRefused
        It is not of its form, names nothing, or more than is allowed.
    """
    references = tuple(dict.fromkeys(_reference(item) for item in _sequence(dataset, "ReferencedSOPSequence")))
    if not references:
        raise CommitmentRefused(INVALID_ARGUMENT, "the request names no instances")
    return CommitmentRequest(_uid(dataset, "TransactionUID"), references)


def read_report(dataset: Dataset, event_type: int) -> CommitmentReport:
    """Read the Event Information of a report.

    Raises
    ------
    CommitmentRefused
        As for a request; or its event type is unknown.
    """
    if event_type not in (ALL_STORED, SOME_FAILED):
        raise CommitmentRefused(NO_SUCH_EVENT, f"event type {event_type} is unknown")
    failed = {}
    for item in _sequence(dataset, "FailedSOPSequence"):
        reason = item.get("FailureReason")
        failed[_reference(item)] = reason if isinstance(reason, int) else PROCESSING_FAILURE
    stored = tuple(_reference(item) for item in _sequence(dataset, "ReferencedSOPSequence"))
    return CommitmentReport(_uid(dataset, "TransactionUID"), stored, failed)


def _item(reference: InstanceReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _sequence(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    value = dataset.get(keyword)
    items = list(value) if isinstance(value, DicomSequence) else []
    if len(items) > MOST_REFERENCES:
        raise CommitmentRefused(RESOURCE_LIMITATION, f"{len(items)} instances; at most {MOST_REFERENCES} are taken")
    return items


def _reference(item: Dataset) -> InstanceReference:
    return InstanceReference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))


def _uid(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    if not isinstance(value, str) or len(value) > 64 or WELL_FORMED.fullmatch(value) is None:
        raise CommitmentRefused(INVALID_ARGUMENT, f"{keyword} is absent, or no UID")
    return str(value)
