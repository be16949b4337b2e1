"""Only what reads back is sent: a written structure set is read again and compared with the voxels it was made of.

DICOM PS3.5 6.2 (value lengths), PS3.3 C.8.8.5 and C.8.8.6 (references).
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.dicom.rtstruct_read import ReadROI, rasterise, read_structure_set
from contourd.dicom.series import Series
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import FloatArray, Grid

LARGE_CC = 1.0
LEAST_DICE_LARGE, LEAST_DICE_SMALL = 0.99, 0.95
# Half a voxel is the error to find; on coarse grids a voxel lost at an end of the organ moves the centroid over 0.2 mm.
MOST_SHIFT_MM, MOST_SHIFT_VOXELS = 0.2, 0.25
LONGEST = {"DS": 16, "IS": 12, "SH": 16, "LO": 64, "CS": 16, "UI": 64, "DA": 8, "TM": 16, "ST": 1024}


def check_structure_set(dataset: Dataset, series: Series, masks: Mapping[str, MaskInBox]) -> None:
    """Write the dataset to memory, read it again, and compare.

    Parameters
    ----------
    masks
        ROI name -> the voxels that the ROI was contoured from; a name that is not in the dataset must be empty.

    Raises
    ------
    StructureSetRejected
        Names the ROI and the figure, or the attribute.
    """
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    read = pydicom.dcmread(buffer)
    _check_lengths(read)
    rois = {roi.name: roi for roi in read_structure_set(read)}
    _check_references(read, series, tuple(rois.values()))
    for name, mask in masks.items():
        if name in rois:
            _check_roi(rois[name], mask, series.grid)
        elif series.grid.volume_mm3(mask.mask, mask.box[0].start) > LARGE_CC * 1000:
            raise StructureSetRejected(f"{name} was found but has no contour")
    unknown = set(rois) - set(masks)
    if unknown:
        raise StructureSetRejected(f"contours of {', '.join(sorted(unknown))} come from nowhere")


def _check_lengths(dataset: Dataset) -> None:
    for element in dataset.iterall():
        longest = LONGEST.get(element.VR)
        if longest is None or element.value is None:
            continue
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            text = str(getattr(value, "original_string", value))
            if len(text) > longest:
                raise StructureSetRejected(f"{element.keyword}: {len(text)} characters, {element.VR} takes {longest}")


def _check_references(dataset: Dataset, series: Series, rois: tuple[ReadROI, ...]) -> None:
    slices = {i.sop_instance_uid: k for k, i in enumerate(series.instances)}
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    if frame.FrameOfReferenceUID != series.header.FrameOfReferenceUID:
        raise StructureSetRejected("the frame of reference is not the CT's")
    referenced = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    named = {str(i.ReferencedSOPInstanceUID) for i in referenced.ContourImageSequence}
    if referenced.SeriesInstanceUID != series.uid or named != set(slices):
        raise StructureSetRejected("the referenced images are not the CT's")
    numbers = [
        [int(item[keyword].value) for item in dataset[sequence].value]
        for sequence, keyword in (
            ("StructureSetROISequence", "ROINumber"),
            ("ROIContourSequence", "ReferencedROINumber"),
            ("RTROIObservationsSequence", "ReferencedROINumber"),
        )
    ]
    if not numbers[0] == numbers[1] == numbers[2] == list(range(1, len(numbers[0]) + 1)):
        raise StructureSetRejected("the three ROI sequences do not name the same ROIs")
    for roi in rois:
        for points, image in zip(roi.contours, roi.images, strict=True):
            if image not in slices:
                raise StructureSetRejected(f"{roi.name}: a contour refers to an image that is not of the series")
            z = series.grid.slice_origins_mm[slices[image], 2]
            if np.abs(points[:, 2] - z).max() > 1e-6:
                raise StructureSetRejected(
                    f"{roi.name}: a contour at z = {points[0, 2]:.3f} is not on its slice {z:.3f}"
                )


def _check_roi(roi: ReadROI, mask: MaskInBox, grid: Grid) -> None:
    whole = rasterise(roi.contours, grid)
    wanted, got = np.count_nonzero(mask.mask), np.count_nonzero(whole)
    dice = 2 * np.count_nonzero(whole[mask.box] & mask.mask) / (wanted + got) if wanted + got else 1.0
    least = LEAST_DICE_LARGE if grid.volume_mm3(mask.mask, mask.box[0].start) > LARGE_CC * 1000 else LEAST_DICE_SMALL
    if dice < least:
        raise StructureSetRejected(f"{roi.name} reads back with Dice {dice:.4f} (at least {least})")
    if wanted and got:
        first = [part.start for part in mask.box]
        shift = np.abs(_centroid(whole) - _centroid(mask.mask) - first)  # (z, y, x)
        spacing_mm = np.array(grid.spacing_mm)
        if np.any(shift * spacing_mm > np.maximum(MOST_SHIFT_MM, MOST_SHIFT_VOXELS * spacing_mm)):
            moved = " x ".join(f"{mm:.2f}" for mm in shift * spacing_mm)
            raise StructureSetRejected(f"{roi.name} reads back moved by {moved} mm (slices, rows, columns)")


def _centroid(inside: NDArray[np.bool_]) -> FloatArray:
    """Mean index (z, y, x); only the slices that hold something are searched."""
    slices = np.flatnonzero(inside.any(axis=(1, 2)))
    index = np.argwhere(inside[slices[0] : slices[-1] + 1]).mean(axis=0)
    return np.asarray(index + np.array([slices[0], 0, 0]))
