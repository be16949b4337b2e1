"""What names a received image, read by hand where its header is a usual one (DICOM PS3.5 7.1 and A.1, A.2).

pydicom takes longer for the hundred elements of a header than the disk for the image. Whatever is unusual about one is
left to it: what this reads, ``read_encoded`` reads too, and to the same effect.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.reading.completeness import IDENTIFYING, LONGEST_UID, VALID_UID
from contourd.dicom.reading.instance import PHASE, Instance, read_encoded

# What the input gate reads; beside these a header may hold anything whose length is right.
READ_LATER = (
    *("ImageType", "Modality", "StationName", "SeriesDescription", "BodyPartExamined", "ProtocolName"),
    *("InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SamplesPerPixel"),
    *("PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored"),
    *("HighBit", "RescaleIntercept", "RescaleSlope", "RescaleType", "LossyImageCompression"),
)
NUMBER = rb" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})? *"
TEXT = re.compile(rb"[\x20-\x7e]{0,1024}")
# Value representation -> values that are converted without a question.
USUAL: Mapping[str, re.Pattern[bytes]] = MappingProxyType(
    {
        "US": re.compile(rb"(?:..)?", re.DOTALL),
        "DS": re.compile(rb" *|" + NUMBER + rb"(?:\\" + NUMBER + rb"){0,5}"),
        "IS": re.compile(rb" *[+-]?\d{1,9} *|"),
        "UI": re.compile(rb"[0-9.]{0,64}\0?"),
        **dict.fromkeys(("CS", "LO", "SH"), TEXT),
    }
)
# Character sets in which ASCII is ASCII.
CHARACTER_SETS = re.compile(rb"(?:ISO_IR (?:6|100|101|109|110|144|192) ?)?")
LONG_LENGTHS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_LENGTHS = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"),
        *(b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)
EXPLICIT = struct.Struct("<HH2sH")
IMPLICIT = struct.Struct("<HHI")
LENGTH = struct.Struct("<I")
# Groups up to that of file meta information; more elements and longer values than a header has.
FOREIGN_GROUP = 0x0002
MOST_ELEMENTS = 5000
LONGEST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ImageIdentifiers:
    """What names an image."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    patient_id: str


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


PATIENT_ID, PIXELS, CHARACTER_SET = map(_tag, ("PatientID", "PixelData", "SpecificCharacterSet"))
NAMES = tuple(map(_tag, IDENTIFYING))
READ = {
    _tag(keyword): (dictionary_VR(_tag(keyword)).encode(), USUAL[dictionary_VR(_tag(keyword))])
    for keyword in (*IDENTIFYING, "PatientID", *READ_LATER)
} | {CHARACTER_SET: (b"CS", CHARACTER_SETS)}
UNUSUAL = frozenset(map(_tag, PHASE))


def read_naming(dataset: DatasetBytes, transfer_syntax: UID) -> ImageIdentifiers:
    """Read what names a dataset as it came over the network.

    Raises
    ------
    SeriesUnusable
        As ``read_encoded`` does.
    """
    naming = read_usual_dataset(dataset.getbuffer(), transfer_syntax)
    if naming is not None:
        return naming
    return naming_of(read_encoded(dataset, transfer_syntax))


def naming_of(read: Instance) -> ImageIdentifiers:
    """Return what names an image whose header was read."""
    return ImageIdentifiers(read.sop_class_uid, read.sop_instance_uid, read.series_instance_uid, read.patient_id)


def read_usual_dataset(content: memoryview, transfer_syntax: UID) -> ImageIdentifiers | None:
    """Read a dataset; None where anything about it is unusual."""
    if transfer_syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    try:
        found = _values(content, transfer_syntax == ExplicitVRLittleEndian)
    except (struct.error, ValueError):
        return None
    uids = [found.get(tag, b"").removesuffix(b"\0").decode("ascii") for tag in NAMES]
    if not all(len(uid) <= LONGEST_UID and VALID_UID.fullmatch(uid) for uid in uids):
        return None
    patient_id = found.get(PATIENT_ID, b"").decode("ascii")
    if uids[0] != CTImageStorage or PIXELS not in found or "\\" in patient_id:
        return None
    return ImageIdentifiers(uids[0], uids[1], uids[2], patient_id.strip())


def _values(content: memoryview, explicit: bool) -> dict[int, bytes]:
    """Return the values that are read here or later, by tag; that of the pixels stays where it is.

    Raises
    ------
    ValueError
        Something is unusual.
    struct.error
        An element is cut off.
    """
    found: dict[int, bytes] = {}
    at = 0
    before = 0
    elements = 0
    size = len(content)
    head = _explicit if explicit else _implicit
    while at < size:
        tag, vr, start, length = head(content, at)
        at, elements = start + length, elements + 1
        if tag <= before or tag >> 16 <= FOREIGN_GROUP or at > size or elements > MOST_ELEMENTS or tag in UNUSUAL:
            raise ValueError(tag)
        before = tag
        if tag in READ:
            known_vr, usual = READ[tag]
            value = found[tag] = bytes(content[start:at])
            if vr not in (known_vr, b"") or not usual.fullmatch(value):
                raise ValueError(tag)
        elif tag == PIXELS:
            found[tag] = b""
        elif length > LONGEST_BYTES:
            raise ValueError(tag)
    return found


def _explicit(content: memoryview, at: int) -> tuple[int, bytes, int, int]:
    """Return an element's tag and value representation, where its value begins, and its length."""
    group, element, vr, length = EXPLICIT.unpack_from(content, at)
    if vr in SHORT_LENGTHS:
        return group << 16 | element, vr, at + 8, length
    if vr not in LONG_LENGTHS:
        raise ValueError(vr)
    return group << 16 | element, vr, at + 12, LENGTH.unpack_from(content, at + 8)[0]


def _implicit(content: memoryview, at: int) -> tuple[int, bytes, int, int]:
    group, element, length = IMPLICIT.unpack_from(content, at)
    if not at and length > LONGEST_UID:  # else its length could be taken for a value representation
        raise ValueError(length)
    return group << 16 | element, b"", at + 8, length
