from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.dicom.rtstruct.writer import Provenance, save_structure_set, structure_set_dataset
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import ROI, Contour, StructureSet
from contourd.model.structures import catalogue
from tests.peers import dciodvfy_errors
from tests.phantom import (
    BALLS,
    PROVENANCE,
    read_series,
    structure_set,
    traced,
    write_series,
)


def content(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_the_modules_say_what_planning_systems_ask_for(dataset: pydicom.Dataset, series: Series) -> None:
    assert (dataset.PatientID, dataset.StudyInstanceUID) == (series.header.PatientID, series.header.StudyInstanceUID)
    assert dataset.FrameOfReferenceUID == series.header.FrameOfReferenceUID
    assert dataset.Modality == "RTSTRUCT"
    assert dataset.SeriesInstanceUID != series.uid
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert dataset.StructureSetLabel == "AI-HN DRAFT"
    assert "AI generated, not reviewed" in dataset.StructureSetDescription
    assert "AI generated, not reviewed" in dataset.SeriesDescription
    for keyword in ("AccessionNumber", "ReferringPhysicianName", "StudyID", "OperatorsName", "StructureSetDate"):
        assert keyword in dataset
    assert not any(element.tag.is_private for element in dataset.iterall())
    assert dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


def test_pydicom_writes_the_same_bytes_once_it_has_decoded_everything(dataset: pydicom.Dataset) -> None:
    written = content(dataset)
    read = pydicom.dcmread(BytesIO(written))
    geometries = {e.value for e in read.iterall() if e.keyword == "ContourGeometricType"}
    assert geometries == {"CLOSED_PLANAR"}
    read.ROIContourSequence[0].ROIDisplayColor = list(read.ROIContourSequence[0].ROIDisplayColor)
    for roi in read.ROIContourSequence:
        for contour in roi.ContourSequence:
            contour.ContourData = [value.original_string for value in contour.ContourData]
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = str(
                contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            )
    assert content(read) == written


def test_every_image_is_referenced_and_every_contour_refers_to_its_slice(
    dataset: pydicom.Dataset, series: Series
) -> None:
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    images = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in referenced.ContourImageSequence]
    assert images == [(CTImageStorage, i.sop_instance_uid) for i in series.instances]
    texts = {i.sop_instance_uid: i.position_text[2] for i in series.instances if i.position_text}
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            z = {value.original_string for value in contour.ContourData[2::3]}
            assert z == {texts[image.ReferencedSOPInstanceUID]}
            assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)


def test_rois_stand_in_all_three_sequences_and_what_was_not_found_in_none(dataset: pydicom.Dataset) -> None:
    assert [r.ROIName for r in dataset.StructureSetROISequence] == list(BALLS)
    for sequence, keyword in (
        (dataset.StructureSetROISequence, "ROINumber"),
        (dataset.ROIContourSequence, "ReferencedROINumber"),
        (dataset.RTROIObservationsSequence, "ReferencedROINumber"),
    ):
        assert [int(item[keyword].value) for item in sequence] == [1, 2, 3]
    assert "not found: Larynx" in dataset.StructureSetDescription
    assert {r.ROIGenerationAlgorithm for r in dataset.StructureSetROISequence} == {"AUTOMATIC"}
    assert {o.RTROIInterpretedType for o in dataset.RTROIObservationsSequence} == {"ORGAN"}
    colours = [tuple(r.ROIDisplayColor) for r in dataset.ROIContourSequence]
    assert colours == [catalogue()[name].colour for name in BALLS]


def test_decimals_are_short_plain_and_without_a_negative_zero(dataset: pydicom.Dataset) -> None:
    texts = [
        value.original_string
        for roi in dataset.ROIContourSequence
        for contour in roi.ContourSequence
        for value in contour.ContourData
    ]
    assert len(texts) > 1000
    assert [t for t in texts if not re.fullmatch(r"-?\d+(\.\d{1,3})?", t) or len(t) > 16] == []
    assert not {"-0", "-0.0", "-0.000"} & set(texts)


def test_a_negative_zero_and_points_that_round_together(series: Series) -> None:
    z = series.grid.slice_origins_mm[4, 2]
    points = np.array([[-0.0001, -0.0, z], [10, 0, z], [10, 10, z], [10.0002, 10.0001, z], [0, 10, z]])
    roi = ROI("Brainstem", (Contour(4, points),), 0.0)
    ds = structure_set_dataset(StructureSet((roi,)), series, PROVENANCE, catalogue())
    data = ds.ROIContourSequence[0].ContourSequence[0].ContourData
    text = "\\".join(v.original_string for v in data)
    corners = (("0.000", "0.000"), ("10.000", "0.000"), ("10.000", "10.000"), ("0.000", "10.000"))
    assert text == "\\".join(f"{x}\\{y}\\-18.75" for x, y in corners)


def test_the_same_work_gives_the_same_bytes(tmp_path: Path, series: Series) -> None:
    again = read_series(write_series(tmp_path / series.instances[0].path.parent.name))
    assert again.instances[0].path != series.instances[0].path
    assert content(structure_set(again)) == content(structure_set(series))


