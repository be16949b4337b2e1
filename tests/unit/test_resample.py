"""Separable resampling."""

from __future__ import annotations

import numpy as np

from contourd.imaging.resample import axis_weights, resample


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
