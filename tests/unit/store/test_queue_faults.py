"""What befalls jobs and deliveries on the way: a full disk, too little memory, a late slice, a clock that is set."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.delivery.deliveries import Deliveries
from contourd.node.clock_changes import follow_clock
from contourd.observe.report import read_report
from contourd.store.states import JobEvent, JobState
from contourd.store.tables import DeliveryRow, JobRow
from tests.queueing import AWAY, POLICY, START, TAKEN, add_job, in_force, state
from tests.reasons import because

pytestmark = pytest.mark.both_databases

DAY_S = 86400.0


@pytest.fixture
def deliveries(database, clock) -> Deliveries:
    return Deliveries(database, POLICY, clock)


def test_what_met_no_fault_of_its_own_does_not_count(database, queue):
    job = add_job(database)
    for _ in range(3):
        assert queue.fetch_job("a", 60).attempts == 1
        queue.return_job(in_force(queue, job), because("waits: the disk is full"))
    (line,) = read_report(database).jobs
    assert (line.state, str(line.reason)) == ("QUEUED", "waits: the disk is full")


def test_what_waits_for_the_device_for_too_long_is_held_as_that(database, queue, clock):
    job = add_job(database)
    for waited_s, patient in ((0, True), (1800, True), (1799, True), (1, False)):
        clock.advance(waited_s)
        queue.fetch_job("a", 60)
        assert queue.wait_for_device(in_force(queue, job), because("cuda:0 ran out of memory"), 3600) is patient
    (line,) = read_report(database).jobs
    assert (line.state, line.attempts) == ("HELD", 0)
    assert str(line.reason) == (
        "the device could not be used for 60 minutes: cuda:0 ran out of memory; nothing is wrong with the series: "
        "look at the device, then retry the job"
    )
    assert line.reason.held_as == "device"
    queue.retry_job(job)  # the time is counted anew
    queue.fetch_job("a", 60)
    assert queue.wait_for_device(in_force(queue, job), because("cuda:0 ran out of memory"), 3600)


def test_a_job_that_waits_for_the_device_is_not_taken_before_its_time(database, queue):
    first, second = add_job(database, 1), add_job(database, 2)
    assert queue.fetch_job("a", 60, [first]).id == second
    assert queue.fetch_job("a", 60, [first]) is None
    assert queue.fetch_job("a", 60).id == first


def test_what_lacks_memory_twice_is_held(database, queue):
    job = add_job(database)
    for after in (JobState.QUEUED, JobState.HELD):
        queue.fetch_job("a", 60)
        queue.fail_job(in_force(queue, job), because("out of memory"), 2, JobEvent.HOLD)
        assert state(database, job) == after


@pytest.mark.parametrize("then", ["the destination does not answer", "contourd is restarted"])
def test_an_outdated_structure_set_is_not_sent_again(database, queue, deliveries, then):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    sending = deliveries.fetch_delivery("pacs")
    with database.transaction() as session:
        queue.supersede_jobs(session, [session.get_one(JobRow, job)], because("another slice arrived"))
    if then == "contourd is restarted":
        deliveries.recover()
    else:
        deliveries.postpone_delivery(sending, AWAY, 0.0)
    assert deliveries.fetch_delivery("pacs") is None
    (line,) = read_report(database).jobs
    assert (line.state, line.deliveries[0].state) == ("SUPERSEDED", "REFUSED")
    assert str(line.deliveries[0].reason).startswith("another slice arrived")


def test_an_outdated_structure_set_that_was_taken_meanwhile_counts_as_delivered(database, queue, deliveries):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    sending = deliveries.fetch_delivery("pacs")
    with database.transaction() as session:
        queue.supersede_jobs(session, [session.get_one(JobRow, job)], because("another slice arrived"))
    deliveries.finish_delivery(sending, TAKEN)
    (line,) = read_report(database).jobs
    assert (line.state, line.deliveries[0].state) == ("SUPERSEDED", "DELIVERED")


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_delivery_follows_a_clock_that_is_set(database, queue, deliveries, clock, step_s):
    add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, 1), {"pacs": "x"})
    deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), AWAY, 0.0)
    with database.reading() as session:
        due = session.get_one(DeliveryRow, 1).not_before
    clock.advance(step_s)
    follow_clock(database, step_s)
    assert deliveries.fetch_delivery("pacs") is None
    with database.reading() as session:
        row = session.get_one(DeliveryRow, 1)
        assert (row.not_before, row.created_at) == (due + timedelta(seconds=step_s), START + timedelta(seconds=step_s))
    clock.advance(34)  # 30 s and up to a tenth
    again = deliveries.fetch_delivery("pacs")
    deliveries.postpone_delivery(again, AWAY, 34.0)  # the hour of give_up_after_s is not over
    assert read_report(database).jobs[0].state == "DELIVERING"


def test_what_is_delivered_keeps_its_time(database, queue, deliveries):
    add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, 1), {"pacs": "x"})
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    follow_clock(database, DAY_S)
    with database.reading() as session:
        assert session.get_one(DeliveryRow, 1).created_at == START
