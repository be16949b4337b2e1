from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.reader import ReadROI, extent, misplaced, rasterise, read_structure_set
from contourd.dicom.rtstruct.writer import structure_set_dataset
from contourd.imaging.grid import Grid
from contourd.model.structures import catalogue
from tests.phantom import (
    BALLS,
    ORIENTATIONS,
    PROVENANCE,
    centres_mm,
    grid,
    phantom,
    read_series,
    traced,
    write_series,
)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_is_written_reads_back_in_place(tmp_path: Path, orientation: str) -> None:
    made = read_series(write_series(tmp_path / "ct", phantom(grid(orientation))))
    structures, masks = traced(made.grid)
    ds = structure_set_dataset(structures, made, PROVENANCE, catalogue())
    check_structure_set(ds, made, masks)
    points = centres_mm(made.grid)
    for roi in read_structure_set(ds):
        filled = rasterise(roi.contours, made.grid)
        assert (filled ^ masks[roi.name].mask).sum() <= 0.01 * filled.sum()
        np.testing.assert_allclose(points[filled].mean(axis=0), BALLS[roi.name][0], atol=0.6)


UNIT = Grid.regular((3, 6, 8), (2.0, 1.0, 1.0))


def loop(*xy: tuple[float, float], z: float = 2.0) -> np.ndarray:
    return np.array([(x, y, z) for x, y in xy])


def rows(mask: np.ndarray) -> list[str]:
    return ["".join("#" if v else "." for v in row) for row in mask]


def test_pixel_centres_inside_the_loop_are_filled() -> None:
    """From x = 0.5 to 3.5 and y = 1.5 to 3.5: columns 1, 2, 3 of rows 2, 3; z = 2 mm is slice 1."""
    mask = rasterise([loop((0.5, 1.5), (3.5, 1.5), (3.5, 3.5), (0.5, 3.5))], UNIT)
    assert rows(mask[1]) == ["........", "........", ".###....", ".###....", "........", "........"]
    assert not mask[[0, 2]].any()


def test_a_second_loop_cuts_a_hole_and_a_third_an_island() -> None:
    outer = loop((-0.5, -0.5), (6.5, -0.5), (6.5, 4.5), (-0.5, 4.5))
    hole = loop((0.5, 0.5), (5.5, 0.5), (5.5, 3.5), (0.5, 3.5))
    island = loop((2.5, 1.5), (3.5, 1.5), (3.5, 2.5), (2.5, 2.5))
    wanted = ["#######.", "#.....#.", "#..#..#.", "#.....#.", "#######.", "........"]
    assert rows(rasterise([outer, hole, island], UNIT)[1]) == wanted
    assert rows(rasterise([hole, outer, island[::-1]], UNIT)[1]) == wanted


def test_a_keyhole_is_a_hole_and_its_slit_removes_nothing() -> None:
    """The slit runs along row 2 exactly through pixel centres, there and back."""
    mask = rasterise(
        [
            loop(
                *((-0.5, 2), (-0.5, -0.5), (6.5, -0.5), (6.5, 4.5), (-0.5, 4.5), (-0.5, 2)),
                *((1.5, 2), (1.5, 3.5), (4.5, 3.5), (4.5, 0.5), (1.5, 0.5), (1.5, 2)),
            )
        ],
        UNIT,
    )
    assert rows(mask[1]) == ["#######.", "##...##.", "##...##.", "##...##.", "#######.", "........"]


def test_a_loop_that_leaves_the_image_is_cut_at_its_edge() -> None:
    mask = rasterise([loop((-20, -20), (2.5, -20), (2.5, 20), (-20, 20))], UNIT)
    assert rows(mask[1]) == ["###....."] * 6
    assert not rasterise([loop((-20, -20), (-10, -20), (-10, 20))], UNIT).any()


def test_a_loop_smaller_than_a_pixel_fills_its_pixel_or_none() -> None:
    around = [(-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)]
    assert rasterise([loop(*((3 + x, 2 + y) for x, y in around))], UNIT).sum() == 1
    assert rasterise([loop(*((3.5 + x, 2 + y) for x, y in around))], UNIT).sum() == 0


def test_a_slanting_slit_through_pixel_centres_removes_nothing() -> None:
    """Its way back crosses each row at the very place of its way there, whatever the last digit."""
    rng = np.random.default_rng(1)
    outer = [(-0.5, -0.5), (6.5, -0.5), (6.5, 4.5), (-0.5, 4.5)]
    for _ in range(200):
        x, y = 3 + 0.1 * rng.integers(0, 3), 2 + 0.1 * rng.integers(0, 3)
        tiny = [(x, y), (x + 0.2, y + 0.1), (x + 0.1, y + 0.2)]
        mask = rasterise([loop(*outer, outer[0], *tiny, tiny[0])], UNIT)[1]
        without = rasterise([loop(*outer)], UNIT)[1]
        hole = rasterise([loop(*(5 * (np.array(tiny) - (x, y)) + (x, y)))], UNIT)[1]
        assert not (without & ~mask & ~hole).any()


def test_a_stray_click_inside_an_organ_takes_nothing_away() -> None:
    """0.12 mm wide around the centre of a pixel of 1 mm; alone it is that pixel."""
    organ = loop((-0.5, -0.5), (6.5, -0.5), (6.5, 4.5), (-0.5, 4.5))
    click = loop((2.94, 1.94), (3.06, 1.94), (3.06, 2.06), (2.94, 2.06))
    np.testing.assert_array_equal(rasterise([organ, click], UNIT), rasterise([organ], UNIT))
    assert np.argwhere(rasterise([click], UNIT)).tolist() == [[1, 2, 3]]


