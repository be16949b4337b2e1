"""What each model of a job draws, one after the other: what the next one needs memory for has been given back then.

A model judges the series first, by its own limits, its own box and the organs that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contourd.contour.options import LEVEL, ContouringOptions
from contourd.dicom.reading.acquisition import acquisition_of
from contourd.dicom.reading.series import Series, read_volume
from contourd.errors import OutsideLimits, SeriesUnusable
from contourd.imaging.contours import ROI, HoleStyle, MaskInBox, trace
from contourd.imaging.grid import Box, Grid
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement, disagreement
from contourd.model.bundle_config import ModelBundle
from contourd.model.limits import outside
from contourd.model.model_names import PartialRule
from contourd.model.model_use import ModelUse
from contourd.model.plausibility import OrganGeometry, assess, organ, recognised
from contourd.model.predictor import Prediction, Predictor, Progress
from contourd.model.remarks import Finding
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.sides import Sides
from contourd.reasons.catalogue import HoldReason

FEWEST_ORGANS = 3
# An arm or a piece of a frame that is taken for the head's is no more.
MOST_BESIDE = 0.05


@dataclass(frozen=True, slots=True)
class PackedMask:
    """An organ's voxels inside its box, eight to a byte."""

    box: Box
    shape: tuple[int, ...]
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, organ_mask: MaskInBox) -> PackedMask:
        """Pack a mask."""
        return cls(organ_mask.box, organ_mask.mask.shape, np.packbits(organ_mask.mask))

    def unpacked(self) -> MaskInBox:
        """Return the mask again."""
        voxels = np.unpackbits(self.bits, count=int(np.prod(self.shape))).reshape(self.shape)
        return MaskInBox(self.box, voxels.astype(bool))


@dataclass(frozen=True, slots=True, eq=False)
class ModelDrawing:
    """What one model drew: neither its network nor its probabilities are kept.

    Attributes
    ----------
    own
        The organs that are its to draw: it lists them, and no model before it does.
    beyond
        Which of its limits the series is outside of, which a person answered for.
    vouched
        Whether enough organs have the size and the place that it knows them to have.
    geometry, unclear
        Of its own organs: those that it found, and those that it is not sure of.
    rois
        Of each style the contours of its own organs.
    """

    bundle: ModelBundle
    runtime: RuntimeDescription
    own: tuple[str, ...]
    beyond: tuple[str, ...]
    midline_mm: float | None
    vouched: bool
    geometry: tuple[OrganGeometry, ...]
    unclear: tuple[Finding, ...]
    masks: Mapping[str, PackedMask]
    rois: Mapping[HoleStyle, tuple[ROI, ...]]


def no_organs() -> tuple[str, ...]:
    """Name none: it is not known which organs a model draws."""
    return ()


@dataclass(frozen=True, slots=True)
class ModelInTurn:
    """One model of a job.

    Attributes
    ----------
    use
        Which it is; where it failed before, with why, and then it is not run.
    run
        Loads it, calls with its predictor, and raises what keeps it from being loaded or run.
    organs
        Names what it draws, if that can be read while it cannot be run.
    """

    use: ModelUse
    run: Callable[[Callable[[Predictor], ModelDrawing]], ModelDrawing]
    organs: Callable[[], tuple[str, ...]] = no_organs


@dataclass(frozen=True, slots=True)
class ModelsInTurn:
    """The models of a job, in the order in which they draw, and what becomes of it if one of them fails."""

    models: tuple[ModelInTurn, ...]
    partial: PartialRule = "hold"

    @classmethod
    def of(cls, models: Predictor | ModelsInTurn) -> ModelsInTurn:
        """Return several as they are, and of a single one that is loaded the list of it alone."""
        if isinstance(models, ModelsInTurn):
            return models
        predictor = models
        use = ModelUse(predictor.bundle.name, predictor.bundle.identity)
        return cls((ModelInTurn(use, lambda call: call(predictor)),))


