"""Deliveries to a destination that goes down, comes back, refuses or is full; no time passes but by the clock."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from contourd.delivery import deliverer as delivering
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.dicom.network.outcomes import BROKE_OFF
from contourd.observe.report import read_report
from contourd.settings import Destination
from contourd.store.states import JobState
from contourd.store.tables import AttemptRow
from tests.delivery_node import DAY_S, Node
from tests.queueing import AWAY, FULL, NEVER, TAKEN, Peer, state

pytestmark = pytest.mark.both_databases


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.database.close()


def test_a_destination_that_is_down_for_an_hour_is_probed_once_a_step(node):
    pacs = node.peers["pacs"]
    jobs = [node.contour(number, "pacs") for number in (1, 2, 3)]
    pacs.go_away()
    node.run(3600)
    # 30 + 60 + 120 + 240 + 480 + 960 s and up to a tenth: six steps are over after 1890 to 2079 s, the next after 3690.
    assert (pacs.sent, pacs.echoed) == (["1.dcm"], 6)
    for job in jobs:
        assert node.delivery(job).state == "PENDING"
        assert str(node.delivery(job).reason) == "cannot be reached"
        assert node.delivery(job).next_try > node.clock()
    pacs.come_back()
    node.run(600)
    assert sorted(pacs.sent) == ["1.dcm", "1.dcm", "2.dcm", "3.dcm"]
    assert [node.delivery(job).state for job in jobs] == ["DELIVERED"] * 3
    assert [node.delivery(job).attempts for job in jobs] == [2, 1, 1]  # what waited was not tried in vain
    (line,) = read_report(node.database).destinations
    assert (line.state, {t.text: t.number for t in line.tries}) == ("UP", {"accepted 0x0000": 3, "unreachable": 1})


def test_it_delays_no_other(tmp_path):
    node = Node(tmp_path, ("down", "up"))
    node.peers["down"].go_away()
    jobs = [node.contour(number, "down", "up") for number in (1, 2)]
    node.run(10)
    assert node.peers["up"].sent == ["1.dcm", "2.dcm"]
    assert [node.delivery(job, "up").state for job in jobs] == ["DELIVERED"] * 2
    assert [node.delivery(job, "down").state for job in jobs] == ["PENDING"] * 2
    node.run(600)
    jobs.append(node.contour(3, "down", "up"))
    node.run(10)
    assert node.peers["up"].sent == ["1.dcm", "2.dcm", "3.dcm"]
    node.database.close()


def test_what_comes_during_an_outage_waits_for_the_next_probe(node):
    pacs = node.peers["pacs"]
    node.contour(1, "pacs")
    pacs.go_away()
    node.run(100)  # probed when 30 s to 33 s were over, at 40 s; the next 60 s to 66 s end after 100 s
    late = node.contour(2, "pacs")
    pacs.come_back()
    node.deliverers["pacs"].deliver_due()
    assert (pacs.echoed, node.delivery(late).state) == (1, "PENDING")
    node.run(30)
    assert (pacs.echoed, node.delivery(late).state) == (2, "DELIVERED")


def test_new_deliveries_cause_no_probes(node):
    pacs = node.peers["pacs"]
    node.contour(1, "pacs")
    pacs.go_away()
    node.run(3000, 60)
    probed = pacs.echoed
    for number in range(2, 12):
        node.contour(number, "pacs")
        node.run(10)
    assert (pacs.echoed, pacs.sent) == (probed, ["1.dcm"])


def test_a_person_who_asks_for_another_try_gets_one_now(node):
    pacs = node.peers["pacs"]
    jobs = [node.contour(number, "pacs") for number in (1, 2)]
    pacs.go_away()
    node.run(3000, 60)
    probed = pacs.echoed
    node.queue.retry_job(jobs[1])
    node.run(10)
    assert pacs.echoed == probed + 1
    node.run(20)
    assert pacs.echoed == probed + 1  # one
    pacs.come_back()
    node.queue.retry_job(jobs[1])
    node.run(10)
    assert [node.delivery(job).state for job in jobs] == ["DELIVERED"] * 2


def test_one_that_comes_back_and_refuses_is_told_at_once(node):
    pacs = node.peers["pacs"]
    job = node.contour(1, "pacs")
    pacs.go_away()
    node.run(600, 60)
    pacs.come_back()
    pacs.sends = NEVER
    node.run(600, 60)
    assert node.delivery(job).state == "REFUSED"
    assert state(node.database, job) == JobState.FAILED
    assert str(read_report(node.database).jobs[0].reason) == "pacs: status 0xA900"


def test_one_that_takes_no_verification_is_there_all_the_same(node):
    pacs = node.peers["pacs"]
    job = node.contour(1, "pacs")
    pacs.go_away()
    node.run(20)
    pacs.sends, pacs.echoes = TAKEN, NEVER
    node.run(30)
    assert node.delivery(job).state == "DELIVERED"


def test_one_that_answers_probes_and_nothing_else_is_not_stormed(node):
    pacs = node.peers["pacs"]
    for number in range(1, 6):
        node.contour(number, "pacs")
    pacs.sends = AWAY
    node.run(1200, 30)
    # 30 s, 60 s, 120 s, 240 s, 480 s and up to a tenth, and what is left of the step: at 60, 150, 300, 570, 1080 s.
    assert pacs.echoed == 5
    assert len(pacs.sent) == 1 + 5


def test_one_that_is_full_is_up(node):
    pacs = node.peers["pacs"]
    jobs = [node.contour(number, "pacs") for number in (1, 2)]
    pacs.sends = FULL
    node.run(10)
    assert pacs.sent == ["1.dcm", "2.dcm"]
    assert pacs.echoed == 0
    pacs.sends = TAKEN
    node.run(60)
    assert [node.delivery(job).state for job in jobs] == ["DELIVERED"] * 2
    assert pacs.echoed == 0


def test_after_a_day_of_trying_a_person_is_told(node):
    pacs = node.peers["pacs"]
    first = node.contour(1, "pacs")
    pacs.go_away()
    node.run(DAY_S / 2, 600)
    second = node.contour(2, "pacs")
    node.run(DAY_S / 2 - 600, 600)
    assert node.delivery(first).state == "PENDING"
    node.run(3000, 600)
    assert node.delivery(first).state == "REFUSED"
    assert str(node.delivery(first).reason) == "given up: cannot be reached"
    assert state(node.database, first) == JobState.FAILED
    assert node.delivery(second).state == "PENDING"  # its day is not over
    probed = pacs.echoed
    node.queue.retry_job(first)  # its day begins anew
    node.run(60, 60)
    assert pacs.echoed == probed + 1  # a person asked
    node.run(3600, 600)
    assert node.delivery(first).state == "PENDING"
    pacs.come_back()
    node.run(2400, 600)
    assert [node.delivery(job).state for job in (first, second)] == ["DELIVERED"] * 2


def test_what_fails_for_a_day_is_given_up_after_a_last_try(node):
    job = node.contour(1, "pacs")
    node.peers["pacs"].sends = FULL
    node.run(DAY_S + 2400, 600)
    delivery = node.delivery(job)
    assert (delivery.state, delivery.attempts) == ("REFUSED", len(node.peers["pacs"].sent))
    assert str(delivery.reason).endswith("tries: cannot take it now: status 0xA700")


@pytest.mark.parametrize("days", [-400, 3])
def test_a_clock_that_is_set_gives_nothing_up_and_strands_nothing(node, days):
    pacs = node.peers["pacs"]
    jobs = [node.contour(1, "pacs")]
    pacs.go_away()
    node.run(600, 60)
    node.clock.jump(days * DAY_S)
    node.run(600, 60)
    jobs.append(node.contour(2, "pacs"))
    assert [node.delivery(job).state for job in jobs] == ["PENDING"] * 2
    pacs.come_back()
    node.run(2400, 300)
    assert [node.delivery(job).state for job in jobs] == ["DELIVERED"] * 2


def test_the_time_in_which_contourd_was_off_does_not_count(node):
    pacs = node.peers["pacs"]
    job = node.contour(1, "pacs")
    pacs.go_away()
    node.run(600, 60)
    node.clock.now += timedelta(days=4)
    node.start()
    node.run(600, 60)
    assert node.delivery(job).state == "PENDING"
    pacs.come_back()
    node.run(2400, 300)
    assert node.delivery(job).state == "DELIVERED"


def test_a_stop_ends_it_after_what_is_under_way(node):
    stopping, pacs = threading.Event(), node.peers["pacs"]

    class Stopping(Peer):
        def deliver(self, path, destination):
            stopping.set()
            return pacs.deliver(path, destination)

    node.contour(1, "pacs")
    node.contour(2, "pacs")
    post = DeliveryServices(node.folder, node.deliveries, node.commitments, Stopping(), pacs)
    Deliverer(Destination(name="pacs", ae_title="P", host="h", port=1), post, stopping).deliver_due()
    assert pacs.sent == ["1.dcm"]
    with node.database.reading() as session:
        assert len(session.scalars(select(AttemptRow)).all()) == 1


def test_an_error_of_ours_in_mid_send_strands_nothing(node):
    job = node.contour(1, "pacs")
    pacs = node.peers["pacs"]

    class Broken(Peer):
        def deliver(self, path, destination):
            if pacs.deliver(path, destination) is TAKEN and len(pacs.sent) == 1:
                raise OSError("the database is locked")
            return TAKEN

    post = DeliveryServices(node.folder, node.deliveries, node.commitments, Broken(), pacs)
    deliverer = Deliverer(Destination(name="pacs", ae_title="P", host="h", port=1), post, threading.Event())
    with pytest.raises(OSError, match="locked"):
        deliverer.deliver_due()
    assert (node.delivery(job).state, str(node.delivery(job).reason)) == ("PENDING", BROKE_OFF.reason)
    for _ in range(5):  # each second, as the schedule does: it waits all the same
        deliverer.deliver_due()
    assert pacs.sent == ["1.dcm"]
    node.clock.advance(33)  # the first wait, 30 s and up to a tenth
    deliverer.deliver_due()
    assert node.delivery(job).state == "DELIVERED"
    assert pacs.sent == ["1.dcm", "1.dcm"]


def test_what_is_done_is_forgotten(node, monkeypatch):
    monkeypatch.setattr(delivering, "MOST_REMEMBERED", 2)
    for number in range(1, 5):
        node.contour(number, "pacs")
    node.run(10)
    assert len(node.peers["pacs"].sent) == 4
    assert node.deliverers["pacs"].remembered == 0


@pytest.mark.parametrize("when", ["before it is sent", "while it is sent"])
def test_nothing_of_a_delivery_that_another_process_took_over_is_recorded_or_sent(node, monkeypatch, when):
    job, pacs, fetch = node.contour(1, "pacs"), node.peers["pacs"], node.deliveries.fetch_delivery
    taken = []

    def lose():
        """Let another process take it over, and hold it."""
        node.deliveries.recover()
        taken.append(fetch("pacs"))

    def fetch_and_lose(name):
        delivery = fetch(name)
        if delivery is not None:
            lose()
        return delivery

    def send_and_lose(path, destination):  # noqa: ARG001
        pacs.sent.append(path.name)
        lose()
        return TAKEN

    if when == "before it is sent":
        monkeypatch.setattr(node.deliveries, "fetch_delivery", fetch_and_lose)
    else:
        monkeypatch.setattr(pacs, "deliver", send_and_lose)
    node.run(10)
    assert len(pacs.sent) == (when == "while it is sent")
    assert node.delivery(job).state == "SENDING"
    node.deliveries.finish_delivery(*taken, TAKEN)
    with node.database.reading() as session:
        assert [row.outcome for row in session.scalars(select(AttemptRow))] == ["interrupted", "accepted"]
