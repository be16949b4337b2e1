"""What of a dataset names the patient: to be shown when asked for, and to be kept out of texts that others wrote.

A destination's Error Comment and an operator's reason are free text. They are compared with the patient, study and
series attributes (DICOM PS3.3 C.7.1 to C.7.3) of the dataset that they are about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import PatientNamed, SeriesUnusable
from contourd.reasons.catalogue import HoldReason

LEFT_OUT = "[left out]"
PATIENT_GROUP = 0x0010
# Of a patient, a study or a person; what tells of the scan itself is no identity.
IDENTIFYING = (
    *("AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName"),
    *("InstitutionAddress", "ReferringPhysicianName", "PhysiciansOfRecord", "PerformingPhysicianName"),
    *("OperatorsName", "NameOfPhysiciansReadingStudy", "RequestingPhysician", "AdmissionID", "PatientComments"),
)
# A sex, a weight or an age is part of many a word.
TELLING_NOTHING = frozenset({"PatientSex", "PatientWeight", "PatientSize", "PatientAge", "PatientPosition"})
# Who was scanned, and for which order: where any of these differs, a structure set would be of another.
WHO = (
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"),
    *("AccessionNumber", "StudyInstanceUID"),
)
PLACE = "ImagePositionPatient"
# Where two images lie in one place, in mm: positions are written with few decimals, and slices are farther apart.
PLACE_DECIMALS = 2
UNIQUE_IDENTIFIER = re.compile(r"\d+(?:\.\d+){4,}")
SHORTEST = 2


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """Who was scanned, as the image says."""

    name: str
    id: str


def read_patient(path: Path) -> PatientIdentity:
    """Read who an image is of, in the characters of its Specific Character Set.

    Raises
    ------
    SeriesUnusable
        It is not there any more, or cannot be read.
    """
    try:
        header = read_dicom(path, specific_tags=["PatientName", "PatientID", "SpecificCharacterSet"])
        return PatientIdentity(str(header.get("PatientName") or ""), str(header.get("PatientID") or ""))
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.IMAGE_GONE, what=path.name) from error


def read_identity(path: Path) -> dict[str, str]:
    """Read what tells an image's patient and study from others; empty where the image does not say.

    Raises
    ------
    SeriesUnusable
        It is not there any more, or cannot be read.
    """
    try:
        header = read_dicom(path, specific_tags=[*WHO, "SpecificCharacterSet"])
        return {keyword: str(header.get(keyword) or "").strip().rstrip("^") for keyword in WHO}
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.IMAGE_GONE, what=path.name) from error


def differing_identity(one: Path, other: Path) -> tuple[str, ...]:
    """Return the keywords by which two images are of different patients or studies; all where one cannot be read."""
    try:
        before, after = read_identity(one), read_identity(other)
    except SeriesUnusable:
        return WHO
    return tuple(keyword for keyword in WHO if before[keyword] != after[keyword])


def read_place(path: Path) -> tuple[float, ...]:
    """Read where an image lies: its Image Position (Patient), shape (3,), in mm; empty where it does not say.

    Raises
    ------
    SeriesUnusable
        It is not there any more, or cannot be read.
    """
    try:
        position = read_dicom(path, specific_tags=[PLACE]).get(PLACE) or ()
        return tuple(round(float(value), PLACE_DECIMALS) for value in position)
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.IMAGE_GONE, what=path.name) from error


def differing_place(one: Path, other: Path) -> bool:
    """Return whether two images lie in different places; not where one cannot be read."""
    try:
        return read_place(one) != read_place(other)
    except SeriesUnusable:
        return False


def names_patient(text: str, header: Dataset) -> bool:
    """Return whether a text holds the patient's name or a part of it, an ID, a date of birth or the like."""
    return without_identity(text, header) != text


def refuse_names(reason: str, image: Path) -> None:
    """Refuse an operator's text that names the patient of an image; one that is not there any more cannot tell.

    Raises
    ------
    PatientNamed
        It is kept where names have no place.
    """
    try:
        header = read_dicom(image, stop_before_pixels=True)
    except UNREADABLE:
        return
    if names_patient(reason, header):
        raise PatientNamed(
            "the reason holds the patient's name, ID, a date or a description of the images, and would be kept in the "
            "queue, the log and the audit trail; give one without"
        )


def without_identity(text: str, header: Dataset) -> str:
    """Return a text without what identifies the patient of a dataset, and without unique identifiers."""
    words = sorted({w for w in _words(header) if len(w) >= SHORTEST}, key=len, reverse=True)
    if words:
        text = re.sub("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in words), LEFT_OUT, text, flags=re.IGNORECASE)
    return UNIQUE_IDENTIFIER.sub(LEFT_OUT, text)


def _words(header: Dataset) -> Iterator[str]:
    """Yield whole values, and the parts of names; values that cannot be read are none that a text could hold."""
    for tag in list(header.keys()):
        keyword = keyword_for_tag(tag)
        if (tag.group != PATIENT_GROUP or keyword in TELLING_NOTHING) and keyword not in IDENTIFYING:
            continue
        try:
            element = header[tag]
            values = element.value if element.VM > 1 else [element.value]
            texts = [str(value).strip() for value in values if element.VR != "SQ" and value is not None]
        except UNREADABLE:
            continue
        yield from texts
        if element.VR == "PN":
            yield from (part for text in texts for part in re.split(r"[\^=\s]+", text))
