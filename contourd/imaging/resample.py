"""Separable resampling between lattices whose axes are parallel: linear up, tent-averaged down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from contourd.imaging.grid import FloatArray, extents_mm

# Spacings that differ by less are equal: positions carry rounding errors.
SAME_SPACING = 1e-6
# With so small a part of weights that are not zero, a sparse product is faster than a dense one.
SPARSE = 1 / 20
Axes = tuple[FloatArray, FloatArray, FloatArray]


def axis_weights(source_mm: FloatArray, target_mm: FloatArray) -> NDArray[np.float32]:
    """Weights (targets, sources) that resample one axis.

    Each target sample averages the sources with a tent as wide as the wider of the two spacings: linear interpolation
    where the target is finer, an anti-aliased mean where it is coarser. Beyond the ends the last sample continues.
    The positions need not be equally spaced: each target sample goes by the spacings around it, and in a mean each
    source counts by what it stands for.
    """
    source, target = np.asarray(source_mm, dtype=np.float64), np.asarray(target_mm, dtype=np.float64)
    if len(source) == 1:
        return np.ones((len(target), 1), dtype=np.float32)
    inside = np.clip(target, source.min(), source.max())
    step = extents_mm(target) if len(target) > 1 else np.zeros(1)
    low = np.clip(np.searchsorted(source, inside, side="right") - 1, 0, len(source) - 2)
    gap = np.diff(source)[low]
    fraction = (inside - source[low]) / gap
    weights = np.zeros((len(target), len(source)))
    rows = np.arange(len(target))
    weights[rows, low] = 1.0 - fraction
    weights[rows, low + 1] += fraction
    coarser = step > gap * (1 + SAME_SPACING)
    tent = np.maximum(0.0, 1.0 - np.abs(inside[coarser, None] - source[None, :]) / step[coarser, None])
    tent *= extents_mm(source)
    weights[coarser] = tent / tent.sum(axis=1, keepdims=True)
    return np.asarray(weights, dtype=np.float32)


def resample(array: NDArray[np.generic], source: Axes, target: Axes) -> NDArray[np.float32]:
    """Resample an array (z, y, x) from the source's axis positions to the target's, all in mm of the same frame.

    One slice at a time is held in float32 at the source's resolution. Where few samples count for each target, as in a
    mean over a CT's fine pixels, only those are multiplied.
    """
    wz, wy, wx = (axis_weights(s, t) for s, t in zip(source, target, strict=True))
    planes = np.empty((len(source[0]), len(target[1]), len(target[2])), dtype=np.float32)
    if max(np.count_nonzero(w) / w.size for w in (wy, wx)) < SPARSE:
        rows, columns = csr_array(wy), csr_array(wx)
        plane = np.empty(array.shape[1:], dtype=np.float32)
        for k in range(len(source[0])):
            plane[:] = array[k]
            planes[k] = (columns @ np.ascontiguousarray((rows @ plane).T)).T
    else:
        for k in range(len(source[0])):
            planes[k] = wy @ (array[k].astype(np.float32) @ wx.T)
    flat = planes.reshape(len(planes), -1)
    return np.asarray((wz @ flat).reshape(len(target[0]), len(target[1]), len(target[2])))
