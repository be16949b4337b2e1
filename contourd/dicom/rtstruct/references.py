"""What a structure set says of the CT that it was drawn on, and of itself (DICOM PS3.3 C.8.8.5, C.7.6.10)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from contourd.dicom.rtstruct.reader import roi_name

NO_DIGIT = re.compile("[^0-9]")


@dataclass(frozen=True, slots=True)
class StructureSetFile:
    """An RTSTRUCT file, and what it says of the CT that it belongs to.

    Attributes
    ----------
    images
        SOP Instance UID -> contours that name it.
    series_uids, frame_uids
        In the order in which they stand.
    studies
        Its own, and the one that it refers to.
    drawn
        Date and time, digits alone; empty where it says none.
    rejected
        Somebody looked at it and rejected it.
    spellings
        Names of its ROIs.
    """

    path: Path
    uid: str
    images: Mapping[str, int]
    series_uids: tuple[str, ...]
    frame_uids: tuple[str, ...]
    patient: str
    studies: tuple[str, ...]
    drawn: str
    rejected: bool
    spellings: tuple[str, ...]

    def is_copy_of(self, other: StructureSetFile) -> bool:
        """Return whether this is the same structure set in another file."""
        return (self.uid, self.drawn, self.spellings) == (other.uid, other.drawn, other.spellings)


def read_references(path: Path, dataset: Dataset) -> StructureSetFile:
    """Read what a structure set says of itself."""
    rois = dataset.get("StructureSetROISequence") or ()
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
    studies = [study for frame in frames for study in frame.get("RTReferencedStudySequence") or ()]
    series = [one for study in studies for one in study.get("RTReferencedSeriesSequence") or ()]
    images = Counter(
        str(image.get("ReferencedSOPInstanceUID", ""))
        for roi in dataset.get("ROIContourSequence") or ()
        for contour in roi.get("ContourSequence") or ()
        for image in contour.get("ContourImageSequence") or ()
    )
    frame_uids = [
        *(frame.get("FrameOfReferenceUID", "") for frame in frames),
        *(roi.get("ReferencedFrameOfReferenceUID", "") for roi in rois),
    ]
    return StructureSetFile(
        path,
        str(dataset.get("SOPInstanceUID", "") or ""),
        {uid: count for uid, count in images.items() if uid},
        _stated(one.get("SeriesInstanceUID", "") for one in series),
        _stated(frame_uids),
        str(dataset.get("PatientID", "") or "").strip(),
        _stated(
            [dataset.get("StudyInstanceUID", ""), *(study.get("ReferencedSOPInstanceUID", "") for study in studies)]
        ),
        _moment(dataset, "StructureSet") or _moment(dataset, "InstanceCreation"),
        str(dataset.get("ApprovalStatus", "") or "").strip().upper() == "REJECTED",
        tuple(roi_name(roi) for roi in rois),
    )


def _moment(dataset: Dataset, of: str) -> str:
    """Return date and time as digits, whatever old systems put between them; empty without a date."""
    date, time = (str(dataset.get(f"{of}{part}", "") or "") for part in ("Date", "Time"))
    return NO_DIGIT.sub("", date + time) if NO_DIGIT.sub("", date) else ""


def _stated(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values if value))
