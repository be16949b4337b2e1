"""DICOM archives: CT series with the structure sets that were drawn on them, in any nesting and mixture.

DICOM PS3.3 A.19 (RT Structure Set IOD) and C.8.8.6 (ROI Contour). What planning systems leave out is put up with:
RTReferencedStudySequence, ContourImageSequence, an ROI without contours or without an item for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage
from scipy import ndimage

from contourd.dicom.reading.files import is_dicom, read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.series import Instance, gate, read_instance, read_volume
from contourd.dicom.rtstruct.loops import planes
from contourd.dicom.rtstruct.reader import ReadROI, misplaced, on_slices, rasterise, read_structure_set
from contourd.errors import DatasetError, SeriesUnusable
from contourd.imaging.grid import FloatArray, Grid
from trainer.curation.archive import Item, Kind, RawCase, SkippedItem, Stage, splits_of
from trainer.curation.audit import empty_slices
from trainer.curation.matching import StructureSetFile, Unmatched, newest, read_references, series_of
from trainer.names import interpret

PREFIX_AT, PREFIX = 128, b"DICM"
MOST_FILLED_SLICES = 2
STEP_TOLERANCE, MOST_SHARED_STEP = 0.02, 1.75
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


def roi_mask(
    roi: ReadROI, grid: Grid, frame_of_reference_uid: str, images: frozenset[str] | None = None
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Fill one ROI on the CT's grid.

    Parameters
    ----------
    images
        SOP Instance UIDs of the CT; contours that refer to others are not of it. None: whatever they refer to.

    Returns
    -------
    The mask (z, y, x) and remarks. The mask is None where the ROI cannot be used, since nothing is drawn, it is not of
    this CT, or it is not whole; it is empty where all contours lie above or below what was scanned.
    """
    text = list(roi.remarks)
    if roi.unusable:
        return None, [roi.unusable, *text]
    if not roi.contours:
        return None, ["nothing is drawn that encloses an area" if text else "nothing is drawn", *text]
    inside = _in_range(roi, grid)
    if not inside.contours:
        wrong = misplaced(inside, grid, frame_of_reference_uid)
        if wrong:
            return None, [*wrong, *text]
        return np.zeros(grid.shape, dtype=bool), ["drawn only outside of the scanned range", *text]
    wrong = misplaced(inside, grid, frame_of_reference_uid)
    if wrong:
        return None, [wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""), *text]
    strange = [uid for uid in inside.images if uid and images is not None and uid not in images]
    if strange:
        return None, [f"{len(strange)} of its contours refer to images of another series than the CT's", *text]
    beyond = len(roi.contours) - len(inside.contours)
    remarks = [*text, *([f"{beyond} contours lie outside of the scanned range"] if beyond else [])]
    between = int((on_slices(inside.contours, grid) < 0).sum())
    if between:
        remarks.append(f"{between} contours lie between the slices, which others are nearer to; they were left out")
    mask = rasterise(inside.contours, grid)
    if not mask.any():
        return None, [*remarks, "its contours hold no voxel centre"]
    step = plane_step(inside.contours, grid)
    filled = fill_skipped_slices(mask, step)
    if filled is not None:
        often = "every second or third slice" if step > MOST_SHARED_STEP else "planes farther apart than the slices"
        remarks.append(f"drawn on {often}; the slices between were interpolated")
        mask = filled
    drawn, empty = int(mask.any(axis=(1, 2)).sum()), empty_slices(mask)
    if empty >= drawn:
        return None, [*remarks, f"drawn on {drawn} slices with {empty} empty ones between them: too few to fill them"]
    return mask, remarks


def _in_range(roi: ReadROI, grid: Grid) -> ReadROI:
    """Leave out contours more than half a slice above or below the volume."""
    index = [float(grid.to_index(points)[:, 0].mean()) for points in roi.contours]
    inside = [n for n, k in enumerate(index) if -0.5 <= k <= grid.shape[0] - 0.5]
    return replace(roi, contours=tuple(roi.contours[n] for n in inside), images=tuple(roi.images[n] for n in inside))


def plane_step(contours_mm: Sequence[FloatArray], grid: Grid) -> float:
    """Return the usual distance of the planes of an ROI, in slices; 1 where there are fewer than three."""
    plane = planes([float(points[:, 2].mean()) for points in contours_mm])
    position = [float(grid.to_index(points)[:, 0].mean()) for points in contours_mm]
    middle = np.bincount(plane, position) / np.bincount(plane)
    return float(np.median(np.abs(np.diff(middle)))) if len(middle) > 2 else 1.0


def fill_skipped_slices(mask: NDArray[np.bool_], step: float = 1.0) -> NDArray[np.bool_] | None:
    """Interpolate an organ that was drawn on every second or third slice only; None where it was not.

    So it is too where the planes that it was drawn on lie ``step`` slices apart, and more than one: some slices have
    none then, though it was drawn on every plane.

    Shape-based: a voxel is inside where the mean of the signed distances to both outlines, weighted by nearness, is
    (Raya and Udupa, IEEE Trans Med Imaging 9, 1990).
    """
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    steps = np.diff(drawn)
    skipped = (steps > 1) & (steps <= MOST_FILLED_SLICES + 1)
    if step > 1 + STEP_TOLERANCE and skipped.sum() < 0.5 * len(steps):
        skipped &= steps <= np.ceil(step)
    elif skipped.sum() < 0.5 * len(steps):
        return None
    if len(drawn) < 3 or not skipped.any():
        return None
    filled = mask.copy()
    for low, high in zip(drawn[:-1][skipped], drawn[1:][skipped], strict=True):
        below, above = _signed_distance(mask[low]), _signed_distance(mask[high])
        for k in range(low + 1, high):
            share = (k - low) / (high - low)
            filled[k] = (1 - share) * below + share * above > 0
    return filled


def _signed_distance(plane: NDArray[np.bool_]) -> FloatArray:
    """Distance to the outline in pixels, positive inside; the outline runs between pixels."""
    inside = ndimage.distance_transform_edt(plane)
    outside = ndimage.distance_transform_edt(~plane)
    return np.asarray(np.where(plane, inside - 0.5, 0.5 - outside))
