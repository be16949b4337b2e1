"""One CT series on disk -> a structure set that was read back: no database, no network.

``contourd contour``, the worker and the trainer's evaluation all call it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from contourd.dicom.rtstruct_check import check_structure_set
from contourd.dicom.rtstruct_write import Provenance, structure_set_dataset
from contourd.dicom.series import Instance, gate, read_volume
from contourd.imaging import contours
from contourd.imaging.contours import ROI, MaskInBox, StructureSet, trace
from contourd.model.predictor import Prediction, Predictor, Progress
from contourd.model.structures import catalogue

SETTINGS = {
    "level": 0.5,
    "interpolation_order": 3,
    "tolerance_pixels": contours.TOLERANCE_PIXELS,
    "smallest_area_mm2": contours.SMALLEST_AREA_MM2,
    "smallest_hole_mm2": contours.SMALLEST_HOLE_MM2,
}
SETTINGS_HASH = hashlib.sha256(json.dumps(SETTINGS, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Contoured:
    """The result for one series.

    Attributes
    ----------
    dataset
        The RTSTRUCT, read back and compared with the masks.
    structures
        The same contours, with volumes.
    masks
        TG-263 name -> voxels with probability at least 0.5 on the CT's own grid.
    """

    dataset: Dataset
    structures: StructureSet
    masks: dict[str, MaskInBox]


def contour_series(
    instances: Sequence[Instance], predictor: Predictor, revision: int = 1, progress: Progress | None = None
) -> Contoured:
    """Contour one CT series.

    Parameters
    ----------
    instances
        Of one series, in any order.
    revision
        Of the series: a late slice makes a new one, and so a new structure set.
    progress
        Called with the stage's name and the fraction of it that is done.

    Raises
    ------
    SeriesUnusable
        The input gate refuses the series, or no patient is in it.
    DeviceError
        The device's memory does not suffice.
    StructureSetRejected
        What was written does not read back as it was contoured.
    """
    report = progress or (lambda stage, fraction: None)
    series = gate(instances)
    volume = read_volume(series, lambda done, total: report("read", done / total))
    prediction = predictor.predict(volume, progress)
    structures, masks = _structures(prediction, report)
    report("write", 0.0)
    bundle = predictor.bundle
    provenance = Provenance(bundle.name, bundle.version, bundle.sha256, SETTINGS_HASH, revision)
    dataset = structure_set_dataset(structures, series, provenance, catalogue())
    check_structure_set(dataset, series, masks)
    report("write", 1.0)
    return Contoured(dataset, structures, masks)


def _structures(prediction: Prediction, report: Progress) -> tuple[StructureSet, dict[str, MaskInBox]]:
    rois, masks = [], {}
    grid = prediction.prepared.source
    for i, name in enumerate(prediction.structures):
        report("trace", i / len(prediction.structures))
        box, probability = prediction.restored(name)
        mask = MaskInBox(box, probability >= SETTINGS["level"])
        volume_cc = float(mask.mask.sum()) * grid.voxel_volume_mm3 / 1000
        rois.append(ROI(name, trace(probability, box, grid), volume_cc))
        masks[name] = mask
    report("trace", 1.0)
    return StructureSet(tuple(rois)), masks
