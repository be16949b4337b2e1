"""Jobs that fail go on, are told of once, and are not lost when the clock is set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from contourd.errors import QueueUnavailable
from contourd.node.schedule import Every, Schedule
from contourd.system.logs import LineFormatter

WAIT_S = 20.0


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    schedule = Schedule(2)
    yield schedule
    if schedule.alive:
        schedule.stop(WAIT_S, threading.Event())


class Job:
    """Fails so many times, and then works."""

    def __init__(self, failures: int, error: Callable[[], Exception]) -> None:
        self.failures, self.error = failures, error
        self.calls = 0
        self.well = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        if self.calls > self.failures + 1:  # the end of the call before has been told
            self.well.set()


class Heard(logging.Handler):
    """Keeps what is logged, and tells when a job works again."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []
        self.well = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if self.messages[-1].endswith("works again"):
            self.well.set()


def test_a_fault_is_told_once_and_its_end_too(schedule, caplog):
    schedule.every(
        0.01, "closing quiet series", Job(5, lambda: QueueUnavailable("the database is locked by another program"))
    )
    heard, logger = Heard(), logging.getLogger("contourd.node.schedule")
    logger.addHandler(heard)
    try:
        with caplog.at_level(logging.INFO, "contourd.node.schedule"):
            schedule.start()
            assert heard.well.wait(WAIT_S)
    finally:
        logger.removeHandler(heard)
    assert heard.messages == [
        "closing quiet series failed and is tried again: the database is locked by another program",
        "closing quiet series works again",
    ]


def test_a_fault_of_ours_comes_with_its_traceback(schedule, caplog):
    job = Job(1, lambda: ZeroDivisionError("division by zero"))
    schedule.every(0.01, "retention", job)
    schedule.start()
    assert job.well.wait(WAIT_S)
    (record,) = caplog.records
    message = LineFormatter().format(record)
    assert message.startswith("retention failed and is tried again: ZeroDivisionError")
    assert "raise self.error()" in message
    assert message.endswith("ZeroDivisionError")
    assert "division by zero" not in message  # the text of an error may quote the patient


def test_a_job_that_hangs_delays_no_other_and_not_the_end(schedule):
    hangs, other, hasten = threading.Event(), Job(0, Exception), threading.Event()
    schedule.every(0.01, "hanging", lambda: hangs.wait(WAIT_S) and None)
    schedule.every(0.01, "other", other)
    schedule.start()
    assert other.well.wait(WAIT_S)
    hasten.set()
    assert not schedule.stop(WAIT_S, hasten)
    assert not schedule.alive
    hangs.set()


def test_jobs_that_wait_for_an_hour_that_has_not_come_are_due_when_the_clock_was_set(schedule):
    came = threading.Semaphore(0)
    schedule.every(86400.0, "job", came.release)  # from its first call on it waits, as after a clock was set back
    schedule.start()
    for _ in range(2):
        assert came.acquire(timeout=WAIT_S)
        schedule.clock_was_set()
    assert came.acquire(timeout=WAIT_S)


def test_a_clock_that_is_set_forwards_by_years_makes_one_call_due():
    every, now = Every(1), datetime(2026, 1, 1, tzinfo=UTC)
    assert every.get_next_fire_time(None, now) == now
    assert every.get_next_fire_time(datetime(2000, 1, 1, tzinfo=UTC), now) == now + timedelta(seconds=1)


def test_a_job_that_is_hastened_does_not_wait_for_its_interval(schedule):
    came = threading.Semaphore(0)
    schedule.run_soon("delivering to pacs")  # it is not there yet
    schedule.every(3600.0, "delivering to pacs", came.release)
    schedule.start()
    assert came.acquire(timeout=WAIT_S)
    for _ in range(2):
        schedule.run_soon("delivering to pacs")
        assert came.acquire(timeout=WAIT_S)
