"""The header of one stored or received image (DICOM PS3.3 A.3, C.7.6.2); what is cut off or unreadable is refused."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian

from contourd.dicom.reading.completeness import LONGEST_UID as LONGEST_UID
from contourd.dicom.reading.completeness import VALID_UID as VALID_UID
from contourd.dicom.reading.completeness import refuse_foreign_groups, refuse_nameless, refuse_truncated
from contourd.dicom.reading.dataset_hash import BEFORE_META_BYTES
from contourd.dicom.reading.decoded_pixels import Decoded
from contourd.dicom.reading.decoders import LOSSY, inflate
from contourd.dicom.reading.files import read_dicom, read_meta, read_with_size
from contourd.dicom.reading.header_values import (
    LONGEST_VALUE_BYTES,
    comparable_of,
    numbers_of,
    text_of,
    texts_of,
    value_of,
    whole_number,
)
from contourd.dicom.reading.lenient import repair_dataset, repair_file
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.system.folders import files_below
from contourd.system.logs import one_line
from contourd.system.regular_files import open_regular, read_regular

# pydicom's warnings quote the value that is wrong, and a patient's name has no place in a log.
config.settings.reading_validation_mode = config.IGNORE

# An element or an item takes some hundred times its bytes in memory. A header has some hundred of them.
MOST_READS = 100_000
# What pydicom raises on bytes that are no dataset.
UNREADABLE = (
    *(InvalidDicomError, EOFError, OSError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, NotImplementedError, RecursionError, MemoryError, struct.error),
    BytesLengthException,
)
DEFERRED_BYTES = 1024
LARGEST_META_BYTES, DEFLATED = 4096, DeflatedExplicitVRLittleEndian
# Where one scan is repeated in time: any of these tells the phases of a 4D CT apart.
PHASE = ("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfRespiratoryPhase")


@dataclass(frozen=True, slots=True)
class Instance:
    """What the header of one image says; None or empty where it says nothing.

    Attributes
    ----------
    position_mm, position_text
        ImagePositionPatient as numbers, and as the file writes it.
    orientation
        ImageOrientationPatient: along a row, then along a column.
    pixel_spacing_mm
        Between rows, between columns.
    frames
        NumberOfFrames, 1 where absent.
    rescale
        Slope and intercept.
    phase
        What tells one phase of a 4D CT from another, empty in other series.
    patient_name, birth_date
        To be compared, not to be shown.
    decoded
        The pixels, where they were decoded with the header.
    """

    path: Path
    transfer_syntax: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    image_type: tuple[str, ...]
    patient_id: str
    series_description: str
    body_part: str
    frame_of_reference_uid: str
    position_mm: tuple[float, float, float] | None
    position_text: tuple[str, str, str] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, float] | None
    rows: int
    columns: int
    frames: int
    photometric: str
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    rescale: tuple[float, float] | None
    rescale_type: str
    modality_table: bool
    lossy: bool
    number: int | None
    phase: tuple[str, ...]
    protocol: str = ""
    station: str = ""
    patient_name: str = ""
    birth_date: str = ""
    decoded: Decoded | None = field(default=None, compare=False, repr=False)

    @property
    def z_mm(self) -> float | None:
        """Position along the patient's axis."""
        return self.position_mm[2] if self.position_mm is not None else None


def read_instance(path: Path) -> Instance:
    """Read one file's header.

    Raises
    ------
    SeriesUnusable
        The file is no DICOM file, is cut off, or lacks what identifies it.
    """
    try:
        if _may_be_deflated(path) and (meta := read_file_meta_info(path)).get("TransferSyntaxUID") == DEFLATED:
            deflated = read_regular(path)[BEFORE_META_BYTES + int(meta.FileMetaInformationGroupLength) :]
            return _read_encoded(BytesIO(deflated), meta.TransferSyntaxUID, path)
        ds, size = read_with_size(path, defer_size=DEFERRED_BYTES)
        return _instance(ds, path, size, UID(ds.file_meta.get("TransferSyntaxUID", "")))
    except UNREADABLE as error:
        raise _no_image(path, error) from error


def read_content(content: bytes, path: Path) -> tuple[Instance, Dataset | None]:
    """Read the header of a file whose bytes are here, and return the dataset with it; none where that is deflated.

    Raises
    ------
    SeriesUnusable
        As ``read_instance`` does.
    """
    if DEFLATED.encode() in content[:LARGEST_META_BYTES]:
        return read_instance(path), None
    try:
        content = repair_file(content)
        ds = pydicom.dcmread(BytesIO(content))
        return _instance(ds, path, len(content), UID(ds.file_meta.get("TransferSyntaxUID", ""))), ds
    except UNREADABLE as error:
        raise _no_image(path, error) from error


def _may_be_deflated(path: Path) -> bool:
    """Return whether the file meta information is worth reading by itself: it takes as long as reading the header."""
    with open_regular(path) as file:
        return DEFLATED.encode() in file.read(LARGEST_META_BYTES)


def _no_image(path: Path, error: Exception) -> SeriesUnusable:
    return SeriesUnusable(HoldReason.NO_DICOM_IMAGE, what=path.name, said=_reason(error))


def read_encoded(dataset: BytesIO, transfer_syntax: UID) -> Instance:
    """Read the header of a dataset as it came over the network, without file meta information; its path is empty.

    Raises
    ------
    SeriesUnusable
        The bytes are no dataset, are cut off, or lack what identifies the image.
    """
    try:
        return _read_encoded(dataset, transfer_syntax, Path())
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.DATASET_UNREADABLE, said=_reason(error)) from error


