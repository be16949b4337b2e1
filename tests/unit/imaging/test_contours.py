"""Probability -> closed planar contours, against shapes whose size is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage
from shapely import LineString, Polygon

from contourd.dicom.rtstruct.reader import rasterise
from contourd.imaging.contours import HoleStyle, trace
from contourd.imaging.grid import Grid


def whole(shape):
    return tuple(slice(0, n) for n in shape)


def ball(grid: Grid, centre, radius_mm):
    """A probability that crosses 0.5 on the sphere, linear over 2 mm."""
    z, y, x = np.indices(grid.shape)
    points = grid.to_patient(np.column_stack([a.ravel() for a in (z, y, x)]))
    distance = np.linalg.norm(points - centre, axis=1).reshape(grid.shape)
    return np.clip(0.5 + (radius_mm - distance) / 2, 0, 1).astype(np.float32)


def area_mm2(points) -> float:
    """The shoelace formula: over a keyhole it gives the outer area less the hole."""
    x, y = points[:, :2].T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_a_mask_is_outlined_a_hair_inside_the_edges_of_its_pixels():
    grid = Grid.regular((1, 9, 9), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 3:7, 2:6] = True
    for values in (mask, mask.astype(np.float32)):
        (contour,) = trace(values, whole(grid.shape), grid)
        assert {tuple(p) for p in contour.points_mm[:, :2]} == {(x, y) for x in (1.505, 5.495) for y in (2.505, 6.495)}


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_one_pixel_thick_has_a_point_at_each_pixel(turned):
    grid = Grid.regular((1, 9, 9), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 3, 2:6] = mask[0, 4:6, 5:8] = True  # a bar of one row, from whose end a block of two rows hangs
    (contour,) = trace(mask.swapaxes(1, 2) if turned else mask, whole(grid.shape), grid)
    y, x = (contour.points_mm[:, :2] if turned else contour.points_mm[:, 1::-1]).T
    assert set(zip(np.rint(y), np.rint(x), strict=True)) >= {(3, 2), (3, 3), (3, 4), (3, 5)}
    assert not np.any((x == 6) & (y > 4))  # the block has its corners alone
    assert area_mm2(contour.points_mm) == pytest.approx(10, rel=0.02)


def test_an_optic_nerve_of_eight_pixels_keeps_its_area():
    """A staircase, 8 pixels, edge length 16: it loses 16 x 0.005 of a pixel, that is 1 %."""
    grid = Grid.regular((1, 8, 8), (2.5, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 1:3, 1:4] = mask[0, 3, 3:5] = True
    (contour,) = trace(mask, whole(grid.shape), grid)
    assert area_mm2(contour.points_mm) == pytest.approx(8, rel=0.02)
    assert area_mm2(contour.points_mm) < 8


def test_pixels_that_touch_at_a_corner_are_two_contours_that_do_not_touch():
    grid = Grid.regular((1, 6, 6), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 2, 2] = mask[0, 3, 3] = True
    a, b = (Polygon(c.points_mm[:, :2]) for c in trace(mask, whole(grid.shape), grid))
    assert a.distance(b) == pytest.approx(0.01 * np.sqrt(2))


def in_plane_partial_volume(grid: Grid, centre, radius_mm, samples=15):
    """The part of each pixel, on the plane of its slice, that lies in the sphere."""
    offset = (np.arange(samples) + 0.5) / samples - 0.5
    (x, y), z = grid.slice_origins_mm[0, :2], grid.slice_origins_mm[:, 2]
    dy, dx = grid.pixel_spacing_mm
    rows = y + dy * (np.arange(grid.shape[1])[:, None] + offset).ravel() - centre[1]
    columns = x + dx * (np.arange(grid.shape[2])[:, None] + offset).ravel() - centre[0]
    inside = rows[:, None] ** 2 + columns**2 + (z - centre[2])[:, None, None] ** 2 <= radius_mm**2
    return inside.reshape(len(z), grid.shape[1], samples, grid.shape[2], samples).mean(axis=(2, 4)).astype(np.float32)


@pytest.mark.parametrize("slice_mm", [1.0, 1.5, 2.5])
@pytest.mark.parametrize("pixel_mm", [0.7, 0.85, 1.0])
@pytest.mark.parametrize("probability", [ball, in_plane_partial_volume])
def test_a_sphere_of_six_millimetres_keeps_volume_and_centroid(probability, pixel_mm, slice_mm):
    """Of volume pi d^3 / 6 as area x thickness. How the slices lie alone moves that by +-3 % and more: over four ways.

    On each way the areas sum to those of the sphere's own discs, pi (r^2 - z^2).
    """
    volumes, centroids = [], []
    for step in range(4):
        grid = Grid.regular((10, 24, 24), (slice_mm, pixel_mm, pixel_mm), (-11.5 * pixel_mm,) * 2 + (-4.5 * slice_mm,))
        centre = np.array([0.13, -0.21, slice_mm * (step - 1.5) / 4])
        contours = trace(probability(grid, centre, 3.0), whole(grid.shape), grid)
        areas = np.array([area_mm2(c.points_mm) for c in contours])
        height = grid.slice_origins_mm[:, 2] - centre[2]
        discs = np.pi * np.maximum(9 - height**2, 0)
        assert areas.sum() == pytest.approx(discs.sum(), rel=0.02)
        middles = [
            (*Polygon(c.points_mm[:, :2]).centroid.coords[0], grid.slice_origins_mm[c.slice_index, 2]) for c in contours
        ]
        centroid = np.average(middles, axis=0, weights=areas) - centre
        np.testing.assert_allclose(centroid, [0, 0, np.average(height, weights=discs)], atol=0.1)
        volumes.append(areas.sum() * slice_mm)
        centroids.append(centroid)
    assert np.mean(volumes) == pytest.approx(np.pi * 6**3 / 6, rel=0.02)
    np.testing.assert_allclose(np.mean(centroids, axis=0), 0, atol=0.1)


def test_the_contour_parts_the_pixels_at_or_over_the_level_from_the_others():
    grid = Grid.regular((3, 40, 40), (2.0, 1.0, 1.0))
    noise = np.random.default_rng(3).standard_normal(grid.shape)
    probability = (0.5 + 0.6 * ndimage.gaussian_filter(noise, (0, 2.5, 2.5)) / 0.11).clip(0, 1).astype(np.float32)
    probability[:, 20, 20:25] = 0.5
    filled = rasterise([c.points_mm for c in trace(probability, whole(grid.shape), grid)], grid)
    wanted = probability >= 0.5
    assert (filled ^ wanted).sum() <= 0.01 * wanted.sum()


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
    probability[0, 0:4, 0:4] = 0.9
    (contour,) = trace(probability, whole(grid.shape), grid)
    assert Polygon(contour.points_mm[:, :2]).is_valid
    assert -0.6 < contour.points_mm[:, :2].min() < -0.3


def ring_of_pixels(grid):
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 4:20, 4:20] = True
    mask[0, 9:15, 9:15] = False
    return mask


def test_a_ring_becomes_one_keyhole_contour():
    grid = Grid.regular((1, 24, 24), (1.0, 1.0, 1.0))
    (contour,) = trace(ring_of_pixels(grid), whole(grid.shape), grid)
    assert area_mm2(contour.points_mm) == pytest.approx(15.99**2 - 6.01**2)
    assert not contour.hole


def test_a_ring_becomes_two_contours_where_holes_are_drawn_on_their_own():
    grid = Grid.regular((1, 24, 24), (1.0, 1.0, 1.0))
    outer, hole = trace(ring_of_pixels(grid), whole(grid.shape), grid, holes=HoleStyle.XOR)
    assert (outer.hole, hole.hole) == (False, True)
    assert [area_mm2(c.points_mm) for c in (outer, hole)] == pytest.approx([15.99**2, 6.01**2])


def test_two_holes_do_not_cut_each_other():
    grid = Grid.regular((1, 20, 40), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 2:18, 2:38] = True
    mask[0, 7:13, 7:13] = mask[0, 7:13, 24:30] = False
    (contour,) = trace(mask, whole(grid.shape), grid)
    assert area_mm2(contour.points_mm) == pytest.approx(15.99 * 35.99 - 2 * 6.01**2)


def test_a_slit_crosses_no_outline():
    """The outer corner nearest to the hole lies behind the notch; the slit goes to the notch's edge instead."""
    grid = Grid.regular((1, 40, 40), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0, 2:38, 2:38] = True
    mask[0, 2:30, 18:20] = False
    mask[0, 12:16, 24:28] = False
    (contour,) = trace(mask, whole(grid.shape), grid)
    edges = [
        LineString(e) for e in zip(contour.points_mm[:, :2], np.roll(contour.points_mm[:, :2], -1, 0), strict=True)
    ]
    assert not any(a.crosses(b) for a, b in combinations(edges, 2))


def test_a_small_hole_is_filled_and_a_speck_left_out():
    grid = Grid.regular((1, 24, 24), (1.0, 1.0, 1.0))
    probability = np.zeros(grid.shape, dtype=np.float32)
    probability[0, 4:20, 4:20] = 1
    probability[0, 10:12, 10:12] = 0
    probability[0, 22, 22] = 0.9  # its loop is a diamond of half-diagonal 4/9: well under a pixel
    (contour,) = trace(probability, whole(grid.shape), grid)
    assert area_mm2(contour.points_mm) == pytest.approx(256, rel=0.01)


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
