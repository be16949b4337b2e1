"""Images that a kill left in the spool without a row: taken in at the next start, once, and never thrown away."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from contourd.dicom.integrity import stored_sha256
from contourd.dicom.reception import ReceivedInstance
from contourd.dicom.spool import Spool
from contourd.jobs.database import Database
from contourd.jobs.intake import Intake
from contourd.jobs.recording import record_unrecorded
from contourd.jobs.tables import EventRow, InstanceRow, SeriesRow
from contourd.settings import Route, SeriesSettings
from tests.phantom import write_series

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Node:
    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.database = Database(f"sqlite:///{folder / 'queue.sqlite'}")
        self.database.upgrade()
        self.start()
        self.images = sorted(write_series(folder / "ct").iterdir())

    def start(self) -> int:
        route = Route(model="hn7", destinations=("pacs",))
        self.intake = Intake(self.database, self.spool.root, SeriesSettings(), (route,), lambda: NOW)
        return record_unrecorded(self.database, self.spool, self.intake)

    def store(self, image: Path) -> str:
        """Store as the SCP does, and get no further."""
        return self.spool.store_instance([image.read_bytes()])

    def receive(self, image: Path) -> None:
        path, ds = self.store(image), pydicom.dcmread(image)
        digest = stored_sha256(self.spool.root / path)
        named = (str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        self.intake.instance_stored(ReceivedInstance(1, "CT1", *named, path, digest, self.spool.pseudonym("p")))

    def rows(self, table):
        with self.database.reading() as session:
            return list(session.scalars(select(table)))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.spool.root)) for path in (self.spool.root / "incoming").rglob("*.dcm")}


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.database.close()


def test_an_image_without_a_row_is_recorded_once(node):
    node.receive(node.images[0])
    path = node.store(node.images[1])
    assert node.start() == 1
    assert node.start() == 0
    assert {row.path for row in node.rows(InstanceRow)} == node.files() >= {path}
    assert [(row.calling_ae, row.revision) for row in node.rows(SeriesRow)] == [("CT1", 1)]


def test_it_is_what_was_sent(node):
    path = node.store(node.images[0])
    node.start()
    (row,) = node.rows(InstanceRow)
    assert row.sha256 == stored_sha256(node.images[0])
    assert row.path == path


def test_the_sender_of_a_series_that_began_so_is_learnt_from_its_next_image(node):
    node.store(node.images[0])
    node.start()
    assert [row.calling_ae for row in node.rows(SeriesRow)] == [""]
    node.receive(node.images[1])
    assert [row.calling_ae for row in node.rows(SeriesRow)] == ["CT1"]


def test_an_image_that_was_sent_again_meanwhile_is_not_kept_twice(node):
    node.store(node.images[0])
    node.receive(node.images[0])
    assert node.start() == 1
    assert len(node.files()) == 1
    assert {row.path for row in node.rows(InstanceRow)} == node.files()


def test_no_series_is_held_open_by_it(node):
    node.store(node.images[0])
    node.start()
    assert node.intake._open == {}


def test_both_images_of_a_conflict_are_kept_and_told_of_once(node, tmp_path):
    node.receive(node.images[0])
    for value in (1, 2):
        other = tmp_path / "other.dcm"
        shutil.copy(node.images[0], other)
        ds = pydicom.dcmread(other)
        ds.PixelData = bytes([value]) * len(ds.PixelData)
        ds.save_as(other)
        node.receive(other)
    before = len(node.rows(EventRow))
    assert node.start() == 0
    assert len(node.files()) == 3
    assert len(node.rows(EventRow)) == before


def test_what_cannot_be_read_is_left_for_a_person(node, caplog):
    node.spool.store_instance([b"no image"])
    assert node.start() == 0
    assert len(node.files()) == 1
    assert "is in the spool, not in the database, and cannot be read" in caplog.text
