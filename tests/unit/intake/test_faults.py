"""Reception when things go wrong: a clock that is set, a damaged file, a database that cannot be had, a late slice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pydicom
import pytest
from sqlalchemy import text

from contourd.delivery.deliveries import Deliveries
from contourd.errors import QueueUnavailable, SeriesFull
from contourd.observe.report import read_report
from contourd.settings import SeriesSettings
from contourd.store import database as database_module
from contourd.store.states import DeliveryState, JobState, RetryPolicy, SeriesState
from tests.databases import locked
from tests.intake_node import Node, ct
from tests.queueing import AWAY, TAKEN
from tests.reasons import because

pytestmark = pytest.mark.both_databases

DAY_S = 86400.0
POLICY = RetryPolicy(30, 1800, 86400)


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_clock_that_is_set_neither_ends_a_series_nor_strands_it(node, tmp_path, step_s):
    paths = ct(tmp_path / "ct")
    node.send(paths[:10])
    node.wait(5)
    node.set_clock(step_s)
    node.wait(0)
    assert node.series().state == SeriesState.RECEIVING  # not held for the slices that are to come
    node.send(paths[10:])
    node.wait(9)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.COMPLETE


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_clock_that_is_set_does_not_matter_to_a_series_with_a_gap(node, tmp_path, step_s):
    paths = ct(tmp_path / "ct")
    node.send(paths[:7] + paths[8:])
    node.set_clock(step_s)
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.HELD


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rotten")])
def test_a_damaged_image_that_comes_again_takes_its_place_and_makes_a_new_revision(node, tmp_path, damage):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    job = node.queue.fetch_job("w", 60)
    node.queue.hold_job(job.claim, because("1 of 20 received images has changed on the disk"))
    damage(node.root / "4.dcm")
    node.send(paths)
    assert not (node.root / "4.dcm").exists()
    assert node.instances() == 20
    assert len(list(node.root.iterdir())) == 20
    node.wait(10)
    assert [(j.state, j.revision) for j in node.jobs()] == [(JobState.SUPERSEDED, 1), (JobState.QUEUED, 2)]
    assert "damaged on the disk came again" in str(node.jobs()[0].reason)
    again = node.queue.fetch_job("w", 60)
    assert all((node.root / path).exists() for path in again.paths)


@pytest.fixture
def impatient(monkeypatch, tmp_path) -> Iterator[Node]:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    node = Node(tmp_path)
    yield node
    node.database.close()


def test_an_image_that_cannot_be_written_down_leaves_no_file(impatient, tmp_path):
    paths = ct(tmp_path / "ct")
    association = impatient.open()
    impatient.store(association, paths[0])
    with locked(impatient.database), pytest.raises(QueueUnavailable, match="is locked by another program"):
        impatient.store(association, paths[1])
    assert [path.name for path in impatient.root.iterdir()] == ["1.dcm"]
    impatient.store(association, paths[1])
    assert impatient.instances() == 2


@pytest.mark.sqlite_alone
def test_a_full_disk_under_the_database_refuses_the_image(impatient, tmp_path):
    path, association = ct(tmp_path / "ct")[0], impatient.open()
    with impatient.database.engine.connect() as connection:  # the pool gives it to the next transaction
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    def store_on() -> NoReturn:
        for number in itertools.count():
            impatient.store(association, renamed(path, tmp_path / "copy.dcm", number))

    with pytest.raises(QueueUnavailable, match="finds no space on its disk"):
        store_on()
    assert 0 < impatient.instances() == len(list(impatient.root.iterdir()))


def renamed(path: Path, copy: Path, number: int) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    dataset.save_as(copy)
    return copy


@pytest.mark.parametrize("aborted", [True, False])
def test_the_end_of_an_association_that_cannot_be_written_down_is_not_forgotten(impatient, tmp_path, aborted):
    association = impatient.open()
    for path in ct(tmp_path / "ct"):
        impatient.store(association, path)
    with locked(impatient.database):
        with pytest.raises(QueueUnavailable):
            impatient.intake.association_closed(association, aborted)
        impatient.now = impatient.now.replace(hour=1)
        with pytest.raises(QueueUnavailable):
            impatient.intake.close_quiet()
    impatient.wait(0)
    assert impatient.series().state == SeriesState.RECEIVING  # quiet from now on
    impatient.wait(60)
    assert impatient.series().state == (SeriesState.HELD if aborted else SeriesState.COMPLETE)
    assert ("aborted" in str(impatient.series().reason)) == aborted


@pytest.mark.parametrize("moment", ["queued", "contouring", "delivering", "sending", "waiting", "delivered"])
def test_a_late_slice_at_any_moment_makes_one_newer_structure_set(node, tmp_path, moment):
    paths = ct(tmp_path / "ct", slices=22)
    node.send(paths[:21])
    node.wait(10)
    queue, sent = node.queue, []
    deliveries = Deliveries(node.database, POLICY, lambda: node.now)

    def deliver() -> None:
        claimed = deliveries.fetch_delivery("pacs")
        if claimed is not None:
            sent.append(claimed.output)
            deliveries.finish_delivery(claimed, TAKEN)

    job = queue.fetch_job("w", 60) if moment != "queued" else None
    if job is not None and moment != "contouring":
        queue.finish_job(job.claim, {"pacs": "old"})
    claimed = deliveries.fetch_delivery("pacs") if moment in ("sending", "waiting") else None
    if moment == "waiting":
        deliveries.postpone_delivery(claimed, AWAY, 0.0)
    if moment == "delivered":
        deliver()
    node.send(paths[21:])
    if moment == "sending":
        deliveries.postpone_delivery(claimed, AWAY, 0.0)
    node.wait(10)
    newer = queue.fetch_job("w", 60)
    assert (newer.revision, len(newer.paths)) == (2, 22)
    queue.finish_job(newer.claim, {"pacs": "new"})
    node.now = node.now.replace(hour=23)
    deliver()
    deliver()
    assert sent == (["old", "new"] if moment == "delivered" else ["new"])
    old = next(line for line in read_report(node.database).jobs if line.revision == 1)
    assert old.state == (JobState.DELIVERED if moment == "delivered" else JobState.SUPERSEDED)
    assert all(d.state in (DeliveryState.DELIVERED, DeliveryState.REFUSED) for d in old.deliveries)


def test_a_series_takes_no_more_images_than_it_may_have(node, tmp_path):
    paths, few = ct(tmp_path / "ct"), SeriesSettings(quiet_s=10, gapped_s=60, max_instances=5)
    node.restarted(settings=few)
    association = node.open()
    for path in paths[:5]:
        node.store(association, path)
    with pytest.raises(SeriesFull, match=r"5 images already; series\.max_instances allows no more"):
        node.store(association, paths[5])
    node.store(association, paths[4])  # one that is there is no further one
    assert node.instances() == 5
    assert len(list(node.root.iterdir())) == 5
