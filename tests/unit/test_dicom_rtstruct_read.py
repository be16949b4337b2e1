from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from contourd.dicom.rtstruct_check import check_structure_set
from contourd.dicom.rtstruct_read import rasterise, read_structure_set
from contourd.dicom.rtstruct_write import structure_set_dataset
from contourd.dicom.series import Series
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
    structure_set,
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


@pytest.mark.parametrize(("z", "slices"), [(1.1, [1]), (2.9, [1]), (3.1, [2]), (-1.1, []), (5.1, [])])
def test_a_loop_off_its_slice_goes_to_the_nearest_within_half_a_spacing(z: float, slices: list[int]) -> None:
    mask = rasterise([loop((0.5, 0.5), (3.5, 0.5), (3.5, 3.5), (0.5, 3.5), z=z)], UNIT)
    assert np.nonzero(mask.any(axis=(1, 2)))[0].tolist() == slices


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return read_series(write_series(tmp_path_factory.mktemp("ct")))


@pytest.fixture
def dataset(series: Series) -> pydicom.Dataset:
    return structure_set(series)


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
