"""Storage commitment on loopback: destinations that report in every way, senders that are called back, hostile ones."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt
from sqlalchemy import select

from contourd.dicom.network.commitment_messages import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitmentRequest,
    InstanceReference,
    request_dataset,
)
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.network.tls import calling_context, listening_context
from contourd.settings import Destination, DestinationTLS, NodeTLS
from contourd.store.tables import CommitmentRequestRow
from tests.certificates import Authority
from tests.integration.committing import Node, Pacs, Scanner, call_back, event_report, n_action
from tests.integration.receiving import WAIT_S, sending
from tests.peers import LOOPBACK
from tests.phantom import write_series

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning"),
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def run(**more: Any) -> Node:
        nodes.append(Node(tmp_path, **more))
        return nodes[-1]

    yield run
    for node in nodes:
        node.scp.stop()
        node.database.close()
    gc.collect()


Start = Callable[..., Node]
PacsMaker = Callable[..., Pacs]


@pytest.fixture
def pacs() -> Iterator[PacsMaker]:
    made: list[Pacs] = []

    def make(*arguments: Any) -> Pacs:
        made.append(Pacs(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.ae.shutdown()


@pytest.mark.parametrize("with_role", [True, False])
def test_the_destination_reports_by_an_association_of_its_own(
    start: Start, pacs: PacsMaker, tmp_path: Path, with_role: bool
) -> None:
    node, peer = start(same_association_s=0), pacs(lambda event, request: 0x0000)
    uid = node.contour(tmp_path)
    node.deliver(peer.port)
    assert node.delivery.state == "SENT"
    (item,) = peer.request.ReferencedSOPSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (RTStructureSetStorage, uid)
    assert call_back(node.port, *event_report(peer.request), with_role=with_role) == 0x0000
    assert node.delivery.state == "DELIVERED"


def test_the_destination_reports_on_the_same_association(start: Start, pacs: PacsMaker, tmp_path: Path) -> None:
    answered: list[int] = []

    def report(event: Any, request: Dataset) -> int:
        def later() -> None:
            peer.requested.wait(WAIT_S)
            dataset, kind = event_report(request)
            status, _ = event.assoc.send_n_event_report(dataset, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            answered.append(int(status.Status))

        thread = threading.Thread(target=later)
        thread.start()
        threads.append(thread)
        return 0x0000

    threads: list[threading.Thread] = []
    node, peer = start(same_association_s=WAIT_S), pacs(report)
    node.contour(tmp_path)
    node.deliver(peer.port)
    threads[0].join(WAIT_S)
    assert answered == [0x0000]
    assert node.delivery.state == "DELIVERED"


def test_what_the_destination_does_not_hold_is_sent_again_with_the_same_bytes(
    start: Start, pacs: PacsMaker, tmp_path: Path
) -> None:
    node, peer = start(same_association_s=0), pacs(lambda event, request: 0x0000)
    node.contour(tmp_path)
    node.deliver(peer.port)
    assert call_back(node.port, *event_report(peer.request, 0x0112)) == 0x0000
    assert node.delivery.state == "PENDING"
    node.deliveries.make_due("pacs")
    node.deliver(peer.port)
    first, second = peer.stored
    assert first == second
    assert call_back(node.port, *event_report(peer.request)) == 0x0000
    assert node.delivery.state == "DELIVERED"


def test_a_destination_that_does_not_offer_it(start: Start, tmp_path: Path) -> None:
    node = start()
    node.contour(tmp_path)
    ae = AE("PACS")
    ae.add_supported_context(RTStructureSetStorage, ImplicitVRLittleEndian)
    server: Any = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0x0000)])
    node.deliver(server.socket.getsockname()[1])
    server.shutdown()
    assert node.delivery.state == "REFUSED"
    assert str(node.delivery.reason).startswith("sent, never committed: pacs (PACS at 127.0.0.1")
    assert "does not take Storage Commitment Push Model" in str(node.delivery.reason)


@pytest.mark.parametrize(("status", "state"), [(0x0110, "SENT"), (0x0213, "SENT"), (0x0124, "REFUSED")])
def test_requests_that_are_not_taken(start: Start, pacs: PacsMaker, tmp_path: Path, status: int, state: str) -> None:
    node, peer = start(), pacs(lambda event, request: status)
    node.contour(tmp_path)
    node.deliver(peer.port)
    assert node.delivery.state == state
    assert f"0x{status:04X}" in str(node.delivery.reason)


def test_reports_of_others_and_of_nothing_are_refused(start: Start, pacs: PacsMaker, tmp_path: Path) -> None:
    node, peer = start(same_association_s=0), pacs(lambda event, request: 0x0000)
    node.contour(tmp_path)
    node.deliver(peer.port)
    report, _ = event_report(peer.request)
    assert call_back(node.port, report, 1, calling="STRANGER") == 0x0124
    assert call_back(node.port, report, 7) == 0x0113
    report.TransactionUID = "1.2.3"
    assert call_back(node.port, report, 1) == 0x0115
    assert node.delivery.state == "SENT"


def test_a_sender_is_told_what_is_safe(start: Start, tmp_path: Path) -> None:
    node = start()
    images = sorted(write_series(tmp_path / "ct").iterdir())
    with sending(node.port, ExplicitVRLittleEndian) as association:
        assert all(association.send_c_store(path).Status == 0x0000 for path in images)
    kept = node.requests.find_stored([str(uid) for uid in uids(images)])
    references = tuple(InstanceReference(CTImageStorage, uid) for uid in uids(images))
    scanner = Scanner()
    assert n_action(node.port, request_dataset(CommitmentRequest("1.5.1", references))) == 0x0000
    node.report(scanner.port)
    path = node.spool.root / kept[references[0].sop_instance_uid][0].path
    path.write_bytes(path.read_bytes()[:-2] + b"??")
    assert n_action(node.port, request_dataset(CommitmentRequest("1.5.2", references))) == 0x0000
    node.report(scanner.port)
    scanner.server.shutdown()
    (kind, first), (other_kind, second) = scanner.told
    assert (kind, first.TransactionUID) == (1, "1.5.1")
    assert {item.ReferencedSOPInstanceUID for item in first.ReferencedSOPSequence} == set(uids(images))
    assert "FailedSOPSequence" not in first
    assert (other_kind, second.TransactionUID) == (2, "1.5.2")
    assert len(second.ReferencedSOPSequence) == len(images) - 1
    (failed,) = second.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (uids(images)[0], 0x0110)


def uids(images: list[Path]) -> list[str]:
    return [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in images]


def test_a_sender_that_takes_no_reports_is_tried_again(start: Start) -> None:
    node, scanner = start(), Scanner(takes=False)
    request = CommitmentRequest("1.5.1", (InstanceReference(CTImageStorage, "1.2.3"),))
    assert n_action(node.port, request_dataset(request)) == 0x0000
    node.report(scanner.port)
    scanner.server.shutdown()
    with node.database.reading() as session:
        row = session.scalars(select(CommitmentRequestRow)).one()
    assert (row.state, row.attempts) == ("PENDING", 1)
    assert "does not take Storage Commitment Push Model" in str(row.reason)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_hostile_requests_are_refused_and_leave_nothing(start: Start) -> None:
    node = start()
    good = request_dataset(CommitmentRequest("1.5.1", (InstanceReference(CTImageStorage, "1.2.3"),)))
    many = CommitmentRequest("1.5.2", tuple(InstanceReference(CTImageStorage, f"1.2.{n}") for n in range(10_001)))
    huge = CommitmentRequest(
        "1.5.3", tuple(InstanceReference(CTImageStorage, "1.2." + "3" * 55 + str(n)) for n in range(20_000))
    )
    path = request_dataset(CommitmentRequest("1.5.4", (InstanceReference(CTImageStorage, "../../etc"),)))
    assert n_action(node.port, request_dataset(many)) == 0x0213
    assert n_action(node.port, request_dataset(huge)) == 0x0213
    assert n_action(node.port, path) == 0x0115
    assert n_action(node.port, None) == 0x0115
    assert n_action(node.port, good, calling="STRANGER") == 0x0124
    assert n_action(node.port, good, instance="1.2.3.4") == 0x0112
    assert n_action(node.port, good, action=9) == 0x0123
    assert node.requests.fetch_request("CT1") is None
    assert n_action(node.port, good) == 0x0000
    assert node.requests.fetch_request("CT1") is not None


def test_a_node_that_is_not_to_answer_senders_says_so(start: Start) -> None:
    node = start(answers_senders=False)
    good = request_dataset(CommitmentRequest("1.5.1", (InstanceReference(CTImageStorage, "1.2.3"),)))
    assert n_action(node.port, good) == 0x0124


def test_all_of_it_goes_by_tls(start: Start, pacs: PacsMaker, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    ours, theirs = authority.sign("node"), authority.sign("pacs")
    shown = {"certificate": ours.certificate, "key": ours.key, "authorities": authority.certificate}
    peer_tls = NodeTLS(certificate=theirs.certificate, key=theirs.key, authorities=authority.certificate)
    node = start(tls=NodeTLS(**shown), same_association_s=0)
    node.contour(tmp_path)
    peer, tls = pacs(lambda event, request: 0x0000, listening_context(peer_tls)), DestinationTLS(**shown)
    assert (
        StorageSCU("CONTOURD")
        .echo(Destination(name="pacs", ae_title="PACS", host=LOOPBACK, port=peer.port, tls=tls))
        .reason
        == ""
    )
    node.deliver(peer.port, tls=tls)
    assert node.delivery.state == "SENT"
    calling = calling_context(
        DestinationTLS(certificate=theirs.certificate, key=theirs.key, authorities=authority.certificate), "node"
    )
    assert call_back(node.port, *event_report(peer.request), tls=(calling, LOOPBACK)) == 0x0000
    assert node.delivery.state == "DELIVERED"
    scanner = Scanner(listening_context(peer_tls))
    node.requests.requested("CT1", CommitmentRequest("1.5.1", (InstanceReference(CTImageStorage, "1.2.3"),)))
    node.report(scanner.port, tls=tls)
    scanner.server.shutdown()
    assert [kind for kind, _ in scanner.told] == [2]
