"""Leases run out by time that passes, not by a clock that is set, and not while nobody can renew them."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from datetime import timedelta

import pytest

from contourd.errors import QueueUnavailable
from contourd.node.worker_supervisor import Supervisor
from contourd.settings import Destination, Route, Settings, WorkerSettings
from contourd.store import database as database_module
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState
from tests.queueing import Clock, add_job, in_force, state

LEASE_S = 60.0
DAY_S = 86400.0


class Watched:
    """A claimed job, its supervisor, and the time that passes for both."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock, self.running_s = database, Clock(), 0.0
        self.queue = Queue(database, self.clock)
        settings = Settings(
            worker=WorkerSettings(lease_s=LEASE_S),
            destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
            route=(Route(model="hn7", destinations=("pacs",)),),
        )
        self.supervisor = Supervisor(settings, self.queue, threading.Event(), monotonic=lambda: self.running_s)
        self.job = add_job(database)
        self.queue.fetch_job(self.supervisor.name, LEASE_S)
        self.look()

    def look(self, after_s: float = 0.0) -> str:
        self.clock.advance(after_s)
        self.running_s += after_s
        self.supervisor.expire_leases()
        return state(self.database, self.job)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    database = Database(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    database.upgrade()
    yield Watched(database)
    database.close()


def test_a_lease_that_is_not_renewed_runs_out(watched):
    assert watched.look(60) == JobState.CONTOURING
    assert watched.look(1) == JobState.QUEUED


def test_a_lease_that_is_renewed_does_not(watched):
    for _ in range(5):
        watched.queue.renew_lease(in_force(watched.queue, watched.job), LEASE_S)
        assert watched.look(50) == JobState.CONTOURING


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_clock_that_is_set_neither_ends_a_lease_nor_prolongs_it(watched, step_s):
    watched.clock.now += timedelta(seconds=step_s)
    assert watched.look(59) == JobState.CONTOURING
    assert watched.look(2) == JobState.QUEUED


def test_the_time_in_which_nobody_could_renew_does_not_count(watched, tmp_path):
    with closing(sqlite3.connect(tmp_path / "queue.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(QueueUnavailable):
            watched.look(61)
        other.execute("ROLLBACK")
    assert watched.look(0) == JobState.CONTOURING
    watched.queue.renew_lease(in_force(watched.queue, watched.job), LEASE_S)
    assert watched.look(59) == JobState.CONTOURING
