"""One organ that was read back against the voxels it was contoured from: what an outline can differ by, and no more.

An outline may move by what its writing moves it (simplification, decimals), and a reader by half a voxel; what is
smaller than the outlines that are drawn is left out. All of that is bounded by the surface, whatever the voxel's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely import LinearRing, MultiLineString

from contourd.dicom.rtstruct.contours import TOLERANCES_MM
from contourd.dicom.rtstruct.reader import extent, rasterise
from contourd.imaging.contours import SMALLEST_AREA_MM2, SMALLEST_HOLE_MM2, TOLERANCE_PIXELS, MaskInBox
from contourd.imaging.grid import Box, FloatArray, Grid, around, within

HALF_PIXEL = 0.5
FEWEST_POINTS = 3
MANY_POINTS = 500
# Coordinates of two decimals, and what floating-point numbers lose.
ROUNDING_MM, EDGE_PIXELS = 0.01, 0.01
# Of a square, a shift by a fifth of a pixel changes a tenth of the voxels on its surface; by half a pixel a quarter.
SURFACE_SHARE = 0.1
# Half a voxel is the error to find. Of few voxels one at an end moves the centroid over 0.2 mm: in an organ under 1 cc,
# and in a spinal cord on pixels of 4 mm.
MOST_SHIFT_MM, MOST_SHIFT_VOXELS = 0.2, 0.25
LARGE_CC, FEW_VOXELS = 1.0, 2000
IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
BESIDE = ((0, 0), (1, 1), (1, 1))
Mask = NDArray[np.bool_]


def organ_differs(contours_mm: Sequence[FloatArray], mask: MaskInBox, grid: Grid) -> str:
    """Return what is wrong with an organ that was read back; empty where nothing is.

    Parameters
    ----------
    contours_mm
        As read, each (n, 3), patient mm.
    mask
        The voxels that they were drawn around.

    Notes
    -----
    Right are voxels that change sides because the line moved by what its writing moves it, thin parts and holes
    that are too small to be drawn, and a few whose centres lie within half a pixel of the line: together at most
    ``SURFACE_SHARE`` of the organ's surface, and one in any case.
    """
    box = around(mask.box, extent(contours_mm, grid))
    made, read = _both(contours_mm, mask, grid, box)
    if np.array_equal(made, read):
        return ""
    differing, surface = made ^ read, _surface(made)
    if np.count_nonzero(differing) > surface:  # more than any line that moves can change
        return _told_count(made, read, surface)
    dy, dx = grid.pixel_spacing_mm
    left_out = _too_small(made, made & read, min(1.0, SMALLEST_AREA_MM2 / (dy * dx)))
    filled = _too_small(~made, ~made & ~read, SMALLEST_HOLE_MM2 / (dy * dx))
    drawn = differing & ~left_out & ~filled
    distance = np.zeros(drawn.shape)
    distance[drawn] = _distance_pixels(contours_mm, drawn, box, grid)
    moved = drawn & (distance <= _written_pixels(contours_mm, grid))
    if np.count_nonzero(differing & ~moved) > _most_differing(surface):
        return _told_count(made, read, surface)
    few = grid.volume_mm3(made, box[0].start) < LARGE_CC * 1000 or np.count_nonzero(made) < FEW_VOXELS
    meant = made & ~left_out | filled
    shift = _shift(read, meant ^ moved if few else meant, box, grid)
    most_mm = np.maximum(MOST_SHIFT_MM, MOST_SHIFT_VOXELS * np.array(grid.spacing_mm) if few else 0)
    if np.any(shift > most_mm):
        return f"reads back moved by {' x '.join(f'{mm:.2f}' for mm in shift)} mm (slices, rows, columns)"
    if np.any(distance > HALF_PIXEL + EDGE_PIXELS):
        return f"reads back with a voxel that lies {distance.max():.1f} pixels beyond its outline"
    return ""


def _both(contours_mm: Sequence[FloatArray], mask: MaskInBox, grid: Grid, box: Box) -> tuple[Mask, Mask]:
    """Return the voxels as made and as read, with an empty row and column on each side of the box."""
    read = rasterise(contours_mm, grid, box)
    made = np.zeros_like(read)
    made[within(mask.box, box)] = mask.mask
    return np.pad(made, BESIDE), np.pad(read, BESIDE)


def _told_count(made: Mask, read: Mask, surface: int) -> str:
    wanted, got = np.count_nonzero(made), np.count_nonzero(read)
    dice, differing = 2 * np.count_nonzero(made & read) / (wanted + got), np.count_nonzero(made ^ read)
    most = _most_differing(surface)
    return f"reads back with Dice {dice:.4f}: {differing} voxels differ, of {surface} on its surface at most {most} may"


def _most_differing(surface: int) -> int:
    return max(1, ceil(SURFACE_SHARE * surface))


def _surface(made: Mask) -> int:
    """Count the voxels of which an in-plane neighbour is none."""
    inner = made[:, :-2, 1:-1] & made[:, 2:, 1:-1] & made[:, 1:-1, :-2] & made[:, 1:-1, 2:]
    return int(np.count_nonzero(made[:, 1:-1, 1:-1] & ~inner))


def _written_pixels(contours_mm: Sequence[FloatArray], grid: Grid) -> float:
    """Return how far the writing may move a line, in pixels, and never more than half of one.

    What has more than MOST_POINTS is simplified first by the smallest of TOLERANCES_MM, and seldom by more.
    """
    longest = max(map(len, contours_mm), default=0)
    simplified_mm = TOLERANCES_MM[-1] if longest > MANY_POINTS else TOLERANCES_MM[1]
    return min(HALF_PIXEL, TOLERANCE_PIXELS + (simplified_mm + ROUNDING_MM) / min(grid.pixel_spacing_mm))


def _too_small(whole: Mask, kept: Mask, least_pixels: float) -> Mask:
    """Find parts of a slice that are lost as a whole, and whose outline may be under the least area that is drawn.

    An outline holds the squares between the centres of four neighbours that belong to it, each of one pixel: a part
    with as many such squares as ``least_pixels`` would have been drawn.
    """
    labels, count = ndimage.label(whole & ~kept, IN_PLANE)
    if not count:
        return np.zeros_like(whole)
    beside = labels[ndimage.binary_dilation(kept, IN_PLANE)]
    lost = labels > 0
    four = lost[:, :-1, :-1] & lost[:, 1:, :-1] & lost[:, :-1, 1:] & lost[:, 1:, 1:]
    squares = np.bincount(labels[:, :-1, :-1][four], minlength=count + 1)
    small = (squares < least_pixels) & (np.bincount(beside, minlength=count + 1) == 0)
    small[0] = False
    return np.asarray(small[labels])


def _distance_pixels(contours_mm: Sequence[FloatArray], voxels: Mask, box: Box, grid: Grid) -> FloatArray:
    """Return how far voxel centres lie from the lines of their slice, in pixels; infinite where it has none."""
    index = np.argwhere(voxels) + np.array([box[0].start, box[1].start - 1, box[2].start - 1])
    found = np.full(len(index), np.inf)
    lines: dict[int, list[LinearRing]] = {}
    for points in contours_mm:
        place = grid.to_index(points)
        if len(points) >= FEWEST_POINTS:
            lines.setdefault(round(float(place[:, 0].mean())), []).append(LinearRing(place[:, 1:]))
    for k in np.unique(index[:, 0]):
        if k in lines:
            on = index[:, 0] == k
            found[on] = shapely.distance(shapely.points(index[on, 1:].astype(float)), MultiLineString(lines[k]))
    return found


def _shift(read: Mask, meant: Mask, box: Box, grid: Grid) -> FloatArray:
    """Return how far apart the centroids are along slices, rows and columns, in mm."""
    if not read.any() or not meant.any():
        return np.zeros(3)
    return np.abs(centroid_mm(read, box, grid) - centroid_mm(meant, box, grid))


def centroid_mm(inside: Mask, box: Box, grid: Grid) -> FloatArray:
    """Return the mean place of voxels, mm (slices, rows, columns); rows and columns from the box's first."""
    dy, dx = grid.pixel_spacing_mm
    z = grid.slice_positions_mm[box[0]]
    counts = [np.count_nonzero(inside, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    places = (z, np.arange(inside.shape[1]) * dy, np.arange(inside.shape[2]) * dx)
    return np.array([np.average(place, weights=n) for place, n in zip(places, counts, strict=True)])
