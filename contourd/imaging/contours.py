"""Closed planar contours of organs: contour, ROI, structure set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
