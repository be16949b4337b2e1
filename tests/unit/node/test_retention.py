"""What is removed when, what is never removed, and what a kill in between leaves: real files, a real database."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.series import read_instance
from contourd.errors import InvalidTransition, SpoolError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.intake.intake import Intake
from contourd.node.retention import Retention
from contourd.observe.report import read_report
from contourd.operations.operations import Operations
from contourd.settings import RetentionSettings, Route, SeriesSettings
from contourd.spool.folder import Spool
from contourd.store.queue import Queue
from contourd.store.states import RetryPolicy
from contourd.store.tables import EventRow, InstanceRow, SeriesRow
from tests.databases import open_queue
from tests.queueing import NEVER, TAKEN

pytestmark = pytest.mark.both_databases

SETTINGS = RetentionSettings(input_days=3, output_days=30, failed_days=60)
POLICY = RetryPolicy(30, 1800, 86400)
SLICES = 20


class Node:
    """Reception, queue and retention over one spool, with a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.now, self.set_by_s = datetime(2026, 1, 1, 12, tzinfo=UTC), 0.0
        self.folder = folder
        self.spool = Spool(folder / "spool")
        self.database = open_queue(folder)
        self.database.upgrade()
        self.queue = Queue(self.database, self.clock)
        self.deliveries = Deliveries(self.database, POLICY, self.clock)
        series, routes = SeriesSettings(quiet_s=10, gapped_s=60), (Route(model="hn7", destinations=("pacs",)),)
        self.intake = Intake(self.database, self.spool.root, series, routes, self.clock, self.monotonic)
        self.retention = self.restarted()
        self.associations = 0

    def clock(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp() - self.set_by_s

    def restarted(self, spool: Spool | None = None) -> Retention:
        self.retention = Retention(self.database, spool or self.spool, SETTINGS, self.clock, self.monotonic)
        return self.retention

    def wait(self, days: float) -> None:
        self.now += timedelta(days=days)
        self.retention.run()

    def send(self, paths: list[Path]) -> None:
        self.associations += 1
        self.intake.association_opened(self.associations, "CT1", "127.0.0.1")
        for path in paths:
            image = read_instance(path)
            names = (image.series_instance_uid, image.sop_instance_uid)
            stored = self.spool.store_instance([path.read_bytes()])
            os.utime(self.spool.root / stored, (self.now.timestamp(),) * 2)
            received = ReceivedInstance(self.associations, "CT1", *names, stored, stored_sha256(path), "p")
            self.intake.instance_stored(received)
        self.intake.association_closed(self.associations, aborted=False)
        self.now += timedelta(seconds=60)
        self.intake.close_quiet()

    def contour(self) -> int:
        job = self.queue.fetch_job("w", 60)
        assert job is not None
        self.queue.finish_job(job.claim, {"pacs": self.spool.store_output(job.id, job.claim.token, b"structure set")})
        return job.id

    def deliver(self) -> int:
        job = self.contour()
        self.deliveries.finish_delivery(self.deliveries.fetch_delivery("pacs"), TAKEN)
        return job

    def images(self) -> int:
        return len(list((self.spool.root / "incoming").glob("*/*.dcm")))

    def outputs(self) -> list[str]:
        return sorted(path.name for path in (self.spool.root / "outgoing").iterdir())

    def rows(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(InstanceRow)).all())

    def series(self) -> SeriesRow:
        with self.database.reading() as session:
            return session.scalars(select(SeriesRow)).one()


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.database.close()


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    return ct(tmp_path / "ct")


def ct(folder: Path, patient: str = "p") -> list[Path]:
    grid = Grid.regular((SLICES, 8, 8), (3.0, 1.0, 1.0), (0.0, 0.0, -30.0))
    hu = np.random.default_rng(0).integers(-1000, 1000, grid.shape).astype(np.int16)
    write_ct_series(Volume(grid, hu), folder, SeriesIdentity(patient, "A^B"))
    return sorted(folder.iterdir())


