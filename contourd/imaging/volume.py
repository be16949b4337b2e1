"""A CT volume: a grid and its Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import Grid

AIR_HU, TISSUE_HU = -1024, 40


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Hounsfield units on a grid.

    Attributes
    ----------
    grid
        Where the voxels lie.
    hu
        int16 (z, y, x).
    """

    grid: Grid
    hu: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"the array is {self.hu.shape}, its grid {self.grid.shape}")


def oval_body(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], half_axes_mm: tuple[float, float]
) -> Volume:
    """Make a volume for trials: an oval body of soft tissue in air, along the whole length.

    Parameters
    ----------
    shape, spacing_mm
        (z, y, x).
    half_axes_mm
        Along x, along y.
    """
    _, rows, columns = shape
    y, x = np.ogrid[:rows, :columns]
    half_x, half_y = half_axes_mm
    inside = ((x - columns / 2) * spacing_mm[2] / half_x) ** 2 + ((y - rows / 2) * spacing_mm[1] / half_y) ** 2 <= 1
    hu = np.where(inside, TISSUE_HU, AIR_HU).astype(np.int16)
    return Volume(Grid.regular(shape, spacing_mm), np.ascontiguousarray(np.broadcast_to(hu, shape)))
