"""One ROI on the CT's grid: planes beside the slices, too few planes, and what contradicts its name."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.rtstruct.reader import ReadROI
from contourd.dicom.rtstruct.roi_masks import fill_skipped_slices, plane_step, roi_mask
from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from tests.archives import GRID, add_roi, ball, contour, found, head, loops, write_dicom
from trainer.curation.archive import RawCase
from trainer.curation.dicom import read_patient

FRAME = "1.2.3"
PARENT = head()[1]["Parotid_R"]


def drawn_on(
    grid: Grid, *, every: float, shift_mm: float = 0.0, first_mm: float = 30.0, last_mm: float = 90.0
) -> ReadROI:
    """A box of 10 x 10 pixels on planes ``every`` mm apart."""
    contours = []
    for z in np.arange(first_mm, last_mm + 0.01, every) + shift_mm:
        index = np.array([(0, 9.5, 9.5), (0, 9.5, 19.5), (0, 19.5, 19.5), (0, 19.5, 9.5)])
        points = grid.to_patient(index)
        points[:, 2] = z
        contours.append(points)
    return ReadROI(1, "organ", tuple(contours), ("",) * len(contours), FRAME)


def counts(roi: ReadROI) -> tuple[int | None, list[str]]:
    mask, told = roi_mask(roi, GRID, FRAME)
    return (None if mask is None else int(mask.sum())), told


def test_planes_on_the_slices_and_between_them_are_the_slices_own():
    """The slices lie 3 mm apart, from 30 to 90 mm are 21 of them; planes between are 1.5 mm away, or 1.45."""
    assert counts(drawn_on(GRID, every=3.0)) == (2100, [])
    told = ["20 contours lie between the slices, which others are nearer to; they were left out"]
    assert counts(drawn_on(GRID, every=1.5)) == (2100, told)
    both = drawn_on(GRID, every=3.0).contours + drawn_on(GRID, every=3.0, shift_mm=1.45, last_mm=87.0).contours
    assert counts(ReadROI(1, "organ", both, ("",) * len(both), FRAME)) == (2100, told)


def test_planes_farther_apart_than_slices_leave_no_slice_out():
    """4 mm apart over slices of 3 mm: every fourth slice would have none."""
    roi = drawn_on(GRID, every=4.0)
    assert plane_step(roi.contours, GRID) == pytest.approx(4 / 3)
    told = ["drawn on planes farther apart than the slices; the slices between were interpolated"]
    assert counts(roi) == (2100, told)


@pytest.mark.parametrize(("every", "slices", "empty"), [(12.0, 6, 15), (15.0, 5, 16)])
def test_an_organ_on_one_slice_in_four_or_five_is_unknown(every, slices, empty):
    told = [f"drawn on {slices} slices with {empty} empty ones between them: too few to fill them"]
    assert counts(drawn_on(GRID, every=every)) == (None, told)


def test_two_slices_far_apart_are_no_organ():
    assert counts(drawn_on(GRID, every=60.0))[0] is None


def test_every_third_slice_is_still_interpolated():
    told = ["drawn on every second or third slice; the slices between were interpolated"]
    assert counts(drawn_on(GRID, every=9.0, last_mm=93.0)) == (2200, told)


def test_a_step_fills_its_own_gaps_alone():
    """Planes 4 slices to 3: gaps of one slice are filled, one of three is not."""
    mask = np.zeros((24, 4, 4), dtype=bool)
    mask[[0, 1, 3, 4, 5, 7, 8, 9, 13, 14, 15, 17], 1:3, 1:3] = True
    filled = fill_skipped_slices(mask, 4 / 3)
    assert filled is not None
    assert np.flatnonzero(filled.any(axis=(1, 2))).tolist() == [*range(10), *range(13, 18)]
    assert fill_skipped_slices(mask) is None


def raw(tmp_path, change) -> RawCase:
    write_dicom(tmp_path, "ID1", change=change)
    items, refused = found(tmp_path)
    assert (len(items), refused) == (1, [])
    return read_patient(items[0])


def test_two_rois_of_one_name_are_once_what_they_agree_on_and_unknown_where_they_differ(tmp_path):
    def add(dataset: Dataset) -> None:
        for mask, name in ((PARENT, "Parotid_R"), (ball((20, 24, 22), 4), "Parotid_L")):
            add_roi(dataset, name, [contour(points) for _, points in loops(mask)])

    found_ = raw(tmp_path, add)
    assert np.array_equal(found_.masks["Parotid_R"], PARENT)
    assert "Parotid_L" not in found_.masks
    assert found_.remarks == {"Parotid_L": ["stands several times under this name, and they differ"]}


def observed(name: str, label: str = "", kind: str = "ORGAN"):
    def change(dataset: Dataset) -> None:
        one = Dataset()
        (one.ReferencedROINumber,) = [r.ROINumber for r in dataset.StructureSetROISequence if r.ROIName == name]
        one.ObservationNumber, one.ROIObservationLabel, one.RTROIInterpretedType = 1, label, kind
        dataset.RTROIObservationsSequence = [one]

    return change


@pytest.mark.parametrize(
    ("label", "kind", "told"),
    [
        ("Parotid_L", "ORGAN", "its observation calls it 'Parotid_L'"),
        ("", "GTV", "its interpreted type is GTV, which is no organ"),
        ("", "external", "its interpreted type is EXTERNAL, which is no organ"),
    ],
)
def test_an_observation_that_contradicts_the_name_makes_it_unknown(tmp_path, label, kind, told):
    found_ = raw(tmp_path, observed("Parotid_R", label, kind))
    assert found_.masks.keys() == head()[1].keys() - {"Parotid_R"}
    assert found_.remarks == {"Parotid_R": [told]}


@pytest.mark.parametrize(
    ("label", "kind"), [("", ""), ("Rt Parotid", "AVOIDANCE"), ("look at the apex", "ORGAN"), ("PAROTID_R", "CAVITY")]
)
def test_an_observation_that_fits_or_says_nothing_changes_nothing(tmp_path, label, kind):
    found_ = raw(tmp_path, observed("Parotid_R", label, kind))
    assert found_.masks.keys() == head()[1].keys()
    assert not found_.remarks


def test_numbers_of_contours_that_fit_no_roi_refuse_the_case(tmp_path):
    def shift(dataset: Dataset) -> None:
        for item in dataset.ROIContourSequence:
            item.ReferencedROINumber -= 1

    write_dicom(tmp_path, "ID1", change=shift)
    with pytest.raises(DatasetError, match=r"RTSTRUCT.dcm: contours refer to ROI number 0, which no ROI has"):
        read_patient(found(tmp_path)[0][0])
