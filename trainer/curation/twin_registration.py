"""Whether two CTs are the same scan: laid on each other by a rigid motion, their tissue is compared point by point.

The motion is found by Gauss-Newton steps on the difference of both, each brought to unit length: the sum of squares is
then two less twice their correlation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from contourd.imaging.volume import Volume
from trainer.curation.twin_signatures import FloatArray, Map, on_lattice

STEP_MM = 4.0
LOWEST_HU, HIGHEST_HU = -200.0, 300.0
OUTSIDE_HU = -900.0
AIRWAY = 3
# What is slower than BROAD is taken off, what is faster than FINE smoothed; in steps. First both twice as coarse.
FINE, BROAD = 0.6, 2.0
LEVELS = (2.0, 1.0)
POINTS = 1500
LEAST_COMMON_CM3 = 300.0
LEAST_INSIDE = 0.6
# On the coarse level twins reach 0.9; what stays below this is not looked at more closely.
HOPELESS = 0.7
FURTHEST_MM, FURTHEST_DEG = 20.0, 12.0
ITERATIONS = 8
STILL = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """A CT's contrasts.

    Attributes
    ----------
    levels
        float16 (z, y, x) at STEP_MM, one per LEVELS, 0 outside of the patient.
    inside
        bool, where there is a patient and nothing was masked.
    first
        Index of the arrays' first voxel, counted in STEP_MM from the CT's first voxel along its canonical axes.
    """

    levels: tuple[NDArray[np.float16], ...]
    inside: NDArray[np.bool_]
    first: NDArray[np.int64]


def make_tissue(volume: Volume) -> Tissue | None:
    """Take the contrasts out of a CT; None where it holds no patient."""
    hu = on_lattice(volume, STEP_MM)
    there = hu > OUTSIDE_HU
    if not there.any():
        return None
    ends = [np.flatnonzero(there.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    box = tuple(slice(int(low), int(high) + 1) for low, high in ends)
    hu, there = hu[box], there[box]
    closed = ndimage.binary_closing(np.pad(there, AIRWAY), iterations=AIRWAY)[(slice(AIRWAY, -AIRWAY),) * 3]
    inside = ndimage.binary_erosion(closed)
    weight = inside.astype(np.float32)
    values = np.clip(hu, LOWEST_HU, HIGHEST_HU) * weight
    levels = []
    for level in LEVELS:
        fine, broad = (_smoothed(values, weight, s * level) for s in (FINE, BROAD))
        levels.append(np.asarray((fine - broad) * weight, dtype=np.float16))
    return Tissue(tuple(levels), inside, np.array([int(low) for low, _ in ends]))


def _smoothed(values: Map, weight: Map, sigma: float) -> Map:
    """Mean by a Gaussian over what has weight alone: the edge of a mask is no contrast."""
    mean = ndimage.gaussian_filter(values, sigma) / np.maximum(ndimage.gaussian_filter(weight, sigma), 1e-3)
    return np.asarray(mean, dtype=np.float32)


def similarity(a: Tissue, b: Tissue, offset_mm: tuple[float, float, float]) -> float:
    """Correlate two CTs where both hold the patient, after the best rigid motion near a shift.

    Parameters
    ----------
    offset_mm
        Position in ``a`` less that in ``b``, a first guess.

    Returns
    -------
    From -1 to 1, of the coarse level where that is below HOPELESS; 0 where they have less than LEAST_COMMON_CM3 in
    common.
    """
    start = np.array(offset_mm) / STEP_MM + b.first - a.first  # index in a less index in b
    index = np.argwhere(b.inside)
    common = index[_inside(a, index + start)]
    if len(common) * STEP_MM**3 < LEAST_COMMON_CM3 * 1000:
        return 0.0
    strength = np.abs(b.levels[0][tuple(common.T)]).astype(np.float64)
    chance = strength + 0.2 * strength.mean() + 1e-9
    drawn = np.random.default_rng(0).choice(
        len(common), min(POINTS, len(common)), replace=False, p=chance / chance.sum()
    )
    motion = np.zeros(6)
    around = common.mean(axis=0)
    for level in range(len(LEVELS)):
        last = _Overlay(a, a.levels[level].astype(np.float32), b.levels[level], around, start)
        motion = _registered(last, common[drawn], motion)
        coarse = last.correlation(common[drawn], motion)
        if coarse < HOPELESS:
            return coarse
    return last.correlation(common, motion)


@dataclass(frozen=True, slots=True, eq=False)
class _Overlay:
    """Points of ``b``, looked up in ``a`` after a motion: three steps along the axes, and three degrees around them."""

    a: Tissue
    looked_up: Map
    b: NDArray[np.float16]
    around: FloatArray
    start: FloatArray

    def sides(self, points: NDArray[np.int64], motion: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the values of both at points (n, 3) of ``b``, 0 where one falls beside ``a``."""
        turned = (points - self.around) @ Rotation.from_rotvec(motion[3:], degrees=True).as_matrix().T
        where = turned + self.around + self.start + motion[:3]
        there = _inside(self.a, where)
        found = ndimage.map_coordinates(self.looked_up, where.T, order=1, output=np.float64)
        return found * there, self.b[tuple(points.T)].astype(np.float64) * there

    def correlation(self, points: NDArray[np.int64], motion: FloatArray) -> float:
        """Correlate; 0 where too few points are left in common."""
        u, v = self.sides(points, motion)
        if np.count_nonzero(v) < LEAST_INSIDE * len(v):
            return 0.0
        return float((u * v).sum() / max(float(np.sqrt((u * u).sum() * (v * v).sum())), 1e-9))

    def difference(self, points: NDArray[np.int64], motion: FloatArray) -> FloatArray:
        """Return both brought to unit length, one less the other."""
        u, v = self.sides(points, motion)
        return np.asarray(u / max(float(np.linalg.norm(u)), 1e-9) - v / max(float(np.linalg.norm(v)), 1e-9))


def _inside(tissue: Tissue, index: FloatArray | NDArray[np.int64]) -> NDArray[np.bool_]:
    nearest = np.rint(index).astype(np.int64)
    there = ((nearest >= 0) & (nearest < tissue.inside.shape)).all(axis=1)
    found = np.zeros(len(index), dtype=bool)
    found[there] = tissue.inside[tuple(nearest[there].T)]
    return found


def _registered(overlay: _Overlay, points: NDArray[np.int64], motion: FloatArray) -> FloatArray:
    """Move until nothing gets better, by damped Gauss-Newton steps with differences of a quarter step or a degree."""
    steps = np.array([0.25] * 3 + [1.0] * 3)
    furthest = np.array([FURTHEST_MM / STEP_MM] * 3 + [FURTHEST_DEG] * 3)
    damping, here = 1e-2, overlay.difference(points, motion)
    for _ in range(ITERATIONS):
        ahead = [overlay.difference(points, motion + step) for step in np.diag(steps)]
        jacobian = np.stack([(one - here) / step for one, step in zip(ahead, steps, strict=True)], axis=1)
        normal = jacobian.T @ jacobian
        damped = normal + np.diag(damping * np.diag(normal) + 1e-9)
        moved = np.clip(motion - np.linalg.solve(damped, jacobian.T @ here), -furthest, furthest)
        there = overlay.difference(points, moved)
        if float(there @ there) >= float(here @ here):
            damping *= 10
            continue
        still = bool((np.abs(moved - motion) < STILL).all())
        motion, here, damping = moved, there, damping / 3
        if still:
            break
    return motion
