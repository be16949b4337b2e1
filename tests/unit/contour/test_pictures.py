"""Pictures of contours: the right pixels in the right place."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from contourd.contour.pictures import axial_levels, best_plane, draw_contours
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.structures import colour_of


def volume(row=(1.0, 0.0, 0.0), column=(0.0, 1.0, 0.0)) -> Volume:
    origins = np.tile(-60.0 * (np.array(row) + np.array(column)), (30, 1))
    origins[:, 2] = 3.0 * np.arange(30)
    return Volume(Grid((30, 61, 61), (2.0, 2.0), origins, row, column), np.zeros((30, 61, 61), dtype=np.int16))


def masks(grid: Grid) -> dict[str, np.ndarray]:
    """A parotid on the patient's left, from z = 30 to 60."""
    z, y, x = np.indices(grid.shape)
    points = grid.to_patient(np.column_stack([z.ravel(), y.ravel(), x.ravel()]).astype(float))
    inside = (np.abs(points - [40, 0, 45]) <= [10, 12, 15]).all(axis=1)
    return {"Parotid_L": inside.reshape(grid.shape)}


@pytest.mark.parametrize(("row", "column"), [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))])
def test_the_patient_s_left_is_on_the_right_of_the_picture(tmp_path, row, column):
    ct = volume(row, column)
    draw_contours(ct, masks(ct.grid), tmp_path / "a.png", "title")
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    near = np.abs(picture - colour_of("Parotid_L")).max(axis=2) < 0.1
    height, width = near.shape
    first = near[: height // 2, : width // 3]  # the first axial slice
    columns = np.flatnonzero(first.any(axis=0))
    assert len(columns)
    assert columns.min() > first.shape[1] / 2


def test_slices_are_chosen_from_the_organs():
    found = masks(volume().grid)
    levels = axial_levels(found, 30)
    assert levels == sorted(levels, reverse=True)
    assert all(found["Parotid_L"][k].any() for k in levels)
    assert found["Parotid_L"][:, :, best_plane(found, 2, 61)].any()


def test_without_organs_there_is_still_a_picture(tmp_path):
    draw_contours(volume(), {}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_thick_slices_are_drawn_thick():
    origins = np.zeros((4, 3))
    origins[:, 2] = [0.0, 2.0, 4.0, 8.0]
    indices, step_mm = Grid((4, 2, 2), (1.0, 1.0), origins).even_slices()
    assert step_mm == 2.0
    assert indices.tolist() == [0, 1, 2, 2, 3]  # 6 lies between two slices: the lower one
    regular = volume().grid
    assert regular.even_slices()[0].tolist() == list(range(30))
