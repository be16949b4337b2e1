from __future__ import annotations

import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from contourd.cli import app
from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.second_reader import check_with_second_reader, second_reader_loads
from contourd.errors import SettingsError, StructureSetRejected
from tests.interop.node import write_configuration
from tests.peers import rt_utils
from tests.phantom import structure_set


def test_rt_utils_opens_what_is_written(dataset: pydicom.Dataset, series: Series) -> None:
    check_with_second_reader(dataset, series)


def test_an_image_that_is_not_of_the_series_is_found(dataset: pydicom.Dataset, series: Series) -> None:
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence[3].ReferencedSOPInstanceUID = generate_uid()
    with pytest.raises(StructureSetRejected, match=r"rt-utils cannot open the structure set \(Exception\)"):
        check_with_second_reader(dataset, series)


def test_an_roi_of_which_nothing_is_left_is_named(dataset: pydicom.Dataset, series: Series) -> None:
    dataset.ROIContourSequence[1].ContourSequence = []
    with pytest.raises(StructureSetRejected, match="rt-utils finds nothing of Parotid_R"):
        check_with_second_reader(dataset, series)


@pytest.fixture
def dataset(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Return the structure set where rt-utils is there to read it."""
    rt_utils()
    return dataset


@pytest.fixture
def bare_interpreter(tmp_path: Path) -> str:
    """Return a Python without any package."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    return str(bare)


def test_that_it_is_not_installed_is_said(series: Series, bare_interpreter: str) -> None:
    with pytest.raises(StructureSetRejected, match=r"rt-utils is not installed; install contourd\[check\]"):
        check_with_second_reader(structure_set(series), series, bare_interpreter)


def test_serve_does_not_start_without_the_reader_that_is_wanted(
    tmp_path: Path, bare_interpreter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not second_reader_loads(bare_interpreter)
    monkeypatch.setattr("contourd.dicom.rtstruct.second_reader.second_reader_loads", lambda: False)
    configuration = write_configuration(tmp_path, 11112, "hn7", {"pacs": ("PACS", 104)}, "[check]\nrt_utils = true\n")
    ran = CliRunner().invoke(app, ["serve", "--config", str(configuration)])
    assert isinstance(ran.exception, SettingsError)
    assert ran.exception.problems[0].startswith("check.rt_utils: rt-utils does not load")
