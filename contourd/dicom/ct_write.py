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
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = instance
    ds.PatientName = identity.patient_name
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        derived_uid(identity.patient_id, kind) for kind in ("study", "series", "frame")
    )
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "080000"
    ds.StudyID = "1"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.Modality = "CT"
    ds.SeriesNumber = 1
    ds.SeriesDescription = identity.description
    ds.BodyPartExamined = identity.body_part
    ds.PatientPosition = identity.patient_position
    ds.Manufacturer = "contourd"
    ds.ManufacturerModelName = "written series"
    ds.SoftwareVersions = __version__
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = k + 1
    ds.KVP = "120"
    ds.PositionReferenceIndicator = ""
    x, y, z = (_decimal(v) for v in grid.slice_origins_mm[k])
    ds.ImagePositionPatient = [x, y, z]
    ds.SliceLocation = z
    ds.ImageOrientationPatient = [_decimal(v) for v in (*grid.row_direction, *grid.column_direction)]
    ds.PixelSpacing = [_decimal(v) for v in grid.pixel_spacing_mm]
    ds.SliceThickness = _decimal(grid.slice_thicknesses_mm[k])
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelRepresentation = 0
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.RescaleIntercept = str(-OFFSET_HU)
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    return ds


def _decimal(value: float) -> str:
    """At most 16 characters, without exponent or negative zero (PS3.5 6.2, DS)."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
