"""CT instances on disk -> a series that may be contoured: headers, the input gate, and the voxels.

DICOM PS3.3 A.3 (CT Image IOD) and C.7.6.2 (Image Plane). What fails the gate is held with a reason, never guessed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from contourd.dicom.legal_form import bring_to_legal_form
from contourd.dicom.reading.admission import refuse_patients, refuse_unfit, split_scouts
from contourd.dicom.reading.duplicates import choose_images, drop_copies
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import Instance, find_series, read_instance
from contourd.dicom.reading.isolation import pixel_decoder
from contourd.dicom.reading.pixels import hounsfield
from contourd.dicom.reading.spacing import SAME_POSITION_MM, crowded_positions_mm, missing_positions_mm
from contourd.errors import SeriesIncomplete, SeriesUnusable, SlicesMissing
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.reasons.catalogue import HoldReason

__all__ = [
    "Instance",
    "Series",
    "along_z",
    "find_series",
    "gate",
    "grid_of",
    "missing_positions_mm",
    "read_instance",
    "read_slices",
    "read_volume",
]

log = logging.getLogger(__name__)

FEWEST_SLICES, MOST_SLICES = 16, 1500
WIDEST_SPACING_MM = 5.0
SPACING_TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A CT series that passed the gate.

    Attributes
    ----------
    instances
        From the feet to the head, one for each slice of ``grid``.
    header
        The first slice's dataset without pixels: patient, study and frame of reference for the structure set, in legal
        form.
    formal
        What was done for that, in words.
    """

    uid: str
    instances: tuple[Instance, ...]
    grid: Grid
    header: Dataset
    formal: tuple[str, ...] = ()


def gate(instances: Sequence[Instance]) -> Series:
    """Decide whether a series may be contoured, and order its slices.

    Raises
    ------
    SlicesMissing
        Names the missing z.
    SeriesUnusable
        Any other reason, in words.
    """
    if not instances:
        raise SeriesUnusable(HoldReason.NO_IMAGES)
    refuse_patients(instances)
    slices, beside = split_scouts(drop_copies(instances))
    refuse_unfit(slices)
    ordered = choose_images(_by_position(sorted(slices, key=lambda i: (along_z(i), i.sop_instance_uid))))
    if len(ordered) < FEWEST_SLICES:
        raise SeriesIncomplete(HoldReason.TOO_FEW_SLICES, slices=len(ordered), fewest=FEWEST_SLICES)
    if len(ordered) > MOST_SLICES:
        raise SeriesUnusable(HoldReason.TOO_MANY_SLICES, slices=len(ordered), most=MOST_SLICES)
    _refuse_gaps(ordered)
    if beside:
        log.info("images beside the slices are set aside", extra={"action": "set aside", "images": len(beside)})
    header = read_dicom(ordered[0].path, stop_before_pixels=True)
    formal = bring_to_legal_form(header)
    if formal:
        log.info("header brought to legal form: %s", "; ".join(formal), extra={"action": "legal form"})
    return Series(ordered[0].series_instance_uid, tuple(ordered), grid_of(ordered), header, formal)


def _refuse_gaps(ordered: Sequence[Instance]) -> None:
    positions = [along_z(i) for i in ordered]
    missing = missing_positions_mm(positions, [i.number for i in ordered])
    if missing:
        raise SlicesMissing(HoldReason.SLICES_MISSING, z_mm=missing)
    crowded = crowded_positions_mm(positions)
    if crowded:
        raise SeriesUnusable(HoldReason.SLICES_CROWDED, z_mm=crowded)
    steps = np.diff(positions)
    k = int(np.argmax(steps))
    if steps[k] > WIDEST_SPACING_MM + SPACING_TOLERANCE_MM:
        raise SeriesUnusable(
            HoldReason.SLICES_TOO_FAR_APART,
            z_mm=positions[k : k + 2],
            apart_mm=steps[k],
            widest_mm=WIDEST_SPACING_MM,
        )


def along_z(instance: Instance) -> float:
    """Return where a slice lies along the patient, mm."""
    assert instance.position_mm is not None
    return instance.position_mm[2]


def _by_position(ordered: Sequence[Instance]) -> list[list[Instance]]:
    """Put together what lies at one position; raises SeriesUnusable where the pixels differ."""
    places: list[list[Instance]] = []
    for instance in ordered:
        if not places or along_z(instance) - along_z(places[-1][0]) > SAME_POSITION_MM:
            places.append([instance])
            continue
        with pixel_decoder() as decoder:
            alike = np.array_equal(hounsfield(instance, decoder), hounsfield(places[-1][0], decoder))
        if not alike:
            _refuse_phases(ordered, along_z(instance))
        places[-1].append(instance)
    return places


def _refuse_phases(ordered: Sequence[Instance], z_mm: float) -> None:
    counts = Counter(round(along_z(i), 1) for i in ordered)
    repeated = sum(n > 1 for n in counts.values())
    raise SeriesUnusable(HoldReason.IMAGES_AT_ONE_PLACE, z_mm=z_mm, repeated=repeated, positions=len(counts))


def grid_of(ordered: Sequence[Instance]) -> Grid:
    """Return the grid of slices that are ordered from the feet to the head."""
    first = ordered[0]
    o, spacing = first.orientation, first.pixel_spacing_mm
    assert o is not None
    assert spacing is not None
    origins = np.array([i.position_mm for i in ordered], dtype=np.float64)
    return Grid((len(ordered), first.rows, first.columns), spacing, origins, (o[0], o[1], o[2]), (o[3], o[4], o[5]))


def read_volume(series: Series, progress: Callable[[int, int], None] | None = None) -> Volume:
    """Decode the pixels and rescale them to Hounsfield units; padding becomes air.

    Parameters
    ----------
    progress
        Called with the slices done and their number.

    Raises
    ------
    SeriesUnusable
        A slice cannot be decoded.
    """
    return read_slices(series.instances, series.grid, progress)


def read_slices(
    instances: Sequence[Instance], grid: Grid, progress: Callable[[int, int], None] | None = None
) -> Volume:
    """Decode one instance for each slice of a grid, as ``read_volume`` does.

    Raises
    ------
    SeriesUnusable
        A slice cannot be decoded.
    """
    hu = np.empty(grid.shape, dtype=np.int16)
    with pixel_decoder() as decoder:
        for k, instance in enumerate(instances):
            hu[k] = hounsfield(instance, decoder)
            if instance.decoded is not None:
                instance.decoded.let_go()
            if progress is not None:
                progress(k + 1, len(instances))
    return Volume(grid, hu)
