"""StructureSet -> RTSTRUCT dataset that planning systems take.

DICOM PS3.3 A.19.3 (the IOD), C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour), C.8.8.8 (RT ROI Observations).
The same job gives the same bytes: UIDs, dates and times come from the input, never from the clock.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from unicodedata import normalize

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, ImplicitVRLittleEndian, RTStructureSetStorage

from contourd import __version__
from contourd.dicom.legal_form import DATES, IF_PRESENT, PATIENT, POSITION_REFERENCE, STUDY, TIMES
from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.contours import roi_contour_item
from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME, derived_uid
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import ROI, StructureSet
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_use import ModelUse
from contourd.model.remarks import NO_REMARKS, Remarks
from contourd.model.structures import Structure
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason
from contourd.system.durable_files import write_durably

ROI_CONTOURS = Tag("ROIContourSequence")
DETACHED_STUDY = UID("1.2.840.10008.3.1.2.3.1")
NOT_REVIEWED = "AI generated, not reviewed"
LONGEST_DESCRIPTION = 1024
LONGEST_LO = 64
CHECK = "CHECK"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the structure set.

    Attributes
    ----------
    models
        In their order; each says what it drew, or why nothing.
    model_hash, settings_hash
        sha256, hexadecimal; of several models one over all.
    revision
        Of the series: 1, and one more for each late slice.
    """

    models: tuple[ModelUse, ...]
    model_hash: str
    settings_hash: str
    revision: int = 1

    @classmethod
    def of_one(cls, name: str, version: str, sha256: str, settings_hash: str, revision: int = 1) -> Provenance:
        """Return that of a single model, which drew all."""
        use = ModelUse(name, ModelIdentity(name, version, sha256))
        return cls((use,), sha256, settings_hash, revision)

    @property
    def drawn(self) -> tuple[ModelIdentity, ...]:
        """The models that drew."""
        return tuple(use.identity for use in self.models if use.drew and use.identity is not None)

    @property
    def incomplete(self) -> bool:
        """Whether a model did not draw."""
        return not all(use.drew for use in self.models)

    def model_of(self, organ: str) -> ModelIdentity:
        """Return the model that drew an organ."""
        drew = (use.identity for use in self.models if use.drew and organ in use.organs)
        return next((model for model in drew if model is not None), self.drawn[0])

    def named(self, longest: int, versions: bool = False) -> str:
        """Return the models' names, of which too many for an attribute are counted."""
        said = [f"{model.name} {model.version}" if versions else model.name for model in self.drawn]
        text = " + ".join(said)
        return text if len(text) <= longest else f"{said[0][: longest - 9]} and {len(said) - 1} more"

    def uid(self, series: Series, kind: str) -> UID:
        """Derive a UID from the input's instances, the models and the settings."""
        instances = sorted(i.sop_instance_uid for i in series.instances)
        return derived_uid(kind, *instances, self.model_hash, self.settings_hash, self.revision)


