"""The line on which a sampled plane takes a value, to a hundredth of a pixel; rings in pixels (row, column).

Marching squares finds which pixels the line parts. Its own points are linear and its chords cut a small organ's rim:
a circle of three pixels' radius loses 4 % of its area. So each point is moved along its grid line to where a cubic
takes the value, and the middle of each chord onto the bicubic's line. No point leaves its cell, hence the line parts
exactly the pixels at or over the value from those under it, and cannot cross itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from contourd.imaging.grid import FloatArray

IntArray = NDArray[np.intp]
Planes = NDArray[np.float32]
# Zeros around the planes, so that the cubic has its four samples everywhere.
MARGIN = 3
CLEAR_PIXELS = 0.01
STEPS = 3
AROUND = np.arange(-1, 3)
# A partial volume is a ramp one pixel wide; a network's probability is several pixels wide.
WIDEST_PARTIAL_VOLUME = 1.4
MOST_PARTIAL_VOLUME_SHIFT = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Closed rings on the planes of a stack; outer ones turn one way, holes the other.

    Attributes
    ----------
    points
        float64 (n, 2): row and column; the first point of a ring is not repeated.
    ring
        int (n,): number of the ring that each point belongs to.
    plane, part
        int (rings,): the plane, and the number of the connected part; a part's first ring is its outer one.
    """

    points: FloatArray
    ring: IntArray
    plane: IntArray
    part: IntArray


def marching_squares(planes: Planes, level: float) -> Rings:
    """Find the rings around what is at or over ``level`` in planes (z, y, x), zero outside; points linear."""
    lowest = level + 1e-6 * max(level, 1e-3)  # a value on the level would put the points of four edges in one place
    padded = np.pad(planes.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    padded[padded == level] = lowest
    n, rows, columns = padded.shape
    # One sheet of all planes, one below the other, the zeros around them between: a call for each takes far longer.
    generator = contour_generator(z=padded.reshape(n * rows, columns), fill_type=FillType.OuterOffset)
    filled = list(zip(*generator.filled(level, np.inf), strict=True))
    rings = [points[a : b - 1, ::-1] for points, offsets in filled for a, b in pairwise(offsets)]
    part = [i for i, (_, offsets) in enumerate(filled) for _ in offsets[1:]]
    plane = [int(points[0, 0] / rows) for points in rings]
    lengths = [len(points) for points in rings]
    points = np.concatenate(rings) if rings else np.zeros((0, 2))
    points = points - 1
    points[:, 0] -= rows * np.repeat(plane, lengths)
    # Interpolation leaves the coordinate of the grid line off a whole number by a rounding error.
    off = np.abs(points - np.rint(points))
    on_line = np.column_stack([off[:, 0] <= off[:, 1], off[:, 0] > off[:, 1]])
    points = np.where(on_line, np.rint(points), points)
    return Rings(
        points, np.repeat(np.arange(len(rings)), lengths), np.array(plane, dtype=int), np.array(part, dtype=int)
    )


def corners(rings: Rings, planes: Planes) -> Rings:
    """Turn the rings of a mask into the outlines of its pixels: only the corners, each where a chord cuts one.

    A chord from a point on a row to a point on a column has its corner at the row point's column and the column
    point's row. Where the mask is one pixel thick the points between stay: readers that round them to pixels are left
    with a line there, of which some fill only what has a point.
    """
    following = _next(rings.ring)
    start, end = rings.points, rings.points[following]
    on_row = start[:, 0] == np.rint(start[:, 0])
    turns = on_row != (end[:, 0] == np.rint(end[:, 0]))
    corner = np.where(
        on_row[:, None], np.column_stack([end[:, 0], start[:, 1]]), np.column_stack([start[:, 0], end[:, 1]])
    )
    kept = np.column_stack([_one_pixel_thick(rings, planes), turns])
    points = np.stack([start, corner], axis=1)
    return Rings(points[kept], np.column_stack([rings.ring, rings.ring])[kept], rings.plane, rings.part)


def _one_pixel_thick(rings: Rings, planes: Planes) -> NDArray[np.bool_]:
    """For each point, between a pixel of the mask and one beside it: whether the pixel's other side is free, too."""
    padded = np.pad(planes > 0, ((0, 0), (2, 2), (2, 2)))
    plane = rings.plane[rings.ring]
    low, high = np.floor(rings.points).astype(int) + 2, np.ceil(rings.points).astype(int) + 2

    def inside(at: IntArray) -> NDArray[np.bool_]:
        return np.asarray(padded[plane, at[:, 0], at[:, 1]])

    step = high - low
    return np.where(inside(low), ~inside(low - step), ~inside(high + step))


def refined(rings: Rings, planes: Planes, level: float) -> Rings:
    """Move the points of marching squares to the cubic's place and add the middle of every chord."""
    padded = np.pad(planes.astype(np.float64), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))) - level
    plane = rings.plane[rings.ring]
    coarse = rings.points + MARGIN
    following = _next(rings.ring)
    cell = np.floor((coarse + coarse[following]) / 2).astype(int)
    knots, along = _on_grid_lines(padded, plane, coarse)
    middles = _on_surface(padded, plane, cell, knots, knots[following])
    points = np.stack([knots, middles], axis=1).reshape(-1, 2)
    edge = np.floor(coarse).astype(int)
    both = np.stack([edge, cell], axis=1).reshape(-1, 2)
    free = np.stack([along, np.ones_like(along)], axis=1).reshape(-1, 2)
    finer = Rings(points, np.repeat(rings.ring, 2), rings.plane, rings.part)
    return Rings(_conserved(finer, planes, both, free) - MARGIN, finer.ring, rings.plane, rings.part)


