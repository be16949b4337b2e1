"""`contourd contour`: one folder, without a daemon."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.bright import phantom
from tests.interop.node import contourd


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_ct_series(phantom(), tmp_path / "ct" / "p1", SeriesIdentity("p1", "P1^Test")).parent


def uid_of(folder: Path) -> str:
    return str(pydicom.dcmread(min(folder.rglob("*.dcm"))).SeriesInstanceUID)


def test_a_folder(folder, tmp_path, bright_bundle):
    (folder / "notes.txt").write_text("no image")
    done = contourd("contour", folder, "--output", tmp_path / "new" / "rt.dcm", "--model", bright_bundle)
    assert done.status == 0, done.output
    assert "Brainstem" in done.output
    assert "not found" in done.output  # the spinal cord
    assert "not reviewed" in done.output
    structure_set = pydicom.dcmread(tmp_path / "new" / "rt.dcm")
    assert [roi.ROIName for roi in structure_set.StructureSetROISequence] == ["Brainstem"]
    assert structure_set.PatientID == "p1"


def test_several_series_one_is_taken_and_said(folder, tmp_path, bright_bundle):
    short = write_ct_series(phantom(), folder / "p2", SeriesIdentity("p2", "P2^Test"))
    for path in sorted(short.iterdir())[18:]:
        path.unlink()
    arguments = ("contour", folder, "--output", tmp_path / "rt.dcm", "--model", bright_bundle)
    done = contourd(*arguments)
    assert done.status == 0, done.output
    assert pydicom.dcmread(tmp_path / "rt.dcm").PatientID == "p1"
    done = contourd(*arguments, "--series-uid", uid_of(short))
    assert done.status == 0, done.output
    assert pydicom.dcmread(tmp_path / "rt.dcm").PatientID == "p2"
    done = contourd(*arguments, "--series-uid", "1.2.3")
    assert done.status == 2
    assert uid_of(short) in done.output


def test_what_cannot_be_contoured_is_one_message(folder, tmp_path, bright_bundle):
    output = tmp_path / "rt.dcm"
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ((empty, "--model", bright_bundle), "no DICOM images", 2),
        ((tmp_path / "nowhere", "--model", bright_bundle), "is no folder", 2),
        ((folder, "--model", "nowhere"), "no model", 1),
        ((folder, "--model", bright_bundle, "--device", "cuda:99"), "cuda:99", 1),
    ]
    for arguments, told, status in cases:
        done = contourd("contour", *arguments, "--output", output)
        assert (done.status, told in done.output, "Traceback" in done.output) == (status, True, False), done.output
    shutil.rmtree(folder / "p1", ignore_errors=True)
    gapped = write_ct_series(phantom(), folder / "p3", SeriesIdentity("p3", "P3^Test"))
    sorted(gapped.iterdir())[10].unlink()
    done = contourd("contour", folder, "--output", output, "--model", bright_bundle)
    assert (done.status, "missing slices at z = -6.00 mm" in done.output) == (1, True), done.output
    assert not output.exists()
