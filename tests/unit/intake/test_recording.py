"""Images that a kill left in the spool without a row: taken in at the next start, once, and never thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import select

from contourd.dicom.network.events import ReceivedInstance, RefusedInstance
from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.intake.intake import Intake
from contourd.intake.spool_recovery import record_unrecorded
from contourd.operations.operations import Operations
from contourd.settings import Route, SeriesSettings
from contourd.spool.folder import Spool
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.backup import back_up
from contourd.store.database import Database
from contourd.store.tables import EventRow, InstanceRow, JobRow, SeriesRow
from tests.databases import open_queue
from tests.phantom import write_series
from tests.reasons import because

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Node:
    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.database = open_queue(folder)
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
    assert node.intake.associations.held() == set()


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


ASKING = (
    Route(model="hn7", destinations=("pacs",), calling_ae="CT1", confirm=True),
    Route(model="hn7", destinations=("pacs",)),
)


class Restored:
    """A node whose database was lost after it had received; its spool is what is left."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.now, self.folder = node, NOW, folder
        self.intake = self._intake(node.database, ASKING)

    def _intake(self, database: Database, routes: Sequence[Route]) -> Intake:
        clock = (lambda: self.now, lambda: self.now.timestamp())
        return Intake(database, self.node.spool.root, SeriesSettings(quiet_s=10, gapped_s=60), routes, *clock)

    def store(self, association: int, image: Path, sender: str = "CT1") -> None:
        """Store as the SCP does."""
        ds, content = pydicom.dcmread(image), image.read_bytes()
        meta = file_meta(CTImageStorage, str(ds.SOPInstanceUID), ExplicitVRLittleEndian, sender)
        start = 144 + pydicom.dcmread(image).file_meta.FileMetaInformationGroupLength
        path = self.node.spool.store_instance([meta, content[start:]])
        named = (str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        digest = stored_sha256(self.node.spool.root / path)
        self.intake.instance_stored(ReceivedInstance(association, "CT1", *named, path, digest, "pseudonym"))

    def refuse(self, association: int, image: Path) -> None:
        ds = pydicom.dcmread(image)
        named = (str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        self.intake.instance_refused(RefusedInstance(association, "CT1", *named, "", 0xA700, because("no space")))

    def receive(self, images: Sequence[Path], sender: str = "CT1", aborted: bool = False, left_out: int = 0) -> None:
        self.intake.association_opened(1, "CT1", "127.0.0.1")
        for image in images[: len(images) - left_out]:
            self.store(1, image, sender)
        for image in images[len(images) - left_out :]:
            self.refuse(1, image)
        self.intake.association_closed(1, aborted)

    def lose(self, routes: Sequence[Route] = ASKING, killed: bool = False) -> None:
        """Stop in order or not, put an older database in the place of the one that there was, and start."""
        marks = SeriesJournal(self.node.spool.root)
        if not killed:
            marks.clear("", JournalMark.RUNNING)
        marks.add(JournalMark.RESTORED, "", "backup.sqlite")
        self.node.database.close()
        self.node.database = open_queue(self.folder, "older")
        self.node.database.upgrade()
        self.intake = self._intake(self.node.database, routes)
        record_unrecorded(self.node.database, self.node.spool, self.intake)
        self.intake.recover()

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.intake.close_quiet()

    def series(self) -> SeriesRow:
        (row,) = self.node.rows(SeriesRow)
        return row

    def operations(self) -> Operations:
        return Operations(self.node.database, "marie", self.node.spool.root, lambda: self.now)


@pytest.fixture
def site(node, tmp_path):
    return Restored(node, tmp_path)


def test_who_sent_an_image_stands_in_its_file_and_decides_its_route(site):
    site.receive(site.node.images)
    site.lose()
    site.wait(60)
    assert (site.series().state, site.series().calling_ae) == ("COMPLETE", "CT1")
    assert [job.confirm for job in site.node.rows(JobRow)] == [True]


@pytest.mark.parametrize("asks", [True, False])
def test_an_unknown_sender_is_held_where_a_route_asks_for_it_and_is_learnt(site, asks):
    site.receive(site.node.images, sender="")
    site.lose(ASKING if asks else ASKING[1:])
    site.wait(60)
    if not asks:
        assert site.series().state == "COMPLETE"
        return
    assert site.series().state == "HELD"
    assert str(site.series().reason).startswith("the sender of the series is not known")
    assert site.series().reason.held_as == "unknown_sender"
    assert site.node.rows(JobRow) == []
    assert site.operations().release_series(site.series().id, 60) == (
        "series 1 will be examined again; its sender is not known: where a route asks for it, it is held again until "
        "its sender sends it"
    )
    site.wait(0)
    assert site.series().state == "HELD"
    site.receive(site.node.images)  # what it says to do
    site.wait(10)
    assert site.series().state == "COMPLETE"
    assert [job.confirm for job in site.node.rows(JobRow)] == [True]


def test_a_route_that_comes_first_and_does_not_ask_needs_no_sender(site):
    site.receive(site.node.images, sender="")
    site.lose(ASKING[::-1])
    site.wait(60)
    assert site.series().state == "COMPLETE"


def test_an_abort_survives(site):
    site.receive(site.node.images[:20], aborted=True)
    site.lose()
    site.wait(60)
    assert str(site.series().reason).startswith("the sender aborted in mid-series; 20 contiguous slices are here")
    site.operations().release_series(site.series().id, 60)
    assert SeriesJournal(site.node.spool.root).read().keys() == {""}


def test_an_abort_that_was_made_good_is_over(site):
    site.receive(site.node.images[:20], aborted=True)
    site.receive(site.node.images)
    site.wait(10)
    assert site.series().state == "COMPLETE"
    site.lose()
    site.wait(60)
    assert site.series().state == "COMPLETE"


def test_refusals_survive(site):
    site.receive(site.node.images, left_out=4)
    site.lose()
    site.wait(60)
    assert str(site.series().reason).startswith(
        "4 images of the series were refused and did not come since (A700: no space)"
    )


@pytest.mark.parametrize("deed", ["hold", "cancel"])
def test_what_a_person_stopped_stays_so(site, deed):
    site.receive(site.node.images)
    site.wait(10)
    getattr(site.operations(), deed)(1, "wrong plan")
    site.lose()
    site.wait(60)
    told = {"hold": "held", "cancel": "cancelled"}[deed]
    assert str(site.series().reason).startswith(f"{told} by marie: wrong plan; the database was put back since")
    assert site.series().reason.held_as == "by_a_person"
    why = {"code": f"{told}_by_person", "detail": {"actor": "marie", "words": "wrong plan"}}
    assert site.series().reason.detail == {"why": why}
    site.operations().release_series(site.series().id, 60, "it may go on")
    site.wait(0)
    assert site.series().state == "COMPLETE"


def test_what_the_version_before_wrote_of_a_person_is_read(site):
    site.receive(site.node.images)
    SeriesJournal(site.node.spool.root).add(JournalMark.PERSON, site.series().series_uid, "held by marie: looked at")
    site.lose()
    site.wait(60)
    assert str(site.series().reason).startswith("held by marie: looked at; the database was put back since")
    assert site.series().reason.detail == {"why": "held by marie: looked at"}


def test_what_a_person_let_go_on_is_not_stopped_again(site):
    site.receive(site.node.images)
    site.wait(10)
    site.operations().hold(1, "wrong plan")
    site.operations().retry(1)
    site.lose()
    site.wait(60)
    assert site.series().state == "COMPLETE"


@pytest.mark.sqlite_alone
def test_a_job_of_the_backup_that_was_stopped_since_is_stopped(site):
    site.receive(site.node.images)
    site.wait(10)
    backup = site.folder / "backup.sqlite"
    back_up(site.folder / "queue.sqlite", backup)
    site.operations().hold(1, "wrong plan")
    shutil.copy(backup, site.folder / "older.sqlite")
    site.lose()
    (job,) = site.node.rows(JobRow)
    assert job.state == "HELD"
    assert str(job.reason).startswith("held by marie: wrong plan")


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_kill_broke_off_is_held_also_without_its_database(site, killed):
    site.receive(site.node.images)
    site.lose(killed=killed)
    site.wait(60)
    assert site.series().state == ("HELD" if killed else "COMPLETE")
    assert str(site.series().reason).startswith("contourd was ended in mid-series") == killed


def test_images_that_a_kill_left_unrecorded_are_of_a_series_that_was_broken_off(site):
    site.receive(site.node.images[:3])
    site.node.store(site.node.images[3])
    record_unrecorded(site.node.database, site.node.spool, site.intake)
    site.intake.recover()
    assert site.series().interrupted == "ended"


def test_the_journal_keeps_only_what_stands(site):
    marks = SeriesJournal(site.node.spool.root)
    marks.clear("", JournalMark.RUNNING)
    for k in range(5):
        marks.add(JournalMark.INTERRUPTED, f"1.2.{k}", "aborted")
    marks.clear("1.2.3", *JournalMark)
    with (site.node.spool.root / "marks.jsonl").open("a") as journal:
        journal.write('{"series": "1.2.9", "mark": "inter')  # a power cut
    marks.add(JournalMark.INTERRUPTED, "1.2.5", "aborted")
    marks.compact()
    assert sorted(marks.read()) == ["1.2.0", "1.2.1", "1.2.2", "1.2.4", "1.2.5"]
    assert len((site.node.spool.root / "marks.jsonl").read_text().splitlines()) == 5
    marks.add(JournalMark.PERSON, "1.2.0", "held by marie: looked at")
    assert marks.read()["1.2.0"].words == {"interrupted": "aborted", "person": "held by marie: looked at"}


def test_what_cannot_be_read_is_left_for_a_person(node, caplog):
    node.spool.store_instance([b"no image"])
    assert node.start() == 0
    assert len(node.files()) == 1
    assert "is in the spool, not in the database, and cannot be read" in caplog.text