def structure_set_dataset(
    structures: StructureSet,
    series: Series,
    provenance: Provenance,
    catalogue: Mapping[str, Structure],
    profile: Profile = STRICT,
    remarks: Remarks = NO_REMARKS,
) -> FileDataset:
    """Build the complete file dataset, Implicit VR Little Endian.

    An organ without contours, or withheld, is left out of all three sequences and named in the description.

    Raises
    ------
    StructureSetRejected
        Nothing was found, a name is not fit for planning systems, or a contour is too long for its attribute.
    """
    found = organs_to_write(structures, profile, remarks)
    ds = _file(provenance.uid(series, "rtstruct"))
    copy_patient_and_study(ds, series.header)
    _describe(ds, series, provenance)
    ds.StructureSetLabel = profile.label
    ds.StructureSetDescription = description_of(provenance, remarks, structures)[:LONGEST_DESCRIPTION]
    ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
    names = [profile.name_of(roi.name) for roi in found]
    ds.StructureSetROISequence = [
        _structure_set_roi(n, name, series, provenance.model_of(roi.name))
        for n, (name, roi) in enumerate(zip(names, found, strict=True), 1)
    ]
    contours = b"".join(roi_contour_item(n, roi, series, catalogue, profile) for n, roi in enumerate(found, 1))
    # Undecoded, as if it were read: an object for each element of some thousand items would take most of the time.
    ds[ROI_CONTOURS] = RawDataElement(ROI_CONTOURS, "SQ", len(contours), contours, 0, True, True)
    ds.RTROIObservationsSequence = [_observation(n, roi, profile, remarks) for n, roi in enumerate(found, 1)]
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def organs_to_write(structures: StructureSet, profile: Profile, remarks: Remarks) -> list[ROI]:
    """Return the organs that were found and are not withheld, with names that are fit for the destination.

    Raises
    ------
    StructureSetRejected
        There is none, or a name is not fit.
    """
    found = [roi for roi in structures.rois if roi.contours and roi.name not in remarks.withheld]
    if not found:
        raise _nothing_left(remarks)
    _refuse_names([profile.name_of(roi.name) for roi in found], profile)
    return found


def save_structure_set(dataset: Dataset, path: Path) -> None:
    """Write the file durably, in place of what may be there."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    write_durably(path.with_name(f".{path.name}.{os.getpid()}.partial"), path, [buffer.getbuffer()])


def _file(instance: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = instance
    return ds


def copy_patient_and_study(ds: Dataset, header: Dataset) -> None:
    """Copy patient, study and frame of reference, each value's very bytes."""
    for keyword in (*PATIENT, *STUDY, *IF_PRESENT, POSITION_REFERENCE, "SpecificCharacterSet"):
        # Undecoded where it was not looked at: the very bytes, whatever the character set. Sequences must be decoded.
        element = header.get_item(keyword)
        if element is not None:
            ds[keyword] = header[keyword] if element.VR == "SQ" else element
        elif keyword in (*PATIENT, *STUDY, POSITION_REFERENCE):
            setattr(ds, keyword, "")
    # Else pydicom decodes and encodes again what is undecoded.
    ds.set_original_encoding(True, True, header.original_character_set)
    ds.StudyInstanceUID = header.StudyInstanceUID
    ds.FrameOfReferenceUID = header.FrameOfReferenceUID


def _describe(ds: Dataset, series: Series, provenance: Provenance) -> None:
    ds.Modality, ds.SeriesInstanceUID = "RTSTRUCT", provenance.uid(series, "series")
    ds.SeriesNumber = "1"
    ds.InstanceNumber = str(provenance.revision)
    ds.OperatorsName = ""
    ds.SeriesDescription = series_description(provenance)
    describe_equipment(ds, provenance)
    ds.StructureSetDate, ds.StructureSetTime = content_date_and_time(series.header)
    ds.StructureSetName = provenance.named(LONGEST_LO, versions=True)


def series_description(provenance: Provenance) -> str:
    """Return that nobody has reviewed it, and whether one of several models did not draw."""
    return f"contourd {NOT_REVIEWED}{', incomplete' if provenance.incomplete else ''}"


def content_date_and_time(header: Dataset) -> tuple[str, str]:
    """Return when the images' content was made, DA and TM: what is drawn on them is dated by it, never by the clock."""
    dates = (header.get(k) for k in DATES)
    times = (header.get(k) for k in TIMES)
    return next((str(d) for d in dates if d), ""), next((str(t) for t in times if t), "")


def describe_equipment(ds: Dataset, provenance: Provenance) -> None:
    """Say what made it: contourd, the models, and the hashes of models and settings."""
    ds.Manufacturer = "contourd"
    ds.ManufacturerModelName = f"contourd {provenance.named(LONGEST_LO - len('contourd '))}"
    ds.SoftwareVersions = __version__
    ds.DeviceSerialNumber = provenance.model_hash[:16]
    ds.ContributingEquipmentSequence = [_equipment(model, provenance) for model in provenance.drawn]