def test_each_class_of_files_has_its_time(node, paths):
    emptied = node.spool.root / "incoming" / "20251230"
    emptied.mkdir()
    node.send(paths)
    job = node.deliver()
    node.wait(2.9)
    assert not emptied.exists()
    assert (node.images(), node.rows()) == (SLICES, SLICES)
    node.wait(0.2)
    assert (node.images(), node.rows(), node.outputs()) == (0, 0, [f"{job}-c1.dcm"])
    node.wait(26.8)
    shadow = f"outgoing/{job}-shadow1-c1.dcm"
    assert node.spool.store_shadow(job, 1, 1, b"never sent") == shadow
    assert node.outputs() == [f"{job}-c1.dcm", f"{job}-shadow1-c1.dcm"]
    node.wait(0.2)
    assert node.outputs() == []  # a shadow goes with its job
    (line,) = read_report(node.database).jobs
    assert line.state == "DELIVERED"
    with node.database.reading() as session:
        events = session.execute(select(EventRow.subject, EventRow.detail).where(EventRow.event == "purge")).all()
    assert [tuple(event) for event in events] == [
        ("series", "20 images removed: its time is over"),
        ("job", "structure sets removed: its time is over"),
    ]


def test_what_is_not_delivered_is_never_removed(node, tmp_path):
    for patient in ("queued", "contouring", "waiting", "sending"):
        node.send(ct(tmp_path / patient, patient))
    node.contour()
    node.contour()
    sending = node.deliveries.fetch_delivery("pacs")
    node.queue.fetch_job("w", 60)
    assert sending is not None
    node.restarted(Spool(node.spool.root, min_free_bytes=10**18)).run()  # not even where the disk is nearly full
    node.wait(10_000)
    assert (node.images(), node.rows(), len(node.outputs())) == (4 * SLICES, 4 * SLICES, 2)


def test_what_failed_at_one_destination_and_waits_for_another_is_not_removed(node, paths):
    node.send(paths)
    job = node.queue.fetch_job("w", 60)
    output = node.spool.store_output(job.id, job.claim.token, b"structure set")
    node.queue.finish_job(job.claim, {"pacs": output, "tps": output})
    node.deliveries.refuse_delivery(node.deliveries.fetch_delivery("pacs"), NEVER)
    node.wait(10_000)
    assert (node.images(), len(node.outputs())) == (SLICES, 1)


def test_held_and_failed_work_is_kept_longer_and_its_reason_says_what_became_of_it(node, tmp_path, paths):
    node.send(paths[:7] + paths[8:])
    node.send(ct(tmp_path / "refused", "refused"))
    failed = node.contour()
    node.deliveries.refuse_delivery(node.deliveries.fetch_delivery("pacs"), NEVER)
    node.wait(59.9)
    assert (node.images(), node.outputs()) == (2 * SLICES - 1, [f"{failed}-c1.dcm"])
    node.wait(0.2)
    assert (node.images(), node.outputs()) == (0, [])
    report = read_report(node.database)
    held, job = report.series[0], report.jobs[0]
    assert (held.state, job.state) == ("HELD", "FAILED")
    for line in (held, job):
        assert str(line.reason).endswith("; retention removed the images on 2026-03-02, send the series again")
    with pytest.raises(InvalidTransition, match="send the series again"):
        node.queue.retry_job(failed)
    node.wait(1000)
    assert str(read_report(node.database).series[0].reason) == str(held.reason)  # it is said once


def test_a_series_that_comes_again_after_its_removal_is_contoured_again(node, paths):
    node.send(paths)
    first = node.deliver()
    node.wait(4)
    assert node.images() == 0
    node.send(paths)
    second = node.deliver()
    jobs = {job.id: job for job in read_report(node.database).jobs}
    assert [(jobs[j].state, jobs[j].revision) for j in (first, second)] == [("DELIVERED", 1), ("DELIVERED", 2)]
    assert (node.images(), node.series().purged_at) == (SLICES, None)
    node.wait(4)
    assert node.images() == 0


@pytest.mark.parametrize("sent", [1, 18])
def test_a_part_of_a_removed_series_is_held_with_the_reason(node, paths, sent):
    node.send(paths)
    node.deliver()
    node.wait(4)
    node.send(paths[:sent])
    told = f"only {sent} of the 20 images came again that retention removed on 2026-01-05; send the whole series"
    assert (node.series().state, str(node.series().reason).partition(" (")[0].partition(", or")[0]) == ("HELD", told)
    node.wait(1)  # what came is not taken for what was removed
    assert node.images() == sent
    node.send(paths)
    assert node.series().state == "COMPLETE"
    assert len(read_report(node.database).jobs) == 2


