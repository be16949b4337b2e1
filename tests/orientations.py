"""One patient scanned in every position: the same voxels at the same patient coordinates, in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from shapely import Polygon, unary_union

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.contours import ROI
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from tests.phantom import ORIENTATIONS, Vector

# Rows, columns or both reversed or exchanged, whatever PatientPosition says.
TURNED: Mapping[str, tuple[Vector, Vector]] = {
    **ORIENTATIONS,
    "HFS, rows reversed": ((-1, 0, 0), (0, 1, 0)),
    "HFS, columns reversed": ((1, 0, 0), (0, -1, 0)),
    "HFS, both reversed": ((-1, 0, 0), (0, -1, 0)),
}


def turned(volume: Volume, orientation: str) -> Volume:
    """Put the voxels of a volume (rows to the left, columns to the back) in the order of another orientation.

    Feet first, the slices begin at the head.
    """
    row, column = (np.array(v, dtype=float) for v in TURNED[orientation])
    slices, rows, columns = volume.grid.shape
    dy, dx = volume.grid.pixel_spacing_mm
    middles = volume.grid.slice_origins_mm + np.array([dx * (columns - 1) / 2, dy * (rows - 1) / 2, 0.0])
    if abs(row[0]) < 0.5:
        rows, columns, dy, dx = columns, rows, dx, dy
    corners = middles - row * dx * (columns - 1) / 2 - column * dy * (rows - 1) / 2
    target = Grid((slices, rows, columns), (dy, dx), corners, *TURNED[orientation])
    hu = target.canonical()[1].revert(volume.hu)
    if orientation.startswith("FF"):
        hu, target = hu[::-1], Grid(target.shape, (dy, dx), corners[::-1], *TURNED[orientation])
    return Volume(target, hu)


def write_turned(volume: Volume, orientation: str, folder: Path) -> Path:
    """Write the volume as a patient in that position would have been scanned; the identity is always the same."""
    identity = SeriesIdentity("TURNED", "Turned^Test", patient_position=orientation[:4].rstrip(","))
    return write_ct_series(turned(volume, orientation), folder, identity)


def farthest_mm(one: Sequence[ROI], other: Sequence[ROI]) -> float:
    """Return how far two results lie apart at most (Hausdorff); infinite where organs or slices differ."""
    farthest = 0.0
    for a, b in zip(one, other, strict=True):
        shapes, others = _by_level(a), _by_level(b)
        if a.name != b.name or shapes.keys() != others.keys():
            return float("inf")
        distances = (shape.boundary.hausdorff_distance(others[z].boundary) for z, shape in shapes.items())
        farthest = max(farthest, *distances, 0.0)
    return farthest


def _by_level(roi: ROI) -> dict[float, Polygon]:
    levels: dict[float, list[Polygon]] = {}
    for contour in roi.contours:
        levels.setdefault(round(float(contour.points_mm[0, 2]), 3), []).append(
            Polygon(contour.points_mm[:, :2]).buffer(0)
        )
    return {z: unary_union(loops) for z, loops in levels.items()}
