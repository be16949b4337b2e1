"""The queue, on a real SQLite file: claims, leases, retries."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from contourd.errors import LeaseLost
from contourd.model.remarks import Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.observe.report import read_report
from contourd.store.contourings import Output
from contourd.store.queue import JobClaim, Lease
from contourd.store.states import DeliveryState, JobState
from contourd.store.tables import ContouringRow, DeliveryRow, EventRow, JobRow
from tests.contourings import CONTOURING
from tests.queueing import START, add_job, in_force, state
from tests.reasons import because

pytestmark = pytest.mark.both_databases


def test_the_oldest_is_claimed_first_and_once(database, queue):
    second, first = add_job(database, 2), add_job(database, 1)
    claimed = queue.fetch_job("a", 60)
    assert claimed is not None
    assert (claimed.id, claimed.series_uid, claimed.paths, claimed.attempts) == (first, "1.2.1", ("1/0", "1/1"), 1)
    assert queue.fetch_job("b", 60).id == second
    assert queue.fetch_job("c", 60) is None


def test_a_lease_that_is_renewed_holds(database, queue, clock):
    job = add_job(database)
    queue.fetch_job("a", 60)
    (first,) = queue.list_leases()
    assert first == Lease(JobClaim(job, "a", 1), START + timedelta(seconds=60))
    clock.advance(50)
    queue.renew_lease(in_force(queue, job), 60)
    assert not queue.revoke_lease(first, because("it hung"), 3)
    assert state(database, job) == JobState.CONTOURING
    (second,) = queue.list_leases()
    assert queue.revoke_lease(second, because("it hung"), 3)
    assert state(database, job) == JobState.QUEUED
    assert queue.list_leases() == []
    assert not queue.revoke_lease(second, because("it hung"), 3)


@pytest.mark.parametrize("by", ["b", "a"])
def test_who_lost_the_lease_changes_nothing(database, queue, clock, by):
    job = add_job(database)
    lost = queue.fetch_job("a", 60).claim
    clock.advance(61)
    queue.revoke_lease(*queue.list_leases(), because("it hung"), 3)
    taken = queue.fetch_job(by, 60)
    assert (taken.attempts, taken.claim.token) == (2, lost.token + 1)
    for call in (
        lambda: queue.renew_lease(lost, 60),
        lambda: queue.finish_job(lost, {"pacs": "x"}),
        lambda: queue.hold_job(lost, because("x")),
        lambda: queue.fail_job(lost, because("x"), 3),
        lambda: queue.return_job(lost, because("x")),
        lambda: queue.wait_for_device(lost, because("x"), 3600),
    ):
        with pytest.raises(LeaseLost):
            call()
    queue.finish_job(taken.claim, {"pacs": "y"})
    assert state(database, job) == JobState.DELIVERING
    with database.reading() as session:
        assert list(session.scalars(select(DeliveryRow.output))) == ["y"]


def test_the_token_grows_also_where_the_attempt_does_not_count(database, queue):
    add_job(database)
    for token in (1, 2, 3):
        job = queue.fetch_job("a", 60)
        assert (job.attempts, job.claim.token) == (1, token)
        queue.return_job(job.claim, because("waits: the disk is full"))


def test_a_job_that_workers_die_on_is_held_and_blocks_nothing(database, queue):
    poison, next_job = add_job(database, 1), add_job(database, 2)
    assert queue.fetch_job("a", 60).id == poison
    assert queue.release_jobs_of("a", because("it crashed"), 2) == [poison]
    (line,) = [j for j in read_report(database).jobs if j.id == poison]
    assert (line.state, str(line.reason)) == ("QUEUED", "it crashed")
    assert queue.fetch_job("b", 60).id == next_job  # it is younger, and goes first all the same
    assert queue.fetch_job("c", 60).id == poison
    assert queue.release_jobs_of("c", because("it crashed"), 2) == [poison]
    assert state(database, poison) == JobState.HELD
    (line,) = [j for j in read_report(database).jobs if j.id == poison]
    assert "broke its worker 2 times, the last time so: it crashed" in str(line.reason)


def test_errors_of_ours_are_tried_again_and_then_fail(database, queue):
    job = add_job(database)
    for attempt in (1, 2):
        assert queue.fetch_job("a", 60).attempts == attempt
        queue.fail_job(in_force(queue, job), because("ValueError: x"), 2)
    assert state(database, job) == JobState.FAILED
    queue.retry_job(job)
    assert state(database, job) == JobState.QUEUED
    assert queue.fetch_job("a", 60).attempts == 1


def test_an_override_stays_with_its_job(database, queue):
    job = add_job(database)
    assert queue.fetch_job("a", 60).override == ""
    queue.hold_job(in_force(queue, job), because("outside the limits"))
    queue.retry_job(job, "seen (mp)")
    assert queue.fetch_job("a", 60).override == "seen (mp)"
    queue.hold_job(in_force(queue, job), because("something else"))
    queue.retry_job(job)
    assert queue.fetch_job("a", 60).override == "seen (mp)"
    with database.reading() as session:
        details = list(session.scalars(select(EventRow.detail).where(EventRow.event == "release")))
    assert details == ["released by a person: seen (mp)", "released by a person"]


def test_what_a_person_is_to_look_at_is_reported(database, queue):
    job = add_job(database)
    queue.fetch_job("a", 60)
    found = Finding("Larynx", RemarkCheck.VOLUME, Measure.VOLUME_CC, 1.0, (5.0, 9.0))
    remarks = Remarks((Remark(found, RemarkVerdict.FLAG),))
    queue.finish_job(in_force(queue, job), {"pacs": "x"}, remarks)
    assert [line.remarks for line in read_report(database).jobs] == [remarks]
    assert remarks.text() == "check: Larynx (volume 1.0 cc, expected 5.0 to 9.0 cc)"


def test_the_database_keeps_its_own_invariants(database):
    job = add_job(database)
    with pytest.raises(IntegrityError, match=r"(?i)check"), database.transaction() as session:
        session.execute(text("UPDATE jobs SET state = 'LOST'"))
    row = {"job_id": job, "destination": "pacs", "state": DeliveryState.PENDING}
    twice = [DeliveryRow(**row, not_before=START, created_at=START, updated_at=START) for _ in range(2)]
    with pytest.raises(IntegrityError, match=r"(?i)unique"), database.transaction() as session:
        session.add_all(twice)
    with pytest.raises(Exception, match="naive"), database.transaction() as session:
        session.get_one(JobRow, job).created_at = datetime(2026, 1, 1)


@pytest.mark.sqlite_alone
def test_pragmas(database):
    with database.reading() as session:
        values = [
            session.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]


@pytest.mark.sqlite_alone
def test_claims_use_their_index(database):
    with database.reading() as session:
        claim = "EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE state = 'QUEUED' ORDER BY attempts, created_at, id LIMIT 1"
        due = (
            "EXPLAIN QUERY PLAN SELECT * FROM deliveries WHERE state = 'PENDING' AND destination = 'p' "
            "AND not_before <= '2026' ORDER BY not_before, id LIMIT 1"
        )
        for query, index in ((claim, "jobs_by_state"), (due, "deliveries_due")):
            plan = str(session.execute(text(query)).all())
            assert index in plan
            assert "TEMP B-TREE" not in plan


def test_what_is_finished_again_by_the_same_claim_was_recorded_before(database, queue):
    """Where the connection broke after the commit, the worker cannot know of it, and tries once more."""
    job = add_job(database)
    claim = queue.fetch_job("a", 60).claim
    made = replace(CONTOURING, outputs=(Output("outgoing/1-1.dcm", "0" * 64),))
    for _ in range(2):
        queue.finish_job(claim, {"pacs": "outgoing/1-1.dcm"}, contouring=made)
    assert state(database, job) == JobState.DELIVERING
    with database.reading() as session:
        assert len(session.scalars(select(DeliveryRow)).all()) == 1
        assert len(session.scalars(select(ContouringRow)).all()) == 1
    other = replace(made, outputs=(Output("outgoing/1-2.dcm", "0" * 64),))
    with pytest.raises(LeaseLost):
        queue.finish_job(claim, {"pacs": "outgoing/1-2.dcm"}, contouring=other)