def _equipment(model: ModelIdentity, provenance: Provenance) -> Dataset:
    equipment = Dataset()
    purpose = Dataset()
    purpose.CodeValue = "109103"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Modifying Equipment"
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer = "contourd"
    equipment.ManufacturerModelName = model.name
    equipment.SoftwareVersions = [__version__, model.version]
    hashes = f"model sha256 {model.sha256}; settings sha256 {provenance.settings_hash}"
    equipment.ContributionDescription = f"{hashes}; revision {provenance.revision}"
    return equipment


def _frame_of_reference(series: Series) -> Dataset:
    of_series = Dataset()
    of_study = Dataset()
    of_frame = Dataset()
    of_series.SeriesInstanceUID = series.uid
    of_series.ContourImageSequence = [_image(i.sop_instance_uid) for i in series.instances]
    of_study.ReferencedSOPClassUID = DETACHED_STUDY
    of_study.ReferencedSOPInstanceUID = series.header.StudyInstanceUID
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame.FrameOfReferenceUID = series.header.FrameOfReferenceUID
    of_frame.RTReferencedStudySequence = [of_study]
    return of_frame


def _image(sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = CTImageStorage
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _structure_set_roi(number: int, name: str, series: Series, model: ModelIdentity) -> Dataset:
    item = Dataset()
    item.ROINumber = str(number)
    item.ROIName = name
    item.ReferencedFrameOfReferenceUID = series.header.FrameOfReferenceUID
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"contourd {model.name} {model.version} {model.sha256[:12]}"[:LONGEST_LO]
    return item


def _observation(number: int, roi: ROI, profile: Profile, remarks: Remarks) -> Dataset:
    item = Dataset()
    item.ObservationNumber = str(number)
    item.ReferencedROINumber = str(number)
    item.ROIObservationLabel = profile.name_of(roi.name)[:16]
    if roi.name in remarks.flagged:
        item.ROIObservationLabel = CHECK
        item.ROIObservationDescription = remarks.flagged[roi.name][:LONGEST_DESCRIPTION]
    item.RTROIInterpretedType = profile.interpreted_type
    item.ROIInterpreter = ""
    return item


def _nothing_left(remarks: Remarks) -> StructureSetRejected:
    if not remarks.withheld:
        return StructureSetRejected(HoldReason.NO_ORGAN)
    code = HoldReason.ALL_REJECTED if remarks.rejected else HoldReason.ALL_WITHHELD
    return StructureSetRejected(code, organs=remarks.withheld)


def _refuse_names(names: Sequence[str], profile: Profile) -> None:
    """Planning systems compare without case, and cut or refuse what is long."""
    for name in names:
        if not 0 < len(name) <= profile.name_length or not all(
            c.isascii() and (c.isalnum() or c in "_+-~^") for c in name
        ):
            raise StructureSetRejected(HoldReason.ROI_NAME_UNFIT, roi=name, longest=profile.name_length)
    twice = [name for name, n in Counter(name.casefold() for name in names).items() if n > 1]
    if twice:
        raise StructureSetRejected(HoldReason.ROI_NAME_TWICE, roi=twice[0])


def description_of(provenance: Provenance, remarks: Remarks, structures: StructureSet) -> str:
    """Return what a person is to know of it, in ASCII: remarks, what is withheld, what was not found."""
    not_found = [roi.name for roi in structures.rois if not roi.contours and roi.name not in remarks.withheld]
    models = ", ".join(f"{model.name} {model.version}" for model in provenance.drawn)
    parts = [f"{NOT_REVIEWED}. Model{'s' * (len(provenance.models) > 1)} {models}"]
    if text := remarks.text():
        parts.append(text)
    if not_found:
        parts.append(f"not found: {', '.join(not_found)}")
    # An operator may have written more than ASCII, which the CT's character set need not have.
    return normalize("NFKD", "; ".join(parts)).encode("ascii", "ignore").decode()
