"""Probability -> closed planar contours, against shapes whose size is known."""

from __future__ import annotations

import numpy as np
import pytest
from shapely import Polygon

from contourd.imaging.contours import trace
from contourd.imaging.grid import Grid


def whole(shape):
    return tuple(slice(0, n) for n in shape)


def ball(grid: Grid, centre, radius_mm):
    """A probability that crosses 0.5 on the sphere, linear over 2 mm."""
    z, y, x = np.indices(grid.shape)
    points = grid.to_patient(np.column_stack([a.ravel() for a in (z, y, x)]))
    distance = np.linalg.norm(points - centre, axis=1).reshape(grid.shape)
    return np.clip(0.5 + (radius_mm - distance) / 2, 0, 1).astype(np.float32)


def test_a_square_of_pixels_reaches_half_way_to_its_neighbours():
    grid = Grid.regular((1, 9, 9), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 3:7, 2:6] = 1
    (contour,) = trace(probability, whole(grid.shape), grid)
    low, high = contour.points_mm[:, :2].min(0), contour.points_mm[:, :2].max(0)
    np.testing.assert_allclose(low, [1.5, 2.5])
    np.testing.assert_allclose(high, [5.5, 6.5])
    # 4 x 4 less the four corners that marching squares cuts, an eighth each.
    assert Polygon(contour.points_mm[:, :2]).area == pytest.approx(16 - 4 / 8)


def test_a_sphere_keeps_volume_and_centroid():
    grid = Grid.regular((12, 40, 40), (1.0, 0.7, 0.7), (-14.0, -14.0, -6.0))
    centre = np.array([0.3, -0.2, 0.1])
    contours = trace(ball(grid, centre, 3.0), whole(grid.shape), grid)
    areas = np.array([Polygon(c.points_mm[:, :2]).area for c in contours])
    discs = [np.pi * (9 - (grid.slice_origins_mm[c.slice_index, 2] - 0.1) ** 2) for c in contours]
    # Chords inside a circle of four pixels' radius cost up to 2 %.
    np.testing.assert_allclose(areas, discs, atol=0.6)
    assert areas.sum() == pytest.approx(sum(discs), rel=0.025)
    centroid = np.average([Polygon(c.points_mm[:, :2]).centroid.coords[0] for c in contours], axis=0, weights=areas)
    np.testing.assert_allclose(centroid, centre[:2], atol=0.02)


def test_every_contour_lies_on_its_slice():
    origins = np.array([[0, 0, -50.0], [0, 0, -47.5], [0, 0, -44.1]])
    grid = Grid((3, 20, 20), (1.0, 1.0), origins)
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[:, 5:12, 5:12] = 0.9
    contours = trace(probability, whole(grid.shape), grid)
    assert [c.slice_index for c in contours] == [0, 1, 2]
    for contour, z in zip(contours, (-50.0, -47.5, -44.1), strict=True):
        assert set(contour.points_mm[:, 2]) == {z}


def test_the_box_is_where_it_says():
    grid = Grid.regular((6, 30, 30), (2.0, 1.0, 1.0))
    probability = ball(grid, [15.0, 12.0, 6.0], 5.0)
    everywhere = trace(probability, whole(grid.shape), grid)
    box = (slice(1, 6), slice(4, 20), slice(8, 23))
    boxed = trace(probability[box], box, grid)
    assert len(boxed) == len(everywhere)
    for a, b in zip(boxed, everywhere, strict=True):
        assert a.slice_index == b.slice_index
        assert Polygon(a.points_mm[:, :2]).symmetric_difference(Polygon(b.points_mm[:, :2])).area < 1e-6


def test_an_organ_at_the_edge_of_the_image_is_closed():
    grid = Grid.regular((1, 8, 8), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 0:4, 0:4] = 1
    (contour,) = trace(probability, whole(grid.shape), grid)
    assert Polygon(contour.points_mm[:, :2]).is_valid
    assert contour.points_mm[:, :2].min() == pytest.approx(-0.5)


def test_a_ring_becomes_one_keyhole_contour():
    grid = Grid.regular((1, 24, 24), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 4:20, 4:20] = 1
    probability[0, 9:15, 9:15] = 0
    contours = trace(probability, whole(grid.shape), grid)
    assert len(contours) == 1
    # The shoelace formula over a keyhole gives outer area less hole: 256 - 1/2 less 36 - 1/2.
    x, y = contours[0].points_mm[:, :2].T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == pytest.approx(220.0, abs=0.1)


def test_two_holes_do_not_cut_each_other():
    grid = Grid.regular((1, 20, 40), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 2:18, 2:38] = 1
    probability[0, 7:13, 7:13] = 0
    probability[0, 7:13, 24:30] = 0
    (contour,) = trace(probability, whole(grid.shape), grid)
    x, y = contour.points_mm[:, :2].T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == pytest.approx((576 - 0.5) - 2 * (36 - 0.5), abs=0.1)


def test_a_small_hole_is_filled_and_a_speck_left_out():
    grid = Grid.regular((1, 24, 24), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 4:20, 4:20] = 1
    probability[0, 10:12, 10:12] = 0
    probability[0, 22, 22] = 0.9  # its loop is a diamond of half-diagonal 4/9: well under a pixel
    (contour,) = trace(probability, whole(grid.shape), grid)
    assert Polygon(contour.points_mm[:, :2]).area == pytest.approx(255.5)


def test_two_parts_on_a_slice_are_two_contours():
    grid = Grid.regular((1, 20, 30), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 5:10, 3:9] = probability[0, 5:10, 18:27] = 1
    assert len(trace(probability, whole(grid.shape), grid)) == 2


def test_nothing_gives_no_contour():
    grid = Grid.regular((2, 5, 5), (1.0, 1.0, 1.0))
    assert trace(np.full(grid.shape, 0.49, dtype=np.float32), whole(grid.shape), grid) == ()
    assert trace(np.zeros((0, 0, 0), dtype=np.float32), (slice(0, 0),) * 3, grid) == ()


def test_simplified_to_a_fiftieth_of_a_pixel():
    grid = Grid.regular((1, 120, 120), (1.0, 1.0, 1.0), (-60.0, -60.0, 0.0))
    (contour,) = trace(ball(grid, [0.0, 0.0, 0.0], 50.0), whole(grid.shape), grid)
    radius = np.linalg.norm(contour.points_mm[:, :2], axis=1)
    np.testing.assert_allclose(radius, 50.0, atol=0.025)
    assert len(contour.points_mm) < 250  # marching squares alone gives about 560
