"""A CT volume: a grid and its Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import Grid

AIR_HU = -1024


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
