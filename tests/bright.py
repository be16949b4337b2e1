"""The phantom whose ball the bright model draws, and what names its series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume

SHAPE = (24, 64, 64)
SPACING_MM = (3.0, 4.0, 4.0)
BALL_RADIUS_MM = 22.0
BALL_CC = 4 / 3 * np.pi * BALL_RADIUS_MM**3 / 1000
SeriesMaker = Callable[..., Path]


def phantom() -> Volume:
    """Make an oval trunk of soft tissue with a ball of 400 HU to the left of its middle."""
    grid = Grid.regular(SHAPE, SPACING_MM, (-126.0, -126.0, -36.0))
    z, y, x = (axis * step for axis, step in zip(np.indices(SHAPE), SPACING_MM, strict=True))
    trunk = ((x - 126) / 80) ** 2 + ((y - 126) / 95) ** 2 <= 1
    ball = (x - 146) ** 2 + (y - 126) ** 2 + (z - 36) ** 2 <= BALL_RADIUS_MM**2
    return Volume(grid, np.select([ball, trunk], [400, 40], -1000).astype(np.int16))


def series_uid(folder: Path) -> str:
    first = min(folder.iterdir())
    return str(pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID)


def referenced_series(rtstruct: pydicom.Dataset) -> str:
    frame = rtstruct.ReferencedFrameOfReferenceSequence[0]
    return str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)
