"""What a process tells of its host with its heartbeat, and when the object store is asked for that alone."""

from __future__ import annotations

import os
import threading
import time

import pytest
from sqlalchemy import update

from contourd.errors import QueueUnavailable, StoreUnavailable
from contourd.node import heartbeat
from contourd.node.heartbeat import Heartbeat
from contourd.node.host_figures import PROBE_S, QUIET_S, FiguresGauge, StoreProbe
from contourd.observe.host_figures import HostDisk, disks_of, stores_of
from contourd.observe.hosts import read_hosts
from contourd.spool.folder import Spool
from contourd.spool.watching import StoreStanding, WatchedStore
from contourd.store.processes import NO_FIGURES, Processes, ProcessFigures
from contourd.store.states import ProcessRole
from contourd.store.tables import ProcessRow


class AskedStore:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = True

    def list(self, prefix):  # noqa: ARG002
        self.asked += 1
        if not self.answers:
            raise StoreUnavailable("it refuses")
        return iter(())


@pytest.fixture
def store():
    return AskedStore()


@pytest.fixture
def spool(tmp_path, store, clock):
    return Spool(tmp_path / "spool", host="ct1", store=WatchedStore(store, clock, clock.elapsed))


def test_a_gauge_tells_disk_store_and_what_waits(spool, clock):
    whole = os.statvfs(spool.root)
    figures = FiguresGauge(spool, lambda: 7).measure()
    assert figures.disk_size_bytes == whole.f_frsize * whole.f_blocks
    assert 0 < figures.disk_free_bytes < figures.disk_size_bytes
    assert (figures.store, figures.store_waiting) == (None, 7)
    spool.probe_store()
    assert FiguresGauge(spool).measure().store == StoreStanding(True, clock(), "")


def test_what_cannot_be_had_is_not_told(spool):
    def count() -> int:
        raise QueueUnavailable("the database is away")

    gauge = FiguresGauge(spool, count)
    spool.root.rename(spool.root.parent / "gone")
    assert gauge.measure() == NO_FIGURES


def test_the_store_is_asked_by_who_leads_and_by_who_has_no_answer_and_by_nobody_while_it_is_used(spool, store, clock):
    leads = [False]
    probe = StoreProbe(spool, lambda: leads[0])
    clock.advance(PROBE_S)

    def asked_after(seconds: float) -> int:
        before = store.asked
        clock.advance(seconds)
        probe.ask()
        return store.asked - before

    assert asked_after(0) == 1  # at the start nobody knows
    assert asked_after(QUIET_S * 10) == 0
    leads[0] = True
    assert asked_after(0) == 1
    assert asked_after(QUIET_S - 1) == 0
    spool.probe_store()  # a call of somebody else
    assert asked_after(QUIET_S - 1) == 0
    assert asked_after(1) == 1
    store.answers, leads[0] = False, False
    with pytest.raises(StoreUnavailable):
        spool.probe_store()
    assert asked_after(PROBE_S) == 1
    store.answers = True
    assert asked_after(PROBE_S) == 1
    assert spool.store.standing.reachable
    assert asked_after(QUIET_S * 10) == 0


@pytest.mark.both_databases
def test_figures_come_with_the_heartbeat_and_rows_without_stay_valid(database, clock):
    processes = Processes(database, clock, clock.elapsed)
    down = StoreStanding(False, clock(), "it refuses")
    for name, role in (("old", ProcessRole.SERVE), ("node", ProcessRole.SERVE), ("w1", ProcessRole.WORKER)):
        processes.begin(name, role)
    processes.beat("node", ProcessFigures(2 * 10**12, 4 * 10**12, down, 12))
    processes.beat("w1", ProcessFigures(10**12, 4 * 10**12, StoreStanding(True, clock(), "")))
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == "old").values(host="other"))
    lines = read_hosts(database, clock())
    host = next(line.host for line in lines if line.id == "node")
    assert {line.id: line.figures for line in lines}["old"] == NO_FIGURES
    assert disks_of(lines) == (HostDisk(host, 10**12, 4 * 10**12),)  # the least of its processes
    (one,) = stores_of(lines)
    assert (one.host, one.standing, one.waiting) == (host, down, 12)  # what serves asks on its own


def test_a_disk_that_hangs_stops_no_heartbeat(database, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    hangs, beats = threading.Event(), list[ProcessFigures]()
    processes = Processes(database)
    monkeypatch.setattr(processes, "beat", lambda name, figures: beats.append(figures))

    def measure() -> ProcessFigures:
        hangs.wait(10)
        return ProcessFigures(1, 2)

    beating = Heartbeat(processes, "node", measure)
    beating.start()
    until = time.monotonic() + 10
    while len(beats) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert beats[:3] == [NO_FIGURES] * 3
    hangs.set()
    while beats[-1] == NO_FIGURES and time.monotonic() < until:
        time.sleep(0.01)
    beating.stop()
    assert beats[-1] == ProcessFigures(1, 2)
