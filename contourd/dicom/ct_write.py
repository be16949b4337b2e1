"""A volume -> a CT series on disk: for the reference patient, the trainer's evaluation and tests.

DICOM PS3.3 A.3 (CT Image IOD). UIDs come from the identifiers alone, so the same volume gives the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from contourd import __version__
from contourd.dicom.uids import derived_uid
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume

OFFSET_HU = 1024
LARGEST_STORED = 4095


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """What names a written series."""

    patient_id: str
    patient_name: str
    description: str = "Head and neck"
    patient_position: str = "HFS"
    body_part: str = "HEADNECK"


def write_ct_series(volume: Volume, folder: Path, identity: SeriesIdentity) -> Path:
    """Write one file per slice, named by the slice's index, 12 bits stored as HU + 1024.

    Parameters
    ----------
    volume
        HU beyond -1024 to 3071 are clipped.
    folder
        Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.clip(volume.hu.astype(np.int32) + OFFSET_HU, 0, LARGEST_STORED).astype("<u2")
    for k, plane in enumerate(stored):
        image = _header(volume.grid, k, identity)
        image.PixelData = plane.tobytes()
        image.save_as(folder / f"CT_{k:04d}.dcm", enforce_file_format=True)
    return folder


def _header(grid: Grid, k: int, identity: SeriesIdentity) -> Dataset:
    instance = derived_uid(identity.patient_id, "ct", k)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, instance
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        identity.patient_name,
        identity.patient_id,
        "",
        "O",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        derived_uid(identity.patient_id, kind) for kind in ("study", "series", "frame")
    )
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "080000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "CT", 1, identity.description
    ds.BodyPartExamined, ds.PatientPosition = identity.body_part, identity.patient_position
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "contourd", "written series", __version__
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber, ds.InstanceNumber, ds.KVP, ds.PositionReferenceIndicator = 1, k + 1, "120", ""
    x, y, z = (_decimal(v) for v in grid.slice_origins_mm[k])
    ds.ImagePositionPatient, ds.SliceLocation = [x, y, z], z
    ds.ImageOrientationPatient = [_decimal(v) for v in (*grid.row_direction, *grid.column_direction)]
    ds.PixelSpacing = [_decimal(v) for v in grid.pixel_spacing_mm]
    ds.SliceThickness = _decimal(grid.slice_thicknesses_mm[k])
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(-OFFSET_HU), "1", "HU"
    return ds


def _decimal(value: float) -> str:
    """At most 16 characters, without exponent or negative zero (PS3.5 6.2, DS)."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
