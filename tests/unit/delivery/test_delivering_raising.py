"""What a destination does to make contourd break down skips no wait."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.observe.report import read_report
from contourd.settings import Destination
from tests.delivery_node import Node
from tests.queueing import AWAY, Peer


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.database.close()


class Raising(Peer):
    """A peer whose answers are such that contourd itself breaks down on them."""

    def deliver(self, path, destination):
        super().deliver(path, destination)
        raise ZeroDivisionError

    def echo(self, destination):
        super().echo(destination)
        raise KeyError("context")


class Away(Raising):
    """The same, where what is sent to it finds nobody."""

    def deliver(self, path, destination):
        self.sends = AWAY
        return Peer.deliver(self, path, destination)


def run_raising(node, deliverer, seconds: int) -> None:
    for _ in range(seconds):
        with suppress(ZeroDivisionError, KeyError):
            deliverer.deliver_due()
        node.clock.advance(1)


def test_an_exception_of_a_peers_making_skips_no_wait(node):
    job, peer = node.contour(1, "pacs"), Raising()
    post = DeliveryServices(node.folder, node.deliveries, node.commitments, peer, peer)
    to = Destination(name="pacs", ae_title="P", host="h", port=1)
    run_raising(node, Deliverer(to, post, threading.Event(), node.clock.elapsed), 3600)
    # After 30, 60, 120, 240, 480 and 960 s and up to a tenth more: seven tries in an hour, not 3600.
    assert len(peer.sent) == 7
    assert (node.delivery(job).state, node.delivery(job).attempts) == ("PENDING", 7)


def test_a_probe_that_raises_skips_no_wait_either(node):
    node.contour(1, "pacs")
    peer = Away()
    post = DeliveryServices(node.folder, node.deliveries, node.commitments, peer, peer)
    to = Destination(name="pacs", ae_title="P", host="h", port=1)
    run_raising(node, Deliverer(to, post, threading.Event(), node.clock.elapsed), 3600)
    assert (peer.sent, peer.echoed) == (["1.dcm"], 6)


def test_what_is_no_answer_is_tried_again_and_delays_nothing_else(node):
    pacs = node.peers["pacs"]
    pacs.sends = Outcome(OutcomeKind.IMPROPER, "it answers message 7, message 1 was sent")
    jobs = [node.contour(number, "pacs") for number in (1, 2)]
    node.run(3600)
    assert sorted(pacs.sent) == ["1.dcm"] * 7 + ["2.dcm"] * 7
    assert [node.delivery(job).state for job in jobs] == ["PENDING"] * 2
    assert str(node.delivery(jobs[0]).reason) == "it answers message 7, message 1 was sent"
    (line,) = read_report(node.database).destinations
    assert [t.text for t in line.tries] == ["improper"]
