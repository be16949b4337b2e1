"""A job's files taken out: what was received and made, of jobs that are sent alone, into a new folder or a zip."""

from __future__ import annotations

import hashlib
import io
import zipfile
from datetime import UTC, datetime

import pydicom
import pytest
from sqlalchemy import select

from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.errors import InvalidTransition
from contourd.model.model_identity import ModelIdentity
from contourd.model.runtime_description import RuntimeDescription
from contourd.operations.exporting import note_export, prepare_export, write_export, zipped
from contourd.operations.operations import Operations
from contourd.settings import Route
from contourd.spool.folder import Spool
from contourd.store.contourings import Contouring, Output, add_contouring, images_sha256
from contourd.store.tables import AuditRow, DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.store.transitions import add_delivery, add_job
from contourd.transfer.copies import HERE_ALONE
from tests.databases import open_queue
from tests.phantom import write_series

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STRUCTURE_SET = b"\0" * 128 + b"DICM as it was made"


class Node:
    """A spool with a job that was delivered to two destinations with one structure set."""

    def __init__(self, folder) -> None:
        self.spool, self.database = Spool(folder / "spool"), open_queue(folder)
        self.database.upgrade()
        self.images = sorted(write_series(folder / "ct").iterdir())
        paths = [self.spool.store_instance([image.read_bytes()]) for image in self.images]
        hashes = [stored_sha256(self.root / path) for path in paths]
        output = self.spool.store_output(1, 1, STRUCTURE_SET)
        with self.database.transaction() as session:
            series = SeriesRow(series_uid="1.2", state="COMPLETE", created_at=NOW, last_instance_at=NOW)
            session.add(series)
            session.flush()
            for n, (image, path, digest) in enumerate(zip(self.images, paths, hashes, strict=True)):
                uid = str(pydicom.dcmread(image).SOPInstanceUID)
                row = InstanceRow(series_id=1, sop_instance_uid=uid, path=path, sha256=digest, received_at=NOW)
                row.id = n + 1
                session.add(row)
            job = add_job(session, series, Route(model="hn7", destinations=("pacs", "tps")), "", NOW)
            job.state = "DELIVERED"
            for name in ("pacs", "tps"):
                add_delivery(session, job, name, output, NOW)
            runtime = RuntimeDescription("torch", "2", "fp32", "cpu", "x", 2)
            made = Output(output, hashlib.sha256(STRUCTURE_SET).hexdigest())
            model, digest = ModelIdentity("hn7", "1", "0" * 64), images_sha256(hashes)
            contouring = Contouring(model, "1", runtime, {}, "{}", len(paths), digest, (made,))
            add_contouring(session, job.id, "w", contouring, NOW)

    @property
    def root(self):
        return self.spool.root

    def prepare(self, job: int = 1):
        return prepare_export(self.database, self.root, HERE_ALONE, job)

    def change(self, table, **values) -> None:
        with self.database.transaction() as session:
            for row in session.scalars(select(table)):
                for key, value in values.items():
                    setattr(row, key, value)


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.database.close()


def expected(node) -> dict[str, bytes]:
    images = {f"CT/{pydicom.dcmread(image).SOPInstanceUID}.dcm": image.read_bytes() for image in node.images}
    return {"RT/1-c1.dcm": STRUCTURE_SET, **images}


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gets_every_file_as_it_was_and_for_its_owner_alone(node, tmp_path):
    write_export(node.root, node.prepare(), tmp_path / "out")
    assert files_of(tmp_path / "out") == expected(node)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "out").rglob("*")} == {0}
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_zip_has_the_same_and_is_given_piece_by_piece(node):
    pieces = list(zipped(node.root, node.prepare()))
    assert len(pieces) == len(node.images) + 2
    largest = max(len(content) for content in expected(node).values())
    assert all(len(piece) < largest + 500 for piece in pieces[:-1])
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert {name.removeprefix("job-1/"): archive.read(name) for name in archive.namelist()} == expected(node)


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link"])
def test_nothing_is_overwritten(node, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine") if kind == "folder" else None
    with pytest.raises(InvalidTransition, match="is there already, and nothing is overwritten"):
        write_export(node.root, node.prepare(), out)
    assert files_of(tmp_path / "out") == ({"mine": b"mine"} if kind == "folder" else {})


@pytest.mark.parametrize("state", ["QUEUED", "CONTOURING", "CONFIRMING", "HELD", "SUPERSEDED", "CANCELLED"])
def test_of_a_job_that_nobody_is_sent_nothing_is_given(node, state):
    node.change(JobRow, state=state)
    with pytest.raises(InvalidTransition, match=f"nothing of job 1 is given out: it is {state}"):
        node.prepare()


def test_a_job_that_is_none_and_one_whose_structure_set_is_gone(node):
    with pytest.raises(InvalidTransition, match="there is no job 2"):
        node.prepare(2)
    node.change(JobRow, purged_at=NOW)
    with pytest.raises(InvalidTransition, match="retention removed the structure set of job 1"):
        node.prepare()


def test_a_job_without_a_structure_set(node):
    node.change(DeliveryRow, output="")
    with pytest.raises(InvalidTransition, match="job 1 has no structure set"):
        node.prepare()


def test_images_that_retention_removed_are_left_out_and_said_so(node, tmp_path):
    node.change(SeriesRow, purged_at=NOW)
    export = node.prepare()
    assert export.left_out == "retention removed the images on 2026-01-01"
    write_export(node.root, export, tmp_path / "out")
    assert files_of(tmp_path / "out") == {"RT/1-c1.dcm": STRUCTURE_SET}


def test_other_images_than_it_was_contoured_on_are_left_out(node):
    with node.database.transaction() as session:
        session.delete(session.get_one(InstanceRow, 1))
    export = node.prepare()
    assert "other images now" in export.left_out
    assert [file.name for file in export.files] == ["RT/1-c1.dcm"]


def test_a_structure_set_that_is_damaged_or_gone_is_not_given(node):
    path = node.root / "outgoing/1-c1.dcm"
    path.write_bytes(STRUCTURE_SET + b"x")
    with pytest.raises(InvalidTransition, match="is damaged: it is not what was received or made"):
        node.prepare()
    path.unlink()
    with pytest.raises(InvalidTransition, match="cannot be read"):
        node.prepare()


def test_a_damaged_image_leaves_no_folder_and_no_zip_that_opens(node, tmp_path):
    export = node.prepare()
    image = node.root / export.files[-1].path
    image.write_bytes(image.read_bytes()[:-2] + b"\x7f\x7f")
    with pytest.raises(InvalidTransition, match="is damaged"):
        write_export(node.root, export, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []
    pieces: list[bytes] = []
    with pytest.raises(InvalidTransition, match="is damaged"):
        pieces.extend(zipped(node.root, export))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(pieces)))


def test_who_takes_it_is_written_down(node):
    note_export(Operations(node.database, "Marie Curie", node.root), node.prepare(), "to a folder")
    with node.database.reading() as session:
        (row,) = session.scalars(select(AuditRow))
    assert (row.actor, row.action, row.subject) == ("Marie Curie", "export", "job 1")
    assert row.detail == f"1 structure sets, {len(node.images)} images to a folder"
