"""States: every pair is either in its table or raises."""

from __future__ import annotations

import itertools

import pytest

from contourd.errors import InvalidTransition
from contourd.store import states as job
from contourd.store.states import DeliveryState, JobState, RetryPolicy, SeriesState

MACHINES = [
    (job.SeriesState, job.SeriesEvent, job.SERIES_TRANSITIONS, job.next_series_state),
    (job.JobState, job.JobEvent, job.JOB_TRANSITIONS, job.next_job_state),
    (job.DeliveryState, job.DeliveryEvent, job.DELIVERY_TRANSITIONS, job.next_delivery_state),
]
PAIRS = [
    (table, advance, state, event)
    for states, events, table, advance in MACHINES
    for state, event in itertools.product(states, events)
]


@pytest.mark.parametrize(("table", "advance", "state", "event"), PAIRS)
def test_every_pair(table, advance, state, event):
    if (state, event) in table:
        assert advance(state, event) is table[state, event]
    else:
        with pytest.raises(InvalidTransition, match=str(state)):
            advance(state, event)


@pytest.mark.parametrize(("states", "table"), [(states, table) for states, _, table, _ in MACHINES])
def test_every_state_but_the_first_can_be_reached(states, table):
    assert set(table.values()) | {next(iter(states))} == set(states)


def test_what_is_over_is_opened_again_by_a_person_only():
    by_a_person = {job.JobEvent.REDELIVER, job.JobEvent.REWRITE, job.JobEvent.REVIVE}
    for final in job.JOBS_ENDED:
        assert {event for state, event in job.JOB_TRANSITIONS if state is final} <= by_a_person
    after = [event for state, event in job.DELIVERY_TRANSITIONS if state is DeliveryState.DELIVERED]
    assert after == [job.DeliveryEvent.RELEASE]


def test_what_is_held_can_be_released():
    assert (SeriesState.HELD, job.SeriesEvent.RELEASE) in job.SERIES_TRANSITIONS
    for state in (JobState.HELD, JobState.FAILED):
        assert (state, job.JobEvent.RELEASE) in job.JOB_TRANSITIONS
    assert (DeliveryState.REFUSED, job.DeliveryEvent.RELEASE) in job.DELIVERY_TRANSITIONS


@pytest.mark.parametrize(("attempts", "least"), [(1, 30), (2, 60), (3, 120), (6, 960), (7, 1800), (1000, 1800)])
def test_the_wait_doubles_up_to_the_most(attempts, least):
    policy = RetryPolicy(30, 1800, 86400)
    waits = [policy.wait_s(attempts) for _ in range(50)]
    assert least <= min(waits)
    assert max(waits) <= 1.1 * least
    assert max(waits) <= policy.longest_s
    assert len(set(waits)) > 10


def test_giving_up():
    policy = RetryPolicy(30, 1800, 100)
    assert not policy.gives_up(99)
    assert policy.gives_up(100)
