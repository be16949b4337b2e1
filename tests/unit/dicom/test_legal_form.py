"""What a CT's header says in a form that is not DICOM's: rewritten, cut, left empty, or held; and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from contourd.dicom.legal_form import bring_to_legal_form
from contourd.dicom.reading.acquisition import acquisition_of
from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.writer import save_structure_set, structure_set_dataset
from contourd.errors import SeriesUnusable
from contourd.imaging.contours import StructureSet
from contourd.model.remarks import RemarkCheck, Remarks
from contourd.model.structures import catalogue
from tests.peers import dciodvfy_errors
from tests.phantom import PROVENANCE, grid, read_series, traced, write_series

Change = Callable[[Dataset], None]


def writing(values: Mapping[str, bytes]) -> Change:
    """Return a change that writes the very bytes of values."""

    def change(ds: Dataset) -> None:
        for keyword, content in values.items():
            tag, padded = Tag(keyword), content + b" " * (len(content) % 2)
            ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
            if keyword == "SpecificCharacterSet":
                ds.set_original_encoding(False, True, convert_encodings(ds.SpecificCharacterSet))

    return change


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return read_series(write_series(tmp_path_factory.mktemp("ct")))


@pytest.fixture
def read(plain: Series) -> Callable[..., Series]:
    """Return a reader of the series as if its header held other bytes."""

    def series(values: Mapping[str, bytes], change: Change = lambda ds: None) -> Series:
        dataset = pydicom.dcmread(plain.instances[0].path)
        writing(values)(dataset)
        change(dataset)
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        header = pydicom.dcmread(BytesIO(file.getvalue()), stop_before_pixels=True)
        return replace(plain, formal=bring_to_legal_form(header), header=header)

    return series


LONG = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" * 2
# Bytes in the CT -> the value in the structure set, and what is told of it; of padding nothing is.
COPIED = [
    ("AccessionNumber", b"ACC-2026-000123456789", "", "left empty: it has 21 characters, where 16 are allowed"),
    ("AccessionNumber", b"  ACC-2026-0001234", "ACC-2026-0001234", ""),
    ("AccessionNumber", b"A17\0", "A17", ""),
    ("AccessionNumber", b"A\\17", "", "left empty: it holds several values, or a backslash"),
    ("StudyID", b"S" * 17, "", "left empty: it has 17 characters, where 16 are allowed"),
    ("StudyID", b"S\x011", "", "left empty: it holds control characters"),
    ("StudyDescription", LONG, LONG[:64].decode(), "cut: it has 72 characters, where 64 are allowed"),
    ("StudyDescription", b"CT\\Head\r\nneck", "CT Head neck", "cut: it holds control characters"),
    ("StudyDescription", b"CT\\Head", "CT Head", "cut: it holds several values, or a backslash"),
    ("InstitutionName", LONG, LONG[:64].decode(), "cut: it has 72 characters, where 64 are allowed"),
    ("PatientBirthDate", b"00/00/0000", "", "left empty: it is no date"),
    ("PatientBirthDate", b"1950.03.12", "19500312", "rewritten: its form was not DICOM's"),
    ("PatientBirthDate", b"1950-03-12", "19500312", "rewritten: its form was not DICOM's"),
    (
        "PatientBirthDate",
        b"12.03.1950",
        "",
        "left empty: it is no date",
    ),  # the twelfth of March, or the third of December
    ("PatientBirthDate", b"19500312\0\0", "19500312", ""),
    ("PatientBirthDate", b"19500230", "", "left empty: it is no date"),
    ("PatientBirthDate", b"1950", "", "left empty: it is no date"),
    ("PatientBirthDate", b"        ", "", ""),
    ("StudyDate", b"2026.03.01", "20260301", "rewritten: its form was not DICOM's"),
    ("StudyTime", b"10:11:12.5", "101112.5", "rewritten: its form was not DICOM's"),
    ("StudyTime", b"101112.1234567", "101112.123456", "rewritten: its form was not DICOM's"),
    ("StudyTime", b"101112.", "101112", "rewritten: its form was not DICOM's"),
    ("StudyTime", b"1011", "1011", ""),
    ("StudyTime", b"25:00:00", "", "left empty: it is no time"),
    ("StudyTime", b"101112 PM", "", "left empty: it is no time"),
    ("PatientSex", b"m ", "M", "rewritten: its form was not DICOM's"),
    ("PatientSex", b"FEMALE", "F", "rewritten: its form was not DICOM's"),
    ("PatientSex", b"W ", "", "left empty: it is none of M, F and O"),
    ("PatientAge", b"42", "", "left empty: it is no age with its unit"),
    ("PatientAge", b"42Y ", "042Y", "rewritten: its form was not DICOM's"),
    ("PatientAge", b"042y", "042Y", "rewritten: its form was not DICOM's"),
    ("PatientWeight", b"72,5", "72.5", "rewritten: its form was not DICOM's"),
    ("PatientWeight", b"72.5\0\0", "72.5", ""),
    ("PatientWeight", b"72.50000000000000000001", "72.5", "rewritten: its form was not DICOM's"),
    ("PatientWeight", b"72 kg ", "", "left empty: it is no number"),
    ("PatientWeight", b"70\\72 ", "", "left empty: it is no number"),
    ("PatientWeight", b"nan ", "", "left empty: it is no number"),
    ("PatientSize", b"1,75", "1.75", "rewritten: its form was not DICOM's"),
    ("ReferringPhysicianName", b"A^B^C^D^E^F", "", "left empty: it has more than 5 components"),
    ("ReferringPhysicianName", b"A" * 65, "", "left empty: it has 65 characters, where 64 are allowed"),
    ("ReferringPhysicianName", b"Weiss^Anna\\Schwarz^Ute", "", "left empty: it holds several values, or a backslash"),
    ("PositionReferenceIndicator", b"S\\N ", "", "left empty: it holds several values, or a backslash"),
    ("PatientName", b"Test^A\0", "Test^A", ""),
    ("PatientID", b"ID-1\0\0", "ID-1", ""),
]


@cache
def drawn() -> StructureSet:
    """One small organ; what is copied does not depend on it."""
    structures, _ = traced(grid(shape=(16, 24, 24)))
    return StructureSet(tuple(roi for roi in structures.rois if roi.name == "SpinalCord"))


def built(series: Series) -> Dataset:
    """Return a structure set as it is read back."""
    remarks, file = Remarks.noted(RemarkCheck.HEADER, series.formal), BytesIO()
    structure_set_dataset(drawn(), series, PROVENANCE, catalogue(), remarks=remarks).save_as(file)
    return pydicom.dcmread(BytesIO(file.getvalue()))


def written(series: Series, path: Path) -> Dataset:
    """Return the same from a file."""
    remarks = Remarks.noted(RemarkCheck.HEADER, series.formal)
    save_structure_set(structure_set_dataset(drawn(), series, PROVENANCE, catalogue(), remarks=remarks), path)
    return pydicom.dcmread(path)


@pytest.mark.parametrize(("keyword", "content", "value", "told"), COPIED)
def test_what_is_copied_is_legal_and_told(read, keyword, content, value, told) -> None:
    series = read({keyword: content})
    dataset = built(series)
    assert str(dataset[keyword].value or "").strip() == value
    assert series.formal == ((f"{keyword} {told}",) if told else ())
    assert (f"header: {keyword} {told}" in dataset.StructureSetDescription) is bool(told)


def together() -> list[dict[str, bytes]]:
    """Spread the values over as few headers as hold them."""
    headers: list[dict[str, bytes]] = []
    for keyword, content, _, _ in COPIED:
        free = next((header for header in headers if keyword not in header), None)
        if free is None:
            headers.append(free := {})
        free[keyword] = content
    return headers


@pytest.mark.peers
@pytest.mark.parametrize("values", together())
def test_dciodvfy_finds_no_error_in_what_was_brought_to_legal_form(read, tmp_path, values) -> None:
    written(read(values), tmp_path / "rt.dcm")
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []


@pytest.mark.peers
@pytest.mark.parametrize(
    ("values", "date", "time"),
    [
        ({"ContentDate": b"2026.03.02", "ContentTime": b"08:09:10"}, "20260302", "080910"),
        ({"ContentDate": b"02/03/26", "AcquisitionDate": b"20260303", "ContentTime": b"noon"}, "20260303", ""),
    ],
)
def test_the_structure_sets_date_is_the_first_that_is_one(read, tmp_path, values, date, time) -> None:
    absent = dict.fromkeys(("ContentTime", "AcquisitionTime", "SeriesTime", "StudyTime"), b"")
    dataset = written(read(absent | values), tmp_path / "rt.dcm")
    assert (dataset.StructureSetDate, dataset.StructureSetTime) == (date, time)
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []


@pytest.mark.parametrize(
    ("keyword", "content", "why"),
    [
        ("PatientName", b"A" * 65, "has 65 characters, where 64 are allowed"),
        ("PatientName", b"A^B^C^D^E^F", "has more than 5 components"),
        ("PatientName", b"A=B=C=D", "has 4 component groups, where 3 are allowed"),
        ("PatientName", b"Doe\\Jane", "holds several values, or a backslash"),
        ("PatientName", b"Doe\tJane", "holds control characters"),
        ("PatientID", b"1\\2 ", "holds several values, or a backslash"),
        ("IssuerOfPatientID", b"H" * 65, "has 65 characters, where 64 are allowed"),
    ],
)
def test_what_identifies_the_patient_is_held_before_contouring_and_not_quoted(read, keyword, content, why) -> None:
    with pytest.raises(SeriesUnusable) as refused:
        read({keyword: content})
    assert str(refused.value) == (
        f"{keyword} {why}, and what identifies the patient is not changed here; "
        "correct it at the source and send the series again"
    )


@pytest.mark.parametrize("content", [b"Doe^Jane^Q^Dr.^MD", b"A" * 64 + b"=" + b"B" * 64, b"", b" Doe^Jane"])
def test_a_legal_name_stays_as_it_is_written(read, content) -> None:
    series = read({"PatientName": content})
    element = built(series).get_item("PatientName")
    assert (bytes(element.value or b"").rstrip(b" "), series.formal) == (content, ())


MUELLER = "Müller^Jürgen"


@pytest.mark.peers
@pytest.mark.parametrize(
    ("written_as", "encoding", "term", "told"),
    [
        (b"ISO_IR 100", "latin_1", "ISO_IR 100", ""),
        (b"ISO_IR 192", "utf_8", "ISO_IR 192", ""),
        (b"UTF-8", "utf_8", "ISO_IR 192", "SpecificCharacterSet rewritten: its form was not DICOM's"),
        (b"ISO-IR 100", "latin_1", "ISO_IR 100", "SpecificCharacterSet rewritten: its form was not DICOM's"),
        (b"ISO8859-1", "latin_1", "ISO_IR 100", "SpecificCharacterSet rewritten: its form was not DICOM's"),
        (b"ISO_IR 100\0\0", "latin_1", "ISO_IR 100", ""),
        (b"\\ISO 2022 IR 87", "ascii", ["", "ISO 2022 IR 87"], ""),
    ],
)
@pytest.mark.filterwarnings("ignore:(Incorrect value for|Unknown encoding)")
def test_character_sets(read, tmp_path, written_as, encoding, term, told) -> None:
    name = MUELLER if encoding != "ascii" else "Mueller^J"
    series = read({"SpecificCharacterSet": written_as, "PatientName": name.encode(encoding)})
    dataset = written(series, tmp_path / "rt.dcm")
    assert dataset.SpecificCharacterSet == term
    assert str(dataset.PatientName) == name
    assert series.formal == ((told,) if told else ())
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []


FOREIGN = "holds characters that are not of its character set"


@pytest.mark.peers
@pytest.mark.parametrize(
    ("written_as", "told"),
    [
        (b"", ()),
        (b"KLINGON", ("SpecificCharacterSet left out: it is none of DICOM's",)),
        (b"ISO_IR 192", ()),
    ],
)
@pytest.mark.filterwarnings("ignore:(Incorrect value for|Unknown encoding|Failed to decode)")
def test_a_name_that_is_not_of_its_character_set_is_copied_byte_for_byte(read, tmp_path, written_as, told) -> None:
    name, clinic = MUELLER.encode("latin_1"), "Klinik Süd".encode("latin_1")
    series = read({"SpecificCharacterSet": written_as, "PatientName": name, "InstitutionName": clinic})
    dataset = written(series, tmp_path / "rt.dcm")
    assert (
        dataset.get_item("PatientName").value.rstrip() == name
    )  # as in the CT, so that the two agree wherever they go
    assert dataset.InstitutionName == ""
    of_values = (f"PatientName copied as it is written: it {FOREIGN}", f"InstitutionName left empty: it {FOREIGN}")
    assert series.formal == told + of_values
    errors = [e for e in dciodvfy_errors(tmp_path / "rt.dcm") if "Value Representations" not in e]
    (tmp_path / "rt.dcm").unlink()  # conftest.py would find what dciodvfy says of the CT's name
    assert [e for e in errors if "(0x0010,0x0010) PN" not in e] == []


def test_what_describes_is_cut_between_characters_whatever_its_character_set(read) -> None:
    series = read({"SpecificCharacterSet": b"ISO_IR 192", "InstitutionName": ("Ü" * 70).encode()})
    assert built(series).InstitutionName == "Ü" * 64


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({"PatientID": "OLD-1", "TypeOfPatientID": "TEXT", "IssuerOfPatientID": "HOSPITAL"}, True),
        ({"PatientID": "OLD-1"}, False),
        ({"PatientID": "O" * 65, "TypeOfPatientID": "TEXT"}, False),
        ({"PatientID": "", "TypeOfPatientID": "TEXT"}, False),
        ({"PatientID": "OLD-1", "TypeOfPatientID": "whatever"}, False),
        (None, False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(exceeds the maximum length|Invalid value)")
def test_other_patient_ids(read, other, kept) -> None:
    item = Dataset()
    for keyword, value in (other or {}).items():
        setattr(item, keyword, value)
    series = read({}, lambda ds: setattr(ds, "OtherPatientIDsSequence", [item] if other else []))
    assert ("OtherPatientIDsSequence" in built(series)) is kept
    told = "OtherPatientIDsSequence left out: an item of it is not DICOM's, or there is none"
    assert series.formal == (() if kept else (told,))


def test_the_gate_holds_an_illegal_name_and_tells_what_it_changed(tmp_path) -> None:
    with pytest.raises(SeriesUnusable, match="PatientName has 65 characters"):
        read_series(write_series(tmp_path / "held", change=writing({"PatientName": b"A" * 65})))
    changed = read_series(write_series(tmp_path / "told", change=writing({"StudyID": b"S" * 17})))
    assert changed.formal == ("StudyID left empty: it has 17 characters, where 16 are allowed",)


def test_an_acr_nema_birth_date_gives_the_age(read) -> None:
    series = read({"PatientBirthDate": b"1950.03.12", "PatientAge": b"", "StudyDate": b"2026.03.11"})
    assert acquisition_of(series).age_years == 75


@pytest.mark.parametrize("uid", ["1.2.", "abc", "1." * 40 + "1"])
def test_a_frame_of_reference_that_is_no_uid_is_held_with_its_true_reason(tmp_path, uid) -> None:
    def change(ds: Dataset) -> None:
        writing({"FrameOfReferenceUID": uid.encode() + b"\0" * (len(uid) % 2)})(ds)

    with pytest.raises(SeriesUnusable, match="FrameOfReferenceUID is no UID"):
        read_series(write_series(tmp_path / "ct", change=change))


def test_operators_words_are_written_in_ascii(plain) -> None:
    remarks = Remarks.noted(RemarkCheck.LIMITS, ["Dr. Müller hat es angesehen"])
    dataset = structure_set_dataset(drawn(), plain, PROVENANCE, catalogue(), remarks=remarks)
    assert "Dr. Muller hat es angesehen" in dataset.StructureSetDescription
