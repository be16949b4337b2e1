"""What a person may do to a job, what comes of it, and that the audit trail names the person."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.errors import InvalidTransition, LeaseLost
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import JobRow, SeriesRow
from tests.operating import PROFILES, TAKEN, add, contour, deliver, deliveries, read, trail
from tests.queueing import in_force
from tests.reasons import because

pytestmark = pytest.mark.both_databases


def test_a_queued_job_is_held_and_retried(database, queue, marie, job):
    marie.hold(job, "wrong patient position")
    assert (read(database, job).state, str(read(database, job).reason)) == (
        JobState.HELD,
        "held by marie: wrong patient position",
    )
    assert queue.fetch_job("w", 60) is None
    marie.retry(job)
    assert read(database, job).state == JobState.QUEUED
    assert trail(database) == [
        ("marie", "hold", "job 1", "wrong patient position"),
        ("marie", "retry", "job 1", ""),
    ]


def test_a_job_that_is_contoured_is_taken_from_its_worker(database, queue, marie, job):
    claim = queue.fetch_job("w", 60).claim
    marie.hold(job, "wait")
    with pytest.raises(LeaseLost):
        queue.finish_job(claim, {"pacs": "outgoing/1.dcm"})
    assert deliveries(database) == {}


def test_nothing_of_a_held_job_is_sent(queue, sending, marie, job):
    contour(queue, job)
    marie.hold(job, "wait")
    assert sending.fetch_delivery("pacs") is None
    marie.retry(job)
    assert sending.fetch_delivery("pacs").job_id == job


def test_what_arrived_while_it_was_held_counts(database, queue, sending, marie, job):
    contour(queue, job)
    under_way = sending.fetch_delivery("pacs")
    marie.hold(job, "wait")
    sending.finish_delivery(under_way, TAKEN)
    assert read(database, job).state == JobState.HELD
    marie.retry(job)
    assert read(database, job).state == JobState.DELIVERED


def test_an_override_is_kept_with_the_name(database, queue, marie, job):
    queue.fetch_job("w", 60)
    queue.hold_job(in_force(queue, job), because("outside the limits"))
    marie.retry(job, "the child is 17")
    assert read(database, job).override == "the child is 17 (marie)"
    assert trail(database) == [("marie", "override", "job 1", "the child is 17")]


def test_nothing_is_sent_before_a_person_confirmed(database, queue, sending, clock, marie):
    job = add(database, clock, confirm=True)
    contour(queue, job)
    assert read(database, job).state == JobState.CONFIRMING
    assert str(read(database, job).reason).startswith("waits for confirmation")
    assert sending.fetch_delivery("pacs") is None
    with pytest.raises(InvalidTransition, match="contourd confirm 1"):
        marie.retry(job)
    clock.now += timedelta(days=3)
    marie.confirm(job)
    assert read(database, job).confirmed_by == "marie"
    delivery = sending.fetch_delivery("pacs")
    assert delivery.created_at == clock.now  # the time to give up begins with the confirmation
    sending.finish_delivery(delivery, TAKEN)
    assert read(database, job).state == JobState.DELIVERED
    assert trail(database) == [("marie", "confirm", "job 1", "")]


def test_a_confirmed_job_that_is_held_needs_no_second_confirmation(database, queue, sending, clock, marie):
    job = add(database, clock, confirm=True)
    contour(queue, job)
    marie.confirm(job)
    marie.hold(job, "wait")
    with pytest.raises(InvalidTransition, match="does not wait for confirmation"):
        marie.confirm(job)
    marie.retry(job)
    assert sending.fetch_delivery("pacs") is not None


def test_what_waits_for_nothing_cannot_be_confirmed(database, queue, marie, job):
    contour(queue, job)
    with pytest.raises(InvalidTransition, match="does not wait"):
        marie.confirm(job)
    assert trail(database) == []


@pytest.mark.parametrize("is_contoured", [False, True])
def test_a_cancelled_job_is_not_sent_and_can_be_taken_up_again(database, queue, sending, marie, job, is_contoured):
    if is_contoured:
        contour(queue, job)
    marie.cancel(job, "sent by mistake")
    row = read(database, job)
    assert (row.state, str(row.reason)) == (JobState.CANCELLED, "cancelled by marie: sent by mistake")
    assert queue.fetch_job("w", 60) is None
    assert sending.fetch_delivery("pacs") is None
    marie.retry(job)
    contour(queue, job)
    assert sending.fetch_delivery("pacs") is not None
    assert [action for _, action, _, _ in trail(database)] == ["cancel", "retry"]


def test_what_a_newer_revision_replaced_stays_so(database, queue, marie, job):
    with database.transaction() as session:
        queue.supersede_jobs(session, [session.get_one(JobRow, job)], because("another slice arrived"))
    with pytest.raises(InvalidTransition):
        marie.retry(job)
    assert trail(database) == []


def test_a_cancelled_job_of_an_older_revision_stays_cancelled(database, marie, job):
    marie.cancel(job, "mistake")
    with database.transaction() as session:
        session.get_one(SeriesRow, 1).revision = 2
    with pytest.raises(InvalidTransition, match="older revision"):
        marie.retry(job)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_holding_and_cancelling_need_a_reason(marie, job, reason):
    for act in (marie.hold, marie.cancel):
        with pytest.raises(InvalidTransition, match="reason"):
            act(job, reason)


def test_a_structure_set_goes_to_another_destination_of_the_same_profile(database, queue, sending, marie, job):
    contour(queue, job)
    deliver(sending)
    marie.resend(job, "archive", PROFILES)
    assert read(database, job).state == JobState.DELIVERING
    assert sending.fetch_delivery("pacs") is None
    sent = sending.fetch_delivery("archive")
    assert sent.output == "outgoing/1.dcm"
    sending.finish_delivery(sent, TAKEN)
    assert read(database, job).state == JobState.DELIVERED
    assert trail(database) == [("marie", "resend", "job 1", "to archive")]


def test_it_is_sent_again_to_the_same_destination(database, queue, sending, marie, job):
    contour(queue, job)
    deliver(sending)
    marie.resend(job, "pacs", PROFILES)
    deliver(sending)
    assert read(database, job).state == JobState.DELIVERED


def test_another_profile_is_written_first(database, queue, sending, marie, job):
    contour(queue, job)
    deliver(sending)
    marie.resend(job, "tps", PROFILES)
    claimed = queue.fetch_job("w", 60)
    assert claimed.destinations == ("pacs", "tps")
    queue.finish_job(in_force(queue, job), {"pacs": "outgoing/1.dcm", "tps": "outgoing/1-2.dcm"})
    assert deliveries(database) == {"pacs": DeliveryState.DELIVERED, "tps": DeliveryState.PENDING}
    assert sending.fetch_delivery("tps").output == "outgoing/1-2.dcm"


def test_a_job_that_waits_for_confirmation_is_sent_nowhere_else_either(database, queue, sending, clock, marie):
    job = add(database, clock, confirm=True)
    contour(queue, job)
    marie.resend(job, "archive", PROFILES)
    assert sending.fetch_delivery("archive") is None
    marie.confirm(job)
    assert sending.fetch_delivery("archive") is not None


def test_resending_says_what_is_wrong(database, queue, clock, marie, job):
    with pytest.raises(InvalidTransition, match="there are: pacs, archive, tps"):
        marie.resend(job, "nowhere", PROFILES)
    with pytest.raises(InvalidTransition, match="no structure set"):
        marie.resend(job, "pacs", PROFILES)
    contour(queue, job)
    with database.transaction() as session:
        session.get_one(JobRow, job).purged_at = clock()
    with pytest.raises(InvalidTransition, match="retention"):
        marie.resend(job, "archive", PROFILES)


def test_another_model_makes_another_job(database, marie, job, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    made = marie.recontour(job, str(tmp_path))
    assert read(database, made).model == str(tmp_path)
    assert list(read(database, made).destinations) == ["pacs"]
    assert trail(database) == [("marie", "recontour", "job 1", f"with {tmp_path}: job {made}")]
    with pytest.raises(InvalidTransition, match=f"job {made} already"):
        marie.recontour(job, str(tmp_path))
    with pytest.raises(InvalidTransition, match="no model"):
        marie.recontour(job, "hn8")


def test_a_held_series_is_released(database, marie, clock):
    add(database, clock)
    with database.transaction() as session:
        series = session.get_one(SeriesRow, 1)
        series.state, series.calling_ae = SeriesState.HELD, "CT1"
    assert marie.release_series(1, 180.0, "all slices are there") == "series 1 will be examined again"
    with database.reading() as session:
        series = session.get_one(SeriesRow, 1)
    assert series.state == SeriesState.RECEIVING
    assert series.last_instance_at == clock.now - timedelta(seconds=180)
    assert trail(database) == [("marie", "release", "series 1", "all slices are there")]


def test_what_is_not_there_is_said(marie):
    for act in (marie.retry, marie.confirm):
        with pytest.raises(InvalidTransition, match="there is no job 7"):
            act(7)
    with pytest.raises(InvalidTransition, match="there is no series 7"):
        marie.release_series(7, 1.0)
