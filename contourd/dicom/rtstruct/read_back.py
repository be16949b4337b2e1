"""Only what reads back is sent: a written structure set is read again and compared with the voxels it was made of.

DICOM PS3.5 6.2 (value lengths), PS3.3 C.8.8.5 and C.8.8.6 (references).
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back_organ import organ_differs
from contourd.dicom.rtstruct.reader import ReadROI, read_structure_set
from contourd.errors import DatasetError, OrgansRejected, StructureSetRejected
from contourd.imaging.contours import MaskInBox
from contourd.reasons.catalogue import HoldReason

LARGE_CC = 1.0
LONGEST = {
    **{"DS": 16, "IS": 12, "SH": 16, "LO": 64, "CS": 16, "UI": 64, "DA": 8, "TM": 16, "DT": 26, "AE": 16, "AS": 4},
    **{"ST": 1024, "LT": 10240},
}
NEVER_SPLIT = ("ST", "LT")
# Whoever stores the file in an explicit transfer syntax has 16 bits for the length of a decimal string.
LONGEST_EXPLICIT = 65534


def check_structure_set(dataset: Dataset, series: Series, masks: Mapping[str, MaskInBox]) -> None:
    """Write the dataset to memory, read it again, and compare.

    Parameters
    ----------
    masks
        ROI name -> the voxels that the ROI was contoured from; a name that is not in the dataset must be empty.

    Raises
    ------
    OrgansRejected
        Only these ROIs are not what was contoured, each with the figure.
    StructureSetRejected
        Names the attribute, or the ROI, which takes the whole structure set with it.
    """
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    read = pydicom.dcmread(buffer)
    _check_lengths(read)
    try:
        rois = {roi.name: roi for roi in read_structure_set(read)}
    except DatasetError as error:
        raise StructureSetRejected(HoldReason.STRUCTURE_SET_UNREADABLE, said=str(error)) from error
    for roi in rois.values():
        if roi.unusable:
            raise StructureSetRejected(HoldReason.ROI_UNUSABLE, roi=roi.name, flaw=roi.unusable)
    _check_references(read, series, tuple(rois.values()))
    rejected = {}
    for name, mask in masks.items():
        if name in rois:
            rejected[name] = organ_differs(rois[name].contours, mask, series.grid)
        elif series.grid.volume_mm3(mask.mask, mask.box[0].start) > LARGE_CC * 1000:
            rejected[name] = "was found but has no contour"
    wrong = {name: reason for name, reason in rejected.items() if reason}
    if unknown := set(rois) - set(masks):
        raise StructureSetRejected(HoldReason.CONTOURS_FROM_NOWHERE, organs=wrong, names=sorted(unknown))
    if wrong:
        raise OrgansRejected(HoldReason.ORGANS_DIFFER, organs=wrong)


def _check_lengths(dataset: Dataset) -> None:
    """Compare undecoded values with what their representation takes; only a value that looks long is decoded."""
    for tag in dataset.keys():  # noqa: SIM118  # iterating over a Dataset itself decodes its values
        element = dataset.get_item(tag)
        representation = element.VR or dictionary_VR(tag)
        if representation == "SQ":
            for item in dataset[tag].value:
                _check_lengths(item)
        elif representation in LONGEST and isinstance(element, RawDataElement) and element.value:
            longest = LONGEST[representation]
            whole = representation in NEVER_SPLIT
            parts = [element.value] if whole else element.value.split(b"\\")
            if representation == "DS" and len(element.value) > LONGEST_EXPLICIT:
                raise StructureSetRejected(
                    HoldReason.DECIMALS_TOO_LONG,
                    keyword=keyword_for_tag(tag),
                    length=len(element.value),
                    longest=LONGEST_EXPLICIT,
                )
            if max(map(len, parts)) > longest:
                length = max(map(len, _texts(dataset[tag], whole)))
                if length > longest:
                    raise StructureSetRejected(
                        HoldReason.VALUE_TOO_LONG,
                        keyword=keyword_for_tag(tag),
                        length=length,
                        vr=representation,
                        longest=longest,
                    )


def _texts(element: DataElement, whole: bool) -> list[str]:
    values = [element.value] if whole or element.VM < 2 else element.value
    return [str(getattr(value, "original_string", value)) for value in values]


def _check_references(dataset: Dataset, series: Series, rois: tuple[ReadROI, ...]) -> None:
    slices = {i.sop_instance_uid: k for k, i in enumerate(series.instances)}
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    frames = {frame.FrameOfReferenceUID, dataset.FrameOfReferenceUID, *(roi.frame_of_reference_uid for roi in rois)}
    if frames != {series.header.FrameOfReferenceUID}:
        raise StructureSetRejected(HoldReason.OTHER_FRAME_OF_REFERENCE)
    study = frame.RTReferencedStudySequence[0]
    if {study.ReferencedSOPInstanceUID, dataset.StudyInstanceUID} != {series.header.StudyInstanceUID}:
        raise StructureSetRejected(HoldReason.OTHER_STUDY)
    referenced = study.RTReferencedSeriesSequence[0]
    named = {str(i.ReferencedSOPInstanceUID) for i in referenced.ContourImageSequence}
    if referenced.SeriesInstanceUID != series.uid or named != set(slices):
        raise StructureSetRejected(HoldReason.OTHER_IMAGES)
    numbers = [
        [int(item[keyword].value) for item in dataset[sequence].value]
        for sequence, keyword in (
            ("StructureSetROISequence", "ROINumber"),
            ("ROIContourSequence", "ReferencedROINumber"),
            ("RTROIObservationsSequence", "ReferencedROINumber"),
        )
    ]
    if not numbers[0] == numbers[1] == numbers[2] == list(range(1, len(numbers[0]) + 1)):
        raise StructureSetRejected(HoldReason.ROI_NUMBERS_DIFFER)
    for roi in rois:
        for points, image in zip(roi.contours, roi.images, strict=True):
            if image not in slices:
                raise StructureSetRejected(HoldReason.CONTOUR_OF_OTHER_IMAGE, roi=roi.name)
            z = series.grid.slice_origins_mm[slices[image], 2]
            if np.abs(points[:, 2] - z).max() > 1e-6:
                raise StructureSetRejected(
                    HoldReason.CONTOUR_OFF_ITS_SLICE, roi=roi.name, z_mm=points[0, 2], slice_mm=z
                )
