"""Backoff and the time that something was tried for, by seconds that only pass."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.store.backoff import Backoff, WaitingTimes
from tests.queueing import POLICY, START, Clock


def test_each_step_is_twice_as_long_until_something_succeeds():
    clock = Clock()
    backoff = Backoff(POLICY, clock.elapsed)
    assert (backoff.is_down, backoff.left_s) == (False, 0)
    for least_s in (30, 60, 120):
        wait_s = backoff.fail()
        assert least_s <= wait_s <= 1.1 * least_s
        assert (backoff.is_down, backoff.left_s) == (True, pytest.approx(wait_s))
        clock.advance(wait_s)
        assert (backoff.is_down, backoff.left_s) == (True, pytest.approx(0, abs=1e-6))
    backoff.answer()
    assert (backoff.is_down, backoff.left_s) == (False, 0)
    assert 240 <= backoff.fail() <= 264  # it answered, and took nothing
    backoff.succeed()
    assert not backoff.is_down
    assert 30 <= backoff.fail() <= 33


def test_time_counts_from_the_first_try_whatever_the_clock_says():
    clock = Clock()
    trying = WaitingTimes(clock.elapsed)
    assert trying.waited_s(1, START) == 0
    clock.advance(10)
    clock.jump(-99999)
    assert trying.waited_s(1, START) == 10
    assert trying.waited_s(2, START) == 0
    assert trying.waited_s(1, START + timedelta(seconds=1)) == 0  # released: it counts anew
    assert len(trying) == 3
    trying.forget(2, START)
    trying.forget(2, START)
    assert len(trying) == 2
    trying.forget_but({3})
    assert len(trying) == 0
