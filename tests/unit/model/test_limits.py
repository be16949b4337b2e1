"""The limits of a model, and what a series says of itself."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.acquisition import acquisition_of
from contourd.model.limits import Acquisition, Limits, outside
from tests.phantom import read_series, write_series

LIMITS = Limits(
    age_years=(18, None),
    slice_spacing_mm=(None, 3.5),
    pixel_spacing_mm=(0.5, 1.5),
    patient_positions=("HFS", "FFS"),
    kernels=("^H3", "B30"),
)
INSIDE = {"slice_spacing_mm": 2.5, "pixel_spacing_mm": 1.0}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"age_years": 18.0, "patient_position": "FFS", "kernel": "H30s"}, None),
        ({}, None),  # what the series does not say is not judged
        ({"age_years": 17.9}, "the patient's age is 17.9 years, the model is for at least 18"),
        (
            {"age_years": 70.0, "born_years": 6.0},
            "by the birth date the patient is 6 years old, the model is for at least 18",
        ),
        ({"slice_spacing_mm": 4.0}, "slices are 4.00 mm apart, the model is for at most 3.5"),
        ({"pixel_spacing_mm": 0.4}, "pixels are 0.40 mm wide, the model is for 0.5 to 1.5"),
        ({"pixel_spacing_mm": 1.6}, "pixels are 1.60 mm wide, the model is for 0.5 to 1.5"),
        ({"patient_position": "HFP"}, "the patient lies HFP, the model is for HFS, FFS"),
        ({"kernel": "LUNG"}, "the kernel is LUNG, the model is for ^H3, B30"),
    ],
)
def test_limits(changed, told):
    assert outside(LIMITS, Acquisition(**(INSIDE | changed))) == ((told,) if told else ())
    assert outside(Limits(), Acquisition(**(INSIDE | changed))) == ()


def test_several_limits_at_once():
    assert len(outside(LIMITS, Acquisition(9.0, 9.0, 9.0, "HFP", "LUNG"))) == 5


@pytest.mark.parametrize(
    ("header", "age_years"),
    [
        ({"PatientAge": "064Y"}, 64),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "064Y", "PatientBirthDate": "20200101"}, 64),
        ({"PatientAge": "000Y", "PatientBirthDate": "19500312", "StudyDate": "20260301"}, 75),
        ({"PatientAge": "000D", "PatientBirthDate": "20260301", "StudyDate": "20260301"}, 0),
        ({"PatientAge": "000Y"}, 0),  # nothing says that this is no infant
        ({"PatientAge": "old", "PatientBirthDate": "19800702", "AcquisitionDate": "20260701"}, 45),
        ({"PatientBirthDate": "19800701", "AcquisitionDate": "20260701"}, 46),
        ({"PatientBirthDate": "19800701", "AcquisitionDate": "", "SeriesDate": "", "StudyDate": "20270701"}, 47),
        ({"PatientBirthDate": "20300101"}, None),  # born after the scan: nobody knows
        ({"PatientBirthDate": "1980"}, None),
        ({}, None),
    ],
)
def test_the_age(tmp_path, header, age_years):
    def change(dataset: Dataset) -> None:
        for keyword, value in header.items():
            dataset.add_new(keyword, {"PatientAge": "AS"}.get(keyword, "DA"), value)

    acquisition = acquisition_of(read_series(write_series(tmp_path / "ct", change=change)))
    assert acquisition.age_years == age_years


@pytest.mark.parametrize(
    ("age", "born", "born_years"),
    [("064Y", "20200101", 6), ("005Y", "19500101", 76), ("074Y", "19500101", None), ("000Y", "19500101", None)],
)
def test_a_birth_date_that_contradicts_the_age_is_judged_too(tmp_path, age, born, born_years):
    def change(dataset: Dataset) -> None:
        dataset.PatientAge, dataset.PatientBirthDate, dataset.StudyDate = age, born, "20260301"

    assert acquisition_of(read_series(write_series(tmp_path / "ct", change=change))).born_years == born_years


def test_spacing_position_and_kernel(tmp_path):
    def change(dataset: Dataset) -> None:
        dataset.ConvolutionKernel = ["H30s", "3"]

    acquisition = acquisition_of(read_series(write_series(tmp_path / "ct", change=change)))
    assert acquisition == Acquisition(2.5, 2.0, None, "HFS", "H30s\\3")
