"""Hosts and workers as status, figures and alerts have them: what each does, and what of it needs somebody."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import update

from contourd.model.model_identity import ModelIdentity
from contourd.models.orders import order_digest
from contourd.observe.hosts import GONE, GONE_SHOWN, NOBODY_S, RUNNING, SILENT, host_concerns, read_hosts
from contourd.observe.metrics import NodeMetrics, exposition
from contourd.observe.report import read_report
from contourd.observe.status import to_json
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Destination, Route, Settings, SpoolSettings
from contourd.store.contourings import add_contouring
from contourd.store.loaded import LoadedModel, write_loaded
from contourd.store.processes import Processes
from contourd.store.states import ProcessRole
from contourd.store.tables import JobRow, ProcessRow
from tests.contourings import CONTOURING
from tests.queueing import add_job

pytestmark = pytest.mark.both_databases

ORDER = "an order"
UNFIT = Reason.of(HoldReason.ORDER_OF_OTHER_VERSION, wanted="2", own="1")


@pytest.fixture
def processes(database, clock):
    return Processes(database, clock, clock.elapsed)


def at(database, name: str, **changes) -> None:
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == name).values(**changes))


def node_settings(folder) -> Settings:
    return Settings(
        spool=SpoolSettings(root=folder),
        destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
        route=(Route(model="hn7", destinations=("pacs",)),),
    )


def ordered(database, job: int) -> None:
    with database.transaction() as session:
        session.get_one(JobRow, job).contouring_order = ORDER


def concerns(database, clock) -> list[tuple[str, str, str]]:
    with database.reading() as session:
        return [(one.rule, one.subject, one.text) for one in host_concerns(session, clock())]


def test_each_process_says_what_it_does_and_how_much(database, queue, processes, clock, tmp_path):
    job, other = add_job(database, 1), add_job(database, 2)
    processes.begin("node", ProcessRole.SERVE)
    processes.begin("w1", ProcessRole.WORKER, "cuda:1")
    queue.fetch_job("w1", 60)
    with database.transaction() as session:
        for hours, one in ((0.5, other), (0.6, other), (0.9, job), (1.1, job)):  # a job that is contoured twice is one
            add_contouring(session, one, "w1", CONTOURING, clock() - timedelta(hours=hours))
    node, worker = read_hosts(database, clock())
    assert (node.role, node.state, node.job, node.jobs_an_hour) == ("serve", RUNNING, None, 0)
    assert (worker.device, worker.state, worker.job, worker.jobs_an_hour) == ("cuda:1", RUNNING, job, 2)
    _, line = json.loads(to_json(read_report(database), node_settings(tmp_path)))["processes"]
    assert (line["id"], line["role"], line["device"], line["job"]) == ("w1", "worker", "cuda:1", job)


def test_a_host_that_is_gone_is_told_until_it_is_back_or_a_day_is_over(database, processes, clock):
    processes.begin("w1", ProcessRole.WORKER, "cpu")
    clock.advance(31)
    assert [line.state for line in read_hosts(database, clock())] == [SILENT]
    assert concerns(database, clock) == []
    processes.end_as_gone("w1")
    host = read_hosts(database, clock())[0].host
    assert [line.state for line in read_hosts(database, clock())] == [GONE]
    assert concerns(database, clock) == []  # it may be back in a moment
    clock.advance(30)
    assert concerns(database, clock) == [
        ("host", f"worker of host {host}", f"the worker process of host {host} is gone")
    ]
    clock.advance(GONE_SHOWN.total_seconds() + 1)
    assert read_hosts(database, clock()) == ()
    at(database, "w1", ended_at=clock())
    processes.begin("w2", ProcessRole.WORKER, "cpu")
    assert [line.id for line in read_hosts(database, clock())] == ["w2"]
    assert concerns(database, clock) == []


def test_one_that_ended_in_order_is_missed_by_nobody(database, processes, clock):
    processes.begin("w1", ProcessRole.WORKER, "cpu")
    processes.end("w1")
    assert (read_hosts(database, clock()), concerns(database, clock)) == ((), [])


def test_jobs_that_nobody_can_contour_are_told_and_those_that_somebody_can_are_not(database, processes, clock):
    ordered(database, add_job(database))
    clock.advance(NOBODY_S + 1)
    text = "1 queued jobs wait in vain: no worker runs on any host"
    assert concerns(database, clock) == [("worker", "queued jobs", text)]
    processes.begin("w1", ProcessRole.WORKER, "cpu")
    assert concerns(database, clock) == []
    processes.decline("w1", {order_digest(ORDER): UNFIT})
    ((rule, _, text),) = concerns(database, clock)
    assert rule == "worker"
    assert text == f"1 queued jobs wait in vain: no worker can contour them as they were ordered: {UNFIT}"
    (line,) = read_hosts(database, clock())
    assert line.declined == (UNFIT,)
    processes.begin("w2", ProcessRole.WORKER, "cpu")
    assert concerns(database, clock) == []


def test_what_was_queued_just_now_is_not_told(database, clock):
    ordered(database, add_job(database))
    clock.advance(NOBODY_S)
    assert concerns(database, clock) == []


def test_what_a_worker_has_loaded_is_shown_while_it_runs(database, processes, clock, tmp_path):
    processes.begin("w1", ProcessRole.WORKER, "cpu")
    loaded = (LoadedModel(ModelIdentity("hn7", "1", "a" * 64), "anatomynet", "OpenVINO", 3_000_000, clock()),)
    write_loaded(database, "w1", loaded)
    (line,) = read_hosts(database, clock())
    assert line.loaded == loaded
    settings = node_settings(tmp_path)
    (told,) = json.loads(to_json(read_report(database), settings))["processes"]
    assert told["loaded"] == [
        {
            "name": "hn7",
            "version": "1",
            "sha256": "a" * 64,
            "kind": "anatomynet",
            "runtime": "OpenVINO",
            "bytes": 3_000_000,
            "since": clock().isoformat(),
        }
    ]
    figures = exposition(NodeMetrics(settings, database, list)).decode()
    assert 'contourd_worker_model_loaded_bytes{device="cpu",host="' in figures
    assert 'kind="anatomynet",model="hn7",runtime="OpenVINO",version="1",worker="w1"} 3e+06' in figures
    processes.end_as_gone("w1")
    assert read_hosts(database, clock())[0].loaded == ()


def test_what_another_version_wrote_of_what_is_loaded_is_left_out(database, processes, clock):
    processes.begin("w1", ProcessRole.WORKER, "cpu")
    for written in ("[1]", '[{"model": "hn7"}]', "{", '{"models": 1}', "text"):
        at(database, "w1", loaded=written)
        assert read_hosts(database, clock())[0].loaded == ()
