"""Durations by a clock that nobody can set, and a clock that was set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contourd.system.clock import AgeTracker, ClockStepDetector

DAY_S = 86400.0


class Time:
    """A time of day that can be set, and a monotonic time that cannot."""

    def __init__(self) -> None:
        self.now, self.running_s = datetime(2026, 1, 1, tzinfo=UTC), 1000.0

    def clock(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.running_s

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.running_s += seconds

    def set_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ages(time: Time) -> AgeTracker:
    return AgeTracker(time.clock, time.monotonic)


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_an_age_does_not_follow_a_clock_that_is_set(time, ages, step_s):
    moment = time.now
    ages.note("series", moment)
    time.pass_by(10)
    time.set_by(step_s)
    assert ages.age_s("series", moment) == 10
    time.pass_by(5)
    assert ages.age_s("series", moment) == 15


def test_a_moment_of_another_process_has_the_age_that_the_clock_tells_at_first_sight(time, ages):
    moment = time.now - timedelta(seconds=60)
    assert ages.age_s("series", moment) == 60
    time.pass_by(1)
    assert ages.age_s("series", moment) == 61
    assert ages.age_s("ahead", time.now + timedelta(days=1)) == 0  # the clock was set back meanwhile


def test_what_is_seen_begins_at_first_sight_and_anew_with_another_moment(time, ages):
    moment = time.now - timedelta(days=1)
    assert ages.seen_s("job", moment) == 0
    time.pass_by(60)
    assert ages.seen_s("job", moment) == 60
    assert ages.seen_s("job", moment + timedelta(seconds=20)) == 0


def test_what_is_kept_and_what_is_forgotten(time, ages):
    for key in ("a", "b"):
        ages.note(key, time.now)
    moment = time.now
    time.pass_by(30)
    ages.keep(["a"])
    assert ages.seen_s("a", moment) == 30
    assert ages.seen_s("b", moment) == 0
    ages.clear()
    assert ages.seen_s("a", moment) == 0


def test_a_clock_that_was_set_is_noticed_once_and_a_correction_is_not(time):
    watch = ClockStepDetector(time.clock, time.monotonic)
    time.pass_by(3600)
    time.set_by(2)
    assert watch.step_s() == 0
    time.set_by(-DAY_S)
    time.pass_by(1)
    assert watch.step_s() == -DAY_S
    time.pass_by(1)
    assert watch.step_s() == 0
