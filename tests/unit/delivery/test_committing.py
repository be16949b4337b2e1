"""Storage commitment asked of contourd: recorded, examined on the disk, reported; the clock is set by hand."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from sqlalchemy import select

from contourd.delivery import commitment_requests
from contourd.delivery.commitment_reporter import CommitmentReporter, CommitmentServices
from contourd.delivery.commitment_requests import CommitmentRequests
from contourd.dicom.network.commitment_messages import CommitmentRequest, InstanceReference
from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.network.outcomes import BROKE_OFF
from contourd.errors import CommitmentRefused, QueueUnavailable
from contourd.settings import SenderNode
from contourd.spool.folder import Spool
from contourd.store.states import RetryPolicy, SeriesState
from contourd.store.tables import CommitmentRequestRow, InstanceRow, SeriesRow
from tests.databases import open_queue
from tests.queueing import NEVER, START, Clock, Peer

pytestmark = pytest.mark.both_databases

DAY_S, LATE_S = 86400, 15
POLICY = RetryPolicy(30, 1800, DAY_S)


class Node:
    """A node that received instances and is asked after them by CT1."""

    def __init__(self, folder) -> None:
        self.clock = Clock()
        self.spool = Spool(folder)
        self.database = open_queue(folder)
        self.database.upgrade()
        self.ct1 = Peer()
        self.series = 0
        self.start()

    def start(self, senders=("CT1",)) -> None:
        self.requests = CommitmentRequests(self.database, POLICY, senders, self.clock)
        self.requests.recover()
        custody = CommitmentServices(self.spool.root, self.requests, self.ct1, LATE_S)
        sender = SenderNode(ae_title="CT1", host="h", port=104)
        self.reporter = CommitmentReporter(sender, custody, threading.Event(), self.clock.elapsed)

    def receive(self, *uids: str):
        """Store instances as a series; returns their paths."""
        self.series += 1
        paths = []
        with self.database.transaction() as session:
            row = SeriesRow(
                series_uid=f"1.9.{self.series}", state=SeriesState.COMPLETE, created_at=START, last_instance_at=START
            )
            session.add(row)
            session.flush()
            for uid in uids:
                content = f"the dataset of {uid}".encode()
                path = self.spool.store_instance([file_meta(CTImageStorage, uid, ExplicitVRLittleEndian), content])
                paths.append(self.spool.root / path)
                sha256 = hashlib.sha256(content).hexdigest()
                session.add(
                    InstanceRow(series_id=row.id, sop_instance_uid=uid, path=path, sha256=sha256, received_at=START)
                )
        return paths

    def ask(self, transaction: str, *references: InstanceReference) -> None:
        self.requests.requested("CT1", CommitmentRequest(transaction, references))

    def run(self, seconds: float, step_s: float = 5) -> None:
        for _ in range(round(seconds / step_s)):
            self.reporter.report_due()
            self.clock.advance(step_s)

    def states(self) -> list[tuple[str, str]]:
        with self.database.reading() as session:
            rows = session.scalars(select(CommitmentRequestRow).order_by(CommitmentRequestRow.id))
            return [(row.state, row.reason) for row in rows]


def ct(uid: str) -> InstanceReference:
    return InstanceReference(CTImageStorage, uid)


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.database.close()


def test_what_is_on_the_disk_as_it_came_is_committed(node):
    node.receive("1.2.1", "1.2.2")
    node.receive("1.2.3")
    node.ask("1.5.1", ct("1.2.1"), ct("1.2.2"), ct("1.2.3"))
    node.run(5)
    (report,) = node.ct1.told
    assert (report.transaction_uid, report.event_type) == ("1.5.1", 1)
    assert (report.stored, report.failed) == ((ct("1.2.1"), ct("1.2.2"), ct("1.2.3")), {})
    assert node.states() == [("REPORTED", "3 instances are safe, 0 are not")]
    node.run(100)
    assert len(node.ct1.told) == 1


def test_each_failure_has_its_reason(node):
    changed, gone, cut, _, _ = node.receive("1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5")
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    gone.unlink()
    cut.write_bytes(b"")
    mr = InstanceReference(MRImageStorage, "1.2.4")
    never, other = ct("1.2.99"), InstanceReference(MRImageStorage, "1.2.98")
    node.ask("1.5.1", ct("1.2.1"), ct("1.2.2"), ct("1.2.3"), mr, ct("1.2.5"), never, other)
    node.run(LATE_S + 10)
    (report,) = node.ct1.told
    assert (report.stored, report.event_type) == ((ct("1.2.5"),), 2)
    assert report.failed == {
        ct("1.2.1"): 0x0110,
        ct("1.2.2"): 0x0110,
        ct("1.2.3"): 0x0110,
        mr: 0x0119,
        never: 0x0112,
        other: 0x0122,
    }
    ((state, reason),) = node.states()
    assert state == "REPORTED"
    assert reason.startswith(
        "1 instances are safe, 6 are not (0x0110 processing failure, 0x0112 no such object instance"
    )


def test_what_retention_removed_is_not_committed(node):
    node.receive("1.2.1")
    with node.database.transaction() as session:
        session.scalars(select(SeriesRow)).one().purged_at = START
    node.ask("1.5.1", ct("1.2.1"))
    node.run(LATE_S + 10)
    assert node.ct1.told[0].failed == {ct("1.2.1"): 0x0112}


def test_an_instance_that_is_on_its_way_is_waited_for(node):
    node.receive("1.2.1")
    node.ask("1.5.1", ct("1.2.1"), ct("1.2.2"))
    node.run(10)
    assert node.ct1.told == []
    node.receive("1.2.2")
    node.run(10)
    assert [report.event_type for report in node.ct1.told] == [1]


def test_one_good_copy_is_enough(node):
    (first,) = node.receive("1.2.1")
    node.receive("1.2.1")
    first.unlink()
    node.ask("1.5.1", ct("1.2.1"))
    node.run(5)
    assert node.ct1.told[0].event_type == 1


def test_a_sender_that_is_down_is_tried_once_a_step_and_told_everything_later(node):
    node.receive("1.2.1")
    node.ct1.go_away()
    for number in range(1, 6):
        node.ask(f"1.5.{number}", ct("1.2.1"))
    node.run(600)
    assert len(node.ct1.told) == 5  # at once, and 30 s, 60 s, 120 s and 240 s and up to a tenth later
    node.ct1.come_back()
    node.run(600)
    assert {report.transaction_uid for report in node.ct1.told[5:]} == {f"1.5.{n}" for n in range(1, 6)}
    assert len(node.ct1.told) == 10
    assert {state for state, _ in node.states()} == {"REPORTED"}


def test_an_exception_of_a_senders_making_skips_no_wait(node):
    class Raising(Peer):
        def report(self, report, sender):
            super().report(report, sender)
            raise ZeroDivisionError

    node.receive("1.2.1")
    node.ct1 = Raising()
    node.start()
    node.ask("1.5.1", ct("1.2.1"))
    for _ in range(600):
        with suppress(ZeroDivisionError):
            node.reporter.report_due()
        node.clock.advance(1)
    assert len(node.ct1.told) == 5  # at once, and 30 s, 60 s, 120 s and 240 s and up to a tenth later
    assert node.states() == [("PENDING", BROKE_OFF.reason)]


def test_a_report_that_is_never_taken_is_given_up(node):
    node.receive("1.2.1")
    node.ct1.reports = NEVER
    node.ask("1.5.1", ct("1.2.1"))
    node.run(DAY_S - 600, 600)
    assert node.states() == [("PENDING", "status 0xA900")]
    node.run(3000, 600)
    assert node.states() == [("GIVEN_UP", "given up: status 0xA900")]


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_is_set_strands_no_report(node, days):
    node.receive("1.2.1")
    node.ct1.reports = NEVER
    node.ask("1.5.1", ct("1.2.1"))
    node.run(10)
    node.clock.jump(days * DAY_S)
    node.ct1.come_back()
    node.run(2000)
    assert node.states()[0][0] == "REPORTED"


def test_a_request_survives_a_restart_and_one_of_nobody_does_not(node):
    node.receive("1.2.1")
    node.ask("1.5.1", ct("1.2.1"))
    node.start()
    node.run(5)
    assert len(node.ct1.told) == 1
    node.ask("1.5.2", ct("1.2.1"))
    node.start(senders=("CT2",))
    assert node.states()[1] == ("GIVEN_UP", "no [[sender]] says where to call it back")


def test_a_request_that_is_sent_again_is_answered_again_and_counted_once(node):
    node.receive("1.2.1")
    for _ in range(2):
        node.ask("1.5.1", ct("1.2.1"))
    node.run(5)
    assert (len(node.ct1.told), len(node.states())) == (1, 1)
    node.ask("1.5.1", ct("1.2.1"))
    node.run(5)
    assert (len(node.ct1.told), len(node.states())) == (2, 1)
    assert node.ct1.told[0] == node.ct1.told[1]
    with pytest.raises(CommitmentRefused, match="was used for other instances"):  # known also when it is over
        node.ask("1.5.1", ct("1.2.2"))


def test_what_cannot_be_recorded_is_refused(node, monkeypatch):
    with pytest.raises(CommitmentRefused, match=r"no \[\[sender\]\] says where STRANGER") as error:
        node.requests.requested("STRANGER", CommitmentRequest("1.5.1", (ct("1.2.1"),)))
    assert error.value.status == 0x0124
    node.ask("1.5.1", ct("1.2.1"))
    with pytest.raises(CommitmentRefused, match="was used for other instances") as error:
        node.ask("1.5.1", ct("1.2.2"))
    assert error.value.status == 0x0115
    monkeypatch.setattr(commitment_requests, "MOST_OPEN", 2)
    node.ask("1.5.2", ct("1.2.1"))
    with pytest.raises(CommitmentRefused, match="2 requests that wait") as error:
        node.ask("1.5.3", ct("1.2.1"))
    assert error.value.status == 0x0213
    with node.database.transaction() as session:
        session.connection().exec_driver_sql("DROP TABLE commitment_requests")
    with pytest.raises(QueueUnavailable):
        node.ask("1.5.4", ct("1.2.1"))


def test_ten_thousand_references_are_looked_up(node):
    node.receive("1.2.1")
    references = [ct(f"1.3.{number}") for number in range(9_999)]
    node.ask("1.5.1", ct("1.2.1"), *references)
    node.run(LATE_S + 10)
    (report,) = node.ct1.told
    assert (len(report.stored), len(report.failed)) == (1, 9_999)
