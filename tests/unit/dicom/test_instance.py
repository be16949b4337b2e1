from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from contourd.dicom.reading.instance import Instance, find_series, read_encoded, read_instance
from contourd.errors import SeriesUnusable
from tests.phantom import encoded, rewrite, write_series


def big_endian(dataset: pydicom.Dataset) -> bytes:
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = False, False
    write_dataset(written, dataset)
    return written.getvalue()


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct")


def first(folder: Path) -> Path:
    return folder / "CT_0000.dcm"


def test_reads_what_the_header_says(series: Path) -> None:
    instance = read_instance(first(series))
    assert (instance.modality, instance.sop_class_uid) == ("CT", CTImageStorage)
    assert instance.patient_id == "ID-ct"
    assert (instance.rows, instance.columns, instance.frames) == (40, 48, 1)
    assert instance.pixel_spacing_mm == (2.0, 1.75)
    # 48 columns of 1.75 mm about 0: the first centre at -47/2 x 1.75; 40 rows of 2 mm; 24 slices of 2.5 mm.
    assert instance.position_mm == (-41.125, -39.0, -28.75)
    assert instance.position_text == ("-41.125", "-39", "-28.75")
    assert instance.orientation == (1, 0, 0, 0, 1, 0)
    assert not instance.lossy


def test_position_keeps_the_text_of_the_file(series: Path) -> None:
    rewrite(first(series), lambda ds: setattr(ds, "ImagePositionPatient", ["-41.125", "-39", "-28.7500"]))
    assert read_instance(first(series)).position_text == ("-41.125", "-39", "-28.7500")


@pytest.mark.parametrize("values", [[], ["1", "2"], ["1", "2", "nan"], ["1", "2", "inf"]])
def test_a_position_of_other_than_three_numbers_is_none(series: Path, values: list[str]) -> None:
    rewrite(first(series), lambda ds: setattr(ds, "ImagePositionPatient", values))
    assert read_instance(first(series)).position_mm is None


def test_cut_off_within_pixels_says_how_much_is_missing(series: Path) -> None:
    content = first(series).read_bytes()
    first(series).write_bytes(content[:-1000])
    with pytest.raises(SeriesUnusable, match=f"CT_0000.dcm is cut off: {len(content) - 1000} bytes of {len(content)}"):
        read_instance(first(series))


@pytest.mark.parametrize("tenth", range(10))
def test_cut_off_anywhere_is_refused(series: Path, tenth: int) -> None:
    content = first(series).read_bytes()
    first(series).write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(SeriesUnusable, match=r"CT_0000\.dcm"):
        read_instance(first(series))


def test_cut_off_within_the_header_is_refused(series: Path) -> None:
    content = first(series).read_bytes()
    header = len(content) - 2 * 40 * 48  # all that is before the pixels
    for size in range(144, header, 37):
        first(series).write_bytes(content[:size])
        with pytest.raises(SeriesUnusable):
            read_instance(first(series))


@pytest.mark.parametrize("tag", [0x00000800, 0x00020010])
def test_elements_of_a_command_or_of_file_meta_information_are_refused(series: Path, tag: int) -> None:
    element = struct.pack(">HH2sH6s", tag >> 16, tag & 0xFFFF, b"UI", 6, b"1.2.3\0")
    dataset = pydicom.dcmread(first(series))
    with pytest.raises(SeriesUnusable, match="of a command or of file meta information"):
        read_encoded(BytesIO(element + big_endian(dataset)), ExplicitVRBigEndian)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_what_identifies_an_image_must_be_there(series: Path, keyword: str) -> None:
    ds = pydicom.dcmread(first(series))
    del ds[keyword]
    ds.save_as(first(series))
    with pytest.raises(SeriesUnusable, match=keyword):
        read_instance(first(series))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_encoded_dataset_reads_like_its_file(series: Path, syntax: pydicom.uid.UID) -> None:
    ds = pydicom.dcmread(first(series))
    ds.file_meta.TransferSyntaxUID = syntax
    content = BytesIO()
    pydicom.dcmwrite(content, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    first(series).write_bytes(content.getvalue())
    file = read_instance(first(series))
    received = read_encoded(BytesIO(encoded(first(series))), syntax)
    assert received == replaced_path(file)


def replaced_path(instance: Instance) -> Instance:
    return Instance(**{name: getattr(instance, name) for name in instance.__slots__} | {"path": Path()})


def test_an_encoded_dataset_that_is_cut_off_is_refused(series: Path) -> None:
    content = encoded(first(series))
    with pytest.raises(SeriesUnusable, match="cut off"):
        read_encoded(BytesIO(content[:-2]), ExplicitVRLittleEndian)
    with pytest.raises(SeriesUnusable, match="lacks SOPClassUID"):
        read_encoded(BytesIO(), ExplicitVRLittleEndian)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of much that is odd
def test_damaged_headers_give_our_error_or_none_and_no_other(series: Path) -> None:
    generator = np.random.default_rng(7)
    content = np.frombuffer(encoded(first(series)), np.uint8)
    header = len(content) - 2 * 40 * 48
    told = []
    for _ in range(300):
        damaged = content.copy()
        damaged[generator.integers(0, header, 4)] = generator.integers(0, 256, 4)
        try:
            read_encoded(BytesIO(damaged.tobytes()), ExplicitVRLittleEndian)
        except SeriesUnusable as error:
            told.append(str(error))
    assert told
    assert not [text for text in told if "ID-ct" in text or "Test" in text]


def test_finds_series_below_a_folder_and_passes_over_the_rest(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "one")
    write_series(tmp_path / "b" / "two")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "empty").touch()
    plan = pydicom.dcmread(tmp_path / "a" / "one" / "CT_0000.dcm")
    for keyword in ("PixelData", "Rows", "Columns"):
        del plan[keyword]
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    plan.save_as(tmp_path / "a" / "plan.dcm")
    found = find_series(tmp_path)
    assert sorted(len(instances) for instances in found.values()) == [24, 24]
    assert {i.patient_id for instances in found.values() for i in instances} == {"ID-one", "ID-two"}


CUT: dict[str, Callable[[bytes], bytes]] = {
    "in the pixels": lambda content: content[:-100],
    "in the header": lambda content: content[:700],
}


@pytest.mark.parametrize("where", CUT)
def test_a_folder_with_a_ct_that_is_cut_off_is_not_read_as_if_it_were_whole(series: Path, where: str) -> None:
    path = series / "CT_0005.dcm"
    path.write_bytes(CUT[where](path.read_bytes()))
    with pytest.raises(SeriesUnusable, match=r"CT_0005\.dcm"):
        find_series(series)


def test_a_value_that_another_image_had_is_read_with_the_image_s_own_character_set(series: Path) -> None:
    """The same byte is a German letter in Latin-1 and a Cyrillic one in ISO_IR 144 (PS3.3 C.12.1.1.2)."""

    def description(characters: str, text: str) -> str:
        dataset = pydicom.dcmread(first(series))
        dataset.SpecificCharacterSet, dataset.SeriesDescription = characters, text
        content = DicomBytesIO()
        content.is_little_endian, content.is_implicit_VR = True, False
        write_dataset(content, dataset)
        assert b"\xe4rm" in content.getvalue()
        return read_encoded(BytesIO(content.getvalue()), ExplicitVRLittleEndian).series_description

    assert description("ISO_IR 100", "\u00e4rm") == "\u00e4rm"
    assert description("ISO_IR 144", "\u0444rm") == "\u0444rm"
    assert description("ISO_IR 100", "\u00e4rm") == "\u00e4rm"
