"""Separable resampling."""

from __future__ import annotations

import numpy as np

from contourd.imaging.resample import SPARSE, axis_weights, resample


def test_upsampling_is_linear_interpolation():
    weights = axis_weights(np.array([0.0, 4.0]), np.array([0.0, 1.0, 2.0, 4.0]))
    np.testing.assert_allclose(weights, [[1, 0], [0.75, 0.25], [0.5, 0.5], [0, 1]])


def test_unequal_source_spacing():
    weights = axis_weights(np.array([0.0, 2.0, 8.0]), np.array([1.0, 2.0, 3.5]))
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0], [0, 1, 0], [0, 0.75, 0.25]])


def test_downsampling_averages_with_a_tent():
    # Target spacing 2: at 2.0 the tent is 1 on the sample at 2, 1/2 on those at 1 and 3, so 1/4, 1/2, 1/4.
    weights = axis_weights(np.arange(5.0), np.array([0.0, 2.0, 4.0]))
    np.testing.assert_allclose(weights[1], [0, 0.25, 0.5, 0.25, 0])


def test_a_mean_over_unequal_slices_counts_each_by_its_thickness():
    """At 4 the tent of 4 is 1/2 on 2, 1 on 4 and 1/4 on 7; they stand for 2, 2.5 and 3 mm: 1, 2.5 and 0.75 of 4.25."""
    weights = axis_weights(np.array([0.0, 2.0, 4.0, 7.0, 10.0]), np.array([0.0, 4.0, 8.0]))
    np.testing.assert_allclose(weights[1], [0, 1 / 4.25, 2.5 / 4.25, 0.75 / 4.25, 0], rtol=1e-6)


def test_where_the_source_is_coarser_it_is_interpolated_and_where_it_is_finer_averaged():
    """Blocks of 1 mm and of 5 mm: a lattice of 4 mm averages the first and interpolates in the second."""
    source = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 18, 23, 28], dtype=float)
    target = np.arange(0.0, 28.1, 4.0)
    weights = axis_weights(source, target)
    # 16 lies 3/5 of the way from 13 to 18.
    np.testing.assert_allclose(weights[4, 9:11], [0.4, 0.6], rtol=1e-6)
    assert np.count_nonzero(weights[1]) == 7  # 1 to 7; the tent is zero on 0 and 8
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    ramp = weights @ source
    np.testing.assert_allclose(ramp[[1, 3, 4, 5, 6, 7]], target[[1, 3, 4, 5, 6, 7]], rtol=1e-6)


def test_thick_target_slices_average_and_thin_ones_interpolate():
    weights = axis_weights(np.arange(0.0, 21.0, 4.0), np.array([0.0, 2.0, 4.0, 12.0, 20.0]))
    np.testing.assert_allclose(weights[1], [0.5, 0.5, 0, 0, 0, 0])
    # At 12 the tent of 8: 1/2 on 8 and 16, 1 on 12, zero on 4 and 20; all stand for 4 mm.
    np.testing.assert_allclose(weights[3], [0, 0, 0.25, 0.5, 0.25, 0])


def test_beyond_the_ends_the_last_sample_continues():
    np.testing.assert_allclose(
        axis_weights(np.array([0.0, 1.0]), np.array([-0.5, 0.0, 1.0, 1.5])), [[1, 0], [1, 0], [0, 1], [0, 1]]
    )


def test_single_slice():
    np.testing.assert_allclose(axis_weights(np.array([5.0]), np.array([0.0, 5.0])), [[1], [1]])


def test_a_ramp_stays_a_ramp_in_every_axis():
    source = (np.arange(6) * 2.5, np.arange(8) * 1.0, np.arange(10) * 3.0)
    target = (np.arange(2, 11) * 1.0, np.arange(1, 6) * 1.1, np.arange(4, 20) * 1.3)
    z, y, x = np.meshgrid(*source, indexing="ij")
    wanted = np.add.outer(np.add.outer(2 * target[0], -target[1]), 0.5 * target[2])
    # The tent is symmetric around samples on the source's lattice only: y is downsampled by 1.1, so allow its ripple.
    got = resample(2 * z - y + 0.5 * x, source, target)
    np.testing.assert_allclose(got, wanted, atol=0.15)


def test_few_weights_among_many_give_the_same_mean_as_all_of_them():
    """Of 512 pixels sixteen count for each of the target's; the dense product in float64 is the plain way."""
    array = np.random.default_rng(0).integers(-1024, 3072, (3, 512, 500)).astype(np.int16)
    source = (np.arange(3.0), np.arange(512.0), np.arange(500.0))
    target = (np.array([0.5, 1.5]), np.arange(4.0, 510.0, 8.0), np.arange(0.0, 499.0, 8.3))
    wz, wy, wx = (axis_weights(s, t).astype(np.float64) for s, t in zip(source, target, strict=True))
    assert max(np.count_nonzero(w) / w.size for w in (wy, wx)) < SPARSE
    for turned in (array, array[:, ::-1, ::-1]):
        plain = np.einsum("ak,bi,cj,kij->abc", wz, wy, wx, turned.astype(np.float64), optimize=True)
        np.testing.assert_allclose(resample(turned, source, target), plain, rtol=0, atol=2e-3)
