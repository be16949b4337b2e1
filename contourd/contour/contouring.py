"""One CT series on disk -> structure sets that were read back: no database, no network.

``contourd contour``, the worker and the trainer's evaluation all call it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.contour.products import PRODUCTS, Drawn
from contourd.dicom.reading.acquisition import acquisition_of
from contourd.dicom.reading.series import Instance, gate, read_volume
from contourd.dicom.rtstruct.writer import Provenance
from contourd.errors import OrgansRejected, OutsideLimits, SeriesUnusable
from contourd.imaging import contours
from contourd.imaging.contours import ROI, HoleStyle, MaskInBox, StructureSet, trace
from contourd.imaging.grid import Grid
from contourd.model.agreement import LatticeAgreement, disagreement
from contourd.model.bundle_config import ModelBundle
from contourd.model.commissioning import unjudged_text
from contourd.model.limits import outside
from contourd.model.plausibility import OrganGeometry, assess, organ, recognised
from contourd.model.predictor import Prediction, Predictor, Progress
from contourd.model.remarks import Finding, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.sides import Sides
from contourd.model.structures import Structure, catalogue
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason
from contourd.settings import PlausibilitySettings

LEVEL = 0.5
INTERPOLATION_ORDER = 3
FEWEST_ORGANS = 3
# An arm or a piece of a frame that is taken for the head's is no more.
MOST_BESIDE = 0.05


@dataclass(frozen=True, slots=True)
class ContouringOptions:
    """How a series is to be contoured.

    Attributes
    ----------
    revision
        Of the series: a late slice makes a new one, and so a new structure set.
    profiles
        One product is written for each: a structure set, or a segmentation.
    override
        Why a person lets the model run outside of its limits, and who; empty: such a series is held.
    second_reader
        Whether rt-utils opens each structure set too.
    colours
        RGB, 0 to 255, of organs that the catalogue does not know.
    """

    revision: int = 1
    profiles: tuple[Profile, ...] = (STRICT,)
    plausibility: PlausibilitySettings = field(default_factory=PlausibilitySettings)
    override: str = ""
    second_reader: bool = False
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def settings_hash(self, profile: Profile) -> str:
        """Hash what else than the input and the model decides the structure set's content; part of its UID."""
        content = {
            "level": LEVEL,
            "interpolation_order": INTERPOLATION_ORDER,
            "tolerance_pixels": contours.TOLERANCE_PIXELS,
            "smallest_area_mm2": contours.SMALLEST_AREA_MM2,
            "smallest_hole_mm2": contours.SMALLEST_HOLE_MM2,
            "plausibility": self.plausibility.model_dump(mode="json"),
            "override": self.override,
            "profile": profile.identity(),
            **({"colours": dict(self.colours)} if self.colours else {}),  # so that others keep their hash
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


ORDER = ContouringOptions()


@dataclass(frozen=True, slots=True, eq=False)
class ContouringResult:
    """The result for one series.

    Attributes
    ----------
    datasets
        For each profile, in order, its product, read back and compared with the masks.
    structures
        The same contours, with volumes.
    masks
        TG-263 name -> voxels with probability at least 0.5 on the CT's own grid.
    remarks
        What is to be looked at first, and what was withheld.
    grid
        The CT's own.
    """

    datasets: tuple[Dataset, ...]
    structures: StructureSet
    masks: dict[str, MaskInBox]
    remarks: Remarks
    grid: Grid

    @property
    def dataset(self) -> Dataset:
        """The first profile's structure set."""
        return self.datasets[0]


def contour_series(
    instances: Sequence[Instance],
    predictor: Predictor,
    order: ContouringOptions = ORDER,
    progress: Progress | None = None,
) -> ContouringResult:
    """Contour one CT series.

    Parameters
    ----------
    instances
        Of one series, in any order.
    progress
        Called with the stage's name and the fraction of it that is done.

    Raises
    ------
    SeriesUnusable
        The input gate refuses the series, or it shows no patient, no head and neck, or a head beside the model's box.
    OutsideLimits
        The model was not made for such a series, and nobody released it.
    DeviceError
        The device's memory does not suffice.
    StructureSetRejected
        What was written does not read back as it was contoured; single organs that do not are withheld.
    """
    report = progress or (lambda stage, fraction: None)
    bundle = predictor.bundle
    series = gate(instances)
    beyond = outside(bundle.config.limits, acquisition_of(series))
    if beyond and not order.override:
        raise OutsideLimits(HoldReason.OUTSIDE_LIMITS, model=bundle.name, beyond=list(beyond))
    volume = read_volume(series, lambda done, total: report("read", done / total))
    prediction = predictor.predict(volume, progress)
    found = _found(prediction, report)
    masks = {o.name: o.mask for o in found}
    unclear = [finding for o in found for finding in disagreement(o.name, o.agreement)]
    remarks = _remarks(_organs(masks, series.grid), unclear, bundle, order, beyond, prediction.midline_mm())
    _refuse_beside(prediction, bundle, order)  # after what is no head and neck at all
    remarks += Remarks.noted(RemarkCheck.HEADER, series.formal)
    structures = {style: _traced(found, series.grid, style) for style in {HoleStyle(p.holes) for p in order.profiles}}
    report("trace", 1.0)
    own = {name: Structure(name, (), colour) for name, colour in order.colours.items()}
    drawn = Drawn(series, structures, masks, {**own, **catalogue()}, order.second_reader)
    datasets, remarks = _written(drawn, bundle, order, remarks, report)
    report("write", 1.0)
    return ContouringResult(datasets, structures[HoleStyle(order.profiles[0].holes)], masks, remarks, series.grid)


def _written(
    drawn: Drawn, bundle: ModelBundle, order: ContouringOptions, remarks: Remarks, report: Progress
) -> tuple[tuple[Dataset, ...], Remarks]:
    """Write the product of each profile; an organ that does not read back from one is withheld from all.

    Raises
    ------
    StructureSetRejected
        More than single organs is wrong, or none is left.
    """
    while True:
        datasets = []
        for i, profile in enumerate(order.profiles):
            report("write", i / len(order.profiles))
            try:
                datasets.append(_checked(drawn, bundle, order, profile, remarks))
            except OrgansRejected as error:
                names = {profile.name_of(name): name for name in drawn.masks}
                rejected = {names.get(name, name): reason for name, reason in error.organs.items()}
                remarks = remarks.without(rejected)
                break
        else:
            return tuple(datasets), remarks


def _checked(
    drawn: Drawn, bundle: ModelBundle, order: ContouringOptions, profile: Profile, remarks: Remarks
) -> Dataset:
    """Write one product, and read it back."""
    hashed = order.settings_hash(profile)
    if bundle.commissioning is not None:  # which decides what is plausible
        hashed = hashlib.sha256(f"{hashed} {bundle.commissioning.sha256}".encode()).hexdigest()
    provenance = Provenance(bundle.name, bundle.version, bundle.sha256, hashed, order.revision)
    product = PRODUCTS[profile.product]
    dataset = product.write(drawn, provenance, profile, remarks)
    product.check(dataset, drawn, profile, remarks)
    return dataset


def _organs(masks: Mapping[str, MaskInBox], grid: Grid) -> list[OrganGeometry]:
    return [found for name, mask in masks.items() if (found := organ(name, mask, grid)) is not None]


def _refuse_beside(prediction: Prediction, bundle: ModelBundle, order: ContouringOptions) -> None:
    """Hold a series of whose head the network did not see all, unless a person answers for it."""
    if prediction.beyond > MOST_BESIDE and not order.override:
        raise SeriesUnusable(
            HoldReason.HEAD_BESIDE_BOX, part=prediction.beyond, width_mm=prediction.width_mm, model=bundle.name
        )


def _remarks(
    organs: Sequence[OrganGeometry],
    unclear: Sequence[Finding],
    bundle: ModelBundle,
    order: ContouringOptions,
    beyond: Sequence[str],
    midline_mm: float | None,
) -> Remarks:
    """Judge what was found by the training set; too little of a head and neck is no head and neck."""
    distribution = bundle.distribution
    sides = Sides(bundle.config.known_pairs, midline_mm)
    findings = assess(organs, distribution, order.plausibility.limit_sd, sides)
    known = recognised(organs, findings, distribution)
    if len(known) < min(FEWEST_ORGANS, len(distribution)) and not order.override:
        found = ", ".join(known) or "none"
        raise SeriesUnusable(HoldReason.NO_HEAD_AND_NECK, model=bundle.name, organs=found)
    released = [f"{order.override} ({'; '.join(beyond)})"] if beyond else []
    unjudged = unjudged_text(bundle.config.model.structures, distribution)
    return (
        Remarks.noted(RemarkCheck.LIMITS, released)
        + Remarks.noted(RemarkCheck.DISTRIBUTION, [*_unmeasured(bundle), *([unjudged] if unjudged else [])])
        + judged((*findings, *unclear), order.plausibility)
    )


def _unmeasured(bundle: ModelBundle) -> tuple[str, ...]:
    """Return why a model is in use without having been measured, and who said so; empty where it was, or ships."""
    known = bundle.commissioning
    if known is None or not known.without:
        return ()
    return (f"in use without a commissioning record: {known.without} ({known.by})",)


def judged(findings: Sequence[Finding], settings: PlausibilitySettings) -> Remarks:
    """Return what becomes of findings by the settings; an organ that is withheld is not to be looked at besides."""
    verdicts = {"flag": RemarkVerdict.FLAG, "withhold": RemarkVerdict.WITHHOLD}
    remarks = [
        Remark(finding, verdicts[verdict])
        for finding in findings
        if (verdict := settings.verdict(finding.check)) in verdicts
    ]
    withheld = {r.finding.structure for r in remarks if r.verdict is RemarkVerdict.WITHHOLD}
    return Remarks(
        tuple(r for r in remarks if r.verdict is RemarkVerdict.WITHHOLD or r.finding.structure not in withheld)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One organ on the CT's own grid: its probability inside its box, and the voxels at or over LEVEL."""

    name: str
    probability: NDArray[np.float32]
    mask: MaskInBox
    agreement: LatticeAgreement


def _found(prediction: Prediction, report: Progress) -> list[_Found]:
    found = []
    for i, name in enumerate(prediction.structures):
        report("trace", i / len(prediction.structures))
        box, probability, agreed = prediction.compared(name)
        found.append(_Found(name, probability, MaskInBox(box, probability >= LEVEL), agreed))
    return found


def _traced(found: Sequence[_Found], grid: Grid, style: HoleStyle) -> StructureSet:
    rois = []
    for o in found:
        volume_cc = grid.volume_mm3(o.mask.mask, o.mask.box[0].start) / 1000
        rois.append(ROI(o.name, trace(o.probability, o.mask.box, grid, LEVEL, style), volume_cc))
    return StructureSet(tuple(rois))
