"""Bytes that were made to do harm: each is refused in words, within little memory and time."""

from __future__ import annotations

import resource
import struct
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.reading.instance import find_series, read_encoded, read_instance
from contourd.dicom.reading.isolation import pixel_decoder
from contourd.dicom.reading.pixels import hounsfield, same_image
from contourd.dicom.reading.series import gate
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.errors import DatasetError, SeriesUnusable
from tests.fuzz.bounds import FILES
from tests.fuzz.elements import Element, changed, encode, nested, read_elements
from tests.fuzz.reading import CORPUS, CT, packed, small_series
from tests.phantom import read_series, rewrite, setting

MOST_MB, MOST_S = 400, 30
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_series(tmp_path / "ct")


@pytest.fixture
def elements(folder: Path) -> list[Element]:
    return read_elements(folder / "CT_0005.dcm")


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail where more memory is held than any image needs, or it takes long."""
    began, before_kb = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024 < MOST_MB
    assert time.monotonic() - began < MOST_S


def received(elements: list[Element], syntax: UID = ExplicitVRLittleEndian) -> None:
    read_encoded(BytesIO(encode(elements, syntax)), syntax)


UIDS = {
    "a path": b"1.2.3/../../../etc/passwd",
    "a parent": b"../../etc/cron.d/x",
    "a NUL": b"1.2.3\0.4.5",
    "65 characters": b"1" * 65,
    "another alphabet": "1.2.٣.4".encode(),
    "letters": b"1.2.abc",
    "a line": b"1.2.3\n.4",
    "an escape": b"1.2.\x1b[2J",
    "several": b"1.2.3\\1.2.4",
    "nothing": b"",
    "a NUL alone": b"\0",
}
PLACES = {"SOPInstanceUID": 0x00080018, "SeriesInstanceUID": 0x0020000E, "StudyInstanceUID": 0x0020000D}


@pytest.mark.parametrize("keyword", PLACES)
@pytest.mark.parametrize("what", UIDS)
def test_a_uid_that_is_none_is_refused(elements: list[Element], keyword: str, what: str) -> None:
    received(elements)
    with pytest.raises(SeriesUnusable, match=keyword) as caught:
        received(changed(elements, PLACES[keyword], value=UIDS[what]))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("what", ["a line", "an escape", "a NUL", "nothing", "several thousand"])
def test_a_patient_id_that_nobody_has_is_held(folder: Path, what: str) -> None:
    value = (UIDS | {"several thousand": b"7" * 5000})[what].decode()
    for path in folder.iterdir():
        rewrite(path, setting(PatientID=value))
    with pytest.raises(SeriesUnusable, match="PatientID") as caught:
        read_series(folder)
    assert str(caught.value).isprintable()
    assert "1.2.3" not in str(caught.value)  # it never quotes the patient


def test_a_patient_id_that_looks_like_a_path_is_only_a_name(folder: Path) -> None:
    for path in folder.iterdir():
        rewrite(path, setting(PatientID="../../患者"))
    assert read_series(folder).instances[0].patient_id == "../../患者"


@pytest.mark.parametrize("keyword", ["Modality", "RescaleType", "PhotometricInterpretation"])
def test_a_reason_is_one_line_whatever_the_header_says(folder: Path, keyword: str) -> None:
    for path in folder.iterdir():
        rewrite(path, setting(**{keyword: "X\x1b[2J\n2026-01-01 ERROR forged" + "y" * 5000}))
    with pytest.raises(SeriesUnusable) as caught:
        read_series(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


HUGE = {"ImagePositionPatient": "1e308\\0\\0", "PixelSpacing": "1e300\\1e300", "RescaleSlope": "1e300"}
TINY = {"PixelSpacing": "1e-300\\1e-300", "RescaleSlope": "1e-300", "RescaleIntercept": "1e200"}


@pytest.mark.parametrize(("keyword", "value"), [*HUGE.items(), *TINY.items()])
def test_a_geometry_that_no_scanner_has_is_held(folder: Path, keyword: str, value: str) -> None:
    for path in folder.iterdir():
        rewrite(path, lambda ds: setattr(ds, keyword, value.split("\\")))
    with pytest.raises(SeriesUnusable):
        read_series(folder)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("last", [1e5, 1e12, 1e300])
def test_slices_that_lie_apart_by_more_than_any_patient_are_held(folder: Path, last: float) -> None:
    path = sorted(folder.iterdir())[-1]
    rewrite(path, lambda ds: setattr(ds, "ImagePositionPatient", [*ds.ImagePositionPatient[:2], f"{last:g}"]))
    with pytest.raises(SeriesUnusable):
        read_series(folder)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("value", [b"1" * 1_000_000, b"1\\" * 500_000, b"0." + b"3" * 1_000_000])
@pytest.mark.parametrize("tag", [0x00200032, 0x00280030, 0x00281053, 0x00200013])
def test_numbers_of_a_million_digits_or_values(elements: list[Element], value: bytes, tag: int) -> None:
    """In implicit VR, where a value may be so long."""
    with pytest.raises(SeriesUnusable):
        received(changed(elements, tag, value=value), ImplicitVRLittleEndian)


@pytest.mark.usefixtures("bounded")
@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("defined", [False, True])
@pytest.mark.parametrize("depth", [2000, 20_000])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_sequences_thousands_deep(
    elements: list[Element], syntax: UID, depth: int, defined: bool, tmp_path: Path
) -> None:
    head = encode([e for e in elements if e.tag < 0x00081140], syntax)
    tail = encode([e for e in elements if e.tag > 0x00081140], syntax)
    content = head + nested(depth, syntax, defined) + tail
    path = tmp_path / "deep.dcm"
    path.write_bytes(file_meta(CT, "1.2.3", syntax) + content)
    for read in (lambda: read_encoded(BytesIO(content), syntax), lambda: read_instance(path)):
        try:
            read()
        except SeriesUnusable:
            continue
    assert isinstance(same_image(path, path), bool)


@pytest.mark.usefixtures("bounded")
def test_a_sequence_of_millions_of_empty_items(elements: list[Element]) -> None:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 2_000_000
    with pytest.raises(SeriesUnusable):  # read at once
        received([Element(0x00081140, "SQ", items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0), 0xFFFFFFFF), *elements])
    with pytest.raises(SeriesUnusable):  # read when it is looked at
        received([Element(0x00081140, "SQ", items), *elements])


def test_millions_of_empty_elements(elements: list[Element]) -> None:
    many = b"".join(struct.pack("<HH2sH", 0x0009 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(1_000_000))
    with pytest.raises(SeriesUnusable):
        read_encoded(BytesIO(many + encode(elements, ExplicitVRLittleEndian)), ExplicitVRLittleEndian)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("said", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 1 << 20])
@pytest.mark.parametrize("vr", ["OB", "OW", "UN", "SQ", "UT"])
def test_lengths_of_four_gigabytes(elements: list[Element], vr: str, said: int) -> None:
    with pytest.raises(SeriesUnusable):
        received([*elements, Element(0x7FE10010, vr, b"abcd", said)])


@pytest.mark.usefixtures("bounded")
@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_0005.dcm", {"Rows": 65535, "Columns": 65535}),
        ("rle.dcm", {"Rows": 65535, "Columns": 65535}),
        ("jpeg.dcm", {"Rows": 65535, "Columns": 65535}),
        ("rle.dcm", {"NumberOfFrames": 2**31 - 1}),
        ("rle.dcm", {"SamplesPerPixel": 65535}),
        ("rle.dcm", {"BitsAllocated": 65528}),
        ("jpeg.dcm", {"NumberOfFrames": 2**31 - 1, "SamplesPerPixel": 3}),
    ],
)
def test_a_header_that_claims_more_pixels_than_there_are(
    folder: Path, tmp_path: Path, name: str, shape: dict[str, int]
) -> None:
    source = folder / name if name.startswith("CT") else CORPUS / name
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(source.read_bytes())
    rewrite(bomb, setting(**shape))
    assert not same_image(bomb, folder / "CT_0006.dcm")
    with pixel_decoder() as decoder, pytest.raises(SeriesUnusable):
        hounsfield(read_instance(bomb), decoder)


@pytest.mark.usefixtures("bounded")
def test_a_jpeg_that_claims_a_huge_frame_in_its_own_header(tmp_path: Path) -> None:
    content = (CORPUS / "jpeg.dcm").read_bytes()
    at = content.index(b"\xff\xc3")  # SOF3: length, precision, height, width
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(content[: at + 5] + struct.pack(">HH", 65535, 65535) + content[at + 9 :])
    with pixel_decoder() as decoder, pytest.raises(SeriesUnusable):
        hounsfield(read_instance(bomb), decoder)


@pytest.mark.usefixtures("bounded")
def test_runs_that_expand_without_an_end(tmp_path: Path) -> None:
    """PackBits make 128 bytes of two: 8 MiB of runs would be 512 MiB."""
    elements = packed(CORPUS / "rle.dcm")
    segment = struct.pack("<16L", 2, 64, 64 + (1 << 22), *[0] * 13) + bytes((129, 0)) * (1 << 22)
    item = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(segment)) + segment
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(
        file_meta(CT, "1.2.3", RLELossless) + encode(changed(elements, 0x7FE00010, value=item + end), RLELossless)
    )
    with pixel_decoder() as decoder, pytest.raises(SeriesUnusable):
        hounsfield(read_instance(bomb), decoder)


def test_a_deflated_bomb(elements: list[Element], tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    content = packer.compress(encode(elements, ExplicitVRLittleEndian))
    content += b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    assert len(content) < 400_000
    with pytest.raises(SeriesUnusable, match="inflates to more than 64 MiB"):
        read_encoded(BytesIO(content), DeflatedExplicitVRLittleEndian)
    path = tmp_path / "bomb.dcm"
    path.write_bytes(file_meta(CT, "1.2.3", DeflatedExplicitVRLittleEndian) + content)
    with pytest.raises(SeriesUnusable, match="inflates to more than 64 MiB"):
        read_instance(path)


@pytest.mark.parametrize("charset", ["ISO 2022 IR 87", "rot13", "hex", "..", "a\\b\\c", "\x1b(J", "utf-7"])
def test_charsets_and_their_escapes(elements: list[Element], charset: str) -> None:
    hostile = [Element(0x00080005, "CS", charset.encode()), *(e for e in elements if e.tag != 0x00080005)]
    hostile = changed(
        changed(hostile, 0x00100010, value=b"\x1b$B\x30\x1b(\x1b\x1b)I\xff"), 0x0008103E, value=b"\x1b$B\x1b"
    )
    content = BytesIO(encode(sorted(hostile, key=lambda e: e.tag), ExplicitVRLittleEndian))
    told = ""
    try:
        told = read_encoded(content, ExplicitVRLittleEndian).series_description
    except SeriesUnusable as error:
        told = str(error)
    assert told.isprintable()


@pytest.mark.parametrize("value", [[1, 2], [float("nan")] * 9, ["1e999"] * 9])
def test_a_structure_set_that_lies_is_refused_as_ours(value: list[object]) -> None:
    contour, of_contours, roi = Dataset(), Dataset(), Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.ContourData = value
    of_contours.ReferencedROINumber, of_contours.ContourSequence = 1, [contour]
    roi.ROINumber, roi.ROIName = 1, "Cord"
    lying = Dataset()
    lying.ROIContourSequence, lying.StructureSetROISequence = [of_contours], [roi]
    if len(value) < 3:  # no contour, and no harm
        assert read_structure_set(lying)[0].contours == ()
        return
    with pytest.raises(DatasetError, match="ROI Cord"):
        read_structure_set(lying)


def test_no_path_of_a_dataset_is_followed(folder: Path, tmp_path: Path) -> None:
    """A DICOMDIR's file IDs, bulk data and retrieve URLs: nothing but the images themselves is opened."""
    secret = tmp_path / "secret.dcm"
    secret.write_bytes((folder / "CT_0000.dcm").read_bytes())

    def hostile(ds: Dataset) -> None:
        record, pixels = Dataset(), ds.PixelData
        record.ReferencedFileID = ["..", "secret.dcm"]
        record.DirectoryRecordType = "IMAGE"
        ds.DirectoryRecordSequence = [record]
        ds.add_new(0x00081190, "UR", f"file://{secret}")
        ds.add_new(0x00287FE0, "UR", f"file://{secret}")
        ds.add_new(0x0040E010, "UR", str(secret))
        ds.PixelData = pixels

    for path in folder.iterdir():
        rewrite(path, hostile)
    (folder / "DICOMDIR").write_bytes(
        (folder / "CT_0000.dcm").read_bytes().replace(CT.encode(), b"1.2.840.10008.1.3.10\0")
    )
    FILES.strays.clear()
    with FILES.only(writing=folder, reading=folder):
        instances = [read_instance(path) for path in sorted(folder.glob("*.dcm"))]
        find_series(folder)
        series = gate(instances)
        same_image(instances[0].path, instances[1].path)
        with pixel_decoder() as decoder:
            assert np.ptp(hounsfield(series.instances[0], decoder)) >= 0
    assert FILES.strays == []
    with FILES.only(writing=folder, reading=folder):
        secret.read_bytes()
    assert [stray for stray in FILES.strays if "secret.dcm" in stray]  # the watch sees what it should
    FILES.strays.clear()
