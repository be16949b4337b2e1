"""Storage commitment asked of a destination: asked, committed, denied, never answered; the clock is set by hand."""

from __future__ import annotations

import threading

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage
from sqlalchemy import select

from contourd.delivery.commitments import Commitments
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.commitment_messages import CommitmentReport, InstanceReference
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.errors import CommitmentRefused
from contourd.observe.report import read_report
from contourd.settings import Destination
from contourd.store.queue import Queue
from contourd.store.states import JobState, RetryPolicy
from contourd.store.tables import CommitmentRow, DeliveryRow, JobRow
from tests.databases import open_queue
from tests.queueing import AWAY, NEVER, Clock, Peer, add_job, in_force, state
from tests.reasons import because

pytestmark = pytest.mark.both_databases

DAY_S, WAIT_S = 86400, 3600
POLICY = RetryPolicy(30, 1800, DAY_S)
UID = "1.2.826.0.1"
SET = InstanceReference(RTStructureSetStorage, UID)


class Site:
    """One destination that is asked for commitment, with one job's structure set on its way to it."""

    def __init__(self, folder) -> None:
        self.clock = Clock()
        self.database = open_queue(folder)
        self.database.upgrade()
        self.queue = Queue(self.database, self.clock)
        self.deliveries = Deliveries(self.database, POLICY, self.clock, WAIT_S)
        self.commitments = Commitments(self.database, POLICY, {"pacs": "PACS"}, self.clock)
        self.pacs = Peer()
        write_set(folder / "1.dcm")
        self.folder = folder
        self.deliver_by(self.pacs, self.pacs)
        self.job = add_job(self.database)
        self.queue.fetch_job("a", 60)
        self.queue.finish_job(in_force(self.queue, self.job), {"pacs": "1.dcm"})

    def deliver_by(self, sender, committer) -> None:
        """Let other peers answer what is sent and what is asked."""
        destination = Destination(
            name="pacs", ae_title="PACS", host="h", port=104, commitment=True, commitment_wait_s=WAIT_S
        )
        post = DeliveryServices(self.folder, self.deliveries, self.commitments, sender, committer)
        self.deliverer = Deliverer(destination, post, threading.Event(), self.clock.elapsed)

    def run(self, seconds: float, step_s: float = 10) -> None:
        for _ in range(round(seconds / step_s)):
            self.deliverer.deliver_due()
            self.clock.advance(step_s)

    def answer(self, failure: int = 0, transaction: int = -1) -> None:
        """Have the destination report on one of the transactions, the newest by default."""
        uid = self.pacs.asked[transaction].transaction_uid
        report = CommitmentReport(uid, (), {SET: failure}) if failure else CommitmentReport(uid, (SET,))
        self.commitments.reported("PACS", report)

    @property
    def delivery(self):
        return read_report(self.database).jobs[0].deliveries[0]

    def states(self) -> list[str]:
        with self.database.reading() as session:
            return list(session.scalars(select(CommitmentRow.state).order_by(CommitmentRow.id)))


def write_set(path) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, UID
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.database.close()


def test_it_is_delivered_when_it_is_committed_and_not_before(site):
    site.run(10)
    assert site.delivery.state == "SENT"
    assert state(site.database, site.job) == JobState.DELIVERING
    (request,) = site.pacs.asked
    assert request.references == (SET,)
    site.run(WAIT_S - 120, 60)
    assert len(site.pacs.asked) == 1
    site.answer()
    assert site.delivery.state == "DELIVERED"
    assert state(site.database, site.job) == JobState.DELIVERED
    assert site.states() == ["COMMITTED"]
    site.answer()  # told twice, for our answer was lost
    site.run(2 * WAIT_S, 600)
    assert (site.pacs.sent, len(site.pacs.asked)) == (["1.dcm"], 1)


def test_what_it_does_not_hold_is_sent_again(site):
    site.run(10)
    site.answer(0x0112)
    assert site.delivery.state == "PENDING"
    assert "says that it does not hold it (0x0112 no such object instance)" in str(site.delivery.reason)
    site.answer(0x0112)  # told twice
    site.run(60)
    assert site.pacs.sent == ["1.dcm", "1.dcm"]
    assert site.delivery.state == "SENT"
    site.answer()
    assert site.delivery.state == "DELIVERED"
    assert site.states() == ["FAILED", "COMMITTED"]


def test_one_that_never_answers_is_asked_again_and_then_a_person_is_told(site):
    site.run(DAY_S - 600, 600)
    assert site.delivery.state == "SENT"
    assert 22 <= len(site.pacs.asked) <= 24
    site.run(2 * WAIT_S, 600)
    assert site.delivery.state == "REFUSED"
    assert str(site.delivery.reason) == "sent, never committed: it did not answer for the structure set"
    assert state(site.database, site.job) == JobState.FAILED
    assert site.pacs.sent == ["1.dcm"]
    assert set(site.states()[:-1]) == {"EXPIRED"}
    site.queue.retry_job(site.job)
    site.run(10)
    site.answer()
    assert state(site.database, site.job) == JobState.DELIVERED


def test_one_that_denies_it_for_a_day_is_told_to_a_person(site):
    for _ in range(200):
        site.run(1000, 1000)
        if site.delivery.state == "REFUSED":
            break
        if site.delivery.state == "SENT":
            site.answer(0x0110)
    assert site.delivery.state == "REFUSED"
    assert "0x0110 processing failure" in str(site.delivery.reason)
    assert site.clock.passed_s >= DAY_S