def test_slices_may_lie_at_uneven_distances() -> None:
    """Slices at 0, 2 and 5 mm: 3.4 mm is nearer to 2, 3.6 mm to 5; half-way is 3.5."""
    uneven = Grid((3, 6, 8), (1.0, 1.0), np.array([[0, 0, 0], [0, 0, 2.0], [0, 0, 5.0]]))
    square = [(0.5, 0.5), (3.5, 0.5), (3.5, 3.5), (0.5, 3.5)]
    for z, k in ((0.9, 0), (1.1, 1), (3.4, 1), (3.6, 2), (6.4, 2)):
        assert np.nonzero(rasterise([loop(*square, z=z)], uneven).any(axis=(1, 2)))[0].tolist() == [k]


def test_a_box_is_a_part_of_the_whole() -> None:
    outer = loop((-0.5, -0.5), (6.5, -0.5), (6.5, 4.5), (-0.5, 4.5))
    hole = loop((0.5, 0.5), (5.5, 0.5), (5.5, 3.5), (0.5, 3.5), z=2.2)
    everything = rasterise([outer, hole], UNIT)
    assert extent([outer, hole], UNIT) == (slice(1, 2), slice(0, 5), slice(0, 7))
    for box in (
        (slice(1, 3), slice(2, 5), slice(3, 8)),
        (slice(0, 1), slice(0, 6), slice(0, 8)),
        (slice(1, 2), slice(5, 6), slice(7, 8)),
    ):
        np.testing.assert_array_equal(rasterise([outer, hole], UNIT, box), everything[box])


def test_contours_that_are_not_of_the_image_are_named_with_the_reason() -> None:
    square = [(0.5, 0.5), (3.5, 0.5), (3.5, 3.5), (0.5, 3.5)]
    tilted = loop(*square)
    tilted[2:, 2] += 3
    fine, off, beside = loop(*square), loop(*square, z=9.0), loop(*((x + 40, y) for x, y in square))
    roi = ReadROI(1, "Larynx", (fine, off, beside, tilted), ("",) * 4, "1.2.3")
    assert misplaced(roi, UNIT, "1.2.3") == (
        "Larynx: the contour at z = 9.00 mm is more than half a slice from every slice",
        "Larynx: the contour at z = 2.00 mm lies outside of the image",
        "Larynx: the contour at z = 3.50 mm is not parallel to the slices",
    )
    assert misplaced(roi, UNIT, "4.5.6") == ("Larynx: drawn on another frame of reference (1.2.3) than the CT's",)
    assert misplaced(ReadROI(1, "Larynx", (fine,), ("",)), UNIT, "4.5.6") == ()


@pytest.mark.parametrize(("z", "slices"), [(1.1, [1]), (2.9, [1]), (3.1, [2]), (-1.1, []), (5.1, [])])
def test_a_loop_off_its_slice_goes_to_the_nearest_within_half_a_spacing(z: float, slices: list[int]) -> None:
    mask = rasterise([loop((0.5, 0.5), (3.5, 0.5), (3.5, 3.5), (0.5, 3.5), z=z)], UNIT)
    assert np.nonzero(mask.any(axis=(1, 2)))[0].tolist() == slices


def test_rois_are_joined_by_number_and_may_lack_contours(dataset: pydicom.Dataset) -> None:
    dataset.ROIContourSequence = [dataset.ROIContourSequence[2], dataset.ROIContourSequence[0]]
    del dataset.ROIContourSequence[1].ContourSequence
    first, second, third = read_structure_set(dataset)
    assert [first.name, second.name, third.name] == list(BALLS)
    assert (first.contours, second.contours) == ((), ())
    assert len(third.contours) == len(third.images) > 0


def test_points_and_open_lines_are_passed_over(dataset: pydicom.Dataset) -> None:
    contours = dataset.ROIContourSequence[0].ContourSequence
    before = len(read_structure_set(dataset)[0].contours)
    contours[0].ContourGeometricType = "POINT"
    contours[1].ContourGeometricType = "OPEN_PLANAR"
    contours[2].ContourGeometricType = "CLOSEDPLANAR_XOR"
    contours[3].ContourData = contours[3].ContourData[:6]
    assert len(read_structure_set(dataset)[0].contours) == before - 3


def test_without_a_referenced_image_a_contour_lies_on_the_nearest_slice(
    dataset: pydicom.Dataset, series: Series
) -> None:
    before = rasterise(read_structure_set(dataset)[0].contours, series.grid)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence
        contour.ContourData = [v + (0.4 if i % 3 == 2 else 0) for i, v in enumerate(contour.ContourData)]
    roi = read_structure_set(dataset)[0]
    assert set(roi.images) == {""}
    np.testing.assert_array_equal(rasterise(roi.contours, series.grid), before)


def test_rings_of_type_xor_are_holes(dataset: pydicom.Dataset, series: Series) -> None:
    """The same loop a second time and smaller, both of type XOR: what it holds is no organ."""
    contours = dataset.ROIContourSequence[0].ContourSequence
    largest = max(contours, key=lambda c: int(c.NumberOfContourPoints))
    points = np.array(largest.ContourData, dtype=float).reshape(-1, 3)
    inner = Dataset()
    inner.ContourGeometricType = largest.ContourGeometricType = "CLOSEDPLANAR_XOR"
    middle = points.mean(axis=0)
    smaller = np.round(middle + (points - middle) * [0.5, 0.5, 1], 3)
    inner.ContourData = [f"{v:.3f}" for v in smaller.ravel()]
    outer, alone = (rasterise([p], series.grid) for p in (points, smaller))
    dataset.ROIContourSequence[0].ContourSequence = [largest, inner]
    filled = rasterise(read_structure_set(dataset)[0].contours, series.grid)
    assert alone.any()
    np.testing.assert_array_equal(filled, outer & ~alone)
