"""Deliveries, on a real SQLite file: claims, retries, attempts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.errors import InvalidTransition, LeaseLost
from contourd.observe.report import read_report
from contourd.store.states import DeliveryState, JobState
from contourd.store.tables import AttemptRow, JobRow
from tests.queueing import AWAY, FULL, NEVER, POLICY, START, TAKEN, add_job, events, in_force, state
from tests.reasons import because

pytestmark = pytest.mark.both_databases


@pytest.fixture
def deliveries(database, clock) -> Deliveries:
    return Deliveries(database, POLICY, clock)


def test_a_delivery_waits_longer_each_time_and_delays_no_other(database, queue, deliveries, clock):
    for number, names in ((1, "down"), (2, "up")):
        add_job(database, number, names)
        queue.finish_job(queue.fetch_job("a", 60).claim, {names: "x"})
    down = deliveries.fetch_delivery("down")
    deliveries.postpone_delivery(down, AWAY, 0)
    assert deliveries.fetch_delivery("down") is None
    assert deliveries.fetch_delivery("up") is not None
    clock.advance(34)  # 30 s and up to a tenth
    again = deliveries.fetch_delivery("down")
    assert again.attempts == 2
    deliveries.postpone_delivery(again, AWAY, 0)
    clock.advance(59)
    assert deliveries.fetch_delivery("down") is None
    clock.advance(8)
    assert deliveries.fetch_delivery("down") is not None


def test_giving_up_fails_the_job_and_retry_sends_the_same_file(database, queue, deliveries):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "outgoing/1.dcm"})
    delivery = deliveries.fetch_delivery("pacs")
    assert not deliveries.postpone_delivery(delivery, AWAY, 3600)
    assert state(database, job) == JobState.FAILED
    (line,) = read_report(database).jobs
    assert "given up after 1 tries" in str(line.deliveries[0].reason)
    assert "cannot be reached" in str(line.reason)
    queue.retry_job(job)
    assert state(database, job) == JobState.DELIVERING
    again = deliveries.fetch_delivery("pacs")
    assert (again.id, again.output) == (delivery.id, "outgoing/1.dcm")
    assert again.attempts == 1  # counted anew
    deliveries.finish_delivery(again, TAKEN)
    assert state(database, job) == JobState.DELIVERED


def test_refused_by_one_destination_and_taken_by_the_other(database, queue, deliveries):
    job = add_job(database, destinations="pacs,tps")
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x", "tps": "x"})
    deliveries.refuse_delivery(deliveries.fetch_delivery("pacs"), NEVER)
    assert state(database, job) == JobState.FAILED
    deliveries.finish_delivery(deliveries.fetch_delivery("tps"), TAKEN)
    assert state(database, job) == JobState.FAILED
    queue.retry_job(job)
    assert deliveries.fetch_delivery("tps") is None
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    assert state(database, job) == JobState.DELIVERED


def test_a_waiting_delivery_can_be_sent_now(database, queue, deliveries):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), AWAY, 0)
    queue.retry_job(job)
    assert deliveries.fetch_delivery("pacs") is not None


def test_what_is_delivered_is_not_retried(database, queue, deliveries):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    with pytest.raises(InvalidTransition):
        queue.retry_job(job)
    with pytest.raises(InvalidTransition, match="no job 77"):
        queue.retry_job(77)


def test_a_superseded_job_is_not_sent(database, queue, deliveries):
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    with database.transaction() as session:
        queue.supersede_jobs(session, [session.get_one(JobRow, job)], because("another slice arrived"))
    assert state(database, job) == JobState.SUPERSEDED
    assert deliveries.fetch_delivery("pacs") is None


def test_a_job_s_way_to_its_destinations(database, queue, deliveries):
    job = add_job(database, destinations="pacs,tps")
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "outgoing/1.dcm", "tps": "outgoing/1-2.dcm"})
    assert state(database, job) == JobState.DELIVERING
    pacs = deliveries.fetch_delivery("pacs")
    assert (pacs.output, pacs.attempts) == ("outgoing/1.dcm", 1)
    assert deliveries.fetch_delivery("pacs") is None
    deliveries.finish_delivery(pacs, TAKEN)
    assert state(database, job) == JobState.DELIVERING
    deliveries.finish_delivery(deliveries.fetch_delivery("tps"), TAKEN)
    assert state(database, job) == JobState.DELIVERED
    assert events(database, "job") == ["CONTOURING", "DELIVERING", "DELIVERED"]
    assert events(database, "delivery") == ["SENDING", "DELIVERED", "SENDING", "DELIVERED"]


def test_a_restart_takes_up_what_was_under_way(database, queue, deliveries):
    contouring, sending = add_job(database, 1), add_job(database, 2)
    queue.fetch_job("a", 60)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, sending), {"pacs": "x"})
    first = deliveries.fetch_delivery("pacs")
    queue.recover()
    deliveries.recover()
    assert state(database, contouring) == JobState.QUEUED
    assert queue.fetch_job("b", 60).attempts == 1  # the killed daemon's attempt does not count
    again = deliveries.fetch_delivery("pacs")
    assert (again.id, again.output) == (first.id, "x")


def send(database, queue, number: int = 1) -> int:
    """Make a job whose structure set waits for pacs."""
    job = add_job(database, number)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": f"outgoing/{number}.dcm"})
    return job


def attempts(database) -> list[tuple[str, int | None, str]]:
    with database.reading() as session:
        rows = session.scalars(select(AttemptRow).order_by(AttemptRow.id))
        return [(row.outcome, row.status, row.reason) for row in rows]


def test_every_try_is_kept_with_its_status(database, queue, deliveries, clock):
    send(database, queue)
    for outcome in (AWAY, FULL):
        deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), outcome, 0)
        clock.advance(3600)
    deliveries.fetch_delivery("pacs")
    deliveries.recover()  # killed in mid-send
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    send(database, queue, 2)
    deliveries.refuse_delivery(deliveries.fetch_delivery("pacs"), NEVER)
    assert attempts(database) == [
        ("unreachable", None, "cannot be reached"),
        ("retry", 0xA700, "cannot take it now: status 0xA700"),
        ("interrupted", None, "contourd was restarted"),
        ("accepted", 0x0000, ""),
        ("refused", 0xA900, "status 0xA900"),
    ]


def test_a_try_is_not_kept_without_its_transition(database, queue, deliveries):
    send(database, queue)
    delivery = deliveries.fetch_delivery("pacs")
    deliveries.finish_delivery(delivery, TAKEN)
    with pytest.raises(LeaseLost):
        deliveries.finish_delivery(delivery, TAKEN)
    assert len(attempts(database)) == 1


@pytest.mark.parametrize("ended", ["finish_delivery", "await_commitment", "postpone_delivery", "refuse_delivery"])
def test_who_lost_a_delivery_records_nothing_of_it(database, queue, deliveries, ended):
    send(database, queue)
    lost = deliveries.fetch_delivery("pacs")
    deliveries.recover()
    assert not deliveries.is_ours(lost)
    taken = deliveries.fetch_delivery("pacs")
    assert (taken.id, taken.token) == (lost.id, lost.token + 1)
    assert deliveries.is_ours(taken)
    assert not deliveries.is_ours(lost)
    with pytest.raises(LeaseLost):
        getattr(deliveries, ended)(lost, NEVER, *([0.0] if ended == "postpone_delivery" else []))
    assert [outcome for outcome, _, _ in attempts(database)] == ["interrupted"]
    deliveries.finish_delivery(taken, TAKEN)


def test_what_was_being_sent_when_it_was_superseded_is_not_sent_again(database, queue, deliveries, clock):
    job = send(database, queue)
    delivery = deliveries.fetch_delivery("pacs")
    with database.transaction() as session:
        queue.supersede_jobs(session, [session.get_one(JobRow, job)], because("another slice arrived"))
    deliveries.postpone_delivery(delivery, FULL, 0)
    clock.advance(3600)
    assert deliveries.fetch_delivery("pacs") is None
    assert read_report(database).jobs[0].deliveries[0].state == DeliveryState.REFUSED
    assert state(database, job) == JobState.SUPERSEDED


@pytest.mark.parametrize("jump_s", [-86400, 86400, -40 * 365 * 86400])
def test_a_clock_that_is_set_strands_nothing(database, queue, deliveries, clock, jump_s):
    send(database, queue)
    deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), AWAY, 0)
    assert deliveries.fetch_delivery("pacs") is None
    clock.jump(jump_s)
    assert deliveries.fetch_delivery("pacs") is not None


def test_a_clock_that_is_set_back_a_little_delays_by_no_more_than_the_longest_wait(database, queue, deliveries, clock):
    send(database, queue)
    deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), AWAY, 0)
    clock.jump(-1000)
    clock.advance(POLICY.longest_s)
    assert deliveries.fetch_delivery("pacs") is not None


def test_putting_off_and_making_due(database, queue, deliveries, clock):
    send(database, queue, 1)
    send(database, queue, 2)
    deliveries.postpone_all("pacs", 100, because("is down"))
    assert [one.is_due for one in deliveries.list_waiting("pacs")] == [False, False]
    assert deliveries.fetch_delivery("pacs") is None
    deliveries.postpone_all("pacs", 50, because("is down"))  # nothing is brought forward
    clock.advance(99)
    assert deliveries.fetch_delivery("pacs") is None
    deliveries.make_due("pacs")
    assert {deliveries.fetch_delivery("pacs").output, deliveries.fetch_delivery("pacs").output} == {
        "outgoing/1.dcm",
        "outgoing/2.dcm",
    }


def test_giving_up_what_waits(database, queue, deliveries):
    job = send(database, queue)
    (waiting,) = deliveries.list_waiting("pacs")
    deliveries.give_up_delivery(waiting.id, because("given up: cannot be reached"))
    deliveries.give_up_delivery(waiting.id, because("once more"))  # somebody was quicker: nothing happens
    assert state(database, job) == JobState.FAILED
    assert str(read_report(database).jobs[0].reason) == "pacs: given up: cannot be reached"


def test_each_destination_is_counted_in_the_report(database, queue, deliveries, clock):
    assert read_report(database).destinations == ()
    send(database, queue, 1)
    (line,) = read_report(database).destinations
    assert (line.name, line.state, line.since, line.last_success, line.waiting) == ("pacs", "UNTRIED", None, None, 1)
    for outcome in (FULL, AWAY, AWAY):
        clock.advance(3600)
        deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), outcome, 0)
    (line,) = read_report(database).destinations
    assert (line.state, line.since) == ("DOWN", START + timedelta(hours=2))
    assert {tries.text: tries.number for tries in line.tries} == {"retry 0xA700": 1, "unreachable": 2}
    clock.advance(3600)
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    send(database, queue, 2)
    clock.advance(3600)
    deliveries.refuse_delivery(deliveries.fetch_delivery("pacs"), NEVER)
    (line,) = read_report(database).destinations
    assert (line.state, line.since, line.waiting) == ("UP", START + timedelta(hours=4), 0)
    assert line.last_success == START + timedelta(hours=4)


@pytest.mark.parametrize(("asked_s", "least_s", "most_s"), [(0, 30, 33), (300, 300, 300), (1e9, 1980, 1980)])
def test_a_destination_that_says_how_long_to_wait_is_heard(
    database, queue, deliveries, clock, asked_s, least_s, most_s
):
    """Otherwise 30 s at first, and never longer than 1800 s: each up to a tenth longer."""
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "x"})
    busy = Outcome(OutcomeKind.RETRY, "it cannot take it now (503)", after_s=asked_s)
    assert deliveries.postpone_delivery(deliveries.fetch_delivery("pacs"), busy, 0)
    clock.advance(least_s - 1)
    assert deliveries.fetch_delivery("pacs") is None
    clock.advance(most_s - least_s + 2)
    assert deliveries.fetch_delivery("pacs") is not None
