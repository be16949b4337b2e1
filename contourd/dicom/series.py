"""CT instances on disk -> a series that may be contoured: headers, the input gate, and the voxels.

DICOM PS3.3 A.3 (CT Image IOD) and C.7.6.2 (Image Plane). What fails the gate is held with a reason, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from contourd.dicom.instance import Instance, find_series, read_instance
from contourd.errors import SeriesIncomplete, SeriesUnusable, SlicesMissing
from contourd.imaging.grid import Grid
from contourd.imaging.volume import AIR_HU, Volume

__all__ = ["Instance", "Series", "find_series", "gate", "missing_positions_mm", "read_instance", "read_volume"]

FEWEST_SLICES = 16
WIDEST_SPACING_MM = 5.0
LARGEST_TILT = 0.9999
SPACING_TOLERANCE = 0.01
SPACING_TOLERANCE_MM = 0.01
SAME_POSITION_MM = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A CT series that passed the gate.

    Attributes
    ----------
    instances
        From the feet to the head, one for each slice of ``grid``.
    header
        The first slice's dataset without pixels: patient, study and frame of reference for the structure set.
    """

    uid: str
    instances: tuple[Instance, ...]
    grid: Grid
    header: Dataset


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
        raise SeriesUnusable("the series has no images")
    for check in (_refuse_other_images, _refuse_incomplete_headers, _refuse_mixtures, _refuse_tilt):
        check(instances)
    ordered = _without_duplicates(sorted(instances, key=_along_z))
    if len(ordered) < FEWEST_SLICES:
        raise SeriesIncomplete(f"{len(ordered)} slices are fewer than the {FEWEST_SLICES} that a head and neck needs")
    missing = missing_positions_mm([_along_z(i) for i in ordered])
    if missing:
        raise SlicesMissing(missing)
    grid = _grid(ordered)
    steps = np.diff(grid.slice_positions_mm)
    if np.abs(steps - grid.spacing_mm[0]).max() > _tolerance_mm(grid.spacing_mm[0]):
        raise SeriesUnusable(
            f"slices are {steps.min():.3f} to {steps.max():.3f} mm apart; send one reconstruction with equal spacing"
        )
    if grid.spacing_mm[0] > WIDEST_SPACING_MM:
        raise SeriesUnusable(
            f"slices are {grid.spacing_mm[0]:.2f} mm apart, more than {WIDEST_SPACING_MM:g} mm; send thinner slices"
        )
    header = pydicom.dcmread(ordered[0].path, stop_before_pixels=True)
    return Series(ordered[0].series_instance_uid, tuple(ordered), grid, header)


def missing_positions_mm(positions_mm: Sequence[float]) -> tuple[float, ...]:
    """Name the slice positions that are missing between the given ones, in any order and with repeats.

    The spacing is the smallest step if all others are whole multiples of it, else the median; a step of at least 1.5
    spacings has a gap, which is filled at the nearest whole number of slices.
    """
    positions = _distinct(sorted(positions_mm))
    if len(positions) < 3:
        return ()
    steps = np.diff(positions)
    spacing = _spacing(steps)
    missing: list[float] = []
    for low, gap in zip(positions[:-1], steps, strict=True):
        parts = round(gap / spacing)
        if gap >= 1.5 * spacing:
            missing.extend(float(low + gap * i / parts) for i in range(1, parts))
    return tuple(missing)


def _spacing(steps: NDArray[np.float64]) -> float:
    smallest = float(steps.min())
    near = steps[steps < 1.5 * smallest]
    common = float(np.median(near))
    multiples = np.maximum(np.rint(steps / common), 1)
    even = np.abs(steps - multiples * common) <= multiples * _tolerance_mm(common)
    return common if even.all() else float(np.median(steps))


def _tolerance_mm(spacing_mm: float) -> float:
    return max(SPACING_TOLERANCE * spacing_mm, SPACING_TOLERANCE_MM)


def _distinct(positions: Sequence[float]) -> NDArray[np.float64]:
    kept: list[float] = []
    for position in positions:
        if not kept or position - kept[-1] > SAME_POSITION_MM:
            kept.append(position)
    return np.array(kept)


def _along_z(instance: Instance) -> float:
    assert instance.position_mm is not None
    return instance.position_mm[2]


def _refuse_other_images(instances: Sequence[Instance]) -> None:
    for i in instances:
        if i.modality != "CT" or i.sop_class_uid != CTImageStorage:
            kind = pydicom.uid.UID(i.sop_class_uid).name
            raise SeriesUnusable(f"modality {i.modality or 'unknown'} ({kind}) is not contoured; send the planning CT")
        if "LOCALIZER" in i.image_type:
            raise SeriesUnusable("the series is a localizer (scout), not an axial CT; send the planning CT")
        if i.frames > 1:
            raise SeriesUnusable("multi-frame images are not contoured; send one image per slice")
        if i.lossy:
            raise SeriesUnusable("the images were compressed with losses; send the original reconstruction")
        if i.photometric != "MONOCHROME2" or i.samples != 1 or i.bits_allocated != 16:
            raise SeriesUnusable(
                f"pixels are {i.photometric}, {i.samples} x {i.bits_allocated} bits, not MONOCHROME2, 1 x 16"
            )
        if i.modality_table:
            raise SeriesUnusable("pixel values pass through a Modality LUT, not a rescale slope; send Hounsfield units")
        if i.rescale_type not in ("", "HU"):
            raise SeriesUnusable(f"pixel values are {i.rescale_type}, not Hounsfield units")
    derived = [i for i in instances if "MPR" in i.image_type or "PROJECTION IMAGE" in i.image_type]
    if derived:
        raise SeriesUnusable(f"the series is derived ({chr(92).join(derived[0].image_type)}); send the original slices")


