"""DICOM archives: CT series with the structure sets that were drawn on them, in any nesting and mixture.

DICOM PS3.3 A.19 (RT Structure Set IOD) and C.8.8.6 (ROI Contour). What planning systems leave out is put up with:
RTReferencedStudySequence, ContourImageSequence, an ROI without contours or without an item for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from contourd.dicom.reading.files import is_dicom, read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.series import Instance, gate, read_instance, read_volume
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.dicom.rtstruct.references import StructureSetFile, read_references
from contourd.dicom.rtstruct.roi_masks import roi_mask
from contourd.errors import DatasetError, SeriesUnusable
from contourd.model.spellings import interpret
from trainer.curation.archive import Item, Kind, RawCase, SkippedItem, Stage, splits_of
from trainer.curation.matching import Unmatched, newest, series_of

PREFIX_AT, PREFIX = 128, b"DICM"
# Interpreted types (PS3.3 C.8.8.8.1) of what is drawn for other ends than to spare an organ.
NO_ORGANS = frozenset(
    {"EXTERNAL", "PTV", "CTV", "GTV", "ITV", "TREATED_VOLUME", "IRRAD_VOLUME", "BOLUS", "MARKER", "REGISTRATION"}
    | {"ISOCENTER", "CONTRAST_AGENT", "BRACHY_CHANNEL", "BRACHY_ACCESSORY", "BRACHY_SRC_APP", "BRACHY_CHNL_SHLD"}
    | {"SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL", "DOSE_MEASUREMENT"}
)


def find_patients(root: Path, files: Iterable[Path], source: str) -> Iterator[Item | SkippedItem]:
    """Match the structure sets among ``files`` with their CT series; of several for one CT the newest is taken.

    Files that are no DICOM are passed over; what is DICOM and cannot be used is said.
    """
    series: dict[str, list[Instance]] = defaultdict(list)
    sets: list[StructureSetFile] = []
    for path in files:
        if not is_dicom(path):
            continue
        try:
            dataset = read_dicom(path, stop_before_pixels=True)
            if dataset.get("SOPClassUID") == RTStructureSetStorage:
                sets.append(read_references(path, dataset))
            elif dataset.get("Modality") == "CT":
                instance = read_instance(path)
                series[instance.series_instance_uid].append(instance)
            elif "SOPClassUID" not in dataset and "DirectoryRecordSequence" not in dataset:
                raise DatasetError("it ends before it says what it is")
        except (SeriesUnusable, DatasetError, *UNREADABLE) as error:
            yield SkippedItem(source, str(path.relative_to(root)), f"cannot be read: {error}")
    of_series: dict[str, list[StructureSetFile]] = defaultdict(list)
    for one in sets:
        name = str(one.path.relative_to(root))
        try:
            uid = series_of(one, series)
        except Unmatched as error:
            yield SkippedItem(source, name, str(error), error.stage)
            continue
        if one.rejected:
            yield SkippedItem(source, name, "somebody looked at this structure set and rejected it", Stage.MISMATCHED)
        else:
            of_series[uid].append(one)
    for uid, instances in series.items():
        folder = instances[0].path.parent
        if not of_series[uid]:
            name = str(folder.relative_to(root))
            yield SkippedItem(source, name, "this CT series has no structure set", Stage.ALONE)
            continue
        try:
            taken = newest(of_series[uid])
        except Unmatched as error:
            yield SkippedItem(source, str(folder.relative_to(root)), str(error), error.stage)
            continue
        for other in sorted(of_series[uid], key=lambda s: (s.drawn, str(s.path))):
            if other is not taken:
                newer = "another copy" if other.is_copy_of(taken) else "a newer structure set of the same CT"
                yield SkippedItem(source, str(other.path.relative_to(root)), f"{newer} is taken", Stage.ASIDE)
        yield Item(
            source,
            uid,
            Kind.DICOM,
            tuple(i.path for i in instances),
            (taken.path,),
            instances[0].patient_id or folder.name,
            splits_of((i.path for i in instances), root),
            taken.spellings,
        )


def read_patient(item: Item) -> RawCase:
    """Read a CT series through the node's own gate, and fill the contours of its structure set.

    Raises
    ------
    SeriesUnusable
        The gate refuses the series.
    DatasetError
        The structure set cannot be read.
    """
    instances = [read_instance(path) for path in item.images]
    series = gate(instances)
    volume = read_volume(series)
    try:
        dataset = read_dicom(item.structures[0])
        rois, observed = read_structure_set(dataset), _observations(dataset)
    except UNREADABLE as error:
        raise DatasetError(f"{item.structures[0].name} cannot be read: {error}") from error
    except DatasetError as error:
        raise DatasetError(f"{item.structures[0].name}: {error}") from error
    frame = str(series.header.get("FrameOfReferenceUID", "") or "")
    images = frozenset(instance.sop_instance_uid for instance in instances)
    masks: dict[str, NDArray[np.bool_]] = {}
    remarks: dict[str, list[str]] = {}
    differing = []
    for roi in rois:
        mask, doubts = roi_mask(roi, series.grid, frame, images)
        doubt = _contradiction(roi.name, observed.get(roi.number, ()))
        if doubt:
            mask, doubts = None, [*doubts, doubt]
        if mask is not None:
            if roi.name in masks and not np.array_equal(masks[roi.name], mask):
                differing.append(roi.name)
            masks[roi.name] = mask
        if doubts:
            remarks.setdefault(roi.name, []).extend(doubts)
    for name in dict.fromkeys(differing):
        del masks[name]
        remarks.setdefault(name, []).append("stands several times under this name, and they differ")
    return RawCase(volume, masks, remarks)


def _observations(dataset: Dataset) -> dict[int, list[tuple[str, str]]]:
    """Return ROI number -> label and interpreted type of each observation of it."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for item in dataset.get("RTROIObservationsSequence") or ():
        label = str(item.get("ROIObservationLabel", "") or "").strip()
        kind = str(item.get("RTROIInterpretedType", "") or "").strip().upper()
        found[int(item.ReferencedROINumber)].append((label, kind))
    return found


def _contradiction(name: str, observed: Sequence[tuple[str, str]]) -> str:
    """Return where the observations of an ROI make it something else than its name does, empty where they do not."""
    for label, kind in observed:
        if kind in NO_ORGANS:
            return f"its interpreted type is {kind}, which is no organ"
        organ, other = interpret(name).organ, interpret(label).organ
        if organ is not None and other is not None and other != organ:
            return f"its observation calls it {label!r}"
    return ""
