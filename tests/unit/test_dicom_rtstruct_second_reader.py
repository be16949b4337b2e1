from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from contourd.dicom.rtstruct_second_reader import check_with_rt_utils
from contourd.dicom.series import Series
from contourd.errors import StructureSetRejected
from tests.phantom import read_series, structure_set, write_series


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return read_series(write_series(tmp_path_factory.mktemp("ct")))


@pytest.fixture
def dataset(series: Series) -> pydicom.Dataset:
    try:
        importlib.import_module("rt_utils")
    except ImportError as error:  # its OpenCV needs libGL
        pytest.skip(f"rt-utils does not load: {error}")
    return structure_set(series)


def test_rt_utils_opens_what_is_written(dataset: pydicom.Dataset, series: Series) -> None:
    check_with_rt_utils(dataset, series)


def test_an_image_that_is_not_of_the_series_is_found(dataset: pydicom.Dataset, series: Series) -> None:
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence[3].ReferencedSOPInstanceUID = generate_uid()
    with pytest.raises(StructureSetRejected, match=r"rt-utils cannot open the structure set \(Exception\)"):
        check_with_rt_utils(dataset, series)


def test_an_roi_of_which_nothing_is_left_is_named(dataset: pydicom.Dataset, series: Series) -> None:
    dataset.ROIContourSequence[1].ContourSequence = []
    with pytest.raises(StructureSetRejected, match="rt-utils finds nothing of Parotid_R"):
        check_with_rt_utils(dataset, series)


def test_that_it_is_not_installed_is_said(series: Series, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    with pytest.raises(StructureSetRejected, match=r"rt-utils is not installed; install contourd\[check\]"):
        check_with_rt_utils(structure_set(series), series, str(bare))