def test_a_part_that_is_all_can_be_released(node, paths):
    node.send(paths)
    node.deliver()
    node.wait(4)
    node.send(paths[:18])
    Operations(node.database, "marie", node.spool.root, node.clock).release_series(node.series().id, gapped_s=60)
    node.intake.close_quiet()
    assert node.series().state == "COMPLETE"


@pytest.mark.parametrize("after", [0, 1, 10, SLICES - 1])
def test_a_kill_while_images_are_removed_heals(node, paths, after):
    node.send(paths)
    node.deliver()
    node.now += timedelta(days=4)
    with pytest.raises(SpoolError):
        node.restarted(Failing(node.spool.root, after)).run()
    assert (node.images(), node.rows()) == (SLICES - after, SLICES)
    node.restarted().run()
    assert (node.images(), node.rows()) == (0, 0)


def test_a_series_that_comes_again_between_kill_and_healing_is_whole(node, paths):
    node.send(paths)
    node.deliver()
    node.now += timedelta(days=4)
    with pytest.raises(SpoolError):
        node.restarted(Failing(node.spool.root, 10)).run()
    node.send(paths)
    node.restarted().run()
    assert (node.series().state, node.images(), node.rows()) == ("COMPLETE", SLICES, SLICES)
    node.deliver()


def test_a_kill_while_structure_sets_are_removed_heals(node, paths):
    node.send(paths)
    node.deliver()
    node.now += timedelta(days=4)
    node.retention.run()
    node.now += timedelta(days=30)
    with pytest.raises(SpoolError):
        node.restarted(Failing(node.spool.root, 0)).run()
    assert len(node.outputs()) == 1
    node.restarted().run()
    assert node.outputs() == []


class Failing(Spool):
    """A disk that becomes read-only after so many removals, like a kill at that moment."""

    def __init__(self, root: Path, removals: int) -> None:
        super().__init__(root)
        self.removals = removals

    def remove(self, relative: str) -> None:
        if self.removals == 0:
            raise SpoolError("read-only")
        self.removals -= 1
        super().remove(relative)


def test_a_nearly_full_disk_takes_finished_work_before_its_time_the_oldest_first(node, tmp_path, caplog):
    for patient in ("older", "newer"):
        node.send(ct(tmp_path / patient, patient))
        node.deliver()
    node.send(ct(tmp_path / "waiting", "waiting"))
    spool = Cramped(node.spool.root, checks=2)  # one when it begins, one before the first; then there is room
    node.restarted(spool).run()
    assert node.images() == 2 * SLICES
    with node.database.reading() as session:
        purged = [series.purged_at is not None for series in session.scalars(select(SeriesRow).order_by(SeriesRow.id))]
    assert purged == [True, False, False]
    node.restarted(Cramped(node.spool.root, checks=100)).run()
    assert (node.images(), node.outputs()) == (SLICES, [])
    assert "nothing finished is left to remove" in caplog.text
    assert read_report(node.database).counts["QUEUED"] == 1


class Cramped(Spool):
    """A disk that has no room for so many looks."""

    def __init__(self, root: Path, checks: int) -> None:
        super().__init__(root)
        self.checks = checks

    def has_room(self) -> bool:
        self.checks -= 1
        return self.checks < 0


def test_a_clock_that_was_set_makes_nothing_old(node, paths):
    node.send(paths)
    node.deliver()
    node.now += timedelta(days=400)
    node.set_by_s += 400 * 86400
    node.retention.clock_was_set()
    node.retention.run()
    assert node.images() == SLICES
    node.wait(0.9)
    assert node.images() == SLICES
    node.wait(0.2)
    assert node.images() == 0


def test_files_without_a_row_go_late_and_evidence_stays(node, paths):
    orphan = node.spool.store_instance([b"never acknowledged"])
    os.utime(node.spool.root / orphan, (node.now.timestamp(),) * 2)
    node.send(paths)
    other = read_instance(paths[0])
    twin = node.spool.store_instance([paths[1].read_bytes()])
    os.utime(node.spool.root / twin, (node.now.timestamp(),) * 2)
    names = (other.series_instance_uid, other.sop_instance_uid)
    node.intake.instance_stored(ReceivedInstance(9, "CT1", *names, twin, stored_sha256(paths[1]), "p"))
    node.wait(59)
    assert (node.spool.root / orphan).exists()
    node.wait(2)
    assert not (node.spool.root / orphan).exists()
    assert (node.spool.root / twin).exists()  # the held series names it
