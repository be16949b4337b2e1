"""Where the head and neck end and the chest begins, found from the body's own shape.

The paper removes the chest (section 2.4): the shoulders are where the body, seen from the head downwards, gets much
wider than the head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import FloatArray
from contourd.imaging.volume import Volume
from contourd.model.body import find_patient

HEAD_MM = 160.0
SHOULDERS = 1.6
KEPT_BELOW_MM = 100.0


def body_widths_mm(volume: Volume) -> tuple[FloatArray, FloatArray]:
    """Measure how wide the body is, from the patient's right to left, at levels from the feet to the head.

    Returns
    -------
    Positions of the levels along the slices' normal, in mm from the first slice, and widths in mm, 0 where there is no
    body.

    Raises
    ------
    SeriesUnusable
        No patient is in the volume.
    """
    canonical, turn = volume.grid.canonical()
    patient = find_patient(turn.apply(volume.hu), canonical)
    z, _, x = patient.axes_mm
    widths = np.array([_width(plane) for plane in np.asarray(patient.body.any(axis=1))])  # seen from the front
    return z, widths * float(x[1] - x[0])


def _width(columns: NDArray[np.bool_]) -> int:
    used = np.flatnonzero(columns)
    return int(used[-1] - used[0] + 1) if len(used) else 0


def head_and_neck(volume: Volume) -> slice:
    """Return the slices from KEPT_BELOW_MM under the top of the shoulders up to the head; all where none are found.

    A volume without shoulders, or without a head above them, is left whole. The first slice is the one nearest to the
    feet.

    Raises
    ------
    SeriesUnusable
        No patient is in the volume.
    """
    positions, widths = body_widths_mm(volume)
    there = np.flatnonzero(widths)
    top = positions[there[-1]]
    head = (positions > top - HEAD_MM) & (widths > 0)
    narrow = float(np.median(widths[head]))
    wide = (widths > SHOULDERS * narrow) & (positions <= top - HEAD_MM / 2)
    whole = slice(0, volume.grid.shape[0])
    if not wide.any() or top - positions[0] < HEAD_MM:
        return whole
    shoulders = float(positions[np.flatnonzero(wide)[-1]])
    first = int(np.searchsorted(volume.grid.slice_positions_mm, shoulders - KEPT_BELOW_MM))
    return slice(first, volume.grid.shape[0])
