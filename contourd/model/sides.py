"""Which organ belongs to which side of the patient, and where the patient's middle is: no training set is needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contourd.model.slabs import AIR
from contourd.model.structures import Laterality, Pairs, side_of
from contourd.model.transforms import Prepared

# The head and neck, above the shoulders.
UPPER_MM = 200.0
# What is no air after the couch and all else beside the body was taken away.
BODY = AIR + 0.05


@dataclass(frozen=True, slots=True)
class Sides:
    """What left and right mean in one patient.

    Attributes
    ----------
    pairs
        (left, right) organs of the model.
    midline_mm
        Patient coordinate x (LPS) of the patient's middle; None where it is not known.
    """

    pairs: Pairs
    midline_mm: float | None = None

    def of(self, name: str) -> Laterality:
        """Return the side on which an organ lies: that of its pair, else the one that its name says."""
        for left, right in self.pairs:
            if name in (left, right):
                return Laterality.LEFT if name == left else Laterality.RIGHT
        return side_of(name)

    def partner(self, name: str) -> str | None:
        """Return the same organ on the other side."""
        partners = {one: other for left, right in self.pairs for one, other in ((left, right), (right, left))}
        return partners.get(name)


def midline_mm(prepared: Prepared) -> float | None:
    """Return x (LPS, mm) of the middle of the head and neck: the median over slices of the body's; None without one.

    The image holds the patient alone, and all else is air.
    """
    step_mm = float(np.diff(prepared.axes_mm[0]).mean()) if len(prepared.axes_mm[0]) > 1 else UPPER_MM
    upper = prepared.image[-max(1, round(UPPER_MM / step_mm)) :]
    across = np.asarray((upper > BODY).any(axis=1))  # (slices, columns)
    middles = [float(np.flatnonzero(row)[[0, -1]].mean()) for row in across if row.any()]
    if not middles:
        return None
    columns = prepared.axes_mm[2]
    place = float(np.interp(np.median(middles), np.arange(len(columns)), columns))
    return float(prepared.canonical.slice_origins_mm[0, 0]) + place
