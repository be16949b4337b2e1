"""DICOM archives: CT series with the structure sets that were drawn on them, in any nesting and mixture.

DICOM PS3.3 A.19 (RT Structure Set IOD) and C.8.8.6 (ROI Contour). What planning systems leave out is put up with:
RTReferencedStudySequence, ContourImageSequence, an ROI without contours or without an item for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage
from scipy import ndimage

from contourd.dicom.instance import UNREADABLE
from contourd.dicom.rtstruct_read import ReadROI, misplaced, rasterise, read_structure_set
from contourd.dicom.series import Instance, gate, read_instance, read_volume
from contourd.errors import DatasetError, SeriesUnusable
from contourd.imaging.grid import FloatArray, Grid
from trainer.archive import Item, Kind, RawCase, Refused, splits_of

PREFIX_AT, PREFIX = 128, b"DICM"
MOST_FILLED_SLICES = 2


@dataclass(frozen=True, slots=True)
class _StructureSet:
    """An RTSTRUCT file, and what it says of the CT that it belongs to."""

    path: Path
    series_uids: frozenset[str]
    image_uids: frozenset[str]
    frame_uid: str
    patient: str
    drawn: str
    spellings: tuple[str, ...]


def find_patients(root: Path, files: Iterable[Path], source: str) -> Iterator[Item | Refused]:
    """Match the structure sets among ``files`` with their CT series; of several for one CT the newest is taken.

    Files that are no DICOM are passed over; what is DICOM and cannot be used is said.
    """
    series: dict[str, list[Instance]] = defaultdict(list)
    sets: list[_StructureSet] = []
    for path in files:
        if not _claims_to_be_dicom(path):
            continue
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            if dataset.get("SOPClassUID") == RTStructureSetStorage:
                sets.append(_structure_set(path, dataset))
            elif dataset.get("Modality") == "CT":
                instance = read_instance(path)
                series[instance.series_instance_uid].append(instance)
            elif "SOPClassUID" not in dataset and "DirectoryRecordSequence" not in dataset:
                raise DatasetError("it ends before it says what it is")
        except (SeriesUnusable, DatasetError, *UNREADABLE) as error:
            yield Refused(source, str(path.relative_to(root)), f"cannot be read: {error}")
    of_series: dict[str, list[_StructureSet]] = defaultdict(list)
    for one in sets:
        uid = _series_of(one, series)
        if uid is None:
            yield Refused(
                source, str(one.path.relative_to(root)), "the CT that this structure set belongs to is absent"
            )
        else:
            of_series[uid].append(one)
    for uid, instances in series.items():
        folder = instances[0].path.parent
        drawn = sorted(of_series[uid], key=lambda s: (s.drawn, str(s.path)))
        if not drawn:
            yield Refused(source, str(folder.relative_to(root)), "this CT series has no structure set")
            continue
        for older in drawn[:-1]:
            yield Refused(source, str(older.path.relative_to(root)), "a newer structure set of the same CT is taken")
        yield Item(
            source,
            uid,
            Kind.DICOM,
            tuple(i.path for i in instances),
            (drawn[-1].path,),
            instances[0].patient_id or drawn[-1].patient or folder.name,
            splits_of((i.path for i in instances), root),
            drawn[-1].spellings,
        )


def _claims_to_be_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(PREFIX_AT)
            return file.read(len(PREFIX)) == PREFIX
    except OSError:
        return False


def _structure_set(path: Path, dataset: Dataset) -> _StructureSet:
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
    series_uids, image_uids = set(), set()
    for frame in frames:
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series_uids.add(str(one.get("SeriesInstanceUID", "")))
    for roi in dataset.get("ROIContourSequence") or ():
        for contour in roi.get("ContourSequence") or ():
            for image in contour.get("ContourImageSequence") or ():
                image_uids.add(str(image.get("ReferencedSOPInstanceUID", "")))
    rois = dataset.get("StructureSetROISequence") or ()
    frame_uid = str(frames[0].get("FrameOfReferenceUID", "")) if frames else ""
    if not frame_uid and rois:
        frame_uid = str(rois[0].get("ReferencedFrameOfReferenceUID", "") or "")
    drawn = f"{dataset.get('StructureSetDate', '')}{dataset.get('StructureSetTime', '')}"
    return _StructureSet(
        path,
        frozenset(series_uids - {""}),
        frozenset(image_uids - {""}),
        frame_uid,
        str(dataset.get("PatientID", "") or ""),
        drawn,
        tuple(str(roi.get("ROIName", "") or "") for roi in rois),
    )


def _series_of(one: _StructureSet, series: dict[str, list[Instance]]) -> str | None:
    """Find the CT: by its series' UID, by the images that contours name, or by the frame of reference if one has it."""
    for uid in one.series_uids:
        if uid in series:
            return uid
    by_image = [uid for uid, images in series.items() if one.image_uids & {i.sop_instance_uid for i in images}]
    if len(by_image) == 1:
        return by_image[0]
    by_frame = [
        uid for uid, images in series.items() if one.frame_uid and images[0].frame_of_reference_uid == one.frame_uid
    ]
    return by_frame[0] if len(by_frame) == 1 else None


