"""Whom an image is of, and free text that names him."""

from __future__ import annotations

import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.patient_identity import PatientIdentity, names_patient, read_patient, without_identity
from contourd.errors import SeriesUnusable
from tests.phantom import setting, write_series


@pytest.fixture
def header() -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        "Müller-Lüdenscheidt^Karl H",
        "77",
        "19500217",
        "M",
    )
    ds.AccessionNumber, ds.ReferringPhysicianName = "ACC-9", "House^Gregory"
    ds.InstitutionAddress, ds.SeriesDescription = "Hospitalstr. 1", "H+N plan 3mm"
    ds.Modality, ds.Manufacturer, ds.StudyInstanceUID = "CT", "ACME", "1.2.840.113.99.1.5"
    return ds


@pytest.mark.parametrize(
    "text",
    [
        "no patient MÜLLER-LÜDENSCHEIDT here",
        "karl is unknown",
        "patient Müller-Lüdenscheidt^Karl H refused",
        "ID 77 is merged",
        "born 19500217?",
        "order ACC-9 is closed",
        "ask Dr. House",
        "sent from Hospitalstr. 1, twice",
        "series 'H+N plan 3mm' is full",
        "study 1.2.840.113.99.1.5 is locked",
    ],
)
def test_what_names_the_patient(text, header):
    assert names_patient(text, header)
    assert "[left out]" in without_identity(text, header)
    for planted in ("LÜDENSCHEIDT", "KARL", "77", "19500217", "ACC-9", "HOUSE", "HOSPITALSTR", "3MM", "113.99"):
        assert planted not in without_identity(text, header).upper()


@pytest.mark.parametrize(
    "text",
    [
        "pacs (PACS at 127.0.0.1:4242) cannot take it now: status 0xA700 (out of disk, 770 MB missing)",
        "the CT is short but the larynx is all in it",
        "M. is right: ACME scans are fine",
        "",
    ],
)
def test_what_does_not(text, header):
    assert without_identity(text, header) == text
    assert not names_patient(text, header)


def test_an_empty_header_leaves_everything(header):
    for keyword in header.dir():
        setattr(header, keyword, None)
    assert without_identity("nothing to leave out", header) == "nothing to leave out"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "山田^太郎"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_a_name_in_its_characters(tmp_path, charset, name):
    folder = write_series(
        tmp_path / "ct", change=setting(SpecificCharacterSet=charset, PatientName=name, PatientID="9")
    )
    assert read_patient(min(folder.iterdir())) == PatientIdentity(name, "9")
    assert without_identity(f"no {name} here", pydicom.dcmread(min(folder.iterdir()))) == "no [left out] here"


def test_an_image_that_is_gone(tmp_path):
    with pytest.raises(SeriesUnusable, match=r"gone\.dcm is not there any more"):
        read_patient(tmp_path / "gone.dcm")
