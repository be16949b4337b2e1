"""Closed planar contours of organs: contour, ROI, structure set; from probability to contours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from shapely import MultiPolygon, Polygon

from contourd.imaging.grid import Box, FloatArray, Grid

# How far simplification may move the line, and the smallest loop that is kept (never more than one pixel).
TOLERANCE_PIXELS = 0.02
SMALLEST_AREA_MM2 = 1.0
SMALLEST_HOLE_MM2 = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One closed loop on one slice.

    Attributes
    ----------
    slice_index
        Index of the slice in the grid that the loop was traced on.
    points_mm
        float64 (n, 3), patient coordinates (x, y, z) LPS; the first point is not repeated at the end.
    """

    slice_index: int
    points_mm: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ROI:
    """One organ of a structure set.

    Attributes
    ----------
    name
        TG-263 primary name.
    contours
        Keyhole contours where the organ has holes. Empty: nothing was found.
    volume_cc
        Of the voxels with probability at least 0.5 on the CT's own grid.
    """

    name: str
    contours: tuple[Contour, ...]
    volume_cc: float


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """The organs of one CT series."""

    rois: tuple[ROI, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MaskInBox:
    """Voxels of one organ inside a box of the CT's array; False everywhere else.

    Attributes
    ----------
    box
        Slices (z, y, x) into the CT's array.
    mask
        bool, of the box's shape.
    """

    box: Box
    mask: NDArray[np.bool_]

    def on(self, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Return the whole array (z, y, x) of the CT's shape."""
        whole = np.zeros(shape, dtype=bool)
        whole[self.box] = self.mask
        return whole


def trace(probability: NDArray[np.float32], box: Box, grid: Grid, level: float = 0.5) -> tuple[Contour, ...]:
    """Contour one organ at a level of its probability, slice by slice, on each slice's own plane.

    Marching squares with linear interpolation between voxel centres: the loops are smooth and part exactly the voxels
    at or over the level from those under it. Holes are joined to their loop by a keyhole (PS3.3 C.8.8.6.3); what is
    smaller than a pixel, and holes under SMALLEST_HOLE_MM2, are left out.

    Parameters
    ----------
    probability
        float32 (z, y, x) inside ``box``; taken as zero outside of it.
    box
        Slices into the array of ``grid``.
    """
    if not probability.size:
        return ()
    dy, dx = grid.pixel_spacing_mm
    first = np.array(
        [box[1].start - 1, box[2].start - 1], dtype=np.float64
    )  # row and column of the padded plane's corner
    contours = []
    for offset, plane in enumerate(probability):
        if plane.max() < level:
            continue
        k = box[0].start + offset
        generator = contour_generator(z=np.pad(plane, 1), fill_type=FillType.OuterOffset)
        for points, offsets in zip(*generator.filled(level, np.inf), strict=True):
            rings = [points[a:b, ::-1] for a, b in pairwise(offsets)]  # (n, 2): row, column
            for ring in _loops(rings, dy * dx):
                index = np.column_stack([np.full(len(ring), float(k)), ring + first])
                contours.append(Contour(k, grid.to_patient(index)))
    return tuple(contours)


def _loops(rings: list[FloatArray], pixel_mm2: float) -> list[FloatArray]:
    """Simplify an outer ring and its holes, in pixels, and join each part to one loop (n, 2), not closed."""
    holes = [ring for ring in rings[1:] if len(ring) > 3 and Polygon(ring).area * pixel_mm2 >= SMALLEST_HOLE_MM2]
    if len(rings[0]) <= 3:
        return []
    shape = Polygon(rings[0], holes).simplify(TOLERANCE_PIXELS, preserve_topology=True)
    if not shape.is_valid:
        shape = shape.buffer(0)
    parts = shape.geoms if isinstance(shape, MultiPolygon) else [shape]
    return [
        _keyholed(part) for part in parts if not part.is_empty and part.area >= min(1.0, SMALLEST_AREA_MM2 / pixel_mm2)
    ]


def _keyholed(shape: Polygon) -> FloatArray:
    """Join the holes to the outer ring by slits of no width, the nearest hole first: no slit crosses another hole."""
    loop = np.asarray(shape.exterior.coords)[:-1]
    holes = [np.asarray(hole.coords)[:-1] for hole in shape.interiors]
    while holes:
        nearest = [cKDTree(loop).query(hole) for hole in holes]
        chosen = int(np.argmin([distance.min() for distance, _ in nearest]))
        distance, at = nearest[chosen]
        start = int(np.argmin(distance))
        hole = np.roll(holes.pop(chosen), -start, axis=0)
        i = int(at[start])
        loop = np.concatenate([loop[: i + 1], hole, hole[:1], loop[i:]])
    return loop
