"""A series that breaks its worker is held after two attempts, in words, and keeps no other waiting."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.series import read_instance
from contourd.intake.intake import Intake
from contourd.node import worker_supervisor
from contourd.node.exits import exit_text
from contourd.node.order_keeper import OrderKeeper
from contourd.node.worker_supervisor import Supervisor, WorkerMain
from contourd.observe.report import JobLine, read_report
from contourd.settings import Destination, NodeSettings, Route, SeriesSettings, Settings, SpoolSettings, WorkerSettings
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState
from tests.bright import phantom
from tests.integration import breaking

WAIT_S, POLL_S = 120.0, 0.2
LEASE_S = 6.0


class Site:
    """A queue with real images in its spool, and a supervisor that is looked after as the daemon does."""

    def __init__(self, folder: Path, model: Path, main: WorkerMain, **worker: Any) -> None:
        self.settings = Settings(
            node=NodeSettings(),
            spool=SpoolSettings(root=folder / "spool", min_free_gb=0),
            worker=WorkerSettings(device="cpu", lease_s=LEASE_S, **worker),
            series=SeriesSettings(quiet_s=0, gapped_s=0),
            destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
            route=(Route(model=str(model), destinations=("pacs",)),),
        )
        (folder / "spool").mkdir()
        self.database = Database(self.settings.database_url)
        self.database.upgrade()
        self.intake = Intake(self.database, self.settings.spool.root, self.settings.series, self.settings.route)
        self.queue = Queue(self.database)
        self.keeper = OrderKeeper(self.database, self.settings)
        self.stopping = threading.Event()
        self.told = threading.Event()
        self.supervisor = Supervisor(self.settings, self.queue, self.stopping, main, contoured=self.told.set)

    def add(self, patient: str, slices: int) -> None:
        root = self.settings.spool.root
        folder = write_ct_series(phantom(), root / patient, SeriesIdentity(patient, "A^B"))
        self.intake.association_opened(1, "CT1", "127.0.0.1")
        for path in sorted(folder.iterdir())[:slices]:
            image, relative = read_instance(path), str(path.relative_to(root))
            names = (image.series_instance_uid, image.sop_instance_uid)
            self.intake.instance_stored(ReceivedInstance(1, "CT1", *names, relative, stored_sha256(path), "p"))
        self.intake.association_closed(1, aborted=False)
        self.intake.close_quiet()
        self.keeper.order_jobs()

    def jobs(self) -> dict[int, JobLine]:
        return {job.id: job for job in read_report(self.database).jobs}

    def run_until(self, reached: Callable[[dict[int, JobLine]], bool]) -> dict[int, JobLine]:
        deadline = time.monotonic() + WAIT_S
        while not reached(jobs := self.jobs()):
            assert time.monotonic() < deadline, jobs
            self.supervisor.expire_leases()
            self.supervisor.watch()
            time.sleep(POLL_S)
        return jobs

    def stop(self) -> None:
        self.stopping.set()
        hasten = threading.Event()
        hasten.set()
        self.supervisor.stop(0, hasten)
        self.database.close()


@pytest.fixture
def site(tmp_path: Path, bright_bundle: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(main: WorkerMain, **worker: Any) -> Site:
        made.append(Site(tmp_path, bright_bundle, main, **worker))
        return made[0]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize(
    ("main", "limits", "reason"),
    [
        (breaking.crashing, {}, "the job broke its worker 2 times, the last time so: the worker died: it crashed"),
        (breaking.exhausting, {"memory_gb": 8}, "out of memory: Unable to allocate 74.5 GiB"),
        (breaking.hanging, {}, "the job broke its worker 2 times, the last time so: the worker hung, or took longer"),
    ],
)
def test_a_poison_series_is_held_and_blocks_nothing(site, main, limits, reason):
    node = site(main, **limits)
    node.add("poison", breaking.POISON_SLICES)
    node.add("patient", 24)
    node.supervisor.start()
    order: list[str] = []

    def both_ended(jobs: dict[int, JobLine]) -> bool:
        for job in jobs.values():
            if job.state in ("HELD", "DELIVERING") and job.state not in order:
                order.append(job.state)
        return len(order) == 2

    jobs = node.run_until(both_ended)
    assert (jobs[1].state, jobs[2].state) == ("HELD", "DELIVERING")
    assert reason in str(jobs[1].reason)
    assert jobs[1].attempts == 2
    assert order[0] == "DELIVERING"  # the older one broke its worker, and went last


def test_a_worker_that_dies_at_its_start_is_started_ever_more_seldom(site, caplog, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "FIRST_WAIT_S", 0.05)
    node = site(breaking.dying_at_start)
    node.add("patient", 24)
    node.supervisor.start()
    with caplog.at_level(logging.ERROR):
        node.run_until(lambda jobs: len(caplog.messages) >= 3)
    assert [m.split(";")[0] for m in caplog.messages[:3]] == ["the worker ended with status 3"] * 3
    assert node.supervisor.starts_in_s <= 0.2  # 0.05 s, 0.1 s, 0.2 s
    assert node.jobs()[1].state == "QUEUED"  # it lost no attempt


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-9, "the worker died: it was killed by the kernel for want of memory, or by hand"),
        (-11, "the worker died: it crashed (SIGSEGV)"),
        (-15, "the worker died: signal 15"),
        (3, "the worker ended with status 3"),
    ],
)
def test_a_death_is_told_in_words(status, told):
    assert exit_text(status) == told


def test_a_resting_worker_is_woken_and_says_when_it_has_contoured(site):
    """A worker that rests for an hour takes a job that comes meanwhile, and the daemon hears of its end."""
    node = site(breaking.resting)
    node.supervisor.start()
    deadline = time.monotonic() + WAIT_S
    while not (node.settings.spool.root / breaking.RESTS).exists():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    node.add("patient", 24)
    node.supervisor.hint()  # as the daemon does after each look at the quiet series
    assert node.told.wait(WAIT_S)
    assert [job.state for job in node.jobs().values()] == [JobState.DELIVERING]