@pytest.mark.parametrize(
    "other",
    [
        replace(PROVENANCE, model_hash="c" * 64),
        replace(PROVENANCE, settings_hash="c" * 64),
        replace(PROVENANCE, revision=2),
    ],
)
def test_other_work_gives_other_uids(series: Series, other: Provenance) -> None:
    first, second = structure_set(series), structure_set(series, other)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID.startswith("2.25.")
    assert len(first.SOPInstanceUID) <= 44


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
        ("ISO_IR 192", "Müller^Jürgen=山田^太郎".encode()),
        ("ISO_IR 144", "Люксембург^Элла^Юзефовна^Д".encode("iso8859-5")),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        ),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (None, b"DOE^JOHN "),
    ],
)
def test_the_patient_is_copied_byte_for_byte(tmp_path: Path, character_set: str | None, name: bytes) -> None:
    def rename(ds: pydicom.Dataset) -> None:
        del ds.SpecificCharacterSet
        if character_set is not None:
            ds.SpecificCharacterSet = character_set.split("\\")
        ds.PatientName = name
        ds.IssuerOfPatientID = "HOSPITAL"

    folder = write_series(tmp_path / "ct", change=rename)
    original = (folder / "CT_0000.dcm").read_bytes()
    path = tmp_path / "rt.dcm"
    save_structure_set(structure_set(read_series(folder)), path)
    copy = path.read_bytes()
    padded = name + b" " * (len(name) % 2)
    assert b"PN" + len(padded).to_bytes(2, "little") + padded in original
    assert b"\x10\0\x10\0" + len(padded).to_bytes(4, "little") + padded in copy
    read = pydicom.dcmread(path)
    assert read.get("SpecificCharacterSet") == pydicom.dcmread(folder / "CT_0000.dcm").get("SpecificCharacterSet")
    assert read.IssuerOfPatientID == "HOSPITAL"


def test_a_z_that_is_longer_than_a_decimal_string_may_be_is_shortened(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct")
    path = folder / "CT_0010.dcm"
    long = b"-3.7500000000000000"
    raw = path.read_bytes()
    at = raw.index(b"\x20\0\x32\0DS")
    length = int.from_bytes(raw[at + 6 : at + 8], "little")
    value = raw[at + 8 : at + 8 + length].strip()
    changed = value.rsplit(b"\\", 1)[0] + b"\\" + long
    changed += b" " * (len(changed) % 2)
    path.write_bytes(raw[: at + 6] + len(changed).to_bytes(2, "little") + changed + raw[at + 8 + length :])
    series = read_series(folder)
    assert series.instances[10].position_text == ("-41.125", "-39", long.decode())
    structures, masks = traced(series.grid)
    ds = structure_set_dataset(structures, series, PROVENANCE, catalogue())
    check_structure_set(ds, series, masks)
    uid = series.instances[10].sop_instance_uid
    contours = [c for r in ds.ROIContourSequence for c in r.ContourSequence]
    on_slice = [c for c in contours if c.ContourImageSequence[0].ReferencedSOPInstanceUID == uid]
    (z,) = {c.ContourData[2].original_string for c in on_slice}
    assert float(z) == -3.75
    assert len(z) <= 16


def circle(points: int, z: float, radius_mm: float = 35.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.column_stack([radius_mm * np.cos(angle), radius_mm * np.sin(angle), np.full(points, z)])


def test_a_loop_of_too_many_points_is_simplified_and_keeps_its_shape(series: Series) -> None:
    contour = Contour(8, circle(5000, series.grid.slice_origins_mm[8, 2]))
    roi = ROI("Brainstem", (contour,), 0.0)
    ds = structure_set_dataset(StructureSet((roi,)), series, PROVENANCE, catalogue())
    (loop,) = read_structure_set(ds)[0].contours
    assert 50 < len(loop) <= 2000
    x, y = loop[:, 0], loop[:, 1]
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(np.pi * 35**2, rel=0.002)


def test_a_loop_that_cannot_be_simplified_is_refused(series: Series) -> None:
    points = circle(5000, series.grid.slice_origins_mm[8, 2])
    points[::2, :2] *= 0.5
    roi = ROI("Brainstem", (Contour(8, points),), 0.0)
    with pytest.raises(StructureSetRejected, match=r"Brainstem: a contour of \d+ points .* is too long at z = -8\.75"):
        structure_set_dataset(StructureSet((roi,)), series, PROVENANCE, catalogue())


@pytest.mark.parametrize("name", ["", "A name of 17 char", "Parotid L", "Drüse", " Larynx"])
def test_a_name_that_planning_systems_choke_on_is_refused(series: Series, name: str) -> None:
    contour = Contour(8, circle(20, series.grid.slice_origins_mm[8, 2]))
    with pytest.raises(StructureSetRejected, match="not fit for planning systems"):
        structure_set_dataset(StructureSet((ROI(name, (contour,), 0.0),)), series, PROVENANCE, catalogue())


def test_nothing_found_is_no_structure_set(series: Series) -> None:
    with pytest.raises(StructureSetRejected, match="no organ was found"):
        structure_set_dataset(StructureSet((ROI("Larynx", (), 0.0),)), series, PROVENANCE, catalogue())


@pytest.mark.peers
def test_dciodvfy_finds_no_error(dataset: pydicom.Dataset, tmp_path: Path) -> None:
    save_structure_set(dataset, tmp_path / "rt.dcm")
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []
    assert [path.name for path in tmp_path.iterdir()] == ["rt.dcm"]