def _read_encoded(dataset: BytesIO, transfer_syntax: UID, path: Path) -> Instance:
    if transfer_syntax == DEFLATED:
        dataset = BytesIO(inflate(dataset.getbuffer(), path.name or "dataset"))
    content = repair_dataset(dataset.getbuffer(), transfer_syntax)
    dataset = dataset if isinstance(content, memoryview) else BytesIO(content)
    metered: Any = _Metered(dataset)
    ds = read_dataset(
        metered, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian, defer_size=LONGEST_VALUE_BYTES
    )
    return _instance(ds, path, len(dataset.getbuffer()), transfer_syntax)


class _Metered:
    """Bytes that are read only so many times, whatever elements and items they are made of; not copied."""

    def __init__(self, content: BytesIO) -> None:
        content.seek(0)
        self._read = content.read
        self._reads = 0
        self.tell = content.tell
        self.seek = content.seek

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MOST_READS:
            raise ValueError("too many elements")
        return self._read(size)


def find_series(folder: Path) -> dict[str, tuple[Instance, ...]]:
    """Read the headers of every DICOM image below a folder, by SeriesInstanceUID; what is no image is passed over.

    Raises
    ------
    SeriesUnusable
        A CT image is cut off or cannot be read.
    """
    found, unreadable = survey_series(folder)
    for error in unreadable.values():
        raise error
    return found


def survey_series(folder: Path) -> tuple[dict[str, tuple[Instance, ...]], dict[Path, SeriesUnusable]]:
    """Read the same, and return beside the series each CT image that is cut off or cannot be read, with the reason."""
    found: dict[str, list[Instance]] = {}
    unreadable: dict[Path, SeriesUnusable] = {}
    paths, _ = files_below(folder)
    for path in paths:
        try:
            instance = read_instance(path)
        except SeriesUnusable as error:
            if _claims_to_be_ct(path):
                unreadable[path] = error
            continue
        if instance.rows:
            found.setdefault(instance.series_instance_uid, []).append(instance)
    return {uid: tuple(instances) for uid, instances in found.items()}, unreadable


def series_of(path: Path) -> str:
    """Return the SeriesInstanceUID of a file that is damaged further on; empty where that cannot be read."""
    try:
        header = read_dicom(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(header.get("SeriesInstanceUID") or "")
    except UNREADABLE:
        return ""


def _claims_to_be_ct(path: Path) -> bool:
    try:
        return bool(read_meta(path).get("MediaStorageSOPClassUID") == CTImageStorage)
    except InvalidDicomError:
        return False
    except UNREADABLE:
        return True


def _reason(error: Exception) -> str:
    """Name the kind of an error and not its text, which may quote the patient."""
    return "no DICOM file" if isinstance(error, InvalidDicomError) else type(error).__name__


def _instance(ds: Dataset, path: Path, size: int, transfer_syntax: UID) -> Instance:
    what = path.name or "dataset"
    refuse_truncated(ds, what, size)
    refuse_foreign_groups(ds, what)
    refuse_nameless(ds, what)
    position, spacing, orientation = (
        numbers_of(ds, keyword, n)
        for keyword, n in (("ImagePositionPatient", 3), ("PixelSpacing", 2), ("ImageOrientationPatient", 6))
    )
    rescale = tuple(numbers_of(ds, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
    read = value_of(ds, "ImagePositionPatient") if position else ()
    texts = [str(getattr(v, "original_string", v)).strip() for v in read]
    return Instance(
        path=path,
        transfer_syntax=one_line(transfer_syntax, LONGEST_UID),
        sop_class_uid=str(value_of(ds, "SOPClassUID")),
        sop_instance_uid=str(value_of(ds, "SOPInstanceUID")),
        series_instance_uid=str(value_of(ds, "SeriesInstanceUID")),
        study_instance_uid=str(value_of(ds, "StudyInstanceUID")),
        modality=text_of(ds, "Modality"),
        image_type=texts_of(ds, "ImageType"),
        patient_id=str(value_of(ds, "PatientID") or "").strip(),
        series_description=text_of(ds, "SeriesDescription"),
        body_part=text_of(ds, "BodyPartExamined"),
        frame_of_reference_uid=text_of(ds, "FrameOfReferenceUID"),
        position_mm=(position[0], position[1], position[2]) if position else None,
        position_text=(texts[0], texts[1], texts[2]) if texts else None,
        orientation=orientation or None,
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing else None,
        rows=int(value_of(ds, "Rows") or 0),
        columns=int(value_of(ds, "Columns") or 0),
        frames=int(value_of(ds, "NumberOfFrames") or 1),
        photometric=text_of(ds, "PhotometricInterpretation"),
        samples=int(value_of(ds, "SamplesPerPixel") or 1),
        bits_allocated=int(value_of(ds, "BitsAllocated") or 0),
        bits_stored=int(value_of(ds, "BitsStored") or 0),
        high_bit=int(value_of(ds, "HighBit") or 0),
        rescale=(rescale[0][0], rescale[1][0]) if all(rescale) else None,
        rescale_type=text_of(ds, "RescaleType"),
        modality_table="ModalityLUTSequence" in ds,
        lossy=text_of(ds, "LossyImageCompression") == "01" or transfer_syntax in LOSSY,
        number=whole_number(text_of(ds, "InstanceNumber")),
        phase=tuple(text_of(ds, keyword) for keyword in PHASE if keyword in ds),
        protocol=text_of(ds, "ProtocolName"),
        station=text_of(ds, "StationName"),
        patient_name=comparable_of(ds, "PatientName"),
        birth_date=comparable_of(ds, "PatientBirthDate"),
    )
