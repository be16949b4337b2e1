"""One CT series on disk -> structure sets that were read back: no database, no network.

``contourd contour``, the worker and the trainer's evaluation all call it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from contourd.contour.drawing import ModelDrawing, ModelsInTurn, SeriesToDraw, draw
from contourd.contour.judging import judge
from contourd.contour.judging import judged as judged
from contourd.contour.options import ORDER as ORDER
from contourd.contour.options import ContouringOptions as ContouringOptions
from contourd.contour.products import PRODUCTS, Drawn
from contourd.dicom.reading.series import Instance, gate
from contourd.dicom.rtstruct.writer import Provenance
from contourd.errors import CodedError, DeviceError, DeviceUnavailable, ModelError, OrgansRejected, SeriesUnusable
from contourd.imaging.contours import HoleStyle, MaskInBox, StructureSet
from contourd.imaging.grid import Grid
from contourd.model.model_use import ModelUse, hash_of_uses
from contourd.model.predictor import Predictor, Progress
from contourd.model.remarks import RemarkCheck, Remarks
from contourd.model.structures import Structure, catalogue
from contourd.profiles import Profile


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
    models
        Each in its turn: what it drew, or why nothing.
    """

    datasets: tuple[Dataset, ...]
    structures: StructureSet
    masks: dict[str, MaskInBox]
    remarks: Remarks
    grid: Grid
    models: tuple[ModelUse, ...]

    @property
    def dataset(self) -> Dataset:
        """The first profile's structure set."""
        return self.datasets[0]


def contour_series(
    instances: Sequence[Instance],
    models: Predictor | ModelsInTurn,
    order: ContouringOptions = ORDER,
    progress: Progress | None = None,
) -> ContouringResult:
    """Contour one CT series.

    Parameters
    ----------
    instances
        Of one series, in any order.
    models
        What contours, or several, of which an organ is drawn by the first that lists it.
    progress
        Called with the stage's name and the fraction of it that is done.

    Raises
    ------
    SeriesUnusable
        The input gate refuses the series, or it shows no patient, no head and neck, or a head beside the model's box.
    OutsideLimits
        The model was not made for such a series, and nobody released it.
    ModelError
        A model cannot be loaded.
    DeviceError
        The device's memory does not suffice.
    StructureSetRejected
        What was written does not read back as it was contoured; single organs that do not are withheld.
    """
    report = progress or (lambda stage, fraction: None)
    series = gate(instances)
    subject = SeriesToDraw(series, order, report)
    drawings, uses = _drawn_in_turn(subject, ModelsInTurn.of(models), progress)
    remarks = judge(drawings, uses, order) + Remarks.noted(RemarkCheck.HEADER, series.formal)
    masks = {name: packed.unpacked() for drawing in drawings for name, packed in drawing.masks.items()}
    structures = {
        style: StructureSet(tuple(roi for drawing in drawings for roi in drawing.rois[style]))
        for style in {HoleStyle(profile.holes) for profile in order.profiles}
    }
    report("trace", 1.0)
    own = {name: Structure(name, (), colour) for name, colour in order.colours.items()}
    drawn = Drawn(series, structures, masks, {**own, **catalogue()}, order.second_reader)
    datasets, remarks = _written(drawn, _Origin(drawings, uses), order, remarks, report)
    report("write", 1.0)
    return ContouringResult(datasets, structures[HoleStyle(order.profiles[0].holes)], masks, remarks, series.grid, uses)


def _drawn_in_turn(
    subject: SeriesToDraw, models: ModelsInTurn, progress: Progress | None
) -> tuple[tuple[ModelDrawing, ...], tuple[ModelUse, ...]]:
    """Have the models draw one after the other; by ``partial`` one that fails is left out and says why.

    Raises
    ------
    SeriesUnusable, ModelError, DeviceError
        Of the first that failed: none may, or all did, or no other vouches that the image is what it is taken for.
    """
    drawings, uses = list[ModelDrawing](), list[ModelUse]()
    first: CodedError | None = None
    doubt: CodedError | None = None
    for one in models.models:
        if one.use.failed is not None:
            uses.append(one.use)
            code, detail = one.use.failed.code, one.use.failed.detail
            first = first or ModelError(code, **detail)
            continue
        taken = frozenset(name.casefold() for drawing in drawings for name in drawing.own)
        try:
            drawing = one.run(lambda predictor, taken=taken: draw(subject, predictor, taken, progress))  # type: ignore[misc]
        except (SeriesUnusable, ModelError, DeviceError) as error:
            if models.partial != "send" or isinstance(error, DeviceUnavailable) or error is subject.broken:
                raise
            failed = _plain(error)
            first = first or failed
            if type(failed) is SeriesUnusable:  # it says that of the image, which none contradicts that knows no organ
                doubt = doubt or failed
            uses.append(replace(one.use, organs=one.organs(), failed=failed.reason))
        else:
            drawings.append(drawing)
            uses.append(ModelUse(one.use.asked, drawing.bundle.identity, drawing.runtime, drawing.own))
    if first is not None and not drawings:
        raise first
    if doubt is not None and not any(drawing.vouched for drawing in drawings):
        raise doubt
    drawn = {name.casefold() for drawing in drawings for name in drawing.own}
    return tuple(drawings), tuple(use if use.drew else _missing(use, drawn) for use in uses)


def _plain(error: CodedError) -> CodedError:
    """Return an error without what it was raised from, which would keep a model's memory."""
    return type(error)(error.reason.code, **error.reason.detail)


def _missing(use: ModelUse, drawn: set[str]) -> ModelUse:
    """Return one that failed with those of its organs that no other model drew."""
    return replace(use, organs=tuple(name for name in use.organs if name.casefold() not in drawn))


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """Who drew what is to be written."""

    drawings: tuple[ModelDrawing, ...]
    uses: tuple[ModelUse, ...]

    def provenance(self, settings_hash: str, revision: int) -> Provenance:
        """Return what made the structure set: the site's records decide what is plausible, and so are part of it."""
        records = [d.bundle.commissioning.sha256 if d.bundle.commissioning is not None else "" for d in self.drawings]
        if any(records):
            settings_hash = hashlib.sha256(f"{settings_hash} {' '.join(records)}".encode()).hexdigest()
        return Provenance(self.uses, hash_of_uses(self.uses), settings_hash, revision)


def _written(
    drawn: Drawn, origin: _Origin, order: ContouringOptions, remarks: Remarks, report: Progress
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
                datasets.append(_checked(drawn, origin, order, profile, remarks))
            except OrgansRejected as error:
                names = {profile.name_of(name): name for name in drawn.masks}
                rejected = {names.get(name, name): reason for name, reason in error.organs.items()}
                remarks = remarks.without(rejected)
                break
        else:
            return tuple(datasets), remarks


def _checked(drawn: Drawn, origin: _Origin, order: ContouringOptions, profile: Profile, remarks: Remarks) -> Dataset:
    """Write one product, and read it back."""
    provenance = origin.provenance(order.settings_hash(profile), order.revision)
    product = PRODUCTS[profile.product]
    dataset = product.write(drawn, provenance, profile, remarks)
    product.check(dataset, drawn, profile, remarks)
    return dataset