def read_patient(item: Item) -> RawCase:
    """Read a CT series through the node's own gate, and fill the contours of its structure set.

    Raises
    ------
    SeriesUnusable
        The gate refuses the series.
    DatasetError
        The structure set cannot be read.
    """
    series = gate([read_instance(path) for path in item.images])
    volume = read_volume(series)
    try:
        rois = read_structure_set(pydicom.dcmread(item.structures[0]))
    except (*UNREADABLE, DatasetError) as error:
        raise DatasetError(f"{item.structures[0].name} cannot be read: {error}") from error
    frame = str(series.header.get("FrameOfReferenceUID", "") or "")
    masks: dict[str, NDArray[np.bool_]] = {}
    remarks: dict[str, list[str]] = {}
    for roi in rois:
        mask, told = roi_mask(roi, series.grid, frame)
        if mask is not None:
            if roi.name in masks:
                told.append("stands twice under this name; both were joined")
                mask |= masks[roi.name]
            masks[roi.name] = mask
        if told:
            remarks.setdefault(roi.name, []).extend(told)
    return RawCase(volume, masks, remarks)


def roi_mask(roi: ReadROI, grid: Grid, frame_of_reference_uid: str) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Fill one ROI on the CT's grid.

    Returns
    -------
    The mask (z, y, x) and remarks. The mask is None where the ROI cannot be used, since nothing is drawn or it is not
    of this CT; it is empty where all contours lie above or below what was scanned.
    """
    if not roi.contours:
        return None, ["nothing is drawn"]
    inside, beyond = _in_range(roi.contours, grid)
    if not inside:
        told = misplaced(
            ReadROI(roi.number, roi.name, (), (), roi.frame_of_reference_uid), grid, frame_of_reference_uid
        )
        if told:
            return None, list(told)
        return np.zeros(grid.shape, dtype=bool), ["drawn only outside of the scanned range"]
    kept = ReadROI(roi.number, roi.name, tuple(inside), ("",) * len(inside), roi.frame_of_reference_uid)
    wrong = misplaced(kept, grid, frame_of_reference_uid)
    if wrong:
        return None, [wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")]
    remarks = [f"{beyond} contours lie outside of the scanned range"] if beyond else []
    mask = rasterise(inside, grid)
    if not mask.any():
        return None, [*remarks, "its contours hold no voxel centre"]
    filled = fill_skipped_slices(mask)
    if filled is not None:
        remarks.append("drawn on every second or third slice; the slices between were interpolated")
        mask = filled
    return mask, remarks


def _in_range(contours: Sequence[FloatArray], grid: Grid) -> tuple[list[FloatArray], int]:
    """Leave out contours more than half a slice above or below the volume; returns them and how many were left out."""
    index = [float(grid.to_index(points)[:, 0].mean()) for points in contours]
    inside = [c for c, k in zip(contours, index, strict=True) if -0.5 <= k <= grid.shape[0] - 0.5]
    return inside, len(contours) - len(inside)


def fill_skipped_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Interpolate an organ that was drawn on every second or third slice only; None where it was not.

    Shape-based: a voxel is inside where the mean of the signed distances to both outlines, weighted by nearness, is
    (Raya and Udupa, IEEE Trans Med Imaging 9, 1990).
    """
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    steps = np.diff(drawn)
    skipped = (steps > 1) & (steps <= MOST_FILLED_SLICES + 1)
    if len(drawn) < 3 or skipped.sum() < 0.5 * len(steps):
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
