"""A grid as text: kept with a job, whose images go long before what clinicians make of its contours comes back."""

from __future__ import annotations

import json

import numpy as np

from contourd.imaging.grid import Grid


def written_grid(grid: Grid) -> str:
    """Write a grid down, as exactly as it is known."""
    content = {
        "shape": list(grid.shape),
        "spacing_mm": list(grid.pixel_spacing_mm),
        "origins_mm": grid.slice_origins_mm.tolist(),
        "row": list(grid.row_direction),
        "column": list(grid.column_direction),
    }
    return json.dumps(content, separators=(",", ":"))


def read_grid(text: str) -> Grid:
    """Read a grid that was written down; raises ValueError, KeyError and TypeError where it is none."""
    content = json.loads(text)
    slices, rows, columns = content["shape"]
    between_rows, between_columns = content["spacing_mm"]
    return Grid(
        (int(slices), int(rows), int(columns)),
        (float(between_rows), float(between_columns)),
        np.asarray(content["origins_mm"], dtype=np.float64).reshape(slices, 3),
        tuple(content["row"]),
        tuple(content["column"]),
    )
