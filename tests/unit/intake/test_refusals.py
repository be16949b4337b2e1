"""Images that the node refused mark their series, durably, until those very images came or a person gives them up."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from contourd.dicom.network.events import RefusedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.errors import InvalidTransition, QueueUnavailable, SeriesFull
from contourd.operations.operations import Operations
from contourd.reasons.catalogue import command_for_series
from contourd.settings import SeriesSettings
from contourd.store import database as database_module
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import AuditRow, EventRow, RefusalRow
from tests.databases import locked
from tests.intake_node import SETTINGS, Node, ct
from tests.reasons import because

pytestmark = pytest.mark.both_databases

NO_SPACE = "/spool cannot take a file: No space left on device"


def refuse(
    node: Node,
    association: int,
    path: Path,
    status: int = 0xA700,
    why: str = NO_SPACE,
    named: bool = True,
) -> None:
    ds = pydicom.dcmread(path)
    uid = str(ds.SeriesInstanceUID) if named else ""
    refused = RefusedInstance(
        association, "CT1", uid, str(ds.SOPInstanceUID), stored_sha256(path), status, because(why)
    )
    node.intake.instance_refused(refused)


def send(node: Node, paths, refused=(), named: bool = True) -> None:
    """Send a series whose sender takes refusals for an answer, and ends in good order."""
    association = node.open()
    for path in paths:
        if path in refused:
            refuse(node, association, path, named=named)
        else:
            node.store(association, path)
    node.intake.association_closed(association, aborted=False)


def release(node: Node, reason: str) -> None:
    operations = Operations(node.database, "marie", node.root, lambda: node.now)
    operations.release_series(node.series().id, SETTINGS.gapped_s, reason)


def refusals(node: Node) -> list[RefusalRow]:
    with node.database.reading() as session:
        return list(session.scalars(select(RefusalRow)))


def test_what_is_left_of_a_refused_series_is_held_with_the_number_and_the_reason(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=30)
    send(node, paths, refused=paths[22:])
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING  # the sender may try again
    node.wait(1)
    assert node.series().state == SeriesState.HELD
    assert str(node.series().reason).startswith(
        f"8 images of the series were refused and did not come since (A700: {NO_SPACE}); mend the cause "
        "and send the whole series again"
    )
    assert node.series().reason.held_as == "refused"
    assert command_for_series(1, node.series().reason).startswith("contourd release 1 --reason REASON")
    assert node.jobs() == []
    with node.database.reading() as session:
        told = session.scalars(select(EventRow).where(EventRow.event == "hold")).one().text
    assert told.startswith("8 images of the series were refused")


def test_it_goes_on_when_those_very_images_came_and_not_before(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=30)
    send(node, paths, refused=paths[22:])
    send(node, paths[:29])
    node.wait(60)
    assert str(node.series().reason).startswith("an image of the series was refused and did not come since")
    send(node, paths[29:])
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE
    assert [job.state for job in node.jobs()] == [JobState.QUEUED]
    assert refusals(node) == []


def test_a_sender_that_tries_again_at_once_waits_no_longer(node, tmp_path):
    paths = ct(tmp_path / "ct")
    association = node.open()
    for path in paths:
        refuse(node, association, path)
        node.store(association, path)
    node.intake.association_closed(association, aborted=False)
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE


def test_a_mark_outlives_the_node(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=30)
    send(node, paths, refused=paths[22:])
    node.restarted().recover()
    node.wait(60)
    assert str(node.series().reason).startswith("8 images of the series were refused")


def test_a_person_gives_them_up_with_a_reason(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=30)
    send(node, paths, refused=paths[22:])
    node.wait(60)
    with pytest.raises(InvalidTransition, match=r"give a reason .*: 8 images that were refused are not waited for"):
        release(node, " ")
    release(node, "the shoulders are not wanted")
    node.wait(0)
    assert node.series().state == SeriesState.COMPLETE
    with node.database.reading() as session:
        (detail,) = session.scalars(select(AuditRow.detail).where(AuditRow.action == "release"))
    assert detail == "the shoulders are not wanted; 8 images that were refused are given up"


def test_a_copy_of_an_image_that_is_here_may_be_refused(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    send(node, paths, refused=paths[5:])
    node.wait(60)
    assert (node.series().state, refusals(node)) == (SeriesState.COMPLETE, [])


def test_another_version_of_an_image_that_is_here_may_not(node, tmp_path):
    """A corrected series whose images are refused must not go on as it was."""
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    ds = pydicom.dcmread(paths[3])
    ds.PatientID = "corrected"
    ds.save_as(tmp_path / "corrected.dcm")
    send(node, [tmp_path / "corrected.dcm"], refused=[tmp_path / "corrected.dcm"])
    assert [job.state for job in node.jobs()] == [JobState.SUPERSEDED]
    node.wait(60)
    assert str(node.series().reason).startswith("an image of the series was refused")
    send(node, paths)  # the earlier one again: the source takes its correction back
    node.wait(60)
    assert node.series().state == SeriesState.HELD


@pytest.mark.parametrize("moment", ["queued", "contouring", "delivered"])
def test_a_late_slice_that_is_refused_stops_what_is_under_way(node, tmp_path, moment):
    paths = ct(tmp_path / "ct", slices=22)
    node.send(paths[:20])
    node.wait(10)
    if moment != "queued":
        job = node.queue.fetch_job("w", 60)
    if moment == "delivered":
        with node.database.transaction() as session:
            session.get_one(type(node.jobs()[0]), job.id).state = JobState.DELIVERED
    send(node, paths[20:], refused=paths[20:])
    node.wait(60)
    assert str(node.series().reason).startswith("2 images of the series were refused")
    assert [job.state for job in node.jobs()] == [JobState.DELIVERED if moment == "delivered" else JobState.SUPERSEDED]
    send(node, paths[20:])
    node.wait(10)
    assert node.jobs()[-1].state == JobState.QUEUED
    assert len(node.queue.fetch_job("w", 60).paths) == 22


def test_an_image_that_cannot_be_read_marks_what_its_association_brought(node, tmp_path):
    one, two = ct(tmp_path / "one", "p1"), ct(tmp_path / "two", "p2")
    association = node.open()
    for path in one:
        node.store(association, path)
    refuse(node, association, one[0].parent.parent / "two" / one[3].name, 0xC000, "dataset cannot be read", named=False)
    node.send(two[:3] + two[4:])
    node.intake.association_closed(association, aborted=False)
    with node.database.reading() as session:
        marked = {row.series_uid for row in session.scalars(select(RefusalRow))}
    assert marked == {str(pydicom.dcmread(one[0]).SeriesInstanceUID)}
    node.send([two[3]])  # there it is, in another series
    node.wait(10)
    assert [job.state for job in node.jobs()] == [JobState.QUEUED] * 2


@pytest.mark.parametrize("first", [True, False])
def test_with_an_association_for_each_image_it_marks_what_its_sender_sends(node, tmp_path, first):
    paths = ct(tmp_path / "ct", slices=22)
    order = [*paths[:20], paths[20]] if not first else [paths[20], *paths[:20]]
    for path in order:
        send(node, [path], refused=[paths[20]], named=False)
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    assert "1 could not be read, and may be of another series" in str(node.series().reason)


def test_no_more_images_than_a_series_may_have_are_a_refusal_too(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.restarted(settings=SeriesSettings(quiet_s=10, gapped_s=60, max_instances=18))
    association = node.open()
    for path in paths:
        try:
            node.store(association, path)
        except SeriesFull as error:
            refuse(node, association, path, 0xC000, str(error))
    node.intake.association_closed(association, aborted=False)
    node.wait(60)
    assert "2 images of the series were refused" in str(node.series().reason)
    assert "series.max_instances" in str(node.series().reason)


@pytest.fixture
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    made = Node(tmp_path)
    yield made
    made.database.close()


@pytest.mark.parametrize("killed", [False, True])
def test_what_refuses_may_be_unable_to_write_it_down(impatient, tmp_path, killed):
    node, paths = impatient, ct(tmp_path / "ct", slices=30)
    association = node.open()
    for path in paths[:22]:
        node.store(association, path)
    with locked(node.database):
        for path in paths[22:24]:
            with pytest.raises(QueueUnavailable):
                node.store(association, path)
            refuse(node, association, path, why="the database is locked by another program")
        with pytest.raises(QueueUnavailable):
            node.intake.association_closed(association, aborted=False)
    if killed:
        node.restarted().recover()
    node.wait(0)
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    assert str(node.series().reason).startswith(
        "contourd was ended" if killed else "2 images of the series were refused"
    )


def test_a_gap_is_told_with_the_refusals(node, tmp_path):
    paths = ct(tmp_path / "ct")
    send(node, paths, refused=[paths[7]])
    node.wait(60)
    assert "(missing slices at z = -9.00 mm" in str(node.series().reason)


def test_a_burst_of_refusals_is_one_warning_with_the_number_of_its_series(
    node: Node,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = ct(tmp_path / "ct", slices=12)
    send(node, paths, refused=paths[3:])
    told = [record for record in caplog.records if "images of the series were refused" in record.getMessage()]
    assert [(record.levelname, record.series) for record in told] == [("WARNING", node.series().id)]
