"""What a model was made for: age, spacing, patient position, kernel. Outside of it a series is held, not guessed at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# PS3.5 6.2, VR SH; some patterns take twice as long for each further character.
LONGEST_KERNEL = 16
Bounds = tuple[float | None, float | None]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


class Limits(BaseModel):
    """Limits of a bundle; what is None or empty is not limited, and what the series does not say is not judged.

    age_years, slice_spacing_mm, pixel_spacing_mm
        Least and greatest, both allowed; null for none.
    patient_positions
        PatientPosition (DICOM C.7.3.1.1.2) the model was validated for.
    kernels
        Regular expressions, one of which ConvolutionKernel must contain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    age_years: Bounds | None = None
    slice_spacing_mm: Bounds | None = None
    pixel_spacing_mm: Bounds | None = None
    patient_positions: tuple[str, ...] = ()
    kernels: tuple[Annotated[str, Field(max_length=64), AfterValidator(_compiles)], ...] = Field((), max_length=64)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What a series says of its patient and scan; None or empty where it says nothing.

    Attributes
    ----------
    slice_spacing_mm, pixel_spacing_mm
        The widest.
    born_years
        The age by the birth date, where it contradicts the one that is stated: both are judged.
    """

    slice_spacing_mm: float
    pixel_spacing_mm: float
    age_years: float | None = None
    patient_position: str = ""
    kernel: str = ""
    born_years: float | None = None


def outside(limits: Limits, acquisition: Acquisition) -> tuple[str, ...]:
    """Name each limit that the series is outside of, in words; empty: the model was made for it."""
    measured = (
        ("the patient's age is {:g} years", limits.age_years, acquisition.age_years),
        ("by the birth date the patient is {:g} years old", limits.age_years, acquisition.born_years),
        ("slices are {:.2f} mm apart", limits.slice_spacing_mm, acquisition.slice_spacing_mm),
        ("pixels are {:.2f} mm wide", limits.pixel_spacing_mm, acquisition.pixel_spacing_mm),
    )
    reasons = [
        f"{text.format(value)}, the model is for {_range(bounds)}"
        for text, bounds, value in measured
        if bounds is not None and value is not None and not _inside(bounds, value)
    ]
    position, kernel = acquisition.patient_position, acquisition.kernel
    if limits.patient_positions and position and position not in limits.patient_positions:
        reasons.append(f"the patient lies {position}, the model is for {', '.join(limits.patient_positions)}")
    if (
        limits.kernels
        and kernel
        and not any(re.search(k, kernel[:LONGEST_KERNEL], re.IGNORECASE) for k in limits.kernels)
    ):
        reasons.append(f"the kernel is {kernel}, the model is for {', '.join(limits.kernels)}")
    return tuple(reasons)


def _inside(bounds: Bounds, value: float) -> bool:
    low, high = bounds
    return (low is None or value >= low) and (high is None or value <= high)


def _range(bounds: Bounds) -> str:
    low, high = bounds
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
