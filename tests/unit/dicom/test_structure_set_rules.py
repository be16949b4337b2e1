"""The attribute rules of a structure set, row by row: each test names its row and looks at the file as it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from contourd import __version__
from contourd.dicom.rtstruct.writer import save_structure_set
from contourd.model.structures import catalogue
from tests.phantom import BALLS, PROVENANCE, read_series, structure_set, write_series


@dataclass(frozen=True)
class Written:
    """A CT with every attribute that is copied, its structure set as the file holds it, and the file's bytes."""

    ct: Dataset
    rt: Dataset
    raw: bytes
    images: frozenset[str]

    @property
    def rois(self) -> list[Dataset]:
        return list(self.rt.StructureSetROISequence)

    @property
    def contours(self) -> list[Dataset]:
        return [c for roi in self.rt.ROIContourSequence for c in roi.ContourSequence]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    def fill(ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Müller^Jürgen^^Dr."
        ds.IssuerOfPatientID, ds.PatientBirthDate, ds.PatientSex = "HOSPITAL", "19500101", "M"
        ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "S1", "A-17", "Weiß^Anna"
        ds.InstitutionName, ds.PositionReferenceIndicator = "Klinik Süd", "SN"
        ds.ContentDate, ds.ContentTime = "20260301", "101112.5"

    folder = tmp_path_factory.mktemp("rules")
    ct_folder = write_series(folder / "ct", change=fill)
    save_structure_set(structure_set(read_series(ct_folder)), folder / "rt.dcm")
    images = frozenset(str(pydicom.dcmread(p).SOPInstanceUID) for p in ct_folder.iterdir())
    raw = (folder / "rt.dcm").read_bytes()
    first: Path = ct_folder / "CT_0000.dcm"
    return Written(pydicom.dcmread(first), pydicom.dcmread(folder / "rt.dcm"), raw, images)


def patient(w: Written) -> None:
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"):
        assert w.rt[keyword].value == w.ct[keyword].value
    assert "Müller^Jürgen^^Dr.".encode("latin-1") in w.raw


def character_set(w: Written) -> None:
    assert w.rt.SpecificCharacterSet == "ISO_IR 100"
    assert "Klinik Süd".encode("latin-1") in w.raw


def study(w: Written) -> None:
    assert w.rt.StudyInstanceUID == w.ct.StudyInstanceUID
    for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        assert w.rt[keyword].value == w.ct[keyword].value


def series(w: Written) -> None:
    assert w.rt.SeriesInstanceUID not in ("", w.ct.SeriesInstanceUID)
    assert (w.rt.Modality, w.rt.OperatorsName, int(w.rt.SeriesNumber)) == ("RTSTRUCT", "", 1)
    assert w.rt.SeriesDescription == "contourd AI generated, not reviewed"


def uids(w: Written) -> None:
    assert {str(uid)[:5] for uid in (w.rt.SOPInstanceUID, w.rt.SeriesInstanceUID)} == {"2.25."}
    assert w.rt.SOPInstanceUID == w.rt.file_meta.MediaStorageSOPInstanceUID
    assert w.rt.SOPClassUID == w.rt.file_meta.MediaStorageSOPClassUID == RTStructureSetStorage


def label(w: Written) -> None:
    assert w.rt.StructureSetLabel == "AI-HN DRAFT"


def name_and_description(w: Written) -> None:
    assert w.rt.StructureSetName == "hn7 1.0"
    assert w.rt.StructureSetDescription.startswith("AI generated, not reviewed. Model hn7 1.0")


def date_and_time(w: Written) -> None:
    assert (w.rt.StructureSetDate, w.rt.StructureSetTime) == ("20260301", "101112.5")  # the CT's: no clock, same bytes


def frame_of_reference(w: Written) -> None:
    frame = w.ct.FrameOfReferenceUID
    assert (w.rt.FrameOfReferenceUID, w.rt.PositionReferenceIndicator) == (frame, "SN")
    assert w.rt.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == frame
    assert {roi.ReferencedFrameOfReferenceUID for roi in w.rois} == {frame}


def references(w: Written) -> None:
    (study_item,) = w.rt.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert study_item.ReferencedSOPClassUID == "1.2.840.10008.3.1.2.3.1"
    assert study_item.ReferencedSOPInstanceUID == w.ct.StudyInstanceUID
    (series_item,) = study_item.RTReferencedSeriesSequence
    assert series_item.SeriesInstanceUID == w.ct.SeriesInstanceUID
    assert {str(i.ReferencedSOPInstanceUID) for i in series_item.ContourImageSequence} == w.images
    assert {str(c.ContourImageSequence[0].ReferencedSOPInstanceUID) for c in w.contours} <= w.images


def roi_number(w: Written) -> None:
    numbers = [
        [int(item[keyword].value) for item in w.rt[sequence].value]
        for sequence, keyword in (
            ("StructureSetROISequence", "ROINumber"),
            ("ROIContourSequence", "ReferencedROINumber"),
            ("RTROIObservationsSequence", "ReferencedROINumber"),
        )
    ]
    assert numbers == [[1, 2, 3]] * 3


def roi_name(w: Written) -> None:
    assert [roi.ROIName for roi in w.rois] == list(BALLS)
    assert all(re.fullmatch(r"[A-Za-z0-9_+~^-]{1,16}", roi.ROIName) for roi in w.rois)


def display_colour(w: Written) -> None:
    colours = [tuple(int(v) for v in roi.ROIDisplayColor) for roi in w.rt.ROIContourSequence]
    assert colours == [catalogue()[name].colour for name in BALLS]


def generation(w: Written) -> None:
    assert {roi.ROIGenerationAlgorithm for roi in w.rois} == {"AUTOMATIC"}
    assert {roi.ROIGenerationDescription for roi in w.rois} == {f"contourd hn7 1.0 {'a' * 12}"}


def interpreted_type(w: Written) -> None:
    assert {o.RTROIInterpretedType for o in w.rt.RTROIObservationsSequence} == {"ORGAN"}


def interpreter(w: Written) -> None:
    assert {str(o.ROIInterpreter) for o in w.rt.RTROIObservationsSequence} == {""}


def observation_label(w: Written) -> None:
    assert [o.ROIObservationLabel for o in w.rt.RTROIObservationsSequence] == [roi.ROIName for roi in w.rois]


def approval(w: Written) -> None:
    assert w.rt.ApprovalStatus == "UNAPPROVED"


def equipment(w: Written) -> None:
    made = (w.rt.Manufacturer, w.rt.ManufacturerModelName, w.rt.SoftwareVersions, w.rt.DeviceSerialNumber)
    assert made == ("contourd", "contourd hn7", __version__, "a" * 16)
    assert w.rt.InstitutionName == "Klinik Süd"


def contributing_equipment(w: Written) -> None:
    (item,) = w.rt.ContributingEquipmentSequence
    for part in (PROVENANCE.model_hash, PROVENANCE.settings_hash, "revision 1"):
        assert part in item.ContributionDescription


def decimal_strings(w: Written) -> None:
    texts = [v.original_string for c in w.contours for v in c.ContourData]
    assert [t for t in texts if len(t) > 16 or not re.fullmatch(r"-?\d+(\.\d+)?", t)] == []
    assert not {"-0", "-0.000"} & set(texts)


def number_of_points(w: Written) -> None:
    for contour in w.contours:
        assert contour.NumberOfContourPoints.original_string == str(len(contour.ContourData) // 3)


def transfer_syntax(w: Written) -> None:
    assert w.rt.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert max(len(c.ContourData) // 3 for c in w.contours) <= 2000
    assert max(len("\\".join(v.original_string for v in c.ContourData)) for c in w.contours) <= 60_000


def file(w: Written) -> None:
    buffer = BytesIO()
    w.rt.save_as(buffer, enforce_file_format=True)
    assert buffer.getvalue() == w.raw  # nothing before, between or behind what was read
    meta_end = 132 + 12 + w.rt.file_meta.FileMetaInformationGroupLength
    assert w.raw[meta_end : meta_end + 4] == b"\x08\0\x05\0"  # Specific Character Set is the first element


def private_elements(w: Written) -> None:
    assert not any(element.tag.is_private for element in w.rt.iterall())


ROWS: Mapping[str, Callable[[Written], None]] = {
    "Patient module": patient,
    "SpecificCharacterSet": character_set,
    "Study": study,
    "Series": series,
    "SOPInstanceUID / Series UID": uids,
    "StructureSetLabel": label,
    "StructureSetName, StructureSetDescription": name_and_description,
    "StructureSetDate/Time": date_and_time,
    "FrameOfReferenceUID": frame_of_reference,
    "RTReferencedStudy/Series/ContourImageSequence": references,
    "ROINumber": roi_number,
    "ROIName": roi_name,
    "ROIDisplayColor": display_colour,
    "ROIGenerationAlgorithm": generation,
    "RTROIInterpretedType": interpreted_type,
    "ROIInterpreter": interpreter,
    "ROIObservationLabel": observation_label,
    "ApprovalStatus": approval,
    "Manufacturer / Model / SoftwareVersions / DeviceSerialNumber": equipment,
    "ContributingEquipmentSequence": contributing_equipment,
    "DS values": decimal_strings,
    "IS NumberOfContourPoints": number_of_points,
    "Transfer syntax": transfer_syntax,
    "File": file,
    "Private elements": private_elements,
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str, written: Written) -> None:
    ROWS[row](written)
