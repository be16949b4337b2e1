"""The check of what the processes of all hosts say of themselves: their disks, and how the object store answers."""

from __future__ import annotations

import pytest

from contourd.checks.finding import CheckStatus
from contourd.checks.hosts import hosts
from contourd.spool.watching import StoreStanding
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.states import ProcessRole
from contourd.system.clock import utc_now
from contourd.system.identity import host_name
from tests.databases import queue_url


@pytest.fixture
def processes(database) -> Processes:
    processes = Processes(database)
    processes.begin("node", ProcessRole.SERVE)
    return processes


def test_a_disk_that_runs_full_and_a_store_that_does_not_answer_are_named_with_their_host(processes, tmp_path):
    url = queue_url(tmp_path)
    answers, refuses = (StoreStanding(up, utc_now(), "it refuses") for up in (True, False))
    processes.beat("node", ProcessFigures(20 * 10**9, 10**12, answers))
    assert hosts(url, 10).state is CheckStatus.OK
    processes.beat("node", ProcessFigures(9 * 10**9, 10**12, answers))
    found = hosts(url, 10)
    assert (found.state, found.text) == (CheckStatus.FAILED, f"{host_name()} has 9.0 GB of disk free")
    assert found.remedy.startswith("make room on that host")
    processes.beat("node", ProcessFigures(20 * 10**9, 10**12, refuses))
    found = hosts(url, 10)
    assert found.state is CheckStatus.FAILED
    assert found.text.startswith(f"{host_name()} since ")
    assert found.text.endswith(": it refuses")
