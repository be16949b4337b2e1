"""The metrics: by hand, for empty masks, and against an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import surface_distance

from contourd.imaging import metrics
from contourd.imaging.grid import Grid
from contourd.imaging.metrics import Distances, added_path_mm, agreement, corner_axes_mm, dice, surface, surface_dice
from trainer.evaluation.surfaces import marching_cubes


def grid(shape=(12, 14, 16), spacing=(3.0, 2.0, 1.0)) -> Grid:
    return Grid.regular(shape, spacing)


def box(*parts, shape=(12, 14, 16)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in parts)] = True
    return mask


def test_a_box_moved_by_one_voxel():
    """8 x 8 x 8 voxels of 3 x 2 x 1 mm, moved by one voxel of 1 mm along x."""
    truth, predicted = box((2, 10), (3, 11), (4, 12)), box((2, 10), (3, 11), (5, 13))
    found = agreement(truth, predicted, grid())
    assert found.dice == pytest.approx(7 / 8)
    assert found.surface_dice == 1  # nowhere more than 1 mm apart
    assert found.hausdorff_95_mm == pytest.approx(1.0)
    assert 0 < found.mean_surface_mm < 1
    assert (found.volume_ratio, found.islands) == (1.0, 0)
    # Per slice the column x = 4 (8 pixels) is missed, and the upper and lower edges of x = 5 .. 11 lie on the other's.
    # Of the column x = 11 only its ends are on the prediction's outline: 6 of 8 are missed.
    assert found.added_path_mm == pytest.approx(8 * (8 + 6) * math.sqrt(2))


def test_far_apart():
    truth, predicted = box((2, 4), (2, 4), (1, 3)), box((2, 4), (2, 4), (11, 13))
    found = agreement(truth, predicted, grid())
    assert (found.dice, found.surface_dice) == (0, 0)
    assert found.hausdorff_95_mm == pytest.approx(10)  # the far faces
    assert 8 < found.mean_surface_mm < 10


def test_islands_and_volume():
    truth = box((2, 6), (2, 6), (2, 6))
    predicted = truth | box((8, 10), (8, 10), (8, 10))
    predicted[6, 6, 6] = True  # touches the first part at a corner: no island
    found = agreement(truth, predicted, grid())
    assert found.islands == 1
    assert found.volume_ratio == pytest.approx((64 + 8 + 1) / 64)


def test_empty_masks():
    organ, nothing = box((2, 4), (2, 4), (1, 3)), box((0, 0), (0, 0), (0, 0))
    both = agreement(nothing, nothing, grid())
    assert all(math.isnan(v) for v in (both.dice, both.hausdorff_95_mm, both.surface_dice, both.added_path_mm))
    assert both.islands == 0
    missed = agreement(organ, nothing, grid())
    assert (missed.dice, missed.surface_dice, missed.volume_ratio) == (0, 0, 0)
    assert missed.hausdorff_95_mm == missed.mean_surface_mm == math.inf
    assert missed.added_path_mm == pytest.approx(8 * math.sqrt(2))  # 2 x 2 pixels on two slices, all of them outline
    invented = agreement(nothing, organ, grid())
    assert (invented.dice, invented.surface_dice, invented.added_path_mm) == (0, 0, 0)
    assert invented.hausdorff_95_mm == invented.volume_ratio == math.inf


def test_slices_that_are_unequally_spaced():
    """The last slice stands 6 mm from the one before, twice the others' distance."""
    origins = np.array([[0.0, 0, z] for z in (0, 3, 6, 9, 15)])
    uneven = Grid((5, 14, 16), (2.0, 1.0), origins)
    shape = uneven.shape
    truth, predicted = box((1, 5), (2, 10), (2, 10), shape=shape), box((1, 4), (2, 10), (2, 10), shape=shape)
    found = agreement(truth, predicted, uneven)
    # The truth's end lies half a step of 6 mm beyond its last slice, at 18 mm; the prediction's between 9 and 15.
    assert found.hausdorff_95_mm == pytest.approx(6.0)
    assert found.volume_ratio == pytest.approx((3 + 3 + 4.5) / (3 + 3 + 4.5 + 6))