def _refuse_incomplete_headers(instances: Sequence[Instance]) -> None:
    for i in instances:
        if not i.patient_id:
            raise SeriesUnusable(
                "the patient has no ID (PatientID is empty); a structure set could go to the wrong patient"
            )
        if not i.frame_of_reference_uid:
            raise SeriesUnusable("FrameOfReferenceUID is missing; a structure set could not be placed on the CT")
        if i.position_mm is None or i.orientation is None or i.pixel_spacing_mm is None or not i.rows or not i.columns:
            raise SeriesUnusable(
                "a slice lacks its position, orientation, pixel spacing or matrix; send the original CT"
            )


def _refuse_mixtures(instances: Sequence[Instance]) -> None:
    alike: dict[str, Callable[[Instance], object]] = {
        "series": lambda i: i.series_instance_uid,
        "studies": lambda i: i.study_instance_uid,
        "patients": lambda i: i.patient_id,
        "frames of reference": lambda i: i.frame_of_reference_uid,
        "orientations": lambda i: tuple(round(v, 4) for v in i.orientation or ()),
        "pixel spacings": lambda i: tuple(round(v, 5) for v in i.pixel_spacing_mm or ()),
        "matrix sizes": lambda i: (i.rows, i.columns),
    }
    for what, key in alike.items():
        counts = Counter(key(i) for i in instances)
        if len(counts) > 1:
            raise SeriesUnusable(f"the series mixes {len(counts)} {what}; send one reconstruction")


def _refuse_tilt(instances: Sequence[Instance]) -> None:
    direction = np.array(instances[0].orientation, dtype=np.float64)
    row, column = direction[:3], direction[3:]
    if abs(np.linalg.norm(row) - 1) > 1e-3 or abs(np.linalg.norm(column) - 1) > 1e-3 or abs(row @ column) > 1e-3:
        raise SeriesUnusable("ImageOrientationPatient is no pair of unit vectors; send the original CT")
    if abs(np.cross(row, column)[2]) <= LARGEST_TILT:
        raise SeriesUnusable(
            "the slices are not axial (tilted gantry, oblique, coronal or sagittal); send axial slices"
        )
    places = np.array([i.position_mm for i in instances])
    if np.ptp(places[:, :2], axis=0).max() > 0.1:
        raise SeriesUnusable("the slices are shifted sideways against each other (tilted gantry); send axial slices")


def _without_duplicates(ordered: Sequence[Instance]) -> list[Instance]:
    kept: list[Instance] = []
    for instance in ordered:
        if kept and _along_z(instance) - _along_z(kept[-1]) <= SAME_POSITION_MM:
            if _pixels(instance).tobytes() != _pixels(kept[-1]).tobytes():
                raise SeriesUnusable(
                    f"two different images lie at z = {_along_z(instance):.2f} mm (phases, acquisitions); send one"
                )
            continue
        kept.append(instance)
    return kept


def _grid(ordered: Sequence[Instance]) -> Grid:
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
    hu = np.empty(series.grid.shape, dtype=np.int16)
    for k, instance in enumerate(series.instances):
        hu[k] = _pixels(instance)
        if progress is not None:
            progress(k + 1, len(series.instances))
    return Volume(series.grid, hu)


def _pixels(instance: Instance) -> NDArray[np.int16]:
    """Hounsfield units (rows, columns) of one slice."""
    try:
        ds = pydicom.dcmread(instance.path)
        stored = ds.pixel_array
        slope, intercept = float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0) or 0)
        padding = ds.get("PixelPaddingValue")
        limit = ds.get("PixelPaddingRangeLimit", padding)
    except (OSError, EOFError, ValueError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise SeriesUnusable(
            f"slice z = {_along_z(instance):.2f} mm cannot be decoded ({error}); send it again"
        ) from error
    if stored.shape != (instance.rows, instance.columns):
        raise SeriesUnusable(f"slice z = {_along_z(instance):.2f} mm has {stored.shape} pixels; send it again")
    hu = stored.astype(np.float32) * slope + intercept
    if padding is not None and limit is not None:
        low, high = sorted((int(padding), int(limit)))
        hu[(stored >= low) & (stored <= high)] = AIR_HU
    return np.asarray(np.clip(np.rint(hu), -32768, 32767).astype(np.int16))
