"""When a series is complete, held, re-opened or left alone: real files, a real database, a clock of the test's."""

from __future__ import annotations

from datetime import timedelta

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from contourd.errors import InvalidTransition
from contourd.intake.completion import HEADERS_A_LOOK
from contourd.observe.report import read_report
from contourd.settings import Route
from contourd.store.states import JobState, SeriesState
from tests.intake_node import ct, edit

pytestmark = pytest.mark.both_databases


def test_contiguous_and_quiet_is_complete(node, tmp_path):
    node.send(ct(tmp_path / "ct"))
    node.wait(9)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.COMPLETE
    (job,) = node.jobs()
    assert (job.state, job.revision, job.model, list(job.destinations)) == (JobState.QUEUED, 1, "hn7", ["pacs"])
    node.wait(100)
    assert len(node.jobs()) == 1


def test_an_open_association_holds_its_series(node, tmp_path):
    association = node.open()
    for path in ct(tmp_path / "ct"):
        node.store(association, path)
    node.wait(1000)
    assert node.series().state == SeriesState.RECEIVING
    node.intake.association_closed(association, aborted=False)
    node.wait(9)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.COMPLETE


def test_an_association_of_another_series_holds_nothing(node, tmp_path):
    other = node.open()
    node.send(ct(tmp_path / "ct"))
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE
    node.intake.association_closed(other, aborted=False)


def test_a_gap_waits_and_is_then_held_with_its_z(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths[:7] + paths[8:])
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    series = node.series()
    assert series.state == SeriesState.HELD
    assert "-9.00 mm" in str(series.reason)  # slice 7 of -30, 3 mm apart
    node.send([paths[7]])
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE
    (job,) = node.jobs()
    assert job.revision == 1


def test_one_association_for_each_image(node, tmp_path):
    for path in reversed(ct(tmp_path / "ct")):
        node.send([path])
        node.now += timedelta(seconds=8)
        node.intake.close_quiet()
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE


def test_an_aborted_series_is_held_even_if_contiguous(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths[:18], aborted=True)
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.HELD
    assert "aborted" in str(node.series().reason)
    assert node.jobs() == []
    node.release(node.series().id)
    node.wait(0)
    assert node.series().state == SeriesState.COMPLETE


def test_sent_again_after_an_abort_is_complete(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths[:18], aborted=True)
    node.send(paths)
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE
    assert node.instances() == 20


def test_after_a_restart_a_contiguous_series_waits_longer(node, tmp_path):
    node.send(ct(tmp_path / "ct"))
    node.restarted().recover()
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.COMPLETE


def test_the_same_series_twice_is_one_job(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    node.send(paths)
    node.wait(1000)
    assert (len(node.jobs()), node.instances(), node.series().revision) == (1, 20, 1)
    assert len(list(node.root.iterdir())) == 20  # the second copies are gone


def test_the_same_image_in_another_encoding_is_the_same(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    ds = pydicom.dcmread(paths[3])
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(tmp_path / "implicit.dcm")
    node.send([tmp_path / "implicit.dcm"])
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE


def test_the_same_uid_with_other_pixels_is_held_and_both_are_kept(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    other = pydicom.dcmread(paths[3])
    other.PixelData = b"\1\0" * 64
    other.save_as(tmp_path / "other.dcm")
    node.send([tmp_path / "other.dcm"])
    assert node.series().state == SeriesState.HELD
    assert "different content" in str(node.series().reason)
    assert len(list(node.root.iterdir())) == 21


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "MR"}, "MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"PatientID": ""}, "no ID"),
    ],
)
def test_what_is_no_planning_ct_is_held_as_soon_as_it_is_quiet(node, tmp_path, changes, reason):
    node.send([edit(path, **changes) for path in ct(tmp_path / "ct")])
    node.wait(10)
    assert node.series().state == SeriesState.HELD
    assert reason in str(node.series().reason)
    assert node.jobs() == []


def test_too_few_slices_wait_for_more(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths[:5])
    node.wait(59)
    assert node.series().state == SeriesState.RECEIVING
    node.wait(1)
    assert node.series().state == SeriesState.HELD
    assert "5 slices" in str(node.series().reason)


def test_no_route_is_held_with_the_remedy_and_can_be_released(node, tmp_path):
    node.restarted((Route(model="hn7", destinations=("pacs",), calling_ae="OTHER"),))
    node.send(ct(tmp_path / "ct"))
    node.wait(10)
    series = node.series()
    assert series.state == SeriesState.HELD
    assert "[[route]]" in str(series.reason)
    node.restarted((Route(model="hn7", destinations=("pacs",), confirm=True),))
    node.release(series.id)
    node.wait(0)
    assert node.series().state == SeriesState.COMPLETE
    assert [job.confirm for job in node.jobs()] == [True]
    with pytest.raises(InvalidTransition):
        node.release(series.id)


def test_two_series_in_one_association_are_two(node, tmp_path):
    one, two = ct(tmp_path / "one", "p1"), ct(tmp_path / "two", "p2")
    node.send([path for pair in zip(one, two, strict=True) for path in pair])
    node.wait(10)
    assert [job.state for job in node.jobs()] == [JobState.QUEUED, JobState.QUEUED]


def test_the_report_shows_what_waits_and_what_is_held(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths[:10] + paths[12:])
    report = read_report(node.database)
    assert report.counts["RECEIVING"] == 1
    assert report.series[0].instances == 18
    node.wait(60)
    report = read_report(node.database)
    assert (report.counts["HELD"], report.counts["RECEIVING"]) == (1, 0)
    assert "0.00, 3.00 mm" in str(report.series[0].reason)


def test_headers_are_read_while_a_series_is_quiet_and_let_go_with_it(node, tmp_path):
    node.send(ct(tmp_path / "ct", slices=60))
    known = node.intake.headers
    node.wait(1)
    assert len(known) == HEADERS_A_LOOK
    node.wait(1)
    assert len(known) == 60
    for path in node.root.iterdir():
        if path.name != "1.dcm":  # the gate reads the first slice's whole header
            path.unlink()
    node.wait(8)
    assert [job.state for job in node.jobs()] == [JobState.QUEUED]
    assert len(known) == 0


def test_an_image_that_cannot_be_read_is_told_when_the_series_is_due(node, tmp_path):
    node.send(ct(tmp_path / "ct"))
    (node.root / "3.dcm").write_bytes(b"no image")
    node.wait(5)
    assert len(node.intake.headers) == 19
    assert node.series().state == SeriesState.RECEIVING
    node.wait(5)
    assert node.series().state == SeriesState.HELD
    assert "3.dcm cannot be read" in str(node.series().reason)
    assert len(node.intake.headers) == 0


def test_while_an_association_is_open_no_header_is_read(node, tmp_path):
    association = node.open()
    for path in ct(tmp_path / "ct"):
        node.store(association, path)
    node.wait(60)
    assert len(node.intake.headers) == 0
