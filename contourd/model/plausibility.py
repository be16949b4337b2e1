"""Whether an organ has the size and the place that it has in the patients the model learnt from.

Size: the logarithm of the volume. Place: the offset of its centroid from every other organ's. Side: left is left.
Symmetry: the ratio of a pair's volumes. Medians and median absolute deviations: a few odd patients move nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import exp, log
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.model.remarks import Finding, Measure, RemarkCheck
from contourd.model.sides import Sides
from contourd.model.structures import Laterality, Pairs, catalogue, catalogue_pairs

FEWEST_CASES = 10
SMALLEST_SD_LOG, SMALLEST_SD_MM = 0.1, 2.0
# A spread beyond these would let everything pass: a factor of e^3 in volume, or the length of a head and neck.
LARGEST_SD_LOG, LARGEST_SD_MM = 3.0, 300.0
# The middle of the body is not that of the head to the millimetre; no sided organ of a head and neck is as near to it.
MIDLINE_MARGIN_MM = 10.0
MAD_TO_SD = 1.4826


class RobustSpread(BaseModel):
    """Median and robust standard deviation over the training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float = Field(allow_inf_nan=False)
    sd: float = Field(gt=0, le=LARGEST_SD_MM, allow_inf_nan=False)

    def score(self, value: float) -> float:
        """Return the distance from the median in standard deviations."""
        return abs(value - self.median) / self.sd


