"""The part of the input gate that headers decide: what is set aside, and what is refused, with the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from contourd.dicom.reading.completeness import VALID_UID
from contourd.dicom.reading.decoders import DECODERS, has_decoder
from contourd.dicom.reading.instance import Instance
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

LOCALIZER = "LOCALIZER"
# ImageType of pictures of a screen, a dose report or a protocol that scanners add to a series.
SCREENS = frozenset({"SCREEN SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE REPORT", "CSA REPORT", "PROTOCOL"})
CAPTURES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameSingleBitSecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
ENHANCED = frozenset({EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
DERIVED = frozenset({"MPR", "PROJECTION IMAGE"})
LARGEST_MATRIX = 1024
LONGEST_PATIENT_ID = 64
# Further from the scanner's origin, wider, or steeper than any: numbers of a damaged or forged header.
LARGEST_POSITION_MM = 20_000.0
SMALLEST_PIXEL_MM = 0.01
LARGEST_PIXEL_MM = 50.0
SMALLEST_SLOPE = 1e-6
LARGEST_SLOPE = 1e4
LARGEST_INTERCEPT = 1e6
BITS_ALLOCATED = 16
# Degrees. A slice of 500 mm tilted by 0.1 degree leaves its own z by less than 0.5 mm at its edge.
LARGEST_TILT, LARGEST_TURN = 0.1, 5.0
LARGEST_SHIFT_MM = 0.1


def split_scouts(instances: Sequence[Instance]) -> tuple[list[Instance], list[Instance]]:
    """Part the slices from scouts and pictures that a scanner keeps in the same series.

    Returns
    -------
    The slices, and what is set aside; a series of nothing else is no series with something beside it, and stays whole.
    """
    slices = [i for i in instances if not _is_beside(i)]
    if not slices:
        return list(instances), []
    return slices, [i for i in instances if _is_beside(i)]


def _is_beside(instance: Instance) -> bool:
    words = set(instance.image_type)
    return LOCALIZER in words or bool(words & SCREENS) or instance.sop_class_uid in CAPTURES


def refuse_unfit(instances: Sequence[Instance]) -> None:
    """Refuse what is no axial CT in Hounsfield units of one scan of one patient.

    Raises
    ------
    SeriesUnusable
        The first reason that is found, in words.
    """
    for instance in instances:
        _refuse_other_image(instance)
        _refuse_other_pixels(instance)
        _refuse_incomplete_header(instance)
    _refuse_mixtures(instances)
    _refuse_oblique(instances)


def refuse_patients(instances: Sequence[Instance]) -> None:
    """Refuse more than one patient or study, also in what is set aside; an image may keep name and birth to itself.

    Raises
    ------
    SeriesUnusable
        There are several.
    """
    _refuse_mixture(instances, "series", lambda i: i.series_instance_uid)
    _refuse_mixture(instances, "studies", lambda i: i.study_instance_uid)
    _refuse_mixture(instances, "patients", lambda i: i.patient_id)
    _refuse_mixture([i for i in instances if i.patient_name], "patients' names", lambda i: i.patient_name)
    _refuse_mixture([i for i in instances if i.birth_date], "dates of birth", lambda i: i.birth_date)


def _refuse_other_image(i: Instance) -> None:
    if i.sop_class_uid in ENHANCED:
        raise SeriesUnusable(HoldReason.MULTI_FRAME_CLASS, sop_class=UID(i.sop_class_uid).name)
    if i.modality != "CT" or i.sop_class_uid != CTImageStorage:
        kind = UID(i.sop_class_uid).name
        raise SeriesUnusable(HoldReason.OTHER_MODALITY, modality=i.modality or "unknown", sop_class=kind)
    if LOCALIZER in i.image_type:
        raise SeriesUnusable(HoldReason.LOCALIZER)
    if SCREENS & set(i.image_type):
        raise SeriesUnusable(HoldReason.SCREEN)
    if DERIVED & set(i.image_type):
        raise SeriesUnusable(HoldReason.DERIVED, image_type="\\".join(i.image_type))
    if i.frames > 1:
        raise SeriesUnusable(HoldReason.MULTI_FRAME)


def _refuse_other_pixels(i: Instance) -> None:
    if i.lossy:
        raise SeriesUnusable(HoldReason.LOSSY)
    if not has_decoder(i.transfer_syntax):
        syntax = UID(i.transfer_syntax)
        code = HoldReason.SYNTAX_WITHOUT_DECODER if syntax in DECODERS else HoldReason.SYNTAX_UNKNOWN
        raise SeriesUnusable(code, syntax=syntax.name or "unknown")
    if i.photometric != "MONOCHROME2" or i.samples != 1 or i.bits_allocated != BITS_ALLOCATED:
        raise SeriesUnusable(
            HoldReason.PIXEL_FORMAT, photometric=i.photometric, samples=i.samples, bits=i.bits_allocated
        )
    if not 0 < i.bits_stored <= BITS_ALLOCATED or i.high_bit != i.bits_stored - 1:
        raise SeriesUnusable(HoldReason.HIGH_BIT, bits_stored=i.bits_stored, high_bit=i.high_bit)
    if i.modality_table:
        raise SeriesUnusable(HoldReason.MODALITY_LUT)
    if i.rescale_type not in ("", "HU"):
        raise SeriesUnusable(HoldReason.RESCALE_TYPE, rescale_type=i.rescale_type)
    if i.rescale is None or i.rescale[0] == 0:
        raise SeriesUnusable(HoldReason.RESCALE_MISSING)
    slope, intercept = map(abs, i.rescale)
    if not SMALLEST_SLOPE <= slope <= LARGEST_SLOPE or intercept > LARGEST_INTERCEPT:
        raise SeriesUnusable(HoldReason.RESCALE_IMPOSSIBLE, slope=i.rescale[0], intercept=i.rescale[1])


def _refuse_incomplete_header(i: Instance) -> None:
    if not i.patient_id:
        raise SeriesUnusable(HoldReason.PATIENT_ID_MISSING)
    if not i.patient_id.isprintable() or len(i.patient_id) > LONGEST_PATIENT_ID:
        raise SeriesUnusable(HoldReason.PATIENT_ID_ILLEGAL)
    if not i.frame_of_reference_uid:
        raise SeriesUnusable(HoldReason.FRAME_OF_REFERENCE_MISSING)
    if not VALID_UID.fullmatch(i.frame_of_reference_uid):
        raise SeriesUnusable(HoldReason.FRAME_OF_REFERENCE_ILLEGAL)
    if i.position_mm is None or i.orientation is None or i.pixel_spacing_mm is None or not i.rows or not i.columns:
        raise SeriesUnusable(HoldReason.GEOMETRY_MISSING)
    if min(i.pixel_spacing_mm) <= 0:
        raise SeriesUnusable(HoldReason.SPACING_NOT_POSITIVE)
    if min(i.pixel_spacing_mm) < SMALLEST_PIXEL_MM or max(i.pixel_spacing_mm) > LARGEST_PIXEL_MM:
        raise SeriesUnusable(HoldReason.SPACING_IMPOSSIBLE, mm=max(i.pixel_spacing_mm))
    if max(map(abs, i.position_mm)) > LARGEST_POSITION_MM:
        raise SeriesUnusable(HoldReason.POSITION_IMPOSSIBLE, mm=max(map(abs, i.position_mm)))
    if max(i.rows, i.columns) > LARGEST_MATRIX:
        raise SeriesUnusable(HoldReason.MATRIX_TOO_LARGE, rows=i.rows, columns=i.columns, largest=LARGEST_MATRIX)


def _refuse_mixtures(instances: Sequence[Instance]) -> None:
    phases = {i.phase for i in instances}
    if len(phases) > 1:
        raise SeriesUnusable(HoldReason.PHASES, phases=len(phases))
    alike: dict[str, Callable[[Instance], object]] = {
        "frames of reference": lambda i: i.frame_of_reference_uid,
        "orientations": lambda i: tuple(round(v, 4) for v in i.orientation or ()),
        "pixel spacings": lambda i: tuple(round(v, 5) for v in i.pixel_spacing_mm or ()),
        "matrix sizes": lambda i: (i.rows, i.columns),
        "rescale slopes or intercepts": lambda i: i.rescale,
    }
    for what, key in alike.items():
        _refuse_mixture(instances, what, key)


def _refuse_mixture(instances: Sequence[Instance], what: str, key: Callable[[Instance], object]) -> None:
    counts = Counter(key(i) for i in instances)
    if len(counts) > 1:
        raise SeriesUnusable(HoldReason.MIXED, number=len(counts), what=what)


def _refuse_oblique(instances: Sequence[Instance]) -> None:
    direction = np.array(instances[0].orientation, dtype=np.float64)
    row, column = direction[:3], direction[3:]
    if abs(np.linalg.norm(row) - 1) > 1e-3 or abs(np.linalg.norm(column) - 1) > 1e-3 or abs(row @ column) > 1e-3:
        raise SeriesUnusable(HoldReason.ORIENTATION_IMPOSSIBLE)
    tilt = float(np.degrees(np.arcsin(min(1.0, np.hypot(row[2], column[2])))))
    if tilt > LARGEST_TILT:
        raise SeriesUnusable(HoldReason.TILTED, degrees=tilt)
    turn = float(np.degrees(np.arccos(min(1.0, np.abs(row[:2]).max()))))
    if turn > LARGEST_TURN:
        raise SeriesUnusable(HoldReason.TURNED, degrees=turn)
    places = np.array([i.position_mm for i in instances])
    if np.ptp(places[:, :2], axis=0).max() > LARGEST_SHIFT_MM:
        raise SeriesUnusable(HoldReason.SHIFTED)