def test_a_late_answer_to_an_earlier_question_counts(site):
    site.run(WAIT_S + 120, 60)
    assert len(site.pacs.asked) == 2
    site.answer(0x0112, transaction=0)  # the newer one is not answered yet
    assert site.delivery.state == "SENT"
    site.answer()
    assert site.delivery.state == "DELIVERED"


def test_a_late_promise_is_a_promise(site):
    site.run(WAIT_S + 120, 60)
    site.answer(transaction=0)
    assert site.delivery.state == "DELIVERED"


def test_a_destination_without_storage_commitment_is_told_plainly(site):
    site.pacs.commits = NEVER
    site.run(10)
    assert site.delivery.state == "REFUSED"
    assert str(site.delivery.reason).startswith(
        "sent, never committed: status 0xA900; allow Storage Commitment there, or set"
    )
    assert "destination.commitment = false" in str(site.delivery.reason)
    assert site.states() == ["EXPIRED"]


def test_a_request_that_is_not_taken_now_is_made_again(site):
    site.pacs.commits = Outcome(OutcomeKind.RETRY, "busy", 0x0213)
    site.run(120)
    assert len(site.pacs.asked) == 3  # at 0 s, at 40 s (30 s and up to a tenth later), at 110 s
    assert str(site.delivery.reason) == "busy"
    site.pacs.come_back()
    site.run(200)
    site.answer()
    assert site.delivery.state == "DELIVERED"
    assert site.pacs.sent == ["1.dcm"]


def test_one_that_goes_down_before_it_is_asked(site):
    site.pacs.commits = site.pacs.echoes = AWAY
    site.run(600)
    assert (len(site.pacs.asked), site.pacs.sent) == (1, ["1.dcm"])
    assert site.pacs.echoed >= 3
    site.pacs.come_back()
    site.run(600)
    site.answer()
    assert site.delivery.state == "DELIVERED"


def test_the_answer_may_overtake_the_response(site):
    class Hasty(Peer):
        def ask(self, request, destination):  # noqa: ARG002
            site.commitments.reported("PACS", CommitmentReport(request.transaction_uid, (SET,)))
            return AWAY  # the connection broke afterwards

    site.deliver_by(site.pacs, Hasty())
    site.run(10)
    assert (site.delivery.state, site.states()) == ("DELIVERED", ["COMMITTED"])


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_is_set_does_not_strand_what_was_sent(site, days):
    site.run(10)
    site.clock.jump(days * DAY_S)
    site.run(20)
    assert len(site.pacs.asked) == 2
    assert site.delivery.state == "SENT"


def test_a_superseded_structure_set_is_not_sent_again(site):
    site.run(10)
    with site.database.transaction() as session:
        site.queue.supersede_jobs(session, [session.get_one(JobRow, site.job)], because("another slice arrived"))
    site.answer(0x0112)
    site.run(1000)
    assert (site.delivery.state, site.pacs.sent) == ("REFUSED", ["1.dcm"])
    assert state(site.database, site.job) == JobState.SUPERSEDED


def test_a_structure_set_that_is_gone_is_told(site):
    class Vanishing(Peer):
        def deliver(self, path, destination):
            path.unlink()
            return super().deliver(path, destination)

    site.deliver_by(Vanishing(), site.pacs)
    site.run(10)
    assert site.delivery.state == "REFUSED"
    assert "1.dcm cannot be read any more" in str(site.delivery.reason)


def test_reports_that_answer_nothing_are_refused(site):
    site.run(10)
    transaction = site.pacs.asked[0].transaction_uid
    for calling_ae, report, status in (
        ("PACS", CommitmentReport("1.2.3", (SET,)), 0x0115),
        ("OTHER", CommitmentReport(transaction, (SET,)), 0x0124),
        ("PACS", CommitmentReport(transaction, (InstanceReference(RTStructureSetStorage, "1.2.9"),)), 0x0112),
        ("PACS", CommitmentReport(transaction, ()), 0x0112),
        ("PACS", CommitmentReport(transaction, (InstanceReference(CTImageStorage, SET.sop_instance_uid),)), 0x0112),
    ):
        with pytest.raises(CommitmentRefused) as error:
            site.commitments.reported(calling_ae, report)
        assert error.value.status == status
    assert (site.delivery.state, site.states()) == ("SENT", ["REQUESTED"])


def test_a_report_that_says_both_is_a_failure(site):
    site.run(10)
    transaction = site.pacs.asked[0].transaction_uid
    site.commitments.reported("PACS", CommitmentReport(transaction, (SET,), {SET: 0x0110}))
    assert (site.delivery.state, site.states()) == ("PENDING", ["FAILED"])


def test_what_was_sent_is_delivered_when_commitment_is_switched_off(site):
    site.run(10)
    site.deliveries.finish_awaiting("another")
    assert site.delivery.state == "SENT"
    site.deliveries.finish_awaiting("pacs")
    assert (site.delivery.state, state(site.database, site.job)) == ("DELIVERED", JobState.DELIVERED)
    site.answer()  # it promises all the same
    assert site.states() == ["COMMITTED"]


def test_a_segmentation_is_committed_as_one(site):
    """What is reported of another SOP class is no answer to what was asked."""
    with site.database.transaction() as session:
        session.scalars(select(DeliveryRow)).one().product = "seg"
    site.run(10)
    with pytest.raises(CommitmentRefused, match="does not name"):
        site.answer()
    uid = site.pacs.asked[-1].transaction_uid
    site.commitments.reported("PACS", CommitmentReport(uid, (InstanceReference(SegmentationStorage, UID),)))
    assert site.delivery.state == "DELIVERED"
