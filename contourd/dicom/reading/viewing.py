"""The slices of a series that is held, ordered so that a person can look at them: what is there, and what is missing.

Nothing is contoured of this. A series that mixes images is shown by those of its largest kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import CTImageStorage

from contourd.dicom.reading.admission import refuse_unfit, split_scouts
from contourd.dicom.reading.instance import Instance, read_instance
from contourd.dicom.reading.series import along_z, grid_of, missing_positions_mm
from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.reasons.catalogue import HoldReason

# Slices closer than this are one on the screen; a range of more steps than this is none.
CLOSEST_MM, MOST_STEPS = 0.2, 3000


@dataclass(frozen=True, slots=True, eq=False)
class DisplayableSeries:
    """What can be shown of a series.

    Attributes
    ----------
    instances
        From the feet to the head, one for each slice of ``grid``.
    missing_mm
        z of the slices that are missing between them.
    left_out
        How many images are not shown: scouts, other kinds, repeats, and what cannot be read.
    """

    instances: tuple[Instance, ...]
    grid: Grid
    missing_mm: tuple[float, ...]
    left_out: int


def displayable_series(paths: Sequence[Path]) -> DisplayableSeries:
    """Read what is there.

    Raises
    ------
    SeriesUnusable
        No two axial CT slices of one kind are among it.
    """
    readable = tuple(_readable(paths))
    if not readable:
        raise SeriesUnusable(HoldReason.NOTHING_TO_SHOW)
    slices = [i for i in split_scouts(readable)[0] if _is_placed(i)]
    kinds = Counter(map(_kind, slices))
    alike = [i for i in slices if _kind(i) == kinds.most_common(1)[0][0]] if kinds else []
    ordered = _apart(sorted(alike, key=lambda i: (along_z(i), i.sop_instance_uid)))
    if len(ordered) < 2:
        raise SeriesUnusable(HoldReason.NO_SLICES_TO_SHOW)
    refuse_unfit(ordered)
    positions = [along_z(i) for i in ordered]
    if (positions[-1] - positions[0]) / min(np.diff(positions)) > MOST_STEPS:
        raise SeriesUnusable(HoldReason.SLICES_TOO_FAR_TO_SHOW)
    missing = missing_positions_mm(positions, [i.number for i in ordered])
    return DisplayableSeries(tuple(ordered), grid_of(ordered), missing, len(paths) - len(ordered))


def _readable(paths: Sequence[Path]) -> Iterable[Instance]:
    for path in paths:
        try:
            yield read_instance(path)
        except (SeriesUnusable, OSError):
            continue


def _is_placed(i: Instance) -> bool:
    whole = i.position_mm is not None and i.orientation is not None and i.pixel_spacing_mm is not None
    return whole and i.sop_class_uid == CTImageStorage and bool(i.rows and i.columns)


def _kind(i: Instance) -> tuple[object, ...]:
    """Divide what does not fit into one picture."""
    turned = tuple(round(v, 4) for v in i.orientation or ())
    spacing = tuple(round(v, 5) for v in i.pixel_spacing_mm or ())
    scan = i.patient_id, i.study_instance_uid, i.frame_of_reference_uid, i.phase
    return *scan, turned, spacing, i.rows, i.columns, i.rescale


def _apart(ordered: Sequence[Instance]) -> list[Instance]:
    kept: list[Instance] = []
    for instance in ordered:
        if not kept or along_z(instance) - along_z(kept[-1]) >= CLOSEST_MM:
            kept.append(instance)
    return kept
