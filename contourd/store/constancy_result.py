"""What a constancy check found, as it is kept in the database: figures of the reference patient, who is nobody."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class _Kept(BaseModel):
    """A part of the result; what a later version added is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OrganConstancy(_Kept):
    """One organ against the baseline's; the shift is that of the centroid, None where one of them is empty."""

    dice: float
    shift_mm: float | None


class ModelConstancy(_Kept):
    """One model.

    model
        As a route names it.
    seconds
        Of sending, contouring and delivering, without waiting.
    """

    model: str
    name: str
    version: str
    sha256: str
    seconds: float
    baseline_seconds: float
    organs: Mapping[str, OrganConstancy] = {}

    @property
    def least_dice(self) -> float:
        """Of the organ that is least like the baseline's."""
        return min((organ.dice for organ in self.organs.values()), default=0.0)

    @property
    def largest_shift_mm(self) -> float:
        """Of the organ that lies furthest from the baseline's."""
        return max((organ.shift_mm for organ in self.organs.values() if organ.shift_mm is not None), default=0.0)


class ConstancyResult(_Kept):
    """A whole check.

    remarks
        What a person should know and what is not red: destinations that do not answer, another version or device.
    """

    version: str = ""
    device: str = ""
    models: tuple[ModelConstancy, ...] = ()
    remarks: tuple[str, ...] = ()
