"""Structure sets whose numbers, types, points or planes leave open what was drawn."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.reader import on_slices, rasterise, read_structure_set
from contourd.errors import DatasetError, StructureSetRejected
from contourd.imaging.grid import Grid
from tests.archives import contour
from tests.phantom import traced


def test_two_rois_of_one_number_have_no_contours(dataset: pydicom.Dataset) -> None:
    dataset.StructureSetROISequence[1].ROINumber = 1
    names = [item.ROIName for item in dataset.StructureSetROISequence]
    first, second, third, lost = read_structure_set(dataset)
    for roi in (first, second):
        assert roi.contours == ()
        assert roi.unusable == f"ROI number 1 stands for {names[0]}, {names[1]}: nobody can say whose the contours are"
    assert third.contours
    assert not third.unusable
    assert (lost.name, lost.contours) == ("", ())
    assert lost.unusable == "its contours refer to ROI number 2, which no ROI of the structure set has"


def test_two_items_of_contours_for_one_roi(dataset: pydicom.Dataset) -> None:
    dataset.ROIContourSequence.append(dataset.ROIContourSequence[0])
    first, second, _ = read_structure_set(dataset)
    assert first.contours == ()
    assert first.unusable == "ROI number 1 has contours in 2 items: nobody can say which of them are its own"
    assert second.contours


def test_numbers_that_are_shifted_are_refused(dataset: pydicom.Dataset) -> None:
    """Contours counted from 0 and ROIs from 1: every organ but one would have its neighbour's contours."""
    for item in dataset.ROIContourSequence:
        item.ReferencedROINumber -= 1
    name = dataset.StructureSetROISequence[2].ROIName
    with pytest.raises(DatasetError, match=f"ROI number 0, which no ROI has, and ROI {name} has none"):
        read_structure_set(dataset)


def test_an_item_without_contours_for_a_number_that_no_roi_has_is_nothing(dataset: pydicom.Dataset) -> None:
    empty = Dataset()
    empty.ReferencedROINumber = 9
    dataset.ROIContourSequence.append(empty)
    assert [bool(roi.contours) for roi in read_structure_set(dataset)] == [True] * 3


def first(dataset: pydicom.Dataset) -> list[Dataset]:
    return dataset.ROIContourSequence[0].ContourSequence


def test_interpolated_contours_are_the_organ_s_and_told(dataset: pydicom.Dataset, series: Series) -> None:
    """A planning system that interpolates draws one slice in five, and says so of the others."""
    whole = rasterise(read_structure_set(dataset)[0].contours, series.grid)
    others = [one for k, one in enumerate(first(dataset)) if k % 5]
    for one in others:
        one.ContourGeometricType = "INTERPOLATED_PLANAR"
    roi = read_structure_set(dataset)[0]
    np.testing.assert_array_equal(rasterise(roi.contours, series.grid), whole)
    assert roi.remarks == (f"{len(others)} contours of type INTERPOLATED_PLANAR taken as CLOSED_PLANAR",)
    assert not roi.unusable


@pytest.mark.parametrize("kind", ["closed_planar ", "CLOSED_PLANAR"])
def test_a_type_in_small_letters_is_that_type(dataset: pydicom.Dataset, kind: str) -> None:
    for one in first(dataset):
        one.ContourGeometricType = kind
    roi = read_structure_set(dataset)[0]
    assert (len(roi.contours), roi.remarks) == (len(first(dataset)), ())


def test_a_contour_without_a_type_is_told(dataset: pydicom.Dataset) -> None:
    del first(dataset)[0].ContourGeometricType
    assert read_structure_set(dataset)[0].remarks == ("1 contour without a type taken as CLOSED_PLANAR",)


def test_points_and_lines_beside_an_outline_are_told(dataset: pydicom.Dataset) -> None:
    """What encloses nothing does no harm on a plane that has an outline."""
    x, y, z = (float(v) for v in first(dataset)[2].ContourData[:3])
    first(dataset).extend(
        [
            contour([[x, y, z + 99]], "POINT"),
            contour([[x, y, z], [x + 5, y, z], [x, y + 5, z]], "OPEN_PLANAR"),
            contour([[x, y, z], [x, y + 5, z]]),
        ]
    )
    roi = read_structure_set(dataset)[0]
    assert roi.remarks == (
        "1 contour of fewer than three whole points passed over",
        "1 contour of type OPEN_PLANAR, which encloses nothing, passed over",
        "1 contour of type POINT, which encloses nothing, passed over",
    )
    assert not roi.unusable


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "OPEN_NONPLANAR", "SPLINE"])
def test_an_outline_that_is_open_on_a_plane_of_its_own_is_not_the_whole_organ(dataset: pydicom.Dataset, kind) -> None:
    first(dataset)[0].ContourGeometricType = kind
    roi = read_structure_set(dataset)[0]
    assert roi.unusable == "its outline is open, and none is closed, on 1 of its planes"
    assert roi.remarks == (f"1 contour of type {kind}, which encloses nothing, passed over",)


