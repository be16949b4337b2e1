"""Every reason for which a series is held, with the very words that the person reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    HTJ2KLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from contourd.dicom.reading import series as series_module
from contourd.dicom.reading.series import find_series, gate
from contourd.errors import SeriesUnusable
from contourd.imaging.volume import Volume
from tests.phantom import grid, phantom, rewrite, setting, write_series

Change = Callable[[pydicom.Dataset], None]
Which = Literal["all", "one", "both"]


def reason_for(folder: Path) -> str:
    instances = [instance for series in find_series(folder).values() for instance in series]
    with pytest.raises(SeriesUnusable) as caught:
        gate(instances)
    return str(caught.value)


def syntax(uid: str) -> Change:
    def change(ds: pydicom.Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        ds.PixelData = pydicom.encaps.encapsulate([bytes(10)])
        ds["PixelData"].VR = "OB"

    return change


def all_of(*changes: Change) -> Change:
    def change(ds: pydicom.Dataset) -> None:
        for each in changes:
            each(ds)

    return change


# 24 slices of 40 x 48 pixels. "all": every slice is changed; "one": the eighth, at z = -28.75 + 7 x 2.5 = -11.25 mm;
# "both": the eighth is kept, and changed in a copy.
HELD: dict[str, tuple[Which, Change, str]] = {
    "MR": (
        "all",
        setting(Modality="MR", SOPClassUID=MRImageStorage),
        "modality MR (MR Image Storage) is not contoured; send the planning CT",
    ),
    "MR in the CT class": (
        "all",
        setting(Modality="MR"),
        "modality MR (CT Image Storage) is not contoured; send the planning CT",
    ),
    "an MR among CTs": (
        "one",
        setting(Modality="MR", SOPClassUID=MRImageStorage),
        "modality MR (MR Image Storage) is not contoured; send the planning CT",
    ),
    "secondary captures only": (
        "all",
        setting(SOPClassUID=SecondaryCaptureImageStorage),
        "modality CT (Secondary Capture Image Storage) is not contoured; send the planning CT",
    ),
    "Enhanced CT": (
        "all",
        setting(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=24),
        "Enhanced CT Image Storage (multi-frame) is not contoured; let the scanner or the PACS send CT Image Storage, "
        "one image per slice",
    ),
    "scouts only": (
        "all",
        setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "the series is a localizer (scout), not an axial CT; send the planning CT",
    ),
    "dose reports only": (
        "all",
        setting(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        "the series is a picture of a screen or a report, not an axial CT; send the planning CT",
    ),
    "MIP": (
        "all",
        setting(ImageType=["DERIVED", "SECONDARY", "PROJECTION IMAGE"]),
        "the series is derived (DERIVED\\SECONDARY\\PROJECTION IMAGE); send the original slices",
    ),
    "reformatted": (
        "all",
        setting(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        "the series is derived (DERIVED\\SECONDARY\\MPR); send the original slices",
    ),
    "frames": ("all", setting(NumberOfFrames=2), "multi-frame images are not contoured; send one image per slice"),
    "lossy": (
        "all",
        setting(LossyImageCompression="01"),
        "the images were compressed with losses; send the original reconstruction",
    ),
    "one lossy slice": (
        "one",
        setting(LossyImageCompression="01"),
        "the images were compressed with losses; send the original reconstruction",
    ),
    "a syntax that allows losses": (
        "all",
        syntax(JPEG2000),
        "the images were compressed with losses; send the original reconstruction",
    ),
    "a syntax without decoder": (
        "all",
        syntax(HTJ2KLossless),
        "transfer syntax High-Throughput JPEG 2000 Image Compression (Lossless Only) cannot be decoded here; "
        "send the images uncompressed",
    ),
    "inverted": (
        "all",
        setting(PhotometricInterpretation="MONOCHROME1"),
        "pixels are MONOCHROME1, 1 x 16 bits, not MONOCHROME2, 1 x 16; send the original reconstruction",
    ),
    "high bit": (
        "all",
        setting(HighBit=15),
        "pixels have 12 bits stored up to bit 15; the high bit must be one less than the bits stored: "
        "send the original reconstruction",
    ),
    "bits stored": (
        "all",
        setting(BitsStored=17, HighBit=16),
        "pixels have 17 bits stored up to bit 16; the high bit must be one less than the bits stored: "
        "send the original reconstruction",
    ),
    "not HU": (
        "all",
        setting(RescaleType="US"),
        "pixel values are US, not Hounsfield units; send Hounsfield units",
    ),
    "table": (
        "all",
        setting(ModalityLUTSequence=[pydicom.Dataset()]),
        "pixel values pass through a Modality LUT, not a rescale slope; send Hounsfield units",
    ),
    "no rescale": (
        "all",
        setting(RescaleSlope=None),
        "RescaleSlope or RescaleIntercept is missing or zero, so that there are no Hounsfield units; "
        "send the original reconstruction",
    ),
    "no slope": (
        "all",
        setting(RescaleSlope="0"),
        "RescaleSlope or RescaleIntercept is missing or zero, so that there are no Hounsfield units; "
        "send the original reconstruction",
    ),
    "nobody": (
        "all",
        setting(PatientID=""),
        "the patient has no ID (PatientID is empty); a structure set could go to the wrong patient: "
        "enter the ID and send it again",
    ),
    "nowhere": (
        "all",
        setting(FrameOfReferenceUID=""),
        "FrameOfReferenceUID is missing; a structure set could not be placed on the CT: send the original CT",
    ),
    "no position": (
        "all",
        setting(ImagePositionPatient=None),
        "a slice lacks its position, orientation, pixel spacing or matrix; send the original CT",
    ),
    "no spacing": (
        "one",
        setting(PixelSpacing=None),
        "a slice lacks its position, orientation, pixel spacing or matrix; send the original CT",
    ),
    "spacing of zero": (
        "all",
        setting(PixelSpacing=["0", "1"]),
        "the pixel spacing is not positive; send the original CT",
    ),
    "large matrix": (
        "all",
        setting(Rows=1025, Columns=1024),
        "the matrix of 1025 x 1024 is larger than 1024 x 1024; send a reconstruction with fewer pixels",
    ),
    "coronal": (
        "all",
        setting(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        "the slices are not axial, but inclined by 90.0 degrees (tilted gantry, oblique, coronal or sagittal); "
        "send axial slices",
    ),
    "sagittal": (
        "all",
        setting(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "the slices are not axial, but inclined by 90.0 degrees (tilted gantry, oblique, coronal or sagittal); "
        "send axial slices",
    ),
    # cos 0.5 degrees = 0.999962, sin = 0.008727
    "tilted gantry": (
        "all",
        setting(ImageOrientationPatient=["1", "0", "0", "0", "0.999962", "0.008727"]),
        "the slices are not axial, but inclined by 0.5 degrees (tilted gantry, oblique, coronal or sagittal); "
        "send axial slices",
    ),
    # cos 20 degrees = 0.939693, sin = 0.342020
    "turned in its plane": (
        "all",
        setting(ImageOrientationPatient=["0.939693", "0.34202", "0", "-0.34202", "0.939693", "0"]),
        "the rows are turned by 20 degrees against the patient; send a reconstruction that is not turned",
    ),
    "not unit": (
        "all",
        setting(ImageOrientationPatient=["2", "0", "0", "0", "1", "0"]),
        "ImageOrientationPatient is no pair of unit vectors; send the original CT",
    ),
    "two series": (
        "one",
        setting(SeriesInstanceUID="1.2.3"),
        "the series mixes 2 series; send one reconstruction",
    ),
    "studies": (
        "one",
        setting(StudyInstanceUID="1.2.3"),
        "the series mixes 2 studies; send one reconstruction",
    ),
    "patients": (
        "one",
        setting(PatientID="another"),
        "the series mixes 2 patients; send one reconstruction",
    ),
    "frames of reference": (
        "one",
        setting(FrameOfReferenceUID="1.2.3"),
        "the series mixes 2 frames of reference; send one reconstruction",
    ),
    "orientations": (
        "one",
        setting(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]),
        "the series mixes 2 orientations; send one reconstruction",
    ),
    "pixel spacings": (
        "one",
        setting(PixelSpacing=["2", "1.76"]),
        "the series mixes 2 pixel spacings; send one reconstruction",
    ),
    "matrix sizes": (
        "one",
        setting(Rows=20, Columns=96),
        "the series mixes 2 matrix sizes; send one reconstruction",
    ),
    "rescale slopes": (
        "one",
        setting(RescaleSlope="2"),
        "the series mixes 2 rescale slopes or intercepts; send one reconstruction",
    ),
    "rescale intercepts": (
        "one",
        setting(RescaleIntercept="-1000"),
        "the series mixes 2 rescale slopes or intercepts; send one reconstruction",
    ),
    "phases that are told": (
        "both",
        setting(SOPInstanceUID="1.2.3", TemporalPositionIndex=2),
        "the series holds 2 phases of a 4D CT; send one phase, or the average, as a series of its own",
    ),
    "phases that are not told": (
        "both",
        setting(SOPInstanceUID="1.2.3", PixelData=bytes(2 * 40 * 48)),
        "two different images lie at z = -11.25 mm, and 1 of 24 positions hold several images "
        "(phases of a 4D CT, or several acquisitions); send one of them as a series of its own",
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_says_why_and_what_to_do(tmp_path: Path, name: str) -> None:
    which, change, reason = HELD[name]
    folder = write_series(tmp_path / "ct")
    chosen = sorted(folder.iterdir()) if which == "all" else [folder / "CT_0007.dcm"]
    if which == "both":
        chosen = [folder / "copy.dcm"]
        chosen[0].write_bytes((folder / "CT_0007.dcm").read_bytes())
    for path in chosen:
        rewrite(path, change)
    assert reason_for(folder) == reason


def test_every_phase_of_a_4d_ct_is_counted(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct")
    for k, path in enumerate(sorted(folder.iterdir())):
        copy = folder / f"second_{k}.dcm"
        copy.write_bytes(path.read_bytes())
        rewrite(copy, all_of(setting(SOPInstanceUID=f"1.2.3.{k + 1}", PixelData=bytes(2 * 40 * 48))))
    assert "lie at z = -28.75 mm, and 24 of 24 positions hold several images" in reason_for(folder)


def test_slices_that_are_shifted_sideways_are_a_tilted_gantry(tmp_path: Path) -> None:
    """Its orientation was straightened: 0.2 mm in y for each slice."""
    folder = write_series(tmp_path / "ct")
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, setting(ImagePositionPatient=["-41.125", f"{-39 + 0.2 * k:.3f}", f"{-28.75 + 2.5 * k:.3f}"]))
    assert reason_for(folder) == (
        "the slices are shifted sideways against each other (tilted gantry); send axial slices"
    )


def test_few_and_many_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "ct")
    monkeypatch.setattr(series_module, "MOST_SLICES", 23)
    assert reason_for(folder) == "24 slices are more than 23; send thicker slices"
    for path in sorted(folder.iterdir())[15:]:
        path.unlink()
    assert reason_for(folder) == ("15 slices are fewer than the 16 that a head and neck needs; send the whole series")


@dataclass(frozen=True)
class Size:
    slices: int
    rows: int
    columns: int


@pytest.mark.parametrize("size", [Size(20, 256, 300), Size(16, 1024, 1024), Size(1500, 16, 16)], ids=str)
def test_series_of_every_size_pass(tmp_path: Path, size: Size) -> None:
    shape = (size.slices, size.rows, size.columns)
    folder = write_series(tmp_path / "ct", Volume(grid(shape=shape), np.zeros(shape, dtype=np.int16)))
    (instances,) = find_series(folder).values()
    order = np.random.default_rng(0).permutation(size.slices)
    assert gate([instances[i] for i in order]).grid.shape == shape


def test_an_unchanged_series_passes(tmp_path: Path) -> None:
    (instances,) = find_series(write_series(tmp_path / "ct", phantom())).values()
    assert {i.sop_class_uid for i in gate(instances).instances} == {CTImageStorage}
