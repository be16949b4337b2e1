"""Storage commitment messages: round trips, and what is refused."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from contourd.dicom.network.commitment_messages import (
    MOST_REFERENCES,
    CommitmentReport,
    CommitmentRequest,
    InstanceReference,
    failure_text,
    read_report,
    read_request,
    report_dataset,
    request_dataset,
)
from contourd.errors import CommitmentRefused

CT = "1.2.840.10008.5.1.4.1.1.2"
ONE, TWO = InstanceReference(CT, "1.2.3"), InstanceReference(CT, "1.2.4")


def item(**values) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def reference(uid: object = "1.2.3", sop_class: object = CT) -> Dataset:
    return item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)


def test_a_request_there_and_back():
    request = CommitmentRequest("1.5", (ONE, TWO))
    assert read_request(request_dataset(request)) == request


def test_the_same_instance_twice_counts_once():
    request = item(TransactionUID="1.5", ReferencedSOPSequence=[reference(), reference()])
    assert read_request(request) == CommitmentRequest("1.5", (ONE,))


@pytest.mark.parametrize(
    ("report", "event_type", "sequences"),
    [
        (CommitmentReport("1.5", (ONE, TWO)), 1, {"ReferencedSOPSequence"}),
        (CommitmentReport("1.5", (ONE,), {TWO: 0x0112}), 2, {"ReferencedSOPSequence", "FailedSOPSequence"}),
        (CommitmentReport("1.5", (), {ONE: 0x0110, TWO: 0x0119}), 2, {"FailedSOPSequence"}),
    ],
)
def test_a_report_there_and_back(report, event_type, sequences):
    dataset = report_dataset(report)
    assert {element.keyword for element in dataset} == {"TransactionUID", *sequences}
    assert report.event_type == event_type
    assert read_report(dataset, event_type) == report


def test_a_failure_without_a_reason_is_a_failure():
    dataset = item(TransactionUID="1.5", FailedSOPSequence=[reference()])
    assert read_report(dataset, 2).failed == {ONE: 0x0110}


@pytest.mark.parametrize(
    ("dataset", "status"),
    [
        (Dataset(), 0x0115),
        (item(TransactionUID="1.5"), 0x0115),
        (item(TransactionUID="1.5", ReferencedSOPSequence=[]), 0x0115),
        (item(ReferencedSOPSequence=[reference()]), 0x0115),
        (item(TransactionUID="1.5", ReferencedSOPSequence=[Dataset()]), 0x0115),
        (item(TransactionUID="../../etc", ReferencedSOPSequence=[reference()]), 0x0115),
        (item(TransactionUID="1.5", ReferencedSOPSequence=[reference(["1.2", "1.3"])]), 0x0115),
        (item(TransactionUID="1.5", ReferencedSOPSequence=[reference("")]), 0x0115),
        (
            item(TransactionUID="1.5", ReferencedSOPSequence=[reference("1.2")] * (MOST_REFERENCES + 1)),
            0x0213,
        ),
    ],
)
def test_requests_that_are_refused(dataset, status):
    with pytest.raises(CommitmentRefused) as error:
        read_request(dataset)
    assert error.value.status == status


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["1." + "2" * 64, "1.2\x003", "1.2/3", "1.\u0662", "1", ".1", "1..2"])
def test_uids_that_are_none(uid):
    with pytest.raises(CommitmentRefused):
        read_request(item(TransactionUID="1.5", ReferencedSOPSequence=[reference(uid)]))


def test_an_unknown_event_is_refused():
    with pytest.raises(CommitmentRefused) as error:
        read_report(item(TransactionUID="1.5"), 3)
    assert error.value.status == 0x0113


def test_failures_in_words():
    assert failure_text(0x0112) == "0x0112 no such object instance"
    assert failure_text(0xC123) == "0xC123 of its own"
