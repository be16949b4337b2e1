"""Who is taken for dead by the node that leads."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from contourd.intake.intake import Intake
from contourd.node.recovery import LATER_S, ProcessWatch
from contourd.settings import Route, SeriesSettings, WorkerSettings
from contourd.store.processes import Processes
from contourd.store.states import JobState, ProcessRole
from contourd.store.tables import JobRow, ProcessRow
from tests.queueing import add_job

LEASE_S = 60.0
LONG_S = LEASE_S + LATER_S + 1


@pytest.fixture
def watch(database, sending, clock, tmp_path) -> ProcessWatch:
    route = Route(model="hn7", destinations=("pacs",))
    intake = Intake(database, tmp_path, SeriesSettings(), [route], clock, clock.elapsed)
    return ProcessWatch("node", database, sending, intake, WorkerSettings(lease_s=LEASE_S), clock.elapsed)


@pytest.mark.both_databases
def test_after_a_time_without_the_database_a_worker_has_its_lease_to_say_that_it_lives(database, queue, watch, clock):
    processes, job = Processes(database, clock), add_job(database)
    processes.begin("w1", ProcessRole.WORKER, "cuda:0")
    queue.fetch_job("w1", LEASE_S)
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == "w1").values(host="gpu1", place="elsewhere"))

    def state() -> JobState:
        watch.watch()
        with database.reading() as session:
            return JobState(session.get_one(JobRow, job).state)

    assert state() == JobState.CONTOURING
    clock.advance(LONG_S)
    watch.forget()  # nobody led, for nobody reached the database
    assert state() == JobState.CONTOURING
    assert [one.id for one in processes.running()] == ["w1"]
    clock.advance(LONG_S)
    assert state() == JobState.QUEUED
    assert processes.running() == []
