"""Closed planar contours of organs: contour, ROI, structure set; from probability to contours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from shapely import LinearRing, LineString, MultiPolygon, Point, Polygon, shortest_line

from contourd.imaging.grid import Box, FloatArray, Grid
from contourd.imaging.isoline import Planes, Rings, corners, marching_squares, refined

# How far simplification may move the line, and the smallest loop that is kept (never more than one pixel).
TOLERANCE_PIXELS = 0.02
SMALLEST_AREA_MM2 = 1.0
SMALLEST_HOLE_MM2 = 10.0
# Readers that round points to pixels put one exactly half-way a pixel too far; a hair inside, all readers agree.
INSIDE_PIXEL_EDGE = 0.005


class HoleStyle(Enum):
    """How a hole is drawn (PS3.3 C.8.8.6.3)."""

    KEYHOLE = "keyhole"  # joined to its outer loop by a slit of no width: CLOSED_PLANAR
    XOR = "xor"  # a loop of its own: CLOSEDPLANAR_XOR


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One closed loop on one slice.

    Attributes
    ----------
    slice_index
        Index of the slice in the grid that the loop was traced on.
    points_mm
        float64 (n, 3), patient coordinates (x, y, z) LPS; the first point is not repeated at the end.
    hole
        The loop cuts a hole into another of its slice: combine them by exclusive or (HoleStyle.XOR only).
    """

    slice_index: int
    points_mm: NDArray[np.float64]
    hole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ROI:
    """One organ of a structure set.

    Attributes
    ----------
    name
        TG-263 primary name.
    contours
        Empty: nothing was found.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """One loop in pixels: float64 (n, 2), row and column, not closed."""

    plane: int
    points: FloatArray
    hole: bool = False


def trace(
    probability: Planes | NDArray[np.bool_],
    box: Box,
    grid: Grid,
    level: float = 0.5,
    holes: HoleStyle = HoleStyle.KEYHOLE,
) -> tuple[Contour, ...]:
    """Contour one organ, slice by slice, on each slice's own plane.

    A probability is contoured at its level, between voxel centres: the loops are smooth and part exactly the voxels
    at or over the level from those under it. What is smaller than a pixel, and holes under SMALLEST_HOLE_MM2, are left
    out. A mask, that is an array of nothing but 0 and 1, says no more than which voxels belong to the organ: its loops
    are the edges of its pixels, INSIDE_PIXEL_EDGE inwards, and nothing is left out. The loops are the same however the
    grid's rows and columns run.

    Parameters
    ----------
    probability
        float32 or bool (z, y, x) inside ``box``; taken as zero outside of it.
    box
        Slices into the array of ``grid``.
    level
        Of a probability; a mask has none.
    """
    if not probability.size:
        return ()
    grid, turn = grid.canonical()
    box = turn.apply_box(box, grid.shape)
    dy, dx = grid.pixel_spacing_mm
    values = np.ascontiguousarray(turn.apply(probability), dtype=np.float32)
    if np.any((values > 0) & (values != 1)):
        loops = list(_level_lines(values, level, dy * dx, holes))
    else:
        loops = list(_edges(values, holes))
    if not loops:
        return ()
    first = np.array([part.start for part in box], dtype=np.float64)
    planes = np.repeat([float(loop.plane) for loop in loops], [len(loop.points) for loop in loops])
    points_mm = grid.to_patient(np.column_stack([planes, np.concatenate([loop.points for loop in loops])]) + first)
    ends = np.cumsum([len(loop.points) for loop in loops])
    return tuple(
        Contour(box[0].start + loop.plane, part, loop.hole)
        for loop, part in zip(loops, np.split(points_mm, ends[:-1]), strict=True)
    )


def _edges(mask: Planes, style: HoleStyle) -> Iterator[_Loop]:
    """Outline the pixels of a mask (z, y, x)."""
    for plane, outer, holes in _parts(corners(marching_squares(mask, 0.5 + INSIDE_PIXEL_EDGE), mask)):
        yield from _styled(plane, Polygon(outer, holes) if holes else outer, style)


def _level_lines(probability: Planes, level: float, pixel_mm2: float, style: HoleStyle) -> Iterator[_Loop]:
    """Draw the level of a probability (z, y, x), simplified."""
    least = min(1.0, SMALLEST_AREA_MM2 / pixel_mm2)
    for plane, outer, holes in _parts(refined(marching_squares(probability, level), probability, level)):
        wide = [hole for hole in holes if Polygon(hole).area * pixel_mm2 >= SMALLEST_HOLE_MM2]
        shape = _simplified(Polygon(outer, wide))
        for part in shape.geoms if isinstance(shape, MultiPolygon) else [shape]:
            if part.area >= least:
                yield from _styled(plane, part, style)


def _simplified(polygon: Polygon) -> Polygon | MultiPolygon:
    """Drop points; keeping the topology takes ten times as long and is seldom needed."""
    simpler = polygon.simplify(TOLERANCE_PIXELS, preserve_topology=False)
    if simpler.is_valid and isinstance(simpler, Polygon) and len(simpler.interiors) == len(polygon.interiors):
        return simpler
    simpler = polygon.simplify(TOLERANCE_PIXELS, preserve_topology=True)
    return simpler if simpler.is_valid else simpler.buffer(0)


def _parts(rings: Rings) -> Iterator[tuple[int, FloatArray, list[FloatArray]]]:
    """Give the plane, the outer ring and the holes of each connected part."""
    pieces = np.split(rings.points, np.flatnonzero(np.diff(rings.ring)) + 1)
    bounds = [*np.flatnonzero(np.diff(rings.part, prepend=-1)), len(rings.part)]
    for start, end in pairwise(bounds):
        yield int(rings.plane[start]), pieces[start], pieces[start + 1 : end]


def _styled(plane: int, shape: Polygon | FloatArray, style: HoleStyle) -> Iterator[_Loop]:
    if not isinstance(shape, Polygon):
        yield _Loop(plane, shape)
        return
    outer, *holes = (np.asarray(ring.coords)[:-1] for ring in (shape.exterior, *shape.interiors))
    if style is HoleStyle.KEYHOLE:
        yield _Loop(plane, _keyholed(outer, holes))
        return
    yield _Loop(plane, outer)
    for hole in holes:
        yield _Loop(plane, hole, hole=True)


def _keyholed(loop: FloatArray, holes: list[FloatArray]) -> FloatArray:
    """Join the holes to the outer ring by slits of no width, the nearest hole first: no slit crosses another hole."""
    while holes:
        outline = LinearRing(loop)
        slits = [shortest_line(outline, LinearRing(hole)) for hole in holes]
        nearest = int(np.argmin([slit.length for slit in slits]))
        on_loop, on_hole = np.asarray(slits[nearest].coords)
        loop, hole = _opened_at(loop, on_loop), _opened_at(holes.pop(nearest), on_hole)
        loop = np.concatenate([loop, loop[:1], hole, hole[:1]])
    return loop


def _opened_at(ring: FloatArray, point: FloatArray) -> FloatArray:
    """Turn a ring until it begins at a point on it, which is added where it is no corner."""
    closed = np.concatenate([ring, ring[:1]])
    at = LineString(closed).project(Point(point))
    before = int(np.searchsorted(np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1)), at, side="left"))
    before = min(before, len(ring) - 1)
    turned = np.roll(ring, -(before + 1), axis=0)  # begins behind the point, ends before it
    turned = turned[1:] if np.array_equal(turned[0], point) else turned
    turned = turned[:-1] if np.array_equal(turned[-1], point) else turned
    return np.concatenate([point[None], turned])
