"""What a list may tell of a series: nothing that holds the patient's name, however it is spelled or joined."""

from __future__ import annotations

import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.series_description import describe, read_description, typed_spellings
from contourd.errors import SeriesUnusable


def header(**values: str) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = "Müller^Jane Anne^^Dr."
    made.PatientID = "HN-0815"
    made.PatientBirthDate = "19700102"
    made.ReferringPhysicianName = "Example^Joan"
    made.AccessionNumber = "A77"
    made.StudyDate = "20261130"
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    "text",
    [
        *("Mueller", "MULLER HN", "HN müller", "CT_MUELLERJANE_1", "jane", "anne hn", "HN Dr Example", "Joan"),
        *(
            "HN0815",
            "hn-0815",
            "HN 0815 2",
            "geb 19700102",
            "1970-01-02",
            "A77",
            "order 123456",
            "Hals \u0661\u0662\u0663\u0664\u0665",
        ),
    ],
)
def test_a_text_that_may_hold_a_name_or_a_number_of_the_patient_is_left_out(text):
    made = describe(header(SeriesDescription=text, ProtocolName="Neck 2.0", BodyPartExamined="HEADNECK"))
    assert made.description == ""
    assert (made.protocol, made.body_part) == ("Neck 2.0", "HEADNECK")
    assert made.shown(text) == ""


@pytest.mark.parametrize("text", ["HN 3.0 mm", "CT Head/Neck", "Hals 2026", "RT Schädel B31s", "IV KM", ""])
def test_another_text_is_kept(text):
    made = describe(header(SeriesDescription=text, StationName="CT-SIM"))
    assert (made.description, made.station, made.study_date) == (text, "CT-SIM", "20261130")


def test_what_is_kept_is_bounded_and_of_one_line():
    text = describe(header(SeriesDescription="a b\n" * 1000)).description
    assert len(text) <= 64
    assert "\n" not in text


@pytest.mark.parametrize("date", ["2026", "20261130T", "yesterday", ""])
def test_a_date_that_is_none_is_left_out(date):
    made = header()
    made["StudyDate"] = pydicom.DataElement("StudyDate", "LO", date)
    assert describe(made).study_date == ""


@pytest.mark.parametrize(
    "typed",
    [
        *("Müller", "mueller", "MULLER", "Müller^Jane Anne", "Jane Anne Mueller", "muller, jane anne"),
        "Dr. Jane Anne Müller",
    ],
)
def test_a_name_is_found_however_it_is_typed(typed):
    assert typed_spellings(typed) & describe(header()).names


@pytest.mark.parametrize("typed", ["", "   ", "^", "Jane", "Muller Joan", "Mull"])
def test_another_name_is_not(typed):
    assert not typed_spellings(typed) & describe(header()).names


def test_every_group_of_a_name_is_found():
    names = describe(header(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")).names
    for typed in ("yamada tarou", "山田 太郎", "やまだ", "山田"):
        assert typed_spellings(typed) & names, typed


def test_a_header_of_nothing_says_nothing():
    made = describe(Dataset())
    assert (made.description, made.study_date, made.names, made.words) == ("", "", frozenset(), frozenset())


def test_what_is_no_image_is_told(tmp_path):
    (tmp_path / "no.dcm").write_bytes(b"no")
    for path in (tmp_path / "no.dcm", tmp_path / "gone.dcm"):
        with pytest.raises(SeriesUnusable):
            read_description(path)
