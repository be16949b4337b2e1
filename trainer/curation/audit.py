"""The geometric audit: organs that are unlike the archive's own, or cannot be true.

Size and place are judged by the same rules as the node's contours (contourd.model.plausibility), against the robust
distribution of the archive itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.dicom.rtstruct.roi_masks import empty_slices
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.model.plausibility import OrganGeometry, assess, distribution_of, organ
from contourd.model.remarks import RemarkCheck
from contourd.model.sides import Sides
from contourd.model.structures import Structure, catalogue_pairs

LIMIT_SD = 5.0
IMPOSSIBLE_VOLUME = 4.0
OUTSIDE_SHARE = 0.25
# Half the way from air to water; skin, fat and noise of air are on their sides of it.
AIR_BELOW_HU = -500
HOLE_SLICES = 1


class Rule(Enum):
    """What was found; the name by which a rule is switched off."""

    VOLUME = "volume"  # IMPOSSIBLE_VOLUME times smaller or larger than the archive's median
    OUTSIDE = "outside"  # OUTSIDE_SHARE of it lies where the CT shows air or nothing
    SIDES = "sides"  # it lies on the other side of the patient
    HOLES = "holes"  # slices in its middle are empty
    UNUSUAL = "unusual"  # size or place far from the archive's own, and still possible
    CUT = "cut"  # the field of view ends in it


# What is surely wrong is excluded: the organ becomes unknown in that case. The others are only told.
EXCLUDING = frozenset({Rule.VOLUME, Rule.OUTSIDE, Rule.SIDES})


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One organ of one case, and what is odd about it."""

    case: str
    organ: str
    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What can be said of an organ without the other cases.

    Attributes
    ----------
    outside
        Share of its voxels in which the CT shows air, or was masked.
    empty_slices
        Between its first and its last.
    """

    organ: OrganGeometry
    outside: float
    empty_slices: int


def outside_share(mask: NDArray[np.bool_], hu: NDArray[np.int16]) -> float:
    """Return the share of an organ's voxels in air that reaches the edge of the image: outside of the body, or masked.

    Air inside of the body, as in the larynx, is no outside.
    """
    air = np.pad(hu < AIR_BELOW_HU, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels = np.stack([ndimage.label(plane)[0] for plane in air])
    outside = (labels == labels[:, :1, :1]) & air
    return float(outside[:, 1:-1, 1:-1][mask].mean())


def audit(cases: Mapping[str, Sequence[Shape]], known: Mapping[str, Structure] | None = None) -> list[AuditFinding]:
    """Judge every organ of every case against all of them.

    Parameters
    ----------
    known
        The catalogue, whose pairs are compared; by default the one that ships.
    """
    organs = [[shape.organ for shape in shapes] for shapes in cases.values()]
    pairs = catalogue_pairs(sorted({one.name for case in organs for one in case}), known)
    distribution = distribution_of(organs, pairs)
    found: list[AuditFinding] = []
    for case, shapes in cases.items():
        for finding in assess([shape.organ for shape in shapes], distribution, LIMIT_SD, Sides(pairs)):
            rule = Rule.SIDES if finding.check is RemarkCheck.LATERALITY else Rule.UNUSUAL
            found.append(AuditFinding(case, finding.structure, rule, finding.reason))
        for shape in shapes:
            spread = distribution.get(shape.organ.name)
            found += _alone(case, shape, float(np.exp(spread.log_volume_cc.median)) if spread is not None else None)
    return sorted(found, key=lambda f: (f.rule.value, f.organ, f.case))


def _alone(case: str, shape: Shape, usual_cc: float | None) -> list[AuditFinding]:
    found, own = list[AuditFinding](), shape.organ
    if usual_cc is not None:
        ratio = own.volume_cc / usual_cc
        if ratio > IMPOSSIBLE_VOLUME or (ratio < 1 / IMPOSSIBLE_VOLUME and not own.cut):
            reason = f"{own.volume_cc:.1f} cc, where the archive's median is {usual_cc:.1f} cc"
            found.append(AuditFinding(case, own.name, Rule.VOLUME, reason))
    if shape.outside > OUTSIDE_SHARE:
        reason = f"{100 * shape.outside:.0f} % of it lies outside of the body, or where the CT was masked"
        found.append(AuditFinding(case, own.name, Rule.OUTSIDE, reason))
    if shape.empty_slices >= HOLE_SLICES:
        reason = f"{shape.empty_slices} slices between its ends are empty"
        found.append(AuditFinding(case, own.name, Rule.HOLES, reason))
    if own.cut:
        found.append(AuditFinding(case, own.name, Rule.CUT, "it reaches the first or the last slice"))
    return found


def shapes_of(masks: Mapping[str, NDArray[np.bool_]], hu: NDArray[np.int16], grid: Grid) -> list[Shape]:
    """Measure the organs of one case, on the CT's own grid."""
    whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    found = []
    for name, mask in masks.items():
        measured = organ(name, MaskInBox(whole, mask), grid)
        if measured is not None:
            found.append(Shape(measured, outside_share(mask, hu), empty_slices(mask)))
    return found


def excluded(findings: Sequence[AuditFinding], rules: frozenset[Rule] = EXCLUDING) -> dict[str, set[str]]:
    """Return case -> organs that become unknown by the given rules."""
    found: dict[str, set[str]] = {}
    for finding in findings:
        if finding.rule in rules:
            found.setdefault(finding.case, set()).add(finding.organ)
    return found
