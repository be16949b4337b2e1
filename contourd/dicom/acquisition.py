"""What a CT series says of its patient and scan, for the limits of a model (DICOM PS3.3 C.7.2.2, C.7.3.1, C.8.2.1)."""

from __future__ import annotations

import re
from datetime import date

import numpy as np
from pydicom.dataset import Dataset

from contourd.dicom.series import Series
from contourd.model.limits import Acquisition

# PS3.5 6.2, AS: days, weeks, months, years.
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def acquisition_of(series: Series) -> Acquisition:
    """Read the first slice's header; what is absent or malformed is None or empty."""
    header = series.header
    steps = np.diff(series.grid.slice_positions_mm)
    return Acquisition(
        slice_spacing_mm=float(steps.max()) if len(steps) else series.grid.spacing_mm[0],
        pixel_spacing_mm=max(series.grid.pixel_spacing_mm),
        age_years=_age_years(header),
        patient_position=str(header.get("PatientPosition", "") or "").strip(),
        kernel="\\".join(_texts(header.get("ConvolutionKernel"))),
    )


def _texts(value: object) -> list[str]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]  # type: ignore[attr-defined]


def _age_years(header: Dataset) -> float | None:
    """PatientAge, else the time from birth to the scan."""
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", str(header.get("PatientAge", "") or "").strip())
    if stated:
        return int(stated[1]) * YEARS[stated[2]]
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
