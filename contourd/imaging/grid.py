"""The geometry of a voxel volume: index <-> patient, in one place.

DICOM PS3.3 C.7.6.2.1.1: ImagePositionPatient is the centre of the first voxel of a slice; patient coordinates are LPS
(x to the left, y to the back, z to the head), in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where each voxel of an array (z, y, x) lies in the patient.

    Attributes
    ----------
    shape
        (slices, rows, columns).
    pixel_spacing_mm
        (between rows, between columns), as DICOM's PixelSpacing.
    slice_origins_mm
        (slices, 3): the centre of voxel (k, 0, 0) of each slice k, LPS. Each slice keeps its own, so unequal
        spacing is kept too.
    row_direction, column_direction
        Unit vectors, LPS: along a row (increasing column index) and along a column (increasing row index); the
        first and the last three values of ImageOrientationPatient.
    """

    shape: tuple[int, int, int]
    pixel_spacing_mm: tuple[float, float]
    slice_origins_mm: FloatArray
    row_direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column_direction: tuple[float, float, float] = (0.0, 1.0, 0.0)

    @classmethod
    def regular(
        cls,
        shape: tuple[int, int, int],
        spacing_mm: Sequence[float],
        origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Self:
        """Build an axial grid along LPS with equal spacing (z, y, x) from the first voxel's centre (x, y, z)."""
        dz, dy, dx = spacing_mm
        origins = np.tile(np.asarray(origin_mm, dtype=np.float64), (shape[0], 1))
        origins[:, 2] += np.arange(shape[0]) * dz
        return cls(shape, (float(dy), float(dx)), origins)

    @property
    def normal(self) -> FloatArray:
        """The unit vector across the slices, in the order of the slices."""
        normal = np.cross(self.row_direction, self.column_direction)
        if self.shape[0] > 1 and float((self.slice_origins_mm[-1] - self.slice_origins_mm[0]) @ normal) < 0:
            return np.asarray(-normal)
        return np.asarray(normal)

    @property
    def slice_positions_mm(self) -> FloatArray:
        """(slices,): distance of each slice from the first along the normal, increasing."""
        return np.asarray((self.slice_origins_mm - self.slice_origins_mm[0]) @ self.normal)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(z, y, x); z is the median over the slices, 1.0 for a single slice."""
        steps = np.diff(self.slice_positions_mm)
        dz = float(np.median(steps)) if len(steps) else 1.0
        return (dz, *self.pixel_spacing_mm)

    @property
    def voxel_volume_mm3(self) -> float:
        """The volume of one voxel of a slice of the median spacing; where spacing may be unequal, use volume_mm3."""
        return float(np.prod(self.spacing_mm))

    @property
    def slice_thicknesses_mm(self) -> FloatArray:
        """(slices,): what each slice stands for, half the way to either neighbour; at the ends the only step."""
        if self.shape[0] == 1:
            return np.array([self.spacing_mm[0]])
        return extents_mm(self.slice_positions_mm)

    def volume_mm3(self, inside: NDArray[np.bool_], first_slice: int = 0) -> float:
        """Return the volume of voxels (z, y, x), each as thick as its slice; the array may begin at a later slice."""
        counts = np.count_nonzero(inside, axis=(1, 2))
        thicknesses = self.slice_thicknesses_mm[first_slice : first_slice + len(counts)]
        return float(counts @ thicknesses) * self.pixel_spacing_mm[0] * self.pixel_spacing_mm[1]

    def to_patient(self, index_zyx: FloatArray) -> FloatArray:
        """Map voxel indices (n, 3) (z, y, x), fractions allowed, to patient points (n, 3) (x, y, z) in mm.

        Between two slices the origin is interpolated linearly; beyond the first and the last it is extrapolated.
        """
        index = np.atleast_2d(np.asarray(index_zyx, dtype=np.float64))
        points = self._origin_at(index[:, 0])
        points = points + index[:, 2:3] * self.pixel_spacing_mm[1] * np.asarray(self.row_direction)
        return np.asarray(points + index[:, 1:2] * self.pixel_spacing_mm[0] * np.asarray(self.column_direction))

    def to_index(self, points_mm: FloatArray) -> FloatArray:
        """Map patient points (n, 3) (x, y, z) in mm to voxel indices (n, 3) (z, y, x), with fractions."""
        points = np.atleast_2d(np.asarray(points_mm, dtype=np.float64))
        along = (points - self.slice_origins_mm[0]) @ self.normal
        k = self._slice_at(along)
        inside = points - self._origin_at(k)
        column = inside @ np.asarray(self.row_direction) / self.pixel_spacing_mm[1]
        row = inside @ np.asarray(self.column_direction) / self.pixel_spacing_mm[0]
        return np.column_stack([k, row, column])

    def _slice_at(self, position_mm: FloatArray) -> FloatArray:
        positions = self.slice_positions_mm
        if len(positions) == 1:
            return np.asarray(position_mm / self.spacing_mm[0])
        low = np.clip(np.searchsorted(positions, position_mm, side="right") - 1, 0, len(positions) - 2)
        return np.asarray(low + (position_mm - positions[low]) / (positions[low + 1] - positions[low]))

    def _origin_at(self, k: FloatArray) -> FloatArray:
        origins = self.slice_origins_mm
        if len(origins) == 1:
            return np.asarray(origins + k[:, None] * self.spacing_mm[0] * self.normal)
        low = np.clip(np.floor(k).astype(int), 0, len(origins) - 2)
        return np.asarray(origins[low] + (k - low)[:, None] * (origins[low + 1] - origins[low]))

    def even_slices(self) -> tuple[NDArray[np.intp], float]:
        """Choose the nearest slice at each of equal steps, the smallest that there are; returns indices and step."""
        z = self.slice_positions_mm
        dz = float(np.diff(z).min()) if len(z) > 1 else self.spacing_mm[0]
        levels = np.arange(round(z[-1] / dz) + 1) * dz
        return np.abs(levels[:, None] - z[None, :]).argmin(axis=1), dz

    def canonical(self) -> tuple[Self, Reorientation]:
        """Turn the axes by 90 degrees and flips until rows run to the patient's left and columns to the back.

        Returns
        -------
        The grid of the turned array, and the turn, which also turns arrays there and back. Slices keep their order.
        """
        transposed = abs(self.row_direction[0]) < abs(self.column_direction[0])
        row, column = (np.asarray(d) for d in (self.row_direction, self.column_direction))
        dy, dx = self.pixel_spacing_mm
        rows, columns = self.shape[1:]
        if transposed:
            row, column, dy, dx, rows, columns = column, row, dx, dy, columns, rows
        flip_x, flip_y = bool(row[0] < 0), bool(column[1] < 0)
        origins = self.slice_origins_mm
        if flip_x:
            origins, row = origins + row * dx * (columns - 1), -row
        if flip_y:
            origins, column = origins + column * dy * (rows - 1), -column
        grid = type(self)((self.shape[0], rows, columns), (dy, dx), origins, _vector(row), _vector(column))
        return grid, Reorientation(transposed, flip_y, flip_x)


@dataclass(frozen=True, slots=True)
class Reorientation:
    """A turn of the in-plane axes by transposition and flips; arrays are viewed, not copied."""

    transposed: bool
    flip_y: bool
    flip_x: bool

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """View a source array (z, y, x) along the canonical axes."""
        turned = array.swapaxes(1, 2) if self.transposed else array
        return turned[:, :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def revert(self, array: NDArray[Any]) -> NDArray[Any]:
        """View a canonical array (z, y, x) along the source's axes."""
        turned = array[:, :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return turned.swapaxes(1, 2) if self.transposed else turned

    def apply_box(self, box: Box, shape: tuple[int, int, int]) -> Box:
        """Map a box of the source array to the canonical one's; ``shape`` is the canonical array's."""
        z, y, x = box
        if self.transposed:
            y, x = x, y
        return (z, _flipped(y, shape[1]) if self.flip_y else y, _flipped(x, shape[2]) if self.flip_x else x)

    def revert_box(self, box: Box, shape: tuple[int, int, int]) -> Box:
        """Map a box of the canonical array to the source's; ``shape`` is the canonical array's."""
        z, y, x = box
        y = _flipped(y, shape[1]) if self.flip_y else y
        x = _flipped(x, shape[2]) if self.flip_x else x
        return (z, x, y) if self.transposed else (z, y, x)


def extents_mm(positions_mm: FloatArray) -> FloatArray:
    """Return what each of two or more samples stands for: half the way to either neighbour, or the only step."""
    steps = np.abs(np.diff(positions_mm))
    around_each = np.concatenate([steps[:1], steps, steps[-1:]])
    return np.asarray((around_each[:-1] + around_each[1:]) / 2)


def within(inner: Box, outer: Box) -> Box:
    """Return where a box lies in the array of another that holds it."""
    z, y, x = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return z, y, x


def around(a: Box, b: Box) -> Box:
    """Return the box around two boxes; an empty one does not count."""
    if any(part.stop <= part.start for part in a):
        return b
    if any(part.stop <= part.start for part in b):
        return a
    z, y, x = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return z, y, x


def _flipped(part: slice, length: int) -> slice:
    return slice(length - part.stop, length - part.start)


def _vector(direction: FloatArray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in direction)
    return (x, y, z)