@dataclass(slots=True)
class SeriesToDraw:
    """A series with its voxels, which are read when the first model that may draw asks for them.

    Attributes
    ----------
    broken
        Why they cannot be read: no other model can either.
    """

    series: Series
    order: ContouringOptions
    report: Progress
    broken: SeriesUnusable | None = None
    _volume: Volume | None = field(default=None, init=False)

    def volume(self) -> Volume:
        """Read them, once; raises SeriesUnusable."""
        if self._volume is None:
            try:
                self._volume = read_volume(self.series, lambda done, total: self.report("read", done / total))
            except SeriesUnusable as error:
                self.broken = error
                raise
        return self._volume


def draw(subject: SeriesToDraw, predictor: Predictor, taken: frozenset[str], progress: Progress | None) -> ModelDrawing:
    """Have one model judge a series, and draw what no model before it does.

    Parameters
    ----------
    taken
        Organs of earlier models, in small letters.

    Raises
    ------
    SeriesUnusable
        Its voxels cannot be read; or by this model it shows no patient, no head and neck, or a head beside the box.
    OutsideLimits
        The model was not made for such a series, and nobody released it.
    DeviceError
        The device's memory does not suffice.
    """
    bundle, order, grid = predictor.bundle, subject.order, subject.series.grid
    beyond = outside(bundle.config.limits, acquisition_of(subject.series))
    if beyond and not order.override:
        raise OutsideLimits(HoldReason.OUTSIDE_LIMITS, model=bundle.name, beyond=list(beyond))
    prediction = predictor.predict(subject.volume(), progress)
    found = _found(prediction, subject.report)
    measured = {o.name: geometry for o in found if (geometry := organ(o.name, o.mask, grid)) is not None}
    vouched = _require_head_and_neck(tuple(measured.values()), bundle, prediction.midline_mm(), order)
    _refuse_beside(prediction, bundle, order)  # after what is no head and neck at all
    own = [o for o in found if o.name.casefold() not in taken]
    styles = {HoleStyle(profile.holes) for profile in order.profiles}
    return ModelDrawing(
        bundle,
        predictor.runtime.description,
        tuple(o.name for o in own),
        beyond,
        prediction.midline_mm(),
        vouched,
        tuple(measured[o.name] for o in own if o.name in measured),
        tuple(finding for o in own for finding in disagreement(o.name, o.agreement)),
        {o.name: PackedMask.of(o.mask) for o in own},
        {style: _traced(own, grid, style) for style in styles},
    )


def _require_head_and_neck(
    organs: Sequence[OrganGeometry], bundle: ModelBundle, midline_mm: float | None, order: ContouringOptions
) -> bool:
    """Judge what a model found by its own training set; too little of a head and neck is no head and neck.

    Returns
    -------
    Whether there was something to judge by, and it was enough.
    """
    distribution = bundle.distribution
    sides = Sides(bundle.config.known_pairs, midline_mm)
    known = recognised(organs, assess(organs, distribution, order.plausibility.limit_sd, sides), distribution)
    enough = len(known) >= min(FEWEST_ORGANS, len(distribution))
    if not enough and not order.override:
        found = ", ".join(known) or "none"
        raise SeriesUnusable(HoldReason.NO_HEAD_AND_NECK, model=bundle.name, organs=found)
    return enough and bool(known)


def _refuse_beside(prediction: Prediction, bundle: ModelBundle, order: ContouringOptions) -> None:
    """Hold a series of whose head the network did not see all, unless a person answers for it."""
    if prediction.beyond > MOST_BESIDE and not order.override:
        raise SeriesUnusable(
            HoldReason.HEAD_BESIDE_BOX, part=prediction.beyond, width_mm=prediction.width_mm, model=bundle.name
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


def _traced(found: Sequence[_Found], grid: Grid, style: HoleStyle) -> tuple[ROI, ...]:
    rois = []
    for o in found:
        volume_cc = grid.volume_mm3(o.mask.mask, o.mask.box[0].start) / 1000
        rois.append(ROI(o.name, trace(o.probability, o.mask.box, grid, LEVEL, style), volume_cc))
    return tuple(rois)
