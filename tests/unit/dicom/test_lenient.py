"""Files that DCMTK, GDCM and dcm4che read though they are not as the Standard wants them are read here, too."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from contourd.dicom.network.image_identifiers import read_naming
from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.network.sender import dicom_files
from contourd.dicom.reading.files import is_dicom, read_dicom, read_meta
from contourd.dicom.reading.instance import find_series, read_content, read_encoded, read_instance, survey_series
from contourd.dicom.reading.lenient import repair_dataset, repair_file
from contourd.dicom.reading.pixels import same_image
from contourd.dicom.reading.series import gate, read_volume
from contourd.errors import SeriesUnusable
from tests.phantom import phantom, write_series

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
NULS = "two NULs"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = pydicom.dcmread(write_series(tmp_path_factory.mktemp("ct")) / "CT_0000.dcm")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.ReferencedImageSequence = Sequence([item])
    dataset["ReferencedImageSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    return dataset


def written(dataset: Dataset, syntax: UID) -> bytes:
    """Encode a dataset alone."""
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    pixels = np.frombuffer(dataset.PixelData, "<u2")
    copied = Dataset()
    copied.update(dataset)
    if not syntax.is_little_endian:
        copied.PixelData = pixels.astype(">u2").tobytes()
    copied["PixelData"].VR = "OW"
    write_dataset(out, copied)
    return out.getvalue()


def private(syntax: UID, value: bytes, vr: bytes | str = b"UN") -> bytes:
    """Encode (0009,0010) and (0009,1001) with a value."""
    order = "<" if syntax.is_little_endian else ">"
    if syntax.is_implicit_VR:
        heads = [struct.pack(f"{order}HHI", 9, 0x0010, 4), struct.pack(f"{order}HHI", 9, 0x1001, len(value))]
    else:
        creator = struct.pack(f"{order}HH2sH", 9, 0x0010, b"LO", 4)
        short = struct.pack(f"{order}HH2sH", 9, 0x1001, b"\0\0", len(value) & 0xFFFF)
        long = struct.pack(f"{order}HH2sHI", 9, 0x1001, b"UN" if vr == b"UN" else b"\0\0", 0, len(value))
        heads = [creator, short if vr == NULS else long]
    return heads[0] + b"TEST" + heads[1] + value


def with_private(dataset: bytes, syntax: UID, added: bytes) -> bytes:
    """Put elements of group 0009 in their place."""
    order = "<" if syntax.is_little_endian else ">"
    at = dataset.index(struct.pack(f"{order}HH", 0x0010, 0x0010))
    return dataset[:at] + added + dataset[at:]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("zeros", [1, 2, 8, 13, 4096])
def test_zero_bytes_behind_the_dataset(image: Dataset, syntax: UID, zeros: int) -> None:
    content = written(image, syntax)
    assert bytes(repair_dataset(content + bytes(zeros), syntax)) == content
    assert repair_dataset(content, syntax) is content
    read = read_encoded(BytesIO(content + bytes(zeros)), syntax)
    assert (read.sop_instance_uid, read.rows) == (image.SOPInstanceUID, 40)


def test_anything_else_behind_the_dataset_is_refused(image: Dataset) -> None:
    content = written(image, ExplicitVRLittleEndian) + bytes(8) + b"\1"
    assert repair_dataset(content, ExplicitVRLittleEndian) is content
    with pytest.raises(SeriesUnusable):
        read_encoded(BytesIO(content), ExplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_large_private_element(image: Dataset, syntax: UID) -> None:
    content = with_private(written(image, syntax), syntax, private(syntax, bytes(3 * 2**20)))
    assert read_encoded(BytesIO(content), syntax).sop_instance_uid == image.SOPInstanceUID


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("vr", "value"), [(NULS, b"abcd"), (NULS, b""), (NULS, bytes(2000)), ("long", bytes(70_000))])
def test_a_private_element_whose_vr_is_two_nuls(image: Dataset, syntax: UID, vr: str, value: bytes) -> None:
    plain = written(image, syntax)
    content = with_private(plain, syntax, private(syntax, value, vr))
    right = with_private(plain, syntax, private(syntax, value))
    assert bytes(repair_dataset(content, syntax)) == right
    read = read_encoded(BytesIO(content), syntax)
    assert (read.patient_id, read.rows) == (image.PatientID, 40)


def test_the_network_takes_what_is_only_unusual(image: Dataset) -> None:
    plain = written(image, ExplicitVRLittleEndian)
    for spoilt in (plain + bytes(8), with_private(plain, ExplicitVRLittleEndian, private(SYNTAXES[1], b"ab", NULS))):
        dataset = DatasetBytes()
        dataset.write(spoilt)
        assert read_naming(dataset, ExplicitVRLittleEndian).sop_instance_uid == image.SOPInstanceUID
        assert dataset.getvalue() == spoilt  # and keeps it byte for byte


Spoil = Callable[[bytes], bytes]
WHOLE = 132


def without_meta(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]


SPOILT: dict[str, Spoil] = {
    "no preamble and no meta": without_meta,
    "no preamble": lambda file: file[WHOLE:],
    "no preamble but the prefix": lambda file: file[128:],
    "no meta": lambda file: file[:WHOLE] + without_meta(file),
    "zeros behind it": lambda file: file + bytes(20),
}


@pytest.fixture(params=SYNTAXES, ids=lambda uid: uid.name)
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = write_series(tmp_path / "ct")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        encoded = written(dataset, request.param)
        dataset.file_meta.TransferSyntaxUID = request.param
        head = DicomBytesIO()
        pydicom.filewriter.write_file_meta_info(head, dataset.file_meta)
        path.write_bytes(bytes(128) + b"DICM" + head.getvalue() + encoded)
    return folder


@pytest.mark.parametrize("how", SPOILT)
def test_files_without_a_formality_are_read_whole(series: Path, how: str) -> None:
    spoilt = sorted(series.iterdir())[::5]
    for path in spoilt:
        path.write_bytes(SPOILT[how](path.read_bytes()))
    (instances,) = find_series(series).values()
    volume = read_volume(gate(instances))
    np.testing.assert_array_equal(volume.hu, phantom().hu)
    paths, others = dicom_files(series)
    assert (len(paths), others) == (24, {})
    for path in spoilt:
        assert is_dicom(path)
        meta = read_meta(path)
        assert (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) == (
            CTImageStorage,
            read_dicom(path).file_meta.TransferSyntaxUID,
        )
        instance, dataset = read_content(path.read_bytes(), path)
        assert dataset is not None
        assert instance == read_instance(path)
        assert same_image(path, path)


def test_one_that_is_cut_off_is_told_and_not_passed_over(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct")
    path = folder / "CT_0005.dcm"
    path.write_bytes(without_meta(path.read_bytes())[:-100])
    found, unreadable = survey_series(folder)
    assert sum(map(len, found.values())) == 23
    assert str(unreadable[path]).startswith("CT_0005.dcm is cut off: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"DICM",
        b"hello, this is a text that is longer than a head",
        bytes(1000),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"PK\3\4" + bytes(300),
        b"\x08\x00\x05\x00CS\x04\x00ABCD" * 20,
        struct.pack("<HHI", 8, 0x16, 26) + b"not a uid, but 26 letters.",
    ],
)
def test_what_is_no_dicom_stays_none(tmp_path: Path, content: bytes) -> None:
    assert repair_file(content) is content
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_dicom(path)
    assert dicom_files(tmp_path) == ((), {path: "is no DICOM file"})


def test_a_usual_file_is_not_copied(tmp_path: Path) -> None:
    content = (write_series(tmp_path / "ct") / "CT_0000.dcm").read_bytes()
    assert repair_file(content) is content


def test_encapsulated_pixels_are_passed(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_series(tmp_path / "ct") / "CT_0000.dcm")
    dataset.compress(RLELossless, generate_instance_uid=False)
    file = BytesIO()
    dataset.save_as(file)
    content = file.getvalue()
    assert repair_file(content) is content
    assert repair_file(content + bytes(16)) == content


def test_private_elements_that_differ_are_two_images(tmp_path: Path, image: Dataset) -> None:
    paths = []
    for n in range(2):
        content = with_private(written(image, SYNTAXES[0]), SYNTAXES[0], private(SYNTAXES[0], bytes([n]) * 3 * 2**20))
        paths.append(tmp_path / f"{n}.dcm")
        paths[n].write_bytes(repair_file(content))
    assert same_image(paths[0], paths[0])
    assert not same_image(*paths)
