"""Geometry: index <-> patient, in every orientation, with unequal spacing."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.imaging.grid import Grid

ORIENTATIONS = {
    "HFS": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "HFP": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "columns reversed": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "rows reversed": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "decubitus": ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
    "other decubitus": ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
}


def grid_of(row, column, shape=(3, 4, 5), spacing=(2.0, 3.0)) -> Grid:
    origins = np.array([[10.0, 20.0, 30.0], [10.0, 20.0, 32.0], [10.0, 20.0, 35.0]])
    return Grid(shape, spacing, origins, row, column)


def test_to_patient_by_hand():
    grid = Grid.regular((2, 2, 2), (5.0, 2.0, 3.0), (-10.0, -20.0, 100.0))
    # slice 1, row 1, column 1: x = -10 + 3, y = -20 + 2, z = 100 + 5
    np.testing.assert_allclose(grid.to_patient([[1, 1, 1]]), [[-7.0, -18.0, 105.0]])
    assert grid.spacing_mm == (5.0, 2.0, 3.0)
    assert grid.voxel_volume_mm3 == 30.0


def test_unequal_slices_keep_their_own_z():
    grid = grid_of(*ORIENTATIONS["HFS"])
    points = grid.to_patient([[0, 0, 0], [1, 0, 0], [1.5, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(points[:, 2], [30.0, 32.0, 33.5, 35.0])


def test_each_slice_is_as_thick_as_half_the_way_to_its_neighbours():
    # z = 30, 32, 35: (2 + 2) / 2, (2 + 3) / 2, (3 + 3) / 2; pixels of 2 x 3 mm.
    for name in ("HFS", "HFP"):
        grid = grid_of(*ORIENTATIONS[name])
        np.testing.assert_allclose(grid.slice_thicknesses_mm, [2.0, 2.5, 3.0])
        inside = np.zeros(grid.shape, dtype=bool)
        inside[0, 0, :2] = inside[1, 1, 1] = inside[2, 3, :3] = True
        assert grid.volume_mm3(inside) == pytest.approx(6 * (2 * 2.0 + 1 * 2.5 + 3 * 3.0))
        assert grid.volume_mm3(inside[1:], 1) == pytest.approx(6 * (2.5 + 9.0))
        assert grid.volume_mm3(inside[:0, :0, :0]) == 0


def test_equal_slices_are_as_thick_as_their_step():
    grid = Grid.regular((4, 2, 2), (2.5, 1.0, 1.0))
    np.testing.assert_allclose(grid.slice_thicknesses_mm, [2.5] * 4)
    assert grid.volume_mm3(np.ones(grid.shape, dtype=bool)) == pytest.approx(16 * grid.voxel_volume_mm3)
    np.testing.assert_allclose(Grid.regular((1, 2, 2), (1.0, 1.0, 1.0)).slice_thicknesses_mm, [1.0])


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_round_trip(name):
    grid = grid_of(*ORIENTATIONS[name])
    index = np.array([[0, 0, 0], [2, 3, 4], [0.25, 1.5, 2.75], [1.5, 0.5, 0.25]])
    np.testing.assert_allclose(grid.to_index(grid.to_patient(index)), index, atol=1e-12)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_canonical_runs_to_the_left_and_to_the_back(name):
    grid = grid_of(*ORIENTATIONS[name])
    array = np.arange(60).reshape(grid.shape)
    canonical, turn = grid.canonical()
    turned = turn.apply(array)
    assert canonical.shape == turned.shape
    np.testing.assert_allclose(canonical.row_direction, (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(canonical.column_direction, (0, 1, 0), atol=1e-12)
    # The same value lies at the same point of the patient in both.
    for index in [(0, 0, 0), (1, 2, 3), (2, 3, 4)]:
        at = np.argwhere(turned == array[index])[0]
        np.testing.assert_allclose(canonical.to_patient(at), grid.to_patient(index), atol=1e-9)
    np.testing.assert_array_equal(turn.revert(turned), array)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_boxes_turn_with_their_arrays(name):
    grid = grid_of(*ORIENTATIONS[name])
    array = np.arange(60).reshape(grid.shape)
    canonical, turn = grid.canonical()
    box = (slice(1, 3), slice(0, 2), slice(1, 4))
    back = turn.revert_box(box, canonical.shape)
    np.testing.assert_array_equal(turn.revert(turn.apply(array)[box]), array[back])
