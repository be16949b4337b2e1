"""No thread ends unseen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from contourd.schedule import Schedule
from contourd.threads import survived, watch_threads


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    before, heard = threading.excepthook, list[tuple[str, str]]()
    watch_threads(lambda *what: heard.append(what))
    yield heard
    threading.excepthook = before


@pytest.mark.parametrize("error", [EOFError(), SystemExit(1), KeyError("Name^Patient")])
def test_the_end_of_a_thread_by_an_exception_is_told_and_logged_with_its_traceback(told, caplog, error) -> None:
    def end() -> None:
        raise error

    thread = threading.Thread(target=end, name="receiver 1")
    thread.start()
    thread.join()
    assert told == [("receiver 1", type(error).__name__)]
    assert f"the thread 'receiver 1' ended by {type(error).__name__}" in caplog.messages
    assert caplog.records[-1].exc_info is not None


def test_what_a_thread_must_outlive_is_told(caplog) -> None:
    def fail() -> None:
        raise EOFError

    with caplog.at_level(logging.ERROR):
        assert not survived(fail, "keeping a receiver")
    assert caplog.messages == ["keeping a receiver failed; it is tried again"]
    assert survived(lambda: None, "keeping a receiver")


def test_a_schedule_that_lost_a_thread_is_not_alive(monkeypatch) -> None:
    schedule = Schedule(2)
    monkeypatch.setattr("concurrent.futures._base.LOGGER.critical", lambda *told, **more: None)
    runs, hasten = threading.Semaphore(0), threading.Event()
    hasten.set()
    schedule.every(0.01, "anything", runs.release)
    schedule.start()
    try:
        # A pool notes its thread only after that began; the second time is asked for after the first was.
        assert runs.acquire(timeout=10)
        assert runs.acquire(timeout=10)
        assert schedule.alive
        schedule._threads._pool._work_queue.put(object())  # what no worker can run
        deadline = time.monotonic() + 10
        while schedule.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not schedule.alive
        assert schedule._scheduler._thread.is_alive()
    finally:
        schedule.stop(0, hasten)


def test_a_thread_of_a_schedule_that_begins_meanwhile_is_no_fault() -> None:
    schedule = Schedule(2)
    threads = schedule._threads._pool._threads

    class First(threading.Thread):
        def is_alive(self) -> bool:
            threads.add(threading.Thread())
            return True

    schedule.start()
    try:
        threads.add(First())
        assert schedule.alive
    finally:
        threads.clear()
        schedule.stop(0, threading.Event())