def test_percentile_and_mean_are_over_area():
    distances = Distances(np.array([0.0, 1.0, 5.0]), np.array([8.0, 1.0, 1.0]))
    assert distances.mean() == pytest.approx(0.6)
    assert [distances.percentile(p) for p in (50, 80, 90, 95)] == [0, 0, 1, 5]
    assert surface_dice(distances, distances, 2.0) == pytest.approx(0.9)


def test_the_area_of_a_long_bar_is_that_of_its_faces():
    """Marching cubes cut the edges, so only the middle of a bar is compared: 2 (4 mm + 6 mm) around, per mm."""
    long = box((0, 12), (3, 6), (4, 8))
    found = surface(long, corner_axes_mm(grid(), (slice(0, 12), slice(0, 14), slice(0, 16))))
    middle = np.isclose(found.places_mm[:, 0], 13.5)
    # Faces of 4 x 1 mm and 3 x 2 mm less their halves at the edges, and four cut edges of hypot(0.5, 1) mm.
    around = 2 * (3 + 2 * 2) + 4 * math.hypot(0.5, 1)
    assert found.areas_mm2[middle].sum() == pytest.approx(around * 3)


def test_added_path_has_no_tolerance():
    truth = box((5, 6), (3, 8), (3, 8))
    smaller = box((5, 6), (4, 7), (4, 7))
    assert added_path_mm(truth, truth, (2.0, 2.0)) == 0
    assert added_path_mm(truth, smaller, (2.0, 2.0)) == 16 * 2.0
    assert added_path_mm(smaller, truth, (2.0, 2.0)) == 8 * 2.0


def test_dice_by_hand():
    a, b = box((0, 1), (0, 1), (0, 2)), box((0, 1), (0, 2), (0, 2))
    assert dice(a, b) == pytest.approx(4 / 6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it calls scipy.ndimage by its former names
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.98, 0.98), (3.0, 2.0, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_surface_distance(seed, spacing):
    """Random blobs, and noise, which has every pattern of 2 x 2 x 2 voxels."""
    rng = np.random.default_rng(seed)
    shape = (12, 14, 16)
    masks = []
    for _ in range(2):
        z, y, x = np.indices(shape) - np.array([5.5, 6.5, 7.5])[:, None, None, None] - rng.normal(0, 1)
        blob = (z / rng.uniform(2, 5)) ** 2 + (y / rng.uniform(2, 5)) ** 2 + (x / rng.uniform(2, 6)) ** 2 < 1
        masks.append(blob ^ (rng.random(shape) < 0.1) if seed > 1 else blob)
    # The library takes the box's upper neighbours for empty, so keep the rim free.
    for mask in masks:
        mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    found = agreement(*masks, grid(shape, spacing))
    theirs = surface_distance.compute_surface_distances(*masks, spacing)
    assert found.hausdorff_95_mm == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    means = surface_distance.compute_average_surface_distance(theirs)
    assert found.mean_surface_mm == pytest.approx(sum(means) / 2, abs=1e-6)
    assert found.surface_dice == pytest.approx(
        surface_distance.compute_surface_dice_at_tolerance(theirs, 2.0), abs=1e-6
    )
    assert found.dice == pytest.approx(surface_distance.compute_dice_coefficient(*masks))


def test_areas_are_those_of_marching_cubes():
    """Each pattern of eight voxels has the area vectors that scikit-image's surface of it has."""
    for code in range(1, 255):
        rarer = code if code.bit_count() <= 4 else 255 - code
        cube = np.array([rarer >> (7 - corner) & 1 for corner in range(8)], dtype=np.float64).reshape(2, 2, 2)
        a, b, c = marching_cubes(cube, method="lorensen").swapaxes(0, 1)
        found = metrics.triangles()[code]
        wanted = np.cross(b - a, c - a) / 2
        assert np.array_equal(found[: len(wanted)], wanted)
        assert not found[len(wanted) :].any()
