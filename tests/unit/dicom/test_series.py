from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from contourd.dicom.reading.series import find_series, gate, read_instance, read_volume
from contourd.errors import SeriesIncomplete, SeriesUnusable, SlicesMissing
from tests.phantom import (
    BALL_HU,
    BALLS,
    ORIENTATIONS,
    centres_mm,
    grid,
    phantom,
    read_series,
    rewrite,
    setting,
    write_series,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct")


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


def test_names_the_missing_slices(folder: Path) -> None:
    for k in (3, 4, 20):
        (folder / f"CT_{k:04d}.dcm").unlink()
    instances = next(iter(find_series(folder).values()))
    with pytest.raises(SlicesMissing) as caught:
        gate(instances)
    # Slice k lies at -28.75 + 2.5 k.
    assert caught.value.reason.detail["z_mm"] == pytest.approx([-21.25, -18.75, 21.25])
    assert "z = -21.25, -18.75, 21.25 mm" in str(caught.value)


def test_too_few_slices_may_still_become_enough(folder: Path) -> None:
    for path in sorted(folder.iterdir())[15:]:
        path.unlink()
    with pytest.raises(SeriesIncomplete, match="15 slices are fewer than the 16"):
        gate(next(iter(find_series(folder).values())))


def test_the_same_slice_twice_is_taken_once(folder: Path) -> None:
    copy = folder / "copy.dcm"
    copy.write_bytes((folder / "CT_0007.dcm").read_bytes())
    rewrite(copy, setting(SOPInstanceUID=generate_uid()))
    series = read_series(folder)
    assert len(series.instances) == 24
    assert series.grid.shape == (24, 40, 48)


def test_of_the_same_slice_twice_the_choice_never_changes(folder: Path) -> None:
    copy = folder / "copy.dcm"
    copy.write_bytes((folder / "CT_0007.dcm").read_bytes())
    rewrite(copy, setting(SOPInstanceUID=generate_uid()))
    (instances,) = find_series(folder).values()
    chosen = {tuple(i.sop_instance_uid for i in gate(order).instances) for order in (instances, instances[::-1])}
    assert len(chosen) == 1


BESIDE = {
    "scout": setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    "scout of another frame": setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], FrameOfReferenceUID="1.2.3"),
    "secondary capture": setting(SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None),
    "dose report": setting(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], Rows=512, Columns=512, SamplesPerPixel=3),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_a_scanner_keeps_beside_the_slices_is_set_aside(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(2):
        beside = folder / f"beside_{n}.dcm"
        beside.write_bytes((folder / "CT_0007.dcm").read_bytes())
        rewrite(beside, setting(SOPInstanceUID=generate_uid()))
        rewrite(beside, BESIDE[name])
    caplog.set_level("INFO")
    series = read_series(folder)
    assert len(series.instances) == 24
    assert "beside" not in {path for i in series.instances for path in i.path.parts}
    (told,) = caplog.records
    assert told.message == "images beside the slices are set aside"
    assert told.images == 2


def test_another_patient_is_found_also_in_what_is_set_aside(folder: Path) -> None:
    rewrite(folder / "CT_0007.dcm", setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], PatientID="another"))
    with pytest.raises(SeriesUnusable, match="mixes 2 patients"):
        gate(next(iter(find_series(folder).values())))


def test_pixels_that_cannot_be_decoded_name_the_slice(folder: Path) -> None:
    series = read_series(folder)
    rewrite(folder / "CT_0002.dcm", setting(PixelData=bytes(100)))
    with pytest.raises(SeriesUnusable, match=r"z = -23\.75 mm is cut off"):
        read_volume(series)


def test_the_header_has_no_pixels(folder: Path) -> None:
    series = read_series(folder)
    assert "PixelData" not in series.header
    assert series.header.SOPInstanceUID == read_instance(folder / "CT_0000.dcm").sop_instance_uid


def test_no_images_are_no_series() -> None:
    with pytest.raises(SeriesUnusable, match="no images"):
        gate([])
