from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage, SecondaryCaptureImageStorage, generate_uid

from contourd.dicom.series import find_series, gate, missing_positions_mm, read_instance, read_volume
from contourd.errors import SeriesIncomplete, SeriesUnusable, SlicesMissing
from contourd.imaging.volume import AIR_HU
from tests.phantom import BALL_HU, BALLS, ORIENTATIONS, centres_mm, grid, phantom, read_series, rewrite, write_series

Change = Callable[[pydicom.Dataset], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct")


def setting(**values: object) -> Change:
    def change(ds: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def padding(vr: str, value: int, limit: int | None = None) -> Change:
    """Set PixelPaddingValue and PixelPaddingRangeLimit; their VR is that of the pixels."""

    def change(ds: pydicom.Dataset) -> None:
        ds.PixelRepresentation = int(vr == "SS")
        ds.BitsStored, ds.HighBit = 16, 15
        ds.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", vr, limit)

    return change


def refusal(folder: Path) -> str:
    instances = [instance for series in find_series(folder).values() for instance in series]
    with pytest.raises(SeriesUnusable) as caught:
        gate(instances)
    return str(caught.value)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_phantom_lies_in_the_patient_as_it_was_made_whichever_way_it_was_scanned(
    tmp_path: Path, orientation: str
) -> None:
    """The balls differ in HU and lie left, right and behind, high and low: a flip or a turn would move them."""
    made = grid(orientation)
    series = read_series(write_series(tmp_path / orientation, phantom(made)))
    volume = read_volume(series)
    assert np.all(np.diff(volume.grid.slice_origins_mm[:, 2]) > 0)
    np.testing.assert_allclose(centres_mm(volume.grid), centres_mm(made), atol=1e-9)
    points = centres_mm(volume.grid)
    for name, (centre, _) in BALLS.items():
        found = points[volume.hu == BALL_HU[name]].mean(axis=0)
        np.testing.assert_allclose(found, centre, atol=0.6)  # the ball's voxels need not be symmetric about it


def test_slices_are_ordered_by_position_not_by_name_or_number(folder: Path) -> None:
    files = sorted(folder.iterdir())
    order = np.random.default_rng(0).permutation(len(files))
    for i, path in enumerate(files):
        rewrite(path, setting(InstanceNumber=int(order[i]) + 1))
        path.rename(folder / f"{order[i]:03d}.dcm")
    np.testing.assert_array_equal(read_volume(read_series(folder)).hu, phantom().hu)


def test_progress_counts_the_slices(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_volume(read_series(folder), lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, 24) for k in range(24)]


@pytest.mark.parametrize(
    ("change", "stored", "hu"),
    [
        (setting(RescaleSlope="1", RescaleIntercept="-1024"), 1064, 40),
        (setting(RescaleSlope="-2", RescaleIntercept="1000"), 300, 400),
        (setting(RescaleSlope="0.5", RescaleIntercept="-0.25"), 101, 50),  # 50.25 rounds to 50
        (setting(PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept="0"), -200, -200),
        (setting(RescaleIntercept="0", BitsStored=16, HighBit=15), 60000, 32767),  # beyond 16 bits with a sign
        (padding("US", 0), 0, AIR_HU),
        (padding("US", 2000), 2000, AIR_HU),
        (padding("SS", -2000), -2000, AIR_HU),
        (padding("US", 10, 20), 15, AIR_HU),
        (padding("US", 20, 10), 15, AIR_HU),
        (padding("US", 10, 20), 21, 21 - 1024),
    ],
)
def test_pixels_become_hounsfield_units(folder: Path, change: Change, stored: int, hu: int) -> None:
    def store(ds: pydicom.Dataset) -> None:
        change(ds)
        dtype = "<i2" if ds.PixelRepresentation else "<u2"
        ds.PixelData = np.full((ds.Rows, ds.Columns), stored).astype(dtype).tobytes()

    for path in folder.iterdir():
        rewrite(path, store)
    assert np.unique(read_volume(read_series(folder)).hu).tolist() == [hu]


REFUSED: dict[str, tuple[Change, str]] = {
    "MR": (setting(Modality="MR", SOPClassUID=MRImageStorage), "modality MR .*send the planning CT"),
    "MR in the CT class": (setting(Modality="MR"), "modality MR"),
    "secondary capture": (setting(SOPClassUID=SecondaryCaptureImageStorage), "Secondary Capture"),
    "enhanced": (setting(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=24), "Enhanced CT"),
    "scout": (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "MIP": (setting(ImageType=["DERIVED", "SECONDARY", "PROJECTION IMAGE"]), "derived"),
    "reformatted": (setting(ImageType=["DERIVED", "SECONDARY", "MPR"]), "derived"),
    "frames": (setting(NumberOfFrames=2), "multi-frame"),
    "lossy": (setting(LossyImageCompression="01"), "losses"),
    "inverted": (setting(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
    "not HU": (setting(RescaleType="US"), "are US, not Hounsfield"),
    "table": (setting(ModalityLUTSequence=[pydicom.Dataset()]), "Modality LUT"),
    "nobody": (setting(PatientID=""), "PatientID is empty"),
    "nowhere": (setting(FrameOfReferenceUID=""), "FrameOfReferenceUID is missing"),
    "no position": (setting(ImagePositionPatient=None), "lacks its position"),
    "no spacing": (setting(PixelSpacing=None), "lacks its position"),
    "coronal": (setting(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "not axial"),
    "sagittal": (setting(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "not axial"),
    # cos 1 degree = 0.99985, just less than 0.9999
    "tilted": (setting(ImageOrientationPatient=["1", "0", "0", "0", "0.999848", "0.017452"]), "not axial"),
    "not unit": (setting(ImageOrientationPatient=["2", "0", "0", "0", "1", "0"]), "unit vectors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_a_reason(folder: Path, name: str) -> None:
    change, reason = REFUSED[name]
    for path in folder.iterdir():
        rewrite(path, change)
    message = refusal(folder)
    assert re.search(reason, message), message


MIXED: dict[str, tuple[Change, str]] = {
    "studies": (setting(StudyInstanceUID=generate_uid()), "mixes 2 studies"),
    "patients": (setting(PatientID="another"), "mixes 2 patients"),
    "frames of reference": (setting(FrameOfReferenceUID=generate_uid()), "mixes 2 frames of reference"),
    "orientations": (setting(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]), "mixes 2 orientations"),
    "pixel spacings": (setting(PixelSpacing=["2", "1.76"]), "mixes 2 pixel spacings"),
    "matrix sizes": (setting(Rows=20, Columns=96), "mixes 2 matrix sizes"),
}


@pytest.mark.parametrize("name", MIXED)
def test_refuses_one_slice_that_is_not_like_the_others(folder: Path, name: str) -> None:
    change, reason = MIXED[name]
    rewrite(folder / "CT_0007.dcm", change)
    assert reason in refusal(folder)


def test_refuses_slices_that_are_shifted_sideways(folder: Path) -> None:
    """A tilted gantry whose orientation was straightened: 0.2 mm in y for each slice."""
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, setting(ImagePositionPatient=["-41.125", f"{-39 + 0.2 * k:.3f}", f"{-28.75 + 2.5 * k:.3f}"]))
    assert "shifted sideways" in refusal(folder)


def test_names_the_missing_slices(folder: Path) -> None:
    for k in (3, 4, 20):
        (folder / f"CT_{k:04d}.dcm").unlink()
    instances = next(iter(find_series(folder).values()))
    with pytest.raises(SlicesMissing) as caught:
        gate(instances)
    # Slice k lies at -28.75 + 2.5 k.
    assert caught.value.missing_z_mm == pytest.approx((-21.25, -18.75, 21.25))
    assert "z = -21.25, -18.75, 21.25 mm" in str(caught.value)


def test_too_few_slices_may_still_become_enough(folder: Path) -> None:
    for path in sorted(folder.iterdir())[15:]:
        path.unlink()
    with pytest.raises(SeriesIncomplete, match="15 slices are fewer than the 16"):
        gate(next(iter(find_series(folder).values())))


def test_uneven_slices_are_refused_without_inventing_missing_ones(folder: Path) -> None:
    rewrite(folder / "CT_0010.dcm", setting(ImagePositionPatient=["-41.125", "-39", "-3.65"]))  # 0.1 mm too high
    assert "2.400 to 2.600 mm apart" in refusal(folder)


def test_slices_too_far_apart_are_refused(tmp_path: Path) -> None:
    def spread(ds: pydicom.Dataset) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, float(z) * 2.4]

    assert "6.00 mm apart, more than 5 mm" in refusal(write_series(tmp_path / "ct", change=spread))


def test_the_same_slice_twice_is_taken_once(folder: Path) -> None:
    copy = folder / "copy.dcm"
    copy.write_bytes((folder / "CT_0007.dcm").read_bytes())
    rewrite(copy, setting(SOPInstanceUID=generate_uid()))
    series = read_series(folder)
    assert len(series.instances) == 24
    assert series.grid.shape == (24, 40, 48)


def test_two_different_slices_at_one_place_are_refused(folder: Path) -> None:
    copy = folder / "copy.dcm"
    copy.write_bytes((folder / "CT_0007.dcm").read_bytes())
    rewrite(copy, setting(SOPInstanceUID=generate_uid(), PixelData=bytes(2 * 40 * 48)))
    assert "z = -11.25 mm" in refusal(folder)  # -28.75 + 7 x 2.5


def test_pixels_that_cannot_be_decoded_name_the_slice(folder: Path) -> None:
    series = read_series(folder)
    rewrite(folder / "CT_0002.dcm", setting(PixelData=bytes(100)))
    with pytest.raises(SeriesUnusable, match=r"z = -23\.75 mm cannot be decoded"):
        read_volume(series)


def test_the_header_has_no_pixels(folder: Path) -> None:
    series = read_series(folder)
    assert "PixelData" not in series.header
    assert series.header.SOPInstanceUID == read_instance(folder / "CT_0000.dcm").sop_instance_uid


def test_no_images_are_no_series() -> None:
    with pytest.raises(SeriesUnusable, match="no images"):
        gate([])


@pytest.mark.parametrize(
    ("positions", "missing"),
    [
        ([], ()),
        ([5.0], ()),
        ([0.0, 3.0], ()),
        ([0.0, 3.0, 6.0], ()),
        ([6.0, 0.0, 3.0], ()),
        ([0.0, 3.0, 3.0, 6.0], ()),
        ([0.0, 3.0, 9.0], (6.0,)),
        ([-6.0, -3.0, 6.0], (0.0, 3.0)),
        ([0.0, 3.0, 6.02], ()),  # within 1 %
        ([0.0, 2.5, 5.0, 12.5, 15.0], (7.5, 10.0)),
        ([0.0, 6.0, 9.0, 15.0, 21.0], (3.0, 12.0, 18.0)),  # most are missing: the smallest step tells the spacing
        ([0.0, 1.25, 2.51, 3.76, 6.26], (5.01,)),  # positions written with two decimals
        ([0.0, 3.0, 6.0, 6.4, 9.0, 12.0], ()),  # a stray slice is no reason to name missing ones; the gate refuses it
    ],
)
def test_missing_positions(positions: list[float], missing: tuple[float, ...]) -> None:
    assert missing_positions_mm(positions) == pytest.approx(missing)
