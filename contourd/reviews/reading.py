"""A structure set that came back, as it is read in a process of its own: bounded before anything is made of it.

What it says of its CT is plain data, so that it passes from process to process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from contourd.dicom.reading.completeness import LONGEST_UID, VALID_UID
from contourd.dicom.reading.files import read_with_size
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.rtstruct.references import read_references
from contourd.errors import DatasetError, ReviewUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import one_line

MOST_ROIS, MOST_CONTOURS, MOST_POINTS = 1000, 100_000, 1_000_000
MOST_IMAGES = 10_000
APPROVALS = ("APPROVED", "UNAPPROVED", "REJECTED")
LONGEST_NAME = 64
UNDEFINED_LENGTH = 0xFFFFFFFF
DATE_DIGITS, TIME_DIGITS, ZONE = 8, 6, 5  # of YYYYMMDD, hhmmss and +hhmm


@dataclass(frozen=True, slots=True)
class ReviewContents:
    """What a structure set says of itself and of its CT.

    Attributes
    ----------
    images
        SOP Instance UIDs that its contours name; else those that it names as its series'.
    predecessors
        SOP Instance UIDs of the structure sets that it was made of.
    approval
        One of APPROVALS, or empty.
    reviewed_at
        ISO 8601 in UTC; empty where it does not say.
    reviewer
        The person, as it names it: for a pseudonym, and never kept.
    """

    uid: str
    patient: str
    studies: tuple[str, ...]
    frames: tuple[str, ...]
    series: tuple[str, ...]
    images: tuple[str, ...]
    predecessors: tuple[str, ...]
    approval: str
    reviewed_at: str
    reviewer: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ReviewContents:
        """Read what ``plain`` gave."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**values)


def read_bounded(path: Path) -> Dataset:
    """Read a structure set that is not too large to be compared.

    Raises
    ------
    ReviewUnusable
        It cannot be read, or has more ROIs, contours or points than any plan has.
    """
    try:
        dataset, size = read_with_size(path)
        _refuse_cut_off(dataset, size)
        rois = dataset.get("StructureSetROISequence") or ()
        drawn = dataset.get("ROIContourSequence") or ()
        _refuse_more("ROIs", max(len(rois), len(drawn)), MOST_ROIS)
        contours = points = 0
        for roi in drawn:
            sequence = roi.get("ContourSequence") or ()
            contours += len(sequence)
            _refuse_more("contours", contours, MOST_CONTOURS)
            for contour in sequence:
                points += _points(contour)
                _refuse_more("points", points, MOST_POINTS)
    except UNREADABLE as error:
        raise _unreadable(error) from error
    return dataset


def _refuse_cut_off(dataset: Dataset, size: int) -> None:
    """Refuse what ends within an element: pydicom reads what there is of it, and says nothing."""
    for element in dataset.values():
        start, length = getattr(element, "value_tell", None), getattr(element, "length", None)
        if start is not None and length not in (None, UNDEFINED_LENGTH) and start + length > size:
            raise ReviewUnusable(HoldReason.REVIEW_UNREADABLE, said="cut off")
    if "StructureSetROISequence" not in dataset:  # of type 1 (PS3.3 C.8.8.5)
        raise ReviewUnusable(HoldReason.REVIEW_UNREADABLE, said="no StructureSetROISequence")


def _points(contour: Dataset) -> int:
    """Count the points of a contour without reading them."""
    if "ContourData" not in contour:
        return 0
    value = contour.get_item("ContourData").value
    if value is None:
        return 0
    return (value.count(b"\\") + 1) // 3 if isinstance(value, bytes) else len(value) // 3


def _refuse_more(what: str, found: int, most: int) -> None:
    if found > most:
        raise ReviewUnusable(HoldReason.REVIEW_TOO_LARGE, found=found, what=what, most=most)


def _unreadable(error: Exception) -> ReviewUnusable:
    """Return the error with its kind and not its text, which may quote the patient."""
    return ReviewUnusable(HoldReason.REVIEW_UNREADABLE, said=type(error).__name__)


def read_contents(path: Path) -> ReviewContents:
    """Read what a structure set says of itself and of its CT.

    Raises
    ------
    ReviewUnusable
        As ``read_bounded`` does.
    """
    dataset = read_bounded(path)
    try:
        said = read_references(path, dataset)
        predecessors = dataset.get("PredecessorStructureSetSequence") or ()
        return ReviewContents(
            said.uid,
            said.patient,
            said.studies,
            said.frame_uids,
            _legal(said.series_uids),
            _legal(said.images or _series_images(dataset))[:MOST_IMAGES],
            _stated(item.get("ReferencedSOPInstanceUID", "") for item in predecessors),
            _approval(dataset),
            _moment(dataset),
            _reviewer(dataset),
        )
    except (*UNREADABLE, DatasetError) as error:
        raise _unreadable(error) from error


def _series_images(dataset: Dataset) -> tuple[str, ...]:
    """Return the images of the series that a structure set names."""
    return _stated(
        image.get("ReferencedSOPInstanceUID", "")
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        for image in series.get("ContourImageSequence") or ()
    )


def _legal(uids: Iterable[str]) -> tuple[str, ...]:
    """Return the UIDs that can be one: a database is asked for them."""
    return tuple(uid for uid in uids if len(uid) <= LONGEST_UID and VALID_UID.fullmatch(uid))


def _stated(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values if value))


def _approval(dataset: Dataset) -> str:
    status = str(dataset.get("ApprovalStatus", "") or "").strip().upper()
    return status if status in APPROVALS else ""


def _moment(dataset: Dataset) -> str:
    """Return when it was reviewed; a time without a zone is this machine's."""
    date, time = (str(dataset.get(f"Review{part}", "") or "").strip() for part in ("Date", "Time"))
    digits = _digits(date, DATE_DIGITS) + _digits(time, TIME_DIGITS).ljust(TIME_DIGITS, "0")
    try:
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S")
        return moment.replace(tzinfo=_zone(dataset)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):  # the first year, as some write for no date at all, may begin before it
        return ""


def _digits(text: str, most: int) -> str:
    return "".join(c for c in text if c.isdecimal())[:most]


def _zone(dataset: Dataset) -> timezone | None:
    text = str(dataset.get("TimezoneOffsetFromUTC", "") or "").strip()
    if len(text) != ZONE or text[0] not in "+-" or not text[1:].isdecimal():
        return None
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[3:]))
    return timezone(-offset if text[0] == "-" else offset) if offset < timedelta(days=1) else None


def _reviewer(dataset: Dataset) -> str:
    """Return who reviewed it, else who made it; the same person is written the same."""
    for keyword in ("ReviewerName", "OperatorsName"):
        value = dataset.get(keyword, "") or ""
        first = next(iter(value), "") if isinstance(value, MultiValue) else value
        name = one_line(str(first), LONGEST_NAME).strip().rstrip("^").casefold()
        if name:
            return name
    return ""