def _next(ring: IntArray) -> IntArray:
    """Index of the point that follows each one on its ring."""
    following = np.arange(1, len(ring) + 1)
    last = np.flatnonzero(np.diff(ring, append=-1))
    following[last] = np.concatenate([[0], last[:-1] + 1])
    return following


def _on_grid_lines(padded: FloatArray, plane: IntArray, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Solve the cubic through four samples along the grid line that each point lies on.

    Returns
    -------
    The points, and the unit vector (n, 2) of each point's grid line.
    """
    low = np.floor(points).astype(int)
    part = points - low
    along = (part > 0).astype(int)
    samples = padded[plane[:, None], low[:, :1] + AROUND * along[:, :1], low[:, 1:] + AROUND * along[:, 1:]]
    t = part.sum(axis=1)
    least, most = np.zeros_like(t), np.ones_like(t)
    for _ in range(STEPS):
        value, slope = (_weights(t) * samples).sum(axis=1), (_slopes(t) * samples).sum(axis=1)
        before = (value >= 0) == (samples[:, 1] >= 0)
        least, most = np.where(before, t, least), np.where(before, most, t)
        step = t - value / np.where(slope == 0, 1, slope)
        t = np.where((step >= least) & (step <= most), step, (least + most) / 2)
    return low + along * np.clip(t, CLEAR_PIXELS, 1 - CLEAR_PIXELS)[:, None], along.astype(np.float64)


def _on_surface(padded: FloatArray, plane: IntArray, cell: IntArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """Move the middle of each chord across it onto the bicubic's line; where two chords share a cell it stays."""
    rows, columns = cell[:, 0, None, None] + AROUND[:, None], cell[:, 1, None, None] + AROUND
    samples = padded[plane[:, None, None], rows, columns]  # (n, 4, 4)
    inside = samples[:, 1:3, 1:3] >= 0
    saddle = (
        (inside[:, 0, 0] == inside[:, 1, 1])
        & (inside[:, 0, 1] == inside[:, 1, 0])
        & (inside[:, 0, 0] != inside[:, 0, 1])
    )
    chord = end - start
    length = np.linalg.norm(chord, axis=1)
    across = np.column_stack([-chord[:, 1], chord[:, 0]]) / np.maximum(length, 1e-9)[:, None]
    middle = (start + end) / 2
    y, x = (middle - cell).T
    wy, wx = _weights(y), _weights(x)
    by_row = np.einsum("nij,nj->ni", samples, wx)
    value = (by_row * wy).sum(axis=1)
    slope = (by_row * _slopes(y)).sum(axis=1) * across[:, 0]
    slope += (np.einsum("nij,nj->ni", samples, _slopes(x)) * wy).sum(axis=1) * across[:, 1]
    step = np.where(saddle | (slope == 0), 0, -value / np.where(slope == 0, 1, slope))
    middle = middle + np.clip(step, -length / 4, length / 4)[:, None] * across
    clipped: FloatArray = np.clip(middle, cell + CLEAR_PIXELS, cell + 1 - CLEAR_PIXELS)
    return clipped


def _weights(t: FloatArray) -> FloatArray:
    """Weights (n, 4) of the samples at -1, 0, 1, 2 for the cubic's value at t."""
    a = t + 1
    b = t - 1
    c = t - 2
    return np.stack([-t * b * c / 6, a * b * c / 2, -a * t * c / 2, a * t * b / 6], axis=-1)


def _slopes(t: FloatArray) -> FloatArray:
    """Weights (n, 4) for the cubic's slope at t."""
    square = 3 * t * t
    return np.stack(
        [-(square - 6 * t + 2) / 6, (square - 4 * t - 1) / 2, -(square - 2 * t - 2) / 2, (square - 1) / 6], axis=-1
    )


def _conserved(rings: Rings, planes: Planes, low: IntArray, free: FloatArray) -> FloatArray:
    """Move each plane's line by one distance so that it holds the plane's sum, where that is a partial volume.

    Parameters
    ----------
    low, free
        (n, 2): the lowest corner of the cell or grid line that a point must stay in, and where it may move.
    """
    following = _next(rings.ring)
    previous = np.empty_like(following)
    previous[following] = np.arange(len(following))
    plane = rings.plane[rings.ring]
    (y, x), (y1, x1) = rings.points.T, rings.points[following].T
    n = len(planes)
    area = np.bincount(plane, (x * y1 - x1 * y) / 2, n)
    length = np.maximum(np.bincount(plane, np.hypot(x1 - x, y1 - y), n), 1e-9)
    total = planes.sum(axis=(1, 2), dtype=np.float64)
    spread = total - (planes * planes).sum(axis=(1, 2), dtype=np.float64)
    sharp = 6 * spread / length <= WIDEST_PARTIAL_VOLUME
    shift = np.where(sharp, np.clip((total - area) / length, -MOST_PARTIAL_VOLUME_SHIFT, MOST_PARTIAL_VOLUME_SHIFT), 0)
    tangent = rings.points[following] - rings.points[previous]
    outward = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    outward /= np.maximum(np.linalg.norm(outward, axis=1), 1e-9)[:, None]
    on_line = free.sum(axis=1) == 1
    reach = np.where(on_line, np.maximum(np.abs((outward * free).sum(axis=1)), 0.5), 1)
    sign = np.where(on_line[:, None], np.sign(outward), outward)
    moved = rings.points + free * sign * (shift[plane] / reach)[:, None]
    return np.where(free > 0, np.clip(moved, low + CLEAR_PIXELS, low + 1 - CLEAR_PIXELS), rings.points)
