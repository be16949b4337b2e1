"""What names an image: by hand where the header is a usual one, and then as pydicom has it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from contourd.dicom.network.image_identifiers import ImageIdentifiers, naming_of, read_naming, read_usual_dataset
from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.reading.instance import read_encoded
from contourd.errors import SeriesUnusable
from tests.phantom import write_series

LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
FLIPS = 4000


def encode(dataset: Dataset, syntax: UID) -> bytes:
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    write_dataset(written, dataset)
    return written.getvalue()


def arrived(content: bytes) -> DatasetBytes:
    dataset = DatasetBytes()
    dataset.write(content)
    return dataset


def by_pydicom(content: bytes, syntax: UID) -> ImageIdentifiers:
    return naming_of(read_encoded(arrived(content), syntax))


@pytest.fixture
def image(tmp_path: Path) -> Dataset:
    image = pydicom.dcmread(write_series(tmp_path / "ct") / "CT_0000.dcm")
    del image.file_meta
    return image


@pytest.mark.parametrize("syntax", LITTLE)
def test_a_usual_header_is_read_by_hand_as_pydicom_reads_it(image: Dataset, syntax: UID) -> None:
    image.ReferencedImageSequence = Sequence([Dataset()])
    image.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    image.PatientName = "Müller^Jörg"
    content = encode(image, syntax)
    assert read_usual_dataset(memoryview(content), syntax) == by_pydicom(content, syntax)
    assert read_naming(arrived(content), syntax).patient_id == "ID-ct"


def sequence_of_undefined_length(image: Dataset) -> None:
    image.ReferencedImageSequence = Sequence([Dataset()])
    image["ReferencedImageSequence"].is_undefined_length = True


def private(image: Dataset) -> None:
    image.add_new(0x00090010, "LO", "SOMEBODY")
    image.add_new(0x00091001, "OB", b"\0" * 2**21)


UNUSUAL: dict[str, Callable[[Dataset], object]] = {
    "a sequence without a length": sequence_of_undefined_length,
    "an ID beyond ASCII": lambda image: (
        setattr(image, "SpecificCharacterSet", "ISO_IR 100"),
        setattr(image, "PatientID", "Jörg"),
    ),
    "a character set of its own": lambda image: setattr(image, "SpecificCharacterSet", ["", "ISO 2022 IR 87"]),
    "two IDs": lambda image: setattr(image, "PatientID", ["A", "B"]),
    "a phase of a 4D CT": lambda image: setattr(image, "TemporalPositionIdentifier", 3),
    "a position of seven numbers": lambda image: setattr(image, "ImagePositionPatient", list(map(str, range(7)))),
    "a long private element": private,
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("syntax", LITTLE)
def test_what_is_unusual_is_left_to_pydicom(image: Dataset, kind: str, syntax: UID) -> None:
    UNUSUAL[kind](image)
    content = encode(image, syntax)
    assert read_usual_dataset(memoryview(content), syntax) is None
    assert read_naming(arrived(content), syntax) == by_pydicom(content, syntax)


def test_another_transfer_syntax_is_left_to_pydicom(image: Dataset) -> None:
    assert read_usual_dataset(memoryview(encode(image, ExplicitVRLittleEndian)), ExplicitVRBigEndian) is None


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_an_image_without_a_name_is_refused_as_before(image: Dataset, keyword: str) -> None:
    delattr(image, keyword)
    with pytest.raises(SeriesUnusable, match=keyword):
        read_naming(arrived(encode(image, ExplicitVRLittleEndian)), ExplicitVRLittleEndian)


@pytest.mark.parametrize("cut", [1, 2, 1000, 3000])
def test_an_image_that_is_cut_off_is_refused_as_before(image: Dataset, cut: int) -> None:
    content = encode(image, ExplicitVRLittleEndian)
    with pytest.raises(SeriesUnusable, match="cut off"):
        read_naming(arrived(content[:-cut]), ExplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", LITTLE)
def test_whatever_is_read_by_hand_pydicom_reads_to_the_same_effect(image: Dataset, syntax: UID) -> None:
    """Bytes of the header are changed at random; those that tell lengths and tags among them."""
    whole, rng, same = encode(image, syntax), random.Random(20261129), 0
    header = whole.index(b"\xe0\x7f\x10\x00") + 12
    for _ in range(FLIPS):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(header)] = rng.choice((rng.randrange(256), 0, 0xFF, 0x5C))
        read = read_usual_dataset(memoryview(content), syntax)
        if read is not None:
            assert read == by_pydicom(bytes(content), syntax)
            same += 1
    assert FLIPS // 20 < same < FLIPS  # both ways were taken
