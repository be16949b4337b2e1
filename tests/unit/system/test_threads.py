"""No thread ends unseen."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator

import pytest

from contourd.node.schedule import Schedule
from contourd.system.threads import run_surviving, watch_threads


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
        assert not run_surviving(fail, "keeping a receiver")
    assert caplog.messages == ["keeping a receiver failed; it is tried again"]
    assert run_surviving(lambda: None, "keeping a receiver")


def test_a_schedule_that_lost_a_thread_is_not_alive() -> None:
    schedule = Schedule(2)
    runs, hasten = threading.Semaphore(0), threading.Event()
    hasten.set()
    schedule.every(3600.0, "anything", runs.release)
    schedule.start()
    try:
        assert runs.acquire(timeout=10)
        assert schedule.alive
        (lost,) = schedule.workers
        for _ in range(10):
            if lost.is_alive():  # within a job it would only fail that
                ended = ctypes.c_ulong(lost.ident or 0), ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(*ended)
                schedule.run_soon("anything")  # it is raised when the thread takes this up
                lost.join(1)
        assert not lost.is_alive()
        assert not schedule.alive
    finally:
        schedule.stop(0, hasten)


def test_a_thread_of_a_schedule_that_begins_meanwhile_is_no_fault() -> None:
    schedule = Schedule(2)

    class First(threading.Thread):
        def is_alive(self) -> bool:
            schedule.workers.append(threading.Thread())
            return True

    schedule.start()
    try:
        schedule.workers.append(First())
        assert schedule.alive
    finally:
        schedule.workers.clear()
        schedule.stop(0, threading.Event())
