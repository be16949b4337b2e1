"""What a CT series says of its patient and scan, for the limits of a model (DICOM PS3.3 C.7.2.2, C.7.3.1, C.8.2.1)."""

from __future__ import annotations

import re
from datetime import date

import numpy as np
from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.model.limits import Acquisition

# PatientAge is rounded, or was typed at another visit; beyond this it contradicts the birth date.
DOUBTFUL_YEARS = 2.0
# PS3.5 6.2, AS: days, weeks, months, years.
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def acquisition_of(series: Series) -> Acquisition:
    """Read the first slice's header; what is absent or malformed is None or empty."""
    header = series.header
    stated, born = _stated_years(header), _born_years(header)
    if born is not None and (stated is None or (stated == 0 and born > 0)):  # zero is how the absent is written, too
        stated = born
    contradicted = born is not None and stated is not None and abs(born - stated) > DOUBTFUL_YEARS
    steps = np.diff(series.grid.slice_positions_mm)
    return Acquisition(
        slice_spacing_mm=float(steps.max()) if len(steps) else series.grid.spacing_mm[0],
        pixel_spacing_mm=max(series.grid.pixel_spacing_mm),
        age_years=stated,
        patient_position=str(header.get("PatientPosition", "") or "").strip(),
        kernel="\\".join(_texts(header.get("ConvolutionKernel"))),
        born_years=born if contradicted else None,
    )


def _texts(value: object) -> list[str]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]  # type: ignore[attr-defined]


def _stated_years(header: Dataset) -> float | None:
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", str(header.get("PatientAge", "") or "").strip())
    return int(stated[1]) * YEARS[stated[2]] if stated else None


def _born_years(header: Dataset) -> float | None:
    """Return the time from birth to the scan."""
    born = _day(header.get("PatientBirthDate"))
    days = (_day(header.get(keyword)) for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate"))
    scanned = next((day for day in days if day is not None), None)
    if born is None or scanned is None or scanned < born:
        return None
    return float(scanned.year - born.year - ((scanned.month, scanned.day) < (born.month, born.day)))


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(str(value or "").strip())
    except ValueError:
        return None