def test_a_contour_offset_vector_is_not_guessed_at(dataset: pydicom.Dataset) -> None:
    first(dataset)[0].ContourOffsetVector = [0, 0, 0]
    assert not read_structure_set(dataset)[0].unusable
    first(dataset)[0].ContourOffsetVector = [0, 0, "2.5"]
    assert read_structure_set(dataset)[0].unusable == (
        "a contour has a Contour Offset Vector, which is retired and read in two ways"
    )


def test_contours_that_were_cut_off(dataset: pydicom.Dataset) -> None:
    """A closing point that was counted and left out is no loss."""
    one = first(dataset)[0]
    points = int(one.NumberOfContourPoints)
    one.NumberOfContourPoints = points + 1
    assert not read_structure_set(dataset)[0].unusable
    one.ContourData = one.ContourData[: 3 * points // 2 // 3 * 3]
    assert "points" in read_structure_set(dataset)[0].unusable
    one.ContourData = one.ContourData[:-1]
    assert "coordinates, which are no points" in read_structure_set(dataset)[0].unusable


def test_strokes_over_one_another_are_told_and_keep_their_images(dataset: pydicom.Dataset, series: Series) -> None:
    whole = rasterise(read_structure_set(dataset)[0].contours, series.grid)
    again = deepcopy(list(first(dataset)))
    for one in again:
        points = np.array(one.ContourData, dtype=float) + np.tile([3.0, 0, 0], len(one.ContourData) // 3)
        one.ContourData = [f"{v:.3f}" for v in points]
    first(dataset).extend(again)
    roi = read_structure_set(dataset)[0]
    both = rasterise(roi.contours, series.grid)
    assert (both & whole).sum() == whole.sum() < both.sum()
    assert roi.remarks == (f"loops that overlap on {len(again)} planes were united",)
    assert set(roi.images) == {one.ContourImageSequence[0].ReferencedSOPInstanceUID for one in again}


def test_what_cannot_be_read_for_certain_is_not_sent(dataset: pydicom.Dataset, series: Series) -> None:
    first(dataset)[0].ContourOffsetVector = ["1", "0", "0"]
    with pytest.raises(StructureSetRejected, match="Contour Offset Vector"):
        check_structure_set(dataset, series, traced(series.grid)[1])


GRID = Grid.regular((9, 20, 20), (2.5, 1.0, 1.0))


def drawn(*z_mm: float) -> list[np.ndarray]:
    """A square of 10 x 10 on each plane; its side grows by two along z, so that planes are told apart."""
    return [
        np.array([(4.5, 4.5, z), (9.5 + k, 4.5, z), (9.5 + k, 9.5, z), (4.5, 9.5, z)], dtype=float)
        for k, z in enumerate(z_mm)
    ]


def columns(*z_mm: float) -> list[int]:
    """Columns that are filled on each slice."""
    return [int(plane.any(axis=0).sum()) for plane in rasterise(drawn(*z_mm), GRID)]


def test_a_slice_takes_the_nearest_of_its_planes() -> None:
    """Planes at 1.25 mm over slices at 2.5 mm, those between them a little shifted: exclusive or left stripes."""
    assert columns(2.5, 3.70, 5.0, 6.20, 7.5) == [0, 5, 7, 9, 0, 0, 0, 0, 0]
    assert columns(2.5, 3.80, 5.0, 6.30, 7.5) == [0, 5, 7, 9, 0, 0, 0, 0, 0]
    assert on_slices(drawn(2.5, 3.70, 5.0, 6.20, 7.5), GRID).tolist() == [1, -1, 2, -1, 3]


def test_planes_beyond_the_last_slice_they_reach_add_no_slice() -> None:
    """The plane at 8.8 mm stands for 8.2 to 9.4 mm, and the slice at 10 mm is beyond; at 9.5 it would be within."""
    assert columns(2.5, 3.80, 5.0, 6.30, 7.5, 8.80) == [0, 5, 7, 9, 0, 0, 0, 0, 0]
    assert columns(3.25, 4.50, 5.75, 7.0, 8.25, 9.5) == [0, 0, 6, 8, 10, 0, 0, 0, 0]


def test_of_two_planes_equally_near_the_lower_counts() -> None:
    assert columns(4.375, 5.625) == [0, 0, 5, 0, 0, 0, 0, 0, 0]


def test_all_loops_of_the_nearest_plane_count() -> None:
    """An outline with a hole at 5.0 and 5.02 mm, and the same without its hole at 6.0 mm."""
    outline, hole, other = (drawn(z)[0] for z in (5.0, 5.02, 6.0))
    hole[:, :2] = [(5.5, 5.5), (7.5, 5.5), (7.5, 7.5), (5.5, 7.5)]
    assert rasterise([other, outline, hole], GRID).sum() == 25 - 4


def test_one_plane_twice_among_many_takes_the_nearest() -> None:
    assert columns(2.5, 5.0, 5.9, 7.5) == [0, 5, 6, 8, 0, 0, 0, 0, 0]


def test_no_contours_are_on_no_slices() -> None:
    assert on_slices([], GRID).tolist() == []
