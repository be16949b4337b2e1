"""Who runs, as each says of itself and as others see it: by its process number, or by its heartbeat."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import update

from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.processes import KEPT, Processes
from contourd.store.states import ProcessRole
from contourd.store.tables import ProcessRow
from contourd.system.identity import ProcessIdentity, new_process_id

pytestmark = pytest.mark.both_databases

SILENT_S = 60.0


@pytest.fixture
def processes(database, clock):
    return Processes(database, clock, clock.elapsed)


def elsewhere(database, name: str) -> None:
    """Let a process be one of another host, whose process numbers nobody here sees."""
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == name).values(place="another boot", host="gpu2"))


def dead(processes) -> list[str]:
    return [one.id for one in processes.dead(processes.running(), SILENT_S)]


def test_names_are_made_anew_and_say_where(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "gpu1.hospital.example")
    names = {new_process_id() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"gpu1-{os.getpid()}-") and len(name) <= 64 for name in names)


def test_a_process_runs_from_its_begin_to_its_end(processes):
    processes.begin("node", ProcessRole.SERVE)
    processes.begin("worker", ProcessRole.WORKER, "cuda:1")
    node, worker = processes.running()
    assert (node.identity, node.parent) == (ProcessIdentity.own(), 0)
    assert (worker.device, worker.parent) == ("cuda:1", os.getppid())
    assert processes.is_own(node)
    processes.end("node")
    assert [one.id for one in processes.running()] == ["worker"]


def test_a_process_whose_begin_was_not_answered_begins_again(processes):
    for _ in range(2):
        processes.begin("node", ProcessRole.SERVE)
    assert [one.id for one in processes.running()] == ["node"]


def test_one_of_this_host_is_dead_when_its_number_is_nobodys(processes, database):
    processes.begin("node", ProcessRole.SERVE)
    assert dead(processes) == []
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with database.transaction() as session:
        session.execute(update(ProcessRow).values(pid=child.pid))
    assert dead(processes) == ["node"]


def test_a_number_that_was_given_again_is_another_process(processes, database):
    processes.begin("node", ProcessRole.SERVE)
    with database.transaction() as session:
        session.execute(update(ProcessRow).values(born="1"))
    assert dead(processes) == ["node"]


def test_one_of_another_host_is_dead_when_its_heartbeat_stands_still(processes, database, clock):
    processes.begin("node", ProcessRole.SERVE)
    elsewhere(database, "node")
    clock.jump(86400)  # its clock, or this one's, is wrong by a day
    assert dead(processes) == []
    clock.advance(50)
    processes.beat("node")
    assert dead(processes) == []
    clock.advance(60)
    assert dead(processes) == []
    clock.advance(1)
    assert dead(processes) == ["node"]


def test_the_time_in_which_nobody_could_write_does_not_count(processes, database, clock):
    processes.begin("node", ProcessRole.SERVE)
    elsewhere(database, "node")
    assert dead(processes) == []
    clock.advance(61)
    processes.forget_beats()
    assert dead(processes) == []


def test_a_worker_ends_with_the_node_that_watches_over_it(processes, database):
    processes.begin("node", ProcessRole.SERVE)
    processes.begin("worker", ProcessRole.WORKER)
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == "worker").values(parent=os.getpid()))
    found = processes.dead(processes.running(), SILENT_S, certain={"node"})
    assert sorted(one.id for one in found) == ["node", "worker"]


def test_one_that_was_taken_for_dead_is_there_again_with_its_next_beat(processes):
    processes.begin("node", ProcessRole.SERVE)
    processes.end_as_gone("node")
    assert processes.running() == []
    processes.beat("node")
    assert [one.id for one in processes.running()] == ["node"]


def test_rows_of_the_ended_are_kept_for_a_while(processes, database, clock):
    processes.begin("first", ProcessRole.SERVE)
    processes.end("first")
    clock.advance(KEPT.total_seconds() + 1)
    processes.begin("second", ProcessRole.SERVE)
    with database.reading() as session:
        assert [row.id for row in session.query(ProcessRow)] == ["second"]


def test_a_worker_says_what_it_leaves_to_others(processes):
    processes.begin("worker", ProcessRole.WORKER)
    reason = Reason.of(HoldReason.ORDER_OF_OTHER_VERSION, wanted="2", own="1")
    processes.decline("worker", {"0123456789abcdef": reason})
    (one,) = processes.running()
    assert one.cannot == {"0123456789abcdef": reason}
    processes.decline("worker", {})
    assert processes.running()[0].cannot == {}