class OrganSpread(BaseModel):
    """One organ in the training set.

    log_volume_cc
        Natural logarithm.
    offsets_mm
        Other organ -> this organ's centroid less the other's, x, y and z (LPS).
    log_asymmetry
        Of the left organ of a pair: log of its volume over the right one's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_volume_cc: RobustSpread
    offsets_mm: Mapping[str, tuple[RobustSpread, RobustSpread, RobustSpread]]
    log_asymmetry: RobustSpread | None = None

    @model_validator(mode="after")
    def _logarithms_of_a_patient(self) -> Self:
        for spread in (self.log_volume_cc, self.log_asymmetry):
            if spread is not None and spread.sd > LARGEST_SD_LOG:
                raise ValueError(f"sd: {spread.sd:g} of a logarithm judges nothing (at most {LARGEST_SD_LOG:g})")
        return self


Distribution = Mapping[str, OrganSpread]


@dataclass(frozen=True, slots=True)
class OrganGeometry:
    """A contoured or annotated organ.

    Attributes
    ----------
    centroid_mm
        Patient coordinates (x, y, z), LPS.
    cut
        It reaches the first or the last slice: part of it may lie outside of the CT.
    """

    name: str
    volume_cc: float
    centroid_mm: tuple[float, float, float]
    cut: bool


def organ(name: str, mask: MaskInBox, grid: Grid) -> OrganGeometry | None:
    """Measure an organ; None where it has no voxels."""
    inside = np.argwhere(mask.mask)
    if not len(inside):
        return None
    index = inside + [part.start for part in mask.box]
    volume_cc = grid.volume_mm3(mask.mask, mask.box[0].start) / 1000
    x, y, z = (float(v) for v in grid.to_patient(index.mean(axis=0)[None])[0])
    cut = int(index[:, 0].min()) == 0 or int(index[:, 0].max()) == grid.shape[0] - 1
    return OrganGeometry(name, volume_cc, (x, y, z), cut)


def distribution_of(cases: Sequence[Sequence[OrganGeometry]], pairs: Pairs | None = None) -> dict[str, OrganSpread]:
    """Measure the training set; organs, pairs and offsets of fewer than FEWEST_CASES cases are left out.

    Volumes of organs that the field of view cuts do not count.

    Parameters
    ----------
    pairs
        (left, right) organs; by default those that the catalogue knows.
    """
    by_name = [{o.name: o for o in case} for case in cases]
    names = sorted({name for case in by_name for name in case})
    rights = dict(catalogue_pairs(names) if pairs is None else pairs)
    offsets: dict[str, dict[str, tuple[RobustSpread, RobustSpread, RobustSpread]]] = {name: {} for name in names}
    for a, b in permutations(names, 2):
        both = np.array([np.subtract(c[a].centroid_mm, c[b].centroid_mm) for c in by_name if a in c and b in c])
        if len(both) >= FEWEST_CASES:
            x, y, z = (_spread(both[:, axis], SMALLEST_SD_MM) for axis in range(3))
            offsets[a][b] = (x, y, z)
    found = {}
    for name in names:
        volumes = np.array([c[name].volume_cc for c in by_name if name in c and not c[name].cut])
        if len(volumes) >= FEWEST_CASES:
            asymmetry = _asymmetry(by_name, name, rights.get(name))
            spread = _spread(np.log(volumes), SMALLEST_SD_LOG)
            found[name] = OrganSpread(log_volume_cc=spread, offsets_mm=offsets[name], log_asymmetry=asymmetry)
    return found


def _asymmetry(cases: Sequence[Mapping[str, OrganGeometry]], name: str, right: str | None) -> RobustSpread | None:
    if right is None:
        return None
    whole = [(c[name], c[right]) for c in cases if name in c and right in c and not (c[name].cut or c[right].cut)]
    ratios = np.array([log(left.volume_cc / right.volume_cc) for left, right in whole])
    return _spread(ratios, SMALLEST_SD_LOG) if len(ratios) >= FEWEST_CASES else None


def _spread(values: np.typing.NDArray[np.float64], smallest_sd: float) -> RobustSpread:
    median = float(np.median(values))
    deviation = MAD_TO_SD * float(np.median(np.abs(values - median)))
    return RobustSpread(median=round(median, 3), sd=round(max(deviation, smallest_sd), 3))


def assess(
    organs: Sequence[OrganGeometry], distribution: Distribution, limit_sd: float, sides: Sides | None = None
) -> tuple[Finding, ...]:
    """Compare the organs of one patient with the training set; sides are judged without one.

    Size and place of organs that it does not know are not judged.

    Parameters
    ----------
    limit_sd
        How many robust standard deviations are still plausible.
    sides
        By default the catalogue's pairs, and no midline of the patient.
    """
    by_name = {o.name: o for o in organs}
    sides = sides or Sides(catalogue_pairs(tuple(by_name)))
    findings: list[Finding] = []
    for o in organs:
        spread = distribution.get(o.name)
        if spread is not None:
            findings += _volume(o, spread.log_volume_cc, limit_sd)
            findings += _position(o, by_name, spread, limit_sd)
            findings += _symmetry(o, by_name.get(sides.partner(o.name) or ""), spread, limit_sd)
        findings += _laterality(o, by_name, sides)
    return tuple(findings)


def recognised(
    organs: Sequence[OrganGeometry], findings: Sequence[Finding], distribution: Distribution
) -> tuple[str, ...]:
    """Name the organs that have their size and their place; what was not compared has none."""
    odd = {
        f.structure for f in findings if f.check in (RemarkCheck.VOLUME, RemarkCheck.POSITION, RemarkCheck.LATERALITY)
    }
    return tuple(o.name for o in organs if o.name in distribution and o.name not in odd)


def _volume(o: OrganGeometry, spread: RobustSpread, limit_sd: float) -> list[Finding]:
    value = log(o.volume_cc)
    if spread.score(value) <= limit_sd or (o.cut and value < spread.median):
        return []
    low, high = (exp(spread.median + sign * limit_sd * spread.sd) for sign in (-1, 1))
    return [Finding(o.name, RemarkCheck.VOLUME, Measure.VOLUME_CC, o.volume_cc, (low, high))]


def _position(
    o: OrganGeometry, others: Mapping[str, OrganGeometry], spread: OrganSpread, limit_sd: float
) -> list[Finding]:
    scores = []
    for name, axes in spread.offsets_mm.items():
        if name in others:
            offset = np.subtract(o.centroid_mm, others[name].centroid_mm)
            scores.append(max(axis.score(float(mm)) for axis, mm in zip(axes, offset, strict=True)))
    # The median: one misplaced organ accuses itself, not all the others.
    if len(scores) < 2 or float(np.median(scores)) <= limit_sd:
        return []
    far = float(np.median(scores))
    return [Finding(o.name, RemarkCheck.POSITION, Measure.STANDARD_DEVIATIONS, far, (0.0, limit_sd))]


def _laterality(o: OrganGeometry, others: Mapping[str, OrganGeometry], sides: Sides) -> list[Finding]:
    """Compare with the partner, else with the organs of the midline; and with the patient's own midline."""
    side = sides.of(o.name)
    if side is Laterality.MIDLINE:
        return []
    sign = 1 if side is Laterality.LEFT else -1  # LPS: x grows towards the patient's left
    partner = others.get(sides.partner(o.name) or "")
    middle = [m.centroid_mm[0] for m in others.values() if _is_midline(m.name)]
    depths_mm = []
    if partner is not None:
        depths_mm.append(sign * (o.centroid_mm[0] - partner.centroid_mm[0]))
    elif middle:
        depths_mm.append(sign * (o.centroid_mm[0] - float(np.mean(middle))))
    if sides.midline_mm is not None:
        depths_mm.append(sign * (o.centroid_mm[0] - sides.midline_mm) + MIDLINE_MARGIN_MM)
    if all(depth_mm > 0 for depth_mm in depths_mm):
        return []
    return [Finding(o.name, RemarkCheck.LATERALITY)]


def _is_midline(name: str) -> bool:
    known = catalogue().get(name)
    return known is not None and known.laterality is Laterality.MIDLINE


def _symmetry(o: OrganGeometry, partner: OrganGeometry | None, spread: OrganSpread, limit_sd: float) -> list[Finding]:
    usual = spread.log_asymmetry
    if usual is None or partner is None or o.cut or partner.cut:
        return []
    ratio = o.volume_cc / partner.volume_cc
    if usual.score(log(ratio)) <= limit_sd:
        return []
    expected = exp(usual.median - limit_sd * usual.sd), exp(usual.median + limit_sd * usual.sd)
    both = {o.name: o.volume_cc, partner.name: partner.volume_cc}
    return [Finding(name, RemarkCheck.SYMMETRY, Measure.VOLUME_RATIO, ratio, expected, both) for name in both]
