"""Preprocessing and its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.resample import resample
from contourd.imaging.volume import Volume
from contourd.model.planes import filled, grown, opened
from contourd.model.transforms import (
    Preprocess,
    PreprocessConfig,
    grid_axes_mm,
    lattice_axes_mm,
)

CONFIG = PreprocessConfig(spacing_mm=(4.0, 4.0, 4.0))


def head(grid: Grid, couch: bool = False, centre=(0.0, 0.0, 0.0)) -> Volume:
    """A head of soft tissue 160 mm wide with an airway, and below it a couch board of 4 mm."""
    z, y, x = (a.astype(float) for a in np.indices(grid.shape))
    points = grid.to_patient(np.column_stack([z.ravel(), y.ravel(), x.ravel()]))
    px, py, _ = (points - centre).T
    hu = np.full(len(points), -1000.0)
    hu[(px / 80) ** 2 + (py / 95) ** 2 <= 1] = 40
    hu[px**2 + py**2 <= 100] = -1000
    if couch:
        hu[(np.abs(py - 118) < 2) & (np.abs(px) < 200)] = 100
    return Volume(grid, hu.reshape(grid.shape).astype(np.int16))


def clinical_grid(row=(1.0, 0.0, 0.0), column=(0.0, 1.0, 0.0)) -> Grid:
    origins = np.tile(-125.0 * (np.array(row) + np.array(column)) * 1.0, (50, 1))
    origins[:, 2] = 100 + 3.0 * np.arange(50)
    return Grid((50, 126, 126), (2.0, 2.0), origins, row, column)


def test_couch_and_air_become_air():
    grid = clinical_grid()
    without = Preprocess(CONFIG).prepare(head(grid))
    with_couch = Preprocess(CONFIG).prepare(head(grid, couch=True))
    np.testing.assert_array_equal(without.image, with_couch.image)
    assert without.image.shape == with_couch.image.shape


def test_the_lattice_reaches_around_the_head_only():
    prepared = Preprocess(CONFIG).prepare(head(clinical_grid(), couch=True))
    z, y, x = prepared.axes_mm
    # Frame: mm from the first voxel, whose centre is at -125, -125. The head spans -80..80 and -95..95, plus 8 mm; and
    # the 63 samples from -124 on are cut at whole multiples of 8: from 8 to 56 across, and not at all along.
    assert (x[0] - 125, x[-1] - 125) == pytest.approx((-92, 96), abs=2.1)
    assert (y[0] - 125, y[-1] - 125) == pytest.approx((-124, 124), abs=2.1)
    assert len(z) == 147 // 4 + 1


def test_the_airway_stays_and_is_dark():
    prepared = Preprocess(CONFIG).prepare(head(clinical_grid()))
    middle = prepared.image.shape[1] // 2, prepared.image.shape[2] // 2
    assert prepared.image[10, middle[0], middle[1]] == -1
    # 40 HU in the window of -250 to 500: (290 / 750) * 2 - 1
    assert prepared.image[10, middle[0], middle[1] + 10] == pytest.approx(290 / 750 * 2 - 1, abs=1e-4)


@pytest.mark.parametrize(
    ("row", "column"),
    [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)), ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))],
)
def test_there_and_back_in_every_orientation(row, column):
    grid = clinical_grid(row, column)
    volume = head(grid, centre=(10.0, 5.0, 0.0))
    preprocess = Preprocess(CONFIG)
    prepared = preprocess.prepare(volume)
    z, y, x = np.indices(grid.shape)
    points = grid.to_patient(np.column_stack([z.ravel(), y.ravel(), x.ravel()]))
    organ = (np.linalg.norm(points - [45.0, 5.0, 170.0], axis=1) < 22).reshape(grid.shape)  # on the patient's left
    part = resample(prepared.turn.apply(organ), grid_axes_mm(prepared.canonical), prepared.axes_mm)
    right_half, left_half = np.array_split(part, 2, axis=2)
    assert left_half.sum() > 20 * right_half.sum()
    box, probability = preprocess.restore(part, prepared)
    whole = np.zeros(grid.shape, dtype=bool)
    whole[box] = probability >= 0.5
    assert 2 * (whole & organ).sum() / (whole.sum() + organ.sum()) > 0.96


def test_restored_at_the_edge_of_the_field_of_view():
    grid = clinical_grid()
    preprocess = Preprocess(CONFIG)
    prepared = preprocess.prepare(head(grid))
    ones = np.ones_like(prepared.image)
    box, probability = preprocess.restore(ones, prepared)
    assert (box[0].start, box[0].stop) == (0, 50)
    assert probability.min() == 1


def test_nothing_found_is_an_empty_box():
    preprocess = Preprocess(CONFIG)
    prepared = preprocess.prepare(head(clinical_grid()))
    box, probability = preprocess.restore(np.zeros_like(prepared.image), prepared)
    assert probability.size == 0
    assert all(part.start == part.stop for part in box)


def test_no_patient():
    grid = clinical_grid()
    with pytest.raises(SeriesUnusable, match="no patient"):
        Preprocess(CONFIG).prepare(Volume(grid, np.full(grid.shape, -1000, dtype=np.int16)))


def test_unequal_slices_keep_their_positions():
    origins = np.zeros((4, 3))
    origins[:, 2] = [0, 2, 4, 10]
    z, y, x = grid_axes_mm(Grid((4, 3, 2), (5.0, 7.0), origins))
    np.testing.assert_allclose(z, [0, 2, 4, 10])
    np.testing.assert_allclose(y, [0, 5, 10])
    np.testing.assert_allclose(x, [0, 7])


def test_the_lattice_is_centred():
    z, _, _ = lattice_axes_mm(Grid.regular((11, 9, 9), (1.0, 1.0, 1.0)), (4.0, 4.0, 4.0))
    np.testing.assert_allclose(z, [1, 5, 9])


def test_the_other_lattice_lies_half_a_voxel_beside():
    z, _, _ = lattice_axes_mm(Grid.regular((11, 9, 9), (1.0, 1.0, 1.0)), (4.0, 4.0, 4.0), half_voxel=True)
    np.testing.assert_allclose(z, [-1, 3, 7, 11])


def test_the_chest_far_below_the_head_is_left_out():
    grid = Grid.regular((300, 80, 80), (3.0, 3.0, 3.0), (-118.5, -118.5, 0.0))
    prepared = Preprocess(CONFIG).prepare(head(grid))
    assert len(prepared.axes_mm[0]) in (420 // 4 + 1, 420 // 4 + 2)
    assert prepared.axes_mm[0][-1] > 890


def test_the_planes_are_grown_opened_and_filled_as_scipy_does():
    rng = np.random.default_rng(0)
    cross, square = (ndimage.generate_binary_structure(2, n) for n in (1, 2))
    for share in (0.5, 0.7, 0.9):
        planes = rng.random((6, 20, 23)) < share
        once = [ndimage.binary_dilation(plane, cross) for plane in planes]
        assert np.array_equal(grown(planes, 1), once)
        assert np.array_equal(grown(planes, 2), [ndimage.binary_dilation(plane, square) for plane in once])
        eroded = [ndimage.binary_erosion(plane, cross, border_value=1) for plane in planes]
        assert np.array_equal(opened(planes, 1), [ndimage.binary_dilation(plane, cross) for plane in eroded])
        assert np.array_equal(filled(planes), [ndimage.binary_fill_holes(plane) for plane in planes])
    full = np.ones((2, 4, 4), dtype=bool)
    assert filled(full).all()
    assert not filled(~full).any()
